//! Which upstreams gave what is here of a fill.
//!
//! None of it is verified before all is there. Until then a part of a blob is for readers of the upstream that gave it,
//! and nobody has to believe another's.

use std::sync::atomic::{AtomicU32, Ordering};

use oci::Namespaces;

use crate::mark::Mark;

/// Nobody, one upstream, or several.
#[derive(Default)]
pub(super) struct Givers(AtomicU32);

const NOBODY: u32 = 0;
const SEVERAL: u32 = u32::MAX;

impl Givers {
    /// Those whose [`Mark`]s a journal has. What is nobody's any more is as good as several.
    pub(super) fn marked(marks: impl IntoIterator<Item = u32>, namespaces: &Namespaces) -> Givers {
        let givers = Givers::default();
        for found in marks {
            match Mark::read(found).and_then(|mark| mark.upstream(namespaces)) {
                Some(upstream) => givers.add(upstream),
                None => givers.0.store(SEVERAL, Ordering::SeqCst),
            }
        }
        givers
    }

    /// To be told before any byte of it can be read.
    pub(super) fn add(&self, upstream: u16) {
        let one = u32::from(upstream) + 1;
        if let Err(other) = self.0.compare_exchange(NOBODY, one, Ordering::SeqCst, Ordering::SeqCst)
            && other != one
        {
            self.0.store(SEVERAL, Ordering::SeqCst);
        }
    }

    /// Whether no other gave any of it.
    pub(super) fn are_only(&self, upstream: u16) -> bool {
        [NOBODY, u32::from(upstream) + 1].contains(&self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::tests::{ALIKE, namespaces};

    #[test]
    fn one_is_alone_until_another_comes() {
        let givers = Givers::default();
        assert!(givers.are_only(0) && givers.are_only(1));
        for _ in 0..2 {
            givers.add(1);
            assert!(!givers.are_only(0) && givers.are_only(1));
        }
        for upstream in [0, 1] {
            givers.add(upstream);
            assert!(!givers.are_only(0) && !givers.are_only(1) && !givers.are_only(2));
        }
    }

    #[test]
    fn a_mark_is_found_by_its_name_and_an_unknown_one_is_nobody_s() {
        let all = namespaces(&["a.test", "b.test", ALIKE[0], ALIKE[1]]);
        let of = |marks: &[&str]| Givers::marked(marks.iter().map(|ns| Mark::of(ns).number()), &all);
        assert!(of(&["b.test", "b.test"]).are_only(1) && !of(&["b.test"]).are_only(0));
        assert!(of(&[]).are_only(0));
        for several in [&["a.test", "b.test"][..], &["gone.test"], &["gone.test", "a.test"], &ALIKE[..1]] {
            assert!(!of(several).are_only(0) && !of(several).are_only(1), "{several:?}");
        }
    }
}
