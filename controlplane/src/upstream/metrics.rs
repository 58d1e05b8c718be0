//! What the client counts of one upstream.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{answers::Budget, failure::Failure};

/// Counters since start; each only grows.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: AtomicU64,
    redirects: AtomicU64,
    bytes: AtomicU64,
    broken_bodies: AtomicU64,
    tokens_asked: AtomicU64,
    tokens_renewed: AtomicU64,
    breaker_openings: AtomicU64,
    credentials_rejected: AtomicU64,
    refusals: AtomicU64,
    failures: [AtomicU64; Metrics::FAILURES.len()],
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Requests sent to the upstream and to where it redirected us; not those to realms.
    pub requests: u64,
    /// Redirects followed.
    pub redirects: u64,
    /// Bytes of blobs received.
    pub bytes: u64,
    /// Blobs' bodies that broke off.
    pub broken_bodies: u64,
    /// Tokens asked for.
    pub tokens_asked: u64,
    /// Tokens that were refused before their time.
    pub tokens_renewed: u64,
    /// How often the breaker opened.
    pub breaker_openings: u64,
    /// How often our credentials were rejected.
    pub credentials_rejected: u64,
    /// 429s.
    pub refusals: u64,
    /// Questions without an answer, of all kinds.
    pub failures: u64,
}

impl Metrics {
    const FAILURES: [&str; 10] = [
        "unreachable",
        "timed_out",
        "misbehaved",
        "server",
        "budget_spent",
        "denied",
        "credential_rejected",
        "address_refused",
        "redirect_refused",
        "breaker",
    ];

    /// Each counter is read by itself: together they are only nearly of one moment.
    pub fn read(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            requests: get(&self.requests),
            redirects: get(&self.redirects),
            bytes: get(&self.bytes),
            broken_bodies: get(&self.broken_bodies),
            tokens_asked: get(&self.tokens_asked),
            tokens_renewed: get(&self.tokens_renewed),
            breaker_openings: get(&self.breaker_openings),
            credentials_rejected: get(&self.credentials_rejected),
            refusals: get(&self.refusals),
            failures: self.failures.iter().map(get).sum(),
        }
    }

    /// The families of all upstreams in the OpenMetrics text format, without the end mark; nothing of none. Each comes
    /// with its `ns`.
    pub fn render_all(upstreams: &[(&str, &Metrics, Budget)], out: &mut String) {
        if upstreams.is_empty() {
            return;
        }
        type Read = fn(&Counts) -> u64;
        if upstreams.is_empty() {
            return;
        }
        // The bytes of blobs are told by the data plane, which has them all.
        let families: [(&str, &str, Read); 8] = [
            ("requests", "Requests sent to the upstream, and to where it redirected.", |all| all.requests),
            ("redirects", "Redirects followed.", |all| all.redirects),
            ("broken_bodies", "Blobs' bodies that broke off.", |all| all.broken_bodies),
            ("tokens", "Tokens asked for.", |all| all.tokens_asked),
            ("tokens_renewed", "Tokens refused before their time.", |all| all.tokens_renewed),
            ("breaker_openings", "How often the breaker opened.", |all| all.breaker_openings),
            ("credentials_rejected", "How often our credentials were rejected.", |all| {
                all.credentials_rejected
            }),
            ("refusals", "Requests that the upstream answered 429.", |all| all.refusals),
        ];
        for (name, help, read) in families {
            let family = format!("gantry_upstream_{name}");
            out.push_str(&format!("# TYPE {family} counter\n# HELP {family} {help}\n"));
            for (ns, metrics, _) in upstreams {
                out.push_str(&format!("{family}_total{{upstream=\"{ns}\"}} {}\n", read(&metrics.read())));
            }
        }
        out.push_str(
            "# TYPE gantry_upstream_failures counter\n\
             # HELP gantry_upstream_failures Questions to the upstream without an answer.\n",
        );
        for (ns, metrics, _) in upstreams {
            for (why, count) in Metrics::FAILURES.iter().zip(&metrics.failures) {
                let count = count.load(Ordering::Relaxed);
                out.push_str(&format!(
                    "gantry_upstream_failures_total{{upstream=\"{ns}\",why=\"{why}\"}} {count}\n"
                ));
            }
        }
        // Absent is unknown, so an upstream that told nothing has no line.
        if upstreams.iter().all(|(_, _, budget)| budget.remaining.is_none()) {
            return;
        }
        out.push_str(
            "# TYPE gantry_upstream_budget_left gauge\n\
             # HELP gantry_upstream_budget_left Pulls that the upstream said are left.\n",
        );
        for (ns, _, budget) in upstreams {
            if let Some(left) = budget.remaining {
                out.push_str(&format!("gantry_upstream_budget_left{{upstream=\"{ns}\"}} {left}\n"));
            }
        }
    }

    pub(super) fn failed(&self, failure: &Failure) {
        let place = match failure {
            Failure::Unreachable { .. } => 0,
            Failure::TimedOut => 1,
            Failure::Misbehaved { .. } => 2,
            Failure::Server { .. } => 3,
            Failure::BudgetSpent { .. } => 4,
            Failure::Denied => 5,
            Failure::CredentialRejected => 6,
            Failure::AddressRefused => 7,
            Failure::RedirectRefused { .. } => 8,
            Failure::Breaker { .. } => 9,
        };
        add(&self.failures[place], 1);
    }

    pub(super) fn requested(&self) {
        add(&self.requests, 1);
    }

    pub(super) fn redirected(&self) {
        add(&self.redirects, 1);
    }

    pub(super) fn received(&self, bytes: usize) {
        add(&self.bytes, u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(super) fn body_broke(&self) {
        add(&self.broken_bodies, 1);
    }

    pub(super) fn token_asked(&self) {
        add(&self.tokens_asked, 1);
    }

    pub(super) fn token_renewed(&self) {
        add(&self.tokens_renewed, 1);
    }

    pub(super) fn breaker_opened(&self) {
        add(&self.breaker_openings, 1);
    }

    pub(super) fn credential_rejected(&self) {
        add(&self.credentials_rejected, 1);
    }

    pub(super) fn refused(&self) {
        add(&self.refusals, 1);
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_is_told_once_for_all_upstreams() {
        let (one, two) = (Metrics::default(), Metrics::default());
        one.requested();
        two.failed(&Failure::TimedOut);
        let mut out = String::new();
        let budget = Budget { remaining: Some(7), ..Budget::default() };
        Metrics::render_all(&[("a", &one, budget), ("b", &two, Budget::default())], &mut out);
        for line in [
            "gantry_upstream_requests_total{upstream=\"a\"} 1",
            "gantry_upstream_requests_total{upstream=\"b\"} 0",
            "gantry_upstream_failures_total{upstream=\"b\",why=\"timed_out\"} 1",
            "gantry_upstream_budget_left{upstream=\"a\"} 7",
        ] {
            assert!(out.lines().any(|other| other == line), "{line}\n{out}");
        }
        assert!(!out.contains("budget_left{upstream=\"b\"}"), "unknown is not zero");
        let mut types: Vec<&str> = out.lines().filter(|line| line.starts_with("# TYPE")).collect();
        types.dedup();
        assert_eq!(types.len(), out.matches("# TYPE").count());
        assert_eq!(two.read().failures, 1);
    }
}
