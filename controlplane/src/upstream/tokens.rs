//! Tokens: one for each account and repository, fetched by one request at a time, kept until shortly before they end.
//!
//! Owns: what each repository's challenge was, so that the next token needs no refusal first.
//!
//! Invariants: a realm is asked only if it belongs to the upstream; its redirects are not followed. What failed while
//! somebody waited for it failed for him too. At most [`limits::TOKENS`] are kept; a map that is looked at under a mutex
//! is enough for so few, and each entry needs a lock to be waited on anyway.
//!
//! Spec: Docker's token authentication, and its OAuth2 form.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use oci::RepositoryName;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{
    USER_AGENT,
    accounts::{Account, Login},
    body,
    budget::retry_after,
    challenge::{Bearer, Challenge},
    failure::Failure,
    known::{HostPattern, may_hand_out_tokens},
    metrics::Metrics,
    transport::Transport,
    url::{Authority, percent_encoded},
    whole_seconds,
};
use crate::limits;

/// Of one upstream.
pub(super) struct Tokens {
    slots: Mutex<Slots>,
    own: Authority,
    realms: Vec<HostPattern>,
    transport: Transport,
    patience: Duration,
    metrics: Arc<Metrics>,
}

/// Account number and repository; `None`: the registry as a whole.
pub(super) type Key = (usize, Option<RepositoryName>);

#[derive(Default)]
struct Slots {
    by_key: HashMap<Key, (Arc<Slot>, u64)>,
    clock: u64,
}

/// Held while its token is fetched.
type Slot = tokio::sync::Mutex<State>;

#[derive(Default)]
struct State {
    challenge: Option<Challenge>,
    current: Option<(Authorization, Instant)>,
    failed: Option<(Instant, Failure)>,
}

impl State {
    /// Why the last attempt failed, if that was after `asked`.
    fn failed_since(&self, asked: Instant) -> Option<Failure> {
        self.failed.as_ref().filter(|(at, _)| *at > asked).map(|(_, failure)| failure.clone())
    }
}

/// The value of an `Authorization`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Authorization(HeaderValue);

impl Authorization {
    fn new(text: &str) -> Option<Authorization> {
        let mut value = HeaderValue::from_str(text).ok()?;
        value.set_sensitive(true);
        Some(Authorization(value))
    }

