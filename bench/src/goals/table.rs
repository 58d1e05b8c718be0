//! What has to hold, and what is aimed at.

use super::{Bench, Found};
use crate::result::{
    Bound::{self, AtLeast, AtMost, Below},
    Goal,
};

/// The names of all goals.
pub const IDS: [&str; 16] =
    ["S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10", "S11", "S12", "S13", "S14", "S15", "S16"];

/// A row of the table.
pub(super) struct Spec {
    pub id: &'static str,
    measure: &'static str,
    /// As at the end of a figure's name.
    unit: &'static str,
    must: Option<Bound>,
    aim: Option<Bound>,
}

/// Rows that are measured together. `measure` gives a figure for each, in their order.
pub(super) struct Group {
    pub goals: Vec<Spec>,
    pub measure: fn(&mut Bench) -> Result<Vec<Found>, String>,
}

impl Spec {
    /// The row, not measured yet.
    pub fn goal(&self) -> Goal {
        Goal {
            id: self.id.to_owned(),
            measure: self.measure.to_owned(),
            unit: self.unit.to_owned(),
            must: self.must,
            aim: self.aim,
            measured: None,
            note: String::new(),
        }
    }
}

fn goal(id: &'static str, measure: &'static str, unit: &'static str, must: Bound, aim: Bound) -> Spec {
    Spec { id, measure, unit, must: Some(must), aim: Some(aim) }
}

fn reported(id: &'static str, measure: &'static str, unit: &'static str) -> Spec {
    Spec { id, measure, unit, must: None, aim: None }
}

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

