//! A case as rows and columns of text, before it becomes a table of a terminal, of Markdown or of HTML.
//!
//! Owns: which columns there are, and that each is the median of the rounds beside its ratio to the first peer.
//! A column in which nobody has anything to say is left out: a remote registry has no cost that could be read.

use std::collections::BTreeSet;

use super::units;
use crate::result::{Case, Round};

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// `blobs: 64 KiB, 16 connections`.
    pub title: String,
    /// Heads of the columns; the first is the peers'.
    pub heads: Vec<String>,
    /// A row for each peer, as long as `heads`.
    pub rows: Vec<Vec<Cell>>,
    /// What keeps the figures from meaning what they seem to: errors, a client at its limit.
    pub notes: Vec<String>,
}

/// A figure.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Cell {
    /// With its unit.
    pub text: String,
    /// To the first peer's; `None` for the first peer, and where there is none.
    pub ratio: Option<f64>,
}

impl Cell {
    /// `14.5 µs (0.72×)`.
    pub fn with_ratio(&self) -> String {
        match self.ratio {
            Some(ratio) => format!("{} ({})", self.text, units::ratio(ratio)),
            None => self.text.clone(),
        }
    }
}

/// What a column takes from a round, and how it is written.
struct Column {
    head: String,
    of: Box<dyn Fn(&Round) -> f64>,
    write: Box<dyn Fn(f64) -> String>,
}

fn column(
    head: &str,
    of: impl Fn(&Round) -> f64 + 'static,
    write: impl Fn(f64) -> String + 'static,
) -> Column {
    Column { head: head.to_owned(), of: Box::new(of), write: Box::new(write) }
}

fn columns(case: &Case) -> Vec<Column> {
    let mut columns = vec![
        column("req/s", Round::requests_per_s, units::count),
        column("throughput", Round::bytes_per_s, units::bytes_per_s),
        column("p50", |round| round.latency.p50_us, units::micros),
        column("p99", |round| round.latency.p99_us, units::micros),
        column("p99.9", |round| round.latency.p999_us, units::micros),
        column("CPU/request", Round::cpu_us_per_request, units::micros),
        column("busy/request", Round::busy_us_per_request, units::micros),
        column("CPU/GB", |round| if round.bytes == 0 { 0.0 } else { round.cpu_us_per_gb() }, units::micros),
        column("RSS", |round| round.cost.rss_bytes as f64, |bytes| units::size(bytes as u64)),
    ];
    let figures: BTreeSet<&String> = rounds(case).flat_map(|round| round.figures.keys()).collect();
    for name in figures {
        let (of, write) = (name.clone(), name.clone());
        columns.push(column(
            &units::figure_name(name),
            move |round| round.figures.get(&of).copied().unwrap_or(f64::NAN),
            move |value| units::figure(&write, value),
        ));
    }
    // A figure that is 0 says something, a measure that is 0 everywhere was not taken.
    let measures =
        columns.len() - rounds(case).flat_map(|round| round.figures.keys()).collect::<BTreeSet<_>>().len();
    let mut position = 0;
    columns.retain(|column| {
        position += 1;
        position > measures || rounds(case).any(|round| (column.of)(round) > 0.0)
    });
    columns
}

fn rounds(case: &Case) -> impl Iterator<Item = &Round> {
    case.peers.iter().flat_map(|peer| &peer.rounds)
}

/// Lays out a case.
pub fn of(case: &Case) -> Grid {
    let columns = columns(case);
    let mut rows: Vec<Vec<Cell>> =
        case.peers.iter().map(|peer| vec![Cell { text: peer.peer.clone(), ratio: None }]).collect();
    for column in &columns {
        let ratios = case.ratios(&column.of);
        for (position, (peer, ratio)) in case.peers.iter().zip(ratios).enumerate() {
            let text = peer.median(&column.of).map_or_else(|| "–".to_owned(), &column.write);
            rows[position].push(Cell { text, ratio: ratio.filter(|_| position > 0) });
        }
    }
    for (row, peer) in rows.iter_mut().zip(&case.peers) {
        row.push(Cell { text: units::count(peer.errors() as f64), ratio: None });
    }
    let inner = columns.into_iter().map(|column| column.head);
    let heads = ["peer".to_owned()].into_iter().chain(inner).chain(["errors".to_owned()]).collect();
    Grid { title: title(&case.scenario, &case.name), heads, rows, notes: notes(case) }
}

/// The scenario and what was varied.
pub fn title(scenario: &str, name: &str) -> String {
    if name.is_empty() { scenario.to_owned() } else { format!("{scenario}: {name}") }
}

fn notes(case: &Case) -> Vec<String> {
    let mut notes = Vec::new();
    for peer in &case.peers {
        let name = &peer.peer;
        let errors = peer.errors();
        if errors > 0 {
            let first =
                peer.rounds.iter().find_map(|round| round.first_error.as_deref()).unwrap_or("not recorded");
            notes.push(format!("{name}: {errors} errors, so its figures do not count. The first: {first}"));
        }
        let bound = peer.rounds.iter().filter(|round| round.client_bound).count();
        if bound > 0 {
            let of = peer.rounds.len();
            notes.push(format!(
                "{name}: the client was the limit in {bound} of {of} rounds; the server can do more than this."
            ));
        }
        if peer.rounds.is_empty() {
            notes.push(format!("{name}: was not measured."));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::outcome;

    #[test]
    fn each_figure_is_the_median_beside_its_ratio_to_the_first() {
        let grid = of(&outcome().cases[0]);
        assert_eq!(grid.title, "blobs: 4 KiB, 16 connections");
        let at = |head: &str| grid.heads.iter().position(|other| other == head).unwrap();
        let [first, second] = &grid.rows[..] else { panic!("a row for each of two peers") };
        assert_eq!(first[at("CPU/request")].with_ratio(), "10 µs");
        assert_eq!(second[at("CPU/request")].with_ratio(), "20 µs (2.00×)");
        assert_eq!(second[at("req/s")].with_ratio(), "500 (0.50×)");
        assert_eq!(first[at("throughput")].with_ratio(), "4.1 MB/s");
        assert_eq!(first[at("flushes per ack")].text, "0.25");
        assert_eq!(second[at("flushes per ack")].text, "–");
        assert_eq!(second[at("errors")].text, "3");
        assert!(grid.rows.iter().all(|row| row.len() == grid.heads.len()));
    }

    #[test]
    fn what_spoils_a_figure_is_said() {
        let notes = of(&outcome().cases[0]).notes.join("\n");
        assert!(notes.contains("nginx<&>: 3 errors") && notes.contains("cut <short>"), "{notes}");
        assert!(notes.contains("gantry: the client was the limit in 1 of 3 rounds"), "{notes}");
    }

    #[test]
    fn columns_that_nobody_measured_are_left_out() {
        let mut case = outcome().cases.remove(0);
        for round in case.peers.iter_mut().flat_map(|peer| &mut peer.rounds) {
            round.cost = Default::default();
            round.figures.clear();
        }
        let grid = of(&case);
        assert_eq!(grid.heads, ["peer", "req/s", "throughput", "p50", "p99", "p99.9", "errors"]);
        assert_eq!(title("idle", ""), "idle");
    }
}
