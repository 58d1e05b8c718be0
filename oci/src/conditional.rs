//! Conditional headers, compared with the digest that is an `ETag` here.
//!
//! Invariants: our entity tag is the digest in double quotes, always strong. An unquoted digest counts as quoted,
//! since clients forget the quotes. What cannot be read matches nothing. Nothing is allocated.
//!
//! Spec: RFC 9110 §8.8.3, §13.1.1, §13.1.2, §13.1.5.

use crate::digest::Digest;

/// How a list of entity tags relates to one digest: the strongest of its members.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum EtagMatch {
    /// Not in the list.
    None,
    /// In the list as `W/"…"` only.
    Weak,
    /// In the list.
    Strong,
    /// The header is `*`: whatever exists.
    Any,
}

/// Compares one `If-Match` or `If-None-Match` header line. Of several lines the greatest answer counts.
pub fn compare(header: &[u8], digest: &Digest) -> EtagMatch {
    let text = digest.text();
    let ours = text.as_str().as_bytes();
    let mut rest = trim(header);
    if rest == b"*" {
        return EtagMatch::Any;
    }
    let mut best = EtagMatch::None;
    loop {
        let start = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b',')).unwrap_or(rest.len());
        rest = &rest[start..];
        if rest.is_empty() {
            return best;
        }
        let (grade, tag) = match rest.strip_prefix(b"W/") {
            Some(tag) => (EtagMatch::Weak, tag),
            None => (EtagMatch::Strong, rest),
        };
        let (opaque, after) = match tag.strip_prefix(b"\"") {
            Some(quoted) => match quoted.iter().position(|byte| *byte == b'"') {
                Some(end) => (&quoted[..end], &quoted[end + 1..]),
                // Never closed: what was read before stands.
                None => return best,
            },
            None => tag.split_at(tag.iter().position(|byte| *byte == b',').unwrap_or(tag.len())),
        };
        if trim(opaque) == ours {
            best = best.max(grade);
        }
        rest = after;
    }
}

/// `If-None-Match`, which compares weakly. True: the client has it, 304 (or 412 for a write).
pub fn matches(header: &[u8], digest: &Digest) -> bool {
    compare(header, digest) >= EtagMatch::Weak
}

/// `If-Match`, which compares strongly. False: 412.
pub fn matches_strongly(header: &[u8], digest: &Digest) -> bool {
    compare(header, digest) >= EtagMatch::Strong
}

/// `If-Range`. True: the range may be served. False also for a date, since nothing here has one: whole body.
pub fn if_range(header: &[u8], digest: &Digest) -> bool {
    let one = trim(header);
    one.strip_prefix(b"\"")
        .and_then(|tag| tag.strip_suffix(b"\""))
        .is_some_and(|opaque| opaque == digest.text().as_str().as_bytes())
}

fn trim(text: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().position(|byte| !blank(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !blank(byte)).map_or(start, |at| at + 1);
    &text[start..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: Digest = Digest::Sha256([0x11; 32]);

    #[test]
    fn lists_of_entity_tags() {
        fn check(header: &str, expect: EtagMatch) {
            let header = header.replace("OURS", OURS.text().as_str());
            assert_eq!(compare(header.as_bytes(), &OURS), expect, "{header:?}");
            assert_eq!(matches(header.as_bytes(), &OURS), expect != EtagMatch::None);
            assert_eq!(
                matches_strongly(header.as_bytes(), &OURS),
                matches!(expect, EtagMatch::Strong | EtagMatch::Any)
            );
        }
        check("*", EtagMatch::Any);
        check(" * ", EtagMatch::Any);
        check("\"OURS\"", EtagMatch::Strong);
        check("W/\"OURS\"", EtagMatch::Weak);
        check("w/\"OURS\"", EtagMatch::None);
        check("\"a\", \"OURS\"", EtagMatch::Strong);
        check("\"a\",,\t\"OURS\" ,", EtagMatch::Strong);
        check("W/\"OURS\", \"OURS\"", EtagMatch::Strong);
        check("\"OURS\", W/\"OURS\"", EtagMatch::Strong);
        check("\"a,b\", W/\"OURS\"", EtagMatch::Weak);
        check("OURS", EtagMatch::Strong);
        check("a, OURS", EtagMatch::Strong);
        check("", EtagMatch::None);
        check(",", EtagMatch::None);
        check("\"*\"", EtagMatch::None);
        check("\"a\", *", EtagMatch::None);
        check("\"xOURS\"", EtagMatch::None);
        check("\"OURSx\"", EtagMatch::None);
        check("\"OURS", EtagMatch::None);
        check("\"a, OURS\"", EtagMatch::None);
        check("\"sha512:00\"", EtagMatch::None);
    }

    #[test]
    fn if_range_takes_one_strong_tag() {
        let ours = OURS.to_string();
        assert!(if_range(format!("\"{ours}\"").as_bytes(), &OURS));
        assert!(if_range(format!(" \"{ours}\" ").as_bytes(), &OURS));
        for other in [
            format!("W/\"{ours}\""),
            ours.clone(),
            format!("\"{ours}\", \"a\""),
            "*".into(),
            "".into(),
            "\"".into(),
        ] {
            assert!(!if_range(other.as_bytes(), &OURS), "{other}");
        }
        assert!(!if_range(b"Tue, 15 Nov 1994 12:45:26 GMT", &OURS));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_match_by_chance(header in proptest::collection::vec(any::<u8>(), 0..80)) {
            if header.iter().all(|byte| *byte != b'*') {
                prop_assert_eq!(compare(&header, &OURS), EtagMatch::None);
            }
        }

        #[test]
        fn ours_is_found_anywhere_in_a_list(
            before in proptest::collection::vec("(W/)?\"[a-z,]{0,6}\"", 0..4),
            after in proptest::collection::vec("(W/)?\"[a-z,]{0,6}\"", 0..4),
        ) {
            let ours = format!("\"{OURS}\"");
            let list: Vec<&str> = before.iter().map(String::as_str).chain([ours.as_str()]).chain(after.iter().map(String::as_str)).collect();
            prop_assert_eq!(compare(list.join(", ").as_bytes(), &OURS), EtagMatch::Strong);
        }
    }
}
