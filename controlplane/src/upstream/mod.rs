//! One upstream registry: questions to it, answered one by one.
//!
//! Owns: connections, tokens, the upstream's budget, and the breaker. It caches nothing else.
//!
//! Invariants: credentials and tokens go to exactly the scheme, host and port they are for. Only addresses that were
//! checked are connected to. Every wait ends. `Ok(None)` and `Absent` mean that the upstream says *it is not there*.
//!
//! Spec: distribution-spec (end-2, end-3, end-8, end-12); Docker's token authentication; RFC 9110.

mod accounts;
mod addresses;
mod answers;
mod body;
mod breaker;
mod budget;
mod challenge;
mod check;
mod connect;
mod exchange;
mod failure;
mod known;
mod link;
mod metrics;
mod secret;
mod settings;
mod stream;
#[doc(hidden)]
pub mod testing;
mod tls;
mod tokens;
mod transport;
mod url;

use std::{sync::Arc, time::Duration};

use control::{Fetched, Memory};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use oci::{Digest, MediaType, Reference, RepositoryName};
use tokio::sync::Semaphore;

pub use addresses::{AllowPrivate, Network};
pub use answers::{Accept, Budget, Check, Described, GotManifest, Listing, Page, SeenManifest, Step};
pub use failure::{Broken, Failure};
pub use metrics::{Counts, Metrics};
pub use secret::Secret;
pub use settings::{
    ClientCertificate, Complete, Credentials, Offline, Policy, Proxy, SettingsError, Timeouts,
    UpstreamSettings,
};

use accounts::{Accounts, Login};
use body::{LeastRate, Pace, Pump, Span};
use breaker::Breaker;
use budget::Cost;
use connect::{Connector, ProxyHost};
use exchange::{Among, Answer, Exchange, Question};
use known::HostPattern;
use link::next_query;
use tls::Tls;
use tokens::Tokens;
use transport::Transport;
use url::{Authority, Url};

use crate::limits;

const USER_AGENT: &str = concat!("gantry/", env!("CARGO_PKG_VERSION"));

/// One upstream; cheap to clone. Wants to be used within a tokio runtime with time and I/O.
#[derive(Clone)]
pub struct Upstream {
    shared: Arc<Shared>,
}

struct Shared {
    settings: UpstreamSettings,
    /// Ends without a slash.
    base: Url,
    connector: Connector,
    exchange: Exchange,
    pace: Arc<Pace>,
}

impl Upstream {
    /// Reads the system's certificates; asks nobody.
    ///
    /// Errors: what is wrong with the settings, and where.
    pub fn new(settings: UpstreamSettings) -> Result<Upstream, SettingsError> {
        let wrong = SettingsError::new;
        let mut base = Url::parse(&settings.url)
            .filter(|url| !url.path_and_query.contains('?'))
            .ok_or_else(|| wrong("url", "it is not of the form https://host[:port][/path]"))?;
        base.path_and_query.truncate(base.path_and_query.trim_end_matches('/').len());
        let timeouts = settings.timeouts;
        if !base.authority.https && !settings.allow_private_addresses.allows_some() {
            return Err(wrong(
                "url",
                "http is for upstreams inside: set allow_private_addresses, or use https",
            ));
        }
        if settings.connections_max < 2 {
            return Err(wrong("connections_max", "it takes two: one for blobs, one for documents"));
        }
        if base.path_and_query.ends_with("/v2") {
            return Err(wrong("url", "it ends before /v2, which is put behind it"));
        }
        if timeouts.refused.is_zero() {
            return Err(wrong(
                "timeouts",
                "`refused` is zero: an upstream that refuses would be asked without end",
            ));
        }
        if settings.breaker_failures == 0 {
            return Err(wrong("breaker_failures", "it takes at least one failure"));
        }
        if settings.bytes_per_second_max == Some(0) {
            return Err(wrong("bytes_per_second_max", "nothing would ever come"));
        }
        let commands = settings.credentials.iter().filter_map(|one| match one {
            Credentials::Command { argv } => Some(argv),
            Credentials::User { .. } | Credentials::IdentityToken(_) => None,
        });
        if commands.into_iter().any(Vec::is_empty) {
            return Err(wrong("credentials", "the command is empty"));
        }
        let own = base.authority.clone();
        let connector = connector(&settings, &own)?;
        let patience = timeouts.first_byte.max(timeouts.connect);
        let transport = Transport::new(connector.clone(), patience, settings.connections_max);
        let metrics = Arc::new(Metrics::default());
        let realms = patterns("realms", &settings.realms)?;
        let tokens =
            Tokens::new(own.clone(), realms, transport.clone(), timeouts.token, Arc::clone(&metrics));
        let documents = (settings.connections_max / 4).max(1);
        let exchange = Exchange {
            own,
            transport,
            tokens,
            accounts: Accounts::new(&settings),
            breaker: Breaker::new(settings.breaker_failures, timeouts.breaker),
            blobs: Arc::new(Semaphore::new(
                (settings.connections_max - documents).min(Semaphore::MAX_PERMITS),
            )),
            documents: Arc::new(Semaphore::new(documents.min(Semaphore::MAX_PERMITS))),
            timeouts,
            metrics,
        };
        let pace = Arc::new(Pace::new(settings.bytes_per_second_max));
        Ok(Upstream { shared: Arc::new(Shared { settings, base, connector, exchange, pace }) })
    }

