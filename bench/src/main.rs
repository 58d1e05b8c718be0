//! A load generator and comparer for OCI registries.
//!
//! `args` says what is wanted, `scenarios` what is measured, `peers` and `subject` on whom, `load` puts the requests
//! on the wire, and `report` shows what came of it.

mod args;
mod client;
mod clients;
mod compare;
mod content;
mod cost;
mod goals;
mod image;
mod leftovers;
mod load;
mod machine;
mod peers;
mod registry;
mod report;
mod result;
#[cfg(feature = "runtimes")]
mod runtimes;
mod scenarios;
mod subject;
mod upstream;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    match leftovers::go_on_signals().map_err(|error| error.to_string()).and_then(|()| run(command)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("gantry-bench: {why}");
            ExitCode::from(2)
        }
    }
}

/// Whether every answer was right. Errors: a sentence.
fn run(command: Command) -> Result<bool, String> {
    match command {
        Command::Run { scenario, target, user, settings } => {
            compare::target(&scenario, &target, user.as_deref(), settings)
        }
        #[cfg(feature = "runtimes")]
        Command::Runtimes { settings } => runtimes::run(settings),
        Command::Goals { only, quick, settings } => goals::run(&only, quick, settings),
        Command::Compare { scenario, peers, settings } => compare::peers(&scenario, &peers, settings),
    }
}
