//! Names under the data directory, and the syncs that make them last. Every call here may block, so it
//! runs on the pool, on the keeper, or before the cores start.
//!
//! Owns: the one descriptor of the data directory, opened before the first write and never reopened:
//! syncfs reports an error once per descriptor, and a later one would not see it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use oci::Digest;
use rustix::fs::{AtFlags, Dir, FallocateFlags, FileType, Mode, OFlags};

use super::{Call, Faults, File};

/// The data directory. Paths are relative to it and never leave it. Clones share the descriptor.
#[derive(Clone)]
pub struct Fs {
    root: Arc<OwnedFd>,
    faults: Faults,
}

/// What a file is, of all that `stat` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Length in bytes.
    pub len: u64,
    /// How many names it has.
    pub links: u64,
    /// Its number on the volume.
    pub inode: u64,
    /// The volume.
    pub device: u64,
    /// When it was last changed, its names and all, seconds since 1970.
    pub changed_unix: u64,
    /// When its bytes were last written, seconds since 1970.
    pub written_unix: u64,
}

/// A place in a directory. It holds a descriptor and a buffer of the system's, however many names there are.
/// Clones share the place.
#[derive(Clone)]
pub struct Listing {
    // A mutex, because a job that finds the pool full is dropped, and the place must not go with it.
    dir: Arc<Mutex<Dir>>,
    path: Arc<str>,
    faults: Faults,
}

impl Listing {
    /// At most `most` (≥ 1) of the names that were not given yet, in no order; none at the end. A name that comes
    /// or goes while the directory is read may be among them or not, every other one is, once.
    pub fn page(&self, most: usize) -> io::Result<Vec<String>> {
        self.faults.meet(Call::List, &self.path)?;
        let mut dir = self.dir.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = Vec::new();
        while page.len() < most
            && let Some(entry) = dir.read()
        {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                page.push(name.into_owned());
            }
        }
        Ok(page)
    }
}

/// Room on the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What an unprivileged user may still take, in bytes.
    pub free_bytes: u64,
    /// What somebody has taken, in bytes. The two are less than the whole where a part is kept for the system.
    pub used_bytes: u64,
    /// The whole volume in bytes.
    pub total_bytes: u64,
}

