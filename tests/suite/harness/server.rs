//! The real binary as a child process on a data directory.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{client::Client, content::wait_for, legs::Leg, temp::TempDir};

/// How a server is started.
#[derive(Clone)]
pub struct Launch {
    leg: Leg,
    listen: String,
    cores: usize,
    env: Vec<(String, String)>,
    args: Vec<String>,
    expected: Vec<String>,
    boot_id: Option<PathBuf>,
    descriptors: Option<u64>,
    config: Option<Arc<TempDir>>,
}

/// One running process. Dropping it kills it, reads its log to the end and removes its data directory.
pub struct Server {
    /// How it was started.
    pub launch: Launch,
    /// From `spawn` to the first 200 of `/readyz`.
    pub ready_after: Duration,
    addr: SocketAddr,
    child: Child,
    log: Log,
    readers: Vec<JoinHandle<()>>,
    data: Data,
}

/// Where the data is; kept over a restart.
enum Data {
    Own(Arc<TempDir>),
    Given(PathBuf),
}

type Log = Arc<Mutex<Vec<String>>>;

impl Launch {
    /// Two cores on this leg, everything else as it comes.
    pub fn on(leg: Leg) -> Launch {
        let listen = "127.0.0.1:0".to_owned();
        Launch {
            leg,
            listen,
            cores: 2,
            env: Vec::new(),
            args: Vec::new(),
            expected: Vec::new(),
            boot_id: None,
            descriptors: None,
            config: None,
        }
    }

    /// Sets one of `harness::setting`.
    pub fn set(mut self, name: &str, value: impl ToString) -> Launch {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Another number of cores.
    pub fn cores(mut self, cores: usize) -> Launch {
        self.cores = cores;
        self
    }

    /// Another address than a free port on the loopback.
    pub fn listen(mut self, address: &str) -> Launch {
        self.listen = address.to_owned();
        self
    }

    /// A further argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Launch {
        self.args.push(arg.into());
        self
    }

    /// Reads this configuration file, which is there as long as this or a server of it.
    pub fn config(mut self, text: &str) -> Launch {
        let dir = TempDir::new("config");
        std::fs::write(dir.path().join("gantry.toml"), text).expect("a file for the test");
        self.config = Some(Arc::new(dir));
        self
    }

    /// The file that it reads.
    #[track_caller]
    pub fn config_file(&self) -> PathBuf {
        self.config.as_ref().expect("it was given a text").path().join("gantry.toml")
    }

    /// A WARN or ERROR whose line holds `text` is no failure.
    pub fn expects_log(mut self, text: &str) -> Launch {
        self.expected.push(text.to_owned());
        self
    }

    /// Shows it this file in place of the kernel's boot id, in a mount namespace of its own. Needs root.
    pub fn boot_id(mut self, file: &Path) -> Launch {
        self.boot_id = Some(file.to_owned());
        self
    }

    /// Lets it have this many descriptors and no more.
    pub fn descriptors(mut self, most: u64) -> Launch {
        self.descriptors = Some(most);
        self
    }

