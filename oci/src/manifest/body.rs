//! The second look at a manifest: its descriptors.
//!
//! Invariants: a document of a kind that we know is read strictly, any other as far as it reads like one.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize as Derived;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, value::RawValue};

use super::{Descriptor, Kind, unreadable};
use crate::digest::Digest;
use crate::platform::Platform;
use crate::problem::Problem;

/// The parts of a manifest that matter here.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) config: Option<Descriptor>,
    pub(super) layers: Vec<Descriptor>,
    pub(super) manifests: Vec<Descriptor>,
    pub(super) subject: Option<Descriptor>,
    pub(super) artifact_type: Option<String>,
    pub(super) annotations: Option<Map<String, Value>>,
}

impl Parts {
    pub(super) fn descriptors(&self) -> usize {
        usize::from(self.config.is_some())
            + self.layers.len()
            + self.manifests.len()
            + usize::from(self.subject.is_some())
    }
}

#[derive(Derived)]
#[serde(rename_all = "camelCase")]
struct KnownBody {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: Option<Annotations>,
}

#[derive(Derived)]
#[serde(rename_all = "camelCase")]
struct ArtifactBody {
    blobs: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: Option<Annotations>,
}

/// Errors: `ManifestInvalid`.
pub(super) fn read(body: &str, kind: Kind) -> Result<Parts, Problem> {
    let mut parts = match kind {
        Kind::Image | Kind::Index => {
            let known: KnownBody = serde_json::from_str(body).map_err(|error| unreadable(&error))?;
            Parts {
                config: known.config,
                layers: known.layers.unwrap_or_default(),
                manifests: known.manifests.unwrap_or_default(),
                subject: known.subject,
                artifact_type: known.artifact_type,
                annotations: known.annotations.map(|Annotations(map)| map),
            }
        }
        Kind::Artifact => {
            let artifact: ArtifactBody = serde_json::from_str(body).map_err(|error| unreadable(&error))?;
            Parts {
                layers: artifact.blobs.unwrap_or_default(),
                subject: artifact.subject,
                artifact_type: artifact.artifact_type,
                annotations: artifact.annotations.map(|Annotations(map)| map),
                ..Parts::default()
            }
        }
        Kind::Other => {
            let mut layers: Vec<Descriptor> = field(body, "layers").unwrap_or_default();
            layers.extend(field::<Vec<Descriptor>>(body, "blobs").unwrap_or_default());
            Parts {
                config: field(body, "config"),
                layers,
                manifests: field(body, "manifests").unwrap_or_default(),
                subject: field(body, "subject"),
                artifact_type: field(body, "artifactType"),
                annotations: field(body, "annotations").map(|Annotations(map)| map),
            }
        }
    };
    parts.artifact_type = parts.artifact_type.filter(|artifact_type| !artifact_type.is_empty());
    Ok(parts)
}

/// One key of the top level, if its value reads as a `T`.
fn field<T: for<'de> Deserialize<'de>>(body: &str, key: &'static str) -> Option<T> {
    struct Field<T>(&'static str, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Field<T> {
        type Value = Option<T>;

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
            deserializer.deserialize_map(self)
        }
    }
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Field<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<T>, A::Error> {
            let mut found = None;
            while let Some(key) = map.next_key::<String>()? {
                if key == self.0 {
                    found = map.next_value()?;
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }
    }
    Field(key, PhantomData).deserialize(&mut serde_json::Deserializer::from_str(body)).ok().flatten()
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Descriptor, D::Error> {
        #[derive(Derived)]
        #[serde(rename_all = "camelCase")]
        struct Sent<'a> {
            media_type: Option<String>,
            digest: DigestField,
            size: u64,
            artifact_type: Option<String>,
            annotations: Option<Annotations>,
            #[serde(borrow)]
            platform: Option<&'a RawValue>,
        }
        let sent = Sent::deserialize(deserializer)?;
        // Clients count in signed numbers.
        if i64::try_from(sent.size).is_err() {
            return Err(D::Error::custom("size"));
        }
        Ok(Descriptor {
            media_type: sent.media_type.unwrap_or_default(),
            digest: sent.digest.0,
            size_bytes: sent.size,
            artifact_type: sent.artifact_type,
            annotations: sent.annotations.map(|Annotations(map)| map),
            platform: sent.platform.and_then(platform),
        })
    }
}

/// Whatever stands there: a platform that nobody knows is no reason to refuse a manifest.
fn platform(raw: &RawValue) -> Option<Box<Platform>> {
    #[derive(Derived)]
    struct Sent {
        os: String,
        architecture: String,
        variant: Option<String>,
    }
    let Sent { os, architecture, variant } = serde_json::from_str(raw.get()).ok()?;
    let variant = variant.filter(|variant| !variant.is_empty()).map(|variant| format!("/{variant}"));
    let platform = Platform::parse(&format!("{os}/{architecture}{}", variant.unwrap_or_default()))?;
    (&*platform.os != "unknown").then(|| Box::new(platform))
}

struct DigestField(Digest);

impl<'de> Deserialize<'de> for DigestField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DigestField, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = DigestField;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a digest")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<DigestField, E> {
                Digest::parse(text).map(DigestField).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// String to string. Anything else would spoil the list of referrers that they are copied into, since clients
/// read it as a whole.
struct Annotations(Map<String, Value>);

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Annotations, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = Annotations;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Annotations, A::Error> {
                let mut strings = Map::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    strings.insert(key, Value::String(value));
                }
                Ok(Annotations(strings))
            }
        }
        deserializer.deserialize_map(Strings)
    }
}
