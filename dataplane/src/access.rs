//! The access log: one event a request, written by a thread that no core waits for.
//!
//! Owns: a ring of fixed-size records per core, and the thread that makes events of them, with the target
//! `gantry::access`.
//!
//! Invariants: recording neither waits nor allocates; a full ring drops the record and says so. A record has
//! no place for a credential: of a request it takes method, target and user agent. What a client sent goes
//! out as printable ASCII, so it ends no line and starts no field.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, park_timeout},
    time::Duration,
};

use oci::Method;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::{
    io::spawn_named,
    limits::{ACCESS_LOG_EVERY, ACCESS_RECORDS_MAX, ACCESS_TARGET_BYTES_MAX, ACCESS_USER_AGENT_BYTES_MAX},
};

const _: () = assert!(size_of::<AccessRecord>() <= 512);

/// The first bytes of what a client sent.
#[derive(Clone, Copy, Debug)]
struct Kept<const BYTES: usize> {
    /// How many there were; the first `BYTES` of them are here.
    sent: u32,
    bytes: [u8; BYTES],
}

impl<const BYTES: usize> Kept<BYTES> {
    fn of(text: &[u8]) -> Kept<BYTES> {
        let kept = text.len().min(BYTES);
        let mut bytes = [0; BYTES];
        bytes[..kept].copy_from_slice(&text[..kept]);
        Kept { sent: u32::try_from(text.len()).unwrap_or(u32::MAX), bytes }
    }

    /// Quotes, backslashes, control characters and all beyond ASCII as `\"`, `\n`, `\xNN` and so on.
    fn escaped(&self) -> String {
        self.bytes[..BYTES.min(self.sent as usize)].escape_ascii().to_string()
    }

    /// Bytes that were sent, if they are not all here.
    fn cut(&self) -> Option<u32> {
        (self.sent as usize > BYTES).then_some(self.sent)
    }
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord {
    started_micros: u64,
    core: u16,
    method: Method,
    /// 0: none was sent.
    status: u16,
    peer: SocketAddr,
    bytes_sent: u64,
    bytes_received: u64,
    duration_micros: u64,
    target: Kept<ACCESS_TARGET_BYTES_MAX>,
    user_agent: Kept<ACCESS_USER_AGENT_BYTES_MAX>,
}

impl AccessRecord {
    /// What is known once a head is parsed: `started_micros` since 1970; `target` and `user_agent` as sent,
    /// empty if there is none.
    pub fn new(
        started_micros: u64,
        core: usize,
        peer: SocketAddr,
        method: Method,
        target: &[u8],
        user_agent: &[u8],
    ) -> AccessRecord {
        AccessRecord {
            started_micros,
            core: u16::try_from(core).unwrap_or(u16::MAX),
            method,
            status: 0,
            peer,
            bytes_sent: 0,
            bytes_received: 0,
            duration_micros: 0,
            target: Kept::of(target),
            user_agent: Kept::of(user_agent),
        }
    }

    /// What is known once the request has ended. `status` is 0 if no whole answer could be sent.
    pub fn end(&mut self, status: u16, bytes_sent: u64, bytes_received: u64, duration: Duration) {
        self.status = status;
        self.bytes_sent = bytes_sent;
        self.bytes_received = bytes_received;
        self.duration_micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    }

    /// `request_target_bytes` is there if the target was cut, `user_agent` if one was sent. (A field `target`
    /// would be the event's own, in a flat JSON line.)
    fn log(&self) {
        if !tracing::enabled!(target: "gantry::access", tracing::Level::INFO) {
            return;
        }
        let target = self.target.escaped();
        let user_agent = self.user_agent.escaped();
        // As text, not as Display: the line format then puts it in quotes, and a space ends no field.
        tracing::info!(
            target: "gantry::access",
            started_unix_us = self.started_micros,
            core = self.core,
            peer = %self.peer,
            method = self.method.name(),
            request_target = target.as_str(),
            request_target_bytes = self.target.cut(),
            user_agent = (!user_agent.is_empty()).then_some(user_agent.as_str()),
            status = self.status,
            bytes_sent = self.bytes_sent,
            bytes_received = self.bytes_received,
            duration_us = self.duration_micros,
        );
    }
}

/// A core's end of the log.
pub struct AccessLog {
    producer: Option<Producer<AccessRecord>>,
}

impl AccessLog {
    /// Takes records and keeps none (`--access-log off`).
    pub fn off() -> AccessLog {
        AccessLog { producer: None }
    }

