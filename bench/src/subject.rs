//! What is measured: a server of ours that a comparison started, or one that runs somewhere.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{
    content::Blob,
    cost::{self, Flushes, Meter},
    load::{self, Plan, Script},
    peers::{Kind, Peer},
    registry::Registry,
    report::progress::Progress,
    result::{Cost, Latency, Round},
};

/// The repository that everything happens in.
pub const REPOSITORY: &str = "bench/blobs";

/// A server under load.
pub struct Subject {
    /// Its name in tables.
    pub name: String,
    /// A client of it.
    pub registry: Registry,
    /// The process, if it is ours.
    pub peer: Option<Peer>,
    /// Blobs that it has been given, so that each is given once.
    blobs: BTreeMap<(u64, u64), Blob>,
}

/// What a load came to, the server's side included.
pub struct Measured {
    /// Everything that every round has.
    pub round: Round,
    /// Latency of each kind of operation.
    pub kinds: Vec<Latency>,
    /// Flushes of the device that the server's data lies on, if that counts them.
    pub flushes: Option<u64>,
}

/// On which processors.
#[derive(Clone, Debug)]
pub struct Pins {
    /// Of the server.
    pub server: Vec<usize>,
}

impl Subject {
    /// A server that a comparison started.
    pub fn of_peer(peer: Peer) -> Subject {
        let (name, registry) = (peer.name().to_owned(), Registry::at(peer.addr()));
        Subject { name, registry, peer: Some(peer), blobs: BTreeMap::new() }
    }

    /// A server that runs somewhere.
    pub fn at(registry: Registry) -> Subject {
        Subject { name: registry.addr.to_string(), registry, peer: None, blobs: BTreeMap::new() }
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.registry.addr
    }

    /// Whether blobs are pushed to it.
    pub fn is_registry(&self) -> bool {
        self.peer.as_ref().is_none_or(|peer| peer.kind() == Kind::Registry)
    }

    /// Gives the server a blob, unless it has been given it already, and sees that it serves it.
    ///
    /// Errors: a sentence.
    pub fn give(&mut self, seed: u64, length: u64) -> Result<Blob, String> {
        if let Some(blob) = self.blobs.get(&(seed, length)) {
            return Ok(*blob);
        }
        let blob = Blob::new(seed, length);
        match &self.peer {
            Some(peer) if peer.kind() == Kind::Files => {
                let placed = peer.place_blob(&blob.digest, &mut blob.noise());
                placed.map_err(|error| format!("{}: {error}", self.name))?;
            }
            _ => {
                if !self.registry.has_blob(REPOSITORY, &blob.digest)? {
                    self.registry.push_blob(REPOSITORY, &blob.digest, length, blob.noise())?;
                }
            }
        }
        if length > 0 {
            // The first read of a file waits for the disk, if only to note its time.
            let target = self.blob_target(&blob);
            let first = self.registry.send("GET", &target, "Range: bytes=0-0\r\n", b"")?;
            first.expect(&[200, 206], "the first byte of a blob")?;
        }
        self.blobs.insert((seed, length), blob);
        Ok(blob)
    }

    /// The target of a blob's GET.
    pub fn blob_target(&self, blob: &Blob) -> String {
        match &self.peer {
            Some(peer) => peer.blob_target(REPOSITORY, &blob.digest),
            None => format!("/v2/{REPOSITORY}/blobs/{}", blob.digest),
        }
    }

    /// What its processes have used so far; nothing for a server that is not ours.
    pub fn cost(&self) -> Result<Cost, String> {
        match &self.peer {
            Some(peer) => Meter::of(peer.pid()).read().map_err(|error| error.to_string()),
            None => Ok(Cost::default()),
        }
    }

    /// The flushes of the device that its data lies on, if that counts them.
    pub fn flushes(&self) -> Option<u64> {
        let peer = self.peer.as_ref()?;
        Flushes::of(peer.data_dir())?.read().ok()
    }

    /// Puts a load on it and takes its cost over the same time.
    ///
    /// Errors: a sentence, if the load could not be put on or the server ended.
    pub fn load(
        &self,
        label: &str,
        plan: &Plan,
        pins: &Pins,
        scripts: Vec<Box<dyn Script>>,
    ) -> Result<Measured, String> {
        let progress = Progress::new(format!("{} · {label}", self.name), plan.warm_up + plan.time);
        let tick = |requests, errors, p99_us| progress.tick(requests, errors, p99_us);
        let (load, measured) = load::run(plan, scripts, tick, |sleep| {
            let (before, flushes_before) = (self.cost()?, self.flushes());
            sleep();
            let flushes = self.flushes().zip(flushes_before).map(|(after, before)| after - before);
            Ok::<_, String>((cost::between(&before, &self.cost()?), flushes))
        })?;
        progress.done();
        let mut round = load.round;
        let (cost, flushes) = measured?;
        round.cost = cost;
        let server_busy = round.cost.cpu_us / 1e6 / round.seconds.max(1e-9) / pins.server.len().max(1) as f64;
        // Whoever has no time left is the limit.
        round.client_bound = round.client_busy > 0.95 && (self.peer.is_none() || server_busy < 0.9);
        Ok(Measured { round, kinds: load.kinds, flushes })
    }
}
