//! Manifests: what a body says, and whether it may be said.
//!
//! Owns: the media type rules, the refusal of schema 1 and of bodies that two readers would take for two things,
//! and what a manifest needs to be in its repository.
//!
//! Invariants: depth is bounded before anything recurses; the top level of a body that was accepted has one meaning
//! for every reader, also for those that match keys without regard to case; no part is kept as a tree of JSON, so
//! that the caller's bound of the body (4 MiB) bounds the memory. The bytes themselves are the caller's.
//!
//! Spec: image-spec manifest.md and image-index.md; distribution-spec end-7 and end-12.

mod body;
mod outline;

use serde_json::{Map, Value};

use crate::digest::Digest;
use crate::media_type::{MediaType, is_nondistributable};
use crate::platform::Platform;
use crate::problem::{Problem, excerpt};
use outline::Outline;

/// What kind of document a manifest is. What differs between OCI's and Docker's form is the media type alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// OCI image manifest, Docker version 2 schema 2: `config` and `layers`.
    Image,
    /// OCI index, Docker manifest list: `manifests`.
    Index,
    /// The OCI artifact manifest of 1.1.0-rc: `blobs`, here in [`Manifest::layers`].
    Artifact,
    /// Any other JSON. What reads like descriptors is taken for descriptors.
    Other,
}

/// A descriptor (image-spec, descriptor.md).
#[derive(Clone, PartialEq, Debug)]
pub struct Descriptor {
    /// `mediaType`; empty when it was absent.
    pub media_type: String,
    /// `digest`
    pub digest: Digest,
    /// `size`, at most `i64::MAX`.
    pub size_bytes: u64,
    /// `artifactType`
    pub artifact_type: Option<String>,
    /// `annotations`
    pub annotations: Option<Map<String, Value>>,
    /// `platform`; `None` also for what reads like none, such as the `unknown/unknown` of what is attached to an image.
    pub platform: Option<Box<Platform>>,
}

/// A manifest that may be stored.
#[derive(Clone, PartialEq, Debug)]
pub struct Manifest {
    /// What it is served as.
    pub media_type: MediaType,
    /// What it is.
    pub kind: Kind,
    /// `config`
    pub config: Option<Descriptor>,
    /// `layers`, or the `blobs` of an artifact.
    pub layers: Vec<Descriptor>,
    /// `manifests`
    pub manifests: Vec<Descriptor>,
    /// `subject`; need not be here.
    pub subject: Option<Descriptor>,
    /// `artifactType`; never empty.
    pub artifact_type: Option<String>,
    /// `annotations`; every value is a string.
    pub annotations: Option<Map<String, Value>>,
}

/// What a manifest needs in its repository.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ManifestReference {
    /// A blob.
    Blob(Digest),
    /// From `manifests`: a manifest, or a blob (BuildKit's cache lists layers there).
    Child(Digest),
}

impl Manifest {
    /// How deep arrays and objects may nest.
    pub const DEPTH_MAX: usize = 32;
    /// How many descriptors there may be in all.
    pub const DESCRIPTORS_MAX: usize = 32_768;

    /// Parses what was sent with this `Content-Type`.
    ///
    /// Errors: `ManifestInvalid` (400), `TooManyDescriptors` (413).
    pub fn parse(body: &[u8], content_type: Option<&str>) -> Result<Manifest, Problem> {
        // What serde skips it does not check for UTF-8.
        let body =
            std::str::from_utf8(body).map_err(|_not_text| invalid("not JSON: the body is not UTF-8"))?;
        outline::bound_depth(body.as_bytes())?;
        let outline = Outline::read(body)?;
        outline.refuse_confusion()?;
        let media_type = decide_media_type(content_type, &outline)?;
        let kind = Kind::of(&media_type);
        outline.refuse_schema1(&media_type, kind)?;
        if !media_type.is_json() {
            return Err(invalid(format!(
                "a manifest is application/json or ends in +json, not {}",
                excerpt(media_type.as_str())
            )));
        }
        outline.require(kind)?;
        let parts = body::read(body, kind)?;
        if parts.descriptors() > Manifest::DESCRIPTORS_MAX {
            return Err(Problem::TooManyDescriptors);
        }
        Ok(Manifest {
            media_type,
            kind,
            config: parts.config,
            layers: parts.layers,
            manifests: parts.manifests,
            subject: parts.subject,
            artifact_type: parts.artifact_type,
            annotations: parts.annotations,
        })
    }

