//! The command line: what it offers and how it is explained. Values are understood in `config`, where the
//! same value may come from the file or the environment.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    cache::args::CacheCommand,
    config::{CONFIG_VARIABLE, Mistake, RawConfig},
};

/// A container registry whose data plane is built like a storage engine.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Start with:  gantry serve\nThen try:    docker push 127.0.0.1:5000/hello/world")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the process can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the registry until SIGTERM or Ctrl-C; a second one ends it at once
    #[command(after_help = PRECEDENCE)]
    Serve(Options),
    /// Look at the configuration without serving
    #[command(subcommand, arg_required_else_help = true)]
    Config(ConfigCommand),
    /// Print how a client is configured that pulls through this registry, ready to paste
    #[command(after_help = PRECEDENCE)]
    MirrorConfig {
        /// Whose configuration
        client: Client,
        /// How clients reach this registry [default: http:// and the address to listen on]
        #[arg(long, value_name = "URL")]
        url: Option<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Look after the blobs that a running registry has of its upstreams
    #[command(subcommand, arg_required_else_help = true)]
    Cache(CacheCommand),
    /// Look at disk, I/O, limits and upstreams, and say what is to be done; exit status 1 if anything is
    #[command(after_help = PRECEDENCE)]
    Doctor {
        /// Of a registry that is stopped: hash again what was linked since the last good batch, then let pushes in again
        #[arg(long)]
        clear_disk_error: bool,
        #[command(flatten)]
        options: Options,
    },
}

/// Clients that can be told of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Client {
    /// A hosts.toml for each upstream; also for what stands on containerd: Kubernetes, nerdctl
    Containerd,
    /// daemon.json of dockerd, which asks mirrors for docker.io only
    Docker,
    /// registries.conf; also for CRI-O, Buildah and Skopeo
    Podman,
    /// buildkitd.toml
    Buildkit,
}

/// Ways to look at the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether FILE is right; exit status 0 or 1
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print the settings in force as a configuration file, each with its origin
    #[command(after_help = PRECEDENCE)]
    Print(Options),
}

const PRECEDENCE: &str = "\
An argument goes before a variable, a variable before the file, the file before the default.
Limits are set in the file or by a variable, for example GANTRY_LIMITS_HEADER_TIMEOUT=5s;
`gantry config print` lists all of them.";

/// Settings that have an argument. The field is the key of the file.
#[derive(Debug, Default, Args)]
pub struct Options {
    /// Address to listen on [default: 127.0.0.1:5000] [env: GANTRY_LISTEN]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// Data directory, made if missing [default: gantry-data] [env: GANTRY_DATA]
    #[arg(long, value_name = "PATH")]
    data: Option<String>,
    /// Configuration file, gantry.toml by habit; none is read unless it is named [env: GANTRY_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Cores that serve [default: all] [env: GANTRY_CORES]
    #[arg(long, value_name = "N")]
    cores: Option<String>,
    /// I/O driver: auto, uring or epoll [default: auto] [env: GANTRY_IO]
    #[arg(long, value_name = "DRIVER")]
    io: Option<String>,
    /// How the log on stderr looks: text or json [default: text] [env: GANTRY_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// What is logged: error, warn, info, debug or trace [default: info] [env: GANTRY_LOG]
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// One event in the log for each request: on or off [default: on] [env: GANTRY_ACCESS_LOG]
    #[arg(long, value_name = "SWITCH")]
    access_log: Option<String>,
    /// Let everybody read and write although others reach the address [env: GANTRY_ALLOW_ANONYMOUS]
    #[arg(long, value_name = "SWITCH", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    allow_anonymous: Option<String>,
    /// Names without a prefix that the root mirror is not asked for, as patterns with commas between them [env: GANTRY_LOCAL_ONLY]
    #[arg(long, value_name = "PATTERNS")]
    local_only: Option<String>,
    /// Hosts by which clients know this registry, with commas between them [env: GANTRY_NAMES]
    #[arg(long, value_name = "HOSTS")]
    names: Option<String>,
}

impl Options {
    /// Nothing but the file that was named, if one was.
    pub fn of_file(config: Option<PathBuf>) -> Options {
        Options { config, ..Options::default() }
    }

    /// These, above the variables, above the file that either of them names.
    ///
    /// Errors: the file can't be read or is not TOML, or a variable is not UTF-8.
    pub fn gather(
        self,
        variables: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<RawConfig, Mistake> {
        let Options {
            listen,
            data,
            config,
            cores,
            io,
            log_format,
            log,
            access_log,
            allow_anonymous,
            local_only,
            names,
        } = self;
        let mut raw = RawConfig::default();
        raw.read_environment(variables)?;
        let file = config.or_else(|| raw.variable(CONFIG_VARIABLE).map(PathBuf::from));
        if let Some(file) = file {
            raw.read_file(&file)?;
        }
        let given = [
            ("listen", listen),
            ("data", data),
            ("cores", cores),
            ("io", io),
            ("log_format", log_format),
            ("log", log),
            ("access_log", access_log),
            ("allow_anonymous", allow_anonymous),
            ("local_only", local_only),
            ("names", names),
        ];
        raw.arguments = given.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        Ok(raw)
    }
}
