//! What goes wrong, when, and how often.

use crate::{request::Request, seen::Place};

/// Which requests meet with a fault.
#[derive(Clone, Debug)]
pub struct On {
    method: Option<&'static str>,
    part: String,
    place: Option<Place>,
    skip: u32,
    times: u32,
}

/// What goes wrong with an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A reset in place of the head.
    ResetBeforeHead,
    /// A reset after so many bytes of the body.
    Reset {
        /// Of the body.
        at: u64,
    },
    /// Nothing more after so many bytes of the body; the connection stays.
    Stall {
        /// Of the body.
        at: u64,
    },
    /// No head; the connection stays.
    StallBeforeHead,
    /// So many body bytes a second on this connection.
    Slow {
        /// ≥ 1.
        bytes_per_s: u64,
    },
    /// So many bytes of the body and then an orderly end, with the `Content-Length` of the whole.
    Truncated {
        /// Of the body.
        at: u64,
    },
    /// So many bytes of the body, with the `Content-Length` of just these.
    TruncatedAsAnnounced {
        /// Of the body.
        at: u64,
    },
    /// Chunked, without `Content-Length`.
    Chunked,
    /// Without `Content-Length`; the end of the connection ends the body.
    CloseDelimited,
    /// Of the right length, each byte another.
    WrongBytes,
    /// So many bytes behind the right ones, announced as well.
    ExtraBytes {
        /// How many.
        bytes: usize,
    },
    /// Another body of this length.
    Huge {
        /// Of the body.
        bytes: usize,
    },
    /// `Docker-Content-Digest` of something else.
    WrongDigestHeader,
    /// `Content-Encoding: gzip`, and bytes that look like it.
    Gzip,
    /// Another status, with an error document.
    Status(u16),
    /// One header more, or in place of the one that would be there.
    Header(&'static str, String),
    /// One header less; the name in lower case.
    WithoutHeader(&'static str),
    /// A redirect.
    Redirect(To),
    /// 200 and the whole for a Range.
    RangeIgnored,
    /// 206 that begins so many bytes later than asked.
    RangeShifted {
        /// How many.
        by: u64,
    },
    /// 206 that ends so many bytes earlier than asked.
    RangeShortened {
        /// How many.
        by: u64,
    },
    /// 206 that says that the whole has so many bytes more.
    AnotherTotal {
        /// How many.
        by: u64,
    },
    /// 206 that does not say how many bytes the whole has.
    TotalUnknown,
}

/// Where a redirect leads.
#[derive(Clone, Debug)]
pub enum To {
    /// To the same path at the second address.
    Foreign,
    /// To the same path at the same address.
    Itself,
    /// To the same path at the second address, by `http`.
    PlainForeign,
    /// There.
    Url(String),
}

impl On {
    /// Requests of any method whose target has `part` in it.
    pub fn any(part: &str) -> On {
        On { method: None, part: part.to_owned(), place: None, skip: 0, times: u32::MAX }
    }

    /// GETs whose target has `part` in it.
    pub fn get(part: &str) -> On {
        On { method: Some("GET"), ..On::any(part) }
    }

    /// HEADs whose target has `part` in it.
    pub fn head(part: &str) -> On {
        On { method: Some("HEAD"), ..On::any(part) }
    }

    /// POSTs whose target has `part` in it.
    pub fn post(part: &str) -> On {
        On { method: Some("POST"), ..On::any(part) }
    }

    /// Only at this address.
    pub fn at(self, place: Place) -> On {
        On { place: Some(place), ..self }
    }

    /// Not the first so many of them.
    pub fn skip(self, skip: u32) -> On {
        On { skip, ..self }
    }

    /// So many of them, then no more.
    pub fn times(self, times: u32) -> On {
        On { times, ..self }
    }

    fn is_like(&self, request: &Request, place: Place) -> bool {
        self.method.is_none_or(|method| method == request.method)
            && self.place.is_none_or(|at| at == place)
            && request.target.contains(&self.part)
    }
}

#[derive(Default)]
pub(crate) struct Script {
    rules: Vec<(On, Fault)>,
}

impl Script {
    pub(crate) fn add(&mut self, on: On, fault: Fault) {
        self.rules.push((on, fault));
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    /// What this request meets with; it counts.
    pub(crate) fn of(&mut self, request: &Request, place: Place) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (on, fault) in self.rules.iter_mut().filter(|(on, _)| on.is_like(request, place)) {
            if on.skip > 0 {
                on.skip -= 1;
            } else if on.times > 0 {
                on.times -= 1;
                faults.push(fault.clone());
            }
        }
        faults
    }
}
