//! Configuration: every setting of the process, its default, and the three places that can change it.
//!
//! Owns: the list of settings, which is the one pass in `TryFrom<RawConfig>`. A setting is named there
//! once; its key in the file, its variable, its argument, `config print` and the suggestions follow.

mod mistake;
mod nearest;
mod raw;
mod reading;
mod section;
mod upstream;
mod value;

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
};

use controlplane::{Glob, MissingReferences, upstream::UpstreamSettings};
use dataplane::{IoChoice, limits, limits::Limits};
use oci::Namespaces;
use tracing_subscriber::filter::LevelFilter;

pub use mistake::Mistake;
pub use raw::RawConfig;
pub use reading::Effective;
pub use upstream::{DOCKER_HUB, Url};
pub use value::{LogFormat, Value, Written};

use reading::Reading;
use upstream::{Ns, Upstreams};
use value::{Bytes, BytesOrAuto, Cores, Percent};

/// Names the file, which can't name itself.
pub const CONFIG_VARIABLE: &str = "GANTRY_CONFIG";

/// What the process is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address to listen on; port 0 picks one.
    pub listen: SocketAddr,
    /// The data directory; a relative path starts at the working directory.
    pub data: PathBuf,
    /// Cores that serve, 1 to 1024.
    pub cores: usize,
    /// Their driver.
    pub io: IoChoice,
    /// How the log looks.
    pub log_format: LogFormat,
    /// What of it is written.
    pub log: LevelFilter,
    /// Whether every request leaves a line in the log.
    pub access_log: bool,
    /// Serve everybody on an address that others reach.
    pub allow_anonymous: bool,
    /// Bounds.
    pub limits: Limits,
    /// The larger of this and a hundredth of the volume is kept free for metadata and deletes.
    pub reserve_bytes: u64,
    /// What a manifest may name that is not here.
    pub missing_references: MissingReferences,
    /// The registries that this one is a mirror of.
    pub upstreams: Vec<UpstreamSettings>,
    /// The same by name, in the same order, and this registry's own names.
    pub namespaces: Arc<Namespaces>,
    /// Patterns of names without a prefix that no upstream is ever asked for.
    pub local_only: Vec<Glob>,
    /// How much of what upstreams gave is kept.
    pub cache: CacheSettings,
    /// Every setting with its origin, tables together, the top level first.
    pub effective: Vec<Effective>,
    /// The same of each upstream; the keys are those of its table.
    pub effective_upstreams: Vec<Vec<Effective>>,
    /// What does no harm and should be said at start.
    pub warnings: Vec<String>,
}

/// The bounds of what is kept of upstreams' blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// Hard; `None`: by `max_percent`.
    pub max_bytes: Option<u64>,
    /// Of the volume less what was pushed, 1 to 100.
    pub max_percent: u8,
    /// Of upstreams' manifests, in the metadata.
    pub manifests_max_bytes: u64,
    /// Repositories of upstreams whose blobs are not evicted, by their names here.
    pub pin: Vec<Glob>,
}

impl TryFrom<RawConfig> for Config {
    type Error = Vec<Mistake>;

