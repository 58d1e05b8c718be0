//! GETs of a part that is far ahead of what is here: it has requests of its own. Of what is here in part, its first chunk
//! is, so that the answer has begun when the rest fails.

use std::{net::SocketAddr, time::Duration};

use ::faults::{Auth, Fault, To};

use super::{
    super::times::{BODY_RATE_GRACE, BUDGET_WAIT, FIRST_BYTE, STALL, resumed},
    *,
};

/// A chunk of what is asked for, and less than two.
const IN_THE_SECOND: u64 = CHUNK_BYTES as u64 * 5 / 4;
const IN_THE_FIRST: u64 = CHUNK_BYTES as u64 / 3;

fn part(name: &'static str, fault: Break, cold: &'static [May], partial: &'static [May]) -> Case {
    Case::new(name, Asks::Part, fault, [cold, partial, RIGHT])
}

pub fn all(shut: SocketAddr) -> Vec<Case> {
    let slow = each(Fault::Slow { bytes_per_s: 1000 });
    let [again, stalls] = [Duration::ZERO, STALL].map(resumed);
    vec![
        part("part: refused", Break::Refuse, UNREACHABLE, CUT).waits(again),
        part("part: reset before the head", each(Fault::ResetBeforeHead), UNREACHABLE, CUT).waits(again),
        // Its first attempt decides what a client is told; behind its first chunk it is gone on with.
        part("part: reset in its first chunk", each(Fault::Reset { at: IN_THE_FIRST }), UNREACHABLE, CUT)
            .waits(again),
        part("part: reset in its second chunk", each(Fault::Reset { at: IN_THE_SECOND }), RIGHT, RIGHT)
            .waits(again),
        part("part: stall before the head", each(Fault::StallBeforeHead), TIMEOUT, CUT)
            .waits(resumed(FIRST_BYTE)),
        part("part: stall in its second chunk", each(Fault::Stall { at: IN_THE_SECOND }), RIGHT, RIGHT)
            .waits(stalls),
        part("part: slow, 1 KB/s", slow, TIMEOUT, CUT).waits(resumed(BODY_RATE_GRACE)),
        part("part: truncated", each(Fault::Truncated { at: IN_THE_SECOND }), RIGHT, RIGHT).waits(again),
        part("part: chunked", each(Fault::Chunked), RIGHT, RIGHT),
        part("part: wrong bytes", each(Fault::WrongBytes), OTHER_PART, OTHER_PART),
        part("part: gzip", each(Fault::Gzip), MISBEHAVED, CUT).waits(again),
        part("part: Range ignored", each(Fault::RangeIgnored), RIGHT, RIGHT),
        part("part: another range", each(Fault::RangeShifted { by: 1000 }), MISBEHAVED, CUT).waits(again),
        part("part: a shorter range", each(Fault::RangeShortened { by: 1000 }), MISBEHAVED, CUT).waits(again),
        part("part: another total", each(Fault::AnotherTotal { by: 1000 }), MISBEHAVED, CUT).waits(again),
        part("part: no total", each(Fault::TotalUnknown), RIGHT, RIGHT),
        part("part: 401 loop", Break::Require(Auth::Loop), NO_NAME, CUT).waits(again),
        part("part: 404", any(Fault::Status(404)), NO_BLOB, CUT).waits(again),
        part("part: 429", any(Fault::Status(429)), BUSY, CUT).waits(resumed(BUDGET_WAIT)),
        part("part: 500", any(Fault::Status(500)), MISBEHAVED, CUT).waits(again),
        part("part: 504", any(Fault::Status(504)), MISBEHAVED, CUT).waits(again),
        part("part: redirect", away(), RIGHT, RIGHT),
        part("part: redirect, anonymous", away(), RIGHT, RIGHT).anonymous(),
        part("part: redirect loop", any(Fault::Redirect(To::Itself)), MISBEHAVED, CUT).waits(again),
        part("part: redirect to a private address", away_to(shut), UNREACHABLE, CUT).waits(again),
    ]
}
