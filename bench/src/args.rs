//! The command line, as people type it.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::{
    clients::Arrivals,
    goals,
    scenarios::{NAMES, SlowReaders, Weights, any_port},
};

/// Puts load on OCI registries and says what it cost them.
#[derive(Debug, Parser)]
#[command(name = "gantry-bench", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measures a registry that runs somewhere.
    Run {
        /// What is measured.
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(NAMES))]
        scenario: String,
        /// Where the registry is: http://HOST:PORT.
        #[arg(long, value_name = "URL")]
        target: String,
        /// NAME:PASSWORD, if it wants one.
        #[arg(long, value_name = "NAME:PASSWORD")]
        user: Option<String>,
        /// How.
        #[command(flatten)]
        settings: Settings,
    },
    /// Measures bare loops on several runtimes and each way to send a file: why Gantry is built as it is.
    #[cfg(feature = "runtimes")]
    Runtimes {
        /// How.
        #[command(flatten)]
        settings: Settings,
    },
    /// Measures what Gantry has to reach, S1 to S16, beside nginx and other registries that are there.
    Goals {
        /// Only these: S1,S9.
        #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(goals::IDS))]
        only: Vec<String>,
        /// One short round of each with less data: says that it works, not how fast.
        #[arg(long)]
        quick: bool,
        /// How. Sizes and connections are given.
        #[command(flatten)]
        settings: Settings,
    },
    /// Starts several servers and measures them in turn, round by round; ratios are to the first.
    Compare {
        /// What is measured.
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(NAMES))]
        scenario: String,
        /// gantry[:uring|:epoll][:log], nginx, docker-registry, distribution, zot, or the path of a TOML file.
        #[arg(long, value_delimiter = ',', required = true)]
        peers: Vec<String>,
        /// How.
        #[command(flatten)]
        settings: Settings,
    },
}

/// How something is measured.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Sizes of bodies: 4KiB, 1MiB.
    #[arg(long, value_delimiter = ',', value_parser = parse_size, default_values = ["4KiB", "64KiB", "1MiB"])]
    pub sizes: Vec<u64>,
    /// Connections at the same time.
    #[arg(long, value_delimiter = ',', default_values_t = [16])]
    pub connections: Vec<u64>,
    /// Requests a second, whatever the answers take (an open loop); without it as fast as answers come.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Seconds that are counted in each round.
    #[arg(long, default_value_t = 2.0)]
    pub time: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 0.5)]
    pub warm_up: f64,
    /// Rounds of each case and peer.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Processors for the servers. Default: the first one.
    #[arg(long, value_delimiter = ',')]
    pub server_cpus: Vec<usize>,
    /// Processors for the client, a thread each. Default: the second one.
    #[arg(long, value_delimiter = ',')]
    pub client_cpus: Vec<usize>,
    /// Lets both sides run on any processor.
    #[arg(long, conflicts_with_all = ["server_cpus", "client_cpus"])]
    pub unpinned: bool,
    /// One body in so many is hashed; the length is always checked.
    #[arg(long, default_value_t = 256)]
    pub verify_every: u64,
    /// Connections that idle, or read slowly, beside those that are measured.
    #[arg(long, default_value_t = 1000)]
    pub bystanders: u64,
    /// Data that is read cold. For a server elsewhere: more than its memory holds.
    #[arg(long = "cold", value_name = "SIZE", value_parser = parse_size, default_value = "2GiB")]
    pub cold_bytes: u64,
    /// fleet, herd: clients, each with connections of its own.
    #[arg(long, value_delimiter = ',', default_values_t = [16])]
    pub clients: Vec<u64>,
    /// fleet, herd: when they arrive: together, or poisson:RATE clients a second.
    #[arg(long, default_value = "together")]
    pub arrivals: Arrivals,
    /// fleet: sizes of the image's layers.
    #[arg(long, value_delimiter = ',', value_parser = parse_size,
        default_values = ["16MiB", "4MiB", "1MiB", "64KiB", "4KiB"])]
    pub layers: Vec<u64>,
    /// fleet: connections of a client that fetch layers; containerd has 3.
    #[arg(long, default_value_t = 3)]
    pub parallel: usize,
    /// herd: the blob that all ask for; another one in each round.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "32MiB")]
    pub blob_size: u64,
    /// herd: bytes a second that the upstream sends, over all its connections.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "100MiB")]
    pub upstream_rate: u64,
    /// herd: where the upstream listens. Needed for a cache that the bench does not start.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = any_port(), hide_default_value = true)]
    pub upstream_listen: SocketAddr,
    /// herd: clients beside the others that read slowly, and how slowly: 8:64KiB.
    #[arg(long, value_name = "K:BYTES_PER_S")]
    pub slow: Option<SlowReaders>,
    /// herd: share of the clients that vanish in the middle, from 0 to below 1.
    #[arg(long, value_name = "SHARE", value_parser = parse_share, default_value_t = 0.0)]
    pub vanish: f64,
    /// mixed: how often each kind of operation is chosen.
    #[arg(long, default_value = "pull=80,push=10,head=5,tags=5")]
    pub weights: Weights,
    /// mixed: replays a trace in the format of IBM's of FAST '18, in place of the weights.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// mixed: replays so many times as fast as it was recorded.
    #[arg(long, value_name = "TIMES", value_parser = parse_speed_up, default_value_t = 1.0)]
    pub speed_up: f64,
    /// mixed: replays only so many requests, the first ones.
    #[arg(long, value_name = "COUNT")]
    pub trace_requests: Option<usize>,
    /// What the content is made from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where results.json, report.md and report.html are written.
    #[arg(long, value_name = "DIRECTORY")]
    pub out: Option<PathBuf>,
    /// Prints the result as JSON in place of a table.
    #[arg(long)]
    pub json: bool,
}

/// A share below all.
fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..1.0).contains(share));
    share.ok_or_else(|| format!("{text}: a share is from 0 to below 1, like 0.25"))
}

fn parse_speed_up(text: &str) -> Result<f64, String> {
    let times = text.parse().ok().filter(|times: &f64| *times > 0.0 && times.is_finite());
    times.ok_or_else(|| format!("{text}: a number above 0, like 60"))
}

/// A size in bytes, with or without a unit.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| format!("{text}: a size is like 64KiB"))?;
    let unit = match text[digits..].trim() {
        "" | "B" => 1,
        "K" | "KiB" | "k" => 1 << 10,
        "M" | "MiB" | "m" => 1 << 20,
        "G" | "GiB" | "g" => 1 << 30,
        _ => return Err(format!("{text}: units are KiB, MiB and GiB")),
    };
    number.checked_mul(unit).ok_or_else(|| format!("{text}: too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4KiB"), Ok(4096));
        assert_eq!(parse_size("1 GiB"), Ok(1 << 30));
        assert_eq!(parse_size("17"), Ok(17));
        assert!(parse_size("4KB").is_err() && parse_size("x").is_err());
    }

    #[test]
    fn shares() {
        assert_eq!(parse_share("0.25"), Ok(0.25));
        assert!(parse_share("1").is_err() && parse_share("-0.1").is_err() && parse_share("nan").is_err());
        assert_eq!(parse_speed_up("60"), Ok(60.0));
        assert!(parse_speed_up("0").is_err() && parse_speed_up("inf").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
