//! `mixed`: pulls, pushes, HEADs and lists of tags side by side, by weights, or as a recorded trace has them.
//!
//! A pull is a manifest by its tag and the blob that it names; a push is a blob and a manifest under a tag that moves;
//! a HEAD asks for a tag. In a trace each is one request, as it was recorded.

mod replay;
mod trace;

use std::{
    path::Path,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Scenario, now_as_seed, size};
use crate::{
    args::Settings,
    content::{Blob, Dice, Series},
    image::Document,
    load::{Answer, Exchange, Reading, Script},
    result::{Case, Latency, Round},
    subject::{REPOSITORY, Subject},
    wire::{Origin, target_of, with_query},
};
use replay::Replay;
use trace::Trace;

/// Kinds of operation, in the order of `Weights`.
const KINDS: [&str; 4] = ["pull", "push", "head", "tags"];
const PULL: usize = 0;
const PUSH: usize = 1;
const HEAD: usize = 2;
const TAGS: usize = 3;

/// Tags that pushes move.
const PUSHED_TAGS: u64 = 64;

/// How often each kind of operation is chosen: `pull=80,push=10,head=5,tags=5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights([u64; KINDS.len()]);

impl FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Weights, String> {
        let mut weights = [0; KINDS.len()];
        for pair in text.split(',') {
            let parsed = pair.split_once('=').and_then(|(name, weight)| {
                Some((KINDS.iter().position(|kind| *kind == name)?, u64::from(weight.parse::<u32>().ok()?)))
            });
            let Some((kind, weight)) = parsed else {
                return Err(format!("{pair}: weights are like pull=80,push=10,head=5,tags=5"));
            };
            weights[kind] = weight;
        }
        if weights.iter().sum::<u64>() == 0 {
            return Err(format!("{text}: nothing has a weight"));
        }
        Ok(Weights(weights))
    }
}

impl Weights {
    fn choose(&self, dice: &mut Dice) -> usize {
        let mut number = dice.below(self.0.iter().sum());
        for (kind, weight) in self.0.iter().enumerate() {
            if number < *weight {
                return kind;
            }
            number -= weight;
        }
        unreachable!("the number is below the sum of the weights")
    }
}

/// The scenario.
pub struct Mixed {
    settings: Settings,
    /// What is replayed in place of the weights.
    trace: Option<Trace>,
    /// What is pulled, of every size one.
    images: Arc<[Pulled]>,
    /// Numbers that were used: every blob that is pushed is another one.
    seeds: Arc<AtomicU64>,
}

/// An image that is pulled: a tag, its manifest, and the one layer that is fetched.
struct Pulled {
    tag: String,
    manifest: Document,
    layer: Blob,
    /// What is pushed is as long as this image's layer.
    pushes: Series,
}

struct Client {
    origin: Origin,
    weights: Weights,
    dice: Dice,
    images: Arc<[Pulled]>,
    /// Of a manifest that is pushed.
    config: Document,
    seeds: Arc<AtomicU64>,
    verify_every: u64,
    /// Blobs that all clients have asked for.
    asked: Arc<AtomicU64>,
    at: At,
}

/// What a client is in the middle of.
enum At {
    Start,
    /// The manifest of this image came.
    Manifest(usize),
    /// A blob is pushed: its session is open at the target.
    Session(String, Pushed),
    /// The blob is there; its manifest follows.
    Blob(Pushed),
    /// The answer is the end of it.
    Last(usize),
}

#[derive(Clone)]
struct Pushed {
    bytes: Arc<[u8]>,
    blob: Blob,
}

impl Mixed {
    /// With what the user has set.
    ///
    /// Errors: a sentence, if there is to be a trace and it can't be read.
    pub fn new(settings: Settings) -> Result<Mixed, String> {
        let trace = settings.trace.as_deref().map(|path| Trace::read(path, settings.trace_requests));
        let (trace, seeds) = (trace.transpose()?, Arc::new(AtomicU64::new(now_as_seed())));
        Ok(Mixed { settings, trace, images: Arc::new([]), seeds })
    }
}

