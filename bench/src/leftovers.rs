//! What must not outlive this program: servers that it started, and what it wrote into the folder for temporary files.
//!
//! Owns: the list of both. What is dropped takes itself off it; SIGINT and SIGTERM end and remove all that is on it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{self, Child, Command},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::cost;

/// How long servers may take to end before they are killed.
const STOP_MAX: Duration = Duration::from_secs(5);
/// How often they are looked at meanwhile.
const STOP_LOOK: Duration = Duration::from_millis(5);

struct List {
    dirs: Vec<PathBuf>,
    servers: Vec<u32>,
}

static LIST: Mutex<List> = Mutex::new(List { dirs: Vec::new(), servers: Vec::new() });

fn list() -> MutexGuard<'static, List> {
    LIST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory that goes when nobody needs it.
#[derive(Debug)]
pub struct Dir(pub PathBuf);

impl Dir {
    /// A fresh one in `parent`, or in the system's folder for temporary files. `name` is part of its name.
    ///
    /// Errors: a sentence.
    pub fn make(name: &str, parent: Option<&Path>) -> Result<Dir, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let parent = parent.map_or_else(env::temp_dir, Path::to_owned);
        let absolute = std::path::absolute(&parent).unwrap_or(parent);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let word: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let dir = absolute.join(format!("gantry-bench-{}-{count}-{word}", process::id()));
        let mut list = list();
        match fs::create_dir_all(&absolute).and_then(|()| fs::create_dir(&dir)) {
            Ok(()) => {
                list.dirs.push(dir.clone());
                Ok(Dir(dir))
            }
            Err(error) => Err(format!("{}: {error}", dir.display())),
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let mut list = list();
        remove(&self.0);
        list.dirs.retain(|dir| *dir != self.0);
    }
}

fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir) {
        eprintln!("{} is left behind: {error}", dir.display());
    }
}

/// Starts a server. Whoever does ends it by [`end`] and then waits for it.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut list = list();
    let child = command.spawn()?;
    list.servers.push(child.id());
    Ok(child)
}

/// Ends these servers, politely first. They are not waited for: their numbers stay theirs.
pub fn end(servers: &[u32]) {
    let mut list = list();
    end_all(servers);
    list.servers.retain(|server| !servers.contains(server));
}

fn end_all(servers: &[u32]) {
    let signal = |pid: u32, signal| {
        // It may have ended by itself: then there is nobody to tell.
        let _ = Pid::from_raw(pid.cast_signed()).map(|pid| kill_process(pid, signal));
    };
    let runs = |server: &&u32| {
        let pid = Pid::from_raw(server.cast_signed());
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        pid.is_some_and(|pid| matches!(waitid(WaitId::Pid(pid), look), Ok(None)))
    };
    servers.iter().filter(runs).for_each(|server| signal(*server, Signal::TERM));
    let until = Instant::now() + STOP_MAX;
    while servers.iter().any(|server| runs(&server)) && Instant::now() < until {
        thread::sleep(STOP_LOOK);
    }
    for server in servers.iter().filter(runs) {
        for pid in cost::tree(*server).unwrap_or_default() {
            signal(pid, Signal::KILL);
        }
    }
}

/// From now on SIGINT and SIGTERM end the program, and all that is on the list before it.
///
/// Errors: the system has no room for that.
pub fn go_on_signals() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // Held until the end, so that nothing is started or removed beside this.
            let list = list();
            end_all(&list.servers);
            list.dirs.iter().for_each(|dir| remove(dir));
            process::exit(128 + signal);
        }
    })?;
    Ok(())
}
