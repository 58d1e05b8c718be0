//! From a configuration to a running registry, and to its end.

use std::{
    fmt, io,
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use crate::{
    config::Config,
    data::{DataDirectory, DataError},
    log,
    planes::{self, Planes},
    stop::{Reason, Stop},
};

/// Why there is no registry, or none any more.
#[derive(Debug)]
pub enum StartError {
    /// Others reach the address, and nobody would have to say who he is.
    Anonymous(SocketAddr),
    /// The data directory can't be had.
    Data(DataError),
    /// Signals can't be received.
    Signals(io::Error),
    /// The planes did not start, or not do what was asked.
    Planes(String),
    /// They did start, and had to stop.
    Failed(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Anonymous(listen) => write!(
                f,
                "refusing to listen on {listen}: others reach this address, and everybody could read and \
                 write without an account; listen on a loopback address such as 127.0.0.1:{}, or allow it \
                 with --allow-anonymous",
                listen.port()
            ),
            StartError::Data(error) => error.fmt(f),
            StartError::Signals(error) => write!(f, "signals cannot be received: {error}"),
            StartError::Planes(why) => f.write_str(why),
            StartError::Failed(why) => write!(f, "stopped: {why}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Runs the registry until it is told to stop. Returns when every thread has ended.
pub fn serve(config: &Config) -> Result<(), StartError> {
    let exposed = exposed(config)?;
    log::to_stderr(config.log_format, config.log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if exposed {
        tracing::warn!(listen = %config.listen, "everybody who reaches this address can read, push and delete");
    }
    let data = DataDirectory::make(&config.data).map_err(StartError::Data)?;
    let mut stop = Stop::watch().map_err(StartError::Signals)?;
    let planes = Planes::start(config, &data, stop.handle()).map_err(StartError::Planes)?;
    let greeting = greeting(planes.address(), data.path(), &planes.drivers());
    // Nobody has to read it.
    let _ = io::stdout().write_all(greeting.as_bytes()).and_then(|()| io::stdout().flush());

    let reason = stop.wait();
    tracing::info!(%reason, "stopping");
    planes.stop(config.limits.drain_timeout);
    match reason {
        Reason::Signal(_) => Ok(()),
        Reason::Failure(why) => Err(StartError::Failed(why)),
    }
}

/// Lets a registry that met a disk error take pushes again: what it wrote last is hashed, and what is wrong goes.
/// Returns what to tell the operator.
pub fn clear_disk_error(config: &Config) -> Result<String, StartError> {
    let data = DataDirectory::lock(&config.data).map_err(StartError::Data)?;
    let mark = data.path().join("disk-error");
    let marked = mark
        .try_exists()
        .map_err(|source| StartError::Data(DataError::Unusable { path: data.path().to_owned(), source }))?;
    if !marked {
        return Ok(format!("no disk error is marked in {}: nothing to do", data.path().display()));
    }
    let (hashed, damaged) = planes::clear_disk_error(&data).map_err(StartError::Planes)?;
    let mut said = format!("{hashed} blobs hashed again, {} of them damaged\n", damaged.len());
    for digest in &damaged {
        said += &format!("damaged and removed, push it again: {digest}\n");
    }
    Ok(said + "pushes are taken after the next start")
}

/// Whether people without an account are served on an address that others reach.
///
/// Errors: they would be, and nobody said that they may.
fn exposed(config: &Config) -> Result<bool, StartError> {
    match (config.listen.ip().to_canonical().is_loopback(), config.allow_anonymous) {
        (true, _) => Ok(false),
        (false, true) => Ok(true),
        (false, false) => Err(StartError::Anonymous(config.listen)),
    }
}

/// What `config check` adds about a file that is right and that `serve` refuses all the same.
pub fn refusal(config: &Config) -> Option<StartError> {
    exposed(config).err()
}

/// What a start prints on stdout. The first line is for programs too: `listening on ADDR`.
fn greeting(address: SocketAddr, data: &Path, drivers: &[&str]) -> String {
    let cores: Vec<String> =
        drivers.iter().enumerate().map(|(core, driver)| format!("core {core} {driver}")).collect();
    let mut near = address;
    match near.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => near.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => near.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    format!(
        "listening on {address}\ndata in {}\nI/O drivers: {}\ntry: docker push {near}/hello/world\n",
        data.display(),
        cores.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;

    fn config(listen: &str, allow: bool) -> Config {
        let arguments = vec![("listen", listen.to_owned()), ("allow_anonymous", allow.to_string())];
        Config::try_from(RawConfig { arguments, ..RawConfig::default() }).unwrap()
    }

    #[test]
    fn anonymous_on_loopback_only() {
        for loopback in ["127.0.0.1:5000", "127.8.8.8:0", "[::1]:5000", "[::ffff:127.0.0.1]:5000"] {
            assert!(matches!(exposed(&config(loopback, false)), Ok(false)), "{loopback}");
            assert!(matches!(exposed(&config(loopback, true)), Ok(false)), "{loopback}");
        }
        for open in ["0.0.0.0:5000", "[::]:5000", "10.0.0.1:5000", "[::ffff:10.0.0.1]:1", "[fe80::1]:5000"] {
            let refused = exposed(&config(open, false)).unwrap_err().to_string();
            assert!(refused.contains("--allow-anonymous") && refused.contains("127.0.0.1:"), "{refused}");
            assert!(matches!(exposed(&config(open, true)), Ok(true)), "{open}");
        }
    }

    #[test]
    fn the_greeting_says_where_what_and_how() {
        let said = greeting("127.0.0.1:5000".parse().unwrap(), Path::new("/d"), &["uring", "epoll"]);
        assert_eq!(
            said,
            "listening on 127.0.0.1:5000\ndata in /d\nI/O drivers: core 0 uring, core 1 epoll\n\
             try: docker push 127.0.0.1:5000/hello/world\n"
        );
        let said = greeting("0.0.0.0:80".parse().unwrap(), Path::new("/d"), &["epoll"]);
        assert!(said.starts_with("listening on 0.0.0.0:80\n"), "{said}");
        assert!(said.ends_with("docker push 127.0.0.1:80/hello/world\n"), "{said}");
    }

    #[test]
    fn doctor_finds_nothing_to_do_and_needs_the_lock() {
        let path = std::env::temp_dir().join(format!("gantry-doctor-{}", std::process::id()));
        let arguments = vec![("data", path.display().to_string())];
        let config = Config::try_from(RawConfig { arguments, ..RawConfig::default() }).unwrap();
        assert!(matches!(clear_disk_error(&config), Err(StartError::Data(DataError::Unusable { .. }))));

        let held = DataDirectory::make(&path).unwrap();
        assert!(matches!(clear_disk_error(&config), Err(StartError::Data(DataError::InUse { .. }))));
        drop(held);
        assert!(clear_disk_error(&config).unwrap().contains("nothing to do"));
        std::fs::remove_dir_all(path).unwrap();
    }
}
