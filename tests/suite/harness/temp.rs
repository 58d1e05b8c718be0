//! A directory that is gone when its owner is.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// A fresh directory under the system's place for such things; removed on drop, after a failure too.
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Makes one; `what` is part of its name.
    pub fn new(what: &str) -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gantry-{what}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory for the test");
        TempDir { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
