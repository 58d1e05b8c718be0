//! Why an upstream did not answer a question.
//!
//! Owns: the one table from such a failure to what the client is told.
//!
//! Invariants: *it is not there* is never a failure, and a failure is never told as *it is not there*, but for
//! [`Failure::Denied`], which registries say of what does not exist.
//!
//! Spec: RFC 9110 §15.6.

use std::fmt;

use oci::{Problem, RepositoryName};

use crate::limits;

/// Why a question to an upstream has no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No address, no connection, no TLS, or a connection that ended before the answer.
    Unreachable {
        /// For the log and for `doctor`; it may quote the system, never a secret.
        why: Box<str>,
    },
    /// It did not begin to answer in time, or stopped in the middle.
    TimedOut,
    /// It answered what can't be right.
    Misbehaved {
        /// One sentence.
        why: &'static str,
    },
    /// It says that it has failed.
    Server {
        /// 500 to 599.
        status: u16,
    },
    /// It gives no more for now, and waiting as long as is allowed does not help.
    BudgetSpent {
        /// When to come again, in seconds, ≥ 1.
        retry_after_s: u32,
    },
    /// 401 or 403 after a token was had: unknown and private are the same to a registry.
    Denied,
    /// The realm does not know our own credentials.
    CredentialRejected,
    /// The host has only addresses that are never connected to, or not without `allow_private_addresses`, or not without
    /// TLS.
    AddressRefused,
    /// A redirect that is not followed.
    RedirectRefused {
        /// One sentence.
        why: &'static str,
    },
    /// It has failed so often in a row that it is not asked for a while.
    Breaker {
        /// When it is asked again, in seconds, ≥ 1.
        retry_after_s: u32,
    },
}

/// Why a blob's bytes ended before their end. Bytes that came before are as good as ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The connection ended, in the middle or as if that were the end.
    Cut,
    /// Nothing came for as long as a stall may last.
    Stalled,
    /// It came, but more slowly than is waited for.
    Crawled,
    /// More came than was announced; what was announced had come before.
    TooLong,
}

impl Failure {
    pub(crate) fn unreachable(why: impl fmt::Display) -> Failure {
        Failure::Unreachable { why: why.to_string().into() }
    }

    /// What a client is told that asked for something in `repository`. No `_` arm: a new variant must choose.
    pub fn problem(&self, repository: RepositoryName) -> Problem {
        let retry_after_s = limits::UPSTREAM_RETRY_AFTER_S;
        match self {
            Failure::Unreachable { .. } | Failure::CredentialRejected | Failure::AddressRefused => {
                Problem::UpstreamUnreachable { retry_after_s }
            }
            Failure::Breaker { retry_after_s } => {
                Problem::UpstreamUnreachable { retry_after_s: *retry_after_s }
            }
            Failure::TimedOut => Problem::UpstreamTimeout,
            Failure::Misbehaved { why } | Failure::RedirectRefused { why } => {
                Problem::UpstreamMisbehaved { why }
            }
            Failure::Server { .. } => Problem::UpstreamMisbehaved { why: "the upstream registry has failed" },
            Failure::BudgetSpent { retry_after_s } => Problem::UpstreamBusy { retry_after_s: *retry_after_s },
            Failure::Denied => Problem::NameUnknown(repository),
        }
    }

    /// Whether an old answer may stand in for the missing one: the upstream is away, not of another opinion. A name
    /// without an address that may be connected to is as good as one without any: nobody was asked. Who rejects our
    /// credentials was, and lets us see nothing.
    pub fn is_outage(&self) -> bool {
        match self {
            Failure::Unreachable { .. }
            | Failure::TimedOut
            | Failure::Server { .. }
            | Failure::BudgetSpent { .. }
            | Failure::AddressRefused
            | Failure::Breaker { .. } => true,
            Failure::Misbehaved { .. }
            | Failure::Denied
            | Failure::CredentialRejected
            | Failure::RedirectRefused { .. } => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable { why } => write!(f, "it can't be reached: {why}"),
            Failure::TimedOut => f.write_str("it did not answer in time"),
            Failure::Misbehaved { why } => f.write_str(why),
            Failure::Server { status } => write!(f, "it answered {status}"),
            Failure::BudgetSpent { retry_after_s } => {
                write!(f, "its budget is spent; again in {retry_after_s} s")
            }
            Failure::Denied => f.write_str("it does not let us in there"),
            Failure::CredentialRejected => f.write_str("it does not know our credentials"),
            Failure::AddressRefused => {
                f.write_str(
                "its address is private or reserved, which allow_private_addresses may allow, or public and asked by http",
            )
            }
            Failure::RedirectRefused { why } => f.write_str(why),
            Failure::Breaker { retry_after_s } => {
                write!(f, "it failed too often in a row; it is asked again in {retry_after_s} s")
            }
        }
    }
}

impl std::error::Error for Failure {}

impl Broken {
    /// As the reader of the body is told.
    pub fn problem(self) -> Problem {
        match self {
            Broken::Cut => Problem::UpstreamUnreachable { retry_after_s: limits::UPSTREAM_RETRY_AFTER_S },
            Broken::Stalled | Broken::Crawled => Problem::UpstreamTimeout,
            Broken::TooLong => {
                Problem::UpstreamMisbehaved { why: "the upstream sent more than it announced" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_never_told_as_unknown() {
        let name = RepositoryName::parse("docker.io/library/busybox").unwrap();
        for (failure, status) in [
            (Failure::unreachable("connection refused"), 503),
            (Failure::TimedOut, 504),
            (Failure::Misbehaved { why: "so" }, 502),
            (Failure::Server { status: 500 }, 502),
            (Failure::BudgetSpent { retry_after_s: 7 }, 503),
            (Failure::Denied, 404),
            (Failure::CredentialRejected, 503),
            (Failure::AddressRefused, 503),
            (Failure::RedirectRefused { why: "so" }, 502),
            (Failure::Breaker { retry_after_s: 7 }, 503),
        ] {
            let wire = failure.problem(name).wire();
            assert_eq!(wire.status, status, "{failure:?}");
            if status == 503 {
                assert!(wire.headers.iter().any(|(name, _)| *name == "retry-after"), "{failure:?}");
            }
        }
        let busy = Failure::BudgetSpent { retry_after_s: 7 }.problem(name).wire();
        assert_eq!((busy.code, busy.headers), ("TOOMANYREQUESTS", vec![("retry-after", "7".to_owned())]));
    }
}
