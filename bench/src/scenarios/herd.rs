//! `herd`: many clients ask at the same time for one blob that a cache does not have. Its upstream is the bench itself,
//! slow and counting. Some clients may read slowly, and some vanish in the middle.

use std::{
    net::SocketAddr,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Scenario, bystanders::raise_descriptors, now_as_seed, size};
use crate::{
    args::Settings,
    client::{Client, Request, Slow},
    clients::{self, Tally, first_median_last},
    content::{Blob, Dice},
    load::Reading,
    registry::Registry,
    result::{Case, Round},
    subject::{REPOSITORY, Subject},
    upstream::Upstream,
};

/// What a cache may go on fetching after its clients have gone.
const SETTLE_MAX: Duration = Duration::from_secs(30);

/// Misses whose first byte is looked at by themselves, and how long their blobs are: more than a cache may hold back
/// until it has verified them.
const FIRST_BYTES: usize = 25;
const FIRST_BYTE_BLOB_BYTES: u64 = 1 << 20;

/// `--slow K:BYTES_PER_S`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowReaders {
    /// How many, beside the other clients.
    pub count: usize,
    /// What each of them takes in a second.
    pub bytes_per_s: u64,
}

impl FromStr for SlowReaders {
    type Err = String;

    fn from_str(text: &str) -> Result<SlowReaders, String> {
        let parsed = text.split_once(':').and_then(|(count, rate)| {
            Some(SlowReaders { count: count.parse().ok()?, bytes_per_s: crate::args::parse_size(rate).ok()? })
        });
        parsed
            .filter(|slow| slow.bytes_per_s > 0)
            .ok_or_else(|| format!("{text}: slow readers are K:BYTES_PER_S, like 8:64KiB"))
    }
}

/// The scenario.
pub struct Herd {
    settings: Settings,
    upstream: Option<Upstream>,
    /// Every round has a blob that nobody has seen.
    rounds: u64,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It takes everything as fast as it comes.
    Quick,
    /// It goes after so many bytes.
    Vanishing(u64),
    /// It reads slowly until the quick ones are done, and goes.
    Slow,
}

/// What a quick client says: seconds to the first byte and to the last.
type Times = (f64, f64);

impl Herd {
    /// With what the user has set.
    pub fn new(settings: Settings) -> Herd {
        raise_descriptors();
        Herd { settings, upstream: None, rounds: now_as_seed() }
    }

    fn upstream(&mut self) -> Result<&Upstream, String> {
        match &mut self.upstream {
            Some(upstream) => Ok(upstream),
            none => {
                let (addr, rate) = (self.settings.upstream_listen, self.settings.upstream_rate);
                let cpu = self.settings.client_cpus.first().copied();
                Ok(none.insert(Upstream::start(addr, rate, cpu)?))
            }
        }
    }

    /// Whether the user knows where the upstream will be before it is there.
    fn has_fixed_upstream(&self) -> bool {
        self.settings.upstream_listen.port() != 0
    }
}

impl Scenario for Herd {
    fn cases(&self) -> Vec<Case> {
        let Settings { slow, vanish, blob_size, upstream_rate, .. } = &self.settings;
        let slow =
            slow.map_or(String::new(), |slow| format!(", {} read {}/s", slow.count, size(slow.bytes_per_s)));
        let vanish = if *vanish > 0.0 { format!(", {}% vanish", vanish * 100.0) } else { String::new() };
        let case = |clients: &u64| {
            let (blob, line) = (size(*blob_size), size(*upstream_rate));
            let mut case = self
                .settings
                .case("herd", format!("{clients} clients, {blob} at {line}/s from upstream{slow}{vanish}"));
            case.size_bytes = Some(*blob_size);
            case.connections = Some(*clients);
            case.rate = None;
            case
        };
        self.settings.clients.iter().map(case).collect()
    }

    /// Caches are no registries either: nothing is pushed to them.
    fn takes_file_servers(&self) -> bool {
        true
    }

    fn peer(&mut self, spec: &str) -> Result<String, String> {
        let words = spec.split_once(':').map_or("", |(_, words)| words);
        if spec.ends_with(".toml") {
            if !self.has_fixed_upstream() {
                return Err(format!(
                    "{spec} has to name its upstream: choose its port with --upstream-listen 127.0.0.1:PORT"
                ));
            }
            // Some caches look for it when they start.
            return self.upstream().map(|_| spec.to_owned());
        }
        match words.split(':').next_back() {
            Some("proxy") => {
                let addr = self.upstream()?.addr();
                Ok(format!("{spec}=http://{addr}"))
            }
            _ => Err(format!(
                "{spec} is no cache: this scenario needs peers like gantry:proxy, nginx:proxy, docker-registry:proxy"
            )),
        }
    }