    /// Starts it on a directory of its own and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Server {
        Server::spawn(self, Data::Own(Arc::new(TempDir::new("data")))).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Starts it on this directory, which stays when the server is gone.
    #[track_caller]
    pub fn start_on(self, data: &Path) -> Server {
        Server::spawn(self, Data::Given(data.to_owned())).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Starts it where it has to refuse; returns its exit status and all that it wrote.
    #[track_caller]
    pub fn refuses_on(self, data: &Path) -> (ExitStatus, String) {
        let mut command = self.command(data);
        let mut child = command.spawn().expect("the binary runs");
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("our child") {
                break status;
            }
            if start.elapsed() > Duration::from_secs(10) {
                let _ = child.kill();
                panic!("it started where it should have refused");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let mut said = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut said).expect("text");
        child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        (status, said)
    }

    fn command(&self, data: &Path) -> Command {
        let mut command = match (&self.boot_id, self.descriptors) {
            (_, Some(most)) => {
                let mut command = Command::new("sh");
                command.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &most.to_string()]);
                command.arg(env!("CARGO_BIN_EXE_gantry"));
                command
            }
            (None, None) => Command::new(env!("CARGO_BIN_EXE_gantry")),
            (Some(file), None) => {
                const SCRIPT: &str = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", SCRIPT]).arg(file).arg(env!("CARGO_BIN_EXE_gantry"));
                command
            }
        };
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GANTRY_")) {
            command.env_remove(name);
        }
        command.args(["serve", "--log-format", "json", "--io", self.leg.name(), "--listen", &self.listen]);
        command.arg("--cores").arg(self.cores.to_string()).arg("--data").arg(data).args(&self.args);
        if self.config.is_some() {
            command.arg("--config").arg(self.config_file());
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Server {
    /// A server with nothing set, on a directory of its own.
    #[track_caller]
    pub fn start(leg: Leg) -> Server {
        Launch::on(leg).start()
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Client {
        Client::new(self.addr, &self.data_dir().to_string_lossy())
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        match &self.data {
            Data::Own(temp) => temp.path(),
            Data::Given(path) => path,
        }
    }

    /// The file of a committed blob.
    pub fn blob_file(&self, digest: oci::Digest) -> PathBuf {
        let text = digest.to_string();
        let (algorithm, hex) = text.split_once(':').expect("a digest's text has a colon");
        self.data_dir().join("blobs").join(algorithm).join(hex)
    }

    /// The directories of upload sessions on disk.
    pub fn upload_dirs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.data_dir().join("uploads")).expect("uploads/ is there");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }

    /// The same, once there are as many as this: the names of a committed upload go after its 201.
    #[track_caller]
    pub fn upload_dirs_left(&self, count: usize) -> Vec<PathBuf> {
        let what = format!("{count} left under uploads/");
        wait_for(&what, || self.upload_dirs().len() == count);
        self.upload_dirs()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The JSON of `/healthz`.
    #[track_caller]
    pub fn health(&self) -> serde_json::Value {
        self.client().get("/healthz").json()
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no reader panicked").clone()
    }

    /// Resident memory in bytes, as the kernel counts it.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the kernel tells");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
    }

    /// Its descriptors that are open on something whose name in /proc starts so.
    pub fn descriptors(&self, on: &str) -> usize {
        let links = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").flatten();
        let names = links.filter_map(|link| std::fs::read_link(link.path()).ok());
        names.filter(|name| name.to_string_lossy().starts_with(on)).count()
    }

    /// Files of its data directory that it has open, and that have lost the name by which they were opened.
    pub fn deleted_files_open(&self) -> Vec<PathBuf> {
        self.deleted_open().map(|(_, name)| name).collect()
    }

    /// What they are.
    pub fn deleted_files_open_at(&self) -> impl Iterator<Item = std::fs::Metadata> {
        // One that was closed meanwhile is not open.
        self.deleted_open().filter_map(|(link, _)| std::fs::metadata(link).ok())
    }

    /// Their links in `/proc`, and what these say.
    fn deleted_open(&self) -> impl Iterator<Item = (PathBuf, PathBuf)> {
        let links = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").flatten();
        let named = links.filter_map(|link| Some((link.path(), std::fs::read_link(link.path()).ok()?)));
        named.filter(|(_, name)| {
            name.starts_with(self.data_dir()) && name.to_string_lossy().ends_with(" (deleted)")
        })
    }

    /// Stops the whole process for so long, wherever it is.
    pub fn pause(&self, time: Duration) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("a pid is above zero");
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("our child");
        std::thread::sleep(time);
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("our child");
    }

    /// Sends SIGTERM and does not wait.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("a pid is above zero");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our child");
    }

    /// Waits for the process to end by itself.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(start.elapsed() < limit, "still running {limit:?} later");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGTERM, and exit 0 within 35 s.
    #[track_caller]
    pub fn stop(mut self) {
        self.terminate();
        let status = self.wait(Duration::from_secs(35));
        assert!(status.success(), "SIGTERM ended it with {status}");
    }

    /// Leaves the process running until it ends by itself, which it has to do with exit 0 within `limit`.
    #[track_caller]
    pub fn ends_well(&mut self, limit: Duration) {
        let status = self.wait(limit);
        assert!(status.success(), "it ended with {status}");
    }

    /// kill -9, something done to the data while nobody runs, and a new process on it.
    #[track_caller]
    pub fn kill_meddle_restart(mut self, launch: Launch, meddle: impl FnOnce(&Path)) -> Server {
        self.kill();
        let data = self.data.share();
        meddle(self.data_dir());
        drop(self);
        Server::spawn(launch, data).unwrap_or_else(|why| panic!("after kill -9: {why}"))
    }

    /// kill -9, and a new process on the same data.
    #[track_caller]
    pub fn kill_and_restart(self) -> Server {
        let launch = self.launch.clone();
        self.kill_meddle_restart(launch, |_data| {})
    }

    /// SIGTERM, exit 0, and a new process on the same data.
    #[track_caller]
    pub fn restart(self) -> Server {
        let (launch, data) = (self.launch.clone(), self.data.share());
        self.stop();
        Server::spawn(launch, data).unwrap_or_else(|why| panic!("after a stop: {why}"))
    }

    /// kill -9; the data stays until this is dropped.
    pub fn kill(&mut self) {
        let _already_gone = self.child.kill();
        self.child.wait().expect("our child");
    }

    fn spawn(launch: Launch, data: Data) -> Result<Server, String> {
        let path = match &data {
            Data::Own(temp) => temp.path().to_owned(),
            Data::Given(path) => path.clone(),
        };
        let start = Instant::now();
        let mut child = launch.command(&path).spawn().expect("the binary runs");
        let log = Log::default();
        let (said, listening) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let stderr_log = log.clone();
        let readers = vec![
            std::thread::spawn(move || {
                for line in stdout.lines().map_while(Result::ok) {
                    if let Some(addr) = listen_address(&line) {
                        let _ = said.send(addr);
                    }
                }
            }),
            std::thread::spawn(move || {
                for line in stderr.lines().map_while(Result::ok) {
                    stderr_log.lock().expect("nobody panics holding it").push(line);
                }
            }),
        ];
        let addr = listening.recv_timeout(Duration::from_secs(20));
        let addr = addr.unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 0)));
        let ready_after = Duration::ZERO;
        let mut server = Server { launch, ready_after, addr, child, log, readers, data };
        while start.elapsed() < Duration::from_secs(20) && addr.port() != 0 {
            let mut client = server.client();
            let answer = client.connect().and_then(|()| client.request("GET", "/readyz").try_send());
            if answer.is_ok_and(|answer| answer.status == 200) {
                server.ready_after = start.elapsed();
                return Ok(server);
            }
            if server.child.try_wait().expect("our child").is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut why = String::from("the server does not get ready");
        server.kill();
        for line in server.take_log() {
            let _ = write!(why, "\n  {line}");
        }
        Err(why)
    }

    /// Everything logged, once the process has ended.
    fn take_log(&mut self) -> Vec<String> {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        std::mem::take(&mut *self.log.lock().expect("no reader panicked"))
    }
}

impl Data {
    fn share(&self) -> Data {
        match self {
            Data::Own(temp) => Data::Own(temp.clone()),
            Data::Given(path) => Data::Given(path.clone()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let log = self.take_log();
        if std::thread::panicking() {
            let tail = log.len().saturating_sub(40);
            eprintln!("the server's log ends so:\n  {}", log[tail..].join("\n  "));
            return;
        }
        let expected = |line: &String| self.launch.expected.iter().any(|text| line.contains(text));
        let bad: Vec<&String> = log.iter().filter(|line| alarming(line) && !expected(line)).collect();
        assert!(bad.is_empty(), "unexpected in the server's log: {bad:#?}");
    }
}

/// A WARN, an ERROR, or a line that no logger wrote (a panic's message).
fn alarming(line: &str) -> bool {
    let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { return !line.trim().is_empty() };
    let level = event["level"].as_str().unwrap_or("ERROR");
    level.eq_ignore_ascii_case("warn") || level.eq_ignore_ascii_case("error")
}

/// The address in the start's `listening on 127.0.0.1:PORT`.
fn listen_address(line: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once("listening on ")?;
    let text = after.trim_start_matches("http://").split([' ', ',', '/']).next()?;
    text.parse().ok()
}
