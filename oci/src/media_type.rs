//! Media types of manifests and their parts.
//!
//! Invariants: `type/subtype`, no parameters, only token characters, at most 255 bytes: safe in a header.
//! The text is kept as it was sent and compared exactly.
//!
//! Spec: RFC 9110 §8.3.1, RFC 6838 §4.2.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A media type without parameters; cheap to clone.
#[derive(Clone)]
pub struct MediaType(Text);

#[derive(Clone)]
enum Text {
    Known(&'static str),
    Other(Arc<str>),
}

/// The text is not `type/subtype`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MediaTypeError;

impl MediaType {
    /// OCI image manifest.
    pub const OCI_MANIFEST: MediaType = MediaType(Text::Known("application/vnd.oci.image.manifest.v1+json"));
    /// OCI image index.
    pub const OCI_INDEX: MediaType = MediaType(Text::Known("application/vnd.oci.image.index.v1+json"));
    /// The artifact manifest that image-spec 1.1 dropped again; it lists `blobs`.
    pub const OCI_ARTIFACT: MediaType =
        MediaType(Text::Known("application/vnd.oci.artifact.manifest.v1+json"));
    /// OCI image configuration.
    pub const OCI_CONFIG: MediaType = MediaType(Text::Known("application/vnd.oci.image.config.v1+json"));
    /// The empty descriptor `{}`.
    pub const OCI_EMPTY: MediaType = MediaType(Text::Known("application/vnd.oci.empty.v1+json"));
    /// Docker manifest, version 2 schema 2.
    pub const DOCKER_MANIFEST: MediaType =
        MediaType(Text::Known("application/vnd.docker.distribution.manifest.v2+json"));
    /// Docker manifest list.
    pub const DOCKER_LIST: MediaType =
        MediaType(Text::Known("application/vnd.docker.distribution.manifest.list.v2+json"));
    /// Docker image configuration.
    pub const DOCKER_CONFIG: MediaType =
        MediaType(Text::Known("application/vnd.docker.container.image.v1+json"));
    /// Docker schema 1, unsigned; refused here.
    pub const DOCKER_SCHEMA1: MediaType =
        MediaType(Text::Known("application/vnd.docker.distribution.manifest.v1+json"));
    /// Docker schema 1, signed; refused here.
    pub const DOCKER_SCHEMA1_SIGNED: MediaType =
        MediaType(Text::Known("application/vnd.docker.distribution.manifest.v1+prettyjws"));
    /// Any JSON.
    pub const JSON: MediaType = MediaType(Text::Known("application/json"));
    /// Any bytes: how blobs are served.
    pub const OCTET_STREAM: MediaType = MediaType(Text::Known("application/octet-stream"));

    /// What holds no allocation.
    const KNOWN: [MediaType; 12] = [
        MediaType::OCI_MANIFEST,
        MediaType::OCI_INDEX,
        MediaType::OCI_ARTIFACT,
        MediaType::OCI_CONFIG,
        MediaType::OCI_EMPTY,
        MediaType::DOCKER_MANIFEST,
        MediaType::DOCKER_LIST,
        MediaType::DOCKER_CONFIG,
        MediaType::DOCKER_SCHEMA1,
        MediaType::DOCKER_SCHEMA1_SIGNED,
        MediaType::JSON,
        MediaType::OCTET_STREAM,
    ];

    /// Upper bound of the text, in bytes: 127 a side (RFC 6838 §4.2).
    pub const LEN_MAX: usize = 255;

    /// Takes the value of a `Content-Type`: space around it and parameters are dropped.
    pub fn parse(value: &str) -> Result<MediaType, MediaTypeError> {
        let space = [' ', '\t'];
        let text = value.split(';').next().unwrap_or_default().trim_matches(space);
        let (kind, subtype) = text.split_once('/').ok_or(MediaTypeError)?;
        if text.len() <= MediaType::LEN_MAX && is_token(kind) && is_token(subtype) {
            Ok(MediaType::known(text).unwrap_or_else(|| MediaType(Text::Other(text.into()))))
        } else {
            Err(MediaTypeError)
        }
    }

    /// A type that was parsed before it was stored; it is not looked at again.
    pub fn from_stored(text: Arc<str>) -> MediaType {
        MediaType::known(&text).unwrap_or(MediaType(Text::Other(text)))
    }

    fn known(text: &str) -> Option<MediaType> {
        MediaType::KNOWN.into_iter().find(|known| known.as_str() == text)
    }

    /// `type/subtype`, as it was sent.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Known(text) => text,
            Text::Other(text) => text,
        }
    }

    /// `application/json`, or anything that ends in `+json`.
    pub fn is_json(&self) -> bool {
        *self == MediaType::JSON || self.as_str().ends_with("+json")
    }

    /// Docker's schema 1, signed or not.
    pub fn is_schema1(&self) -> bool {
        *self == MediaType::DOCKER_SCHEMA1 || *self == MediaType::DOCKER_SCHEMA1_SIGNED
    }
}

/// Whether a layer of this type may be missing from the repository: OCI's nondistributable layers and Docker's
/// foreign ones, in any compression.
pub(crate) fn is_nondistributable(media_type: &str) -> bool {
    const FAMILIES: [&str; 2] = [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    FAMILIES.into_iter().any(|family| {
        media_type
            .strip_prefix(family)
            .is_some_and(|compression| compression.is_empty() || compression.starts_with(['+', '.']))
    })
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

impl PartialEq for MediaType {
    fn eq(&self, other: &MediaType) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for MediaType {}

impl Hash for MediaType {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialEq<str> for MediaType {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for MediaTypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a media type")
    }
}

impl std::error::Error for MediaTypeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_space_are_dropped_and_case_is_kept() {
        fn check(value: &str, expect: Option<&str>) {
            assert_eq!(MediaType::parse(value).ok().as_ref().map(MediaType::as_str), expect, "{value:?}");
        }
        check("application/json", Some("application/json"));
        check(" application/json ; charset=utf-8", Some("application/json"));
        check("application/json;", Some("application/json"));
        check("Application/JSON", Some("Application/JSON"));
        check("application/vnd.wasm.config.v0+json", Some("application/vnd.wasm.config.v0+json"));
        check("", None);
        check("json", None);
        check("application/", None);
        check("/json", None);
        check("a/b/c", None);
        check("a/b c", None);
        check("a/b\r\nx: y", None);
        check("a/é", None);
        let longest = format!("a/{}", "b".repeat(MediaType::LEN_MAX - 2));
        check(&longest, Some(&longest));
        check(&format!("{longest}b"), None);
    }

    #[test]
    fn only_json_may_be_a_manifest() {
        let json = |value: &str| MediaType::parse(value).unwrap().is_json();
        assert!(json("application/json"));
        assert!(json("application/vnd.example+json"));
        assert!(!json("text/json"));
        assert!(!json("application/octet-stream"));
        assert!(!json("application/vnd.docker.distribution.manifest.v1+prettyjws"));
    }

    #[test]
    fn known_types_are_interned_and_equal_to_others() {
        for known in MediaType::KNOWN {
            let parsed = MediaType::parse(known.as_str()).unwrap();
            assert!(matches!(parsed.0, Text::Known(_)), "{known}");
            assert_eq!(parsed, MediaType(Text::Other(known.as_str().into())));
            assert_eq!(MediaType::from_stored(known.as_str().into()), known);
        }
    }

    #[test]
    fn the_layers_that_may_be_missing() {
        for missing in [
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            assert!(is_nondistributable(missing), "{missing}");
        }
        for needed in [
            "",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.target",
        ] {
            assert!(!is_nondistributable(needed), "{needed}");
        }
    }
}
