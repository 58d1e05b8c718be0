//! A trace on the wire: each request is sent when it is due, by the first connection that is free. Its latency counts
//! from when it was due.
//!
//! Everything happens in one repository: a token is for that one. Blobs are noise of the recorded lengths.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use oci::{Algorithm, Digest};

use super::{
    HEAD, PULL, PUSH, PUSHED_TAGS, TAGS, check_tags,
    trace::{Action, Object, Trace},
};
use crate::{
    args::Settings,
    client::{Client, Request},
    clients::{self, Tally},
    content::{Blob, Noise},
    image::Document,
    load::Reading,
    result::{Case, Latency, Round},
    subject::{REPOSITORY, Subject},
    wire::{target_of, with_query},
};

/// A request that is sent later than that found no connection free.
const LATE: Duration = Duration::from_millis(10);
/// Seeds of a trace's blobs begin here, apart from those of other scenarios.
const SEEDS: u64 = 1 << 32;

/// A replay.
pub struct Replay<'a> {
    /// Of what.
    pub trace: &'a Trace,
    /// How many times as fast.
    pub speed_up: f64,
    /// What objects are made from.
    pub seed: u64,
    /// Numbers of blobs that are pushed.
    pub seeds: &'a AtomicU64,
}

/// An object as it is asked for.
struct Known {
    target: String,
    fields: String,
    length: u64,
    digest: Digest,
}

/// A request that only waits for its time.
enum Ready<'a> {
    Get(&'a Known, Reading),
    Head(String, &'a str, u16),
    PushBlob(Vec<u8>, Digest),
    PushManifest(String, Document),
    Tags,
}

/// Gives a server what the trace finds there.
pub fn prepare(trace: &Trace, seed: u64, subject: &mut Subject) -> Result<(), String> {
    let config = Document::config(&[]);
    for (number, object) in trace.objects.iter().enumerate() {
        if object.is_manifest {
            let manifest = Document::manifest(&config, &[], object.bytes);
            manifest.push_manifest(&mut subject.registry, &tag(number))?;
        } else {
            subject.give(seed + SEEDS + number as u64, object.bytes)?;
        }
    }
    // A list of tags is never empty.
    Document::manifest(&config, &[], 0).push_manifest(&mut subject.registry, "trace")
}

fn tag(number: usize) -> String {
    format!("trace-{number}")
}

impl Replay<'_> {
    /// Replays it once.
    ///
    /// Errors: a sentence.
    pub fn run(
        &self,
        case: &Case,
        subject: &mut Subject,
        settings: &Settings,
    ) -> Result<(Round, Vec<Latency>), String> {
        let config = Document::config(&[]);
        let known = |(number, object): (usize, &Object)| self.known(number, object, &config, subject);
        let known =
            self.trace.objects.iter().enumerate().map(known).collect::<Result<Vec<Known>, String>>()?;
        let (next, late) = (AtomicUsize::new(0), AtomicU64::new(0));
        let connections = usize::try_from(case.connections.unwrap_or(1)).unwrap_or(1);
        let arrivals = vec![Duration::ZERO; connections];
        let visit = |_, began: Instant, tally: &Tally| {
            let mut client = Client::of(&subject.registry);
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(event) = self.trace.events.get(index) else { return };
                let verify = (index as u64).is_multiple_of(settings.verify_every.max(1));
                let (kind, ready) = self.ready(event.action, &known, &config, verify);
                let due = began + event.at.div_f64(self.speed_up);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                late.fetch_add(u64::from(due.elapsed() > LATE), Ordering::Relaxed);
                match send(&mut client, &ready, tally) {
                    Ok(()) => tally.took(kind, due.elapsed()),
                    Err(why) => tally.wrong(why),
                }
            }
        };
        let visits = clients::run(subject, settings, &case.name, &arrivals, visit)?;
        let mut round = visits.round;
        round.figures.insert("late".to_owned(), late.into_inner() as f64);
        round.figures.insert("left_out".to_owned(), self.trace.skipped as f64);
        Ok((round, visits.kinds))
    }

    fn known(
        &self,
        number: usize,
        object: &Object,
        config: &Document,
        subject: &mut Subject,
    ) -> Result<Known, String> {
        if object.is_manifest {
            let manifest = Document::manifest(config, &[], object.bytes);
            return Ok(Known {
                target: format!("/v2/{REPOSITORY}/manifests/{}", tag(number)),
                fields: format!("Accept: {}\r\n", manifest.media_type.as_str()),
                length: manifest.bytes.len() as u64,
                digest: manifest.digest,
            });
        }
        let blob: Blob = subject.give(self.seed + SEEDS + number as u64, object.bytes)?;
        Ok(Known {
            target: format!("/v2/{REPOSITORY}/blobs/{}", blob.digest),
            fields: String::new(),
            length: blob.length,
            digest: blob.digest,
        })
    }

    /// What can be done before a request is due.
    fn ready<'k>(
        &self,
        action: Action,
        known: &'k [Known],
        config: &Document,
        verify: bool,
    ) -> (usize, Ready<'k>) {
        match action {
            Action::Pull(object) => {
                let Known { length, digest, .. } = known[object];
                let reading = match verify {
                    true => Reading::Verify { length, digest },
                    false => Reading::Drop { length: Some(length) },
                };
                (PULL, Ready::Get(&known[object], reading))
            }
            Action::Head(object) => {
                (HEAD, Ready::Head(known[object].target.clone(), &known[object].fields, 200))
            }
            Action::HeadAbsent => {
                let number = self.seeds.fetch_add(1, Ordering::Relaxed);
                let absent = Digest::of(Algorithm::Sha256, &number.to_le_bytes());
                (HEAD, Ready::Head(format!("/v2/{REPOSITORY}/blobs/{absent}"), "", 404))
            }
            Action::PushBlob(length) => {
                let bytes = Noise::new(self.seeds.fetch_add(1, Ordering::Relaxed), length).bytes();
                let digest = Digest::of(Algorithm::Sha256, &bytes);
                (PUSH, Ready::PushBlob(bytes, digest))
            }
            Action::PushManifest(length) => {
                let number = self.seeds.fetch_add(1, Ordering::Relaxed);
                let target = format!("/v2/{REPOSITORY}/manifests/pushed-{}", number % PUSHED_TAGS);
                (PUSH, Ready::PushManifest(target, Document::manifest(config, &[], length)))
            }
            Action::Tags => (TAGS, Ready::Tags),
        }
    }
}

