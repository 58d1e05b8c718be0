//! One upstream registry: questions to it, answered one by one.
//!
//! Owns: connections, tokens, the upstream's budget, and the breaker. It caches nothing else.
//!
//! Invariants: credentials and tokens go to exactly the scheme, host and port they are for. Only addresses that were
//! checked are connected to. Every wait ends. `Ok(None)` and `Absent` mean that the upstream says *it is not there*.
//!
//! Spec: distribution-spec (end-2, end-3, end-8, end-12); Docker's token authentication; RFC 9110.

mod addresses;
mod answers;
mod failure;
mod secret;
mod settings;

use std::sync::Arc;

use control::Fetched;
use oci::{Digest, Reference, RepositoryName};

pub use addresses::{AllowPrivate, Network};
pub use answers::{Accept, Budget, Check, Described, GotManifest, Listing, Page, Step};
pub use failure::{Broken, Failure};
pub use secret::Secret;
pub use settings::{
    ClientCertificate, Complete, Credentials, Offline, Policy, Proxy, SettingsError, Timeouts,
    UpstreamSettings,
};

/// One upstream; cheap to clone. Wants to be used within a tokio runtime with time and I/O.
#[derive(Clone)]
pub struct Upstream {
    shared: Arc<UpstreamSettings>,
}

impl Upstream {
    /// Reads the system's certificates; asks nobody.
    ///
    /// Errors: what is wrong with the settings, and where.
    pub fn new(settings: UpstreamSettings) -> Result<Upstream, SettingsError> {
        Ok(Upstream { shared: Arc::new(settings) })
    }

    /// What it was made from.
    pub fn settings(&self) -> &UpstreamSettings {
        &self.shared
    }

    /// HEAD of a manifest; a GET where HEAD is refused (403, 405). It costs no pull.
    pub async fn describe_manifest(
        &self,
        _repository: &RepositoryName,
        _reference: &Reference,
        _accept: &Accept,
    ) -> Result<Option<Described>, Failure> {
        Err(Failure::unreachable("nobody asks yet"))
    }

    /// GET of a manifest, of at most [`crate::limits::DOCUMENT_BYTES`]. With `if_none_match` it may be `Unchanged`.
    pub async fn manifest(
        &self,
        _repository: &RepositoryName,
        _reference: &Reference,
        _accept: &Accept,
        _if_none_match: Option<&Digest>,
    ) -> Result<GotManifest, Failure> {
        Err(Failure::unreachable("nobody asks yet"))
    }

    /// HEAD of a blob; a GET of its first byte where HEAD is refused. Inside, the length of the blob in bytes, if it was
    /// told.
    pub async fn describe_blob(
        &self,
        _repository: &RepositoryName,
        _digest: &Digest,
    ) -> Result<Option<Option<u64>>, Failure> {
        Err(Failure::unreachable("nobody asks yet"))
    }

    /// A blob's bytes from `from` to `to` (exclusive; `None`: its end). If the upstream knows no ranges, `start` is 0 and
    /// the bytes are all of them, whatever was asked. A body that breaks off ends with a [`Broken`], as a problem.
    pub async fn blob(
        &self,
        _repository: &RepositoryName,
        _digest: &Digest,
        _from: u64,
        _to: Option<u64>,
    ) -> Result<Option<Fetched>, Failure> {
        Err(Failure::unreachable("nobody asks yet"))
    }

    /// A page of a list; `query` without the `?`. `None`: 404. A redirect of referrers to another host is `None` as well:
    /// it says that the upstream has no such list.
    pub async fn list(
        &self,
        _repository: &RepositoryName,
        _listing: &Listing,
        _query: Option<&str>,
    ) -> Result<Option<Page>, Failure> {
        Err(Failure::unreachable("nobody asks yet"))
    }

    /// Asks for addresses, a connection, a token and the budget. It costs no pull.
    pub async fn check(&self) -> Check {
        let not_yet = || Err(Failure::unreachable("nobody asks yet"));
        Check { addresses: not_yet(), registry: not_yet(), token: not_yet(), budget: self.budget() }
    }

    /// What the upstream last said about how much it still gives.
    pub fn budget(&self) -> Budget {
        Budget::default()
    }
}
