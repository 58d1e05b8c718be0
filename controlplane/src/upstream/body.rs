//! What follows the head of an answer: a document, whole and bounded, or a blob's bytes, as they come.
//!
//! Invariants: nothing is read that nobody takes: a full channel leaves the bytes in the socket. A blob's body ends after
//! what was announced, or with a [`Broken`]; never before it without one.
//!
//! Spec: RFC 9110 §8.4, §14.4.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use control::Memory;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use oci::Problem;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    exchange::Place,
    failure::{Broken, Failure},
    metrics::Metrics,
};
use crate::limits;

/// The `Content-Range` of a 206.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: u64,
    /// Inclusive, below the largest number.
    pub(super) last: u64,
    /// Length of the whole; `None`: `*`.
    pub(super) size_bytes: Option<u64>,
}

impl Span {
    /// `bytes 0-99/2048`, `bytes 0-99/*`. `None`: not that, or it contradicts itself.
    pub(super) fn of(headers: &HeaderMap) -> Option<Span> {
        let (range, size) = content_range(headers)?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (digits(first)?, digits(last)?);
        let size_bytes = if size == "*" { None } else { Some(digits(size)?) };
        let fits = first <= last && last < size_bytes.unwrap_or(u64::MAX);
        fits.then_some(Span { first, last, size_bytes })
    }

    pub(super) fn len(self) -> u64 {
        self.last - self.first + 1
    }
}

/// Of a 416: `bytes */2048`.
pub(super) fn size_of_unsatisfied(headers: &HeaderMap) -> Option<u64> {
    content_range(headers).filter(|(range, _)| *range == "*").and_then(|(_, size)| digits(size))
}

fn content_range(headers: &HeaderMap) -> Option<(&str, &str)> {
    let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?.trim();
    let unit = value.get(..6).filter(|unit| unit.eq_ignore_ascii_case("bytes "))?;
    value[unit.len()..].trim().split_once('/')
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// `Content-Length`, of a HEAD as well.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    digits(headers.get(header::CONTENT_LENGTH)?.to_str().ok()?)
}

/// Only what was asked for is taken: bytes as they are.
pub(super) fn refuse_coded(headers: &HeaderMap) -> Result<(), Failure> {
    let plain = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().all(plain) {
        Ok(())
    } else {
        Err(Failure::Misbehaved { why: "the upstream encodes what was asked for as it is" })
    }
}

