//! Who may ask: tokens, passwords, and challenges that lead astray.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{Shared, answer::Answer, request::Request, seen::Place};

/// What the registry wants before it answers, at its own address.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// Nothing.
    #[default]
    None,
    /// A token from its realm.
    Bearer {
        /// Where tokens come from.
        realm: RealmAt,
        /// Who gets one; `None`: everybody.
        login: Option<(String, String)>,
        /// An identity token that gets one by POST, beside the login.
        identity: Option<String>,
        /// How long a token is taken.
        lives: Duration,
        /// What the realm says about that, in seconds.
        expires_in: Option<u64>,
        /// Whether it is called `access_token`.
        oauth2_name: bool,
    },
    /// Name and password, without a realm.
    Basic {
        /// These.
        login: (String, String),
    },
    /// Whatever is sent is refused, with a challenge to fetch a token.
    Loop,
}

/// Where the realm is.
#[derive(Clone, Debug, Default)]
pub enum RealmAt {
    /// At the registry's own address.
    #[default]
    Own,
    /// At the second address.
    Foreign,
    /// There.
    Url(String),
}

impl Auth {
    /// A token for everybody, that lives long.
    pub fn bearer() -> Auth {
        Auth::Bearer {
            realm: RealmAt::Own,
            login: None,
            identity: None,
            lives: Duration::from_secs(3600),
            expires_in: Some(300),
            oauth2_name: false,
        }
    }

    /// A token for this one only.
    pub fn bearer_for(username: &str, password: &str) -> Auth {
        let Auth::Bearer { realm, identity, lives, expires_in, oauth2_name, .. } = Auth::bearer() else {
            unreachable!("it is a bearer")
        };
        let login = Some((username.to_owned(), password.to_owned()));
        Auth::Bearer { realm, login, identity, lives, expires_in, oauth2_name }
    }
}

#[derive(Default)]
pub(crate) struct Realm {
    auth: Auth,
    tokens: HashMap<String, (String, Instant)>,
    next: u64,
}

impl Realm {
    pub(crate) fn new(auth: Auth) -> Realm {
        Realm { auth, tokens: HashMap::new(), next: 0 }
    }

    pub(crate) fn revoke(&mut self) {
        self.tokens.clear();
    }

    pub(crate) fn tokens(&self) -> Vec<String> {
        self.tokens.keys().cloned().collect()
    }

    /// `Some`: the refusal.
    pub(crate) fn refuses(&self, shared: &Shared, request: &Request, repository: &str) -> Option<Answer> {
        let sent = request.header("authorization");
        let challenge = match &self.auth {
            Auth::None => return None,
            Auth::Basic { login } => {
                if sent == Some(basic(login).as_str()) {
                    return None;
                }
                "Basic realm=\"registry\"".to_owned()
            }
            Auth::Loop => bearer(&shared.url(Place::Own), repository),
            Auth::Bearer { realm, .. } => {
                let token = sent.and_then(|sent| sent.strip_prefix("Bearer "));
                let scope = scope(repository);
                let is_good = |(of, until): &(String, Instant)| {
                    (*of == scope || repository.is_empty()) && Instant::now() < *until
                };
                if token.and_then(|token| self.tokens.get(token)).is_some_and(is_good) {
                    return None;
                }
                match realm {
                    RealmAt::Own => bearer(&shared.url(Place::Own), repository),
                    RealmAt::Foreign => bearer(&shared.url(Place::Foreign), repository),
                    RealmAt::Url(url) => bearer(url, repository),
                }
            }
        };
        Some(Answer::error(401, "UNAUTHORIZED").with("WWW-Authenticate", challenge))
    }

    /// What the realm answers.
    pub(crate) fn token(&mut self, request: &Request) -> Answer {
        let (login, identity, lives, expires_in, oauth2_name) = match &self.auth {
            Auth::Bearer { login, identity, lives, expires_in, oauth2_name, .. } => {
                (login.as_ref(), identity.as_ref(), *lives, *expires_in, *oauth2_name)
            }
            Auth::Loop => (None, None, Duration::from_secs(3600), Some(300), false),
            Auth::None | Auth::Basic { .. } => return Answer::error(404, "NOT_FOUND"),
        };
        let known = match request.method.as_str() {
            "POST" if identity.is_none() => return Answer::error(405, "UNSUPPORTED"),
            "POST" => request.parameter("refresh_token").as_ref() == identity,
            _ => login.is_none_or(|login| request.header("authorization") == Some(basic(login).as_str())),
        };
        if !known {
            return Answer::error(401, "UNAUTHORIZED");
        }
        self.next += 1;
        // Like no other text that there may be in a log.
        let token = format!("token-{:016x}-{}", self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15), self.next);
        let scope = request.parameter("scope").unwrap_or_default();
        self.tokens.insert(token.clone(), (scope, Instant::now() + lives));
        let name = if oauth2_name { "access_token" } else { "token" };
        let mut document = json!({ name: token });
        if let Some(seconds) = expires_in {
            document["expires_in"] = json!(seconds);
        }
        Answer::document("application/json", document.to_string())
    }
}

fn scope(repository: &str) -> String {
    format!("repository:{repository}:pull")
}

fn bearer(realm: &str, repository: &str) -> String {
    let scope =
        if repository.is_empty() { String::new() } else { format!(",scope=\"{}\"", scope(repository)) };
    format!("Bearer realm=\"{realm}/token\",service=\"faults\"{scope}")
}

pub(crate) fn basic((username, password): &(String, String)) -> String {
    format!("Basic {}", base64(format!("{username}:{password}").as_bytes()))
}

fn base64(bytes: &[u8]) -> String {
    let letters: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let value =
        |six: &[u8]| six.iter().fold(0, |value, bit| value << 1 | usize::from(*bit)) << (6 - six.len());
    let mut text: String = bits.chunks(6).map(|six| letters[value(six)]).collect();
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}
