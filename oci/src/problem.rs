//! The closed set of what a client can be told when its request is not fulfilled.
//!
//! Owns: the one table from problem to wire (status, code, headers), and the JSON body.
//!
//! Invariants: no text here comes from inside the server; text of the client's is bounded and escaped.
//!
//! Spec: distribution-spec, "Error Codes"; RFC 9110 §15.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::digest::{Digest, DigestError};
use crate::name::{NameError, Reference, ReferenceError, RepositoryName, TagError};

/// Why a request is not fulfilled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// The path holds no repository name.
    NameInvalid,
    /// No such repository, or none that the caller may see.
    NameUnknown(RepositoryName),
    /// The `ns` of a request that names no repository is nobody's.
    NamespaceUnknown,
    /// A digest in the path or query is malformed, missing, or of an algorithm that is not spoken here.
    DigestInvalid {
        /// One sentence.
        why: &'static str,
    },
    /// The bytes are not those of the digest.
    DigestMismatch {
        /// What the client said.
        expected: Digest,
        /// What arrived.
        computed: Digest,
    },
    /// A tag to be written is malformed.
    TagInvalid,
    /// A manifest is to be read by what is neither tag nor digest, so it cannot be here.
    ReferenceInvalid,
    /// The body is not a manifest that is taken here.
    ManifestInvalid {
        /// One sentence; what it quotes of the client is bounded when it is sent.
        why: String,
    },
    /// No such manifest in this repository.
    ManifestUnknown(Reference),
    /// The manifest names what is not in the repository. Each digest is an entry of the body, up to
    /// [`Problem::MISSING_NAMED_MAX`] of them; one entry more says how many others there are.
    ManifestBlobUnknown(Vec<Digest>),
    /// The manifest has more bytes than are taken.
    ManifestTooLarge,
    /// The manifest lists more descriptors than are taken.
    TooManyDescriptors,
    /// No such blob in this repository.
    BlobUnknown(Digest),
    /// The blob has more bytes than are taken.
    BlobTooLarge {
        /// What is taken.
        limit_bytes: u64,
    },
    /// No such upload session in this repository.
    BlobUploadUnknown,
    /// The upload request contradicts itself.
    BlobUploadInvalid {
        /// One sentence.
        why: &'static str,
    },
    /// Another request is writing to this session.
    UploadBusy,
    /// The chunk does not start where the last one ended; the session is unchanged.
    ChunkOutOfOrder {
        /// Path of the session.
        location: String,
        /// Where the next chunk must start, in bytes.
        offset: u64,
    },
    /// The length that was declared is not the one that arrived.
    SizeInvalid,
    /// No range selects a byte.
    RangeUnsatisfiable {
        /// Size of the blob.
        size_bytes: u64,
    },
    /// More ranges than are served.
    TooManyRanges,
    /// `n` is negative or not a number.
    PaginationNumberInvalid,
    /// `If-Match` or `If-None-Match` says no.
    PreconditionFailed,
    /// More `?tag=` than are taken.
    TooManyTags,
    /// The request target is too long.
    UriTooLong,
    /// The header block is too long.
    HeadersTooLarge,
    /// The request is not HTTP as it is understood here.
    RequestMalformed {
        /// One sentence.
        why: &'static str,
    },
    /// The request needs a `Content-Length`.
    LengthRequired,
    /// The request did not arrive in time.
    RequestTimeout,
    /// An `Expect` that is not `100-continue`.
    ExpectationFailed,
    /// Not HTTP/1.0 or HTTP/1.1.
    VersionUnsupported,
    /// A live manifest of the repository names what was to be deleted.
    BlobReferenced {
        /// What was to be deleted.
        digest: Digest,
        /// The manifest that names it.
        by: Digest,
    },
    /// The caller may not do this.
    Denied,
    /// The caller is not known.
    Unauthorized,
    /// The path exists, for other methods.
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: &'static str,
    },
    /// No such path.
    NotFound,
    /// A queue or budget is full.
    Overloaded {
        /// When to come again, in seconds.
        retry_after_s: u32,
    },
    /// Writes are refused until the operator has looked.
    WritesRefused {
        /// One sentence.
        why: &'static str,
    },
    /// No room for what is sent.
    DiskFull,
    /// The repository is an upstream's; it is only pulled from here.
    PullOnly,
    /// An upstream can't be reached, or does not let this registry in. Never told as *unknown*.
    UpstreamUnreachable {
        /// When to come again, in seconds.
        retry_after_s: u32,
    },
    /// An upstream did not answer in time.
    UpstreamTimeout,
    /// An upstream answered what can't be right, or that it has failed.
    UpstreamMisbehaved {
        /// One sentence.
        why: &'static str,
    },
    /// An upstream gives no more for now: its budget for this registry is spent.
    UpstreamBusy {
        /// When to come again, in seconds.
        retry_after_s: u32,
    },
    /// The repository has the blob, the store does not.
    BlobLost(Digest),
    /// A fault of the server's.
    Internal,
}