impl Fs {
    /// Opens the data directory, which exists.
    pub fn open(root: &Path, faults: Faults) -> io::Result<Fs> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())?;
        Ok(Fs { root: Arc::new(root), faults })
    }

    /// Says to whoever records this disk's calls that a push is about to be acknowledged.
    pub fn acknowledging(&self, digest: &Digest) {
        self.faults.note(Call::Reply, || digest.to_string());
    }

    /// Makes a directory. `false`: it was there.
    pub fn make_directory(&self, path: &str) -> io::Result<bool> {
        self.faults.meet(Call::Create, path)?;
        match rustix::fs::mkdirat(&self.root, path, Mode::from_raw_mode(0o755)) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a new file for reading and writing; it is an error if it exists.
    pub fn create(&self, path: &str) -> io::Result<File> {
        self.faults.meet(Call::Create, path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.root, path, flags, Mode::from_raw_mode(0o644))?;
        Ok(File::new(fd, path, self.faults.clone()))
    }

    /// Opens a file for reading. `None`: there is none of that name. The kernel reads nothing ahead of what is asked.
    pub fn open_file(&self, path: &str) -> io::Result<Option<File>> {
        let file = self.open_with(path, OFlags::RDONLY)?;
        if let Some(file) = &file {
            // Its read-ahead is made of pages and requests on the core that asks, as much at a time as the volume
            // says, which may be 8 MiB. Only a hint, so it may fail.
            let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random);
        }
        Ok(file)
    }

    /// Opens a file for reading and writing. `None`: there is none of that name.
    pub fn open_writable(&self, path: &str) -> io::Result<Option<File>> {
        self.open_with(path, OFlags::RDWR)
    }

    /// What lies at `path`. `None`: nothing.
    pub fn stat(&self, path: &str) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Stat::from_raw(&stat))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The names in a directory, in no order.
    pub fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.listing(path)?.page(usize::MAX)
    }

    /// The names in a directory, a page at a time.
    pub fn listing(&self, path: &str) -> io::Result<Listing> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.root, path, flags, Mode::empty())?;
        Ok(Listing {
            dir: Arc::new(Mutex::new(Dir::new(fd)?)),
            path: path.into(),
            faults: self.faults.clone(),
        })
    }

    /// Gives the file at `from` a second name. `false`: that name is taken.
    pub fn link(&self, from: &str, to: &str) -> io::Result<bool> {
        self.faults.meet(Call::Link, to)?;
        match rustix::fs::linkat(&self.root, from, &self.root, to, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves `from` over whatever `to` was.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.faults.meet(Call::Rename, to)?;
        Ok(rustix::fs::renameat(&self.root, from, &self.root, to)?)
    }

    /// Takes a file's name away. A name that is not there is fine.
    pub fn unlink(&self, path: &str) -> io::Result<()> {
        self.remove(path, AtFlags::empty())
    }

    /// Takes an empty directory away. One that is not there is fine.
    pub fn remove_directory(&self, path: &str) -> io::Result<()> {
        self.remove(path, AtFlags::REMOVEDIR)
    }

    /// Makes the names in a directory last. Never retry an error.
    pub fn sync_directory(&self, path: &str) -> io::Result<()> {
        self.faults.meet(Call::SyncDirectory, path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.root, path, flags, Mode::empty())?;
        Ok(rustix::fs::fsync(fd)?)
    }

    /// Makes everything on the volume last. Never retry an error.
    pub fn sync_volume(&self) -> io::Result<()> {
        self.faults.meet(Call::SyncVolume, ".")?;
        Ok(rustix::fs::syncfs(self.root.as_fd())?)
    }

    /// Makes a file's data last. Never retry an error.
    pub fn sync_data(&self, file: &File) -> io::Result<()> {
        self.faults.meet(Call::SyncData, file.name())?;
        Ok(rustix::fs::fdatasync(file)?)
    }

    /// Appends to a file at `at`, all of `bytes`.
    pub fn write_all_at(&self, file: &File, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
        self.faults.meet(Call::Write, file.name())?;
        while !bytes.is_empty() {
            let count = rustix::io::retry_on_intr(|| rustix::io::pwrite(file, bytes, at))?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[count..];
            at += count as u64;
        }
        Ok(())
    }

    /// Reads up to `into.len()` bytes at `at`; fewer only at the end of the file.
    pub fn read_at(&self, file: &File, mut at: u64, mut into: &mut [u8]) -> io::Result<usize> {
        let wanted = into.len();
        while !into.is_empty() {
            let count = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *into, at))?;
            if count == 0 {
                break;
            }
            into = &mut into[count..];
            at += count as u64;
        }
        Ok(wanted - into.len())
    }

    /// Cuts or extends a file to `len` bytes.
    pub fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        self.faults.meet(Call::Write, file.name())?;
        Ok(rustix::fs::ftruncate(file, len)?)
    }

    /// Holds space for `len` bytes from `at` without changing the file's length. `false`: the file system can't;
    /// one that is full is an error.
    pub fn allocate(&self, file: &File, at: u64, len: u64) -> io::Result<bool> {
        self.faults.meet(Call::Allocate, file.name())?;
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, at, len) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives back what was held beyond `len` bytes.
    pub fn trim(&self, file: &File, len: u64) -> io::Result<()> {
        self.faults.meet(Call::Write, file.name())?;
        // Truncating to the same length frees the blocks behind it.
        Ok(rustix::fs::ftruncate(file, len)?)
    }

    /// Starts the write-back of a part of a file, so that a later sync has less to wait for.
    pub fn write_back(&self, file: &File, at: u64, len: u64) -> io::Result<()> {
        self.faults.meet(Call::WriteBack, file.name())?;
        disk_hint::write_back(file, at, len)
    }

    /// Has the data of all these files written and waits for it. Nothing lasts by that: it leaves a sync of
    /// the volume nothing but the journal, which is then committed once and not twice. A hint: a failed write
    /// is told by that sync.
    pub fn write_out(&self, files: &[File]) {
        for wait in [false, true] {
            for file in files {
                let _ = if wait { disk_hint::write_out(file) } else { disk_hint::write_back(file, 0, 0) };
            }
        }
    }

    /// Forgets what memory holds of a file's data, so that the next read comes from the disk.
    pub fn forget_pages(&self, file: &File) -> io::Result<()> {
        Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
    }

    /// Room on the volume.
    pub fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.root)?;
        Ok(Space {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            used_bytes: stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    /// The volume's file system by the name under which we know how it syncs; `"unknown"` otherwise.
    pub fn filesystem(&self) -> io::Result<&'static str> {
        Ok(match rustix::fs::fstatfs(&self.root)?.f_type as u64 & 0xffff_ffff {
            0xef53 => "ext4",
            0x5846_5342 => "xfs",
            0x9123_683e => "btrfs",
            0x0102_1994 => "tmpfs",
            0x794c_7630 => "overlay",
            0x6969 => "nfs",
            _ => "unknown",
        })
    }

    /// Which boot of the machine this is: another one has forgotten all that was not synced.
    pub fn boot_id() -> io::Result<[u8; 16]> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/proc/sys/kernel/random/boot_id", flags, Mode::empty())?;
        let mut text = [0; 64];
        let count = rustix::io::retry_on_intr(|| rustix::io::read(&fd, &mut text[..]))?;
        let digits: String = String::from_utf8_lossy(&text[..count]).matches(|c: char| c != '-').collect();
        let id = u128::from_str_radix(digits.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(id.to_be_bytes())
    }

    /// Whether syncfs tells of a failed write-back here: Linux 5.17 and later.
    pub fn sync_volume_reports() -> bool {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy();
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 17)
    }

    fn open_with(&self, path: &str, flags: OFlags) -> io::Result<Option<File>> {
        match rustix::fs::openat(&self.root, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        {
            Ok(fd) => Ok(Some(File::new(fd, path, self.faults.clone()))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn remove(&self, path: &str, flags: AtFlags) -> io::Result<()> {
        self.faults.meet(Call::Unlink, path)?;
        match rustix::fs::unlinkat(&self.root, path, flags) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a call failed because the process or the system has no descriptor left.
pub fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Whether a failed read says that the bytes are not to be had, and not that the machine lacks something now.
pub fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
        || matches!(error.raw_os_error(), Some(libc::EIO | libc::EUCLEAN | libc::EBADMSG))
}

impl Stat {
    pub(super) fn from_raw(stat: &rustix::fs::Stat) -> Stat {
        Stat {
            len: stat.st_size.unsigned_abs(),
            links: stat.st_nlink,
            inode: stat.st_ino,
            device: stat.st_dev,
            changed_unix: stat.st_ctime.unsigned_abs(),
            written_unix: stat.st_mtime.unsigned_abs(),
        }
    }

    pub(super) fn is_file(stat: &rustix::fs::Stat) -> bool {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
    }
}

mod disk_hint {
    //! One call that rustix lacks.

    use std::{io, os::fd::AsRawFd};

    use crate::io::File;

    /// A length of 0 means to the end.
    pub(super) fn write_back(file: &File, at: u64, len: u64) -> io::Result<()> {
        range(file, at, len, libc::SYNC_FILE_RANGE_WRITE)
    }

    pub(super) fn write_out(file: &File) -> io::Result<()> {
        let before = libc::SYNC_FILE_RANGE_WAIT_BEFORE;
        range(file, 0, 0, before | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER)
    }

    fn range(file: &File, at: u64, len: u64, flags: libc::c_uint) -> io::Result<()> {
        let (Ok(at), Ok(len)) = (i64::try_from(at), i64::try_from(len)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // SAFETY: no memory is passed; the descriptor is open while `file` is borrowed.
        let result = unsafe { libc::sync_file_range(file.as_raw_fd(), at, len, flags) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
