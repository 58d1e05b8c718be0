//! One request, one answer: hyper's client and its pool, with our connector and our deadlines.
//!
//! Invariants: nothing is followed, repeated or authorised here, but for one thing: a request whose connection was used
//! before, and then turned out to be closed or to have more on it than its last answer, is sent once more.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use http::{Extensions, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;

use super::{connect::Connector, failure::Failure, stream::Answers};
use crate::limits;

/// A pool of connections for each scheme, host and port.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client<Connector, Full<Bytes>>,
    patience: Duration,
}

impl Transport {
    /// The head of an answer may take `patience`, connecting included. At most `transfers_max` bodies are read at the
    /// same time.
    pub(super) fn new(connector: Connector, patience: Duration, transfers_max: usize) -> Transport {
        let (stream_window, connection_window) = windows(transfers_max);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(limits::UPSTREAM_IDLE)
            .pool_max_idle_per_host(limits::UPSTREAM_IDLE_CONNECTIONS)
            .http1_max_buf_size(limits::READ_BYTES)
            .http1_max_headers(limits::HEADERS)
            .http2_initial_stream_window_size(stream_window)
            .http2_initial_connection_window_size(connection_window)
            .http2_max_frame_size(limits::FRAME_BYTES)
            .http2_max_header_list_size(limits::HEADER_LIST_BYTES)
            .http2_keep_alive_interval(limits::PING)
            .http2_keep_alive_timeout(limits::PING)
            .build(connector);
        Transport { client, patience }
    }

    /// The head of the answer; its body follows.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let again = request.clone();
        let sent = async {
            match self.client.request(request).await {
                Err(error) if was_left_over(&error) => self.client.request(again).await,
                other => other,
            }
        };
        match timeout(self.patience, sent).await {
            Err(_late) => Err(Failure::TimedOut),
            Ok(Err(error)) => Err(failure(&error)),
            Ok(Ok(response)) => {
                if let Some(answers) = response.extensions().get::<Answers>() {
                    answers.count();
                }
                Ok(response)
            }
        }
    }
}

/// HTTP/2: what a stream may bring before it is taken, and what all of a connection may: each of them has its own, and
/// one more, so that those that nobody takes hold up no other.
fn windows(transfers_max: usize) -> (u32, u32) {
    let streams = u32::try_from(transfers_max).unwrap_or(u32::MAX).saturating_add(1);
    let stream = limits::STREAM_WINDOW_BYTES.min((limits::CONNECTION_WINDOW_BYTES_MAX / streams).max(1));
    (stream, stream * streams)
}

/// The connection had been used, and what it said to this request is of its past: its end, or the rest of an answer that
/// should have had none (a body after a 204 or after a HEAD).
fn was_left_over(error: &legacy::Error) -> bool {
    let mut extensions = Extensions::new();
    if let Some(connected) = error.connect_info() {
        connected.get_extras(&mut extensions);
    }
    let used = extensions.get::<Answers>().is_some_and(Answers::some);
    used && http_error(error).is_some_and(|error| {
        error.is_incomplete_message() || error.is_canceled() || error.is_closed() || error.is_parse()
    })
}

fn http_error(error: &legacy::Error) -> Option<&hyper::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn failure(error: &legacy::Error) -> Failure {
    if let Some(failure) = causes(error).find_map(|cause| cause.downcast_ref::<Failure>()) {
        return failure.clone();
    }
    match http_error(error) {
        Some(error) if error.is_parse() => Failure::Misbehaved { why: "the upstream does not speak HTTP" },
        Some(error) if error.is_timeout() => Failure::TimedOut,
        Some(_) | None => {
            let texts: Vec<String> = causes(error).map(ToString::to_string).collect();
            Failure::unreachable(texts.join(": "))
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_windows_of_streams_fit_in_a_connection_s() {
        for transfers in [2, 64, 1000, 2000, 1 << 20] {
            let (stream, connection) = windows(transfers);
            assert!(stream > 0 && stream <= limits::STREAM_WINDOW_BYTES, "{transfers}");
            assert!(u64::from(connection) > u64::from(stream) * transfers as u64, "{transfers}");
            assert!(connection <= limits::CONNECTION_WINDOW_BYTES_MAX, "{transfers}");
        }
        assert_eq!(windows(1000).0, limits::STREAM_WINDOW_BYTES);
    }
}
