//! `If-Match` and `If-None-Match` of a write, against what is there in its transaction.
//!
//! Spec: RFC 9110 §13.1.1, §13.1.2.

use control::Preconditions;
use oci::{Digest, conditional};

/// Whether the write may go on when `current` (`None`: nothing) is what its URL names; otherwise 412.
pub(super) fn allow(sent: &Preconditions, current: Option<Digest>) -> bool {
    let Some(current) = current else { return sent.if_match.is_none() };
    let matched =
        sent.if_match.as_ref().is_none_or(|field| conditional::matches_strongly(field.as_bytes(), &current));
    let excluded =
        sent.if_none_match.as_ref().is_some_and(|field| conditional::matches(field.as_bytes(), &current));
    matched && !excluded
}