fn send(client: &mut Client, ready: &Ready<'_>, tally: &Tally) -> Result<(), String> {
    let nothing = Reading::Drop { length: None };
    let got = match ready {
        Ready::Get(Known { target, fields, .. }, reading) => {
            client.send(&Request { method: "GET", target, fields, body: b"" }, &[200], reading)?
        }
        Ready::Head(target, fields, status) => {
            client.send(&Request { method: "HEAD", target, fields, body: b"" }, &[*status], &nothing)?
        }
        Ready::PushBlob(bytes, digest) => {
            let target = format!("/v2/{REPOSITORY}/blobs/uploads/");
            let post = Request { method: "POST", target: &target, ..Request::default() };
            let opened = client.send(&post, &[202], &nothing)?;
            let location = opened.head.location.ok_or("a 202 without a Location")?;
            let target = with_query(target_of(&location), &format!("digest={digest}"));
            let fields = "Content-Type: application/octet-stream\r\n";
            let put = Request { method: "PUT", target: &target, fields, body: bytes };
            let got = client.send(&put, &[201], &nothing)?;
            tally.pushed(bytes.len() as u64);
            got
        }
        Ready::PushManifest(target, manifest) => {
            let fields = format!("Content-Type: {}\r\n", manifest.media_type.as_str());
            let put = Request { method: "PUT", target, fields: &fields, body: &manifest.bytes };
            let got = client.send(&put, &[201], &nothing)?;
            tally.pushed(manifest.bytes.len() as u64);
            got
        }
        Ready::Tags => {
            let got = client.send(
                &Request::get(&format!("/v2/{REPOSITORY}/tags/list?n=100")),
                &[200],
                &Reading::Keep,
            )?;
            check_tags(&got.body)?;
            got
        }
    };
    tally.right(&got);
    Ok(())
}
