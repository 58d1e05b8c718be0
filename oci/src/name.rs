//! The names of the spec: repositories, tags, references, upload sessions.
//!
//! Invariants: every value is inline and `Copy`, so that a hot request allocates nothing; order is ASCII order.
//!
//! Spec: distribution-spec, "Pulling manifests" (both grammars).

use std::borrow::Borrow;
use std::fmt;

use crate::digest::{Digest, DigestError, from_hex, write_hex};
use crate::inline::InlineText;

/// `<name>`: 1 to 255 bytes of
/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(InlineText<255>);

/// The text is not a repository name; 400 `NAME_INVALID`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameError;

impl RepositoryName {
    /// Exactly the spec's grammar, at most 255 bytes.
    pub fn parse(text: &str) -> Result<RepositoryName, NameError> {
        if text.split('/').all(|component| is_component(component.as_bytes())) {
            InlineText::new(text).map(RepositoryName).ok_or(NameError)
        } else {
            Err(NameError)
        }
    }

    /// These texts as one name. Allocates nothing.
    pub fn concat<const N: usize>(texts: [&str; N]) -> Result<RepositoryName, NameError> {
        let mut name = [0; 255];
        let mut len = 0;
        for text in texts {
            let end = len + text.len();
            name.get_mut(len..end).ok_or(NameError)?.copy_from_slice(text.as_bytes());
            len = end;
        }
        RepositoryName::parse(std::str::from_utf8(&name[..len]).map_err(|_cut| NameError)?)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

fn is_component(component: &[u8]) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = component;
    loop {
        let word = rest.iter().take_while(|byte| alphanumeric(byte)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        let separator = rest.iter().take_while(|byte| !alphanumeric(byte)).count();
        rest = match &rest[..separator] {
            [] => return rest.is_empty(),
            b"." | b"_" | b"__" => &rest[separator..],
            dashes if dashes.iter().all(|byte| *byte == b'-') => &rest[separator..],
            _ => return false,
        };
    }
}

/// `<tag-or-digest>` as a tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(InlineText<128>);

/// The text is not a tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TagError;

impl Tag {
    /// Exactly the spec's grammar, at most 128 bytes.
    pub fn parse(text: &str) -> Result<Tag, TagError> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let (first, rest) = text.as_bytes().split_first().ok_or(TagError)?;
        if word(*first) && rest.iter().all(|byte| word(*byte) || matches!(byte, b'.' | b'-')) {
            InlineText::new(text).map(Tag).ok_or(TagError)
        } else {
            Err(TagError)
        }
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// `<tag-or-digest>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// A name that may move.
    Tag(Tag),
    /// A content.
    Digest(Digest),
}

/// Why a text is not a [`Reference`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReferenceError {
    /// No colon, and not a tag.
    Tag,
    /// With a colon, and not a digest.
    Digest(DigestError),
}

impl Reference {
    /// With a colon it can only be a digest, without one only a tag.
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        if text.contains(':') {
            Digest::parse(text).map(Reference::Digest).map_err(ReferenceError::Digest)
        } else {
            Tag::parse(text).map(Reference::Tag).map_err(|TagError| ReferenceError::Tag)
        }
    }
}

/// The name of an upload session: 16 random bytes, 32 lower-case hex digits on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId([u8; 16]);

impl UploadId {
    /// The session of these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> UploadId {
        UploadId(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// `None`: not 32 lower-case hex digits, so no session of ours.
    pub fn parse(text: &str) -> Option<UploadId> {
        from_hex(text).map(UploadId)
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hex = [0; 32];
        write_hex(&self.0, &mut hex);
        f.pad(std::str::from_utf8(&hex).expect("hex is ASCII"))
    }
}

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! reads_as_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
    };
}

reads_as_text!(RepositoryName);
reads_as_text!(Tag);

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => fmt::Display::fmt(tag, f),
            Reference::Digest(digest) => fmt::Display::fmt(digest, f),
        }
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a repository name")
    }
}

impl fmt::Display for TagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a tag")
    }
}

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReferenceError::Tag => f.write_str("not a tag"),
            ReferenceError::Digest(why) => fmt::Display::fmt(why, f),
        }
    }
}

