//! The servers that are compared: each is started in a directory of its own, found ready, and ended with its data.
//!
//! Owns: a peer's process and its directory (`Peer`). Its name on the command line is `words`.
//! A built-in peer is a `recipe` in code, any other one in a TOML file; both are started here and nowhere else.

mod distribution;
mod gantry;
mod nginx;
mod ready;
mod recipe;
mod words;

use std::{
    env, fs,
    fs::File,
    io::{self, Read},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use oci::Digest;
use serde::Deserialize;

use crate::leftovers::{self, Dir};
use recipe::{Place, Recipe};
use words::Words;

/// How a server gets its blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// They are pushed.
    #[default]
    Registry,
    /// They are placed as files: `Peer::place_blob`.
    Files,
    /// It fetches them from the upstream that it was started with.
    #[serde(skip)]
    Proxy,
}

/// What holds for every peer of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Processors that the server may use; `None`: all.
    pub cpus: Option<Vec<usize>>,
    /// Where its directory is made; `None`: the system's folder for temporary files.
    pub data_parent: Option<PathBuf>,
    /// Threads (nginx: processes) that serve; `None`: as many as `cpus`, one without those.
    pub threads: Option<usize>,
    /// An event in its log for each request, unless its name says `log` or `nolog`.
    pub access_log: bool,
}

/// How long a server may take until it is ready.
const READY_MAX: Duration = Duration::from_secs(20);
/// How often it is asked whether it is.
const READY_LOOK: Duration = Duration::from_millis(1);
/// How much of what a server said before it failed is shown.
const TAIL_LINES: usize = 12;

/// A server of ours. It ends, and its directory is removed, when this is dropped or the thread that started it ends.
#[derive(Debug)]
pub struct Peer {
    recipe: Recipe,
    addr: SocketAddr,
    version: String,
    child: Child,
    command: Command,
    dir: Dir,
    data: PathBuf,
}

impl Peer {
    /// As in tables: `gantry:epoll`.
    pub fn name(&self) -> &str {
        &self.recipe.name
    }

    /// Where it listens, on 127.0.0.1.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The root of its process tree.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it keeps its blobs.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// How it gets them.
    pub fn kind(&self) -> Kind {
        self.recipe.kind
    }

    /// The path of a blob's GET.
    pub fn blob_target(&self, repository: &str, digest: &Digest) -> String {
        self.recipe.blob.replace("{repository}", repository).replace("{digest}", &digest.to_string())
    }

    /// Puts a blob where `Kind::Files` serves it from. Any other kind is an error.
    pub fn place_blob(&self, digest: &Digest, bytes: &mut dyn Read) -> io::Result<()> {
        if self.recipe.kind != Kind::Files {
            let why = format!("{} serves no files: push the blob, or have it fetched", self.name());
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let place = Place { port: self.addr.port(), dir: &self.dir.0, data: &self.data, threads: 0 };
        let path = PathBuf::from(place.fill(&self.recipe.place.replace("{digest}", &digest.to_string())));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        io::copy(bytes, &mut File::create(path)?).map(drop)
    }

    /// What it says its version is.
    pub fn version(&self) -> &str {
        &self.version
    }
}

/// Starts the server that `spec` names and waits until it answers.
///
/// `spec` is a built-in peer with words after colons (`gantry:epoll:log:cores=2`, `nginx:proxy=http://HOST:PORT`) or
/// the path of a TOML file. The error is a sentence for the user.
pub fn start(spec: &str, options: &Options) -> Result<Peer, String> {
    let (mut recipe, threads) = named(spec, options)?;
    let dir = Dir::make(&recipe.name, options.data_parent.as_deref())?;
    let data = dir.0.join("data");
    let port = free_port().map_err(|error| format!("no free port on 127.0.0.1: {error}"))?;
    let place = Place { port, dir: &dir.0, data: &data, threads };

    let written = |path: &Path, error| format!("{}: {error}", path.display());
    fs::create_dir(&data).map_err(|error| written(&data, error))?;
    for (name, content) in &recipe.files {
        let path = dir.0.join(name);
        fs::write(&path, place.fill(content)).map_err(|error| written(&path, error))?;
    }
    let log = dir.0.join("stderr");
    let stderr = File::create(&log).map_err(|error| written(&log, error))?;
    let stdout = stderr.try_clone().map_err(|error| written(&log, error))?;

    let words = launch(&recipe, options, &place)?;
    let version = version(&recipe.version).unwrap_or_else(|| "unknown".to_owned());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    // Ours, not Gantry's: it would warn of it.
    command.env_remove("GANTRY_BIN");
    command.envs(recipe.env.iter().map(|(name, value)| (name, place.fill(value))));
    recipe.ready = place.fill(&recipe.ready);
    let child = spawn(&mut command, &recipe)?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut peer = Peer { addr, version, child, command, data, recipe, dir };
    peer.wait_until_ready()?;
    ready::only_listener(peer.pid(), port)
        .map_err(|error| format!("{} on port {port}: {error}", peer.name()))?;
    Ok(peer)
}

fn spawn(command: &mut Command, recipe: &Recipe) -> Result<Child, String> {
    leftovers::spawn(command).map_err(|error| format!("{} does not start: {error}", recipe.name))
}

impl Peer {
    /// Ends it and starts it again with the data that it has. Gives the time from the start until it was ready.
    /// The error is a sentence for the user.
    pub fn restart(&mut self) -> Result<Duration, String> {
        self.stop();
        let began = Instant::now();
        self.child = spawn(&mut self.command, &self.recipe)?;
        self.wait_until_ready()?;
        Ok(began.elapsed())
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let log = self.dir.0.join("stderr");
        let path = self.recipe.ready.clone();
        let end = Instant::now() + READY_MAX;
        let name = self.recipe.name.clone();
        loop {
            if let Some(status) = self.child.try_wait().map_err(|error| format!("{name}: {error}"))? {
                return Err(format!("{name} ended before it was ready ({status}). It said:\n{}", tail(&log)));
            }
            let why = match ready::status(self.addr, &path) {
                Ok(status) if status < 500 => return Ok(()),
                Ok(status) => format!("{path} answers {status}"),
                Err(error) => error.to_string(),
            };
            if Instant::now() > end {
                let seconds = READY_MAX.as_secs();
                return Err(format!(
                    "{name} is not ready after {seconds} s ({why}). It said:\n{}",
                    tail(&log)
                ));
            }
            thread::sleep(READY_LOOK);
        }
    }

