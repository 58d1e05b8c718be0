//! HTTP/2: spoken where the upstream offers it, many questions over one connection, and a slow reader holds up nobody.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use control::Memory;
use controlplane::upstream::{AllowPrivate, Upstream, UpstreamSettings};
use faults::Certificate;
use http_body_util::Full;
use hyper::{Request, Response, Version, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use oci::{Algorithm, Digest};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::rig::*;

/// Three quarters of them are for blobs.
const CONNECTIONS: usize = 16;

/// Answers everything with these bytes, and counts its connections.
async fn server(bytes: Bytes) -> (Upstream, Arc<AtomicUsize>) {
    let certificate = Certificate::speaking(&["h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = UpstreamSettings::new("a", format!("https://{}", listener.local_addr().unwrap()));
    settings.allow_private_addresses = AllowPrivate::All;
    settings.ca_pem = Some(certificate.ca_pem());
    settings.connections_max = CONNECTIONS;
    let acceptor = TlsAcceptor::from(certificate.config());
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let (acceptor, bytes) = (acceptor.clone(), bytes.clone());
            let answer = move |request: Request<Incoming>| {
                let bytes = bytes.clone();
                async move {
                    assert_eq!(request.version(), Version::HTTP_2);
                    Ok::<_, Infallible>(Response::new(Full::new(bytes)))
                }
            };
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let serving = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                // The client ends it when the test does.
                let _ended = serving.await;
            });
        }
    });
    (Upstream::new(settings).unwrap(), connections)
}

#[tokio::test]
async fn many_questions_share_a_connection_and_a_slow_reader_holds_up_nobody() {
    let bytes = Bytes::from(faults::noise(1, 8 << 20));
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let (upstream, connections) = server(bytes.clone()).await;
    let mut slow = upstream.blob(&repository(), &digest, 0, None, Memory::counted()).await.unwrap().unwrap();
    assert_eq!(slow.size_bytes, Some(8 << 20));
    let first = slow.bytes.recv().await.unwrap().unwrap();
    for _ in 0..3 {
        let whole = fetch(&upstream, &digest, 0, None).await;
        assert!(whole.broken.is_none() && whole.bytes == bytes);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    let rest = body(slow).await;
    assert!(rest.broken.is_none() && [&first[..], &rest.bytes].concat() == bytes);
}

#[tokio::test]
async fn transfers_that_nobody_takes_hold_up_no_other() {
    let bytes = Bytes::from(faults::noise(1, 8 << 20));
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let (upstream, connections) = server(bytes.clone()).await;
    let mut still = Vec::new();
    for _ in 0..CONNECTIONS * 3 / 4 - 1 {
        let mut one =
            upstream.blob(&repository(), &digest, 0, None, Memory::counted()).await.unwrap().unwrap();
        one.bytes.recv().await.unwrap().unwrap();
        still.push(one);
        // By the time that this has come, those have all that may be under way to them.
        let whole = fetch(&upstream, &digest, 0, None).await;
        assert!(whole.broken.is_none() && whole.bytes == bytes, "beside {} others", still.len());
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}
