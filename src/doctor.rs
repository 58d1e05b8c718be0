//! What `gantry doctor` looks at, and what it says: each line is well, could be better, or is to be done.
//!
//! It starts nothing, changes nothing, and may run beside the registry.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use controlplane::upstream::{Budget, Check, Failure, Offline, Upstream, UpstreamSettings};
use dataplane::{
    IoChoice,
    examine::{self, Descriptors, Volume},
};
use tokio::task::JoinSet;

use crate::config::Config;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    state: State,
    /// What was looked at.
    about: String,
    says: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Well,
    /// It works, and something could be better.
    CouldBeBetter,
    ToBeDone,
}

impl Finding {
    fn well(about: impl Into<String>, says: impl Into<String>) -> Finding {
        Finding { state: State::Well, about: about.into(), says: says.into() }
    }

    fn hint(about: impl Into<String>, says: impl Into<String>) -> Finding {
        Finding { state: State::CouldBeBetter, about: about.into(), says: says.into() }
    }

    fn to_do(about: impl Into<String>, says: impl Into<String>) -> Finding {
        Finding { state: State::ToBeDone, about: about.into(), says: says.into() }
    }

    /// Whether the registry does not work, or not as configured, before somebody does something.
    pub fn is_to_be_done(&self) -> bool {
        self.state == State::ToBeDone
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Well => "ok",
            State::CouldBeBetter => "hint",
            State::ToBeDone => "to do",
        };
        write!(f, "{state:<5}  {}: {}", self.about, self.says)
    }
}

/// Looks at everything.
pub fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = data(config);
    findings.push(ring(config.io, &examine::ring()));
    let connections = config.limits.connections;
    findings.push(descriptors(connections, examine::descriptors(config.cores, connections)));
    findings.extend(upstreams(&config.upstreams));
    findings
}

fn data(config: &Config) -> Vec<Finding> {
    const DATA: &str = "data directory";
    let path = &config.data;
    let shown = path.display();
    let mut findings = Vec::new();
    findings.push(match fs::metadata(path) {
        Ok(found) if found.is_dir() => match fs::read_dir(path) {
            Ok(_) => Finding::well(DATA, shown.to_string()),
            Err(error) => {
                Finding::to_do(DATA, format!("{shown} can't be read: {error}; run as the registry's user"))
            }
        },
        Ok(_) => {
            return vec![Finding::to_do(
                DATA,
                format!("{shown} is no directory; name another one with --data"),
            )];
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::well(DATA, format!("{shown} is not there yet; the first start makes it"))
        }
        Err(error) => return vec![Finding::to_do(DATA, format!("{shown} can't be had: {error}"))],
    });
    let there = existing(path);
    match examine::volume(&there, config.reserve_bytes) {
        Ok(volume) => {
            findings.push(room(volume));
            findings.push(file_system(volume));
            if !config.upstreams.is_empty() {
                findings.push(cache(config.cache.max_bytes, config.cache.max_percent, volume));
            }
        }
        Err(error) => {
            findings.push(Finding::to_do("disk", format!("{}: {error}", there.display())));
        }
    }
    if let Ok(true) = dataplane::disk_error_marked(&there)
        && there == *path
    {
        findings.push(Finding::to_do(
            "disk",
            "it had an error, so pushes are refused; when it is sound again, stop the registry and run \
             gantry doctor --clear-disk-error",
        ));
    }
    findings
}

