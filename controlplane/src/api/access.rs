//! Who may use `/api/v1`: somebody on this machine, by a program that means it, as long as there are no accounts.
//!
//! The other end of the socket decides, whatever a request says of itself. That alone would let in what a browser on this
//! machine is talked into, and what a proxy on this machine passes on, so these are told by their marks:
//!
//! * `Gantry-Api` has to be there. A page of another site can't send it without asking first, which is answered 405.
//! * `Host` has to be a loopback address or `localhost`: a name that somebody has pointed at this machine is not.
//! * `Origin`, and whatever a proxy adds, may not be there.
//!
//! Invariants: what is missing or not understood is refused.

use std::net::IpAddr;

use control::Caller;

/// What a program sends that means `/api/v1`.
pub(crate) const MARK: &str = "gantry-api";

/// What a browser adds on behalf of a page, and a proxy on behalf of a client.
const STRANGERS: [&str; 8] = [
    "origin",
    "sec-fetch-site",
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Why a request is refused. `None`: it is not.
pub(crate) fn refusal(caller: Option<&Caller>) -> Option<&'static str> {
    let Some(Caller { peer, fields }) = caller else {
        return Some("it is not known who asks");
    };
    if !peer.ip().to_canonical().is_loopback() {
        return Some("/api/v1 is for this machine alone: ask it by a loopback address");
    }
    if STRANGERS.iter().any(|stranger| of(fields, stranger).next().is_some()) {
        return Some("/api/v1 is not for browsers, nor to be reached by a proxy");
    }
    let mut hosts = of(fields, "host");
    if !hosts.next().is_some_and(is_loopback) || hosts.next().is_some() {
        return Some("/api/v1 wants a loopback address as Host");
    }
    if of(fields, MARK).next().is_none() {
        return Some("/api/v1 wants the header `Gantry-Api: 1`");
    }
    None
}

/// All values of a field.
fn of<'f>(fields: &'f [(String, String)], wanted: &'f str) -> impl Iterator<Item = &'f str> {
    fields.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_str())
}

/// `127.0.0.1`, `[::1]`, `localhost`, each with a port or without.
fn is_loopback(host: &str) -> bool {
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(address, _port)| address),
        None => host.split_once(':').map_or(host, |(name, _port)| name),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(peer: &str, fields: &[(&str, &str)]) -> Caller {
        let field = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Caller { peer: peer.parse().unwrap(), fields: fields.iter().map(field).collect() }
    }

    #[test]
    fn the_socket_decides_and_not_what_the_request_says() {
        let fields = [("Host", "127.0.0.1:5000"), ("Gantry-Api", "1")];
        for peer in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(refusal(Some(&caller(peer, &fields))), None, "{peer}");
        }
        for peer in ["10.0.0.1:1", "[fe80::1]:1", "[::ffff:10.0.0.1]:1", "0.0.0.0:1", "8.8.8.8:1"] {
            let lies = [fields[0], fields[1], ("X-Forwarded-For", "127.0.0.1")];
            assert!(refusal(Some(&caller(peer, &fields))).unwrap().contains("this machine alone"), "{peer}");
            assert!(refusal(Some(&caller(peer, &lies))).unwrap().contains("this machine alone"), "{peer}");
        }
        assert!(refusal(None).is_some());
    }

    #[test]
    fn browsers_and_proxies_on_this_machine_are_told_by_their_marks() {
        let refused = |fields: &[(&str, &str)]| refusal(Some(&caller("127.0.0.1:1", fields))).is_some();
        assert!(!refused(&[("host", "localhost"), ("GANTRY-API", "1")]));
        assert!(!refused(&[("Host", "[::1]:5000"), ("Gantry-Api", "1")]));
        assert!(refused(&[("Host", "127.0.0.1:5000")]), "no mark");
        assert!(refused(&[("Gantry-Api", "1")]), "no host");
        for host in [
            "evil.test",
            "evil.test:5000",
            "127.0.0.1.evil.test",
            "localhost.evil.test",
            "10.0.0.1",
            "",
            "[::2]",
        ] {
            assert!(refused(&[("Host", host), ("Gantry-Api", "1")]), "{host}");
        }
        let twice = [("Host", "localhost"), ("Host", "evil.test"), ("Gantry-Api", "1")];
        assert!(refused(&twice));
        for stranger in STRANGERS {
            let fields = [("Host", "localhost"), ("Gantry-Api", "1"), (stranger, "127.0.0.1")];
            assert!(refused(&fields), "{stranger}");
        }
    }
}
