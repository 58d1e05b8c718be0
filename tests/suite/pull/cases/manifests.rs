//! GETs and HEADs of a manifest: by a tag, which is compared each time, and by its digest, which is not once it is here.

use std::net::SocketAddr;

use ::faults::{Auth, Fault, On, To};

use super::{
    super::times::{BUDGET_WAIT, DOCUMENT, FIRST_BYTE, STALL},
    *,
};

fn tag(name: &'static str, fault: Break, cold: &'static [May], hot: &'static [May]) -> Case {
    Case::new(name, Asks::Tag, fault, [cold, &[], hot])
}

fn tag_head(name: &'static str, fault: Break, cold: &'static [May], hot: &'static [May]) -> Case {
    Case::new(name, Asks::TagHead, fault, [cold, &[], hot])
}

fn manifest(name: &'static str, fault: Break, cold: &'static [May]) -> Case {
    Case::new(name, Asks::Manifest, fault, [cold, &[], RIGHT])
}

/// Each GET of one meets with this.
fn get(fault: Fault) -> Break {
    Break::Script(vec![(On::get("/manifests/"), fault)])
}

pub fn all(shut: SocketAddr) -> Vec<Case> {
    [tags(shut), tag_heads(), by_digest(shut)].concat()
}

fn tags(shut: SocketAddr) -> Vec<Case> {
    let plain = any(Fault::Redirect(To::PlainForeign));
    let truncated = get(Fault::TruncatedAsAnnounced { at: 100 });
    let digest = any(Fault::WrongDigestHeader);
    vec![
        tag("tag: refused", Break::Refuse, UNREACHABLE, STALE),
        tag("tag: reset before the head", any(Fault::ResetBeforeHead), UNREACHABLE, STALE),
        tag("tag: reset in the middle", get(Fault::Reset { at: 100 }), UNREACHABLE, RIGHT),
        tag("tag: truncated", get(Fault::Truncated { at: 100 }), UNREACHABLE, RIGHT),
        tag("tag: truncated as announced", truncated, MISBEHAVED, RIGHT),
        tag("tag: stall before the head", any(Fault::StallBeforeHead), TIMEOUT, STALE).waits(FIRST_BYTE),
        tag("tag: stall", get(Fault::Stall { at: 100 }), TIMEOUT, RIGHT).waits(STALL),
        tag("tag: slow", get(Fault::Slow { bytes_per_s: 100 }), TIMEOUT, RIGHT).waits(DOCUMENT),
        tag("tag: wrong bytes", get(Fault::WrongBytes), MISBEHAVED, RIGHT),
        tag("tag: another digest in the head", digest, MISBEHAVED, MISBEHAVED),
        tag("tag: 64 MiB", get(Fault::Huge { bytes: 64 << 20 }), MISBEHAVED, RIGHT),
        tag("tag: gzip", get(Fault::Gzip), MISBEHAVED, RIGHT),
        tag("tag: chunked", get(Fault::Chunked), RIGHT, RIGHT),
        tag("tag: 401 loop", Break::Require(Auth::Loop), NO_NAME, NO_NAME),
        // What the upstream itself says is believed.
        tag("tag: 404", any(Fault::Status(404)), NO_MANIFEST, NO_MANIFEST),
        tag("tag: realm on a foreign host", foreign_realm(), MISBEHAVED, MISBEHAVED),
        tag("tag: redirect", away(), RIGHT, RIGHT),
        tag("tag: redirect, anonymous", away(), RIGHT, RIGHT).anonymous(),
        tag("tag: redirect loop", any(Fault::Redirect(To::Itself)), MISBEHAVED, MISBEHAVED),
        tag("tag: redirect to cloud metadata", away_to(METADATA), UNREACHABLE, STALE),
        tag("tag: redirect to a private address", away_to(shut), UNREACHABLE, STALE),
        tag("tag: https to http", plain, MISBEHAVED, MISBEHAVED).by_tls(),
        tag("tag: 429", any(Fault::Status(429)), BUSY, STALE).waits(BUDGET_WAIT),
        tag("tag: 429 with Retry-After", retry_after(), BUSY, STALE).waits(BUDGET_WAIT).pauses(RETRY_AFTER),
        tag("tag: 500", any(Fault::Status(500)), MISBEHAVED, STALE),
        tag("tag: 503", any(Fault::Status(503)), MISBEHAVED, STALE),
        tag("tag: 504", any(Fault::Status(504)), MISBEHAVED, STALE),
    ]
}

