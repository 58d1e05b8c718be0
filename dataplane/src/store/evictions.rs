//! What went for want of room, and how old it was, for each upstream.
//!
//! Invariants: every eviction is counted once. The label is an upstream's `ns` of the configuration, or `unknown`: of a
//! blob whose upstream is configured no more, or that was found when the cache's index was lost.

use std::sync::Arc;

use oci::Namespaces;

use super::Ages;
use crate::mark::Mark;

const UNKNOWN: &str = "unknown";

/// Counts since the start.
#[derive(Debug)]
pub struct Evictions {
    namespaces: Arc<Namespaces>,
    /// In the order of the configuration, and then what is nobody's.
    rows: Box<[Row]>,
}

#[derive(Debug)]
struct Row {
    ns: Box<str>,
    ages: Ages,
}

impl Default for Evictions {
    fn default() -> Evictions {
        Evictions::of(Arc::default())
    }
}

impl Evictions {
    /// None yet, of these upstreams.
    pub fn of(namespaces: Arc<Namespaces>) -> Evictions {
        let mut names: Vec<Box<str>> = namespaces.iter().map(|namespace| namespace.ns.clone()).collect();
        // One that has this for its name shares the row: no label is told twice.
        if !names.iter().any(|ns| **ns == *UNKNOWN) {
            names.push(UNKNOWN.into());
        }
        let rows = names.into_iter().map(|ns| Row { ns, ages: Ages::default() }).collect();
        Evictions { namespaces, rows }
    }

    /// A blob of this upstream went at this age.
    pub fn note(&self, upstream: Option<Mark>, age_s: u64) {
        let row = match upstream.and_then(|mark| mark.upstream(&self.namespaces)) {
            Some(upstream) => self.rows.get(usize::from(upstream)),
            None => self.rows.iter().find(|row| &*row.ns == UNKNOWN),
        };
        if let Some(row) = row {
            row.ages.note(age_s);
        }
    }

    /// All of them.
    pub fn count(&self) -> u64 {
        self.counts().sum()
    }

    /// Those of each upstream, in the order of the configuration, and those of none.
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.rows.iter().map(|row| row.ages.count())
    }

    /// Appends both families as OpenMetrics text.
    pub fn render(&self, out: &mut String) {
        const AGE: &str = "gantry_store_evicted_age_seconds";
        out.push_str(
            "# TYPE gantry_store_evictions counter\n# HELP gantry_store_evictions Blobs of upstreams that went for others.\n",
        );
        for Row { ns, ages } in &self.rows {
            let count = ages.count();
            out.push_str(&format!("gantry_store_evictions_total{{upstream=\"{ns}\"}} {count}\n"));
        }
        out.push_str(&format!(
            "# TYPE {AGE} histogram\n# UNIT {AGE} seconds\n\
             # HELP {AGE} How long blobs of upstreams had been here when they went for others.\n"
        ));
        for Row { ns, ages } in &self.rows {
            ages.render(AGE, &format!("upstream=\"{ns}\""), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::tests::{ALIKE, namespaces};

    #[track_caller]
    fn check(evictions: &Evictions, lines: &[&str]) {
        let mut out = String::new();
        evictions.render(&mut out);
        let has = |line: &&str| out.lines().any(|have| have == format!("gantry_store_{line}"));
        assert!(lines.iter().all(has), "{lines:?}\n{out}");
        assert_eq!(
            out.matches("_evictions_total{").count(),
            evictions.rows.len(),
            "a sample for each row\n{out}"
        );
    }

    #[test]
    fn each_is_counted_once_and_nobody_s_as_unknown() {
        let evictions = Evictions::of(namespaces(&["a.test", "b.test", ALIKE[0], ALIKE[1]]).into());
        let went =
            [(Some("a.test"), 5), (Some("b.test"), 70), (Some("b.test"), 7), (None, 1), (Some("gone"), 2)];
        for (ns, age_s) in went {
            evictions.note(ns.map(Mark::of), age_s);
        }
        // Nobody can tell which of the two it was.
        evictions.note(Some(Mark::of(ALIKE[1])), 3);
        assert_eq!(evictions.counts().collect::<Vec<_>>(), [1, 2, 0, 0, 3]);
        assert_eq!(evictions.count(), 6);
        let lines = [
            "evictions_total{upstream=\"a.test\"} 1",
            "evictions_total{upstream=\"b.test\"} 2",
            "evictions_total{upstream=\"unknown\"} 3",
            "evicted_age_seconds_bucket{upstream=\"b.test\",le=\"60.0\"} 1",
            "evicted_age_seconds_bucket{upstream=\"b.test\",le=\"+Inf\"} 2",
            "evicted_age_seconds_count{upstream=\"unknown\"} 3",
            "evicted_age_seconds_sum{upstream=\"b.test\"} 77",
            "evicted_age_seconds_sum{upstream=\"unknown\"} 6",
        ];
        check(&evictions, &lines);
    }

    #[test]
    fn an_upstream_may_be_called_unknown() {
        let evictions = Evictions::of(namespaces(&["unknown", "a.test"]).into());
        evictions.note(None, 1);
        evictions.note(Some(Mark::of("unknown")), 1);
        check(
            &evictions,
            &["evictions_total{upstream=\"unknown\"} 2", "evictions_total{upstream=\"a.test\"} 0"],
        );
    }

    #[test]
    fn without_an_upstream_all_are_unknown() {
        let evictions = Evictions::default();
        evictions.note(Some(Mark::of("a.test")), 1);
        check(&evictions, &["evictions_total{upstream=\"unknown\"} 1"]);
    }
}
