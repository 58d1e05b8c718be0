//! One client at work: where its program is, what it sees of the machine, and what it said.
//!
//! Owns: a folder with everything that the client writes, and the daemons of a test.
//! Invariants: a program gets a closed environment whose home, configuration and storage are in the folder;
//! each has a time limit; only processes started here are ended.

use std::{
    ffi::OsStr,
    fmt, fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::harness::{TempDir, lacks};

/// The longest that one command of a client may take: a large image, on a busy machine.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);
const DAEMON_START_TIMEOUT: Duration = Duration::from_secs(60);
const DAEMON_STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A client's folder. A new one is a machine on which the client has never run.
pub struct Desk {
    commands: AtomicU32,
    folder: TempDir,
}

/// What a command wrote.
pub struct Said {
    pub out: Vec<u8>,
    err: Vec<u8>,
}

/// A client's own daemon; SIGTERM as it is dropped, so that it unmounts what it mounted.
pub struct Daemon {
    child: Child,
}

/// Whether the machine has all of `programs`; otherwise a line says what it lacks.
pub fn has_programs(programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|name| program(name).is_none()).collect();
    if !missing.is_empty() {
        lacks("clients", &format!("no {}; tests/clients/install brings them", missing.join(", no ")));
    }
    missing.is_empty()
}

/// Likewise for clients that mount, own files of others or start containers.
pub fn has_programs_as_root(programs: &[&str]) -> bool {
    if !geteuid().is_root() {
        lacks("root", &format!("{} cannot run", programs.join(", ")));
        return false;
    }
    has_programs(programs)
}

impl Desk {
    /// An empty one, with what podman, buildah and skopeo read.
    pub fn new() -> Desk {
        let desk = Desk { commands: AtomicU32::new(0), folder: TempDir::new("client") };
        desk.write_configuration();
        desk
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path in the folder, as an argument.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Makes a folder in the folder.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Writes a file into the folder.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Runs a program to its end in the folder; it has to succeed.
    #[track_caller]
    pub fn run(&self, name: &str, args: &[&str]) -> Said {
        self.run_in(".", name, args)
    }

    /// Runs a program to its end in a folder of the folder; it has to succeed.
    #[track_caller]
    pub fn run_in(&self, place: &str, name: &str, args: &[&str]) -> Said {
        let (status, said) = self.finish(place, name, args);
        assert!(status.success(), "{name} {} ended with {status}:\n{said}", args.join(" "));
        said
    }

    /// Runs a program to its end; it has to fail.
    #[track_caller]
    pub fn fails(&self, name: &str, args: &[&str]) -> Said {
        let (status, said) = self.finish(".", name, args);
        assert!(!status.success(), "{name} {} should have failed:\n{said}", args.join(" "));
        said
    }

    /// Unpacks a tar of the folder into a new folder of the folder.
    #[track_caller]
    pub fn unpack(&self, tar: &str, to: &str) {
        self.folder(to);
        self.run("tar", &["-xf", &self.text(tar), "-C", &self.text(to), "--no-same-owner"]);
    }

    #[track_caller]
    fn finish(&self, place: &str, name: &str, args: &[&str]) -> (ExitStatus, Said) {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (self.path(&format!("said/{number}.out")), self.path(&format!("said/{number}.err")));
        let mut command = self.command(name, args);
        command.current_dir(self.path(place));
        let mut child = command.stdout(create(&out)).stderr(create(&err)).spawn().unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > COMMAND_TIMEOUT {
                let _already_gone = child.kill();
                let _ = child.wait();
                let said = Said::read(&out, &err);
                panic!("{name} {} is not done after {COMMAND_TIMEOUT:?}:\n{said}", args.join(" "));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        println!("{:6.2} s  {name} {}", begun.elapsed().as_secs_f32(), args.join(" "));
        (status, Said::read(&out, &err))
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program(name).unwrap_or_else(|| panic!("{name} is not installed")));
        command.args(args).stdin(Stdio::null()).env_clear().envs([
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LANG", "C.UTF-8"),
            // The legacy builder is in every docker; BuildKit has a test of its own.
            ("DOCKER_BUILDKIT", "0"),
            ("DOCKER_CLI_EXPERIMENTAL", "enabled"),
            ("COSIGN_PASSWORD", ""),
            ("COSIGN_EXPERIMENTAL", "1"),
            // Nobody listens there: keys are local, and nothing is fetched from outside.
            ("TUF_MIRROR", "http://127.0.0.1:1"),
        ]);
        let places = [
            ("HOME", "home"),
            ("TMPDIR", "tmp"),
            ("XDG_CONFIG_HOME", "home/.config"),
            ("XDG_CACHE_HOME", "home/.cache"),
            ("XDG_DATA_HOME", "home/.local/share"),
            ("XDG_RUNTIME_DIR", "run"),
            ("DOCKER_CONFIG", "home/.docker"),
            ("TUF_ROOT", "home/.sigstore"),
            ("CONTAINERS_CONF", "home/containers.conf"),
            ("CONTAINERS_STORAGE_CONF", "home/storage.conf"),
            ("CONTAINERS_REGISTRIES_CONF", "home/registries.conf"),
        ];
        command.envs(places.map(|(name, place)| (name, self.path(place))));
        command
    }

    /// What podman, buildah and skopeo read.
    fn write_configuration(&self) {
        for place in ["tmp", "run", "said"] {
            self.folder(place);
        }
        // Who may log in where: nobody, nowhere.
        self.write("home/.docker/config.json", "{}");
        self.write("home/registries.conf", "unqualified-search-registries = []\n");
        let accept = "{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}";
        self.write("home/.config/containers/policy.json", accept);
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\nrunroot = {:?}\ngraphroot = {:?}\n",
            self.path("run/storage"),
            self.path("storage"),
        );
        self.write("home/storage.conf", &storage);
        // No systemd, no journal, and no locks in the machine's shared memory.
        let engine = format!(
            "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nlock_type = \"file\"\n\
             tmp_dir = {:?}\n",
            self.path("run/libpod"),
        );
        self.write("home/containers.conf", &engine);
    }
}

