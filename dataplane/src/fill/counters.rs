//! What fills have done, for each upstream, and the OpenMetrics text of it.
//!
//! Invariants: the label is the upstream's `ns` of the configuration; no text of a client becomes one.

use std::sync::atomic::{AtomicU64, Ordering};

use control::UpstreamStat;

/// What fills from one upstream have done. Relaxed: each number is right by itself.
#[derive(Debug, Default)]
pub struct FillCounters {
    /// Of the upstream, as clients call it.
    pub ns: Box<str>,
    /// Blobs that were asked for and had their name.
    pub hits: AtomicU64,
    /// Blobs that were asked for and had not.
    pub misses: AtomicU64,
    /// Those of them that found a fill under way.
    pub coalesced: AtomicU64,
    /// Fills that run now.
    pub running: AtomicU64,
    /// Bytes that came from the origin.
    pub fetched_bytes: AtomicU64,
    /// Requests to the origin beyond the first of a fill.
    pub resumes: AtomicU64,
    /// Answers that were not kept, since there was no room.
    pub passes: AtomicU64,
    /// Requests to the origin that were for one of those alone.
    pub pass_requests: AtomicU64,
    /// Fills whose bytes were not those of their digest.
    pub mismatches: AtomicU64,
    /// Fills that were stopped since nobody wanted them any more.
    pub stops: AtomicU64,
    /// Bytes of its blobs that were sent to clients, wherever they lay.
    pub served_bytes: AtomicU64,
    /// Clients who wait for bytes that are still to come.
    pub clients: AtomicU64,
}

impl FillCounters {
    /// What an operator is told of them.
    pub fn stat(&self) -> UpstreamStat {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        UpstreamStat {
            ns: self.ns.to_string(),
            hits: get(&self.hits),
            misses: get(&self.misses),
            coalesced: get(&self.coalesced),
            running: get(&self.running),
            fetched_bytes: get(&self.fetched_bytes),
            served_bytes: get(&self.served_bytes),
            // Evictions are the store's.
            ..UpstreamStat::default()
        }
    }
}

/// Appends the families of all upstreams; nothing if there are none. `lags_bytes` is of the slowest reader of each;
/// `memory_bytes` what all fills hold, and what all passes do.
pub fn render(upstreams: &[FillCounters], lags_bytes: &[u64], memory_bytes: [u64; 2], out: &mut String) {
    type Of = fn(&FillCounters) -> &AtomicU64;
    let families: [(&str, &str, &str, Of); 12] = [
        ("hits", "counter", "Blobs that were asked for and were here.", |of| &of.hits),
        ("misses", "counter", "Blobs that were asked for and were not here.", |of| &of.misses),
        ("coalesced", "counter", "Misses that found a fill under way.", |of| &of.coalesced),
        ("running", "gauge", "Fills that run.", |of| &of.running),
        ("fetched_bytes", "counter", "Bytes of blobs that came from the upstream.", |of| &of.fetched_bytes),
        ("served_bytes", "counter", "Bytes of the upstream's blobs that were sent to clients.", |of| {
            &of.served_bytes
        }),
        ("clients", "gauge", "Clients who wait for bytes that are still to come.", |of| &of.clients),
        ("resumes", "counter", "Fills that were gone on with after the upstream failed.", |of| &of.resumes),
        ("passes", "counter", "Answers that were not kept, since there was no room.", |of| &of.passes),
        ("pass_requests", "counter", "Requests for one of those answers alone.", |of| &of.pass_requests),
        ("mismatches", "counter", "Fills whose bytes were not those of their digest.", |of| &of.mismatches),
        ("stops", "counter", "Fills that stopped since nobody wanted them any more.", |of| &of.stops),
    ];
    if upstreams.is_empty() {
        return;
    }
    for (name, kind, help, of) in families {
        let total = if kind == "counter" { "_total" } else { "" };
        head(name, kind, help, out);
        for upstream in upstreams {
            let value = of(upstream).load(Ordering::Relaxed);
            out.push_str(&format!("gantry_fill_{name}{total}{{upstream=\"{}\"}} {value}\n", upstream.ns));
        }
    }
    head("lag_bytes", "gauge", "How far the slowest client of a fill is behind what is here.", out);
    for (upstream, lag_bytes) in upstreams.iter().zip(lags_bytes) {
        out.push_str(&format!("gantry_fill_lag_bytes{{upstream=\"{}\"}} {lag_bytes}\n", upstream.ns));
    }
    let [fills_bytes, passes_bytes] = memory_bytes;
    for (name, help, bytes) in [
        ("memory_bytes", "What all fills have in memory of what came and is not written.", fills_bytes),
        ("pass_memory_bytes", "What answers that are not kept have in memory.", passes_bytes),
    ] {
        head(name, "gauge", help, out);
        out.push_str(&format!("gantry_fill_{name} {bytes}\n"));
    }
}

fn head(name: &str, kind: &str, help: &str, out: &mut String) {
    out.push_str(&format!("# TYPE gantry_fill_{name} {kind}\n"));
    if name.ends_with("_bytes") {
        out.push_str(&format!("# UNIT gantry_fill_{name} bytes\n"));
    }
    out.push_str(&format!("# HELP gantry_fill_{name} {help}\n"));
}
