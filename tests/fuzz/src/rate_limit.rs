//! How much an upstream says that it still gives, and when it gives more.

use std::time::Duration;

use controlplane::upstream::testing::{rate_limit as read, retry_after};

use super::{first_line, is_field_value, latin1};

/// The first line of the input is a `ratelimit-limit`, the second a `Retry-After`, the third a `Date`.
pub fn rate_limit(bytes: &[u8]) {
    let (limit, rest) = first_line(bytes);
    let (again, rest) = first_line(rest);
    let (date, _) = first_line(rest);
    let (number, window) = read(limit);
    let line = match (number, window) {
        (Some(number), Some(window)) => Some(format!("{number};w={window}")),
        (Some(number), None) => Some(number.to_string()),
        (None, _) => None,
    };
    if let Some(line) = line {
        assert_eq!(read(line.as_bytes()), (number, window), "{line}");
        assert_eq!(read(format!(" {line} ; x=y").as_bytes()), (number, window), "{line}");
    }

    let told = retry_after(again, date);
    let digits = latin1(again);
    // What no field can hold never came.
    let digits = if is_field_value(&digits) { digits.trim_matches([' ', '\t']) } else { "" };
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        assert_eq!(told, digits.parse().ok().map(Duration::from_secs), "{digits}");
    } else if told.is_some() {
        // A date, which says something only beside another.
        assert_eq!(retry_after(again, b""), None);
        assert_eq!(retry_after(again, again), Some(Duration::ZERO));
    }
}
