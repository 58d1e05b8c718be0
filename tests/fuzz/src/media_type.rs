//! Media types: safe to send back in a header, whatever was sent.

use oci::MediaType;

use super::is_token;

/// The input is the value of a `Content-Type`.
pub fn media_type(bytes: &[u8]) {
    let Ok(value) = std::str::from_utf8(bytes) else { return };
    let parsed = MediaType::parse(value);
    assert_eq!(MediaType::parse(&format!("{value}; charset=utf-8")), parsed, "parameters say nothing");

    let bare = value.split_once(';').map_or(value, |(bare, _)| bare).trim_matches([' ', '\t']);
    let sides: Vec<&str> = bare.split('/').collect();
    let wellformed = sides.len() == 2 && sides.into_iter().all(is_token) && bare.len() <= MediaType::LEN_MAX;
    assert_eq!(parsed.as_ref().ok().map(MediaType::as_str), wellformed.then_some(bare));
    if let Ok(media_type) = parsed {
        assert_eq!(MediaType::parse(media_type.as_str()), Ok(media_type.clone()));
        assert_eq!(MediaType::from_stored(media_type.as_str().into()), media_type);
        assert_eq!(media_type.is_json(), bare == "application/json" || bare.ends_with("+json"));
    }
}
