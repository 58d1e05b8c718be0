//! `If-Match`, `If-None-Match` and `If-Range`: lists of entity tags against the one that we have.

use oci::{
    Digest, EtagMatch,
    conditional::{compare, if_range, matches, matches_strongly},
};

use super::latin1;

const OURS: Digest = Digest::Sha256([0x11; 32]);

/// The input is the value of the header, in which `OURS` stands for the digest that is compared with.
pub fn conditional(bytes: &[u8]) {
    let ours = OURS.to_string();
    let header = latin1(bytes).replace("OURS", &ours);
    let graded = grade(&header);
    let trimmed = header.trim_matches([' ', '\t']);

    assert_eq!(graded == EtagMatch::Any, trimmed == "*");
    assert_eq!(matches(&raw(&header), &OURS), graded != EtagMatch::None);
    assert_eq!(matches_strongly(&raw(&header), &OURS), matches!(graded, EtagMatch::Strong | EtagMatch::Any));
    if matches!(graded, EtagMatch::Weak | EtagMatch::Strong) {
        assert!(header.contains(&ours), "a digest that is not there was found");
    }
    // In a list `*` is a tag like others, and a tag of somebody else changes nothing.
    let alone = if graded == EtagMatch::Any { EtagMatch::None } else { graded };
    assert_eq!(grade(&format!("\"other\", {header}")), alone);
    let open = format!("\"{}", header.replace('"', ""));
    assert_eq!(grade(&open), EtagMatch::None, "a tag that is never closed is none");
    if let Some(read) = read_strictly(&header, &ours) {
        assert_eq!(graded, read);
        assert_eq!(grade(&format!("{header}, W/\"{ours}\"")), read.max(EtagMatch::Weak));
        assert_eq!(grade(&format!("{header}, \"{ours}\"")), EtagMatch::Strong);
    }
    assert_eq!(if_range(&raw(&header), &OURS), trimmed == format!("\"{ours}\""));
}

fn grade(header: &str) -> EtagMatch {
    compare(&raw(header), &OURS)
}

fn raw(text: &str) -> Vec<u8> {
    text.chars().map(|letter| u8::try_from(letter).expect("it was a byte")).collect()
}

/// RFC 9110 §8.8.3 and §5.6.1 to the letter. `None`: not a list of entity tags.
fn read_strictly(header: &str, ours: &str) -> Option<EtagMatch> {
    let blank = [' ', '\t'];
    let mut best = EtagMatch::None;
    let mut rest = header.trim_matches(blank);
    loop {
        rest = rest.trim_start_matches(blank);
        if let Some(after) = rest.strip_prefix(',') {
            rest = after;
            continue;
        }
        if rest.is_empty() {
            return Some(best);
        }
        let (grade, tag) = match rest.strip_prefix("W/") {
            Some(tag) => (EtagMatch::Weak, tag),
            None => (EtagMatch::Strong, rest),
        };
        let (opaque, after) = tag.strip_prefix('"')?.split_once('"')?;
        if !opaque.chars().all(|letter| letter > ' ' && letter != '\u{7f}') {
            return None;
        }
        if opaque == ours {
            best = best.max(grade);
        }
        rest = after.trim_start_matches(blank);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}
