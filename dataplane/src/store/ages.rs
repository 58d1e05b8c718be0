//! How old cached blobs were when they were evicted: a histogram.
//!
//! The age is the time since the blob was whole. When it was last used nobody writes down: a hit costs no clock.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

/// Upper bounds of the buckets, inclusive, in seconds: a minute to a quarter of a year.
const BOUNDS_S: [u64; 9] =
    [60, 600, 3600, 6 * 3600, 86_400, 3 * 86_400, 7 * 86_400, 30 * 86_400, 90 * 86_400];

/// Counts since the start. Relaxed: each number is right by itself.
#[derive(Debug, Default)]
pub struct Ages {
    buckets: [AtomicU64; BOUNDS_S.len() + 1],
    sum_s: AtomicU64,
}

impl Ages {
    /// One was evicted at this age.
    pub fn note(&self, age_s: u64) {
        let bucket = BOUNDS_S.partition_point(|bound_s| *bound_s < age_s);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_s.fetch_add(age_s, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// Appends the samples of the family `name` that have this label, as OpenMetrics text.
    pub fn render(&self, name: &str, label: &str, out: &mut String) {
        let mut count = 0;
        for (at, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            let le = BOUNDS_S.get(at).map_or("+Inf".to_owned(), |bound_s| format!("{bound_s}.0"));
            let _all = writeln!(out, "{name}_bucket{{{label},le=\"{le}\"}} {count}");
        }
        let sum_s = self.sum_s.load(Ordering::Relaxed);
        let _all = write!(out, "{name}_count{{{label}}} {count}\n{name}_sum{{{label}}} {sum_s}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_counted_up_to_their_bound() {
        let ages = Ages::default();
        for age_s in [0, 60, 61, 100 * 86_400] {
            ages.note(age_s);
        }
        let mut out = String::new();
        ages.render("age", "of=\"a\"", &mut out);
        for line in ["le=\"60.0\"} 2", "le=\"600.0\"} 3", "le=\"7776000.0\"} 3", "le=\"+Inf\"} 4"] {
            assert!(out.lines().any(|have| have == format!("age_bucket{{of=\"a\",{line}")), "{line}\n{out}");
        }
        let sum_s = 60 + 61 + 100 * 86_400;
        assert!(out.ends_with(&format!("age_count{{of=\"a\"}} 4\nage_sum{{of=\"a\"}} {sum_s}\n")));
        assert_eq!(ages.count(), 4);
    }
}