    /// What it was made from.
    pub fn settings(&self) -> &UpstreamSettings {
        &self.shared.settings
    }

    /// HEAD of a manifest, which costs no pull. Where it is refused the caller knows best what to GET: it may have
    /// something to compare with, and a use for the bytes.
    pub async fn describe_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        accept: &Accept,
    ) -> Result<SeenManifest, Failure> {
        let mut question = self.question(Method::HEAD, repository, &format!("manifests/{reference}"));
        insert(&mut question.headers, header::ACCEPT, accept.as_str())?;
        let response = response(self.shared.exchange.ask(&question).await?.0)?;
        let headers = response.headers();
        match response.status() {
            StatusCode::NOT_FOUND => Ok(SeenManifest::Absent),
            StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED => Ok(SeenManifest::HeadRefused),
            StatusCode::OK => Ok(SeenManifest::Described(Described {
                digest: digest_header(headers),
                size_bytes: body::content_length(headers),
                media_type: media_type(headers),
            })),
            _ => Err(UNEXPECTED),
        }
    }

    /// GET of a manifest, of at most [`limits::DOCUMENT_BYTES`]. With `if_none_match` it may be `Unchanged`.
    pub async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        accept: &Accept,
        if_none_match: Option<&Digest>,
    ) -> Result<GotManifest, Failure> {
        let mut question = self.question(Method::GET, repository, &format!("manifests/{reference}"));
        question.cost = Cost::Pull;
        insert(&mut question.headers, header::ACCEPT, accept.as_str())?;
        if let Some(digest) = if_none_match {
            insert(&mut question.headers, header::IF_NONE_MATCH, &format!("\"{digest}\""))?;
        }
        Ok(match self.document(&question).await? {
            Document::Absent => GotManifest::Absent,
            Document::Unchanged if if_none_match.is_some() => GotManifest::Unchanged,
            Document::Unchanged => return Err(UNEXPECTED),
            Document::Here { headers, bytes } => GotManifest::Manifest {
                bytes,
                media_type: media_type(&headers),
                digest_header: digest_header(&headers),
            },
        })
    }

    /// HEAD of a blob; a GET of its first byte where HEAD is refused, or tells no length. Inside, the length of the blob in
    /// bytes, if it was told.
    pub async fn describe_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Option<u64>>, Failure> {
        let exchange = &self.shared.exchange;
        let mut question = self.question(Method::HEAD, repository, &format!("blobs/{digest}"));
        let head = response(exchange.ask(&question).await?.0)?;
        match head.status() {
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::OK if body::content_length(head.headers()).is_some() => {
                return Ok(Some(body::content_length(head.headers())));
            }
            StatusCode::OK | StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED => {}
            _ => return Err(UNEXPECTED),
        }
        question.method = Method::GET;
        insert(&mut question.headers, header::RANGE, "bytes=0-0")?;
        let described = match exchange.ask(&question).await {
            Ok((answer, _place)) => first_byte(&response(answer)?),
            Err(failure) => Err(failure),
        };
        // That it is there was told already.
        if head.status() == StatusCode::OK { Ok(described.unwrap_or(Some(None))) } else { described }
    }

    /// A blob's bytes from `from` to `to` (exclusive, above `from`; `None`: its end). If the upstream knows no ranges,
    /// `start` is 0 and the bytes are all of them, whatever was asked. A body that breaks off ends with a [`Broken`],
    /// as a problem. What came counts in `memory` until it is dropped.
    pub async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        from: u64,
        to: Option<u64>,
        memory: Memory,
    ) -> Result<Option<Fetched>, Failure> {
        let exchange = &self.shared.exchange;
        let mut question = self.question(Method::GET, repository, &format!("blobs/{digest}"));
        question.among = Among::Blobs;
        let range = match to {
            None if from == 0 => None,
            None => Some(format!("bytes={from}-")),
            Some(to) => Some(format!("bytes={from}-{}", to.saturating_sub(1))),
        };
        if let Some(range) = &range {
            insert(&mut question.headers, header::RANGE, range)?;
        }
        let (answer, place) = exchange.ask(&question).await?;
        let (head, body) = response(answer)?.into_parts();
        let is_whole = head.status == StatusCode::OK;
        let (start, size_bytes, announced) = match head.status {
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::OK => {
                let length = body::content_length(&head.headers);
                (0, length, length)
            }
            StatusCode::PARTIAL_CONTENT if range.is_some() => {
                let span =
                    Span::of(&head.headers).filter(|span| is_asked(*span, from, to)).ok_or(ANOTHER_RANGE)?;
                if body::content_length(&head.headers).is_some_and(|length| length != span.len()) {
                    return Err(ANOTHER_RANGE);
                }
                (from, span.size_bytes, Some(span.len()))
            }
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(ANOTHER_RANGE),
            _ => return Err(UNEXPECTED),
        };
        body::refuse_coded(&head.headers).inspect_err(|failure| exchange.metrics.failed(failure))?;
        let pump = Pump {
            body,
            announced,
            stall: exchange.timeouts.stall,
            least: LeastRate::new(exchange.timeouts.body_rate_min_bytes, exchange.timeouts.body_rate_grace),
            pace: Arc::clone(&self.shared.pace),
            memory,
            metrics: Arc::clone(&exchange.metrics),
            _place: place,
        };
        Ok(Some(Fetched { start, is_whole, size_bytes, bytes: pump.start() }))
    }

    /// A page of a list; `query` without the `?`. `None`: 404. A redirect of referrers to another host is `None` as well:
    /// it says that the upstream has no such list.
    pub async fn list(
        &self,
        repository: &RepositoryName,
        listing: &Listing,
        query: Option<&str>,
    ) -> Result<Option<Page>, Failure> {
        let mut path = match listing {
            Listing::Tags => "tags/list".to_owned(),
            Listing::Referrers(digest) => format!("referrers/{digest}"),
        };
        if let Some(query) = query.filter(|query| !query.is_empty()) {
            path.push('?');
            path.push_str(query);
        }
        let mut question = self.question(Method::GET, repository, &path);
        question.stays = matches!(listing, Listing::Referrers(_));
        match self.document(&question).await? {
            Document::Absent => Ok(None),
            Document::Unchanged => Err(UNEXPECTED),
            Document::Here { headers, bytes } => {
                Ok(Some(Page { bytes, media_type: media_type(&headers), next: next_query(&headers) }))
            }
        }
    }

    /// Asks for addresses, a connection, a token and the budget. It costs no pull.
    pub async fn check(&self) -> Check {
        check::check(self).await
    }

    /// What the upstream last said about how much it still gives.
    pub fn budget(&self) -> Budget {
        let accounts = &self.shared.exchange.accounts;
        accounts.pick(Cost::Pull).map(|(_, account)| account.budgets.read()).unwrap_or_default()
    }

    /// What was counted since start.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.exchange.metrics
    }

    fn question<'q>(&self, method: Method, repository: &'q RepositoryName, path: &str) -> Question<'q> {
        let base = &self.shared.base;
        Question {
            method,
            url: base.with(format!("{}/v2/{repository}/{path}", base.path_and_query)),
            repository: Some(repository),
            cost: Cost::Nothing,
            among: Among::Documents,
            headers: HeaderMap::new(),
            stays: false,
        }
    }

    async fn document(&self, question: &Question<'_>) -> Result<Document, Failure> {
        let exchange = &self.shared.exchange;
        let (answer, _place) = exchange.ask(question).await?;
        let response = match answer {
            Answer::Response(response) => response,
            Answer::LeftHost => return Ok(Document::Absent),
        };
        let (head, body) = response.into_parts();
        match head.status {
            StatusCode::NOT_FOUND => Ok(Document::Absent),
            StatusCode::NOT_MODIFIED => Ok(Document::Unchanged),
            StatusCode::OK => {
                let most = limits::DOCUMENT_BYTES;
                let patience = [exchange.timeouts.document, exchange.timeouts.stall];
                let bytes = body::document(&head.headers, body, most, patience)
                    .await
                    .inspect_err(|failure| exchange.metrics.failed(failure))?;
                Ok(Document::Here { headers: head.headers, bytes })
            }
            _ => Err(UNEXPECTED),
        }
    }
}

