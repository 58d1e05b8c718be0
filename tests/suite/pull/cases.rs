//! The faults of the matrix, and what may come of each.

use std::time::Duration;

use ::faults::{Auth, Fault, On, Place, RealmAt, To};

/// Four chunks and a bit: what is held back at the end is less than half.
pub const BLOB_BYTES: usize = (1 << 20) + 17;

const HALF: u64 = BLOB_BYTES as u64 / 2;
const ALMOST: u64 = BLOB_BYTES as u64 * 99 / 100;

/// What an upstream is told to do.
#[derive(Clone)]
pub enum Break {
    Script(Vec<(On, Fault)>),
    Refuse,
    Require(Auth),
}

/// What came of a GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// All of it, and right.
    Right,
    /// The same, with the word that it is old.
    Stale,
    /// An error, with its code.
    Status(u16, String),
    /// The connection ended before the body did.
    Cut,
    /// Nothing, or not enough, for longer than anybody waits.
    Silence,
}

/// What may come of a GET.
#[derive(Clone, Copy, Debug)]
pub enum May {
    Right,
    Stale,
    Status(u16, &'static str),
    Cut,
    Silence,
}

impl May {
    pub fn is_like(&self, got: &Got) -> bool {
        match (self, got) {
            (May::Right, Got::Right)
            | (May::Stale, Got::Stale)
            | (May::Cut, Got::Cut)
            | (May::Silence, Got::Silence) => true,
            (May::Status(status, code), Got::Status(got, got_code)) => status == got && code == got_code,
            _ => false,
        }
    }
}

/// One fault.
#[derive(Clone)]
pub struct Case {
    pub name: &'static str,
    pub is_manifest: bool,
    pub tls: bool,
    pub fault: Break,
    /// It goes on as long as anybody waits.
    pub is_endless: bool,
    pub cold: &'static [May],
    pub partial: &'static [May],
    pub hot: &'static [May],
}

const RIGHT: &[May] = &[May::Right];
const STALE: &[May] = &[May::Stale];
const CUT: &[May] = &[May::Cut];
const UNREACHABLE: &[May] = &[May::Status(503, "UNAVAILABLE")];
const TIMEOUT: &[May] = &[May::Status(504, "UNAVAILABLE")];
const MISBEHAVED: &[May] = &[May::Status(502, "UNAVAILABLE")];
const BUSY: &[May] = &[May::Status(503, "TOOMANYREQUESTS")];
/// The head goes out when the upstream's has come: what fails right behind it cuts the body.
const UNREACHABLE_OR_CUT: &[May] = &[May::Status(503, "UNAVAILABLE"), May::Cut];
const TIMEOUT_OR_CUT: &[May] = &[May::Status(504, "UNAVAILABLE"), May::Cut];
const NO_NAME: &[May] = &[May::Status(404, "NAME_UNKNOWN")];
const NO_BLOB: &[May] = &[May::Status(404, "BLOB_UNKNOWN")];
const SILENCE: &[May] = &[May::Silence];

fn blob(name: &'static str, fault: Break, cold: &'static [May], partial: &'static [May]) -> Case {
    Case { name, is_manifest: false, tls: false, fault, is_endless: false, cold, partial, hot: RIGHT }
}

fn manifest(name: &'static str, fault: Break, cold: &'static [May], hot: &'static [May]) -> Case {
    Case { name, is_manifest: true, tls: false, fault, is_endless: false, cold, partial: &[], hot }
}

/// Each GET of a blob meets with this.
fn each(fault: Fault) -> Break {
    Break::Script(vec![(On::get("/blobs/"), fault)])
}

/// The first GET of a blob ends in the middle, and those after it meet with this.
fn resumed(fault: Fault) -> Break {
    let first = (On::get("/blobs/").times(1), Fault::Reset { at: HALF / 2 });
    Break::Script(vec![first, (On::get("/blobs/").skip(1), fault)])
}

/// Each question of whatever method.
fn any(fault: Fault) -> Break {
    Break::Script(vec![(On::any("/thing/"), fault)])
}

/// The registry sends everybody to another host, which answers.
fn away() -> Break {
    Break::Script(vec![(On::any("/thing/").at(Place::Own), Fault::Redirect(To::Foreign))])
}

fn retry_after(seconds: u32) -> Break {
    let header = Fault::Header("Retry-After", seconds.to_string());
    Break::Script(vec![(On::any("/thing/"), Fault::Status(429)), (On::any("/thing/"), header)])
}

fn foreign_realm() -> Auth {
    let Auth::Bearer { identity, lives, expires_in, oauth2_name, login, .. } =
        Auth::bearer_for("user", "pass")
    else {
        unreachable!("it is a bearer")
    };
    Auth::Bearer { realm: RealmAt::Foreign, login, identity, lives, expires_in, oauth2_name }
}

fn short_lived() -> Auth {
    let login = Some(("user".to_owned(), "pass".to_owned()));
    let lives = Duration::from_secs(1);
    Auth::Bearer {
        realm: RealmAt::Own,
        login,
        identity: None,
        lives,
        expires_in: Some(1),
        oauth2_name: false,
    }
}

/// All of them.
pub fn all() -> Vec<Case> {
    let mut all = blobs();
    all.extend(manifests());
    all
}

fn blobs() -> Vec<Case> {
    let slow = |bytes_per_s| each(Fault::Slow { bytes_per_s });
    let plain = any(Fault::Redirect(To::PlainForeign));
    vec![
        blob("refused", Break::Refuse, UNREACHABLE, UNREACHABLE),
        blob("reset before the head", each(Fault::ResetBeforeHead), UNREACHABLE, UNREACHABLE),
        blob("reset at 0", each(Fault::Reset { at: 0 }), UNREACHABLE_OR_CUT, UNREACHABLE_OR_CUT),
        // The next answer begins where this one ended.
        blob("reset at 50 %", each(Fault::Reset { at: HALF }), RIGHT, RIGHT),
        blob("reset at 99 %", each(Fault::Reset { at: ALMOST }), RIGHT, RIGHT),
        // Four answers of a tenth each are not the whole.
        blob("reset at 10 %", each(Fault::Reset { at: HALF / 5 }), CUT, CUT),
        blob("stall before the head", each(Fault::StallBeforeHead), TIMEOUT, TIMEOUT),
        blob("stall at 0", each(Fault::Stall { at: 0 }), TIMEOUT_OR_CUT, TIMEOUT_OR_CUT),
        blob("stall at 50 %", each(Fault::Stall { at: HALF }), RIGHT, RIGHT),
        blob("stall at 10 %", each(Fault::Stall { at: HALF / 5 }), CUT, CUT),
        // Four answers, each for as long as it may be too slow.
        blob("slow, 1 KB/s", slow(1000), TIMEOUT_OR_CUT, TIMEOUT_OR_CUT),
        Case { is_endless: true, ..blob("slow, 20 KB/s", slow(20_000), SILENCE, SILENCE) },
        blob("truncated at 0", each(Fault::Truncated { at: 0 }), UNREACHABLE_OR_CUT, UNREACHABLE_OR_CUT),
        blob("truncated at 50 %", each(Fault::Truncated { at: HALF }), RIGHT, RIGHT),
        blob("truncated at 10 %", each(Fault::Truncated { at: HALF / 5 }), CUT, CUT),
        // Of what is here in part the length is known, so the rest of it is asked for.
        blob("truncated as announced", each(Fault::TruncatedAsAnnounced { at: HALF }), MISBEHAVED, RIGHT),
        blob("chunked", each(Fault::Chunked), RIGHT, RIGHT),
        blob("delimited by the end", each(Fault::CloseDelimited), RIGHT, RIGHT),
        blob("wrong bytes", each(Fault::WrongBytes), CUT, CUT),
        blob("extra bytes", each(Fault::ExtraBytes { bytes: 10 }), MISBEHAVED, MISBEHAVED),
        blob("another digest in the head", each(Fault::WrongDigestHeader), RIGHT, RIGHT),
        blob("gzip", each(Fault::Gzip), MISBEHAVED, MISBEHAVED),
        blob("404", any(Fault::Status(404)), NO_BLOB, NO_BLOB),
        blob("401 loop", Break::Require(Auth::Loop), NO_NAME, NO_NAME),
        blob("403", any(Fault::Status(403)), NO_NAME, NO_NAME),
        blob("realm on a foreign host", Break::Require(foreign_realm()), MISBEHAVED, MISBEHAVED),
        blob(
            "credentials rejected",
            Break::Require(Auth::bearer_for("user", "other")),
            UNREACHABLE,
            UNREACHABLE,
        ),
        blob("tokens of 1 s", Break::Require(short_lived()), RIGHT, RIGHT),
        blob("redirect", away(), RIGHT, RIGHT),
        blob("redirect loop", any(Fault::Redirect(To::Itself)), MISBEHAVED, MISBEHAVED),
        Case { tls: true, ..blob("https to http", plain, MISBEHAVED, MISBEHAVED) },
        blob("429", any(Fault::Status(429)), BUSY, BUSY),
        blob("429 with Retry-After", retry_after(1), BUSY, BUSY),
        blob("500", any(Fault::Status(500)), MISBEHAVED, MISBEHAVED),
        blob("502", any(Fault::Status(502)), MISBEHAVED, MISBEHAVED),
        blob("503", any(Fault::Status(503)), MISBEHAVED, MISBEHAVED),
        blob("Range ignored", resumed(Fault::RangeIgnored), RIGHT, RIGHT),
        blob("another range", resumed(Fault::RangeShifted { by: 1000 }), CUT, CUT),
        // What is left after each has to be asked for again, until there is nothing that could be shortened.
        blob("a shorter range", resumed(Fault::RangeShortened { by: 1000 }), CUT, CUT),
        // It is begun again, but whoever has the beginning can't go on with it.
        blob("another total", resumed(Fault::AnotherTotal { by: 1000 }), CUT, CUT),
        blob("no total", resumed(Fault::TotalUnknown), RIGHT, RIGHT),
        blob("wrong bytes on resume", resumed(Fault::WrongBytes), CUT, CUT),
    ]
}

fn manifests() -> Vec<Case> {
    let plain = any(Fault::Redirect(To::PlainForeign));
    let get = |fault: Fault| Break::Script(vec![(On::get("/manifests/"), fault)]);
    vec![
        manifest("manifest: refused", Break::Refuse, UNREACHABLE, STALE),
        manifest("manifest: reset before the head", any(Fault::ResetBeforeHead), UNREACHABLE, STALE),
        manifest("manifest: reset in the middle", get(Fault::Reset { at: 100 }), UNREACHABLE, RIGHT),
        manifest("manifest: truncated", get(Fault::Truncated { at: 100 }), UNREACHABLE, RIGHT),
        manifest(
            "manifest: truncated as announced",
            get(Fault::TruncatedAsAnnounced { at: 100 }),
            MISBEHAVED,
            RIGHT,
        ),
        manifest("manifest: stall before the head", any(Fault::StallBeforeHead), TIMEOUT, STALE),
        manifest("manifest: stall", get(Fault::Stall { at: 100 }), TIMEOUT, RIGHT),
        manifest("manifest: slow", get(Fault::Slow { bytes_per_s: 100 }), TIMEOUT, RIGHT),
        manifest("manifest: wrong bytes", get(Fault::WrongBytes), MISBEHAVED, RIGHT),
        manifest(
            "manifest: another digest in the head",
            any(Fault::WrongDigestHeader),
            MISBEHAVED,
            MISBEHAVED,
        ),
        manifest("manifest: 64 MiB", get(Fault::Huge { bytes: 64 << 20 }), MISBEHAVED, RIGHT),
        manifest("manifest: gzip", get(Fault::Gzip), MISBEHAVED, RIGHT),
        manifest("manifest: chunked", get(Fault::Chunked), RIGHT, RIGHT),
        manifest("manifest: 401 loop", Break::Require(Auth::Loop), NO_NAME, NO_NAME),
        manifest(
            "manifest: realm on a foreign host",
            Break::Require(foreign_realm()),
            MISBEHAVED,
            MISBEHAVED,
        ),
        manifest("manifest: redirect", away(), RIGHT, RIGHT),
        manifest("manifest: redirect loop", any(Fault::Redirect(To::Itself)), MISBEHAVED, MISBEHAVED),
        Case { tls: true, ..manifest("manifest: https to http", plain, MISBEHAVED, MISBEHAVED) },
        manifest("manifest: 429", any(Fault::Status(429)), BUSY, STALE),
        manifest("manifest: 429 with Retry-After", retry_after(1), BUSY, STALE),
        manifest("manifest: 500", any(Fault::Status(500)), MISBEHAVED, STALE),
        manifest("manifest: 503", any(Fault::Status(503)), MISBEHAVED, STALE),
    ]
}
