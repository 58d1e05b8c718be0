//! The whole data plane in this process, on lanes that a test empties when it likes, and a client for it.

use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use control::{Ask, Cache, Control, Epochs, Forward, Lane, Lanes, Writes};
use dataplane::{
    CacheSize, IoChoice, Joints, Running, Settings,
    limits::{CACHE_ASKS_MAX, EPOCH_SLOTS, FORWARDS_MAX, Limits, QUESTIONS_MAX},
    testing::{Driver, Faults},
};

use oci::{Namespace, Namespaces};

use crate::rig::{Place, wait_for};

/// What is kept does not depend on how full the machine of the test is.
const ON_ANY_DISK: CacheSize = CacheSize::Bytes(1 << 30);

/// A core, mostly one, and nobody who answers it until a test has said how.
pub struct Plane {
    pub place: Arc<Place>,
    pub control: Control,
    pub cache: Cache,
    pub faults: Faults,
    running: Running,
    questions: Option<Lane<Ask>>,
    forwards: Option<Lane<Forward>>,
    threads: Vec<JoinHandle<()>>,
}

impl Plane {
    /// As by default, but for what a test would only wait for.
    pub fn limits() -> Limits {
        Limits { filled_wait: Duration::from_millis(50), ..Limits::default() }
    }

    pub fn start(leg: Driver) -> Plane {
        Plane::over(Arc::new(Place::new()), leg, false, Plane::limits())
    }

    /// With these limits, and maybe with an access log, of which nobody sees anything. It caches nothing.
    pub fn with(leg: Driver, access_log: bool, limits: Limits) -> Plane {
        Plane::make(Arc::new(Place::new()), leg, access_log, limits, None, CacheSize::NONE, 1)
    }

    /// With a cache of so many bytes.
    pub fn caching(place: Arc<Place>, leg: Driver, cache_bytes: u64) -> Plane {
        Plane::make(place, leg, false, Plane::limits(), None, CacheSize::Bytes(cache_bytes), 1)
    }

    /// With this much of a blob of its upstream completed without a reader.
    pub fn completing(leg: Driver, percent: Option<u8>) -> Plane {
        Plane::make(Arc::new(Place::new()), leg, false, Plane::limits(), percent, ON_ANY_DISK, 1)
    }

    /// A process that finds what an earlier one left in `place`.
    pub fn over(place: Arc<Place>, leg: Driver, access_log: bool, limits: Limits) -> Plane {
        Plane::make(place, leg, access_log, limits, None, ON_ANY_DISK, 1)
    }

    /// With so many cores.
    pub fn of_cores(leg: Driver, cores: usize) -> Plane {
        Plane::make(Arc::new(Place::new()), leg, false, Plane::limits(), None, ON_ANY_DISK, cores)
    }

