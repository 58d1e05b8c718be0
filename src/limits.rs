//! The bounds of what an operator writes, and of what is shown to him.

/// `[[upstream]]` tables.
pub const UPSTREAMS: usize = 256;
/// A file that holds a password or a token, in bytes.
pub const SECRET_FILE_BYTES: usize = 64 << 10;
/// A file that holds certificates or a key, in bytes.
pub const PEM_FILE_BYTES: usize = 4 << 20;
/// An answer of a registry to `gantry cache`, in bytes.
pub const ANSWER_BYTES: u64 = 16 << 20;

// Tuning: it refuses nothing.

/// Blobs that `gantry cache ls` shows unless it is told otherwise.
pub const LISTED: usize = 100;
