//! Images that an operator wants here: each a job, of which it can be asked how far it is.
//!
//! Invariants: so many are known, and so many of them run; the rest waits. One that nobody asks after any more is given up,
//! and what it had on its way with it. All of them end when the control plane does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci::{Platform, Problem, Reference};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::gather::Order;
use super::tally::{Progress, Tally};
use super::{Mirror, Place, images};
use crate::limits;
use crate::metadata::Metadata;

/// The jobs; none any more once they are closed.
#[derive(Debug)]
pub(super) struct Warms {
    // A mutex, because requests come on any thread; it is held for a look-up.
    jobs: Mutex<Option<Jobs>>,
    running: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Jobs {
    last: u64,
    known: BTreeMap<u64, Arc<Job>>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Job {
    image: String,
    tally: Arc<Tally>,
    state: watch::Sender<Stage>,
    /// When it was last asked after.
    asked_at: Mutex<Instant>,
    task: Mutex<Option<AbortHandle>>,
}

/// What a job is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Waiting,
    Running,
    /// With or without problems.
    Done(Instant),
    /// Nobody wanted it any more.
    GivenUp(Instant),
}

/// A job as it is told.
#[derive(Clone, Debug)]
pub(crate) struct Warm {
    pub id: u64,
    pub image: String,
    pub stage: Stage,
    pub progress: Progress,
}

impl Default for Warms {
    fn default() -> Warms {
        let running = Arc::new(Semaphore::new(limits::WARMS_AT_ONCE));
        Warms { jobs: Mutex::new(Some(Jobs::default())), running }
    }
}

impl Warms {
    /// A job for `image`, done by `task` once it is its turn.
    ///
    /// Errors: `Overloaded` (503): there are too many.
    fn start<F>(&self, image: String, task: impl FnOnce(Arc<Tally>) -> F) -> Result<u64, Problem>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let now = Instant::now();
        let mut jobs = self.jobs();
        let Some(jobs) = &mut *jobs else { return Err(Problem::Overloaded { retry_after_s: 1 }) };
        while jobs.tasks.try_join_next().is_some() {}
        jobs.forget_old(now);
        if jobs.known.len() >= limits::WARMS_KEPT {
            return Err(Problem::Overloaded { retry_after_s: 1 });
        }
        jobs.last += 1;
        let tally = Arc::<Tally>::default();
        let job = Arc::new(Job {
            image,
            tally: Arc::clone(&tally),
            state: watch::Sender::new(Stage::Waiting),
            asked_at: Mutex::new(now),
            task: Mutex::default(),
        });
        jobs.known.insert(jobs.last, Arc::clone(&job));
        let (task, running, watched) = (task(tally), Arc::clone(&self.running), Arc::clone(&job));
        let handle = jobs.tasks.spawn(async move {
            let done = async {
                let Ok(_turn) = running.acquire().await else { return };
                watched.state.send_replace(Stage::Running);
                task.await;
            };
            tokio::select! {
                () = done => drop(watched.state.send_replace(Stage::Done(Instant::now()))),
                () = watched.is_unwatched() => watched.give_up(),
            }
        });
        *lock(&job.task) = Some(handle);
        Ok(jobs.last)
    }

    /// How far a job is. Who asks wants it. `None`: it is not known any more.
    fn ask(&self, id: u64) -> Option<Warm> {
        let job = self.jobs().as_ref()?.known.get(&id).cloned()?;
        *lock(&job.asked_at) = Instant::now();
        Some(job.tell(id))
    }

    /// All that are known; nobody's asking after one of them.
    fn list(&self) -> Vec<Warm> {
        let jobs = self.jobs();
        jobs.iter().flat_map(|jobs| &jobs.known).map(|(id, job)| job.tell(*id)).collect()
    }

    /// Nobody wants it any more. `false`: it is not known.
    fn cancel(&self, id: u64) -> bool {
        let job = self.jobs().as_ref().and_then(|jobs| jobs.known.get(&id).cloned());
        let Some(job) = job else { return false };
        if let Some(task) = lock(&job.task).take() {
            task.abort();
        }
        job.give_up();
        true
    }

    /// Ends all, and takes nothing more.
    pub(super) async fn close(&self) {
        let jobs = self.jobs().take();
        if let Some(mut jobs) = jobs {
            jobs.tasks.shutdown().await;
        }
    }

    fn jobs(&self) -> MutexGuard<'_, Option<Jobs>> {
        lock(&self.jobs)
    }
}

impl Jobs {
    /// What ended long ago goes, and what ended first if there is no room otherwise.
    fn forget_old(&mut self, now: Instant) {
        self.known.retain(|_, job| {
            job.ended_at().is_none_or(|ended_at| now.duration_since(ended_at) < limits::WARM_KEPT_FOR)
        });
        if self.known.len() >= limits::WARMS_KEPT {
            let ended = self.known.iter().filter_map(|(id, job)| Some((job.ended_at()?, *id)));
            if let Some((_, id)) = ended.min() {
                self.known.remove(&id);
            }
        }
    }
}

impl Job {
    fn tell(&self, id: u64) -> Warm {
        let stage = *self.state.borrow();
        Warm { id, image: self.image.clone(), stage, progress: self.tally.read() }
    }