    /// The descriptors of config and layers that a registry has the bytes of.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let blobs = self.config.iter().chain(&self.layers);
        blobs.filter(|descriptor| !is_nondistributable(&descriptor.media_type))
    }

    /// What must be in the repository, in the order of the manifest, repeated where it repeats. Not in it:
    /// `subject`, OCI's nondistributable and Docker's foreign layers.
    pub fn references(&self) -> impl Iterator<Item = ManifestReference> {
        let needed = |descriptor: &&Descriptor| !is_nondistributable(&descriptor.media_type);
        let blobs = self.config.iter().chain(&self.layers).filter(needed);
        let children = self.manifests.iter().filter(needed);
        blobs
            .map(|blob| ManifestReference::Blob(blob.digest))
            .chain(children.map(|child| ManifestReference::Child(child.digest)))
    }

    /// The `artifactType` under which the manifest is a referrer: its own, else the type of its config. An index
    /// has only its own.
    pub fn referrer_artifact_type(&self) -> Option<&str> {
        let of_config = match self.kind {
            Kind::Image | Kind::Other => self.config.as_ref().map(|config| config.media_type.as_str()),
            Kind::Index | Kind::Artifact => None,
        };
        self.artifact_type.as_deref().or(of_config.filter(|media_type| !media_type.is_empty()))
    }

    /// The descriptor of this manifest in the answer to a referrers request (end-12), with its annotations.
    /// `digest` and `size_bytes` are those of the body.
    pub fn referrer_entry(&self, digest: Digest, size_bytes: u64) -> Value {
        let mut entry = Map::new();
        entry.insert("mediaType".into(), self.media_type.as_str().into());
        entry.insert("digest".into(), digest.to_string().into());
        entry.insert("size".into(), size_bytes.into());
        if let Some(artifact_type) = self.referrer_artifact_type() {
            entry.insert("artifactType".into(), artifact_type.into());
        }
        if let Some(annotations) = &self.annotations {
            entry.insert("annotations".into(), Value::Object(annotations.clone()));
        }
        Value::Object(entry)
    }
}

impl Kind {
    fn of(media_type: &MediaType) -> Kind {
        if *media_type == MediaType::OCI_MANIFEST || *media_type == MediaType::DOCKER_MANIFEST {
            Kind::Image
        } else if *media_type == MediaType::OCI_INDEX || *media_type == MediaType::DOCKER_LIST {
            Kind::Index
        } else if *media_type == MediaType::OCI_ARTIFACT {
            Kind::Artifact
        } else {
            Kind::Other
        }
    }
}

/// `mediaType` and `Content-Type` must say the same; one of them is enough; without both, the shape decides.
fn decide_media_type(content_type: Option<&str>, outline: &Outline) -> Result<MediaType, Problem> {
    let sent = match content_type.map(str::trim).filter(|value| !value.is_empty()) {
        None => None,
        Some(value) => Some(
            MediaType::parse(value)
                .map_err(|_malformed| invalid(format!("Content-Type {} is no media type", excerpt(value))))?,
        ),
    };
    let Some(said) = outline.media_type()? else {
        return sent.map_or_else(|| outline.shape(), Ok);
    };
    match sent {
        Some(sent) if sent.as_str() != said => Err(invalid(format!(
            "mediaType {} is not the Content-Type {}",
            excerpt(said),
            excerpt(sent.as_str())
        ))),
        Some(sent) => Ok(sent),
        None => match MediaType::parse(said) {
            Ok(parsed) if parsed.as_str() == said => Ok(parsed),
            Ok(_) | Err(_) => Err(invalid(format!("mediaType {} is no media type", excerpt(said)))),
        },
    }
}

fn invalid(why: impl Into<String>) -> Problem {
    Problem::ManifestInvalid { why: why.into() }
}

/// Says where, never what: serde's own texts quote the body.
fn unreadable(error: &serde_json::Error) -> Problem {
    let what = if error.is_data() { "a field is not of the expected form" } else { "not JSON" };
    invalid(format!("{what} at line {} column {}", error.line(), error.column()))
}

#[cfg(test)]
mod tests;
