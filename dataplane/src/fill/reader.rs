//! Who waits for a fill, and how much of it an answer may have sent.

use std::sync::{Arc, atomic::Ordering};

use oci::{Problem, Span};
use tokio::sync::watch;

use super::{Fill, FillFiles, Progress, State};
use crate::limits::HELD_BACK_BYTES;

/// One who waits for a fill. While there are any, it goes on.
pub struct Reader {
    fill: Arc<Fill>,
    progress: watch::Receiver<Progress>,
}

/// What became of a fill that was joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// An answer can begin: it has files and a length.
    Begun,
    /// The blob has its name by now.
    Here,
    /// This fill is none any more; another has to be joined.
    Again,
}

impl Reader {
    pub(super) fn of(fill: &Arc<Fill>) -> Reader {
        fill.readers.fetch_add(1, Ordering::SeqCst);
        Reader { fill: fill.clone(), progress: fill.progress.subscribe() }
    }

    pub(super) fn fill(&self) -> &Arc<Fill> {
        &self.fill
    }

    /// Waits until an answer can begin. A blob that could be held back whole is verified by then.
    ///
    /// Errors: why it can't be had.
    pub async fn ready(&mut self) -> Result<Ready, Problem> {
        loop {
            let state = self.progress.borrow_and_update().state;
            let is_long =
                || self.fill.size_bytes.get().is_some_and(|size_bytes| *size_bytes > HELD_BACK_BYTES);
            match state {
                State::Verified => return Ok(Ready::Begun),
                State::Running if is_long() => return Ok(Ready::Begun),
                State::Here => return Ok(Ready::Here),
                State::Again => return Ok(Ready::Again),
                State::Failed => return Err(self.failure()),
                State::Waiting | State::Running => {}
            }
            // The sender is in the fill, which this holds.
            self.progress.changed().await.map_err(|_gone| Problem::Internal)?;
        }
    }

    /// Its files and its length in bytes, once it is [`Ready::Begun`].
    pub fn file(&self) -> Option<(&FillFiles, u64)> {
        Some((self.fill.files.get()?, *self.fill.size_bytes.get()?))
    }

    /// Up to where an answer that ends with `span` may be sent: what is there, without the end that is held back.
    /// `None`: all of it, now and later.
    pub fn end(&mut self, span: Span) -> Option<u64> {
        let Progress { frontier, state } = *self.progress.borrow_and_update();
        match state {
            State::Verified => None,
            State::Waiting | State::Running => Some(frontier.min(span.end.saturating_sub(HELD_BACK_BYTES))),
            State::Here | State::Again | State::Failed => Some(0),
        }
    }

    /// Waits until [`Reader::end`] may be another than it was when it was last asked for.
    ///
    /// Errors: it never will; the answer has to be cut.
    pub async fn advance(&mut self) -> Result<(), Problem> {
        let state = self.progress.borrow().state;
        match state {
            State::Verified => Ok(()),
            State::Waiting | State::Running => {
                self.progress.changed().await.map_err(|_gone| Problem::Internal)
            }
            State::Here | State::Again | State::Failed => Err(self.failure()),
        }
    }

    fn failure(&self) -> Problem {
        self.fill.failure.get().cloned().unwrap_or(Problem::Internal)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.fill.readers.fetch_sub(1, Ordering::SeqCst);
    }
}