/// A [`Problem`] as HTTP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wire {
    /// Status.
    pub status: u16,
    /// Code of the JSON body. Where HTTP has an error and the spec has none that fits, it is `UNSUPPORTED`.
    pub code: &'static str,
    /// Headers that belong to this answer alone, in lower case; allocates only if there are any.
    pub headers: Vec<(&'static str, String)>,
}

/// Codes of the spec, and two for what it has none for.
mod code {
    pub(super) const BLOB_UNKNOWN: &str = "BLOB_UNKNOWN";
    pub(super) const BLOB_UPLOAD_INVALID: &str = "BLOB_UPLOAD_INVALID";
    pub(super) const BLOB_UPLOAD_UNKNOWN: &str = "BLOB_UPLOAD_UNKNOWN";
    pub(super) const DIGEST_INVALID: &str = "DIGEST_INVALID";
    pub(super) const MANIFEST_BLOB_UNKNOWN: &str = "MANIFEST_BLOB_UNKNOWN";
    pub(super) const MANIFEST_INVALID: &str = "MANIFEST_INVALID";
    pub(super) const MANIFEST_UNKNOWN: &str = "MANIFEST_UNKNOWN";
    pub(super) const NAME_INVALID: &str = "NAME_INVALID";
    pub(super) const NAME_UNKNOWN: &str = "NAME_UNKNOWN";
    pub(super) const SIZE_INVALID: &str = "SIZE_INVALID";
    pub(super) const UNAUTHORIZED: &str = "UNAUTHORIZED";
    pub(super) const DENIED: &str = "DENIED";
    pub(super) const UNSUPPORTED: &str = "UNSUPPORTED";
    pub(super) const TOOMANYREQUESTS: &str = "TOOMANYREQUESTS";
    pub(super) const UNAVAILABLE: &str = "UNAVAILABLE";
    pub(super) const UNKNOWN: &str = "UNKNOWN";
}