    /// Whether it keeps records; where it does not, none need be made.
    pub fn is_on(&self) -> bool {
        self.producer.is_some()
    }

    /// False: the ring is full and the record is dropped; count it.
    #[must_use]
    pub fn record(&mut self, record: AccessRecord) -> bool {
        match &mut self.producer {
            Some(producer) => producer.push(record).is_ok(),
            None => true,
        }
    }
}

/// The log thread.
pub struct AccessThread {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl AccessThread {
    /// Logs all that was recorded before this call, and ends the thread. Call it when the cores have ended.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("the access log ended early: its thread panicked");
        }
    }
}

/// Starts the log: an end for each core, in order, and the thread that empties their rings.
///
/// Errors: no thread was to be had.
pub fn start(cores: usize) -> io::Result<(Vec<AccessLog>, AccessThread)> {
    start_into(cores, AccessRecord::log)
}

fn start_into(
    cores: usize,
    write: impl Fn(&AccessRecord) + Send + 'static,
) -> io::Result<(Vec<AccessLog>, AccessThread)> {
    let (logs, mut rings): (Vec<_>, Vec<_>) = (0..cores)
        .map(|_| {
            let (producer, consumer) = RingBuffer::new(ACCESS_RECORDS_MAX);
            (AccessLog { producer: Some(producer) }, consumer)
        })
        .unzip();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = spawn_named("access-log".to_owned(), move || {
        loop {
            // Read before the rings are: what was recorded before the stop is then seen below.
            let last = stopped.load(Ordering::Acquire);
            rings.iter_mut().for_each(|ring| drain(ring, &write));
            if last {
                return;
            }
            park_timeout(ACCESS_LOG_EVERY);
        }
    })?;
    Ok((logs, AccessThread { thread, stop }))
}

