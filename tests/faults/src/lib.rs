//! A registry for tests that fails and lies as it is told: an upstream on loopback, scripted, and healed at run time.
//!
//! Owns: two listeners of one registry. The second is *foreign*: to a client it is another host, which wants no
//! credentials. A thread for each listener and each connection; they end with the value.
//!
//! ```
//! use faults::{Fault, On, Registry};
//! let upstream = Registry::start();
//! let image = upstream.push_image("library/busybox", "latest", &[1 << 20]);
//! upstream.script(On::get("/blobs/").times(1), Fault::Reset { at: 4096 });
//! // … a client pulls from upstream.url() …
//! upstream.heal();
//! assert_eq!(upstream.seen().len(), 0);
//! # let _ = image;
//! ```

mod answer;
mod auth;
mod content;
mod listener;
mod proxy;
mod request;
mod script;
mod seen;
mod serve;
mod tls;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub use auth::{Auth, RealmAt};
pub use content::{Image, noise};
pub use oci::Digest;
pub use proxy::Proxy;
pub use script::{Fault, On, To};
pub use seen::{Place, Seen};

use auth::Realm;
use content::Content;
use listener::Listener;
use script::Script;
pub use tls::Certificate;

/// A registry. It stops listening when it is dropped.
pub struct Registry {
    shared: Arc<Shared>,
    own: Mutex<Listener>,
    foreign: Mutex<Listener>,
}

/// What all connections look at.
pub(crate) struct Shared {
    pub(crate) content: Mutex<Content>,
    pub(crate) script: Mutex<Script>,
    pub(crate) realm: Mutex<Realm>,
    pub(crate) seen: Mutex<Vec<Seen>>,
    pub(crate) certificate: Option<Certificate>,
    pub(crate) own: Mutex<Option<SocketAddr>>,
    pub(crate) foreign: Mutex<Option<SocketAddr>>,
    bytes_per_s: AtomicU64,
    /// When the line is free for the next piece: all connections share it.
    free_at: Mutex<Instant>,
    /// Answers on their way.
    pub(crate) answering: AtomicU64,
    /// Answers whose last byte was not sent yet, and the most of them that there were.
    pub(crate) unfinished: Mutex<(u64, u64)>,
    /// What of manifests is still given: of so many so many.
    pub(crate) pulls: Mutex<Option<Pulls>>,
    /// What stalls gives up.
    pub(crate) ended: AtomicBool,
}

impl Registry {
    /// Listens on loopback, without TLS.
    pub fn start() -> Registry {
        Registry::listen(None)
    }

    /// Listens on loopback, with TLS: see [`Registry::ca_pem`].
    pub fn start_tls() -> Registry {
        Registry::listen(Some(Certificate::new()))
    }

