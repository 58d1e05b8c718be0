//! How far a warming is: drawn where somebody looks, and nowhere else.

use std::{
    fs::File,
    io::Read,
    process::{Command, Stdio},
};

use ::faults::Registry;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::harness::{Leg, Server, legs};

use super::operator::cache;
use super::rig::{mirror, root};

const IMAGE: &str = "docker.io/library/app:1";

/// How much of it there is.
const OF_ALL: &str = " of 1.1";

/// From the start of the line, over what stood there.
const AGAIN: &str = "\r\u{1b}[K";

/// A mirror of an image that comes slowly enough to be looked at, however slow the machine is.
fn start(leg: Leg) -> (Registry, Server) {
    let registry = Registry::start();
    registry.push_image("library/app", "1", &[600_000]);
    registry.limit(200_000);
    let server = mirror(leg, &root(&registry, "")).start();
    (registry, server)
}

legs! {
    fn a_terminal_sees_it_grow(leg) {
        let (registry, server) = start(leg);
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let screen = openpt(flags).expect("a pseudoterminal");
        grantpt(&screen).expect("ours");
        unlockpt(&screen).expect("ours");
        let terminal = ioctl_tiocgptpeer(&screen, flags).expect("its other side");
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
        command.args(["cache", "warm", IMAGE, "--server", &server.addr().to_string()]);
        command.env("COLUMNS", "70").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(terminal);
        let mut child = command.spawn().expect("the binary runs");
        // Our copy of the terminal's side goes with it: the screen ends when the child does.
        drop(command);
        let (mut screen, mut seen) = (File::from(screen), Vec::new());
        let mut piece = [0; 4096];
        // A screen whose other side is closed is an error.
        while let Ok(count @ 1..) = screen.read(&mut piece) {
            seen.extend_from_slice(&piece[..count]);
            // Two looks that tell how much there is: from now on it may come as fast as it can.
            if String::from_utf8_lossy(&seen).matches(OF_ALL).count() == 2 {
                registry.heal();
            }
        }
        let mut said = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut said).expect("text");
        let seen = String::from_utf8(seen).expect("text");
        assert!(child.wait().expect("our child").success(), "{seen:?}");
        let drawn: Vec<&str> = seen.split(AGAIN).collect();
        let bar = format!("{IMAGE} [");
        assert!(drawn.iter().any(|line| line.starts_with(&bar) && line.contains(OF_ALL)), "{drawn:?}");
        assert!(drawn.iter().all(|line| line.is_empty() || line.starts_with(IMAGE)), "{drawn:?}");
        assert!(drawn.iter().all(|line| line.len() <= 70), "no line is wider than the terminal: {drawn:?}");
        assert!(seen.ends_with(AGAIN), "nothing of it stays: {drawn:?}");
        assert!(said.starts_with(&format!("{IMAGE}: done, 4 of 4 blobs here")), "{said}");
    }

    fn a_pipe_is_told_the_end_alone(leg) {
        let (_registry, server) = start(leg);
        let (status, said) = cache(&server, &["warm", IMAGE]);
        assert_eq!(status, Some(0), "{said}");
        assert!(!said.contains(['\r', '\u{1b}', '#']), "{said:?}");
        assert_eq!(said.lines().count(), 1, "{said:?}");
    }
}
