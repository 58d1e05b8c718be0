//! The vocabulary of the OCI distribution-spec: types that are parsed at the edge and cannot hold a wrong value.
//!
//! Owns: what a request can ask ([`Endpoint`]), what it names ([`Digest`], [`RepositoryName`], [`Tag`]), what a
//! manifest says ([`Manifest`]), and the closed set of what a client can be told ([`Problem`]).
//!
//! Invariants: no I/O, no async, no clock, no state. Parsing a blob GET and its range allocates nothing.

#![forbid(unsafe_code)]
// `Problem` carries the names and digests of the answer by value; it is made once, at the end of a request.
#![allow(clippy::result_large_err)]

pub mod conditional;
mod digest;
mod endpoint;
mod hasher;
mod inline;
mod manifest;
mod media_type;
mod method;
mod name;
mod namespaces;
mod page;
mod percent;
mod platform;
mod problem;
mod range;

pub use conditional::EtagMatch;
pub use digest::{Algorithm, Digest, DigestError, DigestText};
pub use endpoint::{Endpoint, Mount, OpenUpload, PutManifest, Referrers};
pub use hasher::{Hasher, SavedHasher};
pub use manifest::{Descriptor, Kind, Manifest, ManifestReference};
pub use media_type::{MediaType, MediaTypeError};
pub use method::Method;
pub use name::{NameError, Reference, ReferenceError, RepositoryName, Tag, TagError, UploadId};
pub use namespaces::{Asked, Namespace, NamespaceError, Namespaces};
pub use page::Page;
pub use platform::Platform;
pub use problem::{Problem, Wire};
pub use range::{ChunkRange, ContentRange, RangeHeader, RangeSpec, RangeSpecs, Selected, Span};