fn tag_heads() -> Vec<Case> {
    let without_heads = |then: Option<Fault>| {
        let refusal = (On::head("/manifests/"), Fault::Status(405));
        let then = then.map(|fault| (On::get("/manifests/"), fault));
        Break::Script([refusal].into_iter().chain(then).collect())
    };
    vec![
        tag_head("HEAD of a tag: refused", Break::Refuse, UNREACHABLE, STALE),
        tag_head("HEAD of a tag: stall before the head", any(Fault::StallBeforeHead), TIMEOUT, STALE)
            .waits(FIRST_BYTE),
        tag_head("HEAD of a tag: 404", any(Fault::Status(404)), NO_MANIFEST, NO_MANIFEST),
        tag_head("HEAD of a tag: 405", without_heads(None), RIGHT, RIGHT),
        tag_head("HEAD of a tag: 405, then 500", without_heads(Some(Fault::Status(500))), MISBEHAVED, STALE),
        tag_head("HEAD of a tag: 401 loop", Break::Require(Auth::Loop), NO_NAME, NO_NAME),
        tag_head("HEAD of a tag: redirect", away(), RIGHT, RIGHT),
        tag_head("HEAD of a tag: 429", any(Fault::Status(429)), BUSY, STALE).waits(BUDGET_WAIT),
        tag_head("HEAD of a tag: 504", any(Fault::Status(504)), MISBEHAVED, STALE),
    ]
}

fn by_digest(shut: SocketAddr) -> Vec<Case> {
    vec![
        manifest("manifest: refused", Break::Refuse, UNREACHABLE),
        manifest("manifest: reset before the head", any(Fault::ResetBeforeHead), UNREACHABLE),
        manifest("manifest: reset in the middle", get(Fault::Reset { at: 100 }), UNREACHABLE),
        manifest(
            "manifest: truncated as announced",
            get(Fault::TruncatedAsAnnounced { at: 100 }),
            MISBEHAVED,
        ),
        manifest("manifest: stall before the head", any(Fault::StallBeforeHead), TIMEOUT).waits(FIRST_BYTE),
        manifest("manifest: stall", get(Fault::Stall { at: 100 }), TIMEOUT).waits(STALL),
        manifest("manifest: wrong bytes", get(Fault::WrongBytes), MISBEHAVED),
        // What was asked for is what came: nobody needs the header.
        manifest("manifest: another digest in the head", any(Fault::WrongDigestHeader), RIGHT),
        manifest("manifest: 64 MiB", get(Fault::Huge { bytes: 64 << 20 }), MISBEHAVED),
        manifest("manifest: gzip", get(Fault::Gzip), MISBEHAVED),
        manifest("manifest: 401 loop", Break::Require(Auth::Loop), NO_NAME),
        manifest("manifest: 404", any(Fault::Status(404)), NO_MANIFEST),
        manifest("manifest: redirect", away(), RIGHT),
        manifest("manifest: redirect to a private address", away_to(shut), UNREACHABLE),
        manifest("manifest: 429", any(Fault::Status(429)), BUSY).waits(BUDGET_WAIT),
        manifest("manifest: 500", any(Fault::Status(500)), MISBEHAVED),
        manifest("manifest: 504", any(Fault::Status(504)), MISBEHAVED),
    ]
}
