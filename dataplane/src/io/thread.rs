//! Threads and runtimes: a core is a pinned thread with a monoio runtime of its own.

use std::{
    future::Future,
    io,
    thread::{Builder, JoinHandle},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::{Driver, Io, Pool};

/// A running core.
pub type CoreThread = JoinHandle<io::Result<()>>;

/// Starts a thread by the name that `ps -L` shows.
pub fn spawn_named<T: Send + 'static>(
    name: String,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name).spawn(run)
}

/// Starts core `index`, pinned to the `index`-th of the CPUs that this process may use (round robin).
/// `main` makes the core's only future; when that ends, so does the thread.
pub fn spawn_core<F, M>(index: usize, driver: Driver, pool: Pool, main: M) -> io::Result<CoreThread>
where
    M: FnOnce(Io) -> F + Send + 'static,
    F: Future<Output = ()>,
{
    spawn_named(format!("core-{index}"), move || {
        pin(index);
        let run = async move {
            let io = Io::start(driver, pool)?;
            main(io.clone()).await;
            io.end().await;
            Ok(())
        };
        match driver {
            Driver::Uring => {
                let builder =
                    monoio::RuntimeBuilder::<monoio::time::TimeDriver<monoio::IoUringDriver>>::new();
                builder.uring_builder(ring()).build()?.block_on(run)
            }
            Driver::Epoll => {
                let builder = monoio::RuntimeBuilder::<monoio::time::TimeDriver<monoio::LegacyDriver>>::new();
                builder.build()?.block_on(run)
            }
        }
    })
}

/// Holds the calling thread, which is no core, for a while.
pub fn rest(time: std::time::Duration) {
    std::thread::sleep(time);
}

/// Whether this kernel and sandbox give us the ring that we want; the error says why not.
pub fn probe() -> io::Result<()> {
    ring().build(8).map(drop)
}

/// What memory the machine has, in bytes.
pub fn memory_bytes() -> u64 {
    let system = rustix::system::sysinfo();
    (system.totalram as u64).saturating_mul(u64::from(system.mem_unit))
}

/// Lets the process have as many descriptors as it may. Gives how many that is.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let limit = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    limit.current.unwrap_or(u64::MAX)
}

fn ring() -> io_uring::Builder {
    let mut builder = io_uring::IoUring::builder();
    builder.setup_single_issuer().setup_coop_taskrun().setup_defer_taskrun();
    builder
}

fn pin(index: usize) {
    // A machine that does not say which CPUs we may use, or does not let us choose, is fine: it is slower.
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if let Some(cpu) = cpus.get(index % cpus.len().max(1)) {
        let mut only = CpuSet::new();
        only.set(*cpu);
        let _ = sched_setaffinity(None, &only);
    }
}