    fn ended_at(&self) -> Option<Instant> {
        match *self.state.borrow() {
            Stage::Waiting | Stage::Running => None,
            Stage::Done(at) | Stage::GivenUp(at) => Some(at),
        }
    }

    /// Unless it has ended before.
    fn give_up(&self) {
        self.state.send_if_modified(|stage| {
            let runs = matches!(stage, Stage::Waiting | Stage::Running);
            if runs {
                *stage = Stage::GivenUp(Instant::now());
            }
            runs
        });
    }

    /// Until nobody has asked after it for too long.
    async fn is_unwatched(&self) {
        loop {
            let until = *lock(&self.asked_at) + limits::WARM_UNWATCHED;
            if Instant::now() >= until {
                return;
            }
            sleep_until(until).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: Metadata> Mirror<M> {
    /// Begins to fetch an image: for these platforms, or for those that its upstream is set to, or for all that it has.
    /// Gives the number of the job.
    ///
    /// Errors: `RequestMalformed` (400), `NameUnknown` (404): it is no upstream's image; `Overloaded` (503).
    pub(crate) async fn warm(
        self: &Arc<Self>,
        image: &str,
        platforms: Vec<Platform>,
    ) -> Result<u64, Problem> {
        if platforms.len() > limits::WARM_PLATFORMS {
            return Err(Problem::RequestMalformed { why: "too many platforms for one image" });
        }
        let (name, reference) = images::read(image, &self.names.namespaces)?;
        let place = self.source(&name).await?.ok_or(Problem::NameUnknown(name))?;
        let rules = &self.site(&place)?.rules;
        let platforms = if platforms.is_empty() { rules.platforms.clone() } else { platforms };
        let order = Order { platforms, blobs_at_once: limits::WARM_BLOBS_AT_ONCE, gives_way: false };
        let mirror = Arc::clone(self);
        self.warms.start(image.to_owned(), move |tally| async move {
            mirror.gather_all(&place, reference, &order, &tally).await;
        })
    }

    async fn gather_all(
        self: &Arc<Self>,
        place: &Place,
        reference: Reference,
        order: &Order,
        tally: &Arc<Tally>,
    ) {
        if let Err(problem) = self.gather(place, reference, order, tally).await {
            tally.problem(format!("{} {reference}", place.repository), problem.message());
        }
    }

    /// How far a warming is; who asks wants it.
    pub(crate) fn warming(&self, id: u64) -> Option<Warm> {
        self.warms.ask(id)
    }

    /// All warmings that are known.
    pub(crate) fn warmings(&self) -> Vec<Warm> {
        self.warms.list()
    }

    /// Gives a warming up. `false`: there is no such.
    pub(crate) fn cancel_warming(&self, id: u64) -> bool {
        self.warms.cancel(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn until(warms: &Warms, id: u64, is_so: impl Fn(Stage) -> bool) {
        while !warms.list().iter().any(|warm| warm.id == id && is_so(warm.stage)) {
            tokio::task::yield_now().await;
        }
    }

    fn endless(warms: &Warms) -> Result<u64, Problem> {
        warms.start("image".to_owned(), |_tally| std::future::pending())
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_known_and_what_has_ended_makes_room() {
        let warms = Warms::default();
        let ids: Vec<u64> = (0..limits::WARMS_KEPT).map(|_| endless(&warms).unwrap()).collect();
        assert_eq!(endless(&warms), Err(Problem::Overloaded { retry_after_s: 1 }));
        until(&warms, ids[0], |stage| stage == Stage::Running).await;
        let runs = |warm: &Warm| warm.stage == Stage::Running;
        assert_eq!(warms.list().iter().filter(|warm| runs(warm)).count(), limits::WARMS_AT_ONCE);
        assert!(warms.cancel(ids[1]) && !warms.cancel(999_999));
        let next = endless(&warms).unwrap();
        assert!(warms.ask(next).is_some() && warms.ask(ids[1]).is_none(), "it has made room");
        warms.close().await;
        assert!(endless(&warms).is_err() && warms.list().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_nobody_asks_after_is_given_up() {
        let warms = Warms::default();
        let held = Arc::new(());
        let holding = Arc::clone(&held);
        let id = warms
            .start("image".to_owned(), move |_tally| async move {
                let _holding = holding;
                std::future::pending().await
            })
            .unwrap();
        for _ in 0..5 {
            tokio::time::sleep(limits::WARM_UNWATCHED * 2 / 3).await;
            assert_eq!(warms.ask(id).unwrap().stage, Stage::Running, "it is asked after");
        }
        tokio::time::sleep(limits::WARM_UNWATCHED * 2).await;
        assert!(matches!(warms.ask(id).unwrap().stage, Stage::GivenUp(_)));
        assert_eq!(Arc::strong_count(&held), 1, "and what it held is gone");
        tokio::time::sleep(limits::WARM_KEPT_FOR * 2).await;
        let other = endless(&warms).unwrap();
        assert_eq!(warms.list().iter().map(|warm| warm.id).collect::<Vec<_>>(), [other]);
    }
}
