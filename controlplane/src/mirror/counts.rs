//! What the mirror counts, for each upstream.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::upstream::{self, Upstream};

/// Counters of one upstream since start; each only grows.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    manifests: [AtomicU64; 3],
    revalidations: [AtomicU64; 4],
    links: [AtomicU64; 4],
    absences: AtomicU64,
    lists: [AtomicU64; 3],
    prefetches: [AtomicU64; 3],
}

/// Where the answer to a question came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// It was here, and fresh enough.
    Kept,
    /// The upstream was asked.
    Upstream,
    /// It was here, and the upstream could not be asked.
    Stale,
}

/// What a look at a tag found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    Same,
    Moved,
    Gone,
    Failed,
}

/// What became of an index whose platforms were to be fetched ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefetched {
    Done,
    Failed,
    /// Too many wait, or the budget is low.
    Dropped,
}

/// Why a blob may be served, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permitted {
    /// A kept manifest names it.
    ByManifest,
    /// The upstream said so not long ago.
    Remembered,
    /// The upstream was asked.
    Asked,
    /// It may not.
    No,
}

const FROM: [&str; 3] = ["kept", "upstream", "stale"];
const LOOKED: [&str; 4] = ["same", "moved", "gone", "failed"];
const PREFETCHED: [&str; 3] = ["done", "failed", "dropped"];
const PERMITTED: [&str; 4] = ["manifest", "remembered", "asked", "no"];

impl Counts {
    pub(super) fn manifest(&self, from: Answered) {
        add(&self.manifests[from as usize]);
    }

    pub(super) fn looked(&self, found: Looked) {
        add(&self.revalidations[found as usize]);
    }

    pub(super) fn link(&self, permitted: Permitted) {
        add(&self.links[permitted as usize]);
    }

    /// Answered from what was absent a moment ago.
    pub(super) fn absence(&self) {
        add(&self.absences);
    }

    pub(super) fn prefetch(&self, became: Prefetched) {
        add(&self.prefetches[became as usize]);
    }

    pub(super) fn list(&self, from: Answered) {
        add(&self.lists[from as usize]);
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One family of counters with two labels: the upstream, and one of a closed set.
struct Family {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: &'static [&'static str],
    of: fn(&Counts) -> &[AtomicU64],
}

const FAMILIES: [Family; 6] = [
    Family {
        name: "manifests",
        help: "Manifests answered, by where they came from.",
        label: "from",
        values: &FROM,
        of: |counts| &counts.manifests,
    },
    Family {
        name: "revalidations",
        help: "Tags that were compared with what the upstream has.",
        label: "found",
        values: &LOOKED,
        of: |counts| &counts.revalidations,
    },
    Family {
        name: "links",
        help: "Decisions whether a blob may be served, by what they rest on.",
        label: "by",
        values: &PERMITTED,
        of: |counts| &counts.links,
    },
    Family {
        name: "lists",
        help: "Lists of tags and referrers answered, by where they came from.",
        label: "from",
        values: &FROM,
        of: |counts| &counts.lists,
    },
    Family {
        name: "prefetches",
        help: "Indexes whose platforms were to be fetched ahead, by what became of it.",
        label: "end",
        values: &PREFETCHED,
        of: |counts| &counts.prefetches,
    },
    Family {
        name: "absences",
        help: "Answers that something is not there, without asking again.",
        label: "",
        values: &[""],
        of: |counts| std::slice::from_ref(&counts.absences),
    },
];

/// What all upstreams count, and what they say that they still give.
#[derive(Default)]
pub(crate) struct MirrorMetrics(Vec<(Upstream, Arc<Counts>)>);

impl fmt::Debug for MirrorMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(_, counts)| counts)).finish()
    }
}

impl MirrorMetrics {
    pub(super) fn new(upstreams: Vec<(Upstream, Arc<Counts>)>) -> MirrorMetrics {
        MirrorMetrics(upstreams)
    }

    /// The families in the OpenMetrics text format, those of the clients too; nothing without upstreams.
    pub(crate) fn render(&self, out: &mut String) {
        let counts = self.0.iter().map(|(upstream, counts)| (upstream.settings().ns.as_str(), &**counts));
        render(&counts.collect::<Vec<_>>(), out);
        let clients = self.0.iter().map(|(one, _)| (one.settings().ns.as_str(), one.metrics(), one.budget()));
        upstream::Metrics::render_all(&clients.collect::<Vec<_>>(), out);
    }
}

fn render(upstreams: &[(&str, &Counts)], out: &mut String) {
    if upstreams.is_empty() {
        return;
    }
    for Family { name, help, label, values, of } in &FAMILIES {
        let _all = write!(out, "# TYPE gantry_mirror_{name} counter\n# HELP gantry_mirror_{name} {help}\n");
        for (ns, counts) in upstreams {
            for (value, counter) in values.iter().zip(of(counts)) {
                let more = if label.is_empty() { String::new() } else { format!(",{label}=\"{value}\"") };
                let count = counter.load(Ordering::Relaxed);
                let _all = writeln!(out, "gantry_mirror_{name}_total{{upstream=\"{ns}\"{more}}} {count}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_stands_in_the_text_with_its_upstream() {
        let (hub, ghcr) = (Counts::default(), Counts::default());
        hub.manifest(Answered::Stale);
        hub.looked(Looked::Gone);
        ghcr.link(Permitted::Asked);
        ghcr.list(Answered::Upstream);
        ghcr.absence();
        let mut out = String::new();
        render(&[("docker.io", &hub), ("ghcr.io", &ghcr)], &mut out);
        for line in [
            "gantry_mirror_manifests_total{upstream=\"docker.io\",from=\"stale\"} 1",
            "gantry_mirror_revalidations_total{upstream=\"docker.io\",found=\"gone\"} 1",
            "gantry_mirror_links_total{upstream=\"ghcr.io\",by=\"asked\"} 1",
            "gantry_mirror_lists_total{upstream=\"ghcr.io\",from=\"upstream\"} 1",
            "gantry_mirror_absences_total{upstream=\"ghcr.io\"} 1",
            "gantry_mirror_absences_total{upstream=\"docker.io\"} 0",
            "# TYPE gantry_mirror_links counter",
        ] {
            assert!(out.lines().any(|have| have == line), "{line} is not in\n{out}");
        }
        assert_eq!(out.matches("_total{").count(), 2 * (3 + 4 + 4 + 3 + 3 + 1));
        let mut none = String::new();
        render(&[], &mut none);
        MirrorMetrics::default().render(&mut none);
        assert_eq!(none, "");
    }
}