    fn prepare(&mut self, case: &Case, subject: &mut Subject) -> Result<(), String> {
        let clients = case.connections.unwrap_or(1);
        if (self.settings.vanish * clients as f64).round() >= clients as f64 {
            return Err(format!("of {clients} clients nobody is left: choose a smaller --vanish"));
        }
        if subject.peer.is_none() && !self.has_fixed_upstream() {
            return Err("a cache elsewhere has to fetch from the bench: choose where it can with \
                        --upstream-listen ADDRESS:PORT, and configure the cache for that"
                .to_owned());
        }
        self.upstream().map(drop)
    }

    fn round(&mut self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        self.rounds += 1;
        let blob = Blob::new(self.rounds, self.settings.blob_size);
        let count = usize::try_from(case.connections.unwrap_or(1)).unwrap_or(1);
        let slow = self.settings.slow;
        let roles = roles(count, self.settings.vanish, slow.map_or(0, |slow| slow.count), &blob);
        let arrivals = self.settings.arrivals.times(roles.len(), self.settings.seed + self.rounds);
        let (settings, verify_every) = (self.settings.clone(), self.settings.verify_every.max(1));
        let upstream = self.upstream()?;
        upstream.offer(&blob);
        let before = upstream.asked();
        let target = subject.blob_target(&blob);
        let quick = AtomicUsize::new(roles.iter().filter(|role| **role == Role::Quick).count());
        let (enough, asked) = (Arc::new(AtomicBool::new(false)), AtomicU64::new(0));
        let visit = |index: usize, due: Instant, tally: &Tally| {
            let times = match roles[index] {
                Role::Quick => {
                    let verify = asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(verify_every);
                    let times = pull(&mut Client::of(&subject.registry), &target, &blob, verify, due, tally);
                    if quick.fetch_sub(1, Ordering::AcqRel) == 1 {
                        enough.store(true, Ordering::Release);
                    }
                    times.map(Some)
                }
                Role::Vanishing(after) => {
                    leave(&mut Client::of(&subject.registry), &target, Reading::Leave { after })
                        .map(|()| None)
                }
                Role::Slow => {
                    let bytes_per_s = slow.map_or(1, |slow| slow.bytes_per_s);
                    let mut client =
                        Client::of(&subject.registry).slow(Slow { bytes_per_s, enough: enough.clone() });
                    leave(&mut client, &target, Reading::Drop { length: Some(blob.length) }).map(|()| None)
                }
            };
            times.map_err(|why| tally.wrong(why)).ok().flatten()
        };
        let visits = clients::run(subject, &settings, &case.name, &arrivals, visit)?;
        let served = Served { cpu_us: visits.round.cost.cpu_us, bytes: visits.round.bytes };
        if !upstream.wait_until_idle(SETTLE_MAX) {
            eprintln!("{} still fetches after {} s", subject.name, SETTLE_MAX.as_secs());
        }
        let asked = upstream.asked().since(before);
        let mut round = visits.round;
        let mut figure = |name: &str, value: f64| {
            round.figures.insert(name.to_owned(), value);
        };
        figure("upstream_gets", asked.gets as f64);
        figure("upstream_heads", asked.heads as f64);
        figure("upstream_bytes_per_blob_byte", asked.bytes as f64 / blob.length.max(1) as f64);
        let times: Vec<Times> = visits.clients.into_iter().flatten().collect();
        if let Some((_, median, last)) = first_median_last(times.iter().map(|(_, last)| *last).collect()) {
            figure("median_s", median);
            figure("last_s", last);
        }
        if let Some((_, median, last)) = first_median_last(times.iter().map(|(first, _)| *first).collect()) {
            figure("first_byte_s", median);
            figure("first_byte_last_s", last);
        }
        if visits.rss_max_bytes > 0 {
            figure("rss_max_bytes", visits.rss_max_bytes as f64);
        }
        // Who leaves or crawls has no bytes to divide by.
        if subject.peer.is_some() && count > 1 && roles.iter().all(|role| *role == Role::Quick) {
            let hit = self.again(case, subject, &blob, count)?;
            self.rounds += 1;
            let other = Blob::new(self.rounds, self.settings.blob_size);
            self.upstream()?.offer(&other);
            let alone = self.again(case, subject, &other, 1)?;
            for (name, value) in served.figures(&alone, &hit) {
                round.figures.insert(name.to_owned(), value);
            }
            for (name, is_named) in
                [("first_byte_over_upstream_us", true), ("unnamed_first_byte_over_upstream_us", false)]
            {
                round.figures.insert(name.to_owned(), self.first_byte(subject, is_named)?);
            }
        }
        Ok(round)
    }
}

