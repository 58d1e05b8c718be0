//! The timeouts of the fault matrix, a hundredth of their defaults each, and what a client may have to wait by them.

use std::time::Duration;

use dataplane::limits::{FILL_RESUME_PAUSE, FILL_RESUMES_MAX};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const CONNECT: Duration = ms(50);
/// A handshake is no hundred times faster in a test.
const CONNECT_BY_TLS: Duration = ms(500);
pub const FIRST_BYTE: Duration = ms(300);
pub const STALL: Duration = ms(300);
pub const BODY_RATE_GRACE: Duration = ms(600);
pub const DOCUMENT: Duration = ms(600);
const TOKEN: Duration = ms(100);
const BREAKER: Duration = ms(100);
const REJECTED: Duration = ms(600);
const REFUSED: Duration = ms(10);
pub const BUDGET_WAIT: Duration = ms(150);
const NEGATIVE_TTL: Duration = ms(600);

/// What the other processes of a busy machine may take of it, for all of an answer, beside what its timeouts allow. With
/// twice as much to do as there are processors it was 0.3 s at the most, and the shortest default is longer: a server
/// that waited for one of those would be found.
pub const GRACE: Duration = Duration::from_secs(4);

/// How long all that is tried of one leg may take.
pub const LEG_TIME_MAX: Duration = Duration::from_secs(180);

/// On a machine that does other things an honest answer may be too late by these timeouts. What has failed is tried once
/// more, alone, with so many times as long.
pub const SLOWER: u32 = 4;

/// So many of a hundred that fail at first are no longer the machine's fault.
pub const TRIED_AGAIN_PERCENT_MAX: usize = 5;

/// The lines of an upstream, with all timeouts so many times as long. No tag is remembered.
pub fn settings(by_tls: bool, slower: u32) -> String {
    let connect = if by_tls { CONNECT_BY_TLS } else { CONNECT };
    let timeouts = [
        ("connect", connect),
        ("first_byte", FIRST_BYTE),
        ("stall", STALL),
        ("body_rate_grace", BODY_RATE_GRACE),
        ("document", DOCUMENT),
        ("token", TOKEN),
        ("breaker", BREAKER),
        ("rejected", REJECTED),
        ("refused", REFUSED),
    ];
    let lines = timeouts.map(|(name, time)| format!("{name} = \"{}ms\"", (time * slower).as_millis()));
    format!(
        "timeouts = {{ {} }}\nbudget_wait = \"{}ms\"\nnegative_ttl = \"{}ms\"\n\
         tag_ttl = \"0s\"\nstale_while = \"0s\"\ncomplete = \"never\"\n",
        lines.join(", "),
        (BUDGET_WAIT * slower).as_millis(),
        (NEGATIVE_TTL * slower).as_millis(),
    )
}

/// What a client waits whose blob is asked for as often as a fill goes on, if each answer takes `each` before it fails.
pub fn resumed(each: Duration) -> Duration {
    // One pause before the first of them, two before the next.
    let pauses = FILL_RESUMES_MAX * (FILL_RESUMES_MAX + 1) / 2;
    each * (FILL_RESUMES_MAX + 1) + FILL_RESUME_PAUSE * pauses
}

/// How long an upstream is left alone that has failed, refused or denied, if it does not say for how long.
pub fn longest_pause() -> Duration {
    // Few questions are asked in one trial: the breaker opens twice at the most.
    REJECTED.max(NEGATIVE_TTL).max(BREAKER * 3)
}