/// Writes what is in the ring now. What comes meanwhile waits, so that a busy core does not keep us here.
fn drain(ring: &mut Consumer<AccessRecord>, write: impl Fn(&AccessRecord)) {
    for _ in 0..ring.slots() {
        if let Ok(record) = ring.pop() {
            write(&record);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        fmt::Debug,
        sync::{Mutex, mpsc},
    };

    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span,
    };

    use super::*;

    type Fields = BTreeMap<&'static str, String>;

    fn record(target: &[u8], user_agent: &[u8]) -> AccessRecord {
        let peer = "127.0.0.1:4711".parse().unwrap();
        AccessRecord::new(1_700_000_000_000_001, 3, peer, Method::Get, target, user_agent)
    }

    fn sending(bytes: u64) -> AccessRecord {
        AccessRecord { bytes_sent: bytes, ..record(b"/", b"") }
    }

    /// Keeps the fields of every event of the access log.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<Fields>>>);

    impl Subscriber for Seen {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "gantry::access"
        }

        fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

        fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            struct Reader(Fields);
            impl Visit for Reader {
                fn record_str(&mut self, field: &Field, value: &str) {
                    self.0.insert(field.name(), value.to_owned());
                }

                fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                    self.0.insert(field.name(), format!("{value:?}"));
                }
            }
            let mut reader = Reader(Fields::new());
            event.record(&mut reader);
            self.0.lock().unwrap().push(reader.0);
        }

        fn enter(&self, _span: &span::Id) {}

        fn exit(&self, _span: &span::Id) {}
    }

    fn logged(record: AccessRecord) -> Fields {
        let seen = Seen::default();
        tracing::subscriber::with_default(seen.clone(), || record.log());
        let events = seen.0.lock().unwrap();
        assert_eq!(events.len(), 1, "one event a request");
        events[0].clone()
    }

    #[test]
    fn an_event_says_what_happened() {
        let mut ended = record(b"/v2/a/tags/list?n=3", b"crane/0.20");
        ended.end(206, 1234, 56, Duration::from_micros(789));
        let expected = Fields::from([
            ("started_unix_us", "1700000000000001".to_owned()),
            ("core", "3".to_owned()),
            ("peer", "127.0.0.1:4711".to_owned()),
            ("method", "GET".to_owned()),
            ("request_target", "/v2/a/tags/list?n=3".to_owned()),
            ("user_agent", "crane/0.20".to_owned()),
            ("status", "206".to_owned()),
            ("bytes_sent", "1234".to_owned()),
            ("bytes_received", "56".to_owned()),
            ("duration_us", "789".to_owned()),
        ]);
        assert_eq!(logged(ended), expected);
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let fields = logged(record(b"", b""));
        for absent in ["user_agent", "request_target_bytes"] {
            assert!(!fields.contains_key(absent), "{fields:?}");
        }
        assert_eq!((fields["request_target"].as_str(), fields["status"].as_str()), ("", "0"));
    }

    #[test]
    fn client_text_is_escaped() {
        let fields =
            logged(record(b"/v2/\xff\r\n{\"level\":1}\\\x1b[0m", "evil\"\u{7f}\u{2028} x".as_bytes()));
        assert_eq!(fields["request_target"], r#"/v2/\xff\r\n{\"level\":1}\\\x1b[0m"#);
        assert_eq!(fields["user_agent"], r#"evil\"\x7f\xe2\x80\xa8 x"#);
        for byte in 0..=u8::MAX {
            let escaped = Kept::<1>::of(&[byte]).escaped();
            assert!(escaped.bytes().all(|out| (b' '..=b'~').contains(&out)), "{byte}");
            assert!(escaped != "\"" && escaped != "\\", "{byte}");
        }
    }

    #[test]
    fn long_text_is_cut_and_its_length_is_told() {
        let fields = logged(record(&[b'a'; 300], &[b'b'; ACCESS_USER_AGENT_BYTES_MAX + 1]));
        assert_eq!(fields["request_target"], "a".repeat(ACCESS_TARGET_BYTES_MAX));
        assert_eq!(fields["request_target_bytes"], "300");
        assert_eq!(fields["user_agent"], "b".repeat(ACCESS_USER_AGENT_BYTES_MAX));
        let whole = logged(record(&[b'a'; ACCESS_TARGET_BYTES_MAX], b""));
        assert_eq!(whole["request_target"], "a".repeat(ACCESS_TARGET_BYTES_MAX));
        assert!(!whole.contains_key("request_target_bytes"));
    }

    #[test]
    fn all_that_was_recorded_is_written_by_the_end() {
        let (out, written) = mpsc::channel();
        let (mut logs, thread) =
            start_into(3, move |record| out.send((record.core, record.bytes_sent)).unwrap()).unwrap();
        for (core, log) in logs.iter_mut().enumerate() {
            for number in 0..100 {
                assert!(log.record(AccessRecord { core: core as u16, ..sending(number) }));
            }
        }
        thread.stop();
        let written: Vec<_> = written.iter().collect();
        for core in 0..3 {
            let numbers = written.iter().filter(|(of, _)| *of == core).map(|(_, number)| *number);
            assert!(numbers.eq(0..100), "all of core {core}, in order");
        }
    }

    #[test]
    fn it_is_written_while_the_process_runs() {
        let (out, written) = mpsc::channel();
        let (mut logs, thread) = start_into(1, move |record| out.send(record.bytes_sent).unwrap()).unwrap();
        assert!(logs[0].record(sending(418)));
        assert_eq!(written.recv_timeout(Duration::from_secs(10)), Ok(418));
        thread.stop();
    }

    #[test]
    fn a_full_ring_drops_and_says_so() {
        let (go, gate) = mpsc::channel::<()>();
        let (out, written) = mpsc::channel();
        let (mut logs, thread) = start_into(1, move |record| {
            // Blocks as a terminal does that nobody reads, until the test lets go.
            let _ = gate.recv();
            out.send(record.bytes_sent).unwrap();
        })
        .unwrap();
        let mut taken = 0;
        while logs[0].record(sending(taken)) {
            taken += 1;
        }
        // The thread holds at most one outside of the ring.
        let most = ACCESS_RECORDS_MAX as u64;
        assert!(taken == most || taken == most + 1, "{taken}");
        drop(go);
        thread.stop();
        assert!(written.iter().eq(0..taken), "what was taken is written, nothing else");
    }

    #[test]
    fn off_takes_everything() {
        let mut log = AccessLog::off();
        for _ in 0..=ACCESS_RECORDS_MAX {
            assert!(log.record(record(b"/", b"")));
        }
    }
}
