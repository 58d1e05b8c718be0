//! A volume of its own: small, so that it can be filled, or counted alone, so that nobody else's syncs are seen.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::temp::TempDir;

/// A mounted volume; unmounted on drop. Needs root.
pub struct Volume {
    at: PathBuf,
    /// Its mount point, and the image that is mounted there, if they are its own.
    _own: Vec<TempDir>,
}

impl Volume {
    /// A tmpfs of so many MiB.
    #[track_caller]
    pub fn tmpfs(mib: usize) -> Volume {
        Volume::try_tmpfs(mib).unwrap_or_else(|why| panic!("{why}"))
    }

    /// An ext4 of so many MiB on a loop device: a block device that counts its flushes.
    #[track_caller]
    pub fn ext4(mib: u64) -> Volume {
        Volume::try_ext4(mib).unwrap_or_else(|why| panic!("{why}"))
    }

    /// An ext3 of so many MiB, whose files are lists of blocks: no room can be held in it ahead of a write. Nothing in it
    /// is kept for root.
    #[track_caller]
    pub fn without_extents(mib: u64) -> Volume {
        let options = ["-m", "0", "-t", "ext3"];
        Volume::try_ext4_with(mib, &options).unwrap_or_else(|why| panic!("{why}"))
    }

    /// A tmpfs of one MiB over a directory that is there.
    #[track_caller]
    pub fn tmpfs_over(at: &Path) -> Volume {
        mount(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"], at).unwrap_or_else(|why| panic!("{why}"));
        Volume { at: at.to_owned(), _own: Vec::new() }
    }

    /// Whether volumes and mount namespaces can be made here, tried once; otherwise why not.
    pub fn can_be_made() -> &'static Result<(), String> {
        static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
        TRIED.get_or_init(|| {
            if !rustix::process::geteuid().is_root() {
                return Err("not run as root".to_owned());
            }
            run(Command::new("unshare").args(["--mount", "true"]))?;
            Volume::try_tmpfs(1)?;
            Volume::try_ext4(8).map(drop)
        })
    }

    fn try_tmpfs(mib: usize) -> Result<Volume, String> {
        let dir = TempDir::new("volume");
        mount(&["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"], dir.path())?;
        Ok(Volume { at: dir.path().to_owned(), _own: vec![dir] })
    }

    fn try_ext4(mib: u64) -> Result<Volume, String> {
        Volume::try_ext4_with(mib, &[])
    }

    fn try_ext4_with(mib: u64, options: &[&str]) -> Result<Volume, String> {
        let (dir, image) = (TempDir::new("volume"), TempDir::new("image"));
        let file = image.path().join("ext4");
        let made = fs::File::create(&file).and_then(|made| made.set_len(mib << 20));
        made.expect("a sparse file");
        run(Command::new("mkfs.ext4").arg("-q").args(options).arg(&file))?;
        mount(&["-o", "loop", &file.to_string_lossy()], dir.path())?;
        Ok(Volume { at: dir.path().to_owned(), _own: vec![dir, image] })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// A data directory on it.
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// Takes all room but `left` bytes, and gives it back when the file is removed.
    pub fn fill(&self, left: usize) -> PathBuf {
        let filler = self.path().join("filler");
        let free = self.free_bytes();
        fs::write(&filler, vec![1; free.saturating_sub(left)]).expect("there was room");
        filler
    }

    /// Bytes that can still be written.
    pub fn free_bytes(&self) -> usize {
        let mut df = Command::new("df");
        let said = df.args(["--block-size=1", "--output=avail"]).arg(self.path()).output().expect("df runs");
        let text = String::from_utf8(said.stdout).expect("df prints text");
        text.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("a number")
    }

    /// Bytes that are not free: those of files that have lost their name and are still open count too.
    pub fn used_bytes(&self) -> u64 {
        let volume = rustix::fs::statvfs(self.path()).expect("it is mounted");
        (volume.f_blocks - volume.f_bfree) * volume.f_frsize
    }

    /// Flushes that its block device has completed (the 16th field of its `stat`).
    pub fn flushes(&self) -> u64 {
        let device = fs::metadata(self.path()).expect("it is mounted").dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let stat =
            fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).expect("a block device");
        stat.split_whitespace()
            .nth(15)
            .and_then(|field| field.parse().ok())
            .expect("Linux 5.5 counts flushes")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: a test that failed may still have a process on it.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn mount(what: &[&str], at: &Path) -> Result<(), String> {
    run(Command::new("mount").args(what).arg(at))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", said.trim())) }
}