/// A whole body of at most `most_bytes`, within `patience`, and never more than `stall` without a piece of it.
pub(super) async fn document(
    headers: &HeaderMap,
    mut body: Incoming,
    most_bytes: usize,
    [patience, stall]: [Duration; 2],
) -> Result<Bytes, Failure> {
    const TOO_LARGE: Failure =
        Failure::Misbehaved { why: "the upstream's document is larger than any may be" };
    refuse_coded(headers)?;
    let fits = |length: u64| usize::try_from(length).is_ok_and(|length| length <= most_bytes);
    let announced = body.size_hint().lower();
    if !fits(announced) {
        return Err(TOO_LARGE);
    }
    let deadline = Instant::now() + patience;
    let mut whole = BytesMut::new();
    loop {
        let until = deadline.min(Instant::now() + stall);
        let frame = timeout_at(until, body.frame()).await.map_err(|_late| Failure::TimedOut)?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Failure::unreachable(format_args!("a body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > most_bytes {
            return Err(TOO_LARGE);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Reads what nobody wants, so that the connection can be used again; gives up where a new one is cheaper.
pub(super) async fn discard(mut body: Incoming) {
    let mut left = limits::DISCARD_BYTES;
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // Late is as good as not at all.
    let _late = timeout(limits::DISCARD_TIME, read).await;
}

/// How fast blobs may come in, all of an upstream's together.
pub(super) struct Pace {
    bytes_per_second_max: Option<u64>,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(bytes_per_second_max: Option<u64>) -> Pace {
        Pace { bytes_per_second_max, free_at: Mutex::new(None) }
    }

    /// When the piece that has just come is to be passed on.
    fn due(&self, bytes: usize) -> Option<Instant> {
        let rate = self.bytes_per_second_max?;
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = free_at.map_or(now, |free_at| free_at.max(now));
        *free_at = Some(due + takes);
        Some(due)
    }
}

/// How slowly a body may come. Judged once for each grace of waiting, so that a fast start excuses nothing.
pub(super) struct LeastRate {
    bytes_per_second: u64,
    grace: Duration,
    waited: Duration,
    bytes: u64,
}

impl LeastRate {
    pub(super) fn new(bytes_per_second: u64, grace: Duration) -> LeastRate {
        LeastRate { bytes_per_second, grace, waited: Duration::ZERO, bytes: 0 }
    }

    /// So many bytes came, and were waited for so long.
    fn note(&mut self, bytes: usize, waited: Duration) -> Result<(), Broken> {
        self.waited += waited;
        self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        if self.waited < self.grace {
            return Ok(());
        }
        let wanted = u128::from(self.bytes_per_second) * self.waited.as_millis() / 1000;
        let is_slow = u128::from(self.bytes) < wanted;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        if is_slow { Err(Broken::Crawled) } else { Ok(()) }
    }
}

/// A blob's bytes on their way out.
pub(super) struct Pump {
    pub(super) body: Incoming,
    /// How many were announced; `None`: they end where they end.
    pub(super) announced: Option<u64>,
    pub(super) stall: Duration,
    pub(super) least: LeastRate,
    pub(super) pace: Arc<Pace>,
    /// Where there is no room, what came waits, and what follows it stays in the socket.
    pub(super) memory: Memory,
    pub(super) metrics: Arc<Metrics>,
    /// Its place among the connections.
    pub(super) _place: Place,
}

impl Pump {
    /// Begins to read, and ends when the receiver is dropped.
    pub(super) fn start(self) -> mpsc::Receiver<Result<Bytes, Problem>> {
        let (pieces, receiver) = mpsc::channel(limits::PIECES);
        tokio::spawn(self.run(pieces));
        receiver
    }

    async fn run(mut self, pieces: mpsc::Sender<Result<Bytes, Problem>>) {
        if let Err(broken) = self.pass_on(&pieces).await {
            self.metrics.body_broke();
            // Nobody listens any more: nobody needs to know.
            let _gone = pieces.send(Err(broken.problem())).await;
        } else if self.announced == Some(0) {
            drop(pieces);
            discard(self.body).await;
        }
    }

    /// Until the end of what was announced, or until nobody listens.
    async fn pass_on(&mut self, pieces: &mpsc::Sender<Result<Bytes, Problem>>) -> Result<(), Broken> {
        while self.announced != Some(0) {
            let Ok(place) = pieces.reserve().await else { return Ok(()) };
            let waits_since = Instant::now();
            let frame = tokio::select! {
                () = pieces.closed() => return Ok(()),
                frame = timeout(self.stall, self.body.frame()) => frame,
            };
            let waited = waits_since.elapsed();
            let mut data = match frame.map_err(|_late| Broken::Stalled)? {
                None if self.announced.is_none() => return Ok(()),
                None | Some(Err(_)) => return Err(Broken::Cut),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(_trailers) => continue,
                },
            };
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            let too_long = self.announced.is_some_and(|left| length > left);
            if let Some(left) = &mut self.announced {
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left = left.saturating_sub(length);
            }
            self.metrics.received(data.len());
            if let Some(due) = self.pace.due(data.len()) {
                tokio::select! {
                    () = pieces.closed() => return Ok(()),
                    () = sleep_until(due) => {}
                }
            }
            if !data.is_empty() {
                let held = tokio::select! {
                    () = pieces.closed() => return Ok(()),
                    held = self.memory.hold(data.len() as u64) => held,
                };
                place.send(Ok(held.with(data)));
            }
            if too_long {
                return Err(Broken::TooLong);
            }
            if self.announced != Some(0) {
                self.least.note(usize::try_from(length).unwrap_or(usize::MAX), waited)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn content_ranges_that_contradict_themselves_are_none() {
        let of = |value: &str| Span::of(&headers(header::CONTENT_RANGE, value));
        let span = |first, last, size_bytes| Some(Span { first, last, size_bytes });
        assert_eq!(of("bytes 0-99/2048"), span(0, 99, Some(2048)));
        assert_eq!(of("Bytes 5-5/6"), span(5, 5, Some(6)));
        assert_eq!(of("bytes 0-99/*"), span(0, 99, None));
        let most = u64::MAX;
        assert_eq!(of(&format!("bytes 5-{}/*", most - 1)).map(Span::len), Some(most - 5));
        for wrong in [
            "",
            "bytes",
            "bytes */2048",
            "bytes 9-5/10",
            "bytes 0-10/10",
            "bytes 0-+9/10",
            "bytes -9/10",
            "bytes 0-9",
            "items 0-9/10",
            "bytes 0-99999999999999999999/*",
            "bytes 5-18446744073709551615/*",
            "bytes 5-18446744073709551615/18446744073709551615",
            "bytes 0-9/10x",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(size_of_unsatisfied(&headers(header::CONTENT_RANGE, "bytes */7")), Some(7));
        assert_eq!(size_of_unsatisfied(&headers(header::CONTENT_RANGE, "bytes 0-1/7")), None);
    }

    #[test]
    fn an_encoded_body_is_refused() {
        for (value, refused) in [("gzip", true), ("identity", false), ("Identity", false), ("", true)] {
            assert_eq!(refuse_coded(&headers(header::CONTENT_ENCODING, value)).is_err(), refused, "{value}");
        }
        assert_eq!(refuse_coded(&HeaderMap::new()), Ok(()));
    }

    #[test]
    fn what_comes_too_slowly_is_told_once_for_each_grace_of_waiting() {
        let second = Duration::from_secs(1);
        let mut least = LeastRate::new(1000, 10 * second);
        least.note(1 << 30, Duration::ZERO).unwrap();
        for _ in 0..10 {
            least.note(1, second).unwrap();
        }
        for _ in 0..9 {
            least.note(999, second).unwrap();
        }
        assert_eq!(least.note(999, second), Err(Broken::Crawled), "whatever came before");
        for _ in 0..10 {
            least.note(1000, second).unwrap();
        }
        // What took long, but not to wait for.
        for _ in 0..1000 {
            least.note(1, Duration::ZERO).unwrap();
        }
        let mut any = LeastRate::new(0, second);
        any.note(0, 100 * second).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_are_spaced_by_the_rate() {
        let pace = Pace::new(Some(1000));
        let begun = Instant::now();
        let dues: Vec<Duration> = (0..3).map(|_| pace.due(500).unwrap() - begun).collect();
        assert_eq!(dues, [0, 500, 1000].map(Duration::from_millis));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pace.due(500), Some(Instant::now()), "what was not used is not saved up");
        assert_eq!(Pace::new(None).due(500), None);
    }
}