impl Problem {
    /// The whole mapping to the wire. No `_` arm: a new variant must choose.
    pub fn wire(&self) -> Wire {
        let (status, code, headers) = match self {
            Problem::NameInvalid => (400, code::NAME_INVALID, vec![]),
            Problem::NameUnknown(_) | Problem::NamespaceUnknown => (404, code::NAME_UNKNOWN, vec![]),
            Problem::DigestInvalid { .. } | Problem::DigestMismatch { .. } => {
                (400, code::DIGEST_INVALID, vec![])
            }
            Problem::TagInvalid | Problem::ManifestInvalid { .. } => (400, code::MANIFEST_INVALID, vec![]),
            Problem::ReferenceInvalid | Problem::ManifestUnknown(_) => (404, code::MANIFEST_UNKNOWN, vec![]),
            Problem::ManifestBlobUnknown(_) => (404, code::MANIFEST_BLOB_UNKNOWN, vec![]),
            Problem::ManifestTooLarge | Problem::TooManyDescriptors => (413, code::MANIFEST_INVALID, vec![]),
            Problem::BlobUnknown(_) => (404, code::BLOB_UNKNOWN, vec![]),
            Problem::BlobTooLarge { .. } => (413, code::BLOB_UPLOAD_INVALID, vec![]),
            Problem::BlobUploadUnknown => (404, code::BLOB_UPLOAD_UNKNOWN, vec![]),
            Problem::BlobUploadInvalid { .. } => (400, code::BLOB_UPLOAD_INVALID, vec![]),
            Problem::UploadBusy => (409, code::BLOB_UPLOAD_INVALID, vec![]),
            Problem::ChunkOutOfOrder { location, offset } => (
                416,
                code::BLOB_UPLOAD_INVALID,
                vec![("location", location.clone()), ("range", format!("0-{}", offset.saturating_sub(1)))],
            ),
            Problem::SizeInvalid => (400, code::SIZE_INVALID, vec![]),
            Problem::RangeUnsatisfiable { size_bytes } => {
                (416, code::UNSUPPORTED, vec![("content-range", format!("bytes */{size_bytes}"))])
            }
            Problem::TooManyRanges | Problem::PaginationNumberInvalid | Problem::RequestMalformed { .. } => {
                (400, code::UNSUPPORTED, vec![])
            }
            Problem::TooManyTags => (414, code::UNSUPPORTED, vec![]),
            Problem::PreconditionFailed => (412, code::UNSUPPORTED, vec![]),
            Problem::UriTooLong => (414, code::UNSUPPORTED, vec![]),
            Problem::HeadersTooLarge => (431, code::UNSUPPORTED, vec![]),
            Problem::LengthRequired => (411, code::UNSUPPORTED, vec![]),
            Problem::RequestTimeout => (408, code::UNSUPPORTED, vec![]),
            Problem::ExpectationFailed => (417, code::UNSUPPORTED, vec![]),
            Problem::VersionUnsupported => (505, code::UNSUPPORTED, vec![]),
            // RFC 9110 §15.5.6 wants `Allow` on every 405; reading is what is left.
            Problem::BlobReferenced { .. } => (405, code::DENIED, vec![("allow", "GET, HEAD".to_owned())]),
            Problem::Denied => (403, code::DENIED, vec![]),
            Problem::Unauthorized => (401, code::UNAUTHORIZED, vec![]),
            Problem::MethodNotAllowed { allow } => {
                (405, code::UNSUPPORTED, vec![("allow", (*allow).to_owned())])
            }
            Problem::NotFound => (404, code::UNSUPPORTED, vec![]),
            Problem::Overloaded { retry_after_s } => {
                (503, code::TOOMANYREQUESTS, vec![("retry-after", retry_after_s.to_string())])
            }
            Problem::WritesRefused { .. } => (503, code::UNAVAILABLE, vec![]),
            Problem::DiskFull => (507, code::UNAVAILABLE, vec![]),
            // RFC 9110 §15.5.6 wants `Allow` on every 405.
            Problem::PullOnly => (405, code::UNSUPPORTED, vec![("allow", "GET, HEAD".to_owned())]),
            Problem::UpstreamUnreachable { retry_after_s } => {
                (503, code::UNAVAILABLE, vec![("retry-after", retry_after_s.to_string())])
            }
            Problem::UpstreamTimeout => (504, code::UNAVAILABLE, vec![]),
            Problem::UpstreamMisbehaved { .. } => (502, code::UNAVAILABLE, vec![]),
            // Not 429: containerd asks that at once again, and takes the next mirror on 503.
            Problem::UpstreamBusy { retry_after_s } => {
                (503, code::TOOMANYREQUESTS, vec![("retry-after", retry_after_s.to_string())])
            }
            Problem::BlobLost(_) | Problem::Internal => (500, code::UNKNOWN, vec![]),
        };
        Wire { status, code, headers }
    }

    /// `{"errors":[{"code":…,"message":…,"detail":…}]}`.
    pub fn body(&self) -> String {
        let code = self.wire().code;
        let errors: Vec<Value> = match self {
            Problem::ManifestBlobUnknown(missing) => missing_each(code, missing),
            _ => vec![json!({ "code": code, "message": self.message(), "detail": self.detail() })],
        };
        json!({ "errors": errors }).to_string()
    }

    /// One sentence for the client, of at most [`Problem::MESSAGE_CHARS_MAX`] characters, none of them a control.
    pub fn message(&self) -> String {
        let text: &str = match self {
            Problem::NameInvalid => "invalid repository name",
            Problem::NameUnknown(_) => "repository name not known to registry",
            Problem::NamespaceUnknown => "no upstream of this registry has that ns",
            Problem::DigestInvalid { why } => why,
            Problem::DigestMismatch { .. } => "the digest is not that of the content",
            Problem::TagInvalid => "invalid tag",
            Problem::ReferenceInvalid => "neither a tag nor a digest",
            Problem::ManifestInvalid { why } => why,
            Problem::ManifestUnknown(_) => "manifest unknown to registry",
            Problem::ManifestBlobUnknown(_) => "the manifest names what is not in this repository",
            Problem::ManifestTooLarge => "the manifest is too large",
            Problem::TooManyDescriptors => "the manifest lists too many descriptors",
            Problem::BlobUnknown(_) => "blob unknown to registry",
            Problem::BlobTooLarge { .. } => "the blob is too large",
            Problem::BlobUploadUnknown => "blob upload unknown to registry",
            Problem::BlobUploadInvalid { why } => why,
            Problem::UploadBusy => "another request is writing to this upload",
            Problem::ChunkOutOfOrder { .. } => "the chunk does not start where the upload ends",
            Problem::SizeInvalid => "the declared length is not that of the content",
            Problem::RangeUnsatisfiable { .. } => "the range is outside of the blob",
            Problem::TooManyRanges => "too many ranges",
            Problem::PaginationNumberInvalid => "n must be a number that is not negative",
            Problem::PreconditionFailed => "a precondition does not hold",
            Problem::TooManyTags => "too many tags in one request",
            Problem::UriTooLong => "the request target is too long",
            Problem::HeadersTooLarge => "the headers are too large",
            Problem::RequestMalformed { why } => why,
            Problem::LengthRequired => "Content-Length is required",
            Problem::RequestTimeout => "the request took too long",
            Problem::ExpectationFailed => "the expectation cannot be met",
            Problem::VersionUnsupported => "the HTTP version is not supported",
            Problem::BlobReferenced { .. } => "a manifest of this repository still names it",
            Problem::Denied => "requested access to the resource is denied",
            Problem::Unauthorized => "authentication required",
            Problem::MethodNotAllowed { .. } => "the method is not allowed here",
            Problem::NotFound => "no such path",
            Problem::Overloaded { .. } => "the registry is busy",
            Problem::WritesRefused { why } => why,
            Problem::DiskFull => "no space left for this content",
            Problem::PullOnly => "this repository mirrors an upstream: pull from it, push elsewhere",
            Problem::UpstreamUnreachable { .. } => "the upstream registry can't be reached",
            Problem::UpstreamTimeout => "the upstream registry did not answer in time",
            Problem::UpstreamMisbehaved { why } => why,
            Problem::UpstreamBusy { .. } => "the upstream registry gives no more for now",
            Problem::BlobLost(_) => "the content is lost",
            Problem::Internal => "internal error",
        };
        shown(text, Problem::MESSAGE_CHARS_MAX)
    }

