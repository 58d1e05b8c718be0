//! Traces of requests to a registry, as IBM published them with FAST '18 ("Improving Docker Registry Design based on
//! Production Workload Analysis"): a JSON object for each request, one a line, or all of them in one array as in the
//! published files.
//!
//! | field | what is made of it |
//! |---|---|
//! | `timestamp` | when the request is sent: UTC, `2017-08-01T00:00:00.123Z` |
//! | `http.request.method`, `http.request.uri` | what is asked: `v2/USER/REPOSITORY/blobs/ID`, anonymous |
//! | `http.response.status` | requests that went wrong are left out, but for the HEAD of a blob that is not there yet |
//! | `http.response.written` | how long a blob or a manifest is; for a PUT too, as its authors' own replayer takes it |
//!
//! Others (`http.request.duration`, `http.request.remoteaddr`, `http.request.useragent`, `host`, `id`) say nothing about
//! what is to be sent. POST and PATCH are steps of an upload and are part of what its PUT stands for.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use serde::Deserialize;

/// What is replayed.
#[derive(Debug, PartialEq, Eq)]
pub struct Trace {
    /// By time.
    pub events: Vec<Event>,
    /// What has to be there before.
    pub objects: Vec<Object>,
    /// Requests that are not replayed.
    pub skipped: u64,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// From the first request of the trace.
    pub at: Duration,
    /// What is asked.
    pub action: Action,
}

/// What is asked; an index is one into the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// GET of an object.
    Pull(usize),
    /// HEAD of an object.
    Head(usize),
    /// HEAD of a blob that is not there.
    HeadAbsent,
    /// A whole upload of so many bytes.
    PushBlob(u64),
    /// PUT of a manifest of so many bytes.
    PushManifest(u64),
    /// A list of tags.
    Tags,
}

/// A blob or manifest that was there before the trace began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// A manifest, or else a blob.
    pub is_manifest: bool,
    /// Its length.
    pub bytes: u64,
}

#[derive(Deserialize)]
struct Record {
    timestamp: String,
    #[serde(rename = "http.request.method")]
    method: String,
    #[serde(rename = "http.request.uri")]
    uri: String,
    #[serde(rename = "http.response.status")]
    status: Option<u16>,
    #[serde(rename = "http.response.written", default)]
    written: f64,
}

/// What a path leads to.
enum Place<'a> {
    Blob(&'a str),
    Manifest(&'a str),
    Upload,
    Tags,
}

impl Trace {
    /// Reads a file, its first `requests_max` requests.
    ///
    /// Errors: a sentence.
    pub fn read(path: &Path, requests_max: Option<usize>) -> Result<Trace, String> {
        let named = |why: String| format!("the trace {}: {why}", path.display());
        let text = fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        Trace::parse(&text, requests_max.unwrap_or(usize::MAX)).map_err(named)
    }

    fn parse(text: &str, requests_max: usize) -> Result<Trace, String> {
        let mut timed = Vec::new();
        for record in records(text)? {
            timed.push((micros(&record.timestamp)?, record));
        }
        // Of several machines' logs.
        timed.sort_by_key(|(time, _)| *time);
        timed.truncate(requests_max);
        let first = timed.first().map_or(0, |(time, _)| *time);
        let mut trace = Trace { events: Vec::new(), objects: Vec::new(), skipped: 0 };
        let mut known = BTreeMap::new();
        for (time, record) in &timed {
            let written = record.written.max(0.0) as u64;
            let mut object = |is_manifest, id: &str| {
                let objects = &mut trace.objects;
                let index = *known.entry((is_manifest, id.to_owned())).or_insert_with(|| {
                    objects.push(Object { is_manifest, bytes: 1 });
                    objects.len() - 1
                });
                // A client that left early was sent less than there is.
                objects[index].bytes = objects[index].bytes.max(written);
                index
            };
            let ok = record.status.is_none_or(|status| (200..300).contains(&status));
            let action = match (record.method.as_str(), place(&record.uri)) {
                ("HEAD", Some(Place::Blob(_))) if record.status == Some(404) => Action::HeadAbsent,
                _ if !ok => {
                    trace.skipped += 1;
                    continue;
                }
                ("GET", Some(Place::Blob(id))) => Action::Pull(object(false, id)),
                ("GET", Some(Place::Manifest(id))) => Action::Pull(object(true, id)),
                ("HEAD", Some(Place::Blob(id))) => Action::Head(object(false, id)),
                ("HEAD", Some(Place::Manifest(id))) => Action::Head(object(true, id)),
                ("PUT", Some(Place::Upload | Place::Blob(_))) => Action::PushBlob(written.max(1)),
                ("PUT", Some(Place::Manifest(_))) => Action::PushManifest(written),
                ("GET", Some(Place::Tags)) => Action::Tags,
                _ => {
                    trace.skipped += 1;
                    continue;
                }
            };
            trace.events.push(Event { at: Duration::from_micros(time.abs_diff(first)), action });
        }
        if trace.events.is_empty() {
            return Err(format!("none of its {} requests can be replayed", timed.len()));
        }
        Ok(trace)
    }
}

fn records(text: &str) -> Result<Vec<Record>, String> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let record = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| format!("line {number}: {error}"))
    };
    lines.map(record).collect()
}

