//! What an upstream is asked for, and what it answers.

use bytes::Bytes;
use oci::{Digest, MediaType};

use crate::limits;

/// The media types of manifests that are asked for: always all that this registry knows, so that what is cached does
/// not depend on who asked first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept(String);

impl Accept {
    /// Both indexes, both manifests, then `extra`: those that a client named beside them. What is above
    /// [`limits::ACCEPT_EXTRA`] is left out.
    pub fn with(extra: &[MediaType]) -> Accept {
        let own = [
            MediaType::OCI_INDEX,
            MediaType::DOCKER_LIST,
            MediaType::OCI_MANIFEST,
            MediaType::DOCKER_MANIFEST,
        ];
        let others = extra.iter().filter(|one| !own.contains(one)).take(limits::ACCEPT_EXTRA);
        let all: Vec<&str> = own.iter().chain(others).map(MediaType::as_str).collect();
        Accept(all.join(", "))
    }

    /// As a header's value.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Accept {
    fn default() -> Accept {
        Accept::with(&[])
    }
}

/// What a HEAD tells of a manifest. The upstream's word, not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// `Docker-Content-Digest`, if it is there and is one.
    pub digest: Option<Digest>,
    /// `Content-Length`.
    pub size_bytes: Option<u64>,
    /// `Content-Type`, without its parameters.
    pub media_type: Option<MediaType>,
}

/// The answer to a HEAD of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenManifest {
    /// 404.
    Absent,
    /// It answers no HEAD there (403, 405), which says nothing of the manifest: a GET tells.
    HeadRefused,
    /// It is there.
    Described(Described),
}

/// The answer to a GET of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GotManifest {
    /// 404.
    Absent,
    /// It still is the one that the caller has.
    Unchanged,
    /// A document; nothing about it is verified but its size.
    Manifest {
        /// The body.
        bytes: Bytes,
        /// `Content-Type`, without its parameters.
        media_type: Option<MediaType>,
        /// `Docker-Content-Digest`, if it is there and is one.
        digest_header: Option<Digest>,
    },
}

/// Which list of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// `tags/list` (end-8).
    Tags,
    /// `referrers/<digest>` (end-12).
    Referrers(Digest),
}

/// A page of a list, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The body; at most [`limits::DOCUMENT_BYTES`].
    pub bytes: Bytes,
    /// `Content-Type`, without its parameters.
    pub media_type: Option<MediaType>,
    /// The query that gives the next page, without the `?`; `None`: this is the last.
    pub next: Option<String>,
}

/// What an upstream's headers say about how much it still gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// `ratelimit-limit`: pulls in a window. `None`: it did not say.
    pub limit: Option<u64>,
    /// `ratelimit-remaining`. `None`: it did not say, which is not zero.
    pub remaining: Option<u64>,
    /// The window of both, in seconds.
    pub window_s: Option<u64>,
    /// It has refused, and is not asked before so many seconds have gone. 0: it is asked.
    pub paused_s: u64,
}

/// What `gantry doctor` finds out about one upstream. Each step needs those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The addresses of its host, and whether they may be connected to.
    pub addresses: Step,
    /// A connection, with TLS if the URL has it, and an answer to `/v2/`.
    pub registry: Step,
    /// A token, if it wants one, or whether it takes the credentials.
    pub token: Step,
    /// What it still gives.
    pub budget: Budget,
}

/// The result of a step: a sentence of what was found, or why not.
pub type Step = Result<String, super::Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_list_begins_with_ours_and_is_bounded() {
        let other = |n: usize| MediaType::parse(&format!("application/vnd.example.v{n}+json")).unwrap();
        let many: Vec<MediaType> = [MediaType::OCI_MANIFEST].into_iter().chain((0..100).map(other)).collect();
        let accept = Accept::with(&many);
        assert!(accept.as_str().starts_with(Accept::default().as_str()));
        assert_eq!(accept.as_str().split(", ").count(), 4 + limits::ACCEPT_EXTRA);
        assert_eq!(accept.as_str().matches(MediaType::OCI_MANIFEST.as_str()).count(), 1);
    }
}