/// The directory, or the nearest above it that is there.
fn existing(path: &Path) -> PathBuf {
    let above = path.ancestors().find(|above| above.is_dir());
    above.map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

fn room(volume: Volume) -> Finding {
    const ROOM: &str = "room on the disk";
    let Volume { free_bytes, reserve_bytes, total_bytes, .. } = volume;
    let [free, reserve, total] = [free_bytes, reserve_bytes, total_bytes].map(size);
    let says = format!("{free} of {total} are free, {reserve} of them kept for metadata and deletes");
    if free_bytes <= reserve_bytes {
        return Finding::to_do(
            ROOM,
            format!("{says}: pushes are answered 507; make room, or lower limits.reserve_bytes"),
        );
    }
    Finding::well(ROOM, says)
}

fn file_system(volume: Volume) -> Finding {
    const FILE_SYSTEM: &str = "file system";
    let name = volume.filesystem;
    if volume.is_synced_whole {
        return Finding::well(FILE_SYSTEM, format!("{name}, synced as a whole for many pushes at once"));
    }
    Finding::hint(
        FILE_SYSTEM,
        format!(
            "{name}: each file is synced alone, which is slower; ext4, xfs and btrfs on Linux 5.17 are synced as a whole"
        ),
    )
}

fn cache(max_bytes: Option<u64>, max_percent: u8, volume: Volume) -> Finding {
    const CACHE: &str = "cache";
    match max_bytes {
        Some(max_bytes) if max_bytes > volume.total_bytes.saturating_sub(volume.reserve_bytes) => {
            Finding::hint(
                CACHE,
                format!(
                    "cache.max_bytes is {}, which is more than the volume has: it is the disk that will be full first",
                    size(max_bytes)
                ),
            )
        }
        Some(max_bytes) => Finding::well(CACHE, format!("at most {}", size(max_bytes))),
        None => Finding::well(CACHE, format!("at most {max_percent} % of the volume, less what is pushed")),
    }
}

fn ring(choice: IoChoice, ring: &io::Result<()>) -> Finding {
    const RING: &str = "io_uring";
    match (choice, ring) {
        (IoChoice::Epoll, _) => Finding::well(RING, "not asked for: io = \"epoll\""),
        (IoChoice::Auto | IoChoice::Uring, Ok(())) => Finding::well(RING, "is there"),
        (IoChoice::Auto, Err(error)) => Finding::hint(
            RING,
            format!(
                "can't be had ({error}), so disks are read by a pool of threads; sysctl kernel.io_uring_disabled and \
                 the seccomp profile of a container are what forbids it"
            ),
        ),
        (IoChoice::Uring, Err(error)) => Finding::to_do(
            RING,
            format!("can't be had ({error}), and io = \"uring\" wants it: allow it, or set io = \"auto\""),
        ),
    }
}

fn descriptors(set: usize, found: Descriptors) -> Finding {
    const OPEN_FILES: &str = "open files";
    let Descriptors { most, files, connections } = found;
    let says = format!("at most {most}: {connections} connections, and {files} files of the cores");
    let more = "raise it with ulimit -Hn, or LimitNOFILE in the unit of systemd";
    if connections.saturating_add(files) <= most {
        Finding::well(OPEN_FILES, says)
    } else if set > 0 {
        Finding::to_do(OPEN_FILES, format!("{says} are more than that; {more}, or lower limits.connections"))
    } else {
        Finding::hint(OPEN_FILES, format!("{says} are more than that; {more}"))
    }
}

/// All of them at the same time; each step ends by the upstream's own timeouts.
fn upstreams(all: &[UpstreamSettings]) -> Vec<Finding> {
    if all.is_empty() {
        return Vec::new();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![Finding::to_do("upstreams", format!("can't be asked: {error}"))],
    };
    let mut findings: Vec<Vec<Finding>> = vec![Vec::new(); all.len()];
    runtime.block_on(async {
        let mut checks = JoinSet::new();
        for (number, settings) in all.iter().enumerate() {
            if settings.policy.offline == Offline::Always {
                findings[number] = vec![Finding::well(about(settings), "offline = true: it is not asked")];
                continue;
            }
            match Upstream::new(settings.clone()) {
                Ok(upstream) => drop(checks.spawn(async move { (number, upstream.check().await) })),
                Err(error) => findings[number] = vec![Finding::to_do(about(settings), error.to_string())],
            }
        }
        while let Some(checked) = checks.join_next().await {
            match checked {
                Ok((number, check)) => findings[number] = upstream(&all[number], &check),
                Err(error) => {
                    findings.push(vec![Finding::to_do("upstreams", format!("a check failed: {error}"))])
                }
            }
        }
    });
    findings.into_iter().flatten().collect()
}

fn about(settings: &UpstreamSettings) -> String {
    format!("upstream {}", settings.ns)
}

/// One line for each step, up to the first that failed: those behind it say nothing new.
fn upstream(settings: &UpstreamSettings, check: &Check) -> Vec<Finding> {
    let Check { addresses, registry, token, budget } = check;
    let about = about(settings);
    let steps = [
        ("address", addresses, "look at its url, at this machine's name server, or set a proxy"),
        ("answer", registry, "look at its url, at what is between, and at its certificate (ca_file)"),
        ("token", token, "look at its credentials and realms"),
    ];
    let mut findings = Vec::new();
    for (what, step, advice) in steps {
        let about = format!("{about}, {what}");
        match step {
            Ok(found) => findings.push(Finding::well(about, found.clone())),
            Err(failure) => {
                let advice = advised(failure).unwrap_or(advice);
                findings.push(Finding::to_do(about, format!("{failure}; {advice}")));
                return findings;
            }
        }
    }
    findings.push(budgeted(format!("{about}, budget"), *budget));
    findings
}

/// What helps against this one, wherever it was met. `None`: what helps at that step.
fn advised(failure: &Failure) -> Option<&'static str> {
    match failure {
        Failure::AddressRefused => {
            Some("if it is inside your own network, set allow_private_addresses for it")
        }
        Failure::CredentialRejected => Some("look at its credentials"),
        Failure::BudgetSpent { .. } => Some("wait, or give it credentials with a larger budget"),
        Failure::Server { .. } | Failure::Breaker { .. } => Some("wait until it is well again"),
        Failure::Denied => Some("give it credentials"),
        Failure::Unreachable { .. }
        | Failure::TimedOut
        | Failure::Misbehaved { .. }
        | Failure::RedirectRefused { .. } => None,
    }
}

