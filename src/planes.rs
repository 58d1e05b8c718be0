//! Where the two planes are joined.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use control::{Cache, Control, Epochs, Refusal, Writes};
use controlplane::{
    Fixed,
    upstream::{Complete, UpstreamSettings},
};
use dataplane::{CacheSize, Faults, Joints, limits};
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
    // What is asked of the cache is answered, but for a flood of it.
    assert!(control::FILLS_BEHIND <= limits::CACHE_FILLS_MAX);
    assert!(control::CACHE_DIGESTS <= limits::CACHE_DIGESTS_MAX);
    assert!(control::CACHE_PAGE as usize <= limits::CACHE_PAGE_ENTRIES_MAX);
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
        Planes::start_with(config, data, stop, controlplane::Faults::default())
    }

    fn start_with(
        config: &Config,
        data: &DataDirectory,
        stop: StopHandle,
        faults: controlplane::Faults,
    ) -> Result<Planes, String> {
        let runtime = control_runtime(config.cores).map_err(|error| error.to_string())?;
        let writes = Arc::new(writes(data.path())?);
        let epochs = Arc::new(Epochs::new(limits::EPOCH_SLOTS));
        let (cache, cache_asks) = Cache::lane(limits::CACHE_ASKS_MAX);
        let options = controlplane::Options {
            missing_references: config.missing_references,
            writes: writes.clone(),
            epochs: epochs.clone(),
            mirror: mirror_settings(config),
            cache,
        };
        let plane = controlplane::open_with_faults(data.path(), options, faults)
            .map_err(|error| error.to_string())?;
        let (control, lanes) = Control::lanes(limits::QUESTIONS_MAX, limits::FORWARDS_MAX);
        let failed: dataplane::Failed = Arc::new(move |why| stop.fail(why));
        let pins = plane.pins();
        let pinned: dataplane::Pinned = Arc::new(move |origin| pins.has(origin));
        let faults = Faults::none();
        let joints = Joints { control, epochs, writes, failed, cache: cache_asks, pinned, faults };
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
    let writes = Writes::allowed(Box::new(move |why, last_good_unix| {
        if why == Refusal::MarkFound {
            tracing::warn!("disk error: {}; pushes are refused", why.why());
        } else {
            tracing::error!("disk error: {}; pushes are refused", why.why());
            dataplane::mark_disk_error(&data, last_good_unix);
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
        namespaces: config.namespaces.clone(),
        complete_percent: config.upstreams.iter().map(complete_percent).collect(),
        cache: match (config.cache.max_bytes, config.cache.max_percent) {
            (Some(bytes), _) => CacheSize::Bytes(bytes),
            (None, percent) => CacheSize::Percent(percent),
        },
    }
}

/// The control plane's part of what is mirrored.
fn mirror_settings(config: &Config) -> controlplane::MirrorSettings {
    controlplane::MirrorSettings {
        upstreams: config.upstreams.clone(),
        namespaces: config.namespaces.clone(),
        local_only: config.local_only.clone(),
        pinned: config.cache.pin.clone(),
        manifests_bytes_max: Some(config.cache.manifests_max_bytes),
    }
}

/// How much of a blob has to be here for it to be completed; `None`: it never is.
fn complete_percent(upstream: &UpstreamSettings) -> Option<u8> {
    match upstream.policy.complete {
        Complete::Always => Some(0),
        Complete::IfTouchedOver(percent) => Some(percent),
        Complete::Never => None,
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

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Read, Write},
        net::TcpStream,
        time::{SystemTime, UNIX_EPOCH},
    };

    use controlplane::{CommitFault, Faults as CommitFaults};
    use oci::{Algorithm, Digest};

    use super::*;
    use crate::{config::RawConfig, stop::Stop};

    /// The status of a push of `content`.
    fn push(address: SocketAddr, content: &[u8]) -> String {
        let digest = Digest::of(Algorithm::Sha256, content);
        let length = content.len();
        let head = format!(
            "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&[head.as_bytes(), content].concat()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer[9..12].to_owned()
    }

    /// The writer of the metadata refuses before the keeper hears of it; the mark has the keeper's time all the
    /// same, so that the doctor reads no blob that was durable before.
    #[test]
    fn the_mark_of_a_failed_commit_tells_since_when() {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let place = std::env::temp_dir().join(format!("gantry-mark-{}", std::process::id()));
        let arguments = vec![("listen", "127.0.0.1:0".to_owned())];
        let config = Config::try_from(RawConfig { arguments, ..RawConfig::default() }).unwrap();
        let config = Config { cores: 1, access_log: false, reserve_bytes: 1, ..config };
        let data = DataDirectory::make(&place).unwrap();
        let stop = Stop::watch().unwrap();
        let faults = CommitFaults::default();
        let began = now();
        let planes = Planes::start_with(&config, &data, stop.handle(), faults.clone()).unwrap();
        assert_eq!(push(planes.address(), b"durable"), "201");
        faults.fail_next_commit(CommitFault::Lost);
        assert_eq!(push(planes.address(), b"doubtful"), "503");
        planes.stop(Duration::from_secs(5));
        let mark = fs::read_to_string(place.join("disk-error")).unwrap();
        let since = mark.trim_end().trim_start_matches("{\"last_good_batch_unix\":").trim_end_matches('}');
        assert!((began..=now()).contains(&since.parse().unwrap()), "{mark}");
        fs::remove_dir_all(place).unwrap();
    }
}
