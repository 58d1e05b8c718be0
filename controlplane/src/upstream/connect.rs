//! From a URL to a connection: names are resolved here, and what is connected to is what was checked.
//!
//! Invariants: no address is connected to that [`AllowPrivate`] does not permit, whether it came from a name or stood
//! in the URL, of the upstream, of a redirect or of a realm. Behind a proxy the host must be on a list in its place.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::{
    addresses::AllowPrivate,
    failure::Failure,
    known::{self, HostPattern},
    secret::Secret,
    stream::{Answers, Pooled, Stream},
    tls::Tls,
    url::Authority,
};
use crate::limits;

/// Makes the connections of one upstream.
#[derive(Clone)]
pub(super) struct Connector(Arc<Shared>);

struct Shared {
    own: Authority,
    allow: AllowPrivate,
    tls: Tls,
    proxy: Option<ProxyHost>,
    realms: Vec<HostPattern>,
    proxy_hosts: Vec<HostPattern>,
    connect: Duration,
}

/// The proxy of an upstream.
pub(super) struct ProxyHost {
    pub(super) authority: Authority,
    /// The value of `Proxy-Authorization`.
    pub(super) authorization: Option<Secret>,
}

impl Connector {
    pub(super) fn new(
        own: Authority,
        allow: AllowPrivate,
        tls: Tls,
        proxy: Option<ProxyHost>,
        [realms, proxy_hosts]: [Vec<HostPattern>; 2],
        connect: Duration,
    ) -> Connector {
        Connector(Arc::new(Shared { own, allow, tls, proxy, realms, proxy_hosts, connect }))
    }

    /// The addresses of a host that may be connected to, in the resolver's order.
    pub(super) async fn addresses(&self, authority: &Authority) -> Result<Vec<SocketAddr>, Failure> {
        self.0.addresses(authority).await
    }

    /// Through which proxy everything goes.
    pub(super) fn proxy(&self) -> Option<&Authority> {
        self.0.proxy.as_ref().map(|proxy| &proxy.authority)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Pooled>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Pooled>, Failure>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let authority = Authority::of(&uri).ok_or_else(|| Failure::unreachable("not a URL"))?;
            let stream = timeout(shared.connect, shared.connect(&authority))
                .await
                .map_err(|_late| Failure::TimedOut)??;
            Ok(TokioIo::new(Pooled { stream, answers: Answers::default() }))
        })
    }
}

impl Shared {
    async fn connect(&self, authority: &Authority) -> Result<Stream, Failure> {
        let stream = match &self.proxy {
            Some(proxy) => self.through(proxy, authority).await?,
            None => Stream::Plain(dial(self.addresses(authority).await?).await?),
        };
        if !authority.https {
            return Ok(stream);
        }
        let config = if *authority == self.own { &self.tls.own } else { &self.tls.others };
        secured(stream, &authority.host, config).await
    }

    async fn addresses(&self, authority: &Authority) -> Result<Vec<SocketAddr>, Failure> {
        let found = resolved(authority).await?;
        let (mut good, refused): (Vec<SocketAddr>, Vec<SocketAddr>) =
            found.into_iter().partition(|address| self.allow.permits(address.ip()));
        if let Some(address) = refused.first() {
            tracing::debug!(%authority, %address, "an address is not connected to");
        }
        if good.is_empty() {
            return Err(if refused.is_empty() {
                Failure::unreachable(format_args!("{authority} has no address"))
            } else {
                Failure::AddressRefused
            });
        }
        good.truncate(limits::ADDRESSES);
        Ok(good)
    }

