//! What a connection is to do, decided one request at a time.

use std::sync::Arc;

use oci::Digest;

use crate::wire::AnswerHead;

/// One connection's part in a scenario. It is asked for a request whenever the connection is free.
pub trait Script: Send {
    /// What is sent next. `None`: nothing any more.
    fn next(&mut self) -> Option<Exchange>;

    /// The answer to it, which was as expected.
    ///
    /// Errors: a sentence, if it was not after all; it counts as one, and the connection is closed.
    fn answered(&mut self, answer: &Answer) -> Result<(), String>;

    /// The answer was wrong or did not come; the next request starts an operation.
    fn failed(&mut self) {}
}

/// A request and what its answer has to be.
pub struct Exchange {
    /// Head, and maybe the body.
    pub request: Arc<[u8]>,
    /// The body, if it does not stand behind the head already.
    pub body: Option<Arc<[u8]>>,
    /// Statuses of which one has to come.
    pub statuses: &'static [u16],
    /// Whether it is a HEAD.
    pub to_head: bool,
    /// What becomes of the answer's body.
    pub reading: Reading,
    /// Whether an operation ends with this one; what goes before it (opening an upload) is part of it.
    pub ends_operation: bool,
    /// Index into the scenario's kinds of operation.
    pub kind: usize,
}

/// What becomes of a body.
pub enum Reading {
    /// Its length is checked, and the kernel drops it.
    Drop {
        /// The length that it has to have, where that is known.
        length: Option<u64>,
    },
    /// It is hashed.
    Verify {
        /// The length that it has to have.
        length: u64,
        /// The digest that it has to have.
        digest: Digest,
    },
    /// It is handed to the script.
    Keep,
    /// Once so much of it came the connection is closed, as containerd does.
    Leave {
        /// How much.
        after: u64,
    },
}

/// An answer.
pub struct Answer {
    /// Its head.
    pub head: AnswerHead,
    /// Its body, if the script wanted to keep it.
    pub body: Vec<u8>,
}

impl Exchange {
    /// A request that is an operation of kind 0 by itself, without a body of its own.
    pub fn new(request: Arc<[u8]>, statuses: &'static [u16], reading: Reading) -> Exchange {
        Exchange { request, body: None, statuses, to_head: false, reading, ends_operation: true, kind: 0 }
    }

    /// One that another follows in the same operation.
    pub fn leads_on(mut self) -> Exchange {
        self.ends_operation = false;
        self
    }

    /// With this body behind the head.
    pub fn with_body(mut self, body: Arc<[u8]>) -> Exchange {
        self.body = Some(body);
        self
    }

    /// Of another kind.
    pub fn of_kind(mut self, kind: usize) -> Exchange {
        self.kind = kind;
        self
    }
}
