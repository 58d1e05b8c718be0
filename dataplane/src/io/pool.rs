//! Threads for what blocks: names, space, and the disk of the epoll leg.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::{Fs, spawn_named};
use crate::limits::{POOL_JOBS_MAX, POOL_THREADS};

type Job = Box<dyn FnOnce(&Fs) + Send>;

/// A fixed number of threads and one bounded queue. Clones share both.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Pool {
    /// Starts the threads; each job is handed `fs`.
    pub fn start(fs: &Fs) -> io::Result<Pool> {
        let pool = Pool(Arc::new(Shared { queue: Mutex::default(), work: Condvar::new() }));
        for index in 0..POOL_THREADS {
            let shared = pool.0.clone();
            let fs = fs.clone();
            // Not joined: a job that hangs in a dead disk must not hang the end of the process.
            drop(spawn_named(format!("pool-{index}"), move || {
                while let Some(job) = shared.next() {
                    job(&fs);
                }
            })?);
        }
        Ok(pool)
    }

    /// Queues `job` at once. The future gives its result; dropping it lets the job run all the same.
    /// A full queue is `ErrorKind::WouldBlock`.
    pub fn run<T, J>(&self, job: J) -> impl Future<Output = io::Result<T>> + 'static + use<T, J>
    where
        T: Send + 'static,
        J: FnOnce(&Fs) -> io::Result<T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let queued = self.push(Box::new(move |fs: &Fs| {
            // A result that nobody waits for is dropped.
            let _ = sender.send(job(fs));
        }));
        async move {
            queued?;
            receiver.await.unwrap_or_else(|_lost| Err(io::Error::other("the pool was closed")))
        }
    }

    /// Runs what is queued, then ends the threads.
    pub fn close(&self) {
        self.0.queue().closed = true;
        self.0.work.notify_all();
    }

    fn push(&self, job: Job) -> io::Result<()> {
        let mut queue = self.0.queue();
        if queue.closed || queue.jobs.len() == POOL_JOBS_MAX {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.0.work.notify_one();
        Ok(())
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