impl Scenario for Mixed {
    fn cases(&self) -> Vec<Case> {
        let what = match &self.settings.trace {
            Some(path) => {
                let file = path.file_name().unwrap_or(Path::new("trace").as_os_str()).to_string_lossy();
                format!("{file} {}× as fast", self.settings.speed_up)
            }
            None => {
                let weights = KINDS.iter().zip(self.settings.weights.0).filter(|(_, weight)| *weight > 0);
                let weights: Vec<String> = weights.map(|(kind, weight)| format!("{kind} {weight}")).collect();
                let sizes: Vec<String> = self.settings.sizes.iter().map(|bytes| size(*bytes)).collect();
                format!("{} of {}", weights.join(", "), sizes.join(", "))
            }
        };
        let case = |connections: &u64| {
            let mut case = self.settings.case("mixed", format!("{what}, {connections} connections"));
            case.connections = Some(*connections);
            if self.trace.is_some() {
                case.rate = None;
            }
            case
        };
        self.settings.connections.iter().map(case).collect()
    }

    fn prepare(&mut self, _case: &Case, subject: &mut Subject) -> Result<(), String> {
        let config = Document::config(&[]);
        config.push_blob(&mut subject.registry)?;
        if let Some(trace) = &self.trace {
            return replay::prepare(trace, self.settings.seed, subject);
        }
        let image = |(number, length): (u64, &u64)| {
            let layer = subject.give(self.settings.seed + 2_000 + number, *length)?;
            let (tag, manifest) = (format!("mixed-{number}"), Document::manifest(&config, &[layer], 0));
            manifest.push_manifest(&mut subject.registry, &tag)?;
            Ok(Pulled { tag, manifest, layer, pushes: Series::new(layer.seed, *length) })
        };
        self.images = (0..).zip(&self.settings.sizes).map(image).collect::<Result<_, String>>()?;
        Ok(())
    }

    fn round(&mut self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        let (round, kinds) = match &self.trace {
            Some(trace) => {
                let speed_up = self.settings.speed_up;
                let replay = Replay { trace, speed_up, seed: self.settings.seed, seeds: &self.seeds };
                replay.run(case, subject, &self.settings)?
            }
            None => {
                let asked = Arc::default();
                let script = |_| Box::new(self.client(subject, &asked)) as Box<dyn Script>;
                let scripts = (0..case.connections.unwrap_or(1)).map(script).collect();
                let plan = self.settings.plan(case, subject);
                let measured = subject.load(&case.name, &plan, &self.settings.pins(), scripts)?;
                (measured.round, measured.kinds)
            }
        };
        Ok(with_figures(round, &kinds))
    }
}

/// The round with the latency of each kind among its figures.
fn with_figures(mut round: Round, kinds: &[Latency]) -> Round {
    for (kind, latency) in KINDS.iter().zip(kinds).filter(|(_, latency)| latency.max_us > 0.0) {
        round.figures.insert(format!("{kind}_p50_us"), latency.p50_us);
        round.figures.insert(format!("{kind}_p99_us"), latency.p99_us);
    }
    round
}

impl Mixed {
    fn client(&self, subject: &Subject, asked: &Arc<AtomicU64>) -> Client {
        Client {
            origin: subject.registry.origin.clone(),
            weights: self.settings.weights,
            dice: Dice::new(self.seeds.fetch_add(1, Ordering::Relaxed)),
            images: self.images.clone(),
            config: Document::config(&[]),
            seeds: self.seeds.clone(),
            verify_every: self.settings.verify_every.max(1),
            asked: asked.clone(),
            at: At::Start,
        }
    }
}

