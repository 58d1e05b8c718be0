//! Where the two planes are joined.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use control::{Control, Epochs, Refusal, Writes};
use controlplane::Fixed;
use dataplane::{Faults, Joints, limits};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

use crate::{config::Config, data::DataDirectory, stop::StopHandle};

// What either plane takes of the other fits what the other says.
const _: () = {
    use controlplane::limits as control;
    assert!(control::QUESTIONS_AT_ONCE <= limits::QUESTIONS_MAX);
    assert!(control::FORWARDS_AT_ONCE <= limits::FORWARDS_MAX);
    assert!(control::REFERRERS_BYTES <= limits::MANIFEST_BYTES_MAX);
    // A transaction takes any manifest.
    assert!(limits::MANIFEST_BYTES_MAX <= control::BATCH_BYTES);
};

/// Both planes, running.
pub struct Planes {
    data: dataplane::Running,
    runtime: Runtime,
    control: JoinHandle<()>,
}

impl Planes {
    /// Starts the control plane on a runtime of its own, then the data plane, and binds the address.
    ///
    /// Errors: a sentence for the operator.
    pub fn start(config: &Config, data: &DataDirectory, stop: StopHandle) -> Result<Planes, String> {
        let runtime = control_runtime(config.cores).map_err(|error| error.to_string())?;
        let writes = Arc::new(writes(data.path())?);
        let epochs = Arc::new(Epochs::new(limits::EPOCH_SLOTS));
        let options = controlplane::Options {
            missing_references: config.missing_references,
            writes: writes.clone(),
            epochs: epochs.clone(),
        };
        let plane = controlplane::open(data.path(), options).map_err(|error| error.to_string())?;
        let (control, lanes) = Control::lanes(limits::QUESTIONS_MAX, limits::FORWARDS_MAX);
        let failed: dataplane::Failed = Arc::new(move |why| stop.fail(why));
        let joints = Joints { control, epochs, writes, failed, faults: Faults::none() };
        let mut home = |digests: Vec<oci::Digest>| {
            plane.home_blocking(&digests).map_err(|error| {
                tracing::error!(error = error.message(), "the metadata can't be read");
                oci::Problem::Internal
            })
        };
        let running = dataplane::start(data_settings(config, data), joints, &mut home)
            .map_err(|error| error.to_string())?;
        let counts = plane.metrics();
        let fixed = Fixed {
            health: {
                let shared = running.shared();
                Arc::new(move || shared.health())
            },
            metrics: {
                let shared = running.shared();
                Arc::new(move || {
                    let mut text = String::new();
                    shared.render_metrics(&mut text);
                    counts.render(&mut text);
                    text.push_str("# EOF\n");
                    text
                })
            },
        };
        let control = runtime.spawn(plane.run(lanes, fixed));
        Ok(Planes { data: running, runtime, control })
    }

    /// Where it listens; the port is the one that was picked if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.data.address()
    }

    /// `"uring"` or `"epoll"` of each core, in order.
    pub fn drivers(&self) -> Vec<&'static str> {
        self.data.drivers()
    }

    /// Takes no more connections, lets requests end for at most `drain`, persists upload sessions, and
    /// ends every thread.
    pub fn stop(self, drain: Duration) {
        self.data.stop(drain);
        if self.runtime.block_on(self.control).is_err() {
            tracing::error!("the control plane did not end as it should");
        }
    }
}

/// Writes are refused from the start if an earlier process left its mark.
fn writes(data: &Path) -> Result<Writes, String> {
    let marked = dataplane::disk_error_marked(data).map_err(|error| error.to_string())?;
    let data = data.to_owned();
    let writes = Writes::allowed(Box::new(move |why| {
        if why == Refusal::MarkFound {
            tracing::warn!("disk error: {}; pushes are refused", why.why());
        } else {
            tracing::error!("disk error: {}; pushes are refused", why.why());
            dataplane::mark_disk_error(&data);
        }
    }));
    if marked {
        writes.refuse(Refusal::MarkFound);
    }
    Ok(writes)
}

/// The data plane's part of the configuration.
fn data_settings(config: &Config, data: &DataDirectory) -> dataplane::Settings {
    dataplane::Settings {
        listen: config.listen,
        data: data.path().to_owned(),
        cores: config.cores,
        io: config.io,
        access_log: config.access_log,
        reserve_bytes: config.reserve_bytes,
        limits: config.limits.clone(),
    }
}

/// One thread for four cores, at least one.
fn control_runtime(cores: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads((cores / 4).max(1)).thread_name("control").enable_all().build()
}

/// Hashes what was linked since the last good batch, takes the names of damaged blobs away and removes the mark.
///
/// Returns the number of blobs that were hashed and the digests of those that were damaged. Errors: a sentence
/// for the operator; the mark stays.
pub fn clear_disk_error(data: &DataDirectory) -> Result<(u64, Vec<String>), String> {
    let cleared = dataplane::clear_disk_error(data.path()).map_err(|error| error.to_string())?;
    Ok((cleared.hashed, cleared.damaged.iter().map(ToString::to_string).collect()))
}