/// What a server paid for so many bytes.
struct Served {
    cpu_us: f64,
    bytes: u64,
}

impl Served {
    /// Of a herd: what one follower's bytes cost, which is all that the herd cost more than one client `alone`, and that
    /// against a `hit`.
    fn figures(&self, alone: &Served, hit: &Served) -> [(&'static str, f64); 2] {
        let followed = self.bytes.saturating_sub(alone.bytes).max(1) as f64;
        let follower = (self.cpu_us - alone.cpu_us).max(0.0) / followed;
        let hit = hit.cpu_us / hit.bytes.max(1) as f64;
        [("hit_cpu_per_gb_us", hit * 1e9), ("follower_cpu_per_hit", follower / hit.max(1e-12))]
    }
}

impl Herd {
    /// How much later the first byte of a miss comes than the upstream's own, in microseconds: the difference of the
    /// medians over single clients with nobody beside them. `is_named`: each has read the blob's manifest before, as
    /// clients do; a cache that nobody has told of the blob has to ask whether it may give it.
    fn first_byte(&mut self, subject: &Subject, is_named: bool) -> Result<f64, String> {
        let (mut own, mut through) = (Vec::new(), Vec::new());
        for _ in 0..FIRST_BYTES {
            self.rounds += 1;
            let blob = Blob::new(self.rounds, FIRST_BYTE_BLOB_BYTES);
            let upstream = self.upstream()?;
            let manifest = upstream.offer(&blob);
            let direct = Registry::at(upstream.addr());
            let target = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
            let sides =
                [(&direct, target, &mut own), (&subject.registry, subject.blob_target(&blob), &mut through)];
            for (registry, target, times) in sides {
                let mut client = Client::of(registry);
                if let Some((path, _)) = target.rsplit_once("/blobs/").filter(|_| is_named) {
                    let manifest = format!("{path}/manifests/{manifest}");
                    client.send(&Request::get(&manifest), &[200], &Reading::Keep)?;
                }
                times.push(first_byte_s(&mut client, &target, &blob)?);
            }
        }
        let median = |times| first_median_last(times).map_or(0.0, |(_, median, _)| median);
        Ok((median(through) - median(own)) * 1e6)
    }