impl Client {
    fn start(&mut self) -> Exchange {
        let image = self.dice.below(self.images.len() as u64) as usize;
        let kind = self.weights.choose(&mut self.dice);
        self.at = At::Last(kind);
        match kind {
            PUSH => self.open(image),
            TAGS => self.get(&format!("/v2/{REPOSITORY}/tags/list?n=100"), Reading::Keep).of_kind(TAGS),
            HEAD => {
                let target = format!("/v2/{REPOSITORY}/manifests/{}", self.images[image].tag);
                let fields = format!("Accept: {}\r\n", self.images[image].manifest.media_type.as_str());
                let request = self.origin.request("HEAD", &target, &fields, b"");
                let mut head = Exchange::new(request.into(), &[200], Reading::Drop { length: None });
                head.to_head = true;
                head.of_kind(HEAD)
            }
            _ => {
                let Pulled { tag, manifest, .. } = &self.images[image];
                let fields = format!("Accept: {}\r\n", manifest.media_type.as_str());
                let target = format!("/v2/{REPOSITORY}/manifests/{tag}");
                let request = self.origin.request("GET", &target, &fields, b"");
                let (length, digest) = (manifest.bytes.len() as u64, manifest.digest);
                self.at = At::Manifest(image);
                Exchange::new(request.into(), &[200], Reading::Verify { length, digest }).leads_on()
            }
        }
    }

    /// Opens a session for a new blob that is as long as the image's layer.
    fn open(&mut self, image: usize) -> Exchange {
        let seed = self.seeds.fetch_add(1, Ordering::Relaxed);
        let (bytes, digest) = self.images[image].pushes.blob(seed);
        let blob = Blob { seed, length: bytes.len() as u64, digest };
        self.at = At::Session(String::new(), Pushed { bytes: bytes.into(), blob });
        let request = self.origin.request("POST", &format!("/v2/{REPOSITORY}/blobs/uploads/"), "", b"");
        Exchange::new(request.into(), &[202], Reading::Drop { length: None }).leads_on()
    }

    fn get(&self, target: &str, reading: Reading) -> Exchange {
        Exchange::new(self.origin.request("GET", target, "", b"").into(), &[200], reading)
    }
}

impl Script for Client {
    fn next(&mut self) -> Option<Exchange> {
        Some(match std::mem::replace(&mut self.at, At::Start) {
            At::Start | At::Last(_) => self.start(),
            At::Manifest(image) => {
                let layer = self.images[image].layer;
                let asked = self.asked.fetch_add(1, Ordering::Relaxed);
                let reading = match asked % self.verify_every {
                    0 => Reading::Verify { length: layer.length, digest: layer.digest },
                    _ => Reading::Drop { length: Some(layer.length) },
                };
                self.at = At::Last(PULL);
                self.get(&format!("/v2/{REPOSITORY}/blobs/{}", layer.digest), reading).of_kind(PULL)
            }
            At::Session(target, pushed) => {
                let target = with_query(&target, &format!("digest={}", pushed.blob.digest));
                let fields = "Content-Type: application/octet-stream\r\n";
                let head = self.origin.head("PUT", &target, fields, pushed.blob.length);
                let bytes = pushed.bytes.clone();
                self.at = At::Blob(pushed);
                let reading = Reading::Drop { length: None };
                Exchange::new(head.into_bytes().into(), &[201], reading).with_body(bytes).leads_on()
            }
            At::Blob(pushed) => {
                let manifest = Document::manifest(&self.config, &[pushed.blob], 0);
                let tag = format!("pushed-{}", pushed.blob.seed % PUSHED_TAGS);
                let fields = format!("Content-Type: {}\r\n", manifest.media_type.as_str());
                let target = format!("/v2/{REPOSITORY}/manifests/{tag}");
                let request = self.origin.request("PUT", &target, &fields, &manifest.bytes);
                self.at = At::Last(PUSH);
                Exchange::new(request.into(), &[201], Reading::Drop { length: None }).of_kind(PUSH)
            }
        })
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), String> {
        match &mut self.at {
            At::Session(target, _) => {
                let location = answer.head.location.as_deref().ok_or("a 202 without a Location")?;
                target_of(location).clone_into(target);
            }
            At::Last(TAGS) => check_tags(&answer.body)?,
            At::Start | At::Manifest(_) | At::Blob(_) | At::Last(_) => {}
        }
        Ok(())
    }

    fn failed(&mut self) {
        self.at = At::Start;
    }
}