    /// The longest message, in characters.
    pub const MESSAGE_CHARS_MAX: usize = 320;
    /// How many missing digests are named one by one; a last entry counts the others.
    pub const MISSING_NAMED_MAX: usize = 1024;

    fn detail(&self) -> Value {
        match self {
            Problem::NameUnknown(name) => json!({ "name": name.as_str() }),
            Problem::DigestMismatch { expected, computed } => {
                json!({ "expected": expected.to_string(), "computed": computed.to_string() })
            }
            Problem::ManifestUnknown(reference) => json!({ "reference": reference.to_string() }),
            Problem::BlobUnknown(digest) | Problem::BlobLost(digest) => {
                json!({ "digest": digest.to_string() })
            }
            Problem::BlobTooLarge { limit_bytes } => json!({ "limit": limit_bytes }),
            Problem::ChunkOutOfOrder { offset, .. } => json!({ "offset": offset }),
            Problem::RangeUnsatisfiable { size_bytes } => json!({ "size": size_bytes }),
            Problem::BlobReferenced { digest, by } => {
                json!({ "digest": digest.to_string(), "referrer": by.to_string() })
            }
            _ => Value::Null,
        }
    }
}

fn missing_each(code: &str, missing: &[Digest]) -> Vec<Value> {
    let (named, others) = missing.split_at(missing.len().min(Problem::MISSING_NAMED_MAX));
    let mut errors: Vec<Value> = named
        .iter()
        .map(|digest| {
            let digest = digest.to_string();
            json!({ "code": code, "message": format!("{digest} is not in this repository"), "detail": { "digest": digest } })
        })
        .collect();
    if !others.is_empty() {
        let message = format!("{} more are not in this repository", others.len());
        errors.push(json!({ "code": code, "message": message, "detail": { "more": others.len() } }));
    }
    errors
}

/// Text of a client's as a message may quote it: at most 128 characters, controls escaped.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 128;
    shown(text, CHARS_MAX)
}

fn shown(text: &str, chars_max: usize) -> String {
    let mut out = String::new();
    let mut left = chars_max;
    for letter in text.chars() {
        // `escape_debug` also turns what would reorder or hide the line it is printed on.
        let escaped = if matches!(letter, '"' | '\'' | '\\') {
            String::from(letter)
        } else {
            letter.escape_debug().to_string()
        };
        let width = escaped.chars().count();
        if width >= left {
            out.push('…');
            return out;
        }
        left -= width;
        write!(out, "{escaped}").expect("a String takes all");
    }
    out
}

impl From<NameError> for Problem {
    fn from(NameError: NameError) -> Problem {
        Problem::NameInvalid
    }
}

impl From<TagError> for Problem {
    fn from(TagError: TagError) -> Problem {
        Problem::TagInvalid
    }
}

impl From<DigestError> for Problem {
    fn from(error: DigestError) -> Problem {
        Problem::DigestInvalid { why: error.why() }
    }
}

/// As a write answers it; reading is [`Problem::ReferenceInvalid`].
impl From<ReferenceError> for Problem {
    fn from(error: ReferenceError) -> Problem {
        match error {
            ReferenceError::Tag => Problem::TagInvalid,
            ReferenceError::Digest(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
