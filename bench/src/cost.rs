//! What a server needs while it is loaded, read from `/proc` and `/sys`: no agent inside it, no privileges.
//!
//! Owns: the accounting of a process tree (`Meter`) and of a volume's device flushes (`Flushes`).
//!
//! A tree is the process and all its descendants at the moment of reading. What a descendant that has ended used is
//! in its parent's account of reaped children, so processor time is complete. Context switches are counted by thread
//! and vanish with it: they are a lower bound where threads come and go.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::result::Cost;

/// Reads what one process tree has used since it began.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    root: u32,
    ticks_per_s: f64,
}

impl Meter {
    /// Of the tree whose root is `pid`.
    pub fn of(pid: u32) -> Meter {
        Meter { root: pid, ticks_per_s: rustix::param::clock_ticks_per_second() as f64 }
    }

    /// Totals since the start of the tree; memory as it is now. Processor time comes in clock ticks, 10 ms by habit.
    ///
    /// An error if the root is gone. A descendant that ends meanwhile is left out.
    pub fn read(&self) -> io::Result<Cost> {
        let mut ticks = 0;
        let mut sum = Cost::default();
        for pid in tree(self.root)? {
            let process = PathBuf::from(format!("/proc/{pid}"));
            match add_process(&process, &mut sum) {
                Ok(used) => ticks += used,
                Err(error) if pid == self.root => {
                    let why = format!("the server (process {pid}) cannot be measured: {error}");
                    return Err(io::Error::new(error.kind(), why));
                }
                Err(_) => {}
            }
        }
        sum.cpu_us = ticks as f64 * 1e6 / self.ticks_per_s;
        sum.busy_us = self.busy_ticks()? as f64 * 1e6 / self.ticks_per_s;
        Ok(sum)
    }

    /// Of the processors that the root is bound to, since the machine was booted.
    fn busy_ticks(&self) -> io::Result<u64> {
        let stat = fs::read_to_string("/proc/stat")?;
        let bound = rustix::process::Pid::from_raw(self.root as i32);
        let bound = rustix::thread::sched_getaffinity(bound)?;
        Ok(busy_ticks(&stat, |cpu| bound.is_set(cpu)))
    }
}

/// What was used between two readings, and the memory at the second.
pub fn between(before: &Cost, after: &Cost) -> Cost {
    Cost {
        cpu_us: (after.cpu_us - before.cpu_us).max(0.0),
        busy_us: (after.busy_us - before.busy_us).max(0.0),
        rss_bytes: after.rss_bytes,
        pss_bytes: after.pss_bytes,
        voluntary_switches: after.voluntary_switches.saturating_sub(before.voluntary_switches),
        involuntary_switches: after.involuntary_switches.saturating_sub(before.involuntary_switches),
    }
}

/// What `/proc/stat` says of the processors that are `bound`; 0 if all are.
fn busy_ticks(stat: &str, bound: impl Fn(usize) -> bool) -> u64 {
    let cpus = stat.lines().filter_map(|line| {
        let (cpu, times) = line.strip_prefix("cpu")?.split_once(' ')?;
        let times: Vec<u64> = times.split_whitespace().filter_map(|time| time.parse().ok()).collect();
        Some((cpu.parse().ok()?, BUSY.iter().filter_map(|at| times.get(*at)).sum::<u64>()))
    });
    let (own, others): (Vec<_>, Vec<_>) = cpus.partition(|(cpu, _)| bound(*cpu));
    if others.is_empty() { 0 } else { own.into_iter().map(|(_, ticks)| ticks).sum() }
}

/// `root` and everything below it, parents before children. An error if `root` is not there.
pub fn tree(root: u32) -> io::Result<Vec<u32>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut alive = false;
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some(parent) = field(&stat, PARENT) else { continue };
        alive |= pid == root;
        children.entry(parent as u32).or_default().push(pid);
    }
    if !alive {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {root} has ended")));
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    Ok(found)
}

/// Positions in `/proc/PID/stat` after the name in brackets, which may itself hold spaces and brackets.
const PARENT: usize = 1;
/// Positions in a processor's line of `/proc/stat`: user, nice, system, irq, softirq.
const BUSY: [usize; 5] = [0, 1, 2, 5, 6];
/// User, system, and both of reaped children.
const TIMES: std::ops::RangeInclusive<usize> = 11..=14;

fn field(stat: &str, position: usize) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(position)?.parse().ok()
}

/// Adds memory and switches to `sum`; clock ticks are the answer.
fn add_process(process: &Path, sum: &mut Cost) -> io::Result<u64> {
    let stat = fs::read_to_string(process.join("stat"))?;
    let ticks = TIMES.filter_map(|position| field(&stat, position)).sum();
    let status = fs::read_to_string(process.join("status"))?;
    // Another user's process hides its maps: its resident set is still public, its share is not.
    let maps = fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default();
    let resident = kib(&maps, "Rss:").or_else(|| kib(&status, "VmRSS:")).unwrap_or_default();
    sum.rss_bytes += resident;
    sum.pss_bytes += kib(&maps, "Pss:").unwrap_or(resident);
    for thread in fs::read_dir(process.join("task"))? {
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue };
        sum.voluntary_switches += number(&status, "voluntary_ctxt_switches:").unwrap_or_default();
        sum.involuntary_switches += number(&status, "nonvoluntary_ctxt_switches:").unwrap_or_default();
    }
    Ok(ticks)
}

