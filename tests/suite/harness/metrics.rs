//! `/metrics` as a scraper reads it, strictly: what OpenMetrics 1.0 forbids fails the test.

use std::collections::{BTreeMap, BTreeSet};

use super::server::Server;

/// All families of one scrape.
pub struct Metrics {
    families: BTreeMap<String, Family>,
}

#[derive(Default)]
struct Family {
    kind: String,
    unit: Option<String>,
    has_help: bool,
    samples: Vec<Sample>,
}

struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Server {
    /// A scrape, parsed.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let answer = self.client().get("/metrics").expect(200);
        let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(answer.header("content-type"), media_type);
        Metrics::parse(std::str::from_utf8(&answer.body).expect("UTF-8"))
    }

    /// The sum of all samples of that name.
    #[track_caller]
    pub fn metric(&self, sample: &str) -> f64 {
        self.metrics().sum(sample, &[])
    }
}

impl Metrics {
    /// Fails unless each family is told once, with its type and help before its samples, and the text ends well.
    #[track_caller]
    pub fn parse(text: &str) -> Metrics {
        let lines = text.strip_suffix("# EOF\n").expect("the text ends with # EOF");
        let mut families = BTreeMap::<String, Family>::new();
        let mut current = String::new();
        for line in lines.lines() {
            if let Some(told) = line.strip_prefix("# ") {
                let (keyword, told) = told.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                let (name, value) = told.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                if name != current {
                    assert!(!families.contains_key(name), "{name} is told in two places");
                    current = name.to_owned();
                }
                let family = families.entry(current.clone()).or_default();
                assert!(family.samples.is_empty(), "after the samples: {line}");
                match keyword {
                    "TYPE" if family.kind.is_empty() => value.clone_into(&mut family.kind),
                    "UNIT" if family.unit.is_none() => family.unit = Some(value.to_owned()),
                    "HELP" if !family.has_help => family.has_help = !value.is_empty(),
                    _ => panic!("told twice, or no such thing: {line}"),
                }
                continue;
            }
            let sample = Sample::parse(line);
            let family = families.get_mut(&current).unwrap_or_else(|| panic!("of no family: {line}"));
            let suffix =
                sample.name.strip_prefix(&current).unwrap_or_else(|| panic!("not of {current}: {line}"));
            assert!(family.suffixes().contains(&suffix), "no sample of a {}: {line}", family.kind);
            assert_eq!(suffix == "_bucket", sample.labels.contains_key("le"), "{line}");
            assert!(family.kind == "gauge" || sample.value >= 0.0, "{line}");
            family.samples.push(sample);
        }
        for (name, family) in &families {
            family.check(name);
        }
        Metrics { families }
    }

    /// `counter`, `gauge`, `histogram`, or nothing.
    pub fn kind(&self, family: &str) -> Option<&str> {
        self.families.get(family).map(|family| family.kind.as_str())
    }

    /// The names of all families.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.families.keys().map(String::as_str)
    }

    /// The sum of the samples of that name that have these labels among theirs. There has to be one: what nobody tells
    /// would be 0 whatever happens.
    #[track_caller]
    pub fn sum(&self, sample: &str, labels: &[(&str, &str)]) -> f64 {
        let found = self.counted(sample, labels);
        found.unwrap_or_else(|| panic!("no sample {sample} with {labels:?}"))
    }

    /// The same of a family whose samples come when they are first counted. `None`: there is none yet.
    #[track_caller]
    pub fn counted(&self, sample: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let of = |(name, family): &(&String, &Family)| family.may_have(name, sample);
        let (_, family) = self.families.iter().find(of).unwrap_or_else(|| panic!("no family has {sample}"));
        let has = |have: &&Sample| {
            let same =
                |(name, value): &(&str, &str)| have.labels.get(*name).is_some_and(|have| have == value);
            have.name == sample && labels.iter().all(same)
        };
        let values = family.samples.iter().filter(has).map(|sample| sample.value);
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }
}

impl Family {
    /// What its samples have behind its name.
    fn suffixes(&self) -> &'static [&'static str] {
        match self.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_count", "_sum"],
            other => panic!("no type: {other:?}"),
        }
    }

    fn may_have(&self, name: &str, sample: &str) -> bool {
        sample.strip_prefix(name).is_some_and(|suffix| self.suffixes().contains(&suffix))
    }

    fn check(&self, name: &str) {
        assert!(!self.kind.is_empty() && self.has_help, "{name} has no type or no help");
        let unit = self.unit.as_ref();
        assert!(
            unit.is_none_or(|unit| name.ends_with(&format!("_{unit}"))),
            "{name} does not end in its unit"
        );
        let mut seen = BTreeSet::new();
        let mut bucket: Option<(&Sample, f64)> = None;
        for sample in &self.samples {
            assert!(
                seen.insert((&sample.name, &sample.labels)),
                "{} is there twice: {:?}",
                sample.name,
                sample.labels
            );
            if let Some(le) = sample.labels.get("le") {
                let le = if le == "+Inf" { f64::INFINITY } else { le.parse().expect("a bound") };
                if let Some((before, bound)) = bucket {
                    assert!(
                        bound < le && before.value <= sample.value,
                        "{name}: buckets are cumulative, in order"
                    );
                }
                bucket = Some((sample, le));
            } else if sample.name.ends_with("_count") && self.kind == "histogram" {
                let (last, bound) = bucket.take().expect("the buckets come first");
                assert!(
                    bound.is_infinite() && last.value == sample.value,
                    "{name}: the last bucket has them all"
                );
            }
        }
    }
}

