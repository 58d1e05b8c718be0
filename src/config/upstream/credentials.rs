//! Who we are to an upstream or a proxy: names, passwords, tokens, programs. Nothing secret is ever in a message, nor
//! in what is printed.

use std::path::PathBuf;

use controlplane::upstream::{Credentials, Proxy, Secret};

use super::{
    files,
    value::{Argv, ProxyUrl, SecretText, Username},
};
use crate::config::{
    raw::Section,
    reading::Effective,
    section::SectionReading,
    value::{Value, Written},
};

const FORMS: &str =
    "one of: `username` with `password` or `password_file`; `token` or `token_file`; `command`";

/// `credentials`: one table, or several of which the next is for when the one before is rejected.
pub fn credentials(read: &mut SectionReading<'_>) -> Vec<Credentials> {
    const KEY: &str = "credentials";
    let Some(entry) = read.entry(KEY) else { return Vec::new() };
    let (sections, is_list): (&[Section], bool) = match &entry.value {
        Written::Section { section, .. } => (std::slice::from_ref(section), false),
        Written::Sections { sections, .. } => (sections, true),
        Written::Text(_)
        | Written::Number(_)
        | Written::Switch(_)
        | Written::List { .. }
        | Written::Other(_) => {
            read.wrong(
                KEY,
                "what is not shown".to_owned(),
                "{ username = …, password_file = … }, or a list of such",
            );
            return Vec::new();
        }
    };
    let mut all = Vec::new();
    let mut literals = Vec::new();
    for section in sections {
        let mut within = read.below("credentials.", section);
        all.extend(one(&mut within));
        literals.push(inline(&within.finish(), "credentials."));
    }
    let literal = literals.join(", ");
    let literal = if is_list { format!("[{literal}]") } else { literal };
    read.says(KEY, literal, entry.at.clone());
    all
}

fn one(read: &mut SectionReading<'_>) -> Option<Credentials> {
    let username = present::<Username>(read, "credentials.username");
    let password = secret(read, "credentials.password", "credentials.password_file");
    let token = secret(read, "credentials.token", "credentials.token_file");
    let command = present::<Argv>(read, "credentials.command");
    match (username, password, token, command) {
        (Is::Right(Username(username)), Is::Right(password), Is::Absent, Is::Absent) => {
            Some(Credentials::User { username, password })
        }
        (Is::Absent, Is::Absent, Is::Right(token), Is::Absent) => Some(Credentials::IdentityToken(token)),
        (Is::Absent, Is::Absent, Is::Absent, Is::Right(Argv(argv))) => Some(Credentials::Command { argv }),
        // What is wrong in itself is told already, and a key that is only misspelt may be all that is wrong.
        (Is::Wrong, ..) | (_, Is::Wrong, ..) | (_, _, Is::Wrong, _) | (.., Is::Wrong) => None,
        _ if read.has_strangers() => None,
        _ => {
            let found = read.keys();
            read.wrong_here("credentials", found, FORMS);
            None
        }
    }
}

/// `proxy`: its address, or a table with the address, a name and a password.
pub fn proxy(read: &mut SectionReading<'_>) -> Option<Proxy> {
    const KEY: &str = "proxy";
    let entry = read.entry(KEY)?;
    let Written::Section { section, .. } = &entry.value else {
        return read.optional::<ProxyUrl>(KEY).map(|ProxyUrl(url)| Proxy { url, credentials: None });
    };
    let mut within = read.below("proxy.", section);
    let url = within.optional::<ProxyUrl>("proxy.url");
    let url_is_there = within.has("proxy.url");
    let username = present::<Username>(&mut within, "proxy.username");
    let password = secret(&mut within, "proxy.password", "proxy.password_file");
    let credentials = match (username, password) {
        (Is::Right(Username(username)), Is::Right(password)) => Some(Some((username, password))),
        (Is::Absent, Is::Absent) => Some(None),
        (Is::Wrong, _) | (_, Is::Wrong) => None,
        (Is::Right(_), Is::Absent) | (Is::Absent, Is::Right(_)) => {
            let found = within.keys();
            within.wrong_here(
                KEY,
                found,
                "`url`, and `username` with `password` or `password_file`, or neither",
            );
            None
        }
    };
    if !url_is_there && !within.has_strangers() {
        within.wrong_here("proxy.url", "nothing".to_owned(), ProxyUrl::EXPECTED);
    }
    let literal = inline(&within.finish(), "proxy.");
    read.says(KEY, literal, entry.at.clone());
    Some(Proxy { url: url?.0, credentials: credentials? })
}

/// A key that may be there, and may be wrong.
enum Is<T> {
    Absent,
    Wrong,
    Right(T),
}

fn present<T: Value>(read: &mut SectionReading<'_>, key: &'static str) -> Is<T> {
    match (read.optional(key), read.has(key)) {
        (Some(value), _) => Is::Right(value),
        (None, true) => Is::Wrong,
        (None, false) => Is::Absent,
    }
}

/// A secret that stands at `key`, or in the file that `file_key` names.
fn secret(read: &mut SectionReading<'_>, key: &'static str, file_key: &'static str) -> Is<Secret> {
    match (present::<SecretText>(read, key), present::<PathBuf>(read, file_key)) {
        (Is::Absent, Is::Absent) => Is::Absent,
        (Is::Right(SecretText(text)), Is::Absent) => Is::Right(Secret::new(text)),
        (Is::Absent, Is::Right(path)) => match files::secret(&path) {
            Ok((secret, warning)) => {
                read.reading.warnings.extend(warning);
                Is::Right(secret)
            }
            Err(why) => {
                read.refused(file_key, format!("{}: {why}", path.display()));
                Is::Wrong
            }
        },
        (Is::Wrong, _) | (_, Is::Wrong) => Is::Wrong,
        (Is::Right(_), Is::Right(_)) => {
            read.wrong(file_key, "a file beside the secret itself".to_owned(), "only one of the two");
            Is::Wrong
        }
    }
}

/// An inline table of what was read, without `within` before its keys.
fn inline(effective: &[Effective], within: &str) -> String {
    let one = |Effective { key, literal, .. }: &Effective| {
        format!("{} = {literal}", key.strip_prefix(within).unwrap_or(key))
    };
    format!("{{ {} }}", effective.iter().map(one).collect::<Vec<_>>().join(", "))
}
