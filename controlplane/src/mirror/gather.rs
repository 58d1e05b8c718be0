//! An image with all that it names, fetched for whoever will want it.
//!
//! Invariants: it is fetched as for a client: verified, once, and kept within the budget. So many blobs at a time. Who
//! gives way asks an upstream only while more than half of its budget is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use control::{Document, FillEnd, Origin, Wanted};
use oci::{Digest, Kind, MediaType, Platform, Problem, Reference};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::site::Site;
use super::tally::Tally;
use super::{Mirror, Place};
use crate::limits;
use crate::metadata::Metadata;
use crate::turn::Turn;
use crate::upstream::Accept;

/// How an image is to be fetched.
#[derive(Clone, Debug)]
pub(super) struct Order {
    /// Of an index; none: all that it names.
    pub platforms: Vec<Platform>,
    pub blobs_at_once: usize,
    /// Every client who waits for the same upstream comes first.
    pub gives_way: bool,
}

/// What a manifest leads to.
struct Leads {
    manifests: Vec<Digest>,
    blobs: Vec<(Digest, u64)>,
    /// It is an index, and has nothing for these platforms.
    lacks: Vec<Platform>,
}

impl<M: Metadata> Mirror<M> {
    /// Fetches an image. What is not to be had is in the tally; the rest is fetched all the same.
    pub(super) async fn gather(
        self: &Arc<Self>,
        place: &Place,
        reference: Reference,
        order: &Order,
        tally: &Arc<Tally>,
    ) -> Result<(), Problem> {
        let document = self.fetch_manifest(place, reference, order).await?;
        let mut blobs = BTreeMap::new();
        let (mut seen, mut open) = (BTreeSet::from([document.digest]), vec![document]);
        while let Some(document) = open.pop() {
            tally.manifest();
            let leads = self.read(&document, order.platforms.clone()).await?;
            blobs.extend(leads.blobs);
            for platform in leads.lacks {
                tally.problem(platform, "the image has nothing for this platform");
            }
            for child in leads.manifests {
                if !seen.insert(child) {
                    continue;
                }
                if seen.len() > limits::WARM_MANIFESTS {
                    tally.problem(child, "the image names too many manifests");
                    break;
                }
                match self.fetch_manifest(place, Reference::Digest(child), order).await {
                    Ok(child) => open.push(child),
                    Err(problem) => tally.problem(child, problem.message()),
                }
            }
        }
        tally.blobs(blobs.len() as u64, blobs.values().fold(0, |sum, size| sum.saturating_add(*size)));
        self.fetch_blobs(place, &blobs, order, tally).await;
        let named: Vec<Digest> = blobs.into_keys().collect();
        for some in named.chunks(limits::CACHE_DIGESTS) {
            self.cache.settle(some.to_vec()).await?;
        }
        Ok(())
    }

    async fn fetch_manifest(
        self: &Arc<Self>,
        place: &Place,
        reference: Reference,
        order: &Order,
    ) -> Result<Document, Problem> {
        let site = self.site(place)?;
        if order.gives_way && !has_budget(site) {
            return Err(Problem::UpstreamBusy { retry_after_s: limits::UPSTREAM_RETRY_AFTER_S });
        }
        // A place of its own: it takes none of those that clients' questions wait for.
        let places = Arc::new(Semaphore::new(1));
        let mut turn = Turn::take(&places).await.ok_or(Problem::Internal)?;
        let found = self.manifest(place, reference, &Accept::default(), &mut turn).await?;
        found.ok_or(Problem::ManifestUnknown(reference))
    }

    async fn read(&self, document: &Document, platforms: Vec<Platform>) -> Result<Leads, Problem> {
        let permit = Arc::clone(&self.parses).acquire_owned().await.map_err(|_closed| Problem::Internal)?;
        let (bytes, media_type) = (document.bytes.clone(), document.media_type.clone());
        let read = tokio::task::spawn_blocking(move || {
            let leads = leads(&bytes, &media_type, &platforms);
            drop(permit);
            leads
        });
        read.await.unwrap_or(Err(Problem::Internal))
    }

