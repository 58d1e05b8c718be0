//! `gantry`: one binary, its commands, and their exit status (0 done, 1 not done, 2 not understood).

mod args;
mod cache;
mod config;
mod data;
mod doctor;
mod limits;
mod log;
mod mirror_config;
mod planes;
mod start;
mod stop;

use std::{env, fmt, io::Write, path::Path, process::ExitCode};

use clap::Parser;

use args::{Cli, Command, ConfigCommand, Options};
use cache::CacheFailure;
use config::{Config, Mistake, RawConfig};
use doctor::Finding;
use mirror_config::NoMirror;
use start::StartError;

/// What ended a command.
enum Failure {
    Mistakes(Vec<Mistake>),
    Start(StartError),
    Mirror(NoMirror),
    Cache(CacheFailure),
    /// The doctor has said what is to be done.
    Unwell,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Mistakes(mistakes) => {
                for (n, mistake) in mistakes.iter().enumerate() {
                    write!(f, "{}gantry: {mistake}", if n == 0 { "" } else { "\n" })?;
                }
                Ok(())
            }
            Failure::Start(error) => write!(f, "gantry: {error}"),
            Failure::Mirror(error) => write!(f, "gantry: {error}"),
            Failure::Cache(error) => write!(f, "gantry: {error}"),
            Failure::Unwell => f.write_str("gantry: something is to be done"),
        }
    }
}

impl From<CacheFailure> for Failure {
    fn from(failure: CacheFailure) -> Failure {
        Failure::Cache(failure)
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(options) => start::serve(&effective(options)?).map_err(Failure::Start),
        Command::Config(ConfigCommand::Check { file }) => check(&file),
        Command::Config(ConfigCommand::Print(options)) => {
            let config = effective(options)?;
            warn(&config);
            say(&config.print());
            Ok(())
        }
        Command::MirrorConfig { client, url, options } => {
            let config = effective(options)?;
            let text = mirror_config::print(client, &config, url.as_deref()).map_err(Failure::Mirror)?;
            say(&text);
            if let Some(remark) = mirror_config::remark(client, &config) {
                eprintln!("gantry: note: {remark}");
            }
            Ok(())
        }
        Command::Cache(command) => {
            let options = Options::of_file(command.reach().config.clone());
            cache::run(command, || effective(options).map(|config| config.listen))
        }
        Command::Doctor { clear_disk_error: true, options } => {
            let done = start::clear_disk_error(&effective(options)?).map_err(Failure::Start)?;
            say(&format!("{done}\n"));
            Ok(())
        }
        Command::Doctor { clear_disk_error: false, options } => {
            let config = effective(options)?;
            warn(&config);
            let findings = doctor::examine(&config);
            say(&findings.iter().map(|finding| format!("{finding}\n")).collect::<String>());
            if findings.iter().any(Finding::is_to_be_done) { Err(Failure::Unwell) } else { Ok(()) }
        }
    }
}

fn warn(config: &Config) {
    for warning in &config.warnings {
        eprintln!("gantry: warning: {warning}");
    }
}

/// The file alone, whatever the environment says.
fn check(file: &Path) -> Result<(), Failure> {
    let mut raw = RawConfig::default();
    raw.read_file(file).map_err(|mistake| Failure::Mistakes(vec![mistake]))?;
    let config = Config::try_from(raw).map_err(Failure::Mistakes)?;
    warn(&config);
    if let Some(refusal) = start::refusal(&config) {
        eprintln!("gantry: warning: {refusal}");
    }
    say(&format!("{}: right\n", file.display()));
    Ok(())
}

fn effective(options: Options) -> Result<Config, Failure> {
    let raw = options.gather(env::vars_os()).map_err(|mistake| Failure::Mistakes(vec![mistake]))?;
    Config::try_from(raw).map_err(Failure::Mistakes)
}

/// To stdout; a reader that has gone is none of our business.
fn say(text: &str) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
