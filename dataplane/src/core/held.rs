//! What was read past memory for clients whose sockets are full: the last few keep it, the others have it read again.
//!
//! Owns: nothing but whom to take it from. So readers who take nothing hold a bounded share of the core's buffers.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::{Rc, Weak},
};

use crate::limits::HELD_WINDOWS_PER_CORE;

/// What one holds, until it goes on or a later one needs the place.
pub struct Held<T>(Rc<Cell<Option<T>>>);

impl<T> Held<T> {
    /// What it was; `None`: it had to go.
    pub fn take(self) -> Option<T> {
        self.0.take()
    }
}

/// Those of a core that hold something, the oldest first.
pub struct Holders<T>(RefCell<VecDeque<Weak<Cell<Option<T>>>>>);

impl<T> Default for Holders<T> {
    fn default() -> Holders<T> {
        Holders(RefCell::default())
    }
}

impl<T> Holders<T> {
    /// Holds one more, in the place of the oldest if there are [`HELD_WINDOWS_PER_CORE`].
    pub fn hold(&self, what: T) -> Held<T> {
        let held = Rc::new(Cell::new(Some(what)));
        let mut holders = self.0.borrow_mut();
        holders.retain(|holder| holder.strong_count() > 0);
        if holders.len() == HELD_WINDOWS_PER_CORE
            && let Some(oldest) = holders.pop_front().and_then(|oldest| oldest.upgrade())
        {
            oldest.take();
        }
        holders.push_back(Rc::downgrade(&held));
        Held(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_loses_what_it_holds_and_who_goes_on_makes_room() {
        let holders = Holders::default();
        let mut held: VecDeque<_> = (0..HELD_WINDOWS_PER_CORE).map(|number| holders.hold(number)).collect();
        assert_eq!(held.remove(3).unwrap().take(), Some(3));
        held.push_back(holders.hold(100));
        held.push_back(holders.hold(101));
        assert_eq!(held.pop_front().unwrap().take(), None, "its place was needed");
        assert!(held.into_iter().all(|held| held.take().is_some()));
    }
}
