//! What a realm answers when it is asked for a token.

use std::time::Duration;

use controlplane::upstream::testing::token as read;
use serde_json::json;

use super::latin1;

/// The input is the document; and once more the token in one, and its life.
pub fn token(bytes: &[u8]) {
    if let Some((authorization, time)) = read(bytes) {
        check(&authorization, time);
    }
    let text = latin1(bytes);
    let life = bytes.iter().fold(0_u64, |life, byte| life.wrapping_mul(257).wrapping_add(u64::from(*byte)));
    for document in [
        json!({ "token": text, "expires_in": life }),
        json!({ "token": "", "access_token": text, "expires_in": -(life as f64) }),
        json!({ "access_token": text, "expires_in": text }),
    ] {
        let read = read(document.to_string().as_bytes());
        // What can't stand in a header is none.
        let is_legal = text.chars().all(|letter| letter == '\t' || (letter >= ' ' && letter != '\u{7f}'));
        assert_eq!(read.is_some(), is_legal && !text.is_empty(), "{document}");
        if let Some((authorization, time)) = read {
            check(&authorization, time);
            assert_eq!(authorization, [b"Bearer ", text.as_bytes()].concat());
        }
    }
}

fn check(authorization: &[u8], time: Duration) {
    assert!(authorization.starts_with(b"Bearer ") && authorization.len() > b"Bearer ".len());
    assert!(!authorization.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t'));
    assert!((50..=72_000).contains(&time.as_secs()), "{time:?}");
}
