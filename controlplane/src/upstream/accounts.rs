//! As whom we ask: the credentials of one upstream, in order.
//!
//! Invariants: an account that the realm rejected is not tried again for a while, so that nobody locks it. What a command
//! prints is bounded in size, time and age, and never logged.

use std::{
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::{Instant, timeout},
};

use super::{
    budget::{Budgets, Cost},
    failure::Failure,
    secret::Secret,
    settings::{Credentials, UpstreamSettings},
};
use crate::limits;

/// All of an upstream's; at least one, which may be anonymous.
pub(super) struct Accounts {
    all: Vec<Account>,
    pause: Duration,
    spend_all: bool,
}

/// One of them, with its own budget.
pub(super) struct Account {
    credentials: Option<Credentials>,
    pub(super) budgets: Budgets,
    rejected_until: Mutex<Option<Instant>>,
    printed: tokio::sync::Mutex<Option<Printed>>,
}

struct Printed {
    login: Login,
    at: Instant,
    /// Given out more than once.
    is_old: bool,
}

/// What is shown to a realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Login {
    Anonymous,
    User { username: String, password: Secret },
    Identity(Secret),
}

impl Accounts {
    pub(super) fn new(settings: &UpstreamSettings) -> Accounts {
        let of = |credentials| Account {
            credentials,
            budgets: Budgets::new(settings.timeouts.refused),
            rejected_until: Mutex::new(None),
            printed: tokio::sync::Mutex::new(None),
        };
        let named = settings.credentials.iter().cloned().map(Some);
        let all: Vec<Account> =
            if settings.credentials.is_empty() { vec![of(None)] } else { named.map(of).collect() };
        Accounts { all, pause: settings.timeouts.rejected, spend_all: settings.spend_all_budgets }
    }

    /// Whom to ask as, and its number. Errors: `CredentialRejected`, if nobody is left.
    pub(super) fn pick(&self, cost: Cost) -> Result<(usize, &Account), Failure> {
        let now = Instant::now();
        let mut accepted = self.all.iter().enumerate().filter(|(_, account)| !account.is_rejected(now));
        let first = accepted.next().ok_or(Failure::CredentialRejected)?;
        let spent = |account: &Account| account.budgets.paused_until(cost, now).is_some();
        if self.spend_all && spent(first.1) {
            return Ok(accepted.find(|(_, account)| !spent(account)).unwrap_or(first));
        }
        Ok(first)
    }

    /// The realm does not know it. What a command printed a while ago may be no more than too old.
    pub(super) async fn reject(&self, account: &Account) {
        let mut printed = account.printed.lock().await;
        if printed.take().is_some_and(|printed| printed.is_old) {
            return;
        }
        let mut until = account.rejected_until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = Some(Instant::now() + self.pause);
    }

    /// How often in a row a request may find its account rejected: each one's old and new print.
    pub(super) fn tries(&self) -> usize {
        2 * self.all.len()
    }
}

impl Account {
    fn is_rejected(&self, now: Instant) -> bool {
        let until = self.rejected_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| now < until)
    }

    /// What to show; `host` and `patience` are for a command.
    pub(super) async fn login(&self, host: &str, patience: Duration) -> Result<Login, Failure> {
        let argv = match &self.credentials {
            None => return Ok(Login::Anonymous),
            Some(Credentials::User { username, password }) => {
                return Ok(Login::User { username: username.clone(), password: password.clone() });
            }
            Some(Credentials::IdentityToken(token)) => return Ok(Login::Identity(token.clone())),
            Some(Credentials::Command { argv }) => argv,
        };
        // Held while it runs: one at a time.
        let mut printed = self.printed.lock().await;
        if let Some(kept) = &mut *printed
            && kept.at.elapsed() < limits::COMMAND_AGE
        {
            kept.is_old = true;
            return Ok(kept.login.clone());
        }
        let login = timeout(patience, run(argv, host))
            .await
            .map_err(|_late| "it took too long")
            .and_then(|login| login);
        match login {
            Ok(login) => {
                *printed = Some(Printed { login: login.clone(), at: Instant::now(), is_old: false });
                Ok(login)
            }
            Err(why) => {
                tracing::warn!(program = argv.first(), why, "a command gave no credentials");
                Err(Failure::CredentialRejected)
            }
        }
    }
}

async fn run(argv: &[String], host: &str) -> Result<Login, &'static str> {
    let (program, arguments) = argv.split_first().ok_or("there is no command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|_error| "it can't be started")?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read it does not need it.
        let _unread = stdin.write_all(format!("{host}\n").as_bytes()).await;
    }
    let mut text = String::new();
    let stdout = child.stdout.take().ok_or("it has no output")?;
    let most = u64::try_from(limits::COMMAND_BYTES).unwrap_or(u64::MAX);
    stdout.take(most).read_to_string(&mut text).await.map_err(|_error| "its output is no text")?;
    if text.len() >= limits::COMMAND_BYTES {
        return Err("it prints too much");
    }
    let status = child.wait().await.map_err(|_error| "its end was not seen")?;
    if !status.success() {
        return Err("it failed");
    }
    Login::printed(&text).ok_or("it printed no credentials")
}

