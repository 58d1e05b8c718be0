//! What stands for an upstream in files: its number is of one process alone, since upstreams are added, removed and put
//! in another order.

use std::num::NonZeroU32;

use oci::Namespaces;

/// 32 bits of its `ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(NonZeroU32);

impl Mark {
    /// That of an upstream.
    pub fn of(ns: &str) -> Mark {
        Mark(NonZeroU32::new(crc32fast::hash(ns.as_bytes())).unwrap_or(NonZeroU32::MAX))
    }

    /// What a file says. `None`: nobody's.
    pub fn read(number: u32) -> Option<Mark> {
        NonZeroU32::new(number).map(Mark)
    }

    /// To be written.
    pub fn number(self) -> u32 {
        self.0.get()
    }

    /// Whose it is, as a number of this process. `None`: it is configured no more, or two have the same mark.
    pub fn upstream(self, namespaces: &Namespaces) -> Option<u16> {
        let mut of = namespaces.iter().enumerate().filter(|(_, namespace)| Mark::of(&namespace.ns) == self);
        match (of.next(), of.next()) {
            (Some((upstream, _)), None) => u16::try_from(upstream).ok(),
            (None | Some(_), _) => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use oci::Namespace;

    use super::*;

    /// Two names that have one mark.
    pub(crate) const ALIKE: [&str; 2] = ["bubanxn.test", "nidmovh.test"];

    pub(crate) fn namespaces(all: &[&str]) -> Namespaces {
        let mut namespaces = Namespaces::default();
        for ns in all {
            let named = Namespace { ns: (*ns).into(), prefix: (*ns).into(), adds_library: false };
            namespaces.add(named).unwrap();
        }
        namespaces
    }

    #[test]
    fn a_mark_outlives_another_order_and_is_nobody_s_when_two_have_it() {
        let mark = Mark::of("a.test");
        assert_eq!(Mark::read(mark.number()), Some(mark));
        assert_eq!(Mark::read(0), None);
        for (all, upstream) in [
            (&["a.test", "b.test"][..], Some(0)),
            (&["b.test", "c.test", "a.test"], Some(2)),
            (&["b.test"], None),
            (&[], None),
        ] {
            assert_eq!(mark.upstream(&namespaces(all)), upstream, "{all:?}");
        }
        let [one, other] = ALIKE;
        assert_eq!(Mark::of(one), Mark::of(other));
        assert_eq!(Mark::of(one).upstream(&namespaces(&[one, "a.test"])), Some(0));
        assert_eq!(Mark::of(one).upstream(&namespaces(&[one, "a.test", other])), None);
    }
}