    pub(super) fn value(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl Tokens {
    pub(super) fn new(
        own: Authority,
        realms: Vec<HostPattern>,
        transport: Transport,
        patience: Duration,
        metrics: Arc<Metrics>,
    ) -> Tokens {
        Tokens { slots: Mutex::default(), own, realms, transport, patience, metrics }
    }

    /// What to send, as far as is known. `None`: nothing was ever asked for.
    pub(super) async fn current(
        &self,
        key: &Key,
        account: &Account,
    ) -> Result<Option<Authorization>, Failure> {
        let slot = self.slot(key);
        let asked = Instant::now();
        let mut state = slot.lock().await;
        match &state.challenge {
            None => state.failed_since(asked).map_or(Ok(None), Err),
            Some(_) => self.of(&mut state, key, account, asked).await.map(Some),
        }
    }

    /// What to send after `refused` was answered with `challenge`. Who comes after another renewed it gets the new one.
    pub(super) async fn renewed(
        &self,
        key: &Key,
        account: &Account,
        challenge: Challenge,
        refused: Option<&Authorization>,
    ) -> Result<Authorization, Failure> {
        let slot = self.slot(key);
        let asked = Instant::now();
        let mut state = slot.lock().await;
        let is_refused = |current: &(Authorization, Instant)| Some(&current.0) == refused;
        if state.current.as_ref().is_some_and(is_refused) {
            if challenge == Challenge::Basic && state.challenge == Some(Challenge::Basic) {
                return Err(Failure::CredentialRejected);
            }
            state.current = None;
            self.metrics.token_renewed();
        }
        state.challenge = Some(challenge);
        self.of(&mut state, key, account, asked).await
    }

    /// Whatever is kept is not used again.
    pub(super) async fn forget(&self, key: &Key, refused: Option<&Authorization>) {
        let slot = self.slot(key);
        let mut state = slot.lock().await;
        if state.current.as_ref().is_some_and(|current| Some(&current.0) == refused) {
            state.current = None;
        }
    }

    async fn of(
        &self,
        state: &mut State,
        key: &Key,
        account: &Account,
        asked: Instant,
    ) -> Result<Authorization, Failure> {
        let now = Instant::now();
        if let Some((kept, until)) = &state.current
            && now < *until
        {
            return Ok(kept.clone());
        }
        if let Some(failure) = state.failed_since(asked) {
            return Err(failure);
        }
        let fetched = match state.challenge.clone() {
            Some(Challenge::Bearer(bearer)) => self.fetched(&bearer, key, account).await,
            Some(Challenge::Basic) | None => {
                let login = account.login(&self.own.host, self.patience).await?;
                let basic = login.basic().and_then(|basic| Authorization::new(basic.reveal()));
                basic.map(|basic| (basic, limits::BASIC_AGE)).ok_or(Failure::Denied)
            }
        };
        match fetched {
            Ok((authorization, for_how_long)) => {
                state.failed = None;
                state.current = Some((authorization.clone(), Instant::now() + for_how_long));
                Ok(authorization)
            }
            Err(failure) => {
                state.failed = Some((Instant::now(), failure.clone()));
                // The registry may send us elsewhere by now.
                state.challenge = None;
                Err(failure)
            }
        }
    }

    async fn fetched(
        &self,
        bearer: &Bearer,
        key: &Key,
        account: &Account,
    ) -> Result<(Authorization, Duration), Failure> {
        if !may_hand_out_tokens(&self.own, &bearer.realm.authority, &self.realms) {
            tracing::warn!(upstream = %self.own, realm = %bearer.realm.authority,
                "an upstream names a realm that is not its own; `realms` may allow it");
            return Err(Failure::Misbehaved {
                why: "the upstream names a realm that is not known to be its own",
            });
        }
        let login = account.login(&self.own.host, self.patience).await?;
        let scope = bearer.scope.clone().or_else(|| key.1.map(|name| format!("repository:{name}:pull")));
        let asked = timeout(self.patience, self.ask_realm(bearer, scope.as_deref(), &login));
        match asked.await.map_err(|_late| Failure::TimedOut)? {
            // Some realms say 403 of a repository that is not there. Then they still know who we are.
            Err(Failure::Denied) if login != Login::Anonymous && scope.is_some() => {
                let without = timeout(self.patience, self.ask_realm(bearer, None, &login));
                match without.await.map_err(|_late| Failure::TimedOut)? {
                    Err(Failure::Denied) => Err(Failure::CredentialRejected),
                    Ok(_) => Err(Failure::Denied),
                    Err(other) => Err(other),
                }
            }
            Err(Failure::Denied) if login != Login::Anonymous => Err(Failure::CredentialRejected),
            other => other,
        }
    }

    async fn ask_realm(
        &self,
        bearer: &Bearer,
        scope: Option<&str>,
        login: &Login,
    ) -> Result<(Authorization, Duration), Failure> {
        self.metrics.token_asked();
        if let Login::Identity(token) = login {
            let request = oauth2(bearer, scope, token.reveal())?;
            match self.token_of(request, login).await {
                Err(NoToken::NotSpoken) => {}
                Err(NoToken::Failure(failure)) => return Err(failure),
                Ok(token) => return Ok(token),
            }
        }
        match self.token_of(plain(bearer, scope, login)?, login).await {
            Ok(token) => Ok(token),
            Err(NoToken::NotSpoken) => Err(Failure::Misbehaved { why: "the realm gives no tokens" }),
            Err(NoToken::Failure(failure)) => Err(failure),
        }
    }

    async fn token_of(
        &self,
        request: Request<Full<Bytes>>,
        login: &Login,
    ) -> Result<(Authorization, Duration), NoToken> {
        let response = self.transport.send(request).await?;
        let (head, body) = response.into_parts();
        match head.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => return Err(NoToken::NotSpoken),
            // What OAuth2 says of a refresh token that is none.
            StatusCode::BAD_REQUEST if matches!(login, Login::Identity(_)) => {
                return Err(Failure::CredentialRejected.into());
            }
            StatusCode::UNAUTHORIZED if *login != Login::Anonymous => {
                return Err(Failure::CredentialRejected.into());
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(Failure::Denied.into()),
            StatusCode::TOO_MANY_REQUESTS => return Err(spent(&head.headers).into()),
            status if status.is_server_error() => {
                return Err(Failure::Server { status: status.as_u16() }.into());
            }
            _ => return Err(Failure::Misbehaved { why: "the realm gives no tokens" }.into()),
        }
        let document = body::document(&head.headers, body, limits::TOKEN_BYTES, [self.patience; 2]).await?;
        Ok(read_token(&document)?)
    }

    fn slot(&self, key: &Key) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.clock += 1;
        let now = slots.clock;
        if let Some((slot, used)) = slots.by_key.get_mut(key) {
            *used = now;
            return Arc::clone(slot);
        }
        let slot = Arc::new(Slot::default());
        if slots.by_key.len() >= limits::TOKENS {
            // Who holds one fetches or waits; the longest unused of the others goes.
            let idle = slots.by_key.iter().filter(|(_, (slot, _))| Arc::strong_count(slot) == 1);
            let oldest = idle.min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            match oldest {
                Some(oldest) => drop(slots.by_key.remove(&oldest)),
                None => return slot,
            }
        }
        slots.by_key.insert(*key, (Arc::clone(&slot), now));
        slot
    }
}

enum NoToken {
    /// 404 or 405: the realm does not speak this form.
    NotSpoken,
    Failure(Failure),
}

impl From<Failure> for NoToken {
    fn from(failure: Failure) -> NoToken {
        NoToken::Failure(failure)
    }
}

fn spent(headers: &HeaderMap) -> Failure {
    let wait = retry_after(headers).unwrap_or(Duration::from_secs(1)).min(limits::RETRY_AFTER);
    Failure::BudgetSpent { retry_after_s: whole_seconds(wait) }
}

fn request(
    method: Method,
    bearer: &Bearer,
    query: &str,
    body: Bytes,
) -> Result<http::request::Builder, Failure> {
    let mut realm = bearer.realm.clone();
    if !query.is_empty() {
        realm.path_and_query.push(if realm.path_and_query.contains('?') { '&' } else { '?' });
        realm.path_and_query.push_str(query);
    }
    let uri = realm.uri().ok_or(Failure::Misbehaved { why: "the upstream's realm is not a URL" })?;
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "application/json")
        .header(header::ACCEPT_ENCODING, "identity");
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    }
    Ok(request)
}

