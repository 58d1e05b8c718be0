//! What a registry wants before it answers: a header that an upstream may fill with anything.

use controlplane::upstream::testing::{Wanted, challenge as read};

use super::location::assert_plain_url;

/// Each line of the input is the value of a `WWW-Authenticate`; and what of it is text is a service and a scope.
pub fn challenge(bytes: &[u8]) {
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let alone: Vec<Wanted> = lines.iter().filter_map(|line| read(&[line])).collect();
    match read(&lines) {
        None => assert!(alone.is_empty(), "a line can be met, and all together not"),
        Some(Wanted::Password) => {
            assert!(alone.iter().all(|one| *one == Wanted::Password) && !alone.is_empty());
        }
        Some(token) => {
            let first = alone.iter().find(|one| **one != Wanted::Password);
            assert_eq!(first, Some(&token), "the first token goes before any password");
            let Wanted::Token { realm, .. } = token else { panic!("it is no password") };
            assert_plain_url(&realm);
        }
    }

    let text: String =
        bytes.iter().filter(|byte| (b' '..=b'~').contains(byte)).map(|byte| char::from(*byte)).collect();
    let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
    let realm = "https://auth.example/token";
    for line in [
        format!("Bearer realm=\"{realm}\",service=\"{quoted}\",scope=\"{quoted}\""),
        format!("Basic realm=\"{quoted}\", bearer Scope=\"{quoted}\" , SERVICE=\"{quoted}\",realm={realm}"),
    ] {
        let expect =
            Wanted::Token { realm: realm.to_owned(), service: Some(text.clone()), scope: Some(text.clone()) };
        assert_eq!(read(&[line.as_bytes()]), Some(expect), "{line}");
    }
}
