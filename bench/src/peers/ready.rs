//! Whether a server answers, and whether it is alone on its port.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::cost;

/// How long one question may take.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The status of a GET on a connection of its own.
pub fn status(addr: SocketAddr, path: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&addr, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut line = [0; 12];
    stream.read_exact(&mut line)?;
    let status =
        std::str::from_utf8(&line).ok().and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..)?.parse().ok());
    // Read to the end: a reset for the rest would stand in its log.
    let _ = io::copy(&mut stream.take(1 << 20), &mut io::sink());
    status.ok_or_else(|| io::Error::other("the answer is no HTTP"))
}

/// An error if anybody outside the process tree listens on `port`, or nobody inside.
///
/// With SO_REUSEPORT a stray server of an earlier run would take its share of the connections without any error.
pub fn only_listener(pid: u32, port: u16) -> io::Result<()> {
    let listeners = listeners(port)?;
    let mut owned = BTreeSet::new();
    for pid in cost::tree(pid)? {
        owned.extend(sockets(pid).unwrap_or_default());
    }
    if !listeners.is_subset(&owned) {
        return Err(io::Error::other("another process listens there too: end it (`ss -ltnp` names it)"));
    }
    if listeners.is_empty() {
        return Err(io::Error::other("it answers, but none of its processes listens there"));
    }
    Ok(())
}

/// The state LISTEN in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Inodes of the sockets that listen on a port, at any address.
fn listeners(port: u16) -> io::Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = match fs::read_to_string(table) {
            Ok(text) => text,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        found.extend(text.lines().filter_map(|line| listener(line, port)));
    }
    Ok(found)
}

/// The inode of a line of the table, if it listens on `port`.
fn listener(line: &str, port: u16) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, hex) = fields.get(1)?.split_once(':')?;
    let matches = u16::from_str_radix(hex, 16) == Ok(port) && *fields.get(3)? == LISTEN;
    if matches { fields.get(9)?.parse().ok() } else { None }
}

/// Inodes of the sockets that a process has open.
fn sockets(pid: u32) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(link) = fs::read_link(entry?.path()) else { continue };
        let name = link.to_string_lossy();
        found.extend(
            name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse::<u64>().ok()),
        );
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, process};

    use super::*;

    #[test]
    fn a_stray_listener_is_found() {
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = ours.local_addr().unwrap().port();
        only_listener(process::id(), port).unwrap();
        let mut other = process::Command::new("sleep").arg("60").spawn().unwrap();
        let why = only_listener(other.id(), port).unwrap_err().to_string();
        assert!(why.contains("another process"), "{why}");
        other.kill().unwrap();
        other.wait().unwrap();
        drop(ours);
        assert!(only_listener(process::id(), port).unwrap_err().to_string().contains("none of its"));
    }

    #[test]
    fn only_listening_sockets_count() {
        let line = |state: &str| {
            format!(
                "   0: 0100007F:1388 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 637 1 0 100 0"
            )
        };
        assert_eq!(listener(&line("0A"), 5000), Some(637));
        assert_eq!(listener(&line("0A"), 5001), None);
        assert_eq!(listener(&line("01"), 5000), None);
    }
}