fn finished(builder: http::request::Builder, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
    builder.body(Full::new(body)).map_err(|error| Failure::unreachable(format_args!("the realm: {error}")))
}

fn pairs(of: &[(&str, Option<&str>)]) -> String {
    let given = of.iter().filter_map(|(name, value)| Some(format!("{name}={}", percent_encoded((*value)?))));
    given.collect::<Vec<_>>().join("&")
}

fn plain(bearer: &Bearer, scope: Option<&str>, login: &Login) -> Result<Request<Full<Bytes>>, Failure> {
    let account = match login {
        Login::User { username, .. } => Some(username.as_str()),
        Login::Anonymous | Login::Identity(_) => None,
    };
    let query = pairs(&[("service", bearer.service.as_deref()), ("scope", scope), ("account", account)]);
    let mut builder = request(Method::GET, bearer, &query, Bytes::new())?;
    if let Some(basic) = login.basic() {
        let illegal = || Failure::CredentialRejected;
        builder =
            builder.header(header::AUTHORIZATION, Authorization::new(basic.reveal()).ok_or_else(illegal)?.0);
    }
    finished(builder, Bytes::new())
}

fn oauth2(bearer: &Bearer, scope: Option<&str>, token: &str) -> Result<Request<Full<Bytes>>, Failure> {
    let form = pairs(&[
        ("grant_type", Some("refresh_token")),
        ("service", bearer.service.as_deref()),
        ("client_id", Some("gantry")),
        ("scope", scope),
        ("refresh_token", Some(token)),
    ]);
    let body = Bytes::from(form);
    finished(request(Method::POST, bearer, "", body.clone())?, body)
}