impl Sample {
    fn parse(line: &str) -> Sample {
        let wrong = || -> ! { panic!("no sample: {line}") };
        let end = line.find(['{', ' ']).unwrap_or_else(|| wrong());
        let (name, mut rest) = line.split_at(end);
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(part) || name.starts_with(|c: char| c.is_ascii_digit()) {
            wrong();
        }
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            let (inside, after) = inside.split_once('}').unwrap_or_else(|| wrong());
            for label in inside.split(',') {
                let (label, value) = label.split_once("=\"").unwrap_or_else(|| wrong());
                // Our label sets are closed: a value that had to be escaped would be a client's text.
                let value = value
                    .strip_suffix('"')
                    .filter(|value| !value.contains(['"', '\\']))
                    .unwrap_or_else(|| wrong());
                assert!(labels.insert(label.to_owned(), value.to_owned()).is_none(), "{line}");
            }
            rest = after;
        }
        let value = rest.strip_prefix(' ').and_then(|value| value.parse().ok()).unwrap_or_else(|| wrong());
        Sample { name: name.to_owned(), labels, value }
    }
}

#[test]
fn what_is_no_open_metrics_fails() {
    let parses = |text: &str| {
        let text = text.to_owned();
        std::panic::catch_unwind(move || drop(Metrics::parse(&text))).is_ok()
    };
    let head = "# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n# HELP a_seconds What.\n";
    let buckets = "a_seconds_bucket{le=\"1.0\"} 1\na_seconds_bucket{le=\"+Inf\"} 2\n";
    assert!(parses("# TYPE a counter\n# HELP a What.\na_total{b=\"c\"} 1\n# EOF\n"));
    assert!(parses(&format!("{head}{buckets}a_seconds_count 2\na_seconds_sum 3.5\n# EOF\n")));
    for bad in [
        "# TYPE a counter\n# HELP a What.\na_total 1\n".to_owned(),
        "# TYPE a counter\n# HELP a What.\na_total 1\n# EOF\n\n".to_owned(),
        "# TYPE a counter\n# HELP a What.\na 1\n# EOF\n".to_owned(),
        "# TYPE a counter\na_total 1\n# EOF\n".to_owned(),
        "# HELP a What.\na_total 1\n# EOF\n".to_owned(),
        "# TYPE a counter\n# HELP a What.\na_total 1\na_total 2\n# EOF\n".to_owned(),
        "# TYPE a counter\n# HELP a What.\na_total 1\n# TYPE a counter\n# EOF\n".to_owned(),
        "# TYPE a gauge\n# UNIT a bytes\n# HELP a What.\na 1\n# EOF\n".to_owned(),
        format!("{head}{buckets}a_seconds_count 3\n# EOF\n"),
        format!("{head}a_seconds_bucket{{le=\"2.0\"}} 2\na_seconds_bucket{{le=\"1.0\"}} 3\n# EOF\n"),
    ] {
        assert!(!parses(&bad), "{bad}");
    }
}

#[test]
fn what_nobody_tells_is_not_zero() {
    let text = "# TYPE a counter\n# HELP a What.\na_total{b=\"c\"} 1\na_total{b=\"d\"} 2\n\
                # TYPE e counter\n# HELP e What.\n# EOF\n";
    let metrics = Metrics::parse(text);
    assert_eq!((metrics.sum("a_total", &[]), metrics.sum("a_total", &[("b", "d")])), (3.0, 2.0));
    assert_eq!(metrics.counted("e_total", &[]), None);
    let fails = |sample: &'static str, labels: &'static [(&str, &str)]| {
        std::panic::catch_unwind(move || Metrics::parse(text).sum(sample, labels)).is_err()
    };
    assert!(fails("a_total", &[("b", "x")]) && fails("a_total", &[("x", "c")]));
    assert!(fails("e_total", &[]) && fails("a", &[]) && fails("f_total", &[]));
    let counts = |sample: &'static str| {
        std::panic::catch_unwind(move || Metrics::parse(text).counted(sample, &[])).is_ok()
    };
    assert!(counts("e_total") && !counts("f_total"));
}
