//! Patterns for the names of repositories and tags, as an operator writes them.
//!
//! `*` stands for any run of characters, none and `/` included: `acme/*` is everything below `acme`, however deep, so
//! that a pattern which is meant to keep names in keeps all of them in. `**` is the same as `*`. Every other character
//! stands for itself, and the whole name has to match: `acme/*` is neither `acme` nor `other/acme/app`.

use std::fmt;

/// A pattern. At most [`Glob::LEN_MAX`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob(Box<str>);

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobError {
    /// It matches nothing.
    Empty,
    /// It is longer than any name.
    TooLong,
    /// It has a character that no repository and no tag has, so it would never match.
    Character(char),
}

impl Glob {
    /// The longest pattern, in bytes: as long as a repository's name may be.
    pub const LEN_MAX: usize = 255;

    /// A pattern from its text.
    pub fn parse(text: &str) -> Result<Glob, GlobError> {
        let known = |letter: char| letter.is_ascii_alphanumeric() || "._-/*".contains(letter);
        match text.chars().find(|letter| !known(*letter)) {
            Some(stranger) => Err(GlobError::Character(stranger)),
            None if text.is_empty() => Err(GlobError::Empty),
            None if text.len() > Glob::LEN_MAX => Err(GlobError::TooLong),
            None => Ok(Glob(text.into())),
        }
    }

    /// Whether all of `name` matches. Takes at most as many steps as pattern and name multiplied.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        // Where to go on if what follows the last star does not match: the star takes one byte more.
        let mut again = None;
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    again = Some((p + 1, n));
                    p += 1;
                }
                Some(byte) if *byte == name[n] => {
                    p += 1;
                    n += 1;
                }
                Some(_) | None => {
                    let Some((after_star, taken)) = again else { return false };
                    again = Some((after_star, taken + 1));
                    p = after_star;
                    n = taken + 1;
                }
            }
        }
        pattern[p..].iter().all(|byte| *byte == b'*')
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for GlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GlobError::Empty => f.write_str("an empty pattern matches nothing"),
            GlobError::TooLong => write!(f, "a pattern has at most {} bytes", Glob::LEN_MAX),
            GlobError::Character(letter) => {
                write!(f, "no repository and no tag has a {letter:?} in its name, so this matches nothing")
            }
        }
    }
}

impl std::error::Error for GlobError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_is_any_run_of_characters() {
        fn check(pattern: &str, name: &str, expect: bool) {
            assert_eq!(Glob::parse(pattern).unwrap().matches(name), expect, "{pattern} on {name}");
        }
        for (name, expect) in [
            ("acme/app", true),
            ("acme/team/app", true),
            ("acme/a", true),
            ("acme", false),
            ("acmes/app", false),
            ("other/acme/app", false),
        ] {
            check("acme/*", name, expect);
            check("acme/**", name, expect);
        }
        check("*", "anything/at/all", true);
        check("library/busybox", "library/busybox", true);
        check("library/busybox", "library/busybox2", false);
        check("*/internal", "a/b/internal", true);
        check("*/internal", "a/internal/b", false);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "a-b-b", false);
        check("a*", "a", true);
        check("v*.*.*", "v1.2.3", true);
        check("v*.*.*", "v1.2", false);
        check("sha256-*", "sha256-00ff", true);
        check("*-SNAPSHOT", "1.0-SNAPSHOT", true);
    }

    #[test]
    fn a_pattern_that_could_never_match_is_refused() {
        assert_eq!(Glob::parse(""), Err(GlobError::Empty));
        assert_eq!(Glob::parse("a b"), Err(GlobError::Character(' ')));
        assert_eq!(Glob::parse("a/[bc]"), Err(GlobError::Character('[')));
        assert_eq!(Glob::parse("é"), Err(GlobError::Character('é')));
        assert!(Glob::parse(&"a".repeat(Glob::LEN_MAX)).is_ok());
        assert_eq!(Glob::parse(&"a".repeat(Glob::LEN_MAX + 1)), Err(GlobError::TooLong));
    }

    fn plainly(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|from| plainly(rest, &name[from..])),
            Some((byte, rest)) => {
                name.split_first().is_some_and(|(n, after)| n == byte && plainly(rest, after))
            }
        }
    }

    proptest! {
        #[test]
        fn it_says_what_the_plain_reading_says(pattern in "[ab/*]{1,8}", name in "[ab/]{0,10}") {
            let glob = Glob::parse(&pattern).unwrap();
            prop_assert_eq!(glob.matches(&name), plainly(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
