//! A listener that can be told to be away, and its connections.

use std::{
    collections::HashMap,
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::{Shared, lock, seen::Place, serve};

pub(crate) struct Listener {
    addr: SocketAddr,
    place: Place,
    running: Option<Running>,
}

struct Running {
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    connections: Arc<Mutex<HashMap<u64, TcpStream>>>,
}

impl Listener {
    pub(crate) fn start(shared: &Arc<Shared>, place: Place) -> Listener {
        let socket = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a port left");
        let addr = socket.local_addr().expect("it is bound");
        let running = Some(Running::new(socket, shared, place));
        Listener { addr, place, running }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Nobody is let in, and who is in is thrown out.
    pub(crate) fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.stopped.store(true, Ordering::Release);
        // The thread is woken by a connection and finds the mark.
        let _refused = TcpStream::connect(self.addr);
        running.thread.join().expect("a listener does not panic");
        for connection in lock(&running.connections).values() {
            let _gone = connection.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn start_again(&mut self, shared: &Arc<Shared>) -> io::Result<()> {
        if self.running.is_none() {
            let socket = TcpListener::bind(self.addr)?;
            self.running = Some(Running::new(socket, shared, self.place));
        }
        Ok(())
    }
}

impl Running {
    fn new(socket: TcpListener, shared: &Arc<Shared>, place: Place) -> Running {
        let stopped = Arc::new(AtomicBool::new(false));
        let connections: Arc<Mutex<HashMap<u64, TcpStream>>> = Arc::default();
        let (shared, is_stopped, open) = (shared.clone(), stopped.clone(), connections.clone());
        let listen = move || {
            for (number, stream) in (0..).zip(socket.incoming()) {
                if is_stopped.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let Ok(clone) = stream.try_clone() else { continue };
                lock(&open).insert(number, clone);
                let (shared, open) = (shared.clone(), open.clone());
                thread::spawn(move || {
                    // A client that leaves in the middle is its own affair.
                    let _gone = serve::connection(&shared, stream, place);
                    lock(&open).remove(&number);
                });
            }
        };
        Running { stopped, thread: thread::spawn(listen), connections }
    }
}