impl Daemon {
    /// Starts it and waits until it takes connections on `socket`.
    #[track_caller]
    pub fn start(desk: &Desk, name: &str, args: &[&str], socket: &Path) -> Daemon {
        Daemon::start_until(desk, name, args, |_log| UnixStream::connect(socket).ok()).0
    }

    /// Starts it and waits for what `ready` finds, who is shown what it has written so far.
    #[track_caller]
    pub fn start_until<T>(
        desk: &Desk,
        name: &str,
        args: &[&str],
        ready: impl Fn(&str) -> Option<T>,
    ) -> (Daemon, T) {
        let log = desk.path(&format!("said/{}.log", name.replace('/', "-")));
        let out = create(&log);
        let err = out.try_clone().unwrap();
        let child = desk.command(name, args).stdout(out).stderr(err).spawn().unwrap();
        let mut daemon = Daemon { child };
        let begun = Instant::now();
        loop {
            let log = fs::read_to_string(&log).unwrap_or_default();
            if let Some(found) = ready(&log) {
                println!("{:6.2} s  {name} listens", begun.elapsed().as_secs_f32());
                return (daemon, found);
            }
            let ended = daemon.child.try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < DAEMON_START_TIMEOUT,
                "{name} does not listen ({ended:?}):\n{log}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _already_gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < DAEMON_STOP_TIMEOUT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _already_gone = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Said {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Both streams as text; clients differ in where they put what they tell a person.
    pub fn all(&self) -> String {
        format!("{}{}", self.text(), String::from_utf8_lossy(&self.err))
    }

    /// The last line of standard output.
    #[track_caller]
    pub fn line(&self) -> String {
        self.text().lines().last().unwrap_or_else(|| panic!("nothing on standard output:\n{self}")).to_owned()
    }

    /// How many lines of either stream hold `part`.
    pub fn lines_with(&self, part: &str) -> usize {
        self.all().lines().filter(|line| line.contains(part)).count()
    }

    /// What follows the last `digest: ` or `Digest: ` of either stream.
    #[track_caller]
    pub fn digest(&self) -> String {
        let all = self.all();
        let found = all.lines().rev().find_map(|line| {
            let after = line.split_once("igest: ")?.1;
            after.split_whitespace().next().filter(|digest| digest.starts_with("sha256:"))
        });
        found.unwrap_or_else(|| panic!("no digest in:\n{all}")).to_owned()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("{error}:\n{self}"))
    }

    fn read(out: &Path, err: &Path) -> Said {
        Said { out: fs::read(out).unwrap(), err: fs::read(err).unwrap() }
    }
}

/// The end of what was said: what a failed assertion shows.
impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.all();
        let lines: Vec<&str> = all.lines().collect();
        f.write_str(&lines[lines.len().saturating_sub(40)..].join("\n"))
    }
}

/// Where a program is: built by `tests/clients/install`, else Debian's, else on `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = [built, "/usr/bin", "/usr/sbin", "/bin"].map(PathBuf::from);
    places
        .into_iter()
        .chain(std::env::split_paths(OsStr::new(&path)))
        .map(|place| place.join(name))
        .find(|path| path.is_file())
}

#[track_caller]
fn create(path: &Path) -> fs::File {
    fs::File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