enum Document {
    Absent,
    Unchanged,
    Here { headers: HeaderMap, bytes: bytes::Bytes },
}

const UNEXPECTED: Failure =
    Failure::Misbehaved { why: "the upstream answered with a status that means nothing here" };
const ANOTHER_RANGE: Failure =
    Failure::Misbehaved { why: "the upstream answered with another range than was asked for" };

/// What is told of a blob with its first byte.
fn first_byte(response: &Response<Incoming>) -> Result<Option<Option<u64>>, Failure> {
    let headers = response.headers();
    match response.status() {
        StatusCode::NOT_FOUND => Ok(None),
        StatusCode::OK => Ok(Some(body::content_length(headers))),
        StatusCode::PARTIAL_CONTENT => match Span::of(headers) {
            Some(span) if (span.first, span.last) == (0, 0) => Ok(Some(span.size_bytes)),
            Some(_) | None => Err(ANOTHER_RANGE),
        },
        // It has none.
        StatusCode::RANGE_NOT_SATISFIABLE if body::size_of_unsatisfied(headers) == Some(0) => {
            Ok(Some(Some(0)))
        }
        _ => Err(UNEXPECTED),
    }
}

/// Whether a 206 holds what was asked for, as far as the blob goes.
fn is_asked(span: Span, from: u64, to: Option<u64>) -> bool {
    let end = match (to, span.size_bytes) {
        (Some(to), Some(size)) => Some(to.min(size)),
        (to, size) => to.or(size),
    };
    span.first == from && end.is_none_or(|end| span.last + 1 == end)
}