    /// `count` clients at once, who are only counted.
    fn again(&self, case: &Case, subject: &mut Subject, blob: &Blob, count: usize) -> Result<Served, String> {
        let target = subject.blob_target(blob);
        let visit = |_: usize, due: Instant, tally: &Tally| {
            let got = pull(&mut Client::of(&subject.registry), &target, blob, false, due, tally);
            got.map_err(|why| tally.wrong(why)).is_ok()
        };
        let visits = clients::run(subject, &self.settings, &case.name, &vec![Duration::ZERO; count], visit)?;
        match visits.round.first_error {
            None => Ok(Served { cpu_us: visits.round.cost.cpu_us, bytes: visits.round.bytes }),
            Some(why) => Err(why),
        }
    }
}

fn first_byte_s(client: &mut Client, target: &str, blob: &Blob) -> Result<f64, String> {
    let reading = Reading::Drop { length: Some(blob.length) };
    let begun = Instant::now();
    let got = client.send(&Request::get(target), &[200], &reading)?;
    Ok(got.first_byte.saturating_duration_since(begun).as_secs_f64())
}

/// Quick and vanishing clients, `count` in all, and the slow ones, in an order that the blob decides.
fn roles(count: usize, vanish: f64, slow: usize, blob: &Blob) -> Vec<Role> {
    let mut dice = Dice::new(blob.seed);
    let vanishing = (vanish * count as f64).round() as usize;
    let mut roles = vec![Role::Quick; count.saturating_sub(vanishing)];
    roles.extend((0..vanishing.min(count)).map(|_| Role::Vanishing(dice.below(blob.length))));
    roles.extend(vec![Role::Slow; slow]);
    for end in (1..roles.len()).rev() {
        let other = dice.below(end as u64 + 1) as usize;
        roles.swap(end, other);
    }
    roles
}

/// A quick client's part.
fn pull(
    client: &mut Client,
    target: &str,
    blob: &Blob,
    verify: bool,
    due: Instant,
    tally: &Tally,
) -> Result<Times, String> {
    let reading = match verify {
        true => Reading::Verify { length: blob.length, digest: blob.digest },
        false => Reading::Drop { length: Some(blob.length) },
    };
    let got = client.send(&Request::get(target), &[200], &reading)?;
    let took = due.elapsed();
    tally.right(&got);
    tally.took(0, took);
    Ok((got.first_byte.saturating_duration_since(due).as_secs_f64(), took.as_secs_f64()))
}

/// The part of a client that leaves: only a wrong start of an answer is its error.
fn leave(client: &mut Client, target: &str, reading: Reading) -> Result<(), String> {
    client.send(&Request::get(target), &[200], &reading).map(drop)
}

/// Where the upstream listens unless the user says so: anywhere on loopback.
pub fn any_port() -> SocketAddr {
    (std::net::Ipv4Addr::LOCALHOST, 0).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios::tests::settings;

    #[test]
    fn slow_readers_are_parsed() {
        assert_eq!("8:64KiB".parse(), Ok(SlowReaders { count: 8, bytes_per_s: 65536 }));
        for wrong in ["", "8", "8:", ":64", "8:0", "-1:5"] {
            assert!(wrong.parse::<SlowReaders>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn roles_are_dealt_out() {
        let blob = Blob { length: 100, ..Blob::new(3, 0) };
        let roles = roles(20, 0.25, 3, &blob);
        let count = |wanted: fn(&Role) -> bool| roles.iter().filter(|role| wanted(role)).count();
        assert_eq!(count(|role| *role == Role::Quick), 15);
        assert_eq!(count(|role| matches!(role, Role::Vanishing(0..100))), 5);
        assert_eq!(count(|role| *role == Role::Slow), 3);
        assert!(roles[..15].iter().any(|role| *role != Role::Quick), "they are mixed: {roles:?}");
    }

    #[test]
    fn peers_are_given_their_upstream() {
        let mut herd = Herd::new(settings("herd", &[]));
        let given = herd.peer("nginx:log:proxy").unwrap();
        assert_eq!(given, format!("nginx:log:proxy=http://{}", herd.upstream().unwrap().addr()));
        assert!(herd.peer("gantry").unwrap_err().contains("gantry:proxy"));
        assert!(herd.peer("nginx").unwrap_err().contains("nginx:proxy"));
        assert!(herd.peer("my/cache.toml").unwrap_err().contains("--upstream-listen"));
    }

    #[test]
    fn a_followers_price_is_what_the_herd_costs_more_than_one() {
        let served = |cpu_us: f64, bytes| Served { cpu_us, bytes };
        let figures = served(700.0, 1000).figures(&served(250.0, 100), &served(400.0, 1000));
        assert_eq!(figures, [("hit_cpu_per_gb_us", 0.4e9), ("follower_cpu_per_hit", 1.25)]);
    }

    /// Without a cache in between every client is an upstream GET of its own.
    #[test]
    fn the_upstream_counts_what_it_is_asked() {
        let arguments =
            ["--clients", "6", "--blob-size", "1MiB", "--upstream-rate", "20MiB", "--slow", "2:64KiB"];
        let mut herd = Herd::new(settings(
            "herd",
            &[&arguments[..], &["--vanish", "0.34", "--verify-every", "1"]].concat(),
        ));
        let addr = herd.upstream().unwrap().addr();
        let mut subject = Subject::at(Registry::at(addr));
        let case = herd.cases().remove(0);
        assert!(case.name.contains("2 read 64 KiB/s, 34% vanish"), "{}", case.name);
        for _ in 0..2 {
            let round = herd.round(&case, &mut subject).unwrap();
            assert_eq!((round.errors, round.first_error.as_deref()), (0, None));
            // Four are quick; the two that vanish and the two that are slow are no results.
            assert_eq!((round.requests, round.verified, round.bytes), (4, 4, 4 << 20));
            assert_eq!(round.figures["upstream_gets"], 8.0);
            assert_eq!(round.figures["upstream_heads"], 0.0);
            let copies = round.figures["upstream_bytes_per_blob_byte"];
            assert!((4.0..8.0).contains(&copies), "{copies}");
            // Four copies at 20 MiB/s; a slow reader would take 16 s.
            assert!((0.19..8.0).contains(&round.figures["last_s"]), "{}", round.figures["last_s"]);
            assert!(round.figures["first_byte_s"] <= round.figures["last_s"]);
        }
    }
}