    fn listen(certificate: Option<Certificate>) -> Registry {
        let shared = Arc::new(Shared {
            content: Mutex::default(),
            script: Mutex::default(),
            realm: Mutex::default(),
            seen: Mutex::default(),
            certificate,
            own: Mutex::default(),
            foreign: Mutex::default(),
            bytes_per_s: AtomicU64::new(u64::MAX),
            free_at: Mutex::new(Instant::now()),
            answering: AtomicU64::new(0),
            unfinished: Mutex::default(),
            pulls: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let [own, foreign] = [Place::Own, Place::Foreign].map(|place| Listener::start(&shared, place));
        *lock(&shared.own) = Some(own.addr());
        *lock(&shared.foreign) = Some(foreign.addr());
        Registry { shared, own: Mutex::new(own), foreign: Mutex::new(foreign) }
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        lock(&self.own).addr()
    }

    /// Where it is, as a client is told: `http://127.0.0.1:1234`.
    pub fn url(&self) -> String {
        self.shared.url(Place::Own)
    }

    /// The same registry by its second address, which is another host to a client.
    pub fn foreign_url(&self) -> String {
        self.shared.url(Place::Foreign)
    }

    /// Who signed its certificate, in PEM. Only with TLS.
    pub fn ca_pem(&self) -> Vec<u8> {
        self.shared.certificate.as_ref().expect("it was started with TLS").ca_pem()
    }

    /// What a client may show it: certificate and key, in PEM. Only with TLS; it asks, and does not insist.
    pub fn client_pem(&self) -> [String; 2] {
        self.shared.certificate.as_ref().expect("it was started with TLS").client_pem()
    }

    /// Has this blob in `repository` from now on.
    pub fn push_blob(&self, repository: &str, bytes: impl Into<Vec<u8>>) -> Digest {
        lock(&self.shared.content).push_blob(repository, bytes.into())
    }

    /// Has this manifest in `repository` from now on, and `tag` names it.
    pub fn push_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Vec<u8>>,
    ) -> Digest {
        lock(&self.shared.content).push_manifest(repository, tag, media_type, bytes.into())
    }

    /// Makes an image for two platforms whose layers are noise and have these lengths, each platform its own.
    pub fn push_image(&self, repository: &str, tag: &str, layers: &[usize]) -> Image {
        lock(&self.shared.content).push_image(repository, tag, layers)
    }

    /// The tag is gone.
    pub fn delete_tag(&self, repository: &str, tag: &str) {
        lock(&self.shared.content).delete_tag(repository, tag);
    }

    /// What it has under that digest.
    pub fn bytes(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        lock(&self.shared.content).bytes(digest)
    }

    /// From now on, what `on` says meets with `fault`. Several at once: all of them, in the order in which they came.
    pub fn script(&self, on: On, fault: Fault) {
        if let Fault::Huge { bytes } = fault {
            answer::spaces(bytes);
        }
        lock(&self.shared.script).add(on, fault);
    }

    /// From now on it wants this before it answers.
    pub fn require(&self, auth: Auth) {
        *lock(&self.shared.realm) = Realm::new(auth);
    }

    /// The tokens that are good.
    pub fn tokens(&self) -> Vec<String> {
        lock(&self.shared.realm).tokens()
    }

    /// Tokens that were handed out so far are refused from now on.
    pub fn revoke_tokens(&self) {
        lock(&self.shared.realm).revoke();
    }

    /// From now on so many GETs of manifests are answered, as Docker Hub does it: what is left stands in every answer
    /// about a manifest, a HEAD costs nothing, and after the last it is 429.
    pub fn allow_pulls(&self, most: u64) {
        *lock(&self.shared.pulls) = Some(Pulls { most, left: most });
    }

    /// The most requests that were being answered at the same time. One is until its last byte is about to be sent.
    pub fn most_at_once(&self) -> u64 {
        lock(&self.shared.unfinished).1
    }

    /// All connections together send at most so many body bytes a second.
    pub fn limit(&self, bytes_per_s: u64) {
        self.shared.bytes_per_s.store(bytes_per_s.max(1), Ordering::Relaxed);
    }

    /// Stops listening, at both addresses, and cuts every connection: who connects is refused.
    pub fn refuse(&self) {
        lock(&self.own).stop();
        lock(&self.foreign).stop();
    }

    /// Does all right from now on, where it was before. What it has and what it has seen stays; what it wants and what it
    /// allows does too.
    pub fn heal(&self) {
        lock(&self.shared.script).clear();
        self.shared.bytes_per_s.store(u64::MAX, Ordering::Relaxed);
        for listener in [&self.own, &self.foreign] {
            lock(listener).start_again(&self.shared).expect("the port is ours");
        }
    }

    /// Every request so far, in the order in which they came.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// How many requests of this method came whose target has `part` in it.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method == method && seen.target.contains(part)).count()
    }

    /// Body bytes that were sent in answer to requests whose target has `part` in it.
    pub fn sent_bytes(&self, part: &str) -> u64 {
        self.seen().iter().filter(|seen| seen.target.contains(part)).map(Seen::sent_bytes).sum()
    }

    /// Forgets what it has seen.
    pub fn forget(&self) {
        lock(&self.shared.seen).clear();
    }

    /// Waits until no answer is on its way, at most so long. Gives whether that came.
    pub fn wait_until_idle(&self, time_max: Duration) -> bool {
        let end = Instant::now() + time_max;
        while self.shared.answering.load(Ordering::Acquire) > 0 {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.refuse();
    }
}

/// What Docker Hub calls a rate limit.
#[derive(Clone, Copy)]
pub(crate) struct Pulls {
    pub(crate) most: u64,
    pub(crate) left: u64,
}

/// A request that is being answered.
pub(crate) struct Unfinished<'s>(&'s Shared);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        lock(&self.0.unfinished).0 -= 1;
    }
}

impl Shared {
    pub(crate) fn begin(&self) -> Unfinished<'_> {
        let mut unfinished = lock(&self.unfinished);
        unfinished.0 += 1;
        unfinished.1 = unfinished.1.max(unfinished.0);
        Unfinished(self)
    }

    pub(crate) fn url(&self, place: Place) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        let addr = match place {
            Place::Own => &self.own,
            Place::Foreign => &self.foreign,
        };
        let addr = lock(addr).expect("it listens before anybody asks");
        format!("{scheme}://{addr}")
    }

    /// Waits until the line is free for so many bytes.
    pub(crate) fn wait_for_line(&self, bytes: usize) {
        let rate = self.bytes_per_s.load(Ordering::Relaxed);
        if rate == u64::MAX {
            return;
        }
        let due = {
            let mut free_at = lock(&self.free_at);
            let due = (*free_at).max(Instant::now());
            *free_at = due + Duration::from_secs_f64(bytes as f64 / rate as f64);
            due
        };
        self.sleep_until(due);
    }

    /// Until then, or until the registry ends.
    pub(crate) fn sleep_until(&self, due: Instant) {
        while !self.ended.load(Ordering::Acquire) {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The client went away in the middle, which is its own affair.
pub(crate) type Sent = io::Result<()>;
