//! Whatever an upstream does: no complete wrong body, nothing wrong kept, no credential elsewhere, the right status in
//! time, and all well once the upstream is. Each fault meets a blob that is not here, one that is here in part, and one
//! that is here; all at once, from an upstream each, with every timeout a hundredth of its default.

use std::{
    collections::VecDeque,
    io,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use ::faults::{Auth, Digest, Image, Place, Registry};

use crate::harness::{Client, Launch, Leg, Server, TempDir, legs, noise, say, wait_for};

use super::{
    cases::{BLOB_BYTES, Break, Case, Got, all},
    rig::{NO_ANSWER, assert_store_is_right, mirror, upstream},
};

/// Faults that are tried at the same time: more of them would be slower than the timeouts on a small machine.
const AT_ONCE: usize = 6;

/// Every timeout ÷ 100, and no memory of a tag. A TLS handshake is no hundred times faster in a test: it gets 500 ms.
const SETTINGS: &str = "\
    credentials = { username = \"user\", password = \"pass\" }\n\
    timeouts = { connect = \"{connect}\", first_byte = \"300ms\", stall = \"300ms\", \
                 body_rate_grace = \"600ms\", document = \"600ms\", token = \"100ms\", breaker = \"100ms\", \
                 rejected = \"600ms\", refused = \"10ms\" }\n\
    budget_wait = \"150ms\"\nnegative_ttl = \"600ms\"\ntag_ttl = \"0s\"\nstale_while = \"0s\"\n\
    complete = \"never\"\n";

/// The longest that any of these timeouts can add up to: four answers, each with its connection, token, first byte and a
/// stall, and the pauses between them. And much more for a machine that does other things.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// How long what never ends is listened to.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest pause that is taken from an upstream that failed, and much more.
const HEALING_TIME: Duration = Duration::from_secs(15);

/// What of the thing is here before the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Cold,
    Partial,
    Hot,
}

/// One fault, its upstream, and what is here of what it spoils.
struct Trial {
    case: Case,
    state: State,
    ns: String,
    registry: Registry,
    image: Image,
    blob: Digest,
}

impl Trial {
    fn new(number: usize, case: Case, state: State) -> Trial {
        let registry = if case.tls { Registry::start_tls() } else { Registry::start() };
        registry.require(login());
        let image = registry.push_image("thing", "latest", &[10]);
        // Each trial has bytes of its own: what one brings is a hit for the other.
        let blob = registry.push_blob("thing", noise(number as u64 + 1, BLOB_BYTES));
        Trial { case, state, ns: format!("upstream{number}.test"), registry, image, blob }
    }

    fn table(&self, authorities: &TempDir) -> String {
        let mut more = SETTINGS.replace("{connect}", if self.case.tls { "500ms" } else { "50ms" });
        if self.case.tls {
            let file = authorities.path().join(&self.ns);
            std::fs::write(&file, self.registry.ca_pem()).expect("a file for the test");
            more += &format!("ca_file = \"{}\"\n", file.display());
        }
        upstream(&self.ns, &self.registry, &more)
    }

    fn target(&self) -> String {
        match self.case.is_manifest {
            true => format!("/v2/{}/thing/manifests/latest", self.ns),
            false => format!("/v2/{}/thing/blobs/{}", self.ns, self.digest()),
        }
    }

    fn digest(&self) -> Digest {
        if self.case.is_manifest { self.image.index } else { self.blob }
    }

