//! Faults that meet the GET of a whole blob.

use std::{net::SocketAddr, time::Duration};

use ::faults::{Auth, Fault, On, RealmAt, To};

use super::{
    super::times::{BODY_RATE_GRACE, BUDGET_WAIT, FIRST_BYTE, STALL, resumed},
    *,
};

const HALF: u64 = BLOB_BYTES as u64 / 2;
const ALMOST: u64 = BLOB_BYTES as u64 * 99 / 100;

fn blob(name: &'static str, fault: Break, cold: &'static [May], partial: &'static [May]) -> Case {
    Case::new(name, Asks::Blob, fault, [cold, partial, RIGHT])
}

/// The first GET of a blob ends in the middle, and those after it meet with this.
fn after_a_reset(fault: Fault) -> Break {
    let first = (On::get("/blobs/").times(1), Fault::Reset { at: HALF / 2 });
    Break::Script(vec![first, (On::get("/blobs/").skip(1), fault)])
}

fn short_lived() -> Break {
    let login = Some(("user".to_owned(), "pass".to_owned()));
    let lives = Duration::from_secs(1);
    Break::Require(Auth::Bearer {
        realm: RealmAt::Own,
        login,
        identity: None,
        lives,
        expires_in: Some(1),
        oauth2_name: false,
    })
}

pub fn all(shut: SocketAddr) -> Vec<Case> {
    let slow = |bytes_per_s| each(Fault::Slow { bytes_per_s });
    let plain = any(Fault::Redirect(To::PlainForeign));
    let [again, stalls] = [Duration::ZERO, STALL].map(resumed);
    vec![
        blob("refused", Break::Refuse, UNREACHABLE, UNREACHABLE),
        blob("reset before the head", each(Fault::ResetBeforeHead), UNREACHABLE, UNREACHABLE),
        blob("reset at 0", each(Fault::Reset { at: 0 }), UNREACHABLE_OR_CUT, UNREACHABLE_OR_CUT).waits(again),
        // The next answer begins where this one ended.
        blob("reset at 50 %", each(Fault::Reset { at: HALF }), RIGHT, RIGHT).waits(again),
        blob("reset at 99 %", each(Fault::Reset { at: ALMOST }), RIGHT, RIGHT).waits(again),
        // Four answers of a tenth each are not the whole.
        blob("reset at 10 %", each(Fault::Reset { at: HALF / 5 }), CUT, CUT).waits(again),
        blob("stall before the head", each(Fault::StallBeforeHead), TIMEOUT, TIMEOUT).waits(FIRST_BYTE),
        blob("stall at 0", each(Fault::Stall { at: 0 }), TIMEOUT_OR_CUT, TIMEOUT_OR_CUT).waits(stalls),
        blob("stall at 50 %", each(Fault::Stall { at: HALF }), RIGHT, RIGHT).waits(stalls),
        blob("stall at 10 %", each(Fault::Stall { at: HALF / 5 }), CUT, CUT).waits(stalls),
        // Four answers, each for as long as it may be too slow.
        blob("slow, 1 KB/s", slow(1000), TIMEOUT_OR_CUT, TIMEOUT_OR_CUT).waits(resumed(BODY_RATE_GRACE)),
        Case { is_endless: true, ..blob("slow, 20 KB/s", slow(20_000), SILENCE, SILENCE) },
        blob("truncated at 0", each(Fault::Truncated { at: 0 }), UNREACHABLE_OR_CUT, UNREACHABLE_OR_CUT)
            .waits(again),
        blob("truncated at 50 %", each(Fault::Truncated { at: HALF }), RIGHT, RIGHT).waits(again),
        blob("truncated at 10 %", each(Fault::Truncated { at: HALF / 5 }), CUT, CUT).waits(again),
        // Of what is here in part the length is known, so the rest of it is asked for.
        blob("truncated as announced", each(Fault::TruncatedAsAnnounced { at: HALF }), MISBEHAVED, RIGHT)
            .waits(again),
        blob("chunked", each(Fault::Chunked), RIGHT, RIGHT),
        blob("delimited by the end", each(Fault::CloseDelimited), RIGHT, RIGHT),
        blob("wrong bytes", each(Fault::WrongBytes), CUT, CUT),
        blob("extra bytes", each(Fault::ExtraBytes { bytes: 10 }), MISBEHAVED, MISBEHAVED),
        blob("another digest in the head", each(Fault::WrongDigestHeader), RIGHT, RIGHT),
        blob("gzip", each(Fault::Gzip), MISBEHAVED, MISBEHAVED),
        blob("404", any(Fault::Status(404)), NO_BLOB, NO_BLOB),
        blob("401 loop", Break::Require(Auth::Loop), NO_NAME, NO_NAME),
        blob("private, anonymous", Break::Require(Auth::bearer_for("user", "pass")), NO_NAME, NO_NAME)
            .anonymous(),
        blob("403", any(Fault::Status(403)), NO_NAME, NO_NAME),
        blob("realm on a foreign host", foreign_realm(), MISBEHAVED, MISBEHAVED),
        blob(
            "credentials rejected",
            Break::Require(Auth::bearer_for("user", "other")),
            UNREACHABLE,
            UNREACHABLE,
        ),
        blob("tokens of 1 s", short_lived(), RIGHT, RIGHT),
        blob("redirect", away(), RIGHT, RIGHT),
        blob("redirect, anonymous", away(), RIGHT, RIGHT).anonymous(),
        blob("redirect loop", any(Fault::Redirect(To::Itself)), MISBEHAVED, MISBEHAVED),
        blob("redirect to cloud metadata", away_to(METADATA), UNREACHABLE, UNREACHABLE),
        blob("redirect to a private address", away_to(shut), UNREACHABLE, UNREACHABLE),
        blob("redirect to a private address, anonymous", away_to(shut), UNREACHABLE, UNREACHABLE).anonymous(),
        blob("https to http", plain, MISBEHAVED, MISBEHAVED).by_tls(),
        blob("429", any(Fault::Status(429)), BUSY, BUSY).waits(BUDGET_WAIT),
        blob("429 with Retry-After", retry_after(), BUSY, BUSY).waits(BUDGET_WAIT).pauses(RETRY_AFTER),
        blob("500", any(Fault::Status(500)), MISBEHAVED, MISBEHAVED),
        blob("502", any(Fault::Status(502)), MISBEHAVED, MISBEHAVED),
        blob("503", any(Fault::Status(503)), MISBEHAVED, MISBEHAVED),
        blob("504", any(Fault::Status(504)), MISBEHAVED, MISBEHAVED),
        blob("Range ignored", after_a_reset(Fault::RangeIgnored), RIGHT, RIGHT).waits(again),
        blob("another range", after_a_reset(Fault::RangeShifted { by: 1000 }), CUT, CUT).waits(again),
        // What is left after each has to be asked for again, until there is nothing that could be shortened.
        blob("a shorter range", after_a_reset(Fault::RangeShortened { by: 1000 }), CUT, CUT).waits(again),
        // It is begun again, but whoever has the beginning can't go on with it.
        blob("another total", after_a_reset(Fault::AnotherTotal { by: 1000 }), CUT, CUT).waits(again),
        // As it is when another cache of the same upstream answers: the digest alone says what it is.
        blob("another ETag", after_a_reset(Fault::Header("ETag", "\"another\"".to_owned())), RIGHT, RIGHT)
            .waits(again),
        blob("no total", after_a_reset(Fault::TotalUnknown), RIGHT, RIGHT).waits(again),
        blob("wrong bytes on resume", after_a_reset(Fault::WrongBytes), CUT, CUT).waits(again),
    ]
}
