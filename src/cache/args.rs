//! `gantry cache`: what it offers and how it is explained.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// What can be done about the cache of a running registry.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List the blobs that are here
    #[command(after_help = LS)]
    Ls {
        /// What comes first [default: size; with --json: as they come]
        #[arg(long, value_name = "BY")]
        sort: Option<Sort>,
        /// At most so many; 0: all [default: 100; with --json: all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Show the budget, what is here, and what each upstream gave
    Stat {
        #[command(flatten)]
        reach: Reach,
    },
    /// Keep the blobs of repositories whatever room is lacking; without PATTERN: list what is pinned
    #[command(after_help = PATTERNS)]
    Pin {
        /// Repositories by their names here, "docker.io/library/*"
        pattern: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Take a pin back
    #[command(after_help = PATTERNS)]
    Unpin {
        /// As it was pinned
        pattern: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Drop a blob, or all that is known of repositories: the next pull asks the upstream again
    #[command(after_help = PURGE)]
    Purge {
        /// A digest, or a pattern of repositories by their names here
        what: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Fetch images into the cache; exit status 1 if something could not be had
    #[command(after_help = WARM)]
    Warm {
        /// As a client names them: busybox, docker.io/library/busybox:1.36, ghcr.io/org/app@sha256:…
        #[arg(required = true)]
        images: Vec<String>,
        /// Platform such as linux/amd64; may be given several times
        /// [default: `platforms` of the upstream, else all that the image has]
        #[arg(long, value_name = "PLATFORM")]
        platform: Vec<String>,
        #[command(flatten)]
        reach: Reach,
    },
}

/// Where the registry is, and how its answers are shown.
#[derive(Debug, Default, Args)]
pub struct Reach {
    /// The registry, by a loopback address [default: `listen` of the configuration]
    #[arg(long, value_name = "HOST:PORT")]
    pub server: Option<String>,
    /// Configuration file of the registry [env: GANTRY_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// JSON for programs; of a list, one object a line
    #[arg(long)]
    pub json: bool,
}

/// By what a list is sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// The largest first
    Size,
    /// The newest first
    Came,
    /// The most used first
    Uses,
    /// By digest
    Digest,
    /// By the first repository that names it
    Repository,
}

const LS: &str = "\
Uses are counted up to three, and start over when a blob is considered for eviction. Repositories are those whose
manifests name the blob, four at most.";

const PATTERNS: &str = "\
`*` stands for any characters, `/` included. Pins that are set here outlive a restart; those of `cache.pin` are taken back
in the configuration.";

const PURGE: &str = "\
What was pushed here never goes. A blob that somebody is reading goes when he is done; one that another repository names
stays when a repository goes.";

const WARM: &str = "\
Ctrl-C gives up what is still on its way.";
