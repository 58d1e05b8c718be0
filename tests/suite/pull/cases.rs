//! The faults of the matrix, what may come of each, and how long that may take.

mod blobs;
mod heads;
mod manifests;
mod parts;

use std::{net::SocketAddr, time::Duration};

use ::faults::{Auth, Fault, On, Place, RealmAt, To};

use super::times;

/// Four chunks and a bit: what is held back at the end is less than half.
pub const BLOB_BYTES: usize = (1 << 20) + 17;
/// A part of it is far ahead of its start.
pub const LARGE_BLOB_BYTES: usize = 11 * CHUNK_BYTES + 17;
/// First and last byte of that part: two chunks and a bit.
pub const PART: (usize, usize) = (8 * CHUNK_BYTES, 8 * CHUNK_BYTES + 700_000);
const CHUNK_BYTES: usize = 256 << 10;

/// What is asked for while the fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    Blob,
    BlobHead,
    Part,
    Tag,
    TagHead,
    /// By its digest.
    Manifest,
}

impl Asks {
    pub fn is_blob(self) -> bool {
        matches!(self, Asks::Blob | Asks::BlobHead | Asks::Part)
    }

    pub fn method(self) -> &'static str {
        match self {
            Asks::BlobHead | Asks::TagHead => "HEAD",
            Asks::Blob | Asks::Part | Asks::Tag | Asks::Manifest => "GET",
        }
    }

    /// All of the same thing.
    pub fn whole(self) -> Asks {
        match self {
            Asks::Blob | Asks::BlobHead | Asks::Part => Asks::Blob,
            Asks::Tag | Asks::TagHead => Asks::Tag,
            Asks::Manifest => Asks::Manifest,
        }
    }
}

/// What an upstream is told to do.
#[derive(Clone)]
pub enum Break {
    Script(Vec<(On, Fault)>),
    Refuse,
    Require(Auth),
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// All of it, and right.
    Right,
    /// The same, with the word that it is old.
    Stale,
    /// All of a part, and other bytes: it can't be verified alone, and who asks for it verifies it.
    OtherPart,
    /// An error, with its code; of a HEAD there is none.
    Status(u16, Option<String>),
    /// The connection ended before the body did.
    Cut,
    /// Nothing, or not enough, for longer than the timeouts allow.
    Silence,
}

/// What may come of a question.
#[derive(Clone, Copy, Debug)]
pub enum May {
    Right,
    Stale,
    OtherPart,
    Status(u16, &'static str),
    Cut,
    Silence,
}

impl May {
    pub fn is_like(&self, got: &Got) -> bool {
        match (self, got) {
            (May::Right, Got::Right)
            | (May::Stale, Got::Stale)
            | (May::OtherPart, Got::OtherPart)
            | (May::Cut, Got::Cut)
            | (May::Silence, Got::Silence) => true,
            (May::Status(status, code), Got::Status(got, got_code)) => {
                status == got && got_code.as_ref().is_none_or(|got| got == code)
            }
            _ => false,
        }
    }
}

/// One fault.
#[derive(Clone)]
pub struct Case {
    pub name: &'static str,
    pub asks: Asks,
    pub tls: bool,
    /// The upstream wants no credentials, and there are none.
    pub is_anonymous: bool,
    pub fault: Break,
    /// It goes on as long as anybody waits.
    pub is_endless: bool,
    pub cold: &'static [May],
    pub partial: &'static [May],
    pub hot: &'static [May],
    /// What a client waits by the timeouts that apply, the machine's own time apart.
    pub waits: Duration,
    /// How long the upstream may be left alone afterwards.
    pub pause: Duration,
}

impl Case {
    fn new(name: &'static str, asks: Asks, fault: Break, came: [&'static [May]; 3]) -> Case {
        let [cold, partial, hot] = came;
        Case {
            name,
            asks,
            tls: false,
            is_anonymous: false,
            fault,
            is_endless: false,
            cold,
            partial,
            hot,
            waits: Duration::ZERO,
            pause: times::longest_pause(),
        }
    }

    /// So long at the most.
    fn waits(self, waits: Duration) -> Case {
        Case { waits, ..self }
    }

    /// It is left alone for so long, since it says so.
    fn pauses(self, pause: Duration) -> Case {
        Case { pause, ..self }
    }

    /// With an upstream that takes whoever comes.
    fn anonymous(self) -> Case {
        Case { is_anonymous: true, ..self }
    }

    fn by_tls(self) -> Case {
        Case { tls: true, ..self }
    }
}

const RIGHT: &[May] = &[May::Right];
const STALE: &[May] = &[May::Stale];
const OTHER_PART: &[May] = &[May::OtherPart];
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
const NO_MANIFEST: &[May] = &[May::Status(404, "MANIFEST_UNKNOWN")];
const SILENCE: &[May] = &[May::Silence];

/// Each GET of a blob meets with this.
fn each(fault: Fault) -> Break {
    Break::Script(vec![(On::get("/blobs/"), fault)])
}

/// Each question of whatever method.
fn any(fault: Fault) -> Break {
    Break::Script(vec![(On::any("/thing/"), fault)])
}

/// The registry sends everybody to another host, which answers.
fn away() -> Break {
    Break::Script(vec![(On::any("/thing/").at(Place::Own), Fault::Redirect(To::Foreign))])
}

/// It sends everybody to this address.
fn away_to(address: impl std::fmt::Display) -> Break {
    any(Fault::Redirect(To::Url(format!("http://{address}/thing"))))
}

/// Where clouds let a machine ask for its own credentials.
const METADATA: &str = "169.254.169.254";

/// What a refusal says of when to come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

fn retry_after() -> Break {
    let header = Fault::Header("Retry-After", RETRY_AFTER.as_secs().to_string());
    Break::Script(vec![(On::any("/thing/"), Fault::Status(429)), (On::any("/thing/"), header)])
}

fn foreign_realm() -> Break {
    let Auth::Bearer { identity, lives, expires_in, oauth2_name, login, .. } =
        Auth::bearer_for("user", "pass")
    else {
        unreachable!("it is a bearer")
    };
    Break::Require(Auth::Bearer { realm: RealmAt::Foreign, login, identity, lives, expires_in, oauth2_name })
}

/// All of them, in groups of no more than a server has upstreams for. Nobody may be sent to `shut`.
pub fn all(shut: SocketAddr) -> [Vec<Case>; 3] {
    [blobs::all(shut), [parts::all(shut), heads::all(shut)].concat(), manifests::all(shut)]
}
