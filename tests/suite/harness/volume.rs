//! A volume of its own: small, so that it can be filled, or counted alone, so that nobody else's syncs are seen.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::temp::TempDir;

/// A mounted volume; unmounted on drop. Needs root.
pub struct Volume {
    dir: TempDir,
    /// Holds the image that is mounted, if there is one.
    _image: Option<TempDir>,
}

impl Volume {
    /// A tmpfs of so many MiB.
    pub fn tmpfs(mib: usize) -> Volume {
        let dir = TempDir::new("volume");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(dir.path()));
        Volume { dir, _image: None }
    }

    /// An ext4 of so many MiB on a loop device: a block device that counts its flushes.
    pub fn ext4(mib: u64) -> Volume {
        let (dir, image) = (TempDir::new("volume"), TempDir::new("image"));
        let file = image.path().join("ext4");
        let made = fs::File::create(&file).and_then(|made| made.set_len(mib << 20));
        made.expect("a sparse file");
        run(Command::new("mkfs.ext4").arg("-q").arg(&file));
        run(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(dir.path()));
        Volume { dir, _image: Some(image) }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
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

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