fn number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

fn kib(text: &str, name: &str) -> Option<u64> {
    Some(number(text, name)? * 1024)
}

/// Counts the flushes that a volume's device was told to do.
#[derive(Clone, Debug)]
pub struct Flushes {
    stat: PathBuf,
}

impl Flushes {
    /// Of the volume that holds `path`; `None` if no block device is below it, or one that counts no flushes.
    pub fn of(path: &Path) -> Option<Flushes> {
        let device = device(fs::metadata(path).ok()?.dev())?;
        let folder = fs::canonicalize(format!("/sys/dev/block/{device}")).ok()?;
        // The kernel accounts a flush to the whole disk.
        let disk = if folder.join("partition").exists() { folder.parent()?.to_owned() } else { folder };
        let flushes = Flushes { stat: disk.join("stat") };
        flushes.read().ok().map(|_| flushes)
    }

    /// Flushes since the device was found, those of everybody on this machine.
    pub fn read(&self) -> io::Result<u64> {
        let stat = fs::read_to_string(&self.stat)?;
        let count = stat.split_whitespace().nth(FLUSHES).and_then(|field| field.parse().ok());
        count.ok_or_else(|| {
            io::Error::other(format!("{} counts no flushes: it needs Linux 5.5", self.stat.display()))
        })
    }
}

/// Position in a block device's `stat`, after reads, writes and discards.
const FLUSHES: usize = 15;

/// `major:minor` of the block device below a file's device number.
fn device(number: u64) -> Option<String> {
    let name = |number| format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    if rustix::fs::major(number) != 0 {
        return Some(name(number));
    }
    // A file system over several devices (btrfs) has a number of its own; its mount says which it was mounted from.
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some(name(number).as_str()))?;
    let source = mount.split_once(" - ")?.1.split(' ').nth(1).filter(|source| source.starts_with("/dev/"))?;
    Some(name(fs::metadata(source).ok()?.rdev()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{self, Command, Stdio},
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 0 0 0 11 22 33 44 20 0";
        assert_eq!(field(stat, PARENT), Some(3));
        assert_eq!(TIMES.filter_map(|position| field(stat, position)).sum::<u64>(), 110);
    }

    #[test]
    fn a_processor_is_busy_for_all_but_idling() {
        let stat =
            "cpu  9 9 9 9 9 9 9 0 0 0\ncpu0 1 2 4 8 16 32 64 0 0 0\ncpu1 100 0 0 7 0 0 0 0 0 0\nintr 5\n";
        assert_eq!(busy_ticks(stat, |cpu| cpu == 0), 1 + 2 + 4 + 32 + 64);
        assert_eq!(busy_ticks(stat, |cpu| cpu == 1), 100);
        assert_eq!(busy_ticks(stat, |_| true), 0, "it has none of its own");
    }

    #[test]
    fn work_is_seen_wherever_in_the_tree_it_is_done() {
        let meter = Meter::of(process::id());
        let before = meter.read().unwrap();
        assert!(before.rss_bytes >= before.pss_bytes && before.pss_bytes > 0, "{before:?}");

        let busy = |time: Duration| {
            let end = Instant::now() + time;
            while Instant::now() < end {}
        };
        std::thread::spawn(move || busy(Duration::from_millis(120))).join().unwrap();
        let own = between(&before, &meter.read().unwrap());
        assert!(own.cpu_us >= 50_000.0, "a thread that has ended counts: {own:?}");

        let count = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        assert!(Command::new("sh").args(["-c", count]).status().unwrap().success());
        let with_child = between(&before, &meter.read().unwrap());
        assert!(with_child.cpu_us >= own.cpu_us + 20_000.0, "a child that has ended counts: {with_child:?}");
    }

    #[test]
    fn a_tree_has_its_grandchildren_and_an_ended_root_is_an_error() {
        let script = "sh -c 'read x; :'; :";
        let mut child = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while tree(child.id()).unwrap().len() < 2 {
            assert!(Instant::now() < deadline, "a shell starts a shell");
        }
        assert!(tree(process::id()).unwrap().len() >= 3);
        assert!(Meter::of(child.id()).read().unwrap().voluntary_switches > 0);
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(Meter::of(pid).read().unwrap_err().to_string().contains("has ended"));
    }

    #[test]
    fn a_flush_of_the_volume_is_counted() {
        let dir = std::env::temp_dir();
        let Some(flushes) = Flushes::of(&dir) else {
            println!("lacks a block device below {}", dir.display());
            return;
        };
        let before = flushes.read().unwrap();
        let path = dir.join(format!("gantry-bench-flush-{}", process::id()));
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(b"x").unwrap();
        file.sync_all().unwrap();
        fs::remove_file(&path).unwrap();
        assert!(flushes.read().unwrap() > before, "{flushes:?}");
        assert!(Flushes::of(Path::new("/proc")).is_none());
    }
}