    async fn through(&self, proxy: &ProxyHost, authority: &Authority) -> Result<Stream, Failure> {
        if !known::may_be_proxied(&self.own, authority, &self.realms, &self.proxy_hosts) {
            return Err(Failure::AddressRefused);
        }
        // The operator has named the proxy: wherever it is, it is meant.
        let stream = Stream::Plain(dial(resolved(&proxy.authority).await?).await?);
        let mut stream = if proxy.authority.https {
            secured(stream, &proxy.authority.host, &self.tls.proxy).await?
        } else {
            stream
        };
        let host = if authority.host.contains(':') {
            format!("[{}]:{}", authority.host, authority.port)
        } else {
            format!("{}:{}", authority.host, authority.port)
        };
        let mut head = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n");
        if let Some(authorization) = &proxy.authorization {
            head.push_str(&format!("Proxy-Authorization: {}\r\n", authorization.reveal()));
        }
        head.push_str("\r\n");
        let failed = |error| Failure::unreachable(format_args!("the proxy: {error}"));
        stream.write_all(head.as_bytes()).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        let status = proxy_status(&mut stream).await?;
        if status != 200 {
            return Err(Failure::unreachable(format_args!("the proxy answered {status}")));
        }
        Ok(stream)
    }
}

/// The status of the answer to a CONNECT. Reads a byte at a time: what follows the head is not ours.
async fn proxy_status(stream: &mut Stream) -> Result<u16, Failure> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= limits::PROXY_HEAD_BYTES {
            return Err(Failure::unreachable("the proxy's answer has no end"));
        }
        let byte = stream
            .read_u8()
            .await
            .map_err(|error| Failure::unreachable(format_args!("the proxy: {error}")))?;
        head.push(byte);
    }
    let status = head.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
    status
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .ok_or_else(|| Failure::unreachable("the proxy does not speak HTTP"))
}

async fn resolved(authority: &Authority) -> Result<Vec<SocketAddr>, Failure> {
    if let Some(ip) = authority.ip() {
        return Ok(vec![SocketAddr::new(ip, authority.port)]);
    }
    let found = lookup_host((&*authority.host, authority.port)).await;
    Ok(found.map_err(|error| Failure::unreachable(format_args!("{}: {error}", authority.host)))?.collect())
}

/// The first of these that takes a connection: each gets a head start before the next is tried beside it, and the two
/// families take turns (RFC 8305).
async fn dial(addresses: Vec<SocketAddr>) -> Result<TcpStream, Failure> {
    let mut attempts = JoinSet::new();
    for (place, address) in in_turns(addresses).into_iter().take(limits::ADDRESSES).enumerate() {
        attempts.spawn(async move {
            if place > 0 {
                sleep(limits::HEAD_START * u32::try_from(place).unwrap_or(u32::MAX)).await;
            }
            TcpStream::connect(address).await.map_err(|error| (address, error))
        });
    }
    let mut why = String::from("no address");
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            Ok(Ok(stream)) => {
                // Without it, small requests wait for acknowledgements; a connection that lacks it is as good.
                let _delayed = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err((address, error))) => why = format!("{address}: {error}"),
            Err(error) => why = error.to_string(),
        }
    }
    Err(Failure::unreachable(why))
}

fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut other = other.into_iter();
    let mut turns: Vec<SocketAddr> =
        one.into_iter().flat_map(|address| [Some(address), other.next()]).flatten().collect();
    turns.extend(other);
    turns
}

async fn secured(stream: Stream, host: &str, config: &Arc<ClientConfig>) -> Result<Stream, Failure> {
    let name = match host.parse::<IpAddr>() {
        Ok(ip) => ServerName::from(ip),
        Err(_name) => ServerName::try_from(host.to_owned())
            .map_err(|_illegal| Failure::unreachable(format_args!("{host} is no host name")))?,
    };
    let connected = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    let stream = connected.map_err(|error| Failure::unreachable(format_args!("TLS with {host}: {error}")))?;
    Ok(Stream::Tls(Box::new(stream)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_take_turns() {
        let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let given = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"].map(address);
        let expect = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"].map(address);
        assert_eq!(in_turns(given.to_vec()), expect);
        assert_eq!(in_turns(vec![]), []);
    }
}