fn budgeted(about: String, budget: Budget) -> Finding {
    let Budget { limit, remaining, window_s, paused_s } = budget;
    if paused_s > 0 {
        return Finding::hint(
            about,
            format!("it has refused and is asked again in {paused_s} s; until then the cache answers"),
        );
    }
    let window = window_s.map_or_else(String::new, |seconds| format!(" in {} min", seconds.div_ceil(60)));
    match (remaining, limit) {
        (Some(0), _) => {
            Finding::hint(about, format!("no pulls are left{window}; until then the cache answers"))
        }
        (Some(remaining), Some(limit)) => {
            Finding::well(about, format!("{remaining} of {limit} pulls are left{window}"))
        }
        (Some(remaining), None) => Finding::well(about, format!("{remaining} pulls are left{window}")),
        (None, _) => Finding::well(about, "it does not tell of any"),
    }
}

/// Bytes, rounded down to three or four digits.
fn size(bytes: u64) -> String {
    let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;

    const VOLUME: Volume = Volume {
        filesystem: "ext4",
        is_synced_whole: true,
        free_bytes: 50 << 30,
        reserve_bytes: 1 << 30,
        total_bytes: 100 << 30,
    };

    fn states<const N: usize>(findings: [Finding; N]) -> [State; N] {
        findings.map(|finding| finding.state)
    }

    #[test]
    fn a_full_disk_is_to_be_done_and_a_strange_one_a_hint() {
        assert_eq!(
            room(VOLUME),
            Finding::well(
                "room on the disk",
                "50.0 GiB of 100.0 GiB are free, 1.0 GiB of them kept for metadata and deletes"
            )
        );
        let full = Volume { free_bytes: 1 << 30, ..VOLUME };
        assert!(room(full).is_to_be_done() && room(full).says.contains("limits.reserve_bytes"));
        let overlay = Volume { filesystem: "overlay", is_synced_whole: false, ..VOLUME };
        assert_eq!(states([file_system(VOLUME), file_system(overlay)]), [State::Well, State::CouldBeBetter]);
        let caches =
            [cache(None, 80, VOLUME), cache(Some(5 << 30), 80, VOLUME), cache(Some(100 << 30), 80, VOLUME)];
        assert_eq!(states(caches), [State::Well, State::Well, State::CouldBeBetter]);
    }

    #[test]
    fn a_ring_that_is_wanted_and_not_there_is_to_be_done() {
        let gone = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        let found = [
            ring(IoChoice::Auto, &Ok(())),
            ring(IoChoice::Epoll, &gone()),
            ring(IoChoice::Auto, &gone()),
            ring(IoChoice::Uring, &gone()),
        ];
        assert_eq!(states(found), [State::Well, State::Well, State::CouldBeBetter, State::ToBeDone]);
    }

    #[test]
    fn connections_that_nobody_may_have_are_to_be_done() {
        let found = |most, connections| Descriptors { most, files: 2048, connections };
        let found = [
            descriptors(0, found(1 << 20, 800_000)),
            descriptors(0, found(1024, 256)),
            descriptors(5000, found(4096, 5000)),
        ];
        assert_eq!(states(found), [State::Well, State::CouldBeBetter, State::ToBeDone]);
    }

    #[test]
    fn the_first_step_that_fails_is_told_with_what_helps() {
        let settings = UpstreamSettings::new("docker.io", "https://registry-1.docker.io");
        let yes = |says: &str| Ok(says.to_owned());
        let budget = Budget { limit: Some(100), remaining: Some(87), window_s: Some(21_600), paused_s: 0 };
        let check = Check {
            addresses: yes("192.0.2.1"),
            registry: yes("HTTP/2.0, 401"),
            token: yes("it lets us in"),
            budget,
        };
        let lines: Vec<String> = upstream(&settings, &check).iter().map(Finding::to_string).collect();
        assert_eq!(
            lines,
            [
                "ok     upstream docker.io, address: 192.0.2.1",
                "ok     upstream docker.io, answer: HTTP/2.0, 401",
                "ok     upstream docker.io, token: it lets us in",
                "ok     upstream docker.io, budget: 87 of 100 pulls are left in 360 min",
            ]
        );
        let refused = Check {
            addresses: Err(Failure::AddressRefused),
            registry: Err(Failure::AddressRefused),
            token: Err(Failure::AddressRefused),
            budget,
        };
        let findings = upstream(&settings, &refused);
        assert!(findings.len() == 1 && findings[0].is_to_be_done(), "{findings:?}");
        assert!(findings[0].says.ends_with("set allow_private_addresses for it"), "{findings:?}");
        let rejected = Check { token: Err(Failure::CredentialRejected), ..check.clone() };
        let findings = upstream(&settings, &rejected);
        assert_eq!(
            findings.iter().map(|finding| finding.state).collect::<Vec<_>>(),
            [State::Well, State::Well, State::ToBeDone]
        );

        let spent = Budget { remaining: Some(0), ..budget };
        let paused = Budget { paused_s: 60, ..budget };
        let told = [
            budgeted(String::new(), spent),
            budgeted(String::new(), paused),
            budgeted(String::new(), Budget::default()),
        ];
        assert_eq!(states(told), [State::CouldBeBetter, State::CouldBeBetter, State::Well]);
    }

    #[test]
    fn the_data_directory_is_looked_at_and_left_alone() {
        let root = std::env::temp_dir().join(format!("gantry-examined-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let config = |path: &Path| {
            let arguments = vec![("data", path.display().to_string())];
            Config::try_from(RawConfig { arguments, ..RawConfig::default() }).unwrap()
        };
        let missing = data(&config(&root.join("a/b")));
        assert!(missing[0].says.ends_with("the first start makes it") && missing.len() == 3, "{missing:?}");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);

        fs::write(root.join("file"), "").unwrap();
        let file = data(&config(&root.join("file")));
        assert!(file.len() == 1 && file[0].is_to_be_done(), "{file:?}");

        assert!(data(&config(&root)).iter().all(|finding| !finding.says.contains("--clear-disk-error")));
        dataplane::mark_disk_error(&root, 0);
        let marked = data(&config(&root));
        assert!(
            marked
                .iter()
                .any(|finding| finding.is_to_be_done() && finding.says.contains("--clear-disk-error"))
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 30, "1.0 GiB"), (3 << 39, "1.5 TiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