    /// Errors: every mistake there is, those of the file in the order of its lines; never none.
    fn try_from(raw: RawConfig) -> Result<Config, Vec<Mistake>> {
        let mut read = Reading::new(raw);
        let listen = read.setting("listen", SocketAddr::from((Ipv4Addr::LOCALHOST, 5000)));
        let data = read.setting("data", PathBuf::from("gantry-data"));
        let cores = read.setting("cores", Cores::available());
        let io = read.setting("io", IoChoice::Auto);
        let log_format = read.setting("log_format", LogFormat::Text);
        let log = read.setting("log", LevelFilter::INFO);
        let access_log = read.setting("access_log", true);
        let allow_anonymous = read.setting("allow_anonymous", false);
        let local_only = read.list::<Glob>("local_only");
        let names = read.list::<Ns>("names");
        let (limits, reserve_bytes) = read_limits(&mut read);
        let missing_references = read.setting("registry.missing_references", MissingReferences::default());
        let cache = CacheSettings {
            max_bytes: read.setting("cache.max_bytes", BytesOrAuto(None)).0,
            max_percent: read.setting("cache.max_percent", Percent(80)).0,
            manifests_max_bytes: read
                .setting("cache.manifests_max_bytes", Bytes(controlplane::limits::MIRRORED_BYTES))
                .0,
            pin: read.list::<Glob>("cache.pin"),
        };
        let Upstreams { settings, namespaces, effective: effective_upstreams } =
            upstream::read(&mut read, &names, &local_only);
        let (effective, warnings) = read.finish()?;
        Ok(Config {
            listen,
            data,
            cores: cores.get(),
            io,
            log_format,
            log,
            access_log,
            allow_anonymous,
            limits,
            reserve_bytes,
            missing_references,
            upstreams: settings,
            namespaces: Arc::new(namespaces),
            local_only,
            cache,
            effective,
            effective_upstreams,
            warnings,
        })
    }
}

fn read_limits(read: &mut Reading) -> (Limits, u64) {
    let default = Limits::default();
    let requests = NonZeroU32::new(default.requests_per_connection).unwrap_or(NonZeroU32::MIN);
    let scrub_rate = NonZeroU32::new(default.scrub_rate).unwrap_or(NonZeroU32::MIN);
    let limits = Limits {
        header_timeout: read.setting("limits.header_timeout", default.header_timeout),
        body_stall_timeout: read.setting("limits.body_stall_timeout", default.body_stall_timeout),
        body_rate_min_bytes: read.setting("limits.body_rate_min_bytes", Bytes(default.body_rate_min_bytes)).0,
        body_rate_grace: read.setting("limits.body_rate_grace", default.body_rate_grace),
        send_stall_timeout: read.setting("limits.send_stall_timeout", default.send_stall_timeout),
        idle_timeout: read.setting("limits.idle_timeout", default.idle_timeout),
        requests_per_connection: read.setting("limits.requests_per_connection", requests).get(),
        connections: read.setting("limits.connections", default.connections),
        blob_bytes: read.setting("limits.blob_bytes", Bytes(default.blob_bytes)).0,
        upload_expiry: read.setting("limits.upload_expiry", default.upload_expiry),
        fill_expiry: read.setting("limits.fill_expiry", default.fill_expiry),
        filled_wait: default.filled_wait,
        drain_timeout: read.setting("limits.drain_timeout", default.drain_timeout),
        scrub_interval: read.setting("limits.scrub_interval", default.scrub_interval),
        scrub_rate: read.setting("limits.scrub_rate", scrub_rate).get(),
    };
    let reserve = read.setting("limits.reserve_bytes", Bytes(limits::RESERVE_BYTES_MIN));
    (limits, reserve.0)
}

impl Config {
    /// A file that sets everything to what is in force, with who set it behind each line. A password is printed as
    /// `***`, which no configuration takes for one.
    pub fn print(&self) -> String {
        let mut out = String::new();
        let mut table = None;
        for Effective { key, literal, origin } in &self.effective {
            let mut name = *key;
            if let Some((in_table, last)) = key.rsplit_once('.') {
                if table != Some(in_table) {
                    table = Some(in_table);
                    let _ = writeln!(out, "\n[{in_table}]");
                }
                name = last;
            }
            let _ = writeln!(out, "{name} = {literal}  # {origin}");
        }
        for upstream in &self.effective_upstreams {
            out.push_str("\n[[upstream]]\n");
            for Effective { key, literal, origin } in upstream {
                let _ = writeln!(out, "{key} = {literal}  # {origin}");
            }
        }
        out
    }
}

#[cfg(test)]
mod mutations;
#[cfg(test)]
mod tests;
