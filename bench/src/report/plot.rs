//! Plots of distributions, throughput and cost, as SVG text.
//!
//! Owns: which cases belong on one plot, and the colour that a peer has on all of them.
//!
//! Cases belong together if only the number of connections, or only the size, sets them apart: their names are equal
//! without the part that says it (`64 KiB`, `16 connections`, `16 pushers`).

use std::{collections::BTreeMap, ops::Range};

use plotters::{
    coord::{
        Shift,
        ranged1d::{DefaultFormatting, KeyPointHint, Ranged},
    },
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::units;
use crate::result::{Case, Outcome, PeerRounds, Round};

/// A plot with what stands above it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// One line.
    pub caption: String,
    /// A whole `svg` element.
    pub svg: String,
}

const WIDTH: u32 = 860;
const HEIGHT: u32 = 380;
/// Told apart by people who see red and green alike (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(80, 80, 80),
];

const GREY: RGBColor = RGBColor(225, 225, 225);

/// One series: a peer's name, its colour, its points.
type Series = (String, RGBColor, Vec<(f64, f64)>);

/// Peers in the order in which they first appear: the place is the colour.
fn colours(outcome: &Outcome) -> BTreeMap<&str, RGBColor> {
    let mut colours = BTreeMap::new();
    for peer in outcome.cases.iter().flat_map(|case| &case.peers) {
        let next = COLOURS[colours.len() % COLOURS.len()];
        colours.entry(peer.peer.as_str()).or_insert(next);
    }
    colours
}

/// How latencies of a case are distributed; `None` if no round recorded that.
pub fn latency(outcome: &Outcome, case: &Case) -> Result<Option<Plot>, String> {
    let colours = colours(outcome);
    let series: Vec<Series> = case
        .peers
        .iter()
        .filter_map(|peer| {
            let points = &typical(peer)?.latency.points;
            // All of them (1.0) would stand infinitely far to the right.
            let below = points.iter().filter(|(share, us)| (0.0..1.0).contains(share) && *us > 0.0);
            let points: Vec<(f64, f64)> = below.map(|(share, us)| (-(1.0 - share).log10(), *us)).collect();
            (points.len() > 1).then(|| (peer.peer.clone(), colours[peer.peer.as_str()], points))
        })
        .collect();
    let Some((_, y)) = extent(&series) else { return Ok(None) };
    let nines = series.iter().flat_map(|(.., points)| points).map(|(x, _)| *x).fold(1.0, f64::max).ceil();
    let ticks = (0..=nines as usize).map(|nines| nines as f64).collect();
    let share = |nines: &f64| match nines.round() as usize {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        digits => format!("99{}{} %", if digits > 2 { "." } else { "" }, "9".repeat(digits - 2)),
    };
    let x = Scale { range: 0.0..nines, ticks, log: false };
    let svg = lines(
        &series,
        0,
        (x, Scale::log(y)),
        ("share of requests", &share),
        ("latency below", &|us| units::micros(*us)),
    )?;
    Ok(Some(Plot { caption: format!("Latency, {}", super::grid::title(&case.scenario, &case.name)), svg }))
}

/// The round whose p99 is the median: one that happened, rather than a mixture.
fn typical(peer: &PeerRounds) -> Option<&Round> {
    let mut rounds: Vec<&Round> =
        peer.rounds.iter().filter(|round| !round.latency.points.is_empty()).collect();
    rounds.sort_by(|a, b| a.latency.p99_us.total_cmp(&b.latency.p99_us));
    rounds.get(rounds.len() / 2).copied()
}