fn response(answer: Answer) -> Result<Response<Incoming>, Failure> {
    match answer {
        Answer::Response(response) => Ok(response),
        Answer::LeftHost => Err(UNEXPECTED),
    }
}

fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: &str) -> Result<(), Failure> {
    let value =
        HeaderValue::from_str(value).map_err(|_illegal| Failure::unreachable("a header can't be sent"))?;
    headers.insert(name, value);
    Ok(())
}

fn digest_header(headers: &HeaderMap) -> Option<Digest> {
    Digest::parse(headers.get("docker-content-digest")?.to_str().ok()?.trim()).ok()
}

fn media_type(headers: &HeaderMap) -> Option<MediaType> {
    MediaType::parse(headers.get(header::CONTENT_TYPE)?.to_str().ok()?).ok()
}

fn patterns(field: &'static str, texts: &[String]) -> Result<Vec<HostPattern>, SettingsError> {
    let pattern = |text: &String| {
        HostPattern::parse(text)
            .ok_or_else(|| SettingsError::new(field, format!("{text:?} is not of the form host[:port]")))
    };
    texts.iter().map(pattern).collect()
}

fn connector(settings: &UpstreamSettings, own: &Authority) -> Result<Connector, SettingsError> {
    let proxy = match &settings.proxy {
        None => None,
        Some(proxy) => {
            let url = Url::parse(&proxy.url).filter(|url| url.path_and_query == "/");
            let url = url.ok_or_else(|| {
                SettingsError::new("proxy", "it is not of the form http://host:port or https://host:port")
            })?;
            let login =
                proxy.credentials.clone().map(|(username, password)| Login::User { username, password });
            Some(ProxyHost { authority: url.authority, authorization: login.and_then(|login| login.basic()) })
        }
    };
    let patterns = [patterns("realms", &settings.realms)?, patterns("proxy_hosts", &settings.proxy_hosts)?];
    let allow = settings.allow_private_addresses.clone();
    Ok(Connector::new(own.clone(), allow, Tls::new(settings)?, proxy, patterns, settings.timeouts.connect))
}

/// Rounded up, at least 1: as in a `Retry-After`.
fn whole_seconds(time: Duration) -> u32 {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests;
