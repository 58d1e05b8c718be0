//! What each core counts of itself, and the OpenMetrics text of it.
//!
//! Owns: one [`CoreCounters`] per core, and the families `gantry_http_…` and `gantry_core_…`.
//!
//! Invariants: a counter has one writer, its core, so counting is a load, an add and a store, relaxed; of
//! connections the acceptor counts the opened ones and both move the number of open ones. Anybody reads.
//! Every label set is closed: no text of a client becomes a label.
//!
//! Spec: OpenMetrics 1.0, "Text Format"; the `# EOF` belongs to who joins all the parts.

use std::{
    fmt::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The label of a request that was refused before it had an endpoint.
pub const NO_ENDPOINT: &str = "invalid";

/// `oci::Endpoint::label()`, the frequent ones first: they are found by comparing in this order.
const ENDPOINTS: [&str; 16] = [
    "get_blob",
    "get_manifest",
    "patch_upload",
    "close_upload",
    "open_upload",
    "put_manifest",
    "base",
    "tags",
    "referrers",
    "upload_status",
    "cancel_upload",
    "delete_blob",
    "delete_manifest",
    "catalog",
    "fixed",
    NO_ENDPOINT,
];

/// Classes of final statuses; the last is for an answer that could not be sent whole.
const CLASSES: [&str; 5] = ["2xx", "3xx", "4xx", "5xx", "none"];

/// Upper bounds of the latency buckets, inclusive, in microseconds; one bucket more has no bound.
const LATENCY_BOUNDS_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

const _: () = {
    let mut at = 1;
    while at < LATENCY_BOUNDS_US.len() {
        assert!(LATENCY_BOUNDS_US[at - 1] < LATENCY_BOUNDS_US[at]);
        at += 1;
    }
};

/// Written by one thread, read by any.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, more: u64) {
        // One writer: no locked instruction is needed to lose nothing.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Connections that a core has now. The acceptor reads it of every core at every accept, so it shares no
/// cache line with what the core writes at every request.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Open(AtomicU64);

/// What one core has done since start.
#[derive(Debug, Default)]
pub struct CoreCounters {
    requests: [[Counter; CLASSES.len()]; ENDPOINTS.len()],
    latency_buckets: [Counter; LATENCY_BOUNDS_US.len() + 1],
    latency_sum_ns: Counter,
    bytes_sent: Counter,
    bytes_received: Counter,
    malformed: Counter,
    cold_reads: Counter,
    stalls: Counter,
    access_dropped: Counter,
    link_hits: Counter,
    link_misses: Counter,
    connections: Counter,
    connections_open: Open,
}

impl CoreCounters {
    /// A request has ended. `label` is `Endpoint::label()` or [`NO_ENDPOINT`]; `status` is 0 if no whole
    /// answer could be sent; `sent` is in bytes, head and body.
    pub fn request(&self, label: &str, status: u16, latency: Duration, sent: u64) {
        let endpoint = ENDPOINTS.iter().position(|known| *known == label).unwrap_or(ENDPOINTS.len() - 1);
        let class = match status {
            200..=299 => 0,
            300..=399 => 1,
            400..=499 => 2,
            500..=599 => 3,
            _ => 4,
        };
        self.requests[endpoint][class].add(1);
        let latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound_us| bound_us * 1000 < latency_ns);
        self.latency_buckets[bucket].add(1);
        self.latency_sum_ns.add(latency_ns);
        self.bytes_sent.add(sent);
    }

    /// `bytes` came from a client.
    pub fn received(&self, bytes: u64) {
        self.bytes_received.add(bytes);
    }

    /// What came was no request that we take (RFC 9112).
    pub fn malformed(&self) {
        self.malformed.add(1);
    }

    /// A file's pages were not in memory: the disk was asked.
    pub fn cold_read(&self) {
        self.cold_reads.add(1);
    }

    /// A turn of the core took longer than [`limits::STALL`](crate::limits::STALL).
    pub fn stall(&self) {
        self.stalls.add(1);
    }

    /// The ring of the access log was full.
    pub fn access_dropped(&self) {
        self.access_dropped.add(1);
    }

    /// A link was looked up in the core's cache.
    pub fn link_lookup(&self, hit: bool) {
        if hit { self.link_hits.add(1) } else { self.link_misses.add(1) }
    }

    /// The acceptor gives a connection to this core. For the acceptor alone.
    pub fn connection_opened(&self) {
        self.connections.add(1);
        self.connections_open.0.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that was opened has ended, or could not be handed over. For both threads.
    pub fn connection_closed(&self) {
        self.connections_open.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections that this core has, those in its mailbox included.
    pub fn connections_open(&self) -> u64 {
        self.connections_open.0.load(Ordering::Relaxed)
    }
}

/// A counter that each core has once.
struct Family {
    /// Without `_total`.
    name: &'static str,
    unit: Option<&'static str>,
    help: &'static str,
    counter: fn(&CoreCounters) -> &Counter,
}

const FAMILIES: [Family; 7] = [
    Family {
        name: "gantry_http_sent_bytes",
        unit: Some("bytes"),
        help: "Sent to clients, heads included",
        counter: |core| &core.bytes_sent,
    },
    Family {
        name: "gantry_http_received_bytes",
        unit: Some("bytes"),
        help: "Received from clients",
        counter: |core| &core.bytes_received,
    },
    Family {
        name: "gantry_http_malformed_requests",
        unit: None,
        help: "What was refused since it is no HTTP/1.1 request",
        counter: |core| &core.malformed,
    },
    Family {
        name: "gantry_http_connections",
        unit: None,
        help: "Connections accepted",
        counter: |core| &core.connections,
    },
    Family {
        name: "gantry_core_cold_reads",
        unit: None,
        help: "File reads that had to wait for the disk",
        counter: |core| &core.cold_reads,
    },
    Family {
        name: "gantry_core_stalls",
        unit: None,
        help: "Turns of a core that took too long",
        counter: |core| &core.stalls,
    },
    Family {
        name: "gantry_core_access_records_dropped",
        unit: None,
        help: "Requests without an access-log event: the log was too slow",
        counter: |core| &core.access_dropped,
    },
];

/// The counters of all cores.
#[derive(Clone, Debug)]
pub struct Metrics {
    cores: Box<[Arc<CoreCounters>]>,
}

impl Metrics {
    /// All zero.
    pub fn new(cores: usize) -> Metrics {
        Metrics { cores: (0..cores).map(|_| Arc::default()).collect() }
    }

    /// Each core's, in order.
    pub fn cores(&self) -> &[Arc<CoreCounters>] {
        &self.cores
    }

    /// Appends all families as OpenMetrics text, without the `# EOF`. Each value is read by itself: together
    /// they are only nearly of one moment. An (endpoint, status) that never occurred has no sample.
    pub fn render(&self, out: &mut String) {
        self.write(out).expect("a String takes all");
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        self.write_requests(out)?;
        self.write_latency(out)?;
        for family in &FAMILIES {
            head(out, family.name, "counter", family.unit, family.help)?;
            for (core, counters) in self.cores.iter().enumerate() {
                let value = (family.counter)(counters).get();
                writeln!(out, "{}_total{{core=\"{core}\"}} {value}", family.name)?;
            }
        }
        head(out, "gantry_http_open_connections", "gauge", None, "Connections now")?;
        for (core, counters) in self.cores.iter().enumerate() {
            let open = counters.connections_open();
            writeln!(out, "gantry_http_open_connections{{core=\"{core}\"}} {open}")?;
        }
        let lookups = "gantry_core_link_cache_lookups";
        head(out, lookups, "counter", None, "Whether a link was known without asking the control plane")?;
        for (core, counters) in self.cores.iter().enumerate() {
            for (result, counter) in [("hit", &counters.link_hits), ("miss", &counters.link_misses)] {
                writeln!(out, "{lookups}_total{{core=\"{core}\",result=\"{result}\"}} {}", counter.get())?;
            }
        }
        Ok(())
    }

    fn write_requests(&self, out: &mut String) -> fmt::Result {
        let name = "gantry_http_requests";
        head(out, name, "counter", None, "Requests ended, by end-point and class of status")?;
        for (core, counters) in self.cores.iter().enumerate() {
            for (endpoint, by_class) in ENDPOINTS.iter().zip(&counters.requests) {
                for (class, counter) in CLASSES.iter().zip(by_class) {
                    let count = counter.get();
                    if count > 0 {
                        writeln!(
                            out,
                            "{name}_total{{core=\"{core}\",endpoint=\"{endpoint}\",status=\"{class}\"}} {count}"
                        )?;
                    }
                }
            }
        }
        Ok(())
    }

    fn write_latency(&self, out: &mut String) -> fmt::Result {
        let name = "gantry_http_request_duration_seconds";
        head(out, name, "histogram", Some("seconds"), "From a request's first byte to its answer's last")?;
        for (core, counters) in self.cores.iter().enumerate() {
            let sum = counters.latency_sum_ns.get() as f64 / 1e9;
            let mut count = 0;
            for (at, bucket) in counters.latency_buckets.iter().enumerate() {
                count += bucket.get();
                match LATENCY_BOUNDS_US.get(at) {
                    Some(bound_us) => {
                        let le = *bound_us as f64 / 1e6;
                        writeln!(out, "{name}_bucket{{core=\"{core}\",le=\"{le:?}\"}} {count}")?;
                    }
                    None => writeln!(out, "{name}_bucket{{core=\"{core}\",le=\"+Inf\"}} {count}")?,
                }
            }
            writeln!(out, "{name}_count{{core=\"{core}\"}} {count}")?;
            writeln!(out, "{name}_sum{{core=\"{core}\"}} {sum}")?;
        }
        Ok(())
    }
}

fn head(out: &mut String, name: &str, kind: &str, unit: Option<&str>, help: &str) -> fmt::Result {
    writeln!(out, "# TYPE {name} {kind}")?;
    if let Some(unit) = unit {
        writeln!(out, "# UNIT {name} {unit}")?;
    }
    writeln!(out, "# HELP {name} {help}.")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use oci::{Endpoint, Method};

    use super::*;

    fn text(metrics: &Metrics) -> String {
        let mut out = String::new();
        metrics.render(&mut out);
        out
    }

    #[track_caller]
    fn check(text: &str, sample: &str) {
        assert!(text.lines().any(|line| line == sample), "no {sample} in\n{text}");
    }

    #[test]
    fn every_endpoint_has_a_row() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let id = "0".repeat(32);
        let labels: BTreeSet<&str> = [
            (Method::Get, "/v2/".to_owned()),
            (Method::Get, "/v2/_catalog".to_owned()),
            (Method::Get, format!("/v2/a/blobs/{digest}")),
            (Method::Delete, format!("/v2/a/blobs/{digest}")),
            (Method::Get, "/v2/a/manifests/t".to_owned()),
            (Method::Put, "/v2/a/manifests/t".to_owned()),
            (Method::Delete, "/v2/a/manifests/t".to_owned()),
            (Method::Post, "/v2/a/blobs/uploads/".to_owned()),
            (Method::Patch, format!("/v2/a/blobs/uploads/{id}")),
            (Method::Put, format!("/v2/a/blobs/uploads/{id}?digest={digest}")),
            (Method::Get, format!("/v2/a/blobs/uploads/{id}")),
            (Method::Delete, format!("/v2/a/blobs/uploads/{id}")),
            (Method::Get, "/v2/a/tags/list".to_owned()),
            (Method::Get, format!("/v2/a/referrers/{digest}")),
            (Method::Get, "/livez".to_owned()),
        ]
        .into_iter()
        .map(|(method, target)| Endpoint::parse(method, target.as_bytes()).expect(&target).label())
        .chain([NO_ENDPOINT])
        .collect();
        assert_eq!(labels, BTreeSet::from(ENDPOINTS));
    }

    #[test]
    fn requests_are_counted_by_endpoint_class_and_core() {
        let metrics = Metrics::new(2);
        let ms = Duration::from_millis(1);
        for status in [200, 206] {
            metrics.cores()[0].request("get_blob", status, ms, 1000);
        }
        metrics.cores()[1].request("get_blob", 404, ms, 10);
        metrics.cores()[1].request("open_upload", 503, ms, 10);
        metrics.cores()[1].request("fixed", 304, ms, 10);
        metrics.cores()[1].request(NO_ENDPOINT, 400, ms, 10);
        metrics.cores()[1].request("patch_upload", 0, ms, 0);
        let text = text(&metrics);
        for sample in [
            r#"gantry_http_requests_total{core="0",endpoint="get_blob",status="2xx"} 2"#,
            r#"gantry_http_requests_total{core="1",endpoint="get_blob",status="4xx"} 1"#,
            r#"gantry_http_requests_total{core="1",endpoint="open_upload",status="5xx"} 1"#,
            r#"gantry_http_requests_total{core="1",endpoint="fixed",status="3xx"} 1"#,
            r#"gantry_http_requests_total{core="1",endpoint="invalid",status="4xx"} 1"#,
            r#"gantry_http_requests_total{core="1",endpoint="patch_upload",status="none"} 1"#,
            r#"gantry_http_sent_bytes_total{core="0"} 2000"#,
            r#"gantry_http_sent_bytes_total{core="1"} 40"#,
        ] {
            check(&text, sample);
        }
        assert_eq!(text.matches("gantry_http_requests_total{").count(), 6, "{text}");
    }

    #[test]
    fn buckets_are_cumulative_and_include_their_bound() {
        let metrics = Metrics::new(1);
        for latency in [
            Duration::ZERO,
            Duration::from_micros(100),
            Duration::from_nanos(100_001),
            Duration::from_millis(2500),
            Duration::from_secs(60),
            Duration::from_secs(61),
        ] {
            metrics.cores()[0].request("base", 200, latency, 0);
        }
        let text = text(&metrics);
        let name = "gantry_http_request_duration_seconds";
        for (le, count) in [
            ("0.0001", 2),
            ("0.00025", 3),
            ("0.001", 3),
            ("1.0", 3),
            ("2.5", 4),
            ("30.0", 4),
            ("60.0", 5),
            ("+Inf", 6),
        ] {
            check(&text, &format!("{name}_bucket{{core=\"0\",le=\"{le}\"}} {count}"));
        }
        check(&text, &format!("{name}_count{{core=\"0\"}} 6"));
        check(&text, &format!("{name}_sum{{core=\"0\"}} 123.500200001"));
    }

    #[test]
    fn the_rest_is_counted() {
        let metrics = Metrics::new(1);
        let core = &metrics.cores()[0];
        for _ in 0..3 {
            core.connection_opened();
        }
        core.connection_closed();
        core.received(70);
        core.received(7);
        core.malformed();
        core.cold_read();
        core.stall();
        core.access_dropped();
        core.link_lookup(true);
        core.link_lookup(true);
        core.link_lookup(false);
        assert_eq!(core.connections_open(), 2);
        let text = text(&metrics);
        for sample in [
            r#"gantry_http_connections_total{core="0"} 3"#,
            r#"gantry_http_open_connections{core="0"} 2"#,
            r#"gantry_http_received_bytes_total{core="0"} 77"#,
            r#"gantry_http_malformed_requests_total{core="0"} 1"#,
            r#"gantry_core_cold_reads_total{core="0"} 1"#,
            r#"gantry_core_stalls_total{core="0"} 1"#,
            r#"gantry_core_access_records_dropped_total{core="0"} 1"#,
            r#"gantry_core_link_cache_lookups_total{core="0",result="hit"} 2"#,
            r#"gantry_core_link_cache_lookups_total{core="0",result="miss"} 1"#,
        ] {
            check(&text, sample);
        }
    }

    /// OpenMetrics 1.0: a family is said once, its samples follow it, a unit ends its name, a counter's
    /// sample ends in `_total`, nothing ends the text.
    #[test]
    fn the_text_is_open_metrics() {
        let metrics = Metrics::new(2);
        metrics.cores()[1].request("base", 200, Duration::from_millis(3), 1);
        let text = text(&metrics);
        assert!(text.ends_with('\n') && !text.contains("# EOF"));
        let mut families = BTreeSet::new();
        let (mut family, mut kind) = ("", "");
        for line in text.lines() {
            if let Some(said) = line.strip_prefix("# TYPE ") {
                (family, kind) = said.split_once(' ').expect("a name and a type");
                assert!(family.starts_with("gantry_") && families.insert(family), "{line}");
            } else if let Some(said) = line.strip_prefix("# UNIT ") {
                let (name, unit) = said.split_once(' ').expect("a name and a unit");
                assert!(name == family && name.ends_with(&format!("_{unit}")), "{line}");
            } else if let Some(said) = line.strip_prefix("# HELP ") {
                assert_eq!(said.split_once(' ').expect("a name and a text").0, family);
            } else {
                let (name, rest) = line.split_once('{').expect("every sample is of a core");
                let suffixes = match kind {
                    "counter" => &["_total"][..],
                    "gauge" => &[""],
                    "histogram" => &["_bucket", "_count", "_sum"],
                    other => panic!("type {other}"),
                };
                assert!(suffixes.contains(&name.strip_prefix(family).expect(line)), "{line}");
                let (labels, value) = rest.split_once("} ").expect("labels and a value");
                assert!(labels.starts_with("core=\"") && value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert_eq!(families.len(), FAMILIES.len() + 4);
    }
}
