//! What was asked of the registry.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Which of its two addresses was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// That of the registry.
    Own,
    /// The second one.
    Foreign,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Where.
    pub place: Place,
    /// As sent.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// Names in lower case, values as sent.
    pub headers: Vec<(String, String)>,
    /// What came behind the head.
    pub body: String,
    /// Whether a client certificate was shown on this connection.
    pub showed_certificate: bool,
    pub(crate) sent: Arc<AtomicU64>,
}

impl Seen {
    /// The value of a header; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Body bytes of the answer that were sent so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}
