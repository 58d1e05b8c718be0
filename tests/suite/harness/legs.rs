//! Every test of the server runs on both I/O legs; what a machine lacks is said in one line, or fails.

use std::{
    io::Write,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::volume::Volume;

/// Which I/O driver the server is told to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// Disks by io_uring.
    Uring,
    /// No io_uring at all.
    Epoll,
}

impl Leg {
    /// As `--io` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Leg::Uring => "uring",
            Leg::Epoll => "epoll",
        }
    }

    /// Runs `body` on this leg if the machine has it.
    pub fn run(self, body: fn(Leg)) {
        match self {
            Leg::Epoll => body(self),
            Leg::Uring => match io_uring::IoUring::new(4) {
                Ok(_ring) => body(self),
                Err(error) => lacks("uring", &format!("io_uring_setup: {error}")),
            },
        }
    }
}

/// Says that the machine lacks `what`, in one line; fails if `GANTRY_REQUIRE` (a comma list) names it.
pub fn lacks(what: &str, why: &str) {
    let required = std::env::var("GANTRY_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name.trim() == what),
        "this machine lacks {what}, which GANTRY_REQUIRE names: {why}"
    );
    say(&format!("lacks {what}: {why}"));
}

/// One line past the test runner's capture: figures and lacks have to be seen in a green run too.
pub fn say(line: &str) {
    // Nobody has to read it.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Whether we may mount and unshare, which a container's root may not; says so in one line if not.
pub fn has_root() -> bool {
    match Volume::can_be_made() {
        Ok(()) => true,
        Err(why) => {
            lacks("root", why);
            false
        }
    }
}

/// Who has the machine: many tests beside each other, or one that would mistake the others' load for its own result.
static MACHINE: RwLock<()> = RwLock::new(());

/// Held by every test that does more than look at files. Taken once by a test: it must not be held twice.
pub fn beside() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test whose timeouts are too short for a machine that does anything else.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Makes of each `fn name(leg) { .. }` a module `name` with the tests `uring` and `epoll`. They run beside others, or
/// behind `alone:` by themselves.
macro_rules! legs {
    (alone: $($tests:tt)+) => { $crate::harness::legs!(in alone $($tests)+); };
    (in $guard:ident $( $(#[$doc:meta])* fn $name:ident($leg:ident) $body:block )+) => {$(
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            fn body($leg: $crate::harness::Leg) $body
            fn run(leg: $crate::harness::Leg) {
                let _machine = $crate::harness::$guard();
                leg.run(body);
            }
            #[test]
            fn uring() { run($crate::harness::Leg::Uring) }
            #[test]
            fn epoll() { run($crate::harness::Leg::Epoll) }
        }
    )+};
    ($($tests:tt)+) => { $crate::harness::legs!(in beside $($tests)+); };
}
pub(crate) use legs;