    fn make(
        place: Arc<Place>,
        leg: Driver,
        access_log: bool,
        limits: Limits,
        complete_percent: Option<u8>,
        cache: CacheSize,
        cores: usize,
    ) -> Plane {
        let faults = Faults::recording();
        let (control, Lanes { questions, forwards }) = Control::lanes(QUESTIONS_MAX, FORWARDS_MAX);
        let settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            data: place.path(""),
            cores,
            io: match leg {
                Driver::Uring => IoChoice::Uring,
                Driver::Epoll => IoChoice::Epoll,
            },
            access_log,
            reserve_bytes: 1 << 20,
            limits: Limits { connections: 1_000_000, requests_per_connection: u32::MAX, ..limits },
            namespaces: Arc::new(two_upstreams()),
            complete_percent: vec![complete_percent; 2],
            cache,
        };
        let (cache, cache_asks) = Cache::lane(CACHE_ASKS_MAX);
        let joints = Joints {
            control: control.clone(),
            cache: cache_asks,
            epochs: Arc::new(Epochs::new(EPOCH_SLOTS)),
            writes: Arc::new(Writes::allowed(Box::new(|_, _| {}))),
            failed: Arc::new(|why| panic!("{why}")),
            // One of these the tests can pin.
            pinned: Arc::new(|origin| origin.repository.as_str() == "library/pinned"),
            faults: faults.clone(),
        };
        let mut home = |digests: Vec<oci::Digest>| Ok(vec![None; digests.len()]);
        let running = dataplane::start(settings, joints, &mut home).unwrap();
        let (questions, forwards) = (Some(questions), Some(forwards));
        Plane { place, control, cache, faults, running, questions, forwards, threads: Vec::new() }
    }

    /// From now on questions are answered, one after the other.
    pub fn answer(&mut self, mut one: impl FnMut(Ask) + Send + 'static) {
        let mut lane = self.questions.take().unwrap();
        self.threads.push(thread::spawn(move || {
            while let Some(ask) = wait_for(lane.recv()) {
                one(ask);
            }
        }));
    }

    /// From now on forwarded requests are answered, one after the other.
    pub fn reply(&mut self, mut one: impl FnMut(Forward) + Send + 'static) {
        let mut lane = self.forwards.take().unwrap();
        self.threads.push(thread::spawn(move || {
            while let Some(forward) = wait_for(lane.recv()) {
                one(forward);
            }
        }));
    }

    pub fn client(&self) -> Client {
        let stream = TcpStream::connect(self.running.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, unread: Vec::new() }
    }

    /// The value of a sample that has no labels.
    pub fn metric(&self, name: &str) -> u64 {
        self.sample(name)
    }

    /// The value of the one sample of this name and these labels.
    pub fn sample(&self, name: &str) -> u64 {
        let mut text = String::new();
        self.running.shared().render_metrics(&mut text);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    pub fn end(self) {
        self.end_within(Duration::from_secs(30));
    }

    /// The same; who still reads after `drain` is cut.
    pub fn end_within(self, drain: Duration) {
        drop((self.questions, self.forwards));
        self.running.stop(drain);
        drop(self.control);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// docker.io by the prefix `hub`, and another by `other`.
fn two_upstreams() -> Namespaces {
    let mut namespaces = Namespaces::default();
    for (ns, prefix) in [("docker.io", "hub"), ("other.test", "other")] {
        let adds_library = prefix == "hub";
        namespaces.add(Namespace { ns: ns.into(), prefix: prefix.into(), adds_library }).unwrap();
    }
    namespaces
}

/// Descriptors of this process that are open on files in `folder` of this place.
pub fn open_files(place: &Place, folder: &str) -> usize {
    let folder = place.path(folder);
    let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let on: Vec<PathBuf> = links.filter_map(|link| fs::read_link(link.path()).ok()).collect();
    on.iter().filter(|path| path.starts_with(&folder)).count()
}

/// A connection that speaks just enough HTTP.
pub struct Client {
    pub stream: TcpStream,
    unread: Vec<u8>,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// A field's value; its name in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// 503 that says when to come back.
    #[track_caller]
    pub fn is_overload(&self) {
        assert_eq!((self.status, self.field("retry-after")), (503, Some("1")), "{}", self.head);
    }
}

impl Client {
    /// Sends a request that has no body, or whose body is `body`.
    pub fn send(&mut self, method: &str, target: &str, body: &[u8]) {
        let length = body.len();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: r\r\nContent-Length: {length}\r\n\r\n");
        self.stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    }

    pub fn get(&mut self, target: &str) -> Answer {
        self.send("GET", target, b"");
        self.read().unwrap()
    }

    pub fn ask(&mut self, method: &str, target: &str, body: &[u8]) -> Answer {
        self.send(method, target, body);
        self.read().unwrap()
    }

    /// The next answer, to anything but a HEAD.
    pub fn read(&mut self) -> io::Result<Answer> {
        let mut answer = self.read_head()?;
        let length = answer.field("content-length").map_or(0, |length| length.parse().unwrap());
        answer.body = self.read_rest(length)?;
        Ok(answer)
    }

    /// The next answer without its body.
    pub fn read_head(&mut self) -> io::Result<Answer> {
        let head_len = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.receive()?;
        };
        let head = String::from_utf8(self.unread.drain(..head_len).collect()).unwrap();
        Ok(Answer { status: head[9..12].parse().unwrap(), head, body: Vec::new() })
    }

    /// `length` bytes that follow a head.
    pub fn read_rest(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < length {
            self.receive()?;
        }
        Ok(self.unread.drain(..length).collect())
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.unread.extend_from_slice(&piece[..count]);
                Ok(())
            }
            // The end of a ring that this thread has probed for interrupts a read that has a timeout.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}
