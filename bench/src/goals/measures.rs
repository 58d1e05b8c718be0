//! How each figure is taken. A note says what a reader has to know of it.

use std::process::Command;

use super::{
    Bench, Found, bound_by_client,
    disk::ColdReads,
    figure, first, ratio, restart,
    tagged::Tagged,
    upload::{self, Upload},
};
use crate::{
    args::Settings,
    result::{Case, Round},
    scenarios::{self, Scenario},
    subject::Subject,
};

const PAIR: [&str; 2] = ["gantry", "nginx"];
/// Debian's registry, which is distribution 2.
const DEBIAN: &str = "docker-registry";

/// Some cases of a scenario.
struct Only {
    inner: Box<dyn Scenario>,
    wanted: fn(&str) -> bool,
}

impl Scenario for Only {
    fn cases(&self) -> Vec<Case> {
        self.inner.cases().into_iter().filter(|case| (self.wanted)(&case.name)).collect()
    }

    fn takes_file_servers(&self) -> bool {
        self.inner.takes_file_servers()
    }

    fn prepare(&mut self, case: &Case, subject: &mut Subject) -> Result<(), String> {
        self.inner.prepare(case, subject)
    }

    fn round(&mut self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        self.inner.round(case, subject)
    }
}

impl Bench {
    fn run(&mut self, name: &str, settings: &Settings, specs: &[&str]) -> Result<Vec<Case>, String> {
        self.measure(scenarios::named(name, settings)?, settings, specs)
    }

    fn some(
        &mut self,
        name: &str,
        wanted: fn(&str) -> bool,
        settings: &Settings,
        specs: &[&str],
    ) -> Result<Vec<Case>, String> {
        let inner = scenarios::named(name, settings)?;
        self.measure(Box::new(Only { inner, wanted }), settings, specs)
    }

    fn with(&self, sizes: &[u64], connections: &[u64]) -> Settings {
        Settings { sizes: sizes.to_vec(), connections: connections.to_vec(), ..self.settings.clone() }
    }

