//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::scenarios::NAMES;

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

/// A size in bytes, with or without a unit.
fn parse_size(text: &str) -> Result<u64, String> {
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
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