/// Throughput of each peer against connections, a plot for each group of closed-loop cases that only those set apart.
pub fn throughput(outcome: &Outcome) -> Result<Vec<Plot>, String> {
    let colours = colours(outcome);
    let mut plots = Vec::new();
    for (caption, cases) in groups(outcome, |case| {
        let count = case.connections.filter(|_| case.rate.is_none())?;
        let start = format!("{count} ");
        // `4 KiB` is no number of connections.
        let size = case.size_bytes.map(units::size).unwrap_or_default();
        Some((count, parts(case, |part| part.starts_with(&start) && part != size)))
    }) {
        // Bytes where bodies are what is asked for, requests where those are small.
        let bytes = cases.iter().all(|(_, case)| case.size_bytes.is_some_and(|size| size >= 1 << 20));
        let of = move |round: &Round| if bytes { round.bytes_per_s() } else { round.requests_per_s() };
        let series = series(&cases, &colours, of);
        let Some((_, y)) = extent(&series) else { continue };
        let ticks: Vec<f64> = cases.keys().map(|count| *count as f64).collect();
        let (Some(first), Some(last)) = (ticks.first(), ticks.last()) else { continue };
        let x = Scale { range: first * 0.8..last * 1.25, log: true, ticks: ticks.clone() };
        let name = if bytes { "bytes a second" } else { "requests a second" };
        let write = move |rate: &f64| if bytes { units::bytes_per_s(*rate) } else { units::count(*rate) };
        let svg = lines(
            &series,
            3,
            (x, Scale::log(y)),
            ("connections", &|count| units::count(*count)),
            (name, &write),
        )?;
        plots.push(Plot { caption: format!("Throughput against connections, {caption}"), svg });
    }
    Ok(plots)
}

/// Server processor time per request for each size, peers side by side, for each group of cases that only size sets
/// apart.
pub fn cost(outcome: &Outcome) -> Result<Vec<Plot>, String> {
    let colours = colours(outcome);
    let mut plots = Vec::new();
    for (caption, cases) in groups(outcome, |case| {
        let size = case.size_bytes?;
        let name = units::size(size);
        Some((size, parts(case, |part| part == name)))
    }) {
        let series = series(&cases, &colours, Round::cpu_us_per_request);
        let Some((_, y)) = extent(&series) else { continue };
        let sizes: Vec<u64> = cases.keys().copied().collect();
        let svg = bars(&series, &sizes, y)?;
        plots.push(Plot { caption: format!("Processor time of the server per request, {caption}"), svg });
    }
    Ok(plots)
}

/// The parts of a case's name without those that say what is varied.
fn parts(case: &Case, varied: impl Fn(&str) -> bool) -> String {
    case.name.split(", ").filter(|part| !varied(part)).collect::<Vec<_>>().join(", ")
}

/// Cases that share all but what is varied, at least two of them, ordered by it. `varied` gives the value and the
/// rest of the name.
fn groups(
    outcome: &Outcome,
    varied: impl Fn(&Case) -> Option<(u64, String)>,
) -> Vec<(String, BTreeMap<u64, &Case>)> {
    let mut groups: Vec<(String, BTreeMap<u64, &Case>)> = Vec::new();
    for case in &outcome.cases {
        let Some((value, rest)) = varied(case) else { continue };
        let key = super::grid::title(&case.scenario, &rest);
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, cases)) => drop(cases.insert(value, case)),
            None => groups.push((key, [(value, case)].into())),
        }
    }
    groups.retain(|(_, cases)| cases.len() > 1);
    groups
}

/// A point for each case that a peer was measured in.
fn series(
    cases: &BTreeMap<u64, &Case>,
    colours: &BTreeMap<&str, RGBColor>,
    of: impl Fn(&Round) -> f64 + Copy,
) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for (value, case) in cases {
        for peer in &case.peers {
            let Some(median) = peer.median(of).filter(|median| *median > 0.0) else { continue };
            let point = (*value as f64, median);
            match all.iter_mut().find(|(name, ..)| *name == peer.peer) {
                Some((.., points)) => points.push(point),
                None => all.push((peer.peer.clone(), colours[peer.peer.as_str()], vec![point])),
            }
        }
    }
    all
}