    /// What comes of a GET, told apart as far as it matters.
    fn ask(&self, server: &Server) -> Got {
        let right = self.registry.bytes(&self.digest()).expect("it was pushed");
        let mut client = server.client().timeout(ANSWER_TIME);
        match client.request("GET", self.target()).try_send() {
            Ok(answer) if answer.status == 200 => {
                assert!(answer.body == *right, "{}: a complete wrong body: {}", self.name(), answer.text());
                if answer.get("gantry-cache") == Some("stale") {
                    assert!(answer.header("warning").starts_with("299 "), "{}", self.name());
                    return Got::Stale;
                }
                Got::Right
            }
            Ok(answer) => Got::Status(answer.status, answer.code()),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Got::Silence,
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Got::Cut,
                other => panic!("{}: {other}: {error}", self.name()),
            },
        }
    }

    /// Listens for a while to what never ends, and leaves. The fill then stops, or everybody after would share it.
    fn endure(&self, server: &Server) -> Got {
        let mut client = server.client().timeout(Duration::from_millis(50));
        client.send_bytes(format!("GET {} HTTP/1.1\r\nHost: r\r\n\r\n", self.target()).as_bytes());
        let (begun, mut got) = (Instant::now(), 0);
        while begun.elapsed() < PATIENCE {
            got += client.read_some(1);
        }
        client.hang_up();
        if self.state != State::Hot {
            let running = || server.metrics().sum("gantry_fill_running", &[("upstream", &self.ns)]);
            let what = format!("{}: the fill that nobody wants stops", self.name());
            wait_for(&what, || running() == 0.0);
        }
        if got > BLOB_BYTES { Got::Right } else { Got::Silence }
    }

    /// Asks until the answer is right; `false`: it never is.
    fn gets_right(&self, server: &Server) -> bool {
        let begun = Instant::now();
        while self.ask(server) != Got::Right {
            if begun.elapsed() > HEALING_TIME {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
        true
    }

    fn prepare(&self, server: &Server) {
        match self.state {
            State::Cold => {}
            State::Hot => assert!(self.gets_right(server), "{}: before the fault", self.name()),
            State::Partial => {
                // A probe of a part brings that part's chunk, and no more.
                let begun = Instant::now();
                let middle = BLOB_BYTES / 2;
                let range = format!("bytes={middle}-{}", middle + 3000);
                let probe = |client: &mut Client| {
                    client.request("GET", self.target()).header("Range", &range).send().status == 206
                };
                while !probe(&mut server.client()) {
                    assert!(begun.elapsed() < Duration::from_secs(30), "{}: no probe", self.name());
                }
            }
        }
    }

    fn spoil(&self) {
        match &self.case.fault {
            Break::Script(rules) => {
                rules.iter().for_each(|(on, fault)| self.registry.script(on.clone(), fault.clone()));
            }
            Break::Refuse => self.registry.refuse(),
            Break::Require(auth) => self.registry.require(auth.clone()),
        }
    }

    /// The whole trial. Gives what was wrong with the answer.
    fn run(&self, server: &Server) -> Option<String> {
        self.prepare(server);
        self.spoil();
        let got = if self.case.is_endless { self.endure(server) } else { self.ask(server) };
        let expected = match self.state {
            State::Cold => self.case.cold,
            State::Partial => self.case.partial,
            State::Hot => self.case.hot,
        };
        let is_expected = expected.iter().any(|one| one.is_like(&got));
        self.registry.heal();
        self.registry.require(login());
        let is_healed = self.gets_right(server);
        for seen in self.registry.seen().iter().filter(|seen| seen.place == Place::Foreign) {
            assert_eq!(
                seen.header("authorization"),
                None,
                "{}: a credential at a foreign address",
                self.name()
            );
            assert!(!seen.target.contains("pass"), "{}: {}", self.name(), seen.target);
        }
        if !is_healed {
            return Some(format!("{}: {got:?}, and not right again", self.name()));
        }
        (!is_expected).then(|| format!("{}: {got:?}, expected {expected:?}", self.name()))
    }

    fn name(&self) -> String {
        format!("{} ({:?})", self.case.name, self.state)
    }
}

/// What the upstreams want when they are well.
fn login() -> Auth {
    Auth::bearer_for("user", "pass")
}

fn launch(leg: Leg, trials: &[Trial], authorities: &TempDir) -> Launch {
    let config: String = trials.iter().map(|trial| trial.table(authorities)).collect();
    let launch = mirror(leg, &config);
    [
        NO_ANSWER,
        "an upstream gave other bytes",
        "the rest of an upstream's blob does not come",
        "the upstream tells another length than before",
        "an upstream names a realm that is not its own",
        "credentials were rejected",
        "\"message\":\"refused\"",
        "\"message\":\"the upstream's ",
    ]
    .into_iter()
    .fold(launch, |launch, text| launch.expects_log(text))
}

legs! {
    alone:

    /// The matrix.
    fn every_fault_leaves_nothing_wrong(leg) {
        let mut trials = Vec::new();
        for case in all() {
            let states: &[State] = match case.is_manifest {
                true => &[State::Cold, State::Hot],
                false => &[State::Cold, State::Partial, State::Hot],
            };
            for state in states {
                trials.push(Trial::new(trials.len(), case.clone(), *state));
            }
        }
        let authorities = TempDir::new("authorities");
        let server = launch(leg, &trials, &authorities).start();
        let begun = Instant::now();
        let queue = Mutex::new(trials.iter().collect::<VecDeque<&Trial>>());
        let wrong = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some(trial) = { queue.lock().unwrap().pop_front() } {
                        wrong.lock().unwrap().extend(trial.run(&server));
                    }
                });
            }
        });
        let wrong = wrong.into_inner().unwrap();
        let count = trials.len();
        assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
        assert_store_is_right(&server);
        say(&format!("faults: {count} trials on {} in {:.1} s", leg.name(), begun.elapsed().as_secs_f64()));
    }
}
