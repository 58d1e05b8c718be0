//! The bounds of what an operator writes.

/// `[[upstream]]` tables.
pub const UPSTREAMS: usize = 256;
/// A file that holds a password or a token, in bytes.
pub const SECRET_FILE_BYTES: usize = 64 << 10;
/// A file that holds certificates or a key, in bytes.
pub const PEM_FILE_BYTES: usize = 4 << 20;

// Tuning: there is none here.
