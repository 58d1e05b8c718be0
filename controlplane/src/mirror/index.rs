//! The descriptors in an upstream's index, as it wrote them.
//!
//! Invariants: they are never a tree, which of 4 MiB would be many times that, and their number is bounded.

use std::borrow::Cow;
use std::fmt;

use oci::Problem;
use serde::Deserialize as Derived;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits;

/// What was found in one index.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    /// Those that were asked for, with a comma between each two.
    pub text: String,
    /// Of those and the others together.
    pub number: usize,
}

const TOO_MANY: Problem =
    Problem::UpstreamMisbehaved { why: "the upstream's index has more entries than are taken" };

/// The entries of exactly the type `wanted`, or all. `None`: this is no index. Not for a thread that others wait for.
///
/// Errors: `UpstreamMisbehaved` (502) for more than [`limits::REFERRERS_ENTRIES`].
pub(super) fn read(index: &[u8], wanted: Option<&str>) -> Result<Option<Entries>, Problem> {
    #[derive(Derived)]
    struct Index<'a> {
        #[serde(borrow)]
        manifests: Counted<'a>,
    }
    let Ok(Index { manifests: Counted { first, number } }) = serde_json::from_slice(index) else {
        return Ok(None);
    };
    if number > limits::REFERRERS_ENTRIES {
        return Err(TOO_MANY);
    }
    let mut entries = Entries { text: String::new(), number };
    for entry in first.into_iter().filter(|entry| wanted.is_none_or(|wanted| is_of_type(entry, wanted))) {
        entries.add(entry.get());
    }
    Ok(Some(entries))
}

impl Entries {
    /// These as well.
    pub(super) fn extend(&mut self, others: &Entries) {
        self.number += others.number;
        if !others.text.is_empty() {
            self.add(&others.text);
        }
    }

    fn add(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(text);
    }
}

fn is_of_type(entry: &RawValue, wanted: &str) -> bool {
    #[derive(Derived)]
    #[serde(rename_all = "camelCase")]
    struct Typed<'a> {
        #[serde(borrow)]
        artifact_type: Option<Cow<'a, str>>,
    }
    let typed = serde_json::from_str::<Typed>(entry.get());
    typed.is_ok_and(|Typed { artifact_type }| artifact_type.is_some_and(|one| one == wanted))
}

/// The elements of a list, as far as they are taken, and how many there were.
struct Counted<'a> {
    first: Vec<&'a RawValue>,
    number: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Counted<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Counted<'a>, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Counted<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Counted<'de>, A::Error> {
                let mut counted = Counted { first: Vec::new(), number: 0 };
                while let Some(entry) = list.next_element()? {
                    counted.number += 1;
                    if counted.number <= limits::REFERRERS_ENTRIES {
                        counted.first.push(entry);
                    }
                }
                Ok(counted)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str, wanted: Option<&str>) -> Option<(String, usize)> {
        read(text.as_bytes(), wanted).unwrap().map(|entries| (entries.text, entries.number))
    }

    #[test]
    fn an_index_has_a_list_of_manifests() {
        let some = |text: &str, number| Some((text.to_owned(), number));
        assert_eq!(entries(r#"{"manifests":[{},{ "a": 1 }]}"#, None), some(r#"{},{ "a": 1 }"#, 2));
        assert_eq!(entries(r#"{"a":{},"manifests":[]}"#, None), some("", 0));
        for none in ["", "{}", "[]", r#"{"manifests":null}"#, "<html>", r#"{"manifests":[{]}"#] {
            assert_eq!(entries(none, None), None, "{none}");
        }
    }

    #[test]
    fn a_type_is_asked_for_as_it_is_meant() {
        let index = r#"{"manifests":[{"artifactType":"a/b"},{"artifactType":"a\/b"},{"artifactType":7},{},7,
            {"annotations":{"artifactType":"a/b"}}]}"#;
        let found = entries(index, Some("a/b"));
        assert_eq!(found, Some((r#"{"artifactType":"a/b"},{"artifactType":"a\/b"}"#.to_owned(), 6)));
        assert_eq!(entries(index, Some("a")), Some((String::new(), 6)));
    }

    #[test]
    fn only_so_many_entries_are_taken() {
        let index = |number: usize| format!(r#"{{"manifests":[{}]}}"#, vec!["{}"; number].join(","));
        let most = limits::REFERRERS_ENTRIES;
        assert_eq!(entries(&index(most), None).map(|(_, number)| number), Some(most));
        assert_eq!(read(index(most + 1).as_bytes(), None), Err(TOO_MANY));
    }

    #[test]
    fn pages_are_put_together() {
        let mut all = Entries::default();
        for page in [r#"{"manifests":[]}"#, r#"{"manifests":[1,2]}"#, r#"{"manifests":[3]}"#] {
            all.extend(&read(page.as_bytes(), None).unwrap().unwrap());
        }
        assert_eq!((all.text.as_str(), all.number), ("1,2,3", 3));
    }
}
