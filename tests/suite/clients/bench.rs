//! A client, a server that it pushes to and pulls from, and what it pushes.

use std::{ops::Deref, sync::Arc};

use super::{
    desk::{Desk, has_programs, has_programs_as_root},
    layers::{self, Layers},
};
use crate::harness::{Leg, Server, lacks};

/// A client, a server and a folder for the two to meet.
pub struct Bench {
    /// `127.0.0.1:PORT`.
    pub registry: String,
    pub layers: Arc<Layers>,
    desk: Desk,
    /// Ends with the bench, and judges its own log then.
    _server: Server,
}

impl Bench {
    /// `None`, and a line that says so, on a machine without one of `programs`.
    pub fn new(leg: Leg, programs: &[&str]) -> Option<Bench> {
        has_programs(programs).then(|| Bench::start(leg))?
    }

    /// Likewise for a client that mounts, owns files of others or starts containers.
    pub fn as_root(leg: Leg, programs: &[&str]) -> Option<Bench> {
        has_programs_as_root(programs).then(|| Bench::start(leg))?
    }

    fn start(leg: Leg) -> Option<Bench> {
        let layers = match layers::layers() {
            Ok(layers) => layers,
            Err(why) => {
                lacks("clients", &why);
                return None;
            }
        };
        let server = Server::start(leg);
        Some(Bench { registry: server.addr().to_string(), layers, desk: Desk::new(), _server: server })
    }

    /// A reference in our registry: `name` is `repository`, `repository:tag` or `repository@digest`.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.registry)
    }

    /// An OCI layout in the folder: an index of one image for each of [`layers::ARCHITECTURES`], tagged `image`.
    pub fn index_layout(&self, name: &str) -> String {
        self.layers.write_index_layout(&self.folder(name));
        self.text(name)
    }
}

impl Deref for Bench {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}
