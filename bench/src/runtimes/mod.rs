//! `gantry-bench runtimes`: bare loops that answer every request with the same body, on each runtime that Gantry could
//! stand on and with each way to send a file: the reasons for its choices, measured anew on any machine.
//!
//! A loop is a thread of this process with a listener of its own. It parses nothing, asks nobody and knows no limits.

mod loops;
mod sending;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process,
    sync::{Arc, mpsc},
    thread,
};

use oci::{Algorithm, Digest};

use crate::{
    args::Settings,
    compare,
    content::Noise,
    load, machine,
    registry::Registry,
    result::{Case, Outcome, PeerRounds, Round},
    scenarios::{get, pulls, size},
    subject::Subject,
};
use sending::Way;

/// What the figures can't say.
const NOT_SHOWN: &str = "A bare loop has no limits, no timers, no log and no disk that is slow, and what those cost \
    decides too: `gantry-bench compare blobs --peers gantry:uring,gantry:epoll` compares the whole server.";

/// A loop that can be measured.
#[derive(Clone, Copy)]
enum Loop {
    /// Plain epoll, to compare ways to send.
    Plain(Way),
    /// A runtime, with the body in memory.
    On(loops::Runtime),
}

/// What is served.
struct Answer {
    head: Vec<u8>,
    body: Vec<u8>,
    file: File,
}

/// A loop that runs, for as long as this process does.
struct Running {
    name: &'static str,
    subject: Subject,
    tid: i32,
}

/// Measures all of them. Gives whether every answer was right.
///
/// Errors: a sentence.
pub fn run(settings: Settings) -> Result<bool, String> {
    let settings = settings.placed(true);
    eprintln!("{NOT_SHOWN}");
    let mut cases = Vec::new();
    for length in &settings.sizes {
        let answer = Arc::new(Answer::new(settings.seed, *length)?);
        let runtimes = loops::ALL.map(|(name, runtime)| (name, Loop::On(runtime)));
        let ways = sending::ALL.map(|(name, way)| (name, Loop::Plain(way)));
        for (what, loops) in [("runtimes", &runtimes[..]), ("ways to send", &ways[..])] {
            let started: Result<Vec<Running>, String> =
                loops.iter().map(|(name, kind)| start(name, *kind, &answer, &settings)).collect();
            let started = started?;
            for connections in &settings.connections {
                let name = format!("{what}, {}, {connections} connections", size(*length));
                let mut case = settings.case("runtimes", name);
                (case.size_bytes, case.connections) = (Some(*length), Some(*connections));
                cases.push(measure(case, &started, &answer, &settings)?);
            }
        }
    }
    let mut about = machine::about();
    about.versions = BTreeMap::from([("not shown".to_owned(), NOT_SHOWN.to_owned())]);
    compare::finish(&settings, Outcome { about, cases, goals: Vec::new() })
}

impl Answer {
    fn new(seed: u64, length: u64) -> Result<Answer, String> {
        let body = Noise::new(seed, length).bytes();
        let path: PathBuf = std::env::temp_dir().join(format!("gantry-bench-runtimes-{}", process::id()));
        let written = File::create(&path).and_then(|mut file| file.write_all(&body));
        let opened = written.and_then(|()| File::open(&path));
        // It stays for as long as it is open.
        let _ = fs::remove_file(&path);
        let file = opened.map_err(|error| format!("{}: {error}", path.display()))?;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        Ok(Answer { head, body, file })
    }
}

fn start(
    name: &'static str,
    kind: Loop,
    answer: &Arc<Answer>,
    settings: &Settings,
) -> Result<Running, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("{name}: {error}"))?;
    let addr: SocketAddr = listener.local_addr().map_err(|error| format!("{name}: {error}"))?;
    let (answer, cpu) = (answer.clone(), settings.server_cpus.first().copied());
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        if let Some(cpu) = cpu {
            load::pin(cpu);
        }
        // Whoever started us waits for it.
        let _ = tell.send(rustix::thread::gettid().as_raw_pid());
        let ended = match kind {
            Loop::Plain(way) => sending::run(&listener, way, &answer),
            Loop::On(runtime) => loops::run(listener, runtime, &answer),
        };
        if let Err(error) = ended {
            eprintln!("{name} ended: {error}");
        }
    });
    let tid = told.recv().map_err(|_| format!("{name} did not start"))?;
    Ok(Running { name, subject: Subject::at(Registry::at(addr)), tid })
}

fn measure(mut case: Case, loops: &[Running], answer: &Answer, settings: &Settings) -> Result<Case, String> {
    let digest = Digest::of(Algorithm::Sha256, &answer.body);
    let peer = |running: &Running| PeerRounds { peer: running.name.to_owned(), rounds: Vec::new() };
    case.peers = loops.iter().map(peer).collect();
    for _ in 0..settings.rounds.max(1) {
        for (index, running) in loops.iter().enumerate() {
            let request = get(&running.subject, "/", "");
            let length = answer.body.len() as u64;
            let connections = case.connections.unwrap_or(1);
            let scripts = pulls(connections, &request, length, digest, settings.verify_every);
            let plan = settings.plan(&case, &running.subject);
            let (load, cpu_us) = load::run(
                &plan,
                scripts,
                |_, _, _| (),
                |sleep| {
                    let before = cpu_us(running.tid)?;
                    sleep();
                    Ok::<f64, String>(cpu_us(running.tid)? - before)
                },
            )?;
            let mut round: Round = load.round;
            round.cost.cpu_us = cpu_us?;
            round.client_bound = round.client_busy > 0.95 && round.cost.cpu_us / 1e6 < 0.9 * round.seconds;
            case.peers[index].rounds.push(round);
        }
    }
    Ok(case)
}

/// Processor time of a loop's thread and of the workers that a ring has made for it.
fn cpu_us(tid: i32) -> Result<f64, String> {
    let mut nanos = 0;
    let tasks = fs::read_dir("/proc/self/task").map_err(|error| format!("/proc/self/task: {error}"))?;
    for task in tasks.flatten() {
        let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let is_its = task.file_name().to_string_lossy() == tid.to_string();
        if is_its || comm.trim() == format!("iou-wrk-{tid}") {
            let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            nanos += stat.split_whitespace().next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    match nanos {
        0 => Err("the kernel does not count the time of threads, or the loop has ended".to_owned()),
        _ => Ok(nanos as f64 / 1e3),
    }
}
