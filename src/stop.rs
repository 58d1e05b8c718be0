//! Why and when the process stops: a signal, or a part of it that cannot go on.
//!
//! Invariant: once a stop has begun, the next signal ends the process from inside the handler, whatever
//! the threads are doing.

use std::{
    fmt, io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
    iterator::{Handle, Signals},
};

/// Exit status after a second signal: what a shell shows for a process that SIGTERM ended.
const SECOND_SIGNAL_STATUS: i32 = 128 + SIGTERM;

/// What the main thread waits on.
pub struct Stop {
    signals: Signals,
    stopping: Arc<AtomicBool>,
    failure: Arc<OnceLock<String>>,
}

/// Why the process stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Somebody asked, by this signal.
    Signal(&'static str),
    /// A part of the process can't go on, in its own words.
    Failure(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Signal(name) => f.write_str(name),
            Reason::Failure(why) => f.write_str(why),
        }
    }
}

/// Lets a part of the process end the wait.
#[derive(Clone)]
pub struct StopHandle {
    handle: Handle,
    stopping: Arc<AtomicBool>,
    failure: Arc<OnceLock<String>>,
}

impl StopHandle {
    /// Stops the process, with `why` as the reason unless there is one already.
    pub fn fail(&self, why: String) {
        let _ = self.failure.set(why);
        self.stopping.store(true, Ordering::SeqCst);
        self.handle.close();
    }
}

impl Stop {
    /// Takes over SIGTERM and SIGINT for the rest of the process's life. A signal that comes before
    /// [`Stop::wait`] is kept for it.
    pub fn watch() -> io::Result<Stop> {
        let stopping = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // Handlers run in this order: the first signal finds the flag unset, and sets it.
            flag::register_conditional_shutdown(signal, SECOND_SIGNAL_STATUS, Arc::clone(&stopping))?;
            flag::register(signal, Arc::clone(&stopping))?;
        }
        let signals = Signals::new([SIGTERM, SIGINT])?;
        Ok(Stop { signals, stopping, failure: Arc::default() })
    }

    /// For the parts of the process.
    pub fn handle(&self) -> StopHandle {
        StopHandle {
            handle: self.signals.handle(),
            stopping: Arc::clone(&self.stopping),
            failure: Arc::clone(&self.failure),
        }
    }

    /// Blocks until there is a reason.
    pub fn wait(&mut self) -> Reason {
        let signal = self.signals.forever().next();
        match (self.failure.get(), signal) {
            (Some(why), _) => Reason::Failure(why.clone()),
            (None, Some(SIGINT)) => Reason::Signal("SIGINT"),
            (None, _) => Reason::Signal("SIGTERM"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The only test that touches the process's signals: they are shared by all tests of this binary.
    #[test]
    fn a_signal_or_a_failure_ends_the_wait() {
        let mut stop = Stop::watch().unwrap();
        let handle = stop.handle();
        signal_hook::low_level::raise(SIGINT).unwrap();
        assert_eq!(stop.wait(), Reason::Signal("SIGINT"));
        handle.fail("the metadata writer ended".to_owned());
        handle.fail("later".to_owned());
        assert_eq!(stop.wait(), Reason::Failure("the metadata writer ended".to_owned()));
    }
}