/// The ranges of all points, with some room above and below; `None` without points.
fn extent(series: &[Series]) -> Option<(Range<f64>, Range<f64>)> {
    let mut points = series.iter().flat_map(|(.., points)| points);
    let first = points.next()?;
    let start = (first.0..first.0, first.1..first.1);
    let (x, y) = points.fold(start, |(x, y), point| {
        (x.start.min(point.0)..x.end.max(point.0), y.start.min(point.1)..y.end.max(point.1))
    });
    Some((x, y.start / 1.3..y.end * 1.3))
}

/// The name of an axis, and how its values are written.
type Axis<'a> = (&'a str, &'a dyn Fn(&f64) -> String);

/// From values to places on an axis, with a line for each tick.
struct Scale {
    range: Range<f64>,
    ticks: Vec<f64>,
    log: bool,
}

impl Scale {
    /// Logarithmic, with the fewer ticks in each power of ten the more powers there are.
    fn log(range: Range<f64>) -> Scale {
        let (first, last) = (range.start.log10().floor() as i32, range.end.log10().ceil() as i32);
        let steps: &[f64] = match (range.end / range.start).log10() {
            ..0.9 => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
            ..2.5 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let all = (first..=last).flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
        Scale { ticks: all.filter(|tick| range.contains(tick)).collect(), range, log: true }
    }
}

impl Ranged for Scale {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let place = |value: f64| if self.log { value.ln() } else { value };
        let (start, end) = (place(self.range.start), place(self.range.end));
        let share = (place(*value) - start) / (end - start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

type Drawing<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Scale, Scale>>;

fn failed(error: impl std::fmt::Display) -> String {
    format!("a plot cannot be drawn: {error}")
}

/// An SVG on which `draw` has drawn, below a legend.
fn drawn(series: &[Series], draw: impl FnOnce(&Drawing) -> Result<(), String>) -> Result<String, String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let (top, below) = area.split_vertically(24);
        legend(&top, series)?;
        draw(&below)?;
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

/// Axes with their names, and lines at their ticks.
fn chart<'a, 'b>(
    area: &'a Drawing<'b>,
    x: Scale,
    y: Scale,
    x_axis: Axis,
    y_axis: Axis,
) -> Result<Chart<'a, 'b>, String> {
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(36)
        .x_label_area_size(44)
        .y_label_area_size(84)
        .build_cartesian_2d(x, y)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .bold_line_style(GREY)
        .x_desc(x_axis.0)
        .y_desc(y_axis.0)
        .x_label_formatter(x_axis.1)
        .y_label_formatter(y_axis.1)
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 13))
        .draw()
        .map_err(failed)?;
    Ok(chart)
}

/// The names of the series in a row, beside their colours.
fn legend(area: &Drawing, series: &[Series]) -> Result<(), String> {
    let style = ("sans-serif", 13).into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
    let mut x = 92;
    for (name, colour, _) in series {
        area.draw(&Rectangle::new([(x, 6), (x + 14, 18)], colour.filled())).map_err(failed)?;
        area.draw(&Text::new(name.as_str(), (x + 20, 12), style.clone())).map_err(failed)?;
        // A letter's width is the browser's to choose: this much is enough for most.
        x += 44 + 8 * name.chars().count() as i32;
    }
    Ok(())
}

/// A line for each series; with `dots`, of pixels, where something was measured.
fn lines(
    series: &[Series],
    dots: u32,
    (x, y): (Scale, Scale),
    x_axis: Axis,
    y_axis: Axis,
) -> Result<String, String> {
    drawn(series, |area| {
        let mut chart = chart(area, x, y, x_axis, y_axis)?;
        for (_, colour, points) in series {
            let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(dots);
            chart.draw_series(line).map_err(failed)?;
        }
        Ok(())
    })
}

/// A group of bars for each size, a bar for each series with its value on top.
fn bars(series: &[Series], sizes: &[u64], y: Range<f64>) -> Result<String, String> {
    // Bars stand on a power of ten, and have room for their values.
    let floor = 10f64.powf(y.start.log10().floor());
    let y = Scale::log(floor..y.end * 1.3);
    let ticks = (0..sizes.len()).map(|place| place as f64).collect();
    let x = Scale { range: -0.5..sizes.len() as f64 - 0.5, ticks, log: false };
    let name =
        |place: &f64| sizes.get(place.round() as usize).map(|size| units::size(*size)).unwrap_or_default();
    let width = 0.8 / series.len() as f64;
    let place = |size: f64| sizes.iter().position(|other| *other as f64 == size).unwrap_or_default() as f64;
    drawn(series, |area| {
        let y_axis: Axis = ("processor time per request", &|us| units::micros(*us));
        let mut chart = chart(area, x, y, ("size", &name), y_axis)?;
        let style = ("sans-serif", 11).into_text_style(area).pos(Pos::new(HPos::Center, VPos::Bottom));
        for (position, (_, colour, points)) in series.iter().enumerate() {
            let left = |size: f64| place(size) - 0.4 + position as f64 * width;
            let bars = points.iter().map(|(size, us)| {
                Rectangle::new([(left(*size), floor), (left(*size) + width * 0.94, *us)], colour.filled())
            });
            chart.draw_series(bars).map_err(failed)?;
            let values = points.iter().map(|(size, us)| {
                Text::new(units::micros(*us), (left(*size) + width * 0.47, *us * 1.04), style.clone())
            });
            chart.draw_series(values).map_err(failed)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::outcome;

    #[test]
    fn a_distribution_has_a_line_for_each_peer_and_an_axis_of_nines() {
        let outcome = outcome();
        let plot = latency(&outcome, &outcome.cases[0]).unwrap().unwrap();
        assert!(plot.caption.contains("blobs: 4 KiB, 16 connections"));
        for label in ["0 %", "90 %", "99 %", "99.9 %", "gantry", "latency below"] {
            assert!(plot.svg.contains(label), "{label}: {}", plot.svg);
        }
        assert!(
            plot.svg.matches("<polyline").count() >= 2
                && !plot.svg.contains("NaN")
                && !plot.svg.contains("inf")
        );
        let mut bare = outcome.cases[0].clone();
        bare.peers
            .iter_mut()
            .flat_map(|peer| &mut peer.rounds)
            .for_each(|round| round.latency.points.clear());
        assert_eq!(latency(&outcome, &bare).unwrap(), None);
    }

    #[test]
    fn cases_that_only_one_thing_sets_apart_share_a_plot() {
        let mut outcome = outcome();
        let by_connections = throughput(&outcome).unwrap();
        assert_eq!(by_connections.len(), 1);
        assert_eq!(by_connections[0].caption, "Throughput against connections, blobs: 4 KiB");
        assert!(by_connections[0].svg.contains(">\n64\n<"), "{}", by_connections[0].svg);
        let by_size = cost(&outcome).unwrap();
        assert_eq!(by_size.len(), 1);
        assert!(by_size[0].caption.ends_with("blobs: 16 connections"), "{}", by_size[0].caption);
        for text in ["4 KiB", "1 MiB", "10 µs", "20 µs"] {
            assert!(by_size[0].svg.contains(text), "{text}");
        }
        for case in &mut outcome.cases {
            // A size that begins like a number of connections.
            let connections = case.connections.map(|count| count / 4);
            case.connections = connections;
            case.name =
                format!("{}, {} pushers", units::size(case.size_bytes.unwrap()), connections.unwrap());
        }
        assert_eq!(throughput(&outcome).unwrap()[0].caption, by_connections[0].caption);
        outcome.cases.truncate(1);
        assert!(throughput(&outcome).unwrap().is_empty() && cost(&outcome).unwrap().is_empty());
    }

    #[test]
    fn the_typical_round_is_one_that_happened() {
        let outcome = outcome();
        assert_eq!(typical(&outcome.cases[0].peers[0]).unwrap().latency.p99_us, 900.0);
    }
}
