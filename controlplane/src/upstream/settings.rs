//! What an operator says about one upstream.

use std::{fmt, time::Duration};

use oci::Platform;

use super::{addresses::AllowPrivate, secret::Secret};

/// One upstream registry, and how it is mirrored. [`UpstreamSettings::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// What clients send as `ns`: `docker.io`.
    pub ns: String,
    /// First component of its repositories here; a legal path component.
    pub prefix: String,
    /// `https://host[:port][/path]`, or `http://…` where private addresses are allowed. The path is what comes
    /// before `/v2/`.
    pub url: String,
    /// Also answers for names without a prefix and without `ns`.
    pub is_root: bool,
    /// The first is used; the next one when the realm rejects it. None: anonymous.
    pub credentials: Vec<Credentials>,
    /// Whether the next credentials are also used when the budget of those before is spent. Whether an upstream
    /// allows that is the operator's to know.
    pub spend_all_budgets: bool,
    /// Hosts (`host` or `host:port`) that may hand out tokens, beside its own and the well-known ones.
    pub realms: Vec<String>,
    /// Which private addresses may be connected to; also for redirects and realms.
    pub allow_private_addresses: AllowPrivate,
    /// Certificates in PEM that are trusted beside those of the system.
    pub ca_pem: Option<Vec<u8>>,
    /// Shown to the upstream's own host, and to no other.
    pub client_certificate: Option<ClientCertificate>,
    /// Everything goes through it, by CONNECT. It resolves the names, so that addresses can't be checked here:
    /// `proxy_hosts` takes their place.
    pub proxy: Option<Proxy>,
    /// Hosts that may be asked for through the proxy, beside the upstream's own and the well-known ones of its realm and
    /// content: `host`, `host:port`, or `*.domain`.
    pub proxy_hosts: Vec<String>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// Requests at the same time, ≥ 2; a quarter of them is kept for documents.
    pub connections_max: usize,
    /// Of blobs, all together; `None`: no bound.
    pub bytes_per_second_max: Option<u64>,
    /// Failures in a row after which it is not asked for [`Timeouts::breaker`], ≥ 1.
    pub breaker_failures: u32,
    /// What the mirror does with its answers.
    pub policy: Policy,
}

/// By which credentials the upstream knows us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Name and password.
    User {
        /// Name.
        username: String,
        /// Password or personal access token.
        password: Secret,
    },
    /// What Docker keeps as `identitytoken`: an OAuth2 refresh token.
    IdentityToken(Secret),
    /// A program that prints them, as JSON (`{"Username":…,"Secret":…}`, as Docker's credential helpers do) or as
    /// `username:password`. It is given the upstream's host on its standard input.
    Command {
        /// The program and its arguments; not empty.
        argv: Vec<String>,
    },
}

/// What is shown to an upstream that asks for a certificate.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The chain, own certificate first, in PEM.
    pub chain_pem: Vec<u8>,
    /// Its key, in PEM.
    pub key_pem: Secret,
}

/// A proxy that takes CONNECT.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// `http://host:port` or `https://host:port`.
    pub url: String,
    /// Name and password, if it wants them.
    pub credentials: Option<(String, Secret)>,
}

/// How long it may take. A test divides all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Resolving, connecting, TLS.
    pub connect: Duration,
    /// From the request to the head of the answer, connecting included; at least [`Timeouts::connect`].
    pub first_byte: Duration,
    /// Between two pieces of a body, while they are wanted.
    pub stall: Duration,
    /// A blob that comes more slowly than this many bytes a second, over [`Timeouts::body_rate_grace`], is dropped and asked
    /// for again. 0: none is too slow.
    pub body_rate_min_bytes: u64,
    /// For so long it may be slower. Only time spent waiting for the upstream counts: not what our own limits, the disk or
    /// a reader take.
    pub body_rate_grace: Duration,
    /// A whole document, from its head to its end.
    pub document: Duration,
    /// A token, or what a command prints.
    pub token: Duration,
    /// How long a question may wait in all for its turn: a spent budget, too many connections.
    pub budget_wait: Duration,
    /// How long an upstream that refuses (429) without saying for how long is not asked; twice as long each time. Sixty
    /// times as long if it says that its budget is spent. Not less than this, whatever it says.
    pub refused: Duration,
    /// How long a failing upstream is not asked; twice as long each time, up to eight times.
    pub breaker: Duration,
    /// How long rejected credentials are not tried again.
    pub rejected: Duration,
}