/// CPU and throughput at one size.
fn sized(
    (id, cpu, throughput): (&'static str, &'static str, &'static str),
    (must, aim): (f64, f64),
    measure: fn(&mut Bench) -> Result<Vec<Found>, String>,
) -> Group {
    let cpu = goal(id, cpu, "ratio", AtMost(must), AtMost(aim));
    let throughput = goal("S4", throughput, "ratio", AtLeast(1.0), AtLeast(1.3));
    Group { goals: vec![cpu, throughput], measure }
}

/// All of them.
pub(super) fn groups() -> Vec<Group> {
    let mut groups = blobs();
    groups.extend(open_loop());
    groups.extend(rest());
    groups
}

fn blobs() -> Vec<Group> {
    let reported_at = |text| reported("S4", text, "ratio");
    vec![
        sized(
            ("S1", "CPU per 4 KiB GET ÷ nginx", "throughput ÷ nginx, 4 KiB, worse of 16 and 64 connections"),
            (0.90, 0.72),
            |bench| bench.blobs(4 << 10),
        ),
        sized(
            (
                "S2",
                "CPU per 64 KiB GET ÷ nginx",
                "throughput ÷ nginx, 64 KiB, worse of 16 and 64 connections",
            ),
            (0.85, 0.74),
            |bench| bench.blobs(64 << 10),
        ),
        sized(
            (
                "S3",
                "CPU per 128 KiB GET ÷ nginx",
                "throughput ÷ nginx, 128 KiB, worse of 16 and 64 connections",
            ),
            (0.60, 0.45),
            |bench| bench.blobs(128 << 10),
        ),
        sized(
            (
                "S3",
                "CPU per 256 KiB GET ÷ nginx",
                "throughput ÷ nginx, 256 KiB, worse of 16 and 64 connections",
            ),
            (0.60, 0.45),
            |bench| bench.blobs(256 << 10),
        ),
        sized(
            ("S3", "CPU per 1 MiB GET ÷ nginx", "throughput ÷ nginx, 1 MiB, worse of 16 and 64 connections"),
            (0.65, 0.50),
            |bench| bench.blobs(1 << 20),
        ),
        sized(
            ("S3", "CPU per 4 MiB GET ÷ nginx", "throughput ÷ nginx, 4 MiB, worse of 16 and 64 connections"),
            (0.80, 0.62),
            |bench| bench.blobs(4 << 20),
        ),
        sized(
            (
                "S3",
                "CPU per 256 MiB GET ÷ nginx",
                "throughput ÷ nginx, 256 MiB, worse of 16 and 64 connections",
            ),
            (0.80, 0.62),
            |bench| bench.blobs(256 << 20),
        ),
        Group {
            goals: vec![
                reported_at("throughput ÷ nginx, 4 KiB, 1 connection"),
                reported_at("throughput ÷ nginx, 4 KiB, 512 connections"),
                reported_at("throughput ÷ nginx, 64 KiB, 1 connection"),
                reported_at("throughput ÷ nginx, 64 KiB, 512 connections"),
                reported_at("throughput ÷ nginx, 1 MiB, 1 connection"),
                reported_at("throughput ÷ nginx, 1 MiB, 512 connections"),
            ],
            measure: |bench| bench.few_and_many_connections(),
        },
        Group {
            goals: vec![
                reported_at("throughput ÷ nginx, 4 KiB, 16 connections, nothing pinned"),
                reported_at("throughput ÷ nginx, 64 KiB, 16 connections, nothing pinned"),
                reported_at("throughput ÷ nginx, 1 MiB, 16 connections, nothing pinned"),
            ],
            measure: |bench| bench.unpinned(),
        },
    ]
}

fn open_loop() -> Vec<Group> {
    let pair = |p99: &'static str, p999: &'static str| {
        vec![goal("S5", p99, "ratio", AtMost(1.0), AtMost(0.8)), reported("S5", p999, "ratio")]
    };
    vec![
        Group {
            goals: pair(
                "p99 at 70 % of nginx's peak, open loop, ÷ nginx, 4 KiB",
                "the same, p99.9 ÷ nginx, 4 KiB",
            ),
            measure: |bench| bench.at_a_rate(4 << 10),
        },
        Group {
            goals: pair(
                "p99 at 70 % of nginx's peak, open loop, ÷ nginx, 64 KiB",
                "the same, p99.9 ÷ nginx, 64 KiB",
            ),
            measure: |bench| bench.at_a_rate(64 << 10),
        },
        Group {
            goals: pair(
                "p99 at 70 % of nginx's peak, open loop, ÷ nginx, 1 MiB",
                "the same, p99.9 ÷ nginx, 1 MiB",
            ),
            measure: |bench| bench.at_a_rate(1 << 20),
        },
    ]
}

fn rest() -> Vec<Group> {
    vec![
        Group {
            goals: vec![goal(
                "S6",
                "CPU per manifest GET by tag ÷ per 4 KiB blob GET",
                "ratio",
                AtMost(1.5),
                AtMost(1.1),
            )],
            measure: |bench| bench.manifests(),
        },
        Group {
            goals: vec![goal(
                "S7",
                "cold reads, 8 × 1 GiB, ÷ the smaller of fio's direct reads and the hot throughput",
                "ratio",
                AtLeast(0.85),
                AtLeast(0.95),
            )],
            measure: |bench| bench.cold_reads(),
        },
        Group {
            goals: vec![
                goal("S8", "hot p99 beside cold reads ÷ alone", "ratio", AtMost(2.0), AtMost(1.3)),
                goal("S8", "core stalls over 1 ms beside cold reads, per GB", "", Below(1.0), AtMost(0.0)),
                reported("S8", "hot p99 beside slow readers ÷ alone", "ratio"),
                reported("S8", "hot p99 beside uploads ÷ alone", "ratio"),
            ],
            measure: |bench| bench.neighbours(),
        },
        Group {
            goals: vec![
                goal(
                    "S9",
                    "server CPU for an upload of 1 GiB ÷ openssl's for its sha256",
                    "ratio",
                    AtMost(2.5),
                    AtMost(2.0),
                ),
                goal(
                    "S10",
                    "wall time of the same upload ÷ distribution 3.0.0",
                    "ratio",
                    AtMost(0.6),
                    AtMost(0.4),
                ),
            ],
            measure: |bench| bench.upload(),
        },
        Group {
            goals: vec![
                goal(
                    "S11",
                    "64 pushers of 64 KiB blobs: acknowledged pushes/s ÷ docker-registry",
                    "ratio",
                    AtLeast(5.0),
                    AtLeast(15.0),
                ),
                goal("S11", "the same: device flushes per acknowledged push", "", Below(0.6), Below(0.25)),
            ],
            measure: |bench| bench.pushers(),
        },
        Group {
            goals: vec![
                goal(
                    "S12",
                    "PSS of a connection that did nothing",
                    "bytes",
                    AtMost(2.0 * KIB),
                    AtMost(0.5 * KIB),
                ),
                goal(
                    "S12",
                    "PSS of a connection after a request",
                    "bytes",
                    AtMost(2.0 * KIB),
                    AtMost(0.5 * KIB),
                ),
                reported("S12", "PSS of a connection with half a head", "bytes"),
            ],
            measure: |bench| bench.idle(),
        },
        Group {
            goals: vec![
                goal(
                    "S13",
                    "RSS with 64 busy connections, 1 MiB",
                    "bytes",
                    AtMost(96.0 * MIB),
                    AtMost(48.0 * MIB),
                ),
                goal(
                    "S13",
                    "largest RSS during an upload of 10 GiB",
                    "bytes",
                    AtMost(96.0 * MIB),
                    AtMost(48.0 * MIB),
                ),
            ],
            measure: |bench| bench.memory(),
        },
        Group {
            goals: vec![goal(
                "S14",
                "heap allocations per hot GET on a kept-alive connection",
                "",
                AtMost(0.0),
                AtMost(0.0),
            )],
            measure: |_| Ok(vec![Found { value: None, note: "counted by a test, not by a load".to_owned() }]),
        },
        Group {
            goals: vec![
                goal(
                    "S15",
                    "CPU of a random 64 KiB range ÷ of a whole 64 KiB blob",
                    "ratio",
                    AtMost(1.3),
                    AtMost(1.1),
                ),
                goal(
                    "S15",
                    "CPU of four 16 KiB ranges ÷ of a whole 64 KiB blob",
                    "ratio",
                    AtMost(1.3),
                    AtMost(1.1),
                ),
            ],
            measure: |bench| bench.ranges(),
        },
        Group {
            goals: vec![goal(
                "S16",
                "ready after start with 100,000 blobs and 10,000 tags",
                "ms",
                AtMost(200.0),
                AtMost(50.0),
            )],
            measure: |bench| bench.restart(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_goal_has_a_row_and_every_aim_is_at_least_what_must_hold() {
        let rows: Vec<Goal> = groups().iter().flat_map(|group| group.goals.iter().map(Spec::goal)).collect();
        for id in IDS {
            assert!(rows.iter().any(|row| row.id == id && row.must.is_some()), "{id}");
        }
        for row in rows {
            assert!(IDS.contains(&row.id.as_str()), "{}", row.id);
            if let (Some(must), Some(aim)) = (row.must, row.aim) {
                let (AtMost(at) | Below(at) | AtLeast(at)) = aim;
                assert!(must.holds(at), "{}", row.measure);
            }
        }
    }
}
