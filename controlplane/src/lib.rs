//! The control plane: decisions, documents and metadata. It answers the questions of the cores, and the
//! requests that they hand over whole; it never sees a client's socket, nor a blob's bytes.
//!
//! Owns: `control.db` in the data directory, and the thread that writes it.
//!
//! Invariants: an answered change is durable. After a COMMIT that returned an error nothing is written any
//! more, and reads go on. Every queue and every list has a bound, in `limits.rs`.

// `Problem` carries the names and digests of the answer by value; it is made once, at the end of a request.
#![allow(clippy::result_large_err)]

mod api;
mod forwards;
pub mod limits;
mod lists;
mod manifests;
mod metadata;
mod metrics;
mod mirror;
mod questions;
mod turn;
pub mod upstream;

use std::path::Path;
use std::sync::Arc;

use control::{Cache, Epochs, Lanes, Writes};
use oci::{Digest, Problem};
use tokio::sync::Semaphore;

pub use api::Fixed;
pub use manifests::MissingReferences;
pub use metadata::sqlite::OpenError;
#[doc(hidden)]
pub use metadata::sqlite::{CommitFault, Faults};
pub use metrics::{Counts, Metrics};
pub use mirror::{Glob, GlobError, MirrorError, MirrorSettings, Pins};

use api::Api;
use forwards::Forwards;
use metadata::Mirrored as _;
use metadata::sqlite::{Sqlite, WriterThread};
use mirror::{Mirror, Sites};
use questions::Questions;

/// What the control plane shares with the rest of the process, and what it is set to.
pub struct Options {
    /// What a manifest may name without its being there.
    pub missing_references: MissingReferences,
    /// Asked before every change; told when a COMMIT fails.
    pub writes: Arc<Writes>,
    /// Moved around every change that takes a *yes* away. Nobody else may move them.
    pub epochs: Arc<Epochs>,
    /// Of which registries it is a mirror; the default is of none.
    pub mirror: MirrorSettings,
    /// Who has the blobs of upstreams.
    pub cache: Cache,
}

/// The control plane of one data directory, open and not yet answering.
pub struct ControlPlane {
    metadata: Arc<Sqlite>,
    writer: WriterThread,
    writes: Arc<Writes>,
    missing_references: MissingReferences,
    sites: Sites,
    cache: Cache,
    pins: Arc<Pins>,
}

/// Opens the metadata in `dir`, which exists and which nobody else has open; makes it if there is none, and
/// brings it up to date. Blocks for some syncs when it makes the file.
///
/// Errors: see [`OpenError`].
pub fn open(dir: &Path, options: Options) -> Result<ControlPlane, OpenError> {
    open_with_faults(dir, options, Faults::default())
}

/// [`open`] with a disk that fails when told to, for tests.
#[doc(hidden)]
pub fn open_with_faults(dir: &Path, options: Options, faults: Faults) -> Result<ControlPlane, OpenError> {
    let Options { missing_references, writes, epochs, mirror, cache } = options;
    let mut sites = Sites::new(mirror).map_err(OpenError::Mirror)?;
    let metrics = Metrics::with(sites.metrics());
    let (names, sources) = (sites.names(), sites.sources());
    let (sqlite, writer) = Sqlite::open(dir, Arc::clone(&writes), epochs, names, &sources, metrics, faults)?;
    let added = sqlite.pins_blocking().map_err(|_logged| OpenError::NotOurs)?;
    let pins = sites.pins(&added);
    let metadata = Arc::new(sqlite);
    Ok(ControlPlane { metadata, writer, writes, missing_references, sites, cache, pins })
}

impl ControlPlane {
    /// Which blobs have a committed row, and of what size in bytes, in order. For the start, when no lane
    /// runs yet; blocks.
    pub fn home_blocking(&self, digests: &[Digest]) -> Result<Vec<Option<u64>>, Problem> {
        self.metadata.home_blocking(digests)
    }

    /// Which blobs of upstreams stay; it changes while this runs.
    pub fn pins(&self) -> Arc<Pins> {
        Arc::clone(&self.pins)
    }

    /// The counters of the metadata writer; they outlive the control plane.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metadata.metrics()
    }

    /// Answers until both lanes are closed, or every [`control::Control`] is dropped. Then
    /// what was asked is still answered, touches are written, the write-ahead log is emptied and the file
    /// closed. Wants a tokio runtime with blocking threads; a dropped future answers nobody any more.
    pub async fn run(self, lanes: Lanes, fixed: Fixed) {
        let ControlPlane { metadata, writer, writes, missing_references, sites, cache, pins } = self;
        let parses = Arc::new(Semaphore::new(limits::PARSES_AT_ONCE));
        let mirror = (!sites.is_empty()).then(|| {
            let opened_at = metadata.opened_at();
            let kept = (cache, pins);
            Arc::new(Mirror::new(sites, Arc::clone(&metadata), Arc::clone(&parses), opened_at, kept))
        });
        if let Some(mirror) = &mirror {
            mirror.follow_pins_behind();
        }
        let questions = Questions {
            metadata: Arc::clone(&metadata),
            mirror: mirror.clone(),
            writes,
            missing_references,
            parses,
        };
        let api = Api::new(fixed, mirror.clone());
        let answers = Forwards { metadata, mirror, api };
        let Lanes { questions: asks, forwards } = lanes;
        tokio::join!(questions::answer_all(questions, asks), forwards::answer_all(answers, forwards));
        // Nobody holds the metadata any more, so the writer ends.
        if tokio::task::spawn_blocking(move || writer.join()).await.is_err() {
            tracing::error!("the metadata was not closed in order");
        }
    }
}