/// What the mirror does with an upstream's answers. Patterns are the mirror's to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Repositories that are mirrored; empty: all.
    pub allow: Vec<String>,
    /// Repositories that are not.
    pub deny: Vec<String>,
    /// How long a tag is taken to be where it was.
    pub tag_ttl: Duration,
    /// Tags that never move.
    pub immutable_tags: Vec<String>,
    /// How long after `tag_ttl` the old answer is given while the new one is fetched.
    pub stale_while: Duration,
    /// How long after `tag_ttl` the old answer is given while the upstream is away.
    pub stale_max: Duration,
    /// How long *it is not there* is remembered.
    pub negative_ttl: Duration,
    /// Whether the upstream is asked at all.
    pub offline: Offline,
    /// When what was begun is fetched to its end.
    pub complete: Complete,
    /// Of an index that a client asks for by a tag, what is fetched ahead.
    pub platforms: Vec<Platform>,
}

/// Whether an upstream is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offline {
    /// It is.
    Never,
    /// It is not; what is here is all there is.
    Always,
    /// It is; when it can't be reached, what is here is all there is.
    Auto,
}

/// When a partly fetched blob is completed without a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complete {
    /// Whenever one was begun.
    Always,
    /// If more than so many percent of it are here.
    IfTouchedOver(u8),
    /// Only as far as it is read.
    Never,
}

/// What is wrong with an [`UpstreamSettings`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// The field, by its name in [`UpstreamSettings`].
    pub field: &'static str,
    /// One sentence, without secrets.
    pub why: String,
}

impl SettingsError {
    pub(super) fn new(field: &'static str, why: impl Into<String>) -> SettingsError {
        SettingsError { field, why: why.into() }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

impl std::error::Error for SettingsError {}

impl UpstreamSettings {
    /// The defaults for the upstream `ns` at `url`.
    pub fn new(ns: impl Into<String>, url: impl Into<String>) -> UpstreamSettings {
        let ns = ns.into();
        UpstreamSettings {
            prefix: ns.clone(),
            ns,
            url: url.into(),
            is_root: false,
            credentials: Vec::new(),
            spend_all_budgets: false,
            realms: Vec::new(),
            allow_private_addresses: AllowPrivate::No,
            ca_pem: None,
            client_certificate: None,
            proxy: None,
            proxy_hosts: Vec::new(),
            timeouts: Timeouts::default(),
            connections_max: 128,
            bytes_per_second_max: None,
            breaker_failures: 5,
            policy: Policy::default(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            body_rate_min_bytes: 10 * 1024,
            body_rate_grace: Duration::from_secs(60),
            document: Duration::from_secs(60),
            token: Duration::from_secs(10),
            budget_wait: Duration::from_secs(15),
            refused: Duration::from_secs(1),
            breaker: Duration::from_secs(10),
            rejected: Duration::from_secs(60),
        }
    }
}

impl Timeouts {
    /// All of them, divided. For tests.
    pub fn divided_by(self, by: u32) -> Timeouts {
        Timeouts {
            connect: self.connect / by,
            first_byte: self.first_byte / by,
            stall: self.stall / by,
            body_rate_min_bytes: self.body_rate_min_bytes,
            body_rate_grace: self.body_rate_grace / by,
            document: self.document / by,
            token: self.token / by,
            budget_wait: self.budget_wait / by,
            refused: self.refused / by,
            breaker: self.breaker / by,
            rejected: self.rejected / by,
        }
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            allow: Vec::new(),
            deny: Vec::new(),
            tag_ttl: Duration::from_secs(10 * 60),
            immutable_tags: Vec::new(),
            stale_while: Duration::from_secs(60 * 60),
            stale_max: Duration::from_secs(7 * 24 * 3600),
            negative_ttl: Duration::from_secs(60),
            offline: Offline::Never,
            complete: Complete::IfTouchedOver(33),
            platforms: Vec::new(),
        }
    }
}
