//! One trial of the fault matrix: one fault, its upstream, what is here of what it spoils, and what came of asking.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use ::faults::{Auth, Digest, Image, Place, Registry};
use serde_json::json;

use crate::harness::{Response, Server, TempDir, media, noise, wait_for};

use super::{
    cases::{Asks, BLOB_BYTES, Break, Case, Got, LARGE_BLOB_BYTES, PART},
    rig::upstream,
    times::{GRACE, settings},
};

/// How long what never ends is listened to.
const LISTENING: Duration = Duration::from_secs(1);

/// What of the thing is here before the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Cold,
    Partial,
    Hot,
}

pub struct Trial {
    pub case: Case,
    pub state: State,
    slower: u32,
    ns: String,
    registry: Registry,
    image: Image,
    blob: Digest,
    /// Names the blob: whoever has it here may read that also when nobody can be asked.
    permission: Digest,
}

/// What a trial has shown.
pub struct Shown {
    pub name: String,
    /// What was wrong with it.
    pub wrong: Option<String>,
    /// What it took beyond its timeouts, when it failed and when it was well again.
    pub beyond: [Duration; 2],
}

impl Trial {
    /// `number` is another for each. All timeouts are so many times as long as they are said to be.
    pub fn new(number: usize, case: Case, state: State, slower: u32) -> Trial {
        let registry = if case.tls { Registry::start_tls() } else { Registry::start() };
        let image = registry.push_image("thing", "latest", &[10]);
        // Each trial has bytes of its own: what one brings is a hit for the other.
        let len = if case.asks == Asks::Part { LARGE_BLOB_BYTES } else { BLOB_BYTES };
        let blob = registry.push_blob("thing", noise(number as u64 + 1, len));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::IMAGE,
            "config": { "mediaType": media::CONFIG, "digest": image.configs[0].to_string(), "size": 2 },
            "layers": [{ "mediaType": media::LAYER, "digest": blob.to_string(), "size": len }],
        });
        let permission = registry.push_manifest("thing", None, media::IMAGE, manifest.to_string());
        let ns = format!("upstream{number}.test");
        let trial = Trial { case, state, slower, ns, registry, image, blob, permission };
        trial.registry.require(trial.well());
        trial
    }

    /// Its `[[upstream]]`.
    pub fn table(&self, authorities: &TempDir) -> String {
        let mut more = settings(self.case.tls, self.slower);
        if !self.case.is_anonymous {
            more += "credentials = { username = \"user\", password = \"pass\" }\n";
        }
        if self.case.tls {
            let file = authorities.path().join(&self.ns);
            std::fs::write(&file, self.registry.ca_pem()).expect("a file for the test");
            more += &format!("ca_file = \"{}\"\n", file.display());
        }
        let table = upstream(&self.ns, &self.registry, &more);
        // Where the registries are, and nothing else.
        table.replace("allow_private_addresses = true", "allow_private_addresses = [\"127.0.0.1\"]")
    }

    /// What the upstream wants when it is well.
    fn well(&self) -> Auth {
        if self.case.is_anonymous { Auth::None } else { Auth::bearer_for("user", "pass") }
    }

    fn name(&self) -> String {
        format!("{} ({:?})", self.case.name, self.state)
    }

    fn digest(&self, asks: Asks) -> Digest {
        match asks {
            Asks::Blob | Asks::BlobHead | Asks::Part => self.blob,
            Asks::Tag | Asks::TagHead => self.image.index,
            Asks::Manifest => self.image.manifests[0],
        }
    }

    fn target(&self, asks: Asks) -> String {
        match asks {
            Asks::Blob | Asks::BlobHead | Asks::Part => format!("/v2/{}/thing/blobs/{}", self.ns, self.blob),
            Asks::Tag | Asks::TagHead => format!("/v2/{}/thing/manifests/latest", self.ns),
            Asks::Manifest => format!("/v2/{}/thing/manifests/{}", self.ns, self.digest(asks)),
        }
    }

    /// What comes of it within that time, told apart as far as it matters. A whole answer that is wrong fails.
    fn ask(&self, server: &Server, asks: Asks, within: Duration) -> Got {
        let mut client = server.client().timeout(within);
        let mut request = client.request(asks.method(), self.target(asks));
        if asks == Asks::Part {
            request = request.header("Range", format!("bytes={}-{}", PART.0, PART.1));
        }
        let answer = request.try_send();
        let challenge = answer.as_ref().ok().and_then(|answer| answer.get("www-authenticate"));
        assert!(challenge.is_none(), "{}: an upstream's challenge is its own: {challenge:?}", self.name());
        match answer {
            Ok(answer) if answer.status < 300 => self.judge(asks, &answer),
            Ok(answer) => {
                if answer.status == 503 {
                    let told = answer.get("retry-after").and_then(|told| told.parse::<u32>().ok());
                    let is_told = told.is_some_and(|told_s| (1..=60).contains(&told_s));
                    assert!(is_told, "{}: when to come again? {}", self.name(), answer.text());
                }
                Got::Status(answer.status, (asks.method() == "GET").then(|| answer.code()))
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Got::Silence,
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Got::Cut,
                other => panic!("{}: {other}: {error}", self.name()),
            },
        }
    }

    fn judge(&self, asks: Asks, answer: &Response) -> Got {
        let bytes = self.registry.bytes(&self.digest(asks)).expect("it was pushed");
        let wrong = || format!("{}: a complete wrong answer: {}", self.name(), answer.text());
        let (status, right) = match asks {
            Asks::Part => (206, &bytes[PART.0..=PART.1]),
            _ => (200, &bytes[..]),
        };
        assert_eq!(answer.status, status, "{}", wrong());
        assert_eq!(answer.header("content-length"), right.len().to_string(), "{}", wrong());
        assert_eq!(answer.header("docker-content-digest"), self.digest(asks).to_string(), "{}", wrong());
        if asks == Asks::Part {
            let range = format!("bytes {}-{}/{}", PART.0, PART.1, bytes.len());
            assert_eq!(answer.header("content-range"), range, "{}", wrong());
        }
        match asks.method() {
            "HEAD" => {}
            _ if asks == Asks::Part && answer.body != right => return Got::OtherPart,
            _ => assert!(answer.body == right, "{}", wrong()),
        }
        if answer.get("gantry-cache") == Some("stale") {
            assert!(answer.header("warning").starts_with("299 "), "{}", wrong());
            return Got::Stale;
        }
        Got::Right
    }

    /// Listens for a while to what never ends, and leaves. The fill then stops, or everybody after would share it.
    fn endure(&self, server: &Server) -> Got {
        let mut client = server.client().timeout(Duration::from_millis(50));
        let request = client.request("GET", self.target(Asks::Blob)).to_bytes();
        client.send_bytes(&request);
        let (begun, mut got) = (Instant::now(), 0);
        while begun.elapsed() < LISTENING {
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

    /// Asks until the answer is right. Gives how long that took; `None`: longer than this.
    fn gets_right(&self, server: &Server, asks: Asks, within: Duration) -> Option<Duration> {
        let begun = Instant::now();
        while self.ask(server, asks, within) != Got::Right {
            if begun.elapsed() > within {
                return None;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Some(begun.elapsed()).filter(|took| *took <= within)
    }

    fn prepare(&self, server: &Server) {
        match self.state {
            State::Cold => {}
            State::Hot => {
                wait_for(&format!("{}: it is here before the fault", self.name()), || {
                    self.ask(server, self.case.asks.whole(), GRACE) == Got::Right
                });
            }
            State::Partial => {
                // A probe brings the chunk that it is in, and no more.
                let first = if self.case.asks == Asks::Part { PART.0 } else { BLOB_BYTES / 2 };
                let range = format!("bytes={first}-{}", first + 3000);
                wait_for(&format!("{}: a part is here before the fault", self.name()), || {
                    let mut client = server.client();
                    let probe = client.request("GET", self.target(Asks::Blob)).header("Range", &range);
                    probe.send().status == 206
                });
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

    /// All of it.
    pub fn run(&self, server: &Server) -> Shown {
        let Case { asks, is_endless, waits, pause, .. } = self.case;
        let [waits, pause] = [waits, pause].map(|time| time * self.slower);
        self.prepare(server);
        self.spoil();
        let begun = Instant::now();
        let got = if is_endless { self.endure(server) } else { self.ask(server, asks, waits + GRACE) };
        let took = if is_endless { Duration::ZERO } else { begun.elapsed() };
        self.registry.heal();
        self.registry.require(self.well());
        // Of what was told wrong in part the whole finds out.
        let healed = self.gets_right(server, asks.whole(), pause + GRACE);
        let healed = healed.filter(|_| self.gets_right(server, asks, GRACE).is_some());
        self.assert_no_credential_left();
        let expected = match self.state {
            State::Cold => self.case.cold,
            State::Partial => self.case.partial,
            State::Hot => self.case.hot,
        };
        let wrong = if !expected.iter().any(|one| one.is_like(&got)) {
            Some(format!("{got:?} after {took:?}, expected {expected:?}"))
        } else if took > waits + GRACE {
            Some(format!("{got:?} after {took:?}, where its timeouts are {waits:?} in all"))
        } else if healed.is_none() {
            Some(format!("{got:?}, and not right again within {:?}", pause + GRACE))
        } else {
            None
        };
        let beyond = [took.saturating_sub(waits), healed.unwrap_or_default().saturating_sub(pause)];
        Shown { wrong: wrong.map(|wrong| format!("{}: {wrong}", self.name())), name: self.name(), beyond }
    }

    #[track_caller]
    fn assert_no_credential_left(&self) {
        for seen in self.registry.seen().iter().filter(|seen| seen.place == Place::Foreign) {
            let name = self.name();
            assert_eq!(seen.header("authorization"), None, "{name}: a credential at a foreign address");
            assert!(!seen.target.contains("pass"), "{name}: {}", seen.target);
        }
    }

    /// Has here what permits to read the blob when nobody can be asked, and waits until the blob has its name.
    pub fn settle(&self, server: &Server) {
        if self.case.asks.is_blob() {
            let target = format!("/v2/{}/thing/manifests/{}", self.ns, self.permission);
            // Where it has stalled behind an answer, the next one finds a connection that gives none.
            wait_for(&format!("{}: the manifest is here", self.name()), || {
                server.client().get(target.as_str()).status == 200
            });
            let what = format!("{}: the blob has its name", self.name());
            wait_for(&what, || server.blob_file(self.blob).exists());
        }
    }

    /// From now on nobody can be asked.
    pub fn refuse(&self) {
        self.registry.refuse();
    }

    /// What is here of it: all, and right, as old as it may be.
    #[track_caller]
    pub fn assert_is_kept(&self, server: &Server) {
        for asks in [self.case.asks.whole(), self.case.asks] {
            let got = self.ask(server, asks, Duration::from_secs(60));
            let is_kept = match asks {
                Asks::Tag | Asks::TagHead => got == Got::Stale,
                Asks::Blob | Asks::BlobHead | Asks::Part | Asks::Manifest => got == Got::Right,
            };
            assert!(is_kept, "{}, {asks:?} after a restart: {got:?}", self.name());
        }
    }
}