    async fn fetch_blobs(
        &self,
        place: &Place,
        blobs: &BTreeMap<Digest, u64>,
        order: &Order,
        tally: &Arc<Tally>,
    ) {
        let origin = Origin { upstream: place.upstream, repository: place.there };
        // Dropped with this, and with it what was still wanted.
        let mut running = JoinSet::new();
        for (digest, size_bytes) in blobs {
            if running.len() >= order.blobs_at_once {
                let _one_has_ended = running.join_next().await;
            }
            let (digest, size_bytes) = (*digest, *size_bytes);
            let wanted = Wanted { origin, digest, size_bytes: Some(size_bytes), gives_way: order.gives_way };
            let (cache, tally) = (self.cache.clone(), Arc::clone(tally));
            running.spawn(async move {
                let done = tally.begin();
                let end = cache.fill(wanted, Arc::clone(&done)).await;
                tally.end(&done, size_bytes, end.as_ref().ok().copied());
                match end {
                    Ok(FillEnd::Here | FillEnd::Fetched) => {}
                    Ok(FillEnd::NoRoom) => tally.problem(digest, "the cache has no room for this blob"),
                    Err(problem) => tally.problem(digest, problem.message()),
                }
            });
        }
        while running.join_next().await.is_some() {}
    }
}

/// Whether more than half of what the upstream gives is left, as far as it says.
pub(super) fn has_budget(site: &Site) -> bool {
    let budget = site.upstream.budget();
    let is_low = budget.remaining.zip(budget.limit).is_some_and(|(left, limit)| left <= limit / 2);
    !is_low && budget.paused_s == 0
}

/// Up to 4 MiB: not on a thread that others wait for.
fn leads(bytes: &Bytes, media_type: &MediaType, platforms: &[Platform]) -> Result<Leads, Problem> {
    let manifest = oci::Manifest::parse(bytes, Some(media_type.as_str()))?;
    let blobs = manifest.blobs().map(|blob| (blob.digest, blob.size_bytes)).collect();
    let is_index = manifest.kind == Kind::Index;
    let is_meant = |child: &&oci::Descriptor| {
        let offered = child.platform.as_deref();
        // What only some indexes say of themselves tells nothing of those that don't.
        platforms.is_empty() || offered.is_some_and(|offered| platforms.iter().any(|one| one.takes(offered)))
    };
    let manifests: Vec<Digest> = match is_index {
        true => manifest.manifests.iter().filter(is_meant).map(|child| child.digest).collect(),
        // Of other kinds nobody knows what such an entry is.
        false => Vec::new(),
    };
    let offers = |platform: &Platform| {
        manifest.manifests.iter().filter_map(|child| child.platform.as_deref()).any(|one| platform.takes(one))
    };
    let lacks = platforms.iter().filter(|platform| is_index && !offers(platform)).cloned().collect();
    Ok(Leads { manifests, blobs, lacks })
}

#[cfg(test)]
mod tests {
    use oci::Algorithm;

    use super::*;

    #[test]
    fn an_index_leads_to_the_platforms_that_are_meant() {
        let entry = |platform: &str, text: &str| {
            let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
            format!(
                "{{\"mediaType\":\"{}\",\"digest\":\"{digest}\",\"size\":1{platform}}}",
                MediaType::OCI_MANIFEST.as_str()
            )
        };
        let platform =
            |os: &str, arch: &str| format!(",\"platform\":{{\"os\":\"{os}\",\"architecture\":\"{arch}\"}}");
        let entries = [
            entry(&platform("linux", "amd64"), "1"),
            entry(&platform("linux", "arm64"), "2"),
            entry(&platform("unknown", "unknown"), "3"),
            entry("", "4"),
        ];
        let index = format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", entries.join(","));
        let of = |platforms: &[&str]| {
            let platforms: Vec<_> = platforms.iter().map(|text| Platform::parse(text).unwrap()).collect();
            let leads = leads(&Bytes::from(index.clone()), &MediaType::OCI_INDEX, &platforms).unwrap();
            assert!(leads.blobs.is_empty());
            (leads.manifests.len(), leads.lacks.len())
        };
        assert_eq!(of(&[]), (4, 0), "all");
        assert_eq!(of(&["linux/amd64"]), (1, 0));
        assert_eq!(of(&["linux/amd64", "linux/arm64/v8"]), (2, 0));
        assert_eq!(of(&["linux/amd64", "linux/s390x"]), (1, 1));
    }
}