    fn stop(&mut self) {
        leftovers::end(&[self.pid()]);
        // It has ended: this only takes it off the system's list.
        let _ = self.child.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The recipe, and the threads that it should serve with.
fn named(spec: &str, options: &Options) -> Result<(Recipe, usize), String> {
    if spec.ends_with(".toml") || spec.contains('/') && !spec.contains(":proxy=") {
        let text = fs::read_to_string(spec).map_err(|error| format!("the peer in {spec}: {error}"))?;
        return Ok((Recipe::parse(&text, spec)?, Words::parse("", options)?.threads));
    }
    let peer = spec.split(':').next().unwrap_or_default();
    let words = Words::parse(spec, options)?;
    let recipe = match peer {
        "gantry" => self::gantry::recipe(&words)?,
        "nginx" => nginx::recipe(&words),
        "docker-registry" => distribution::recipe("docker-registry", &words)?,
        "distribution" => distribution::recipe("registry", &words)?,
        "zot" => Recipe {
            name: spec.to_owned(),
            ..Recipe::parse(include_str!("../../peers/zot.toml"), "bench/peers/zot.toml")?
        },
        _ => {
            return Err(format!(
                "no peer is called {spec:?}: gantry, nginx, docker-registry, distribution and zot are built in, any \
                 other is the path of a TOML file like those in bench/peers/"
            ));
        }
    };
    Ok((recipe, words.threads))
}

/// The words to execute: the server's command, tied to the life of our thread and to its processors.
fn launch(recipe: &Recipe, options: &Options, place: &Place) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    // A server that outlives a run that was killed would share the machine with the next one.
    if let Some(setpriv) = program("setpriv") {
        words.extend([setpriv, "--pdeathsig".to_owned(), "TERM".to_owned()]);
    }
    if let Some(cpus) = &options.cpus {
        let taskset =
            program("taskset").ok_or("taskset is not on PATH: install util-linux, or pin nothing")?;
        let list: Vec<String> = cpus.iter().map(usize::to_string).collect();
        words.extend([taskset, "-c".to_owned(), list.join(",")]);
    }
    let server = place.fill(&recipe.command[0]);
    let found = program(&server).ok_or_else(|| {
        format!("{server} is not on PATH: install it, or leave {} out of the peers", recipe.name)
    })?;
    words.push(found);
    words.extend(recipe.command[1..].iter().map(|word| place.fill(word)));
    Ok(words)
}

/// Where a program is; servers are often where only root looks.
fn program(name: &str) -> Option<String> {
    if name.contains('/') {
        return Path::new(name).is_file().then(|| name.to_owned());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    let mut places = folders.map(|folder| folder.join(name));
    places.find(|place| place.is_file()).map(|place| place.to_string_lossy().into_owned())
}

/// The first line that a command says.
fn version(command: &[String]) -> Option<String> {
    let (name, args) = command.split_first()?;
    let output = Command::new(program(name)?).args(args).stdin(Stdio::null()).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    said.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn tail(log: &Path) -> String {
    let said = fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().collect();
    match lines.len().saturating_sub(TAIL_LINES) {
        _ if lines.is_empty() => "nothing".to_owned(),
        start => lines[start..].join("\n"),
    }
}

#[cfg(test)]
mod tests;
