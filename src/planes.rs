//! Where the two planes are joined.

use std::{net::SocketAddr, time::Duration};

use tokio::runtime::{Builder, Runtime};

use crate::{config::Config, data::DataDirectory, stop::StopHandle};

/// Both planes, running.
pub enum Planes {}

impl Planes {
    /// Starts the control plane on a runtime of its own, then the data plane, and binds the address.
    ///
    /// Errors: a sentence for the operator.
    pub fn start(config: &Config, data: &DataDirectory, stop: StopHandle) -> Result<Planes, String> {
        let _runtime = control_runtime(config.cores).map_err(|error| error.to_string())?;
        let _ = (data_settings(config, data), stop);
        Err("this build has no planes to start".to_owned())
    }

    /// Where it listens; the port is the one that was picked if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        match *self {}
    }

    /// `"uring"` or `"epoll"` of each core, in order.
    pub fn drivers(&self) -> Vec<&'static str> {
        match *self {}
    }

    /// Takes no more connections, lets requests end for at most `drain`, persists upload sessions, and
    /// ends every thread.
    pub fn stop(self, drain: Duration) {
        let _ = drain;
        match self {}
    }
}

/// The data plane's part of the configuration.
fn data_settings(config: &Config, data: &DataDirectory) -> dataplane::Settings {
    dataplane::Settings {
        listen: config.listen,
        data: data.path().to_owned(),
        cores: config.cores,
        io: config.io,
        access_log: config.access_log,
        limits: config.limits.clone(),
    }
}

/// One thread for four cores, at least one.
fn control_runtime(cores: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads((cores / 4).max(1)).thread_name("control").enable_all().build()
}

/// Hashes what was linked since the last good batch and removes the mark if all of it is right.
///
/// Returns the number of blobs that were hashed. Errors: a sentence for the operator; the mark stays.
pub fn clear_disk_error(data: &DataDirectory) -> Result<u64, String> {
    let _ = data;
    Err("this build cannot hash blobs again".to_owned())
}
