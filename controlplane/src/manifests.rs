//! end-7: what a manifest must be before it is stored, and what hangs on it.
//!
//! Spec: distribution-spec "Pushing Manifests"; which missing references are refused is a setting.

use std::collections::BTreeMap;
use std::sync::Arc;

use control::{Manifest, StoredManifest};
use oci::{Algorithm, Digest, ManifestReference, Problem, Reference, Tag};
use tokio::sync::Semaphore;

use crate::metadata::{Edge, EdgeKind, Metadata, NewManifest, NewReferrer};

/// `registry.missing_references`: which of the things that a manifest names may be missing from its
/// repository. Its subject, and layers that may not be distributed, always may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingReferences {
    /// None.
    #[default]
    Reject,
    /// The manifests that an index lists.
    Children,
    /// All.
    Any,
}

/// Stores a manifest once it was found to be legal.
///
/// Errors: `ManifestInvalid` (400), `DigestMismatch` (400), `TooManyDescriptors` (413),
/// `ManifestBlobUnknown` (404), `PreconditionFailed` (412); on any of them nothing was stored.
pub(crate) async fn put<M: Metadata>(
    metadata: Arc<M>,
    missing: MissingReferences,
    parses: Arc<Semaphore>,
    manifest: Box<Manifest>,
) -> Result<StoredManifest, Problem> {
    let tags = each_once(&manifest.tags);
    let permit = parses.acquire_owned().await.map_err(|_closed| Problem::Internal)?;
    // Hashing and parsing 4 MiB takes milliseconds: not on a thread that others wait for.
    let read = tokio::task::spawn_blocking(move || {
        let new = read(*manifest, missing);
        drop(permit);
        new
    });
    let new = read.await.unwrap_or(Err(Problem::Internal))?;
    let stored = StoredManifest {
        digest: new.digest,
        subject: new.referrer.as_ref().map(|referrer| referrer.subject),
        tags,
    };
    metadata.put_manifest(Box::new(new)).await?;
    Ok(stored)
}

fn read(sent: Manifest, missing: MissingReferences) -> Result<NewManifest, Problem> {
    let digest = match &sent.reference {
        Reference::Tag(_) => Digest::of(Algorithm::Sha256, &sent.body),
        Reference::Digest(expected) => {
            let computed = Digest::of(expected.algorithm(), &sent.body);
            if computed != *expected {
                return Err(Problem::DigestMismatch { expected: *expected, computed });
            }
            computed
        }
    };
    let parsed = oci::Manifest::parse(&sent.body, sent.content_type.as_deref())?;
    let mut tags = each_once(&sent.tags);
    if let Reference::Tag(tag) = &sent.reference
        && !tags.contains(tag)
    {
        tags.push(*tag);
    }
    let referrer = parsed.subject.as_ref().map(|subject| NewReferrer {
        subject: subject.digest,
        artifact_type: parsed.referrer_artifact_type().map(str::to_owned),
        entry: parsed.referrer_entry(digest, sent.body.len() as u64).to_string(),
    });
    Ok(NewManifest {
        repository: sent.repository,
        digest,
        media_type: parsed.media_type.as_str().to_owned(),
        preconditions: sent.preconditions,
        edges: edges(&parsed, missing),
        bytes: sent.body,
        reference: sent.reference,
        tags,
        referrer,
    })
}

/// Everything that is named, each once a kind, in the order of its digest.
fn edges(manifest: &oci::Manifest, missing: MissingReferences) -> Vec<Edge> {
    let named = (manifest.config.iter().chain(&manifest.layers).map(|blob| (blob.digest, EdgeKind::Blob)))
        .chain(manifest.manifests.iter().map(|child| (child.digest, EdgeKind::Child)));
    let mut required: BTreeMap<(Digest, EdgeKind), bool> = named.map(|edge| (edge, false)).collect();
    for reference in manifest.references() {
        let (edge, reject) = match reference {
            ManifestReference::Blob(digest) => ((digest, EdgeKind::Blob), missing != MissingReferences::Any),
            ManifestReference::Child(digest) => {
                ((digest, EdgeKind::Child), missing == MissingReferences::Reject)
            }
        };
        required.insert(edge, reject);
    }
    required.into_iter().map(|((target, kind), required)| Edge { target, kind, required }).collect()
}

fn each_once(tags: &[Tag]) -> Vec<Tag> {
    let mut seen = Vec::with_capacity(tags.len());
    for tag in tags {
        if !seen.contains(tag) {
            seen.push(*tag);
        }
    }
    seen
}