    /// The smaller of two amounts if there is little time.
    fn amount(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    /// S1 to S3 with S4.
    pub(super) fn blobs(&mut self, size: u64) -> Result<Vec<Found>, String> {
        let settings = self.with(&[size], &[16, 64]);
        let cases = self.run("blobs", &settings, &PAIR)?;
        let [few, many] = &cases[..] else { return Err("16 and 64 connections are two cases".to_owned()) };
        let cpu = Found::from(ratio(few, Round::cpu_us_per_request)?);
        let cpu = cpu.but(format!("{:.1} µs at 16 connections", first(few, Round::cpu_us_per_request)?));
        let throughput = ratio(few, Round::requests_per_s)?.min(ratio(many, Round::requests_per_s)?);
        Ok(vec![cpu, Found::from(throughput).but(bound_by_client(&[few, many]))])
    }

    pub(super) fn few_and_many_connections(&mut self) -> Result<Vec<Found>, String> {
        let settings = self.with(&[4 << 10, 64 << 10, 1 << 20], &[1, 512]);
        let cases = self.run("blobs", &settings, &PAIR)?;
        throughputs(&cases)
    }

    pub(super) fn unpinned(&mut self) -> Result<Vec<Found>, String> {
        let mut settings = self.with(&[4 << 10, 64 << 10, 1 << 20], &[16]);
        (settings.server_cpus, settings.client_cpus, settings.unpinned) = (Vec::new(), Vec::new(), true);
        let cases = self.run("blobs", &settings, &PAIR)?;
        throughputs(&cases)
    }

    /// S5.
    pub(super) fn at_a_rate(&mut self, size: u64) -> Result<Vec<Found>, String> {
        let mut settings = self.with(&[size], &[64]);
        let peak = first(only(&self.run("blobs", &settings, &["nginx"])?)?, Round::requests_per_s)?;
        if peak <= 0.0 {
            return Err("nginx answered nothing in a round: something else needs the processors".to_owned());
        }
        settings.rate = Some((peak * 0.7).round().max(1.0));
        let cases = self.run("blobs", &settings, &PAIR)?;
        let case = only(&cases)?;
        let note = format!("at {:.0} requests/s", peak * 0.7);
        let p99 = Found::from(ratio(case, |round| round.latency.p99_us)?).but(note.clone());
        Ok(vec![p99, Found::from(ratio(case, |round| round.latency.p999_us)?).but(note)])
    }

    /// S6.
    pub(super) fn manifests(&mut self) -> Result<Vec<Found>, String> {
        let settings = self.with(&[4 << 10], &[16]);
        let cases = self.measure(Box::new(Tagged::new(settings.clone())), &settings, &["gantry"])?;
        against_first(&cases)
    }

    /// S7.
    pub(super) fn cold_reads(&mut self) -> Result<Vec<Found>, String> {
        let length = self.amount(1 << 30, 64 << 20);
        let settings = self.with(&[length], &[8]);
        let cases = self.measure(Box::new(ColdReads::new(settings.clone())), &settings, &["gantry"])?;
        let case = only(&cases)?;
        let found = Found::from(figure(case, "cold_to_bound_ratio")?);
        let cold = first(case, Round::bytes_per_s)?;
        let (fio, hot) = (figure(case, "fio_bytes_per_s")?, figure(case, "hot_bytes_per_s")?);
        let gb = |rate: f64| rate / 1e9;
        Ok(vec![found.but(format!("GB/s: cold {:.2}, fio {:.2}, hot {:.2}", gb(cold), gb(fio), gb(hot)))])
    }

    /// S8.
    pub(super) fn neighbours(&mut self) -> Result<Vec<Found>, String> {
        let mut settings = self.with(&[64 << 10], &[16]);
        settings.cold_bytes = self.amount(settings.cold_bytes, 256 << 20);
        let cases = self.run("neighbours", &settings, &["gantry"])?;
        let [cold, slow, uploads] = &cases[..] else { return Err("there are three neighbours".to_owned()) };
        let p99 = "p99_to_alone_ratio";
        let note = |case: &Case| Ok::<_, String>(format!("{:.0} µs alone", figure(case, "alone_p99_us")?));
        Ok(vec![
            Found::from(figure(cold, p99)?).but(note(cold)?),
            figure(cold, "stalls_per_gb")?.into(),
            Found::from(figure(slow, p99)?).but(note(slow)?),
            Found::from(figure(uploads, p99)?).but(note(uploads)?),
        ])
    }

    /// S9 and S10.
    pub(super) fn upload(&mut self) -> Result<Vec<Found>, String> {
        let length = self.amount(1 << 30, 64 << 20);
        let settings = self.with(&[length], &[1]);
        // Version 3 is what is aimed at; Debian has 2.
        let distribution = Command::new("registry").arg("--version").output().is_ok();
        let other = if distribution { "distribution" } else { DEBIAN };
        let scenario = || Box::new(Upload::new(settings.clone()));
        let (cases, lacks) = match self.measure(scenario(), &settings, &["gantry", other]) {
            Ok(cases) => (cases, None),
            // What the other one lacks is no reason to leave S9 out.
            Err(why) => (self.measure(scenario(), &settings, &["gantry"])?, Some(why)),
        };
        let case = only(&cases)?;
        let cpu_us = first(case, |round| round.cost.cpu_us)?;
        let digest = match upload::openssl_cpu_us(length, settings.rounds) {
            Ok(openssl_us) => {
                let note = format!("{:.0} ms ÷ {:.0} ms", cpu_us / 1e3, openssl_us / 1e3);
                Found::from(cpu_us / openssl_us.max(1.0)).but(note)
            }
            Err(why) => Found { value: None, note: why },
        };
        let wall = match lacks {
            Some(why) => Found { value: None, note: why },
            None if distribution => ratio(case, |round| round.seconds)?.into(),
            None => Found::from(ratio(case, |round| round.seconds)?)
                .but("÷ docker-registry 2.8: `registry` 3.0.0 is not on PATH"),
        };
        Ok(vec![digest, wall])
    }

    /// S11.
    pub(super) fn pushers(&mut self) -> Result<Vec<Found>, String> {
        let settings = self.with(&[64 << 10], &[64]);
        let wanted = |name: &str| name.starts_with("one PUT");
        let cases = self.some("push", wanted, &settings, &["gantry", DEBIAN])?;
        let case = only(&cases)?;
        let rate = Found::from(ratio(case, Round::requests_per_s)?);
        let rate = rate.but(format!("{:.0} pushes/s", first(case, Round::requests_per_s)?));
        let flushes = match figure(case, "flushes_per_ack") {
            Ok(flushes) => flushes.into(),
            Err(why) => Found { value: None, note: why },
        };
        Ok(vec![rate, flushes])
    }

    /// S12.
    pub(super) fn idle(&mut self) -> Result<Vec<Found>, String> {
        let mut settings = self.with(&[4 << 10], &[1]);
        settings.bystanders = self.amount(10_000, 1_000);
        let cases = self.run("idle", &settings, &["gantry"])?;
        let note = format!("{} connections", settings.bystanders);
        let found = |case| Ok(Found::from(figure(case, "pss_per_connection_bytes")?).but(note.clone()));
        cases.iter().map(found).collect()
    }

    /// S13.
    pub(super) fn memory(&mut self) -> Result<Vec<Found>, String> {
        let settings = self.with(&[1 << 20], &[64]);
        let busy = self.run("blobs", &settings, &["gantry"])?;
        let rss = first(only(&busy)?, |round| round.cost.rss_bytes as f64)?;
        let length = self.amount(10 << 30, 256 << 20);
        let settings = Settings { rounds: 1, ..self.with(&[length], &[1]) };
        let cases = self.measure(Box::new(Upload::new(settings.clone())), &settings, &["gantry"])?;
        let note = if self.quick { "of 256 MiB" } else { "" };
        Ok(vec![rss.into(), Found::from(figure(only(&cases)?, "rss_max_bytes")?).but(note)])
    }

    /// S15.
    pub(super) fn ranges(&mut self) -> Result<Vec<Found>, String> {
        let settings = self.with(&[self.amount(1 << 30, 64 << 20)], &[16]);
        let wanted = |name: &str| ["whole", "random", "4 ×"].iter().any(|start| name.starts_with(start));
        let cases = self.some("ranges", wanted, &settings, &["gantry"])?;
        against_first(&cases)
    }

    /// S16.
    pub(super) fn restart(&mut self) -> Result<Vec<Found>, String> {
        let (blobs, tags) = (self.amount(100_000, 1_000), self.amount(10_000, 100));
        let settings = self.settings.clone();
        let mut subject = self.start(&["gantry"], &settings)?.remove(0);
        let ready = restart::ready_after(&mut subject, &settings, blobs, tags)?;
        let note = if self.quick { format!("with {blobs} blobs and {tags} tags") } else { String::new() };
        Ok(vec![Found::from(ready.as_secs_f64() * 1e3).but(note)])
    }
}

fn throughputs(cases: &[Case]) -> Result<Vec<Found>, String> {
    let found =
        |case: &Case| Ok(Found::from(ratio(case, Round::requests_per_s)?).but(bound_by_client(&[case])));
    cases.iter().map(found).collect()
}

/// CPU per request of each case but the first, divided by the first's.
fn against_first(cases: &[Case]) -> Result<Vec<Found>, String> {
    let [base, rest @ ..] = cases else { return Err("there is nothing to compare with".to_owned()) };
    let base = first(base, Round::cpu_us_per_request)?;
    if base <= 0.0 {
        return Err("no tick of processor time was counted: give it more --time".to_owned());
    }
    let found = |case: &Case| {
        let cpu = first(case, Round::cpu_us_per_request)?;
        Ok(Found::from(cpu / base).but(format!("{cpu:.1} µs ÷ {base:.1} µs")))
    };
    rest.iter().map(found).collect()
}

fn only(cases: &[Case]) -> Result<&Case, String> {
    cases.first().ok_or_else(|| "a scenario without cases".to_owned())
}
