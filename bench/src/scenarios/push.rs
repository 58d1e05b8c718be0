//! `push`: unique blobs in one PUT or in chunks, or one blob over and over; flushes of the device for each.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use oci::{Algorithm, Digest};

use super::{Scenario, size};
use crate::{
    args::Settings,
    content::Noise,
    load::{Answer, Exchange, Reading, Script},
    result::{Case, Round},
    subject::{REPOSITORY, Subject},
    wire::{Origin, target_of, with_query},
};

/// Chunks of a chunked push.
const CHUNKS: u64 = 4;

const WAYS: [(&str, Way); 3] =
    [("one PUT", Way::Whole), ("four chunks", Way::Chunked), ("the same blob", Way::Same)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Whole,
    Chunked,
    Same,
}

/// The scenario.
pub struct Push {
    settings: Settings,
    /// Seeds that were used: every blob of every round is another one.
    seeds: Arc<AtomicU64>,
}

struct Pusher {
    origin: Origin,
    way: Way,
    length: u64,
    seeds: Arc<AtomicU64>,
    at: At,
    /// The blob that is being pushed.
    bytes: Arc<[u8]>,
    digest: Option<Digest>,
}

enum At {
    Start,
    /// The session is open there, and so many bytes are sent.
    Open(String, u64),
}

impl Push {
    /// With what the user has set.
    pub fn new(settings: Settings) -> Push {
        // Another start each time, so that a registry that runs for long is given new blobs.
        let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let start = start.map_or(settings.seed, |since| since.as_nanos() as u64);
        Push { settings, seeds: Arc::new(AtomicU64::new(start)) }
    }

    /// Connections that push blobs of `length` bytes, another one each time, in one PUT.
    pub fn whole(&self, subject: &Subject, length: u64, count: u64) -> Vec<Box<dyn Script>> {
        self.pushers(subject, Way::Whole, length, count)
    }

    fn pushers(&self, subject: &Subject, way: Way, length: u64, count: u64) -> Vec<Box<dyn Script>> {
        let pusher = |_| {
            let pusher = Pusher {
                origin: subject.registry.origin.clone(),
                way,
                length,
                seeds: self.seeds.clone(),
                at: At::Start,
                bytes: Noise::new(self.settings.seed, length).bytes().into(),
                digest: None,
            };
            Box::new(pusher) as Box<dyn Script>
        };
        (0..count).map(pusher).collect()
    }
}

impl Scenario for Push {
    fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for (name, _) in WAYS {
            for size_bytes in &self.settings.sizes {
                for connections in &self.settings.connections {
                    let name = format!("{name}, {}, {connections} pushers", size(*size_bytes));
                    let mut case = self.settings.case("push", name);
                    case.size_bytes = Some(*size_bytes);
                    case.connections = Some(*connections);
                    cases.push(case);
                }
            }
        }
        cases
    }

    fn prepare(&mut self, _case: &Case, subject: &mut Subject) -> Result<(), String> {
        subject.registry.send("GET", "/v2/", "", b"").map(drop)
    }

    fn round(&mut self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        let way =
            WAYS.iter().find(|(name, _)| case.name.starts_with(name)).map_or(Way::Whole, |(_, way)| *way);
        let length = case.size_bytes.unwrap_or(0);
        let scripts = self.pushers(subject, way, length, case.connections.unwrap_or(1));
        let plan = self.settings.plan(case, subject);
        let measured = subject.load(&case.name, &plan, &self.settings.pins(), scripts)?;
        let mut round = measured.round;
        if let Some(flushes) = measured.flushes {
            let per_ack = flushes as f64 / round.requests.max(1) as f64;
            round.figures.insert("flushes_per_ack".to_owned(), per_ack);
        }
        Ok(round)
    }
}

impl Pusher {
    /// Another blob, made of the last by its first bytes: making all of them anew would cost more than the push.
    fn new_blob(&mut self) {
        if self.way == Way::Same && self.digest.is_some() {
            return;
        }
        let mut bytes = self.bytes.to_vec();
        if self.way != Way::Same {
            let seed = self.seeds.fetch_add(1, Ordering::Relaxed);
            for (byte, new) in bytes.iter_mut().zip(seed.to_le_bytes()) {
                *byte = new;
            }
        }
        self.digest = Some(Digest::of(Algorithm::Sha256, &bytes));
        self.bytes = bytes.into();
    }

    fn put(&self, target: &str, body: Arc<[u8]>) -> Exchange {
        let digest = self.digest.map_or(String::new(), |digest| digest.to_string());
        let target = with_query(target, &format!("digest={digest}"));
        let fields = "Content-Type: application/octet-stream\r\n";
        let head = self.origin.head("PUT", &target, fields, body.len() as u64);
        Exchange::new(head.into_bytes().into(), &[201], Reading::Drop { length: None }).with_body(body)
    }
}

impl Script for Pusher {
    fn next(&mut self) -> Option<Exchange> {
        match &self.at {
            At::Start => {
                self.new_blob();
                let target = format!("/v2/{REPOSITORY}/blobs/uploads/");
                let request = self.origin.request("POST", &target, "", b"");
                let reading = Reading::Drop { length: None };
                Some(Exchange::new(request.into(), &[202], reading).leads_on())
            }
            At::Open(target, _) if self.way != Way::Chunked => Some(self.put(target, self.bytes.clone())),
            At::Open(target, sent) if *sent == self.length => Some(self.put(target, Arc::new([]))),
            At::Open(target, sent) => {
                let until = (sent + self.length.div_ceil(CHUNKS)).min(self.length);
                let body: Arc<[u8]> = self.bytes[*sent as usize..until as usize].into();
                let fields = format!(
                    "Content-Type: application/octet-stream\r\nContent-Range: {sent}-{}\r\n",
                    until - 1
                );
                let head = self.origin.head("PATCH", target, &fields, body.len() as u64);
                let reading = Reading::Drop { length: None };
                let patch = Exchange::new(head.into_bytes().into(), &[202], reading);
                Some(patch.with_body(body).leads_on())
            }
        }
    }

    fn answered(&mut self, answer: &Answer) -> Result<(), String> {
        let sent = match &self.at {
            At::Start => 0,
            At::Open(_, sent) => (sent + self.length.div_ceil(CHUNKS)).min(self.length),
        };
        self.at = match answer.head.status {
            202 => {
                let location = answer.head.location.as_deref().ok_or("a 202 without a Location")?;
                At::Open(target_of(location).to_owned(), sent)
            }
            _ => At::Start,
        };
        Ok(())
    }

    fn failed(&mut self) {
        self.at = At::Start;
    }
}
