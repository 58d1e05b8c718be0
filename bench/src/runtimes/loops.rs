//! The same loop on each runtime: receive a request, send an answer that lies in memory.

use std::{io, net::TcpListener, os::unix::net::UnixStream};

use rustix::time::Timespec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Answer,
    sending::{Sending, Way},
};

/// Where a request is received.
const REQUEST_BYTES: usize = 4096;

/// What drives the loop.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Runtime {
    /// monoio on a ring that waits for one epoll set: Gantry's way.
    OurSet,
    /// monoio with an operation of the ring for each receive and send.
    MonoioRing,
    /// tokio on one thread.
    Tokio,
    /// tokio-uring.
    TokioUring,
}

/// In the order in which they are shown.
pub(super) const ALL: [(&str, Runtime); 4] = [
    ("monoio, our epoll set", Runtime::OurSet),
    ("monoio, its ring", Runtime::MonoioRing),
    ("tokio", Runtime::Tokio),
    ("tokio-uring", Runtime::TokioUring),
];

/// Serves for as long as the process runs.
pub(super) fn run(listener: TcpListener, runtime: Runtime, answer: &Answer) -> io::Result<()> {
    // One copy for all connections, as the loops beside these have it; it is served until the process ends.
    let whole: &[u8] = [&answer.head[..], &answer.body[..]].concat().leak();
    match runtime {
        Runtime::OurSet => {
            ring()?.block_on(async {
                let mut sending = Sending::new(&listener, Way::Memory, answer)?;
                // The set is no socket, but a runtime asks no more of one than that it can be polled.
                let set = UnixStream::from(sending.set().try_clone_to_owned()?);
                let watched = monoio::net::UnixStream::from_std(set)?;
                loop {
                    watched.readable(false).await?;
                    while sending.turn(Some(Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0 {}
                }
            })
        }
        Runtime::MonoioRing => ring()?.block_on(on_monoio(listener, whole)),
        Runtime::Tokio => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            let local = tokio::task::LocalSet::new();
            runtime.block_on(local.run_until(on_tokio(listener, whole)))
        }
        Runtime::TokioUring => tokio_uring::start(on_tokio_uring(listener, whole)),
    }
}

fn ring() -> io::Result<monoio::Runtime<monoio::IoUringDriver>> {
    monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build()
}

async fn on_monoio(listener: TcpListener, whole: &'static [u8]) -> io::Result<()> {
    use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
    let listener = monoio::net::TcpListener::from_std(listener)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        monoio::spawn(async move {
            let mut request = vec![0; REQUEST_BYTES];
            loop {
                let got;
                (got, request) = stream.read(request).await;
                if !matches!(got, Ok(1..)) {
                    return;
                }
                if stream.write_all(whole).await.0.is_err() {
                    return;
                }
            }
        });
    }
}

async fn on_tokio(listener: TcpListener, whole: &'static [u8]) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(async move {
            let mut request = vec![0; REQUEST_BYTES];
            while matches!(stream.read(&mut request).await, Ok(1..)) && stream.write_all(whole).await.is_ok()
            {
            }
        });
    }
}

async fn on_tokio_uring(listener: TcpListener, whole: &'static [u8]) -> io::Result<()> {
    let listener = tokio_uring::net::TcpListener::from_std(listener);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio_uring::spawn(async move {
            let mut request = vec![0; REQUEST_BYTES];
            loop {
                let (got, back) = stream.read(request).await;
                request = back;
                if !matches!(got, Ok(1..)) {
                    return;
                }
                if stream.write_all(whole).await.0.is_err() {
                    return;
                }
            }
        });
    }
}