fn place(uri: &str) -> Option<Place<'_>> {
    let path = uri.split('?').next()?.trim_matches('/');
    let (start, id) = path.rsplit_once('/')?;
    let (above, kind) = start.rsplit_once('/')?;
    match kind {
        "uploads" if above.ends_with("/blobs") => Some(Place::Upload),
        "blobs" if id != "uploads" => Some(Place::Blob(id)),
        "manifests" => Some(Place::Manifest(id)),
        _ if id == "list" && kind == "tags" => Some(Place::Tags),
        _ => None,
    }
}

/// Microseconds since 1970 of a time in UTC.
fn micros(timestamp: &str) -> Result<i64, String> {
    let wrong = || format!("{timestamp:?} is no time like 2017-08-01T00:00:00.123Z");
    let parsed = timestamp.strip_suffix('Z').and_then(|plain| {
        let (date, time) = plain.split_once('T')?;
        let number = |text: &str| text.parse::<u32>().ok().map(i64::from);
        let mut date = date.splitn(3, '-').map(number);
        let mut time = time.splitn(3, ':');
        let (year, month, day) = (date.next()??, date.next()??, date.next()??);
        let (hour, minute) = (number(time.next()?)?, number(time.next()?)?);
        let seconds: f64 = time.next()?.parse().ok()?;
        let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60;
        let in_range = in_range && (0.0..61.0).contains(&seconds);
        let seconds_before = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60;
        in_range.then(|| seconds_before * 1_000_000 + (seconds * 1e6).round() as i64)
    });
    parsed.ok_or_else(wrong)
}

/// Days since 1970-01-01 in the Gregorian calendar, counted in years that begin with March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // From 0000-03-01 to 1970-01-01 there are 719,468 days.
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../traces/example.jsonl");

    #[test]
    fn times() {
        assert_eq!(micros("1970-01-01T00:00:00.000Z"), Ok(0));
        assert_eq!(micros("2000-02-29T12:00:00Z"), Ok(951_825_600_000_000));
        assert_eq!(micros("2017-08-01T00:00:00.123Z"), Ok(1_501_545_600_123_000));
        for wrong in
            ["", "2017-08-01", "2017-13-01T00:00:00Z", "2017-08-01T24:00:00Z", "2017-08-01T00:00:00+01:00"]
        {
            assert!(micros(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_becomes_what_is_sent() {
        let line = |method: &str, uri: &str, status: u16, written: u64, second: u32| {
            serde_json::json!({
                "host": "5a",
                "http.request.duration": 0.5,
                "http.request.method": method,
                "http.request.uri": uri,
                "http.response.status": status,
                "http.response.written": written,
                "timestamp": format!("2017-08-01T00:00:{second:02}.500Z"),
            })
            .to_string()
        };
        let lines = [
            line("GET", "v2/u/r/blobs/b1", 200, 700, 2),
            line("HEAD", "v2/u/r/manifests/m1", 200, 0, 1),
            line("GET", "v2/u/r/manifests/m1", 200, 1500, 3),
            line("GET", "v2/u/r/blobs/b1", 200, 900, 4),
            line("HEAD", "v2/u/r/blobs/b2", 404, 10, 5),
            line("POST", "v2/u/r/blobs/uploads/", 202, 0, 6),
            line("PUT", "v2/u/r/blobs/uploads/id", 201, 40, 7),
            line("PUT", "v2/u/r/manifests/m2", 201, 50, 8),
            line("GET", "v2/u/r/tags/list", 200, 50, 9),
            line("GET", "v2/u/r/blobs/b3", 404, 50, 10),
            line("GET", "v2/", 200, 2, 11),
        ];
        let expect = Trace {
            events: [
                (0, Action::Head(0)),
                (1, Action::Pull(1)),
                (2, Action::Pull(0)),
                (3, Action::Pull(1)),
                (4, Action::HeadAbsent),
                (6, Action::PushBlob(40)),
                (7, Action::PushManifest(50)),
                (8, Action::Tags),
            ]
            .map(|(second, action)| Event { at: Duration::from_secs(second), action })
            .to_vec(),
            objects: vec![
                Object { is_manifest: true, bytes: 1500 },
                Object { is_manifest: false, bytes: 900 },
            ],
            skipped: 3,
        };
        assert_eq!(Trace::parse(&lines.join("\n"), 100).as_ref(), Ok(&expect));
        assert_eq!(Trace::parse(&format!("[{}]", lines.join(",\n")), 100).as_ref(), Ok(&expect));
        assert_eq!(Trace::parse(&lines.join("\n"), 3).unwrap().events.len(), 3);
        let wrong = Trace::parse(&format!("{}\n{{}}", lines[0]), 100).unwrap_err();
        assert!(wrong.contains("line 2"), "{wrong}");
        assert!(Trace::parse("", 100).is_err());
        assert!(Trace::parse(&lines[10], 100).unwrap_err().contains("none of its 1"));
    }

    #[test]
    fn the_example_is_replayed_whole() {
        let trace = Trace::parse(EXAMPLE, usize::MAX).unwrap();
        assert_eq!(trace.skipped, 4, "an upload's steps and a ping");
        let has = |wanted: fn(&Action) -> bool| trace.events.iter().any(|event| wanted(&event.action));
        assert!(has(|action| matches!(action, Action::Pull(_))));
        assert!(has(|action| matches!(action, Action::Head(_))));
        assert!(has(|action| matches!(action, Action::HeadAbsent)));
        assert!(has(|action| matches!(action, Action::PushBlob(_))));
        assert!(has(|action| matches!(action, Action::PushManifest(_))));
        assert!(has(|action| matches!(action, Action::Tags)));
    }
}
