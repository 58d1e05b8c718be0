//! A question's place among those that are answered at the same time.
//!
//! Invariants: a question that has to wait for an upstream gives its place up first and waits among that upstream's
//! own, so that those which need no upstream are never held up by those which do, nor one upstream's by another's.

use std::sync::Arc;

use oci::Problem;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Held while a question is being answered.
#[derive(Debug)]
pub(crate) struct Turn {
    at: At,
}

#[derive(Debug)]
enum At {
    Here { _place: OwnedSemaphorePermit },
    Upstream { _place: OwnedSemaphorePermit },
}

impl Turn {
    /// Waits for a place. `None`: nothing is answered any more.
    pub(crate) async fn take(places: &Arc<Semaphore>) -> Option<Turn> {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        Some(Turn { at: At::Here { _place: place } })
    }

    /// To be called before anything that waits for an upstream, whose `places` these are. A question waits for one
    /// upstream at most, so the second call finds it waiting already.
    ///
    /// Errors: `Overloaded` (503); the question keeps its place.
    pub(crate) fn wait_among(&mut self, places: &Arc<Semaphore>) -> Result<(), Problem> {
        if let At::Here { .. } = self.at {
            let place = Arc::clone(places).try_acquire_owned();
            let place = place.map_err(|_full| Problem::Overloaded { retry_after_s: 1 })?;
            self.at = At::Upstream { _place: place };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_an_upstream_makes_room_for_those_who_do_not() {
        let (here, upstream) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)));
        let mut first = Turn::take(&here).await.unwrap();
        assert_eq!(here.available_permits(), 0);
        first.wait_among(&upstream).unwrap();
        first.wait_among(&upstream).unwrap();
        assert_eq!((here.available_permits(), upstream.available_permits()), (1, 0));
        let mut second = Turn::take(&here).await.unwrap();
        assert_eq!(second.wait_among(&upstream), Err(Problem::Overloaded { retry_after_s: 1 }));
        assert_eq!(here.available_permits(), 0, "it keeps its place");
        drop(first);
        second.wait_among(&upstream).unwrap();
        drop(second);
        assert_eq!((here.available_permits(), upstream.available_permits()), (1, 1));
    }
}
