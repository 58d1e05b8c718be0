//! `gantry cache`: what an operator asks of a registry that runs.

pub mod args;
mod client;
mod show;

use std::{
    io::{IsTerminal as _, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use oci::Digest;
use serde_json::{Value, json};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use args::{CacheCommand, Reach, Sort};
use client::{ClientError, ROOT, Server};
use show::{Shown, number, size};

use crate::{limits, say};

/// Why it was not done.
#[derive(Debug)]
pub enum CacheFailure {
    /// The registry did not do it.
    Client(ClientError),
    /// It listens on a port that it picks by itself.
    NoPort,
    /// Something of an image could not be had, which was told.
    NotWarmed,
    /// Ctrl-C.
    GivenUp,
    /// Signals can't be received.
    Signals(std::io::Error),
}

impl From<ClientError> for CacheFailure {
    fn from(error: ClientError) -> CacheFailure {
        CacheFailure::Client(error)
    }
}

impl std::fmt::Display for CacheFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CacheFailure::Client(error) => error.fmt(f),
            CacheFailure::NoPort => {
                f.write_str("the registry picks its port by itself (port 0): say with --server where it is")
            }
            CacheFailure::NotWarmed => f.write_str("something could not be had"),
            CacheFailure::GivenUp => f.write_str("given up"),
            CacheFailure::Signals(error) => write!(f, "signals cannot be received: {error}"),
        }
    }
}

impl CacheCommand {
    /// Where the registry is, as it was given.
    pub fn reach(&self) -> &Reach {
        match self {
            CacheCommand::Ls { reach, .. }
            | CacheCommand::Stat { reach }
            | CacheCommand::Pin { reach, .. }
            | CacheCommand::Unpin { reach, .. }
            | CacheCommand::Purge { reach, .. }
            | CacheCommand::Warm { reach, .. } => reach,
        }
    }
}

/// Does it. `listen` gives where the registry listens, for who has not said it.
pub fn run<E: From<CacheFailure>>(
    command: CacheCommand,
    listen: impl FnOnce() -> Result<SocketAddr, E>,
) -> Result<(), E> {
    let server = match &command.reach().server {
        Some(text) => Server::parse(text).map_err(CacheFailure::from)?,
        None => near(listen()?)?,
    };
    done(&command, &server)?;
    Ok(())
}

/// The loopback address by which one who listens there is reached.
fn near(mut listen: SocketAddr) -> Result<Server, CacheFailure> {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    if listen.port() == 0 {
        return Err(CacheFailure::NoPort);
    }
    Ok(Server::parse(&listen.to_string())?)
}

fn done(command: &CacheCommand, server: &Server) -> Result<(), CacheFailure> {
    let is_json = command.reach().json;
    let tell = |answer: &Value, text: &dyn Fn(&Value) -> String| {
        say(&if is_json { format!("{answer}\n") } else { text(answer) });
    };
    match command {
        CacheCommand::Ls { sort, limit, .. } => ls(server, *sort, *limit, is_json)?,
        CacheCommand::Stat { .. } => tell(&server.ask("GET", ROOT, None)?, &show::stat),
        CacheCommand::Pin { pattern: None, .. } => {
            tell(&ask(server, "GET", "/pins", None)?, &show::pins);
        }
        CacheCommand::Pin { pattern: Some(pattern), .. } => {
            let pinned = ask(server, "PUT", &format!("/pins?pattern={}", escaped(pattern)), None)?;
            tell(&pinned, &|pinned| match pinned["changed"] == true {
                true => format!("{pattern} is pinned: {} blobs that are here\n", number(&pinned["blobs"])),
                false => format!("{pattern} was pinned already\n"),
            });
        }
        CacheCommand::Unpin { pattern, .. } => {
            let unpinned = ask(server, "DELETE", &format!("/pins?pattern={}", escaped(pattern)), None)?;
            tell(&unpinned, &|unpinned| match unpinned["changed"] == true {
                true => format!("{pattern} is not pinned any more\n"),
                false => format!("{pattern} was not pinned; `gantry cache pin` lists what is\n"),
            });
        }
        CacheCommand::Purge { what, .. } => {
            let key = if Digest::parse(what).is_ok() { "digest" } else { "repository" };
            let gone = ask(server, "POST", &format!("/purge?{key}={}", escaped(what)), None)?;
            tell(&gone, &|gone| purged(what, gone));
        }
        CacheCommand::Warm { images, platform, .. } => warm(server, images, platform, is_json)?,
    }
    Ok(())
}

/// Below `/api/v1/cache`; whether there is such a thing is asked first, so that its lack is told as what it is.
fn ask(server: &Server, method: &str, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
    match server.ask(method, &format!("{ROOT}{path}"), body) {
        Err(ClientError::Refused { status: 404, why }) => {
            server.ask("GET", ROOT, None)?;
            Err(ClientError::Refused { status: 404, why })
        }
        other => other,
    }
}

