//! HEADs of a blob. What is here in part is known, so that nobody is asked.

use std::net::SocketAddr;

use ::faults::{Auth, Fault, On, To};

use super::{
    super::times::{BUDGET_WAIT, FIRST_BYTE},
    *,
};

fn head(name: &'static str, fault: Break, cold: &'static [May]) -> Case {
    Case::new(name, Asks::BlobHead, fault, [cold, RIGHT, RIGHT])
}

/// An upstream that answers no HEAD, and this to the GET of a byte in its place.
fn without_heads(status: u16, fault: Option<Fault>) -> Break {
    let refusal = (On::head("/blobs/"), Fault::Status(status));
    let then = fault.map(|fault| (On::get("/blobs/"), fault));
    Break::Script([refusal].into_iter().chain(then).collect())
}

pub fn all(shut: SocketAddr) -> Vec<Case> {
    vec![
        head("HEAD: refused", Break::Refuse, UNREACHABLE),
        head("HEAD: reset before the head", any(Fault::ResetBeforeHead), UNREACHABLE),
        head("HEAD: stall before the head", any(Fault::StallBeforeHead), TIMEOUT).waits(FIRST_BYTE),
        head("HEAD: 401 loop", Break::Require(Auth::Loop), NO_NAME),
        head("HEAD: 403", without_heads(403, None), RIGHT),
        head("HEAD: 404", any(Fault::Status(404)), NO_BLOB),
        head("HEAD: 405", without_heads(405, None), RIGHT),
        head("HEAD: 405, then Range ignored", without_heads(405, Some(Fault::RangeIgnored)), RIGHT),
        head(
            "HEAD: 405, then another range",
            without_heads(405, Some(Fault::RangeShifted { by: 1000 })),
            MISBEHAVED,
        ),
        head("HEAD: 405, then 500", without_heads(405, Some(Fault::Status(500))), MISBEHAVED),
        head("HEAD: 429", any(Fault::Status(429)), BUSY).waits(BUDGET_WAIT),
        head("HEAD: 500", any(Fault::Status(500)), MISBEHAVED),
        head("HEAD: 504", any(Fault::Status(504)), MISBEHAVED),
        head("HEAD: redirect", away(), RIGHT),
        head("HEAD: redirect loop", any(Fault::Redirect(To::Itself)), MISBEHAVED),
        head("HEAD: redirect to a private address", away_to(shut), UNREACHABLE),
    ]
}
