//! How soon a registry that holds much is ready again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use oci::MediaType;

use crate::{
    args::Settings,
    image::Document,
    load::{Answer, Exchange, Pace, Plan, Reading, Script},
    scenarios::Push,
    subject::{REPOSITORY, Subject},
    wire::Origin,
};

const BLOB_BYTES: u64 = 64;
const CONNECTIONS: u64 = 64;
/// As long as filling goes on at a time.
const SLICE: Duration = Duration::from_secs(1);
/// Starts of which the median is taken.
const STARTS: usize = 5;

/// Puts one manifest under one tag after the other.
struct Tagger {
    next: Arc<AtomicU64>,
    origin: Origin,
    manifest: Arc<[u8]>,
}

/// The median time until it is ready, with at least so many blobs and tags in it.
///
/// Errors: a sentence.
pub(super) fn ready_after(
    subject: &mut Subject,
    settings: &Settings,
    blobs: u64,
    tags: u64,
) -> Result<Duration, String> {
    let push = Push::new(settings.clone());
    fill(subject, settings, "blobs", blobs, |subject| push.whole(subject, BLOB_BYTES, CONNECTIONS))?;
    let layer = subject.give(settings.seed, BLOB_BYTES)?;
    let config = Document::config(&[layer]);
    config.push_blob(&mut subject.registry)?;
    let manifest = Document::manifest(&config, &[layer], 0);
    let next = Arc::new(AtomicU64::new(0));
    fill(subject, settings, "tags", tags, |subject| {
        let tagger = |_| {
            let (next, manifest) = (next.clone(), manifest.bytes.clone().into());
            Box::new(Tagger { next, origin: subject.registry.origin.clone(), manifest }) as Box<dyn Script>
        };
        (0..CONNECTIONS).map(tagger).collect()
    })?;
    let peer = subject.peer.as_mut().ok_or("only a server of ours can be started again")?;
    let mut times = (0..STARTS).map(|_| peer.restart()).collect::<Result<Vec<Duration>, String>>()?;
    times.sort();
    Ok(times[STARTS / 2])
}

/// Puts loads on it until `count` operations were answered.
fn fill(
    subject: &Subject,
    settings: &Settings,
    what: &str,
    count: u64,
    scripts: impl Fn(&Subject) -> Vec<Box<dyn Script>>,
) -> Result<(), String> {
    let plan = Plan {
        addr: subject.addr(),
        pace: Pace::Closed,
        warm_up: Duration::ZERO,
        time: SLICE,
        cpus: settings.client_cpus.clone(),
        shares_at_nice: None,
    };
    let mut done = 0;
    while done < count {
        let round =
            subject.load(&format!("{count} {what}"), &plan, &settings.pins(), scripts(subject))?.round;
        if round.errors > 0 || round.requests == 0 {
            let why = round.first_error.unwrap_or_else(|| "nothing was answered".to_owned());
            return Err(format!("{done} of {count} {what} were pushed: {why}"));
        }
        done += round.requests;
    }
    Ok(())
}

impl Script for Tagger {
    fn next(&mut self) -> Option<Exchange> {
        let tag = self.next.fetch_add(1, Ordering::Relaxed);
        let fields = format!("Content-Type: {}\r\n", MediaType::OCI_MANIFEST.as_str());
        let target = format!("/v2/{REPOSITORY}/manifests/tag-{tag}");
        let head = self.origin.head("PUT", &target, &fields, self.manifest.len() as u64);
        let reading = Reading::Drop { length: None };
        Some(Exchange::new(head.into_bytes().into(), &[201], reading).with_body(self.manifest.clone()))
    }

    fn answered(&mut self, _answer: &Answer) -> Result<(), String> {
        Ok(())
    }
}
