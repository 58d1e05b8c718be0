//! `ranges`: parts of a large blob. Random single ranges, several in one request, containerd's open-ended `bytes=N-`
//! with an early close, and 4 MiB chunks side by side as parallel downloaders ask for them.

use std::sync::Arc;

use super::{Scenario, get};
use crate::{
    args::Settings,
    content::{Blob, Dice},
    load::{Answer, Exchange, Reading, Script},
    result::{Case, Round},
    subject::Subject,
};

/// What a random range asks for.
const PART_BYTES: u64 = 64 * 1024;
/// What a parallel downloader asks for.
const CHUNK_BYTES: u64 = 4 * 1024 * 1024;
/// Ranges of a request that asks for several.
const SEVERAL: u64 = 4;

const KINDS: [(&str, Kind); 5] = [
    ("whole 64 KiB blob", Kind::Whole),
    ("random 64 KiB", Kind::Random),
    ("4 × 16 KiB in one request", Kind::Several),
    ("open-ended, left after 64 KiB", Kind::Open),
    ("4 MiB chunks", Kind::Chunks),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole,
    Random,
    Several,
    Open,
    Chunks,
}

/// The scenario.
pub struct Ranges {
    settings: Settings,
}

struct Ranged {
    kind: Kind,
    length: u64,
    dice: Dice,
    /// The request without its `Range` field and the empty line.
    start: String,
}

impl Ranges {
    /// With what the user has set. The blob is as large as the largest size, at least 64 MiB.
    pub fn new(settings: Settings) -> Ranges {
        Ranges { settings }
    }

    fn blob(&self, kind: Kind, subject: &mut Subject) -> Result<Blob, String> {
        let largest = self.settings.sizes.iter().copied().max().unwrap_or(0).max(64 << 20);
        subject.give(self.settings.seed, if kind == Kind::Whole { PART_BYTES } else { largest })
    }
}

impl Scenario for Ranges {
    fn cases(&self) -> Vec<Case> {
        let body = |kind| if kind == Kind::Chunks { CHUNK_BYTES } else { PART_BYTES };
        self.settings.cases("ranges", KINDS.iter().map(|(name, kind)| (*name, body(*kind))))
    }

    fn takes_file_servers(&self) -> bool {
        true
    }

    fn prepare(&mut self, case: &Case, subject: &mut Subject) -> Result<(), String> {
        self.blob(kind_of(case), subject).map(drop)
    }

    fn round(&mut self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        let kind = kind_of(case);
        let blob = self.blob(kind, subject)?;
        let request = get(subject, &subject.blob_target(&blob), "");
        let start = String::from_utf8_lossy(&request).trim_end().to_owned();
        let scripts = (0..case.connections.unwrap_or(1)).map(|index| {
            let dice = Dice::new(self.settings.seed ^ index << 32);
            Box::new(Ranged { kind, length: blob.length, dice, start: start.clone() }) as Box<dyn Script>
        });
        let plan = self.settings.plan(case, subject);
        let scripts = scripts.collect();
        let mut round = subject.load(&case.name, &plan, &self.settings.pins(), scripts)?.round;
        if kind == Kind::Open {
            // Every request makes a connection of its own.
            round.figures.insert("connects".to_owned(), round.requests as f64);
        }
        Ok(round)
    }
}

fn kind_of(case: &Case) -> Kind {
    let found = KINDS.iter().find(|(name, _)| case.name.starts_with(name));
    found.map_or(Kind::Random, |(_, kind)| *kind)
}

impl Script for Ranged {
    fn next(&mut self) -> Option<Exchange> {
        let part = |dice: &mut Dice, length: u64, of: u64| {
            let first = dice.below(length - of + 1);
            (first, first + of - 1)
        };
        let (range, status, reading): (String, &'static [u16], Reading) = match self.kind {
            Kind::Whole => (String::new(), &[200], Reading::Drop { length: Some(self.length) }),
            Kind::Random => {
                let (first, last) = part(&mut self.dice, self.length, PART_BYTES);
                (
                    format!("Range: bytes={first}-{last}\r\n"),
                    &[206],
                    Reading::Drop { length: Some(PART_BYTES) },
                )
            }
            Kind::Several => {
                // A part of each quarter, so that they neither overlap nor touch.
                let quarter = self.length / SEVERAL;
                let parts = (0..SEVERAL).map(|index| {
                    let (first, last) = part(&mut self.dice, quarter - 1, PART_BYTES / SEVERAL);
                    format!("{}-{}", index * quarter + first, index * quarter + last)
                });
                let parts: Vec<String> = parts.collect();
                (format!("Range: bytes={}\r\n", parts.join(",")), &[206], Reading::Drop { length: None })
            }
            Kind::Open => {
                let (first, _) = part(&mut self.dice, self.length, PART_BYTES);
                (format!("Range: bytes={first}-\r\n"), &[206], Reading::Leave { after: PART_BYTES })
            }
            Kind::Chunks => {
                let index = self.dice.below(self.length / CHUNK_BYTES);
                let (first, last) = (index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES - 1);
                (
                    format!("Range: bytes={first}-{last}\r\n"),
                    &[206],
                    Reading::Drop { length: Some(CHUNK_BYTES) },
                )
            }
        };
        let request: Arc<[u8]> = format!("{}\r\n{range}\r\n", self.start).into_bytes().into();
        Some(Exchange::new(request, status, reading))
    }

    fn answered(&mut self, _answer: &Answer) -> Result<(), String> {
        Ok(())
    }
}
