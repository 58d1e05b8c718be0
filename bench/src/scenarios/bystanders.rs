//! Many connections that ask for little: they idle, or they read so slowly that a server has to keep their answers.
//!
//! Owns: the sockets, for as long as it lives. They need no thread until somebody reads from them.

use std::{
    io,
    net::{SocketAddr, TcpStream},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, sockopt},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use crate::wire::{Framing, parse_head};

/// Descriptors that are needed for everything else.
const OTHER_DESCRIPTORS: u64 = 256;
/// What the kernel is asked to keep for a slow reader, so that the rest stays the server's.
const SLOW_WINDOW_BYTES: usize = 4096;

/// The connections.
pub struct Bystanders {
    members: Vec<TcpStream>,
}

/// Lets this process, and the servers that it starts from now on, have as many descriptors as they may.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // A process may always go up to its hard limit; if not, `Bystanders::gather` tells.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

impl Bystanders {
    /// `count` connections that have said nothing.
    ///
    /// Errors: a sentence: descriptors or the server's listener do not suffice.
    pub fn gather(addr: SocketAddr, count: u64) -> Result<Bystanders, String> {
        if let Some(limit) = getrlimit(Resource::Nofile).current
            && limit < count + OTHER_DESCRIPTORS
        {
            return Err(format!("{count} connections need more than {limit} descriptors: raise `ulimit -n`"));
        }
        let member = |index| {
            TcpStream::connect(addr)
                .map_err(|error| format!("connection {index} of {count} idle ones: {error}"))
        };
        Ok(Bystanders { members: (0..count).map(member).collect::<Result<_, _>>()? })
    }

    /// Sends the same bytes on every connection.
    ///
    /// Errors: a sentence: the server closed one.
    pub fn say(&self, bytes: &[u8]) -> Result<(), String> {
        let said = self.members.iter().try_for_each(|mut member| io::Write::write_all(&mut member, bytes));
        said.map_err(|error| format!("an idle connection took nothing: {error}"))
    }

    /// Receives an answer with a body of known length on every connection.
    ///
    /// Errors: a sentence: one had another status than 200, or was cut off.
    pub fn hear(&self) -> Result<(), String> {
        self.members
            .iter()
            .try_for_each(|member| hear(member).map_err(|why| format!("an idle connection: {why}")))
    }

    /// Makes its receive buffers as small as they go. What is on its way to them from now on is the server's.
    ///
    /// Errors: a sentence.
    pub fn slow_down(&self) -> Result<(), String> {
        let done = self.members.iter().try_for_each(|member| {
            member.set_nonblocking(true)?;
            sockopt::set_socket_recv_buffer_size(member, SLOW_WINDOW_BYTES)?;
            Ok::<_, io::Error>(())
        });
        done.map_err(|error| format!("a slow reader: {error}"))
    }

    /// Takes up to `bytes` from each connection that has some. Gives how much that was.
    pub fn sip(&self, bytes: usize) -> u64 {
        let mut into = vec![0; bytes];
        let taken =
            |member| match rustix::net::recv(member, &mut into[..], RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
                Ok((_, taken)) => taken as u64,
                // Nothing yet, or closed, which `closed` counts.
                Err(_) => 0,
            };
        self.members.iter().map(taken).sum()
    }

    /// How many connections the server has closed.
    pub fn closed(&self) -> u64 {
        let is_closed = |member: &&TcpStream| {
            let looked = rustix::net::recv(*member, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            !matches!(looked, Ok((_, 1..)) | Err(Errno::AGAIN | Errno::INTR))
        };
        self.members.iter().filter(is_closed).count() as u64
    }
}

fn hear(mut member: &TcpStream) -> Result<(), String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match io::Read::read(&mut member, &mut piece) {
            Ok(0) => return Err("it was closed instead of an answer".to_owned()),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) => return Err(format!("its answer: {error}")),
        }
        let Some((length, head)) = parse_head(&bytes, false)? else { continue };
        if head.status != 200 {
            return Err(format!("status {}", head.status));
        }
        let Framing::Length(body) = head.framing else {
            return Err("its answer has no length".to_owned());
        };
        if bytes.len() as u64 >= length as u64 + body {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
    };

    use super::*;

    #[test]
    fn bystanders_ask_hear_and_see_who_was_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let members: Vec<TcpStream> = (0..3).map(|_| listener.accept().unwrap().0).collect();
            for mut member in &members {
                member.read_exact(&mut [0; 2]).unwrap();
                member.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes").unwrap();
            }
            members
        });
        let bystanders = Bystanders::gather(addr, 3).unwrap();
        bystanders.say(b"hi").unwrap();
        bystanders.hear().unwrap();
        let mut members = server.join().unwrap();
        assert_eq!(bystanders.closed(), 0);
        members[1].write_all(b"more").unwrap();
        members.remove(0);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while bystanders.closed() == 0 {
            assert!(std::time::Instant::now() < end, "a close arrives");
        }
        assert_eq!((bystanders.closed(), bystanders.sip(3), bystanders.sip(3)), (1, 3, 1));
    }
}
