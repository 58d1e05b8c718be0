//! What every test stands on: the real binary as a child process, and a client that can also misbehave.
//!
//! Owns: [`Server`] (one process on one data directory), [`Client`] (blocking HTTP/1.1 over a plain socket),
//! the two legs on which every test runs, and what to do on a machine that lacks something.
//!
//! Invariants: nothing here knows how the server works inside; every complete reply read by
//! [`Request::send`] is held to the rules of `replies.rs`; a WARN, an ERROR or a line that is no JSON in the
//! server's log fails the test that started it.

mod client;
mod command;
mod content;
mod legs;
mod metrics;
mod multipart;
mod replies;
mod response;
mod server;
pub mod setting;
mod temp;
mod volume;

pub use client::Client;
pub use command::{gantry, gantry_apart};
pub use content::{Image, descriptor, noise, offset_of, sha256, wait_for};
pub(crate) use legs::legs;
pub use legs::{Leg, alone, beside, has_root, lacks, say};
pub use multipart::parts;
pub use response::{Framing, Response, read as read_response};
pub use server::{Launch, Server};
pub use temp::TempDir;
pub use volume::Volume;

/// Media types as they stand on the wire.
pub mod media {
    pub const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub const NONDISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    pub const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    pub const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
    pub const SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
}
