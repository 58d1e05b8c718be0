//! Where a run took place: what a reader of its figures has to know about the machine.

use std::{
    env, fs,
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::result::About;

/// All but the versions of the peers, which are known when those run.
pub fn about() -> About {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpuinfo = read("/proc/cpuinfo");
    let memory_kib = value(&read("/proc/meminfo"), "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    About {
        command: command(env::args()),
        started_unix: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        kernel: format!("{} {}", read("/proc/sys/kernel/ostype"), read("/proc/sys/kernel/osrelease")),
        congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
        // Arm has no model's name there.
        cpu: value(&cpuinfo, "model name").unwrap_or_else(|| env::consts::ARCH.to_owned()),
        cpus: cpus().len(),
        memory_bytes: memory_kib.unwrap_or_default() * 1024,
        commit: commit(),
        versions: Default::default(),
    }
}

/// The processors that this process may use, in order.
pub fn cpus() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return vec![0] };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// The first `name : value`.
fn value(text: &str, name: &str) -> Option<String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs
        .map(|(key, value)| (key.trim(), value.trim()))
        .find(|(key, _)| *key == name)
        .map(|(_, v)| v.to_owned())
}

/// As one would type it into a shell; the program by its name alone.
fn command(args: impl Iterator<Item = String>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+:,./@%".contains(c);
    let quoted = args.enumerate().map(|(n, arg)| {
        let name =
            Path::new(&arg).file_name().filter(|_| n == 0).map(|name| name.to_string_lossy().into_owned());
        let arg = name.unwrap_or(arg);
        match !arg.is_empty() && arg.chars().all(plain) {
            true => arg,
            false => format!("'{}'", arg.replace('\'', r"'\''")),
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Of the tree of which this program was built, if it runs in it.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if !Path::new(&top).join("bench/Cargo.toml").exists() {
        return None;
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = !git(&["status", "--porcelain"])?.is_empty();
    Some(if changed { commit + "+" } else { commit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let about = about();
        assert!(about.kernel.starts_with("Linux ") && about.kernel.len() > 8, "{}", about.kernel);
        assert!(!about.cpu.is_empty() && about.cpus > 0 && about.memory_bytes > 1 << 26, "{about:?}");
        assert!(about.started_unix > 1_700_000_000);
        let commit = about.commit.unwrap_or_else(|| "0".repeat(12));
        assert!(commit.trim_end_matches('+').chars().all(|c| c.is_ascii_hexdigit()), "{commit}");
    }

    #[test]
    fn a_command_can_be_pasted() {
        let args = ["/usr/bin/gantry-bench", "run", "blobs", "--size=4KiB,64KiB", "a b", "it's", ""];
        let line = command(args.into_iter().map(str::to_owned));
        assert_eq!(line, r"gantry-bench run blobs --size=4KiB,64KiB 'a b' 'it'\''s' ''");
    }
}