impl Login {
    fn printed(text: &str) -> Option<Login> {
        let user = |username: &str, password: &str| match (username, password) {
            (_, "") => None,
            ("<token>", token) => Some(Login::Identity(Secret::new(token))),
            (username, password) => {
                Some(Login::User { username: username.to_owned(), password: Secret::new(password) })
            }
        };
        let text = text.trim();
        if text.starts_with('{') {
            let document: Value = serde_json::from_str(text).ok()?;
            return user(document.get("Username")?.as_str()?, document.get("Secret")?.as_str()?);
        }
        let (username, password) = text.split_once(':').filter(|_| !text.contains('\n'))?;
        user(username, password)
    }

    /// The value of `Authorization` for a realm or a registry that takes a password. `None`: there is none.
    pub(super) fn basic(&self) -> Option<Secret> {
        let pair = match self {
            Login::Anonymous => return None,
            Login::User { username, password } => format!("{username}:{}", password.reveal()),
            // As Docker does where a realm knows no refresh tokens.
            Login::Identity(token) => format!("<token>:{}", token.reveal()),
        };
        Some(Secret::new(format!("Basic {}", base64(pair.as_bytes()))))
    }
}

/// RFC 4648 §4.
pub(super) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= three.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_published_one() {
        for (plain, expect) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
            ("Aladdin:open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        ] {
            assert_eq!(base64(plain.as_bytes()), expect);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfb]), "//77");
    }

    #[test]
    fn what_commands_print_is_read() {
        let user = |username: &str| {
            Some(Login::User { username: username.to_owned(), password: Secret::from("p:w") })
        };
        assert_eq!(Login::printed(r#"{"ServerURL":"x","Username":"u","Secret":"p:w"}"#), user("u"));
        assert_eq!(Login::printed("AWS:p:w\n"), user("AWS"));
        let identity = Some(Login::Identity(Secret::from("t")));
        assert_eq!(Login::printed(r#"{"Username":"<token>","Secret":"t"}"#), identity);
        for wrong in ["", "{}", "u", "u:", "a:b\nc:d", r#"{"Username":"u","Secret":""}"#, "{\"Username\":1}"]
        {
            assert_eq!(Login::printed(wrong), None, "{wrong}");
        }
    }

    fn accounts(argv: &[&str], pause: Duration) -> Accounts {
        let mut settings = UpstreamSettings::new("a", "https://a");
        let argv = argv.iter().map(|&word| word.to_owned()).collect();
        settings.credentials = vec![Credentials::Command { argv }];
        settings.timeouts.rejected = pause;
        Accounts::new(&settings)
    }

    async fn login(accounts: &Accounts) -> Result<Login, Failure> {
        let (_, account) = accounts.pick(Cost::Nothing)?;
        account.login("a", Duration::from_secs(20)).await
    }

    #[tokio::test]
    async fn a_command_is_asked_once_and_again_when_its_print_is_rejected() {
        let accounts = accounts(&["sh", "-c", "read host; echo $host:$$"], Duration::from_secs(3600));
        let first = login(&accounts).await.unwrap();
        assert!(matches!(&first, Login::User { username, .. } if username == "a"), "{first:?}");
        assert_eq!(login(&accounts).await.as_ref(), Ok(&first));
        let account = accounts.pick(Cost::Nothing).unwrap().1;
        accounts.reject(account).await;
        let second = login(&accounts).await.unwrap();
        assert_ne!(second, first, "an old print is no reason to give the command up");
        accounts.reject(account).await;
        assert_eq!(login(&accounts).await, Err(Failure::CredentialRejected));
    }

    #[tokio::test]
    async fn a_command_that_fails_gives_no_credentials() {
        for argv in [
            &["sh", "-c", "exit 1"][..],
            &["sh", "-c", "echo u:p; exit 1"],
            &["/nowhere/at/all"],
            &["sh", "-c", "echo"],
            &[],
        ] {
            let accounts = accounts(argv, Duration::ZERO);
            assert_eq!(login(&accounts).await, Err(Failure::CredentialRejected), "{argv:?}");
        }
    }

    #[tokio::test]
    async fn what_a_command_prints_is_bounded() {
        let print = |bytes: usize| format!("printf u:; head -c {bytes} /dev/zero | tr '\\0' x");
        for (bytes, fits) in [(limits::COMMAND_BYTES - 3, true), (limits::COMMAND_BYTES - 2, false)] {
            let accounts = accounts(&["sh", "-c", &print(bytes)], Duration::ZERO);
            assert_eq!(login(&accounts).await.is_ok(), fits, "{bytes}");
        }
    }
}
