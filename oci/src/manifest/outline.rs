//! The first look at a manifest: how deep it is, which keys it has, and whether they can be read in two ways.
//!
//! Spec: RFC 8259; GHSA-mc8v-mgrf-8f4m (one body, two meanings).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Kind, Manifest, invalid, unreadable};
use crate::media_type::MediaType;
use crate::problem::Problem;

/// Refuses nesting deeper than [`Manifest::DEPTH_MAX`], without recursion. Whether it is JSON at all is not looked at.
pub(super) fn bound_depth(body: &[u8]) -> Result<(), Problem> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in body {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > Manifest::DEPTH_MAX {
                    return Err(invalid(format!("JSON nested deeper than {}", Manifest::DEPTH_MAX)));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// The keys that decide what a body means. Twice, or in another spelling, they are refused.
const WATCHED: [&str; 10] = [
    "mediaType",
    "schemaVersion",
    "manifests",
    "layers",
    "config",
    "fsLayers",
    "subject",
    "blobs",
    "artifactType",
    "annotations",
];

/// The value of a watched key, as far as it matters here.
#[derive(Debug, Default)]
enum Glance {
    #[default]
    Absent,
    /// Go writes an empty list as `null`.
    Null,
    Number(u64),
    Text(String),
    Object,
    Array,
    Other,
}

impl Glance {
    fn is_there(&self) -> bool {
        !matches!(self, Glance::Absent | Glance::Null)
    }
}

/// Presence and scalars of the top level.
#[derive(Debug, Default)]
pub(super) struct Outline {
    values: [Glance; WATCHED.len()],
    /// A watched key that stood twice, or in a spelling that some readers take for it.
    ambiguous: Option<&'static str>,
}

impl Outline {
    pub(super) fn read(body: &str) -> Result<Outline, Problem> {
        let outline: Outline = serde_json::from_str(body).map_err(|error| unreadable(&error))?;
        match outline.ambiguous {
            None => Ok(outline),
            Some(key) => Err(invalid(format!("{key} is there twice, or not in its exact spelling"))),
        }
    }

    fn value(&self, key: &'static str) -> &Glance {
        let at = WATCHED.iter().position(|watched| *watched == key).expect("only watched keys are asked for");
        &self.values[at]
    }

    fn has(&self, key: &'static str) -> bool {
        self.value(key).is_there()
    }

    /// `mediaType`; an empty one counts as absent, as Go writes it.
    pub(super) fn media_type(&self) -> Result<Option<&str>, Problem> {
        match self.value("mediaType") {
            Glance::Absent | Glance::Null => Ok(None),
            Glance::Text(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Glance::Number(_) | Glance::Object | Glance::Array | Glance::Other => {
                Err(invalid("mediaType is not a string"))
            }
        }
    }

    /// An index is no image is no schema 1.
    pub(super) fn refuse_confusion(&self) -> Result<(), Problem> {
        let other = ["layers", "config", "fsLayers"].into_iter().find(|key| self.has(key));
        match other {
            Some(key) if self.has("manifests") => Err(invalid(format!("manifests together with {key}"))),
            _ => Ok(()),
        }
    }

    /// Schema 1 by its type, by its layers, or by its version where that is what the version means.
    pub(super) fn refuse_schema1(&self, media_type: &MediaType, kind: Kind) -> Result<(), Problem> {
        let docker_shaped = match kind {
            Kind::Image | Kind::Index => true,
            Kind::Other => *media_type == MediaType::JSON,
            Kind::Artifact => false,
        };
        let version_1 = matches!(self.value("schemaVersion"), Glance::Number(1));
        if media_type.is_schema1() || self.has("fsLayers") || (docker_shaped && version_1) {
            return Err(invalid("Docker schema 1 is not supported: push schema 2 or an OCI image"));
        }
        Ok(())
    }

    /// What a document of this kind cannot be without.
    pub(super) fn require(&self, kind: Kind) -> Result<(), Problem> {
        match kind {
            Kind::Image if !self.has("config") => Err(invalid("an image manifest needs a config")),
            Kind::Index if matches!(self.value("manifests"), Glance::Absent) => {
                Err(invalid("an index needs manifests"))
            }
            Kind::Image | Kind::Index => match self.value("schemaVersion") {
                Glance::Absent | Glance::Number(2) => Ok(()),
                Glance::Null
                | Glance::Number(_)
                | Glance::Text(_)
                | Glance::Object
                | Glance::Array
                | Glance::Other => Err(invalid("schemaVersion must be 2")),
            },
            Kind::Artifact | Kind::Other => Ok(()),
        }
    }

    /// The type of a body that was sent without any. Docker's documents always name theirs.
    pub(super) fn shape(&self) -> Result<MediaType, Problem> {
        if self.has("fsLayers") || matches!(self.value("schemaVersion"), Glance::Number(1)) {
            Ok(MediaType::DOCKER_SCHEMA1)
        } else if matches!(self.value("manifests"), Glance::Array) {
            Ok(MediaType::OCI_INDEX)
        } else if matches!(self.value("config"), Glance::Object) {
            Ok(MediaType::OCI_MANIFEST)
        } else {
            Err(invalid("neither Content-Type nor mediaType says what this is"))
        }
    }
}

/// Which watched key a reader without regard for case takes this one for, and whether it is spelt exactly.
fn watched(key: &str) -> Option<(usize, bool)> {
    // Go's encoding/json also folds these two letters (simple case folding of s and k).
    let folded = key.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    WATCHED
        .iter()
        .position(|watched| folded.clone().eq(watched.chars().map(|letter| letter.to_ascii_lowercase())))
        .map(|at| (at, WATCHED[at] == key))
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Outline, D::Error> {
        struct TopLevel;
        impl<'de> Visitor<'de> for TopLevel {
            type Value = Outline;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outline, A::Error> {
                let mut outline = Outline::default();
                while let Some(Key(key)) = map.next_key()? {
                    let Some((at, exact)) = watched(&key) else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    if !exact || !matches!(outline.values[at], Glance::Absent) {
                        outline.ambiguous = Some(WATCHED[at]);
                    }
                    outline.values[at] = map.next_value()?;
                }
                Ok(outline)
            }
        }
        deserializer.deserialize_map(TopLevel)
    }
}

/// A key, borrowed from the body when it holds no escape.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key<'de>, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl<'de> Deserialize<'de> for Glance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Glance, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Glance;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Glance, E> {
                Ok(Glance::Null)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Glance, E> {
                Ok(Glance::Other)
            }

            fn visit_u64<E>(self, number: u64) -> Result<Glance, E> {
                Ok(Glance::Number(number))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Glance, E> {
                Ok(Glance::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Glance, E> {
                Ok(Glance::Other)
            }

            fn visit_str<E>(self, text: &str) -> Result<Glance, E> {
                Ok(Glance::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Glance, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Glance::Object)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Glance, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Glance::Array)
            }
        }
        deserializer.deserialize_any(Any)
    }
}