/// What belongs to no pattern and no digest would change what is asked; the registry says what is wrong with it.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/*:".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn purged(what: &str, gone: &Value) -> String {
    let [repositories, blobs, filling] = ["repositories", "blobs", "filling"].map(|key| number(&gone[key]));
    let mut out = match (repositories, blobs) {
        (0, 0) => format!("nothing is cached by the name {what}\n"),
        (0, blobs) => format!("purged {blobs} blobs, {}\n", size(number(&gone["bytes"]))),
        (repositories, blobs) => {
            format!(
                "forgot {repositories} repositories, purged {blobs} blobs, {}\n",
                size(number(&gone["bytes"]))
            )
        }
    };
    if filling > 0 {
        out += &format!("{filling} more are being fetched for clients, who will have them\n");
    }
    out
}

fn ls(server: &Server, sort: Option<Sort>, limit: Option<usize>, is_json: bool) -> Result<(), CacheFailure> {
    let as_they_come = is_json && sort.is_none();
    let most = limit.unwrap_or(if is_json { 0 } else { limits::LISTED });
    let mut shown = Shown::new(sort.unwrap_or(Sort::Size), most);
    let mut said = 0;
    let mut after = Some(0);
    while let Some(at) = after {
        let mut page = ask(server, "GET", &format!("/blobs?after={at}"), None)?;
        let rows = page["blobs"].as_array_mut().map(std::mem::take).unwrap_or_default();
        for row in rows {
            if !as_they_come {
                shown.push(row);
            } else if most == 0 || said < most {
                said += 1;
                say(&format!("{row}\n"));
            }
        }
        after = page["next"].as_u64().filter(|_| !as_they_come || most == 0 || said < most);
    }
    if as_they_come {
        return Ok(());
    }
    let (count, bytes) = (shown.count, shown.bytes);
    let rows = shown.into_rows();
    if is_json {
        rows.iter().for_each(|row| say(&format!("{row}\n")));
        return Ok(());
    }
    let now_unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    say(&show::blobs(&rows, now_unix));
    let hidden = if rows.len() as u64 == count { "" } else { "; --limit 0 shows all" };
    say(&format!("{} of {count} blobs, {} in all{hidden}\n", rows.len(), size(bytes)));
    Ok(())
}

/// One image after the other: the registry fetches several blobs of each at a time.
fn warm(server: &Server, images: &[String], platforms: &[String], is_json: bool) -> Result<(), CacheFailure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&stop)).map_err(CacheFailure::Signals)?;
    }
    let mut all_here = true;
    for image in images {
        let order = json!({ "image": image, "platforms": platforms });
        let begun = match ask(server, "POST", "/warm", Some(&order)) {
            Ok(begun) => begun,
            // Of one image; the others may be had.
            Err(ClientError::Refused { status, why }) if status < 500 => {
                all_here = false;
                eprintln!("gantry: {image}: {why}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let path = format!("/warm/{}", number(&begun["id"]));
        let end = follow(server, &path, &stop)?;
        all_here &= end["state"] == "done";
        say(&if is_json { format!("{end}\n") } else { show::warmed(&end) });
    }
    if all_here { Ok(()) } else { Err(CacheFailure::NotWarmed) }
}

/// Asks how far it is until it is over. A terminal sees it grow.
fn follow(server: &Server, path: &str, stop: &AtomicBool) -> Result<Value, CacheFailure> {
    let mut stderr = std::io::stderr();
    let shows = stderr.is_terminal();
    // A terminal that does not say is taken to be a narrow one.
    let width = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(79);
    let mut line = |text: &str| {
        if shows {
            // Nobody has to see it.
            let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
        }
    };
    loop {
        if stop.load(Ordering::Relaxed) {
            line("");
            // If it can't be told, the registry sees that nobody asks any more.
            let _ = ask(server, "DELETE", path, None);
            return Err(CacheFailure::GivenUp);
        }
        let warm = ask(server, "GET", path, None)?;
        match warm["state"].as_str() {
            Some("waiting" | "running") => line(&show::progress(&warm, width)),
            _ => {
                line("");
                return Ok(warm);
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_near() {
        let of = |listen: &str| near(listen.parse().unwrap()).map(|server| server.to_string()).ok();
        assert_eq!(of("127.0.0.1:5000").as_deref(), Some("127.0.0.1:5000"));
        assert_eq!(of("0.0.0.0:80").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(of("[::]:80").as_deref(), Some("[::1]:80"));
        assert_eq!(of("127.0.0.1:0"), None);
    }

    #[test]
    fn what_is_typed_stays_one_value() {
        assert_eq!(escaped("docker.io/library/*"), "docker.io/library/*");
        assert_eq!(escaped("a&b=c d%"), "a%26b%3Dc%20d%25");
    }
}
