//! What an operator has go: blobs, and all that is known of repositories.
//!
//! Invariants: only what came from upstreams goes. A blob that another repository's manifest names stays when a repository
//! goes; it goes when it is named itself.

use control::Purged;
use oci::{Digest, Problem, RepositoryName};

use super::{Glob, Mirror};
use crate::limits;
use crate::metadata::{Metadata, Page};

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gone {
    pub repositories: u64,
    pub blobs: Purged,
}

impl<M: Metadata> Mirror<M> {
    /// A blob goes. The next who asks for it has it fetched again.
    pub(crate) async fn purge_blob(&self, digest: Digest) -> Result<Gone, Problem> {
        Ok(Gone { repositories: 0, blobs: self.cache.purge(vec![digest]).await? })
    }

    /// All that is known of the repositories that match goes: manifests, tags, what was found absent, and the blobs
    /// that nobody else names.
    pub(crate) async fn purge_repositories(&self, pattern: &Glob) -> Result<Gone, Problem> {
        let mut gone = Gone::default();
        let mut page = Page { after: String::new(), limit: limits::CACHE_PAGE };
        loop {
            let listed = self.metadata.mirrored_repositories(page.clone()).await?;
            for name in listed.names.iter().filter(|name| pattern.matches(name)) {
                let Ok(repository) = RepositoryName::parse(name) else { continue };
                self.purge_repository(repository, &mut gone.blobs).await?;
                gone.repositories += 1;
            }
            match listed.names.last().filter(|_| listed.more) {
                Some(last) => page.after.clone_from(last),
                None => break,
            }
        }
        for site in &self.sites {
            site.forget(&|name| pattern.matches(name));
        }
        self.prefetches.forget(&|name| pattern.matches(name));
        Ok(gone)
    }

    async fn purge_repository(&self, repository: RepositoryName, blobs: &mut Purged) -> Result<(), Problem> {
        while let Some(nobodys) = self.metadata.forget(repository).await? {
            for some in nobodys.chunks(limits::CACHE_DIGESTS) {
                let purged = self.cache.purge(some.to_vec()).await?;
                blobs.blobs += purged.blobs;
                blobs.bytes += purged.bytes;
                blobs.filling += purged.filling;
            }
        }
        Ok(())
    }
}