/// What a realm answers, and for how long it is used.
pub(super) fn read_token(document: &[u8]) -> Result<(Authorization, Duration), Failure> {
    let wrong = Failure::Misbehaved { why: "the realm's answer holds no token" };
    let document: Value = serde_json::from_slice(document).map_err(|_not_json| wrong.clone())?;
    let text = |name: &str| document.get(name)?.as_str().filter(|text| !text.is_empty());
    let token = text("token").or_else(|| text("access_token")).ok_or_else(|| wrong.clone())?;
    let lives_s = document.get("expires_in").and_then(Value::as_f64).unwrap_or_default();
    let lives_s = lives_s.clamp(limits::TOKEN_SECONDS_MIN, limits::TOKEN_SECONDS_MAX);
    let lives = Duration::from_secs_f64(lives_s);
    let authorization = Authorization::new(&format!("Bearer {token}")).ok_or(wrong)?;
    Ok((authorization, lives - lives / 6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_and_used_until_shortly_before_their_end() {
        for (document, seconds) in [
            (r#"{"token":"a"}"#, Some(50)),
            (r#"{"access_token":"a","expires_in":1}"#, Some(50)),
            (r#"{"token":"a","access_token":"b","expires_in":59}"#, Some(50)),
            (r#"{"token":"a","expires_in":300}"#, Some(250)),
            (r#"{"token":"a","expires_in":"300"}"#, Some(50)),
            (r#"{"token":"a","expires_in":-5}"#, Some(50)),
            (r#"{"token":"a","expires_in":1e300}"#, Some(72_000)),
            (r#"{"token":"","access_token":"a"}"#, Some(50)),
            (r#"{"token":"a\nb"}"#, None),
            (r#"{"token":7}"#, None),
            ("{}", None),
            ("[]", None),
            ("", None),
        ] {
            let read = read_token(document.as_bytes()).ok();
            assert_eq!(read.as_ref().map(|(_, lives)| lives.as_secs()), seconds, "{document}");
            if let Some((authorization, _)) = read {
                assert_eq!(authorization.value().as_bytes(), b"Bearer a", "{document}");
                assert!(!format!("{:?}", authorization.value()).contains("Bearer"));
            }
        }
    }

    #[test]
    fn only_so_many_slots_are_kept() {
        let own = Authority { https: true, host: "a".into(), port: 443 };
        let settings = crate::upstream::UpstreamSettings::new("a", "https://a");
        let connector = crate::upstream::connector(&settings, &own).unwrap();
        let transport = Transport::new(connector, Duration::from_secs(1));
        let tokens = Tokens::new(own, vec![], transport, Duration::from_secs(1), Arc::default());
        let key = |n: usize| (0, Some(RepositoryName::parse(&format!("r{n}")).unwrap()));
        let kept = |tokens: &Tokens| tokens.slots.lock().unwrap().by_key.len();
        let held: Vec<_> = (0..2).map(|n| tokens.slot(&key(n))).collect();
        for n in 0..2 * limits::TOKENS {
            drop(tokens.slot(&key(n)));
        }
        assert_eq!(kept(&tokens), limits::TOKENS);
        assert!(Arc::ptr_eq(&held[0], &tokens.slot(&key(0))), "what somebody holds stays");
        let all: Vec<_> = (0..2 * limits::TOKENS).map(|n| tokens.slot(&key(n))).collect();
        assert_eq!(kept(&tokens), limits::TOKENS, "{} held", all.len());
    }
}