impl std::error::Error for NameError {}
impl std::error::Error for TagError {}
impl std::error::Error for ReferenceError {}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn repository_names() {
        fn check(text: &str, expect: bool) {
            assert_eq!(RepositoryName::parse(text).is_ok(), expect, "{text:?}");
        }
        for good in [
            "a",
            "0",
            "a/b/c",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a----b",
            "a/b-c_d.e__f/0",
            "v2",
            "blobs/uploads",
        ] {
            check(good, true);
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a/B", ".a", "a.", "-a", "a-", "_a", "a_", "a..b", "a___b",
            "a.-b", "a-_b", "a_.b", "..", "a/..", "a/./b", "a b", "a:b", "a@b", "a%2fb", "é", "a\0", "a\n",
            "a?b", "_catalog",
        ] {
            check(bad, false);
        }
        check(&"a".repeat(255), true);
        check(&"a".repeat(256), false);
        check(&format!("{}é", "a".repeat(10)), false);
    }

    #[test]
    fn tags() {
        fn check(text: &str, expect: bool) {
            assert_eq!(Tag::parse(text).is_ok(), expect, "{text:?}");
        }
        for good in ["a", "_", "latest", "1.2.3", "V1", "a-b_c.d", "sha256-00", "__"] {
            check(good, true);
        }
        for bad in ["", ".a", "-a", "a/b", "a:b", "a b", "a+b", "é", "a\0", "a%"] {
            check(bad, false);
        }
        check(&"a".repeat(128), true);
        check(&"a".repeat(129), false);
    }

    #[test]
    fn a_colon_decides_what_a_reference_is() {
        let digest = Digest::Sha256([7; 32]);
        assert_eq!(Reference::parse(&digest.to_string()), Ok(Reference::Digest(digest)));
        assert_eq!(Reference::parse("latest"), Ok(Reference::Tag(Tag::parse("latest").unwrap())));
        assert_eq!(Reference::parse("no tag"), Err(ReferenceError::Tag));
        assert_eq!(Reference::parse(""), Err(ReferenceError::Tag));
        assert_eq!(Reference::parse("sha256:bad"), Err(ReferenceError::Digest(DigestError::Malformed)));
    }

    #[test]
    fn a_map_of_names_is_asked_by_text() {
        let map = HashMap::from([(RepositoryName::parse("a/b").unwrap(), 1)]);
        assert_eq!(map.get("a/b"), Some(&1));
        assert_eq!(map.get("a"), None);
    }

    #[test]
    fn upload_ids_are_lower_case_hex() {
        let id = UploadId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string(), "ab".repeat(16));
        assert_eq!(UploadId::parse(&id.to_string()), Some(id));
        assert_eq!(UploadId::parse(&"AB".repeat(16)), None);
        assert_eq!(UploadId::parse("ab"), None);
        assert_eq!(UploadId::parse(""), None);
        assert_eq!(UploadId::parse(&"zz".repeat(16)), None);
    }

    proptest! {
        #[test]
        fn the_grammar_is_accepted(
            text in r"[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}(/[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}){0,4}"
        ) {
            let name = RepositoryName::parse(&text).unwrap();
            prop_assert_eq!(name.as_str(), &text);
            prop_assert_eq!(name.to_string(), text);
        }

        #[test]
        fn what_is_accepted_is_in_the_grammar(text in "[a-zA-B0-2._/-]{0,12}") {
            // The grammar, read another way: words at both edges, and only known separators between words.
            let word = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
            let expect = text.split('/').all(|part| {
                part.starts_with(word)
                    && part.ends_with(word)
                    && part.split(word).all(|between| {
                        matches!(between, "" | "." | "_" | "__") || between.chars().all(|letter| letter == '-')
                    })
            });
            prop_assert_eq!(RepositoryName::parse(&text).is_ok(), expect, "{:?}", text);
        }

        #[test]
        fn tags_follow_their_grammar(text in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}") {
            let tag = Tag::parse(&text).unwrap();
            prop_assert_eq!(tag.as_str(), &text);
        }

        #[test]
        fn order_is_the_order_of_the_text(a in "[a-zA-Z0-9_][a-z._-]{0,5}", b in "[a-zA-Z0-9_][a-z._-]{0,5}") {
            let (left, right) = (Tag::parse(&a).unwrap(), Tag::parse(&b).unwrap());
            prop_assert_eq!(left.cmp(&right), a.cmp(&b));
            prop_assert_eq!(left == right, a == b);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _name = RepositoryName::parse(&text);
            let _reference = Reference::parse(&text);
            let _id = UploadId::parse(&text);
        }
    }
}
