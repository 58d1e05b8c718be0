//! Names: repositories, tags, references and upload sessions, each against its grammar read another way.

use oci::{Digest, Reference, RepositoryName, Tag, UploadId};

/// The input is the text of any of them.
pub fn name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };

    let repository = RepositoryName::parse(text).ok();
    assert_eq!(repository.as_ref().map(RepositoryName::as_str), is_repository(text).then_some(text));

    let tag = Tag::parse(text).ok();
    assert_eq!(tag.as_ref().map(Tag::as_str), is_tag(text).then_some(text));

    let expected = match tag {
        Some(tag) => Some(Reference::Tag(tag)),
        None => Digest::parse(text).ok().map(Reference::Digest),
    };
    let reference = Reference::parse(text).ok();
    assert_eq!(reference, expected);
    assert!(reference.is_none_or(|reference| reference.to_string() == text));

    let id = UploadId::parse(text);
    let hex = text.len() == 32 && text.chars().all(|digit| "0123456789abcdef".contains(digit));
    assert_eq!(id.map(|id| id.to_string()).as_deref(), hex.then_some(text));
    assert_eq!(id.map(|id| UploadId::from_bytes(*id.as_bytes())), id);
}

fn is_repository(text: &str) -> bool {
    let small = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let separator =
        |between: &str| ["", ".", "_", "__"].contains(&between) || between.trim_matches('-').is_empty();
    text.len() <= 255
        && text
            .split('/')
            .all(|part| part.starts_with(small) && part.ends_with(small) && part.split(small).all(separator))
}

fn is_tag(text: &str) -> bool {
    let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let rest = |letter: char| word(letter) || letter == '.' || letter == '-';
    (1..=128).contains(&text.len()) && text.starts_with(word) && text.chars().all(rest)
}
