//! The listening socket: blocking accepts on a thread of its own.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use rustix::net::{Shutdown, SocketFlags};

use super::socket::bound_unsent;
use crate::limits::{LISTEN_BACKLOG, UNSENT_BYTES};

/// A bound listening socket.
pub struct Listener(Arc<TcpListener>);

/// Ends the accepting of a [`Listener`] from another thread.
pub struct ListenerStop(Arc<TcpListener>);

impl Listener {
    /// Binds; port 0 picks one.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        let listener = TcpListener::bind(address)?;
        // The standard library's 128 overflows in a burst, and then a client's SYN waits a second.
        rustix::net::listen(&listener, LISTEN_BACKLOG)?;
        // Those that it accepts inherit it.
        bound_unsent(&listener, UNSENT_BYTES)?;
        Ok(Listener(Arc::new(listener)))
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// What ends the accepting.
    pub fn stopper(&self) -> ListenerStop {
        ListenerStop(self.0.clone())
    }

    /// Waits for a connection; non-blocking already. `None`: the listener was stopped.
    pub fn accept(&self) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::acceptfrom_with(self.0.as_fd(), flags) {
            Ok((fd, peer)) => {
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                Ok(Some((fd, peer.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0))))))
            }
            // What shutdown(2) on a listening socket makes of a waiting accept.
            Err(rustix::io::Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells a client that it can't be served now, and closes. Never waits.
    pub fn turn_away(fd: OwnedFd, answer: &[u8]) {
        // A client that does not take even this gets a plain close.
        let _ = rustix::net::send(&fd, answer, rustix::net::SendFlags::NOSIGNAL);
        let _ = rustix::net::shutdown(&fd, Shutdown::Write);
    }
}

impl ListenerStop {
    /// Ends the accepting, for good.
    pub fn stop(&self) {
        // SAFETY: no memory is passed; the descriptor is open while `self` is borrowed.
        unsafe { libc::shutdown(self.0.as_raw_fd(), libc::SHUT_RDWR) };
    }
}
