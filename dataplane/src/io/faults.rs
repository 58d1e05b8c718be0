//! A record of what was asked of the disk, and failures on demand: how tests see and break the order of
//! syncs, names and commits.
//!
//! In a server there is none of it: [`Faults::none`] is an empty option, one branch a call.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

/// A kind of call that changes the disk, or whose failure changes what is made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Data into a file.
    Write,
    /// Data of a file that memory does not have.
    Read,
    /// Space ahead of data.
    Allocate,
    /// The start of a file's write-back.
    WriteBack,
    /// fdatasync of a file.
    SyncData,
    /// syncfs of the volume.
    SyncVolume,
    /// fsync of a directory.
    SyncDirectory,
    /// A second name for a file.
    Link,
    /// A file over another one's name.
    Rename,
    /// A name goes.
    Unlink,
    /// A directory or file is made.
    Create,
    /// The names in a directory are read.
    List,
    /// Metadata COMMIT; recorded by a test's control plane.
    Commit,
    /// The client was answered; recorded by a test.
    Reply,
}

/// What a test sees and wants.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Stage>>);

#[derive(Default)]
struct Stage {
    script: Mutex<Script>,
    healed: Condvar,
}

#[derive(Default)]
struct Script {
    seen: Vec<(Call, String)>,
    failing: Option<(Call, usize, i32)>,
    held: Option<Call>,
}

impl Faults {
    /// Nothing is recorded and nothing fails.
    pub fn none() -> Faults {
        Faults(None)
    }

    /// Records every call.
    pub fn recording() -> Faults {
        Faults(Some(Arc::default()))
    }

    /// After `skip` more calls of this kind, all further ones fail with `errno`, until [`Faults::heal`].
    pub fn fail(&self, call: Call, skip: usize, errno: i32) {
        self.script(|script| script.failing = Some((call, skip, errno)));
    }

    /// Further calls of this kind block their thread, until [`Faults::heal`].
    pub fn hold(&self, call: Call) {
        self.script(|script| script.held = Some(call));
    }

    /// Nothing fails or waits any more.
    pub fn heal(&self) {
        self.script(|script| (script.failing, script.held) = (None, None));
        if let Some(stage) = &self.0 {
            stage.healed.notify_all();
        }
    }

    /// What was recorded since the last time.
    pub fn take(&self) -> Vec<(Call, String)> {
        let mut seen = Vec::new();
        self.script(|script| seen = std::mem::take(&mut script.seen));
        seen
    }

    /// Records a call on `name`, and says whether it may go on.
    pub fn meet(&self, call: Call, name: &str) -> io::Result<()> {
        let mut result = Ok(());
        self.script(|script| {
            script.seen.push((call, name.to_owned()));
            if let Some((failing, skip, errno)) = &mut script.failing
                && *failing == call
            {
                if *skip == 0 {
                    result = Err(io::Error::from_raw_os_error(*errno));
                } else {
                    *skip -= 1;
                }
            }
        });
        self.wait_while_held(call);
        result
    }

    fn wait_while_held(&self, call: Call) {
        if let Some(stage) = &self.0 {
            let script = stage.script.lock().unwrap_or_else(PoisonError::into_inner);
            let held = stage.healed.wait_while(script, |script| script.held == Some(call));
            drop(held.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn script(&self, with: impl FnOnce(&mut Script)) {
        if let Some(stage) = &self.0 {
            with(&mut stage.script.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}
