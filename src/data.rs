//! The data directory as this process holds it: made, and locked against a second one.

use std::{
    fmt,
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
};

/// A data directory that nobody else uses until this is dropped or the process ends, however it does.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    // Holds the lock.
    _lock: File,
}

/// Why it can't be had.
#[derive(Debug)]
pub enum DataError {
    /// It can't be made, or its `lock` not opened.
    Unusable {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process has it.
    InUse {
        /// The directory.
        path: PathBuf,
        /// That process; `None` in the instant before it has written this down.
        pid: Option<u32>,
    },
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataError::Unusable { path, source } => {
                write!(f, "the data directory {} cannot be used: {source}", path.display())
            }
            DataError::InUse { path, pid } => {
                write!(f, "the data directory {} is in use by ", path.display())?;
                match pid {
                    Some(pid) => write!(f, "process {pid}")?,
                    None => f.write_str("another process")?,
                }
                f.write_str("; stop that one, or name another directory with --data")
            }
        }
    }
}

impl std::error::Error for DataError {}

impl DataDirectory {
    /// Makes the directory if it is missing (for this user only) and locks it, with our pid in the lock file.
    pub fn make(path: &Path) -> Result<DataDirectory, DataError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| DataError::Unusable { path: path.to_owned(), source })?;
        DataDirectory::lock(path)
    }

    /// Locks a directory that has to be there.
    pub fn lock(path: &Path) -> Result<DataDirectory, DataError> {
        let unusable = |source| DataError::Unusable { path: path.to_owned(), source };
        let path = fs::canonicalize(path).map_err(unusable)?;
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // What can't be read has no pid in it, and the answer is the same.
                let _ = (&lock).take(16).read_to_string(&mut pid);
                return Err(DataError::InUse { path, pid: pid.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        lock.set_len(0).map_err(unusable)?;
        writeln!(lock, "{}", process::id()).map_err(unusable)?;
        Ok(DataDirectory { path, _lock: lock })
    }

    /// Absolute, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time() {
        let root = std::env::temp_dir().join(format!("gantry-lock-{}", process::id()));
        let path = root.join("a/b");
        assert!(matches!(DataDirectory::lock(&path), Err(DataError::Unusable { .. })));

        let held = DataDirectory::make(&path).unwrap();
        assert!(held.path().is_absolute());
        let refused = DataDirectory::make(&path).unwrap_err();
        assert!(
            matches!(&refused, DataError::InUse { pid: Some(pid), .. } if *pid == process::id()),
            "{refused:?}"
        );
        assert!(refused.to_string().contains(&format!("process {}", process::id())), "{refused}");

        // What a process that died left in the file says nothing: only the lock counts.
        drop(held);
        fs::write(path.join("lock"), "99999999\n").unwrap();
        let held = DataDirectory::lock(&path).unwrap();
        assert_eq!(fs::read_to_string(path.join("lock")).unwrap(), format!("{}\n", process::id()));
        drop(held);

        fs::write(root.join("file"), "").unwrap();
        assert!(matches!(DataDirectory::make(&root.join("file")), Err(DataError::Unusable { .. })));
        fs::remove_dir_all(root).unwrap();
    }
}