/// A list of tags is one of this repository, and not empty.
fn check_tags(body: &[u8]) -> Result<(), String> {
    let list: serde_json::Value =
        serde_json::from_slice(body).map_err(|error| format!("a list of tags is no JSON: {error}"))?;
    let tags = list["tags"].as_array().map_or(0, Vec::len);
    if list["name"] != REPOSITORY || tags == 0 {
        return Err(format!("a list of tags is of {} and has {tags} of them", list["name"]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios::tests::{registry, settings};

    #[test]
    fn weights_are_parsed_and_kept() {
        let weights: Weights = "pull=80,head=5,push=15".parse().unwrap();
        assert_eq!(weights, Weights([80, 15, 5, 0]));
        for wrong in ["", "pull", "pull=", "pull=-1", "pul=1", "pull=0", "pull=0,tags=0", "pull=1;push=1"] {
            assert!(wrong.parse::<Weights>().is_err(), "{wrong}");
        }
        let mut dice = Dice::new(3);
        let mut chosen = [0; KINDS.len()];
        (0..10_000).for_each(|_| chosen[weights.choose(&mut dice)] += 1);
        // Three deviations of each.
        assert!((7_880..8_120).contains(&chosen[PULL]), "{chosen:?}");
        assert!((1_390..1_610).contains(&chosen[PUSH]), "{chosen:?}");
        assert!((430..570).contains(&chosen[HEAD]) && chosen[TAGS] == 0, "{chosen:?}");
    }

    #[test]
    fn lists_of_tags_are_checked() {
        assert_eq!(check_tags(br#"{"name":"bench/blobs","tags":["a"]}"#), Ok(()));
        for wrong in [&br#"{"name":"bench/blobs","tags":[]}"#[..], br#"{"name":"x","tags":["a"]}"#, b"<html>"]
        {
            assert!(check_tags(wrong).is_err());
        }
    }

    fn measured(mut mixed: Mixed, subject: &mut Subject) -> Round {
        let case = mixed.cases().remove(0);
        mixed.prepare(&case, subject).unwrap();
        let round = mixed.round(&case, subject).unwrap();
        assert_eq!((round.errors, round.first_error.as_deref()), (0, None));
        for kind in KINDS {
            assert!(round.figures[&format!("{kind}_p50_us")] > 0.0, "{kind}");
            assert!(
                round.figures[&format!("{kind}_p50_us")] <= round.figures[&format!("{kind}_p99_us")],
                "{kind}"
            );
        }
        round
    }

    #[test]
    fn every_kind_is_done() {
        let Some(mut subject) = registry() else { return };
        let arguments = [
            "--sizes",
            "4KiB,1",
            "--connections",
            "4",
            "--time",
            "1",
            "--weights",
            "pull=2,push=1,head=1,tags=1",
            "--verify-every",
            "5",
        ];
        let round = measured(Mixed::new(settings("mixed", &arguments)).unwrap(), &mut subject);
        assert!(round.requests > 20 && round.verified > 0, "{round:?}");
    }

    #[test]
    fn the_example_trace_is_replayed() {
        let Some(mut subject) = registry() else { return };
        let trace = concat!(env!("CARGO_MANIFEST_DIR"), "/traces/example.jsonl");
        let arguments = ["--trace", trace, "--speed-up", "8", "--verify-every", "1"];
        let mixed = Mixed::new(settings("mixed", &arguments)).unwrap();
        assert_eq!(mixed.cases()[0].name, "example.jsonl 8× as fast, 16 connections");
        let round = measured(mixed, &mut subject);
        assert_eq!((round.requests, round.figures["left_out"]), (32, 4.0));
        // All that is pulled is compared; it was recorded over 3.86 s from the first that is sent.
        assert_eq!(round.verified, 24);
        assert!(round.seconds > 0.45, "{}", round.seconds);
        let why = Mixed::new(settings("mixed", &["--trace", "no/such.jsonl"])).err().unwrap();
        assert!(why.contains("no/such.jsonl"), "{why}");
    }
}
