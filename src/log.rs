//! The log: events of `tracing`, one a line, to stderr.

use std::io;

use tracing_subscriber::{filter::LevelFilter, fmt};

use crate::config::LogFormat;

/// Sends every event of the process at `level` or above to stderr from now on. Call once: later calls
/// change nothing.
pub fn to_stderr(format: LogFormat, level: LevelFilter) {
    let lines = fmt().with_max_level(level).with_writer(io::stderr);
    // An error means that somebody asked before, and his choice stands.
    let _ = match format {
        LogFormat::Text => tracing::subscriber::set_global_default(lines.with_ansi(false).finish()),
        LogFormat::Json => tracing::subscriber::set_global_default(lines.json().flatten_event(true).finish()),
    };
}
