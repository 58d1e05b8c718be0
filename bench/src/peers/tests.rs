//! Real servers are started, where their binaries are; the rest needs none.

use std::io::{BufRead, BufReader, Write};

use super::*;
use crate::cost;

/// `false`, with a line that says so, if it is missing here.
fn have(name: &str) -> bool {
    let found = program(name).is_some();
    if !found {
        println!("lacks {name}");
    }
    found
}

fn get(addr: SocketAddr, path: &str) -> (u16, Vec<u8>) {
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    while line != "\r\n" {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "a header ends");
    }
    let mut body = Vec::new();
    reader.read_to_end(&mut body).unwrap();
    (status, body)
}

fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = oci::Hasher::new(oci::Algorithm::Sha256);
    hasher.update(bytes);
    hasher.finish()
}

/// What it has said, as soon as `expect` is in it; after half a second without.
fn logged(peer: &Peer, expect: &str) -> String {
    let end = Instant::now() + Duration::from_millis(500);
    loop {
        let said = fs::read_to_string(peer.dir.0.join("stderr")).unwrap();
        if said.contains(expect) || Instant::now() > end {
            return said;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Ends the peer and asserts that nothing of it is left.
fn gone(peer: Peer) {
    let (pid, dir) = (peer.pid(), peer.dir.0.clone());
    assert!(dir.exists());
    let tree = cost::tree(pid).unwrap();
    drop(peer);
    for pid in tree {
        assert!(cost::tree(pid).is_err(), "process {pid} is still there");
    }
    assert!(!dir.exists());
}

#[test]
fn nginx_serves_what_is_placed() {
    if !have("nginx") {
        return;
    }
    let one_cpu = Options { cpus: Some(vec![0]), ..Options::default() };
    for spec in ["nginx", "nginx:log"] {
        let peer = start(spec, &one_cpu).unwrap();
        assert_eq!((peer.name(), peer.kind()), (spec, Kind::Files));
        assert!(peer.version().contains("nginx/"), "{}", peer.version());
        let digest = digest(b"content");
        peer.place_blob(&digest, &mut &b"content"[..]).unwrap();
        assert_eq!(get(peer.addr(), &peer.blob_target("a/b", &digest)), (200, b"content".to_vec()));
        assert_eq!(peer.dir.0.join("access.log").exists(), spec == "nginx:log");

        let tree = cost::tree(peer.pid()).unwrap();
        assert_eq!(tree.len(), 2, "a master and one worker");
        for pid in tree {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
        }
        gone(peer);
    }
}

#[test]
fn a_proxy_asks_its_upstream_once() {
    if !have("nginx") {
        return;
    }
    let upstream = start("nginx", &Options::default()).unwrap();
    let digest = digest(b"far");
    let place = upstream.data_dir().join("v2/a/blobs").join(digest.to_string());
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, b"far").unwrap();

    let proxy = start(&format!("nginx:proxy=http://{}/", upstream.addr()), &Options::default()).unwrap();
    assert_eq!((proxy.name(), proxy.kind()), ("nginx:proxy", Kind::Proxy));
    let target = proxy.blob_target("a", &digest);
    assert_eq!(get(proxy.addr(), &target), (200, b"far".to_vec()));
    drop(upstream);
    assert_eq!(get(proxy.addr(), &target), (200, b"far".to_vec()), "from its cache");
    assert!(proxy.place_blob(&digest, &mut &b"far"[..]).is_err());
    gone(proxy);
}

#[test]
fn registries_start_empty() {
    let distribution = [("docker-registry", "docker-registry"), ("registry", "distribution"), ("zot", "zot")];
    for (binary, spec) in distribution {
        if !have(binary) {
            continue;
        }
        let peer = start(spec, &Options::default()).unwrap();
        assert_eq!((peer.name(), peer.kind()), (spec, Kind::Registry));
        assert!(peer.version().chars().any(|c| c.is_ascii_digit()), "{}", peer.version());
        let target = peer.blob_target("a/b", &digest(b"nobody has it"));
        assert_eq!(get(peer.addr(), &target).0, 404, "{spec}");
        gone(peer);
    }
}

#[test]
fn docker_registry_is_a_proxy_if_told() {
    if !have("docker-registry") {
        return;
    }
    let upstream = start("docker-registry", &Options::default()).unwrap();
    let proxy =
        start(&format!("docker-registry:log:proxy=http://{}", upstream.addr()), &Options::default()).unwrap();
    assert_eq!((proxy.name(), proxy.kind()), ("docker-registry:log:proxy", Kind::Proxy));
    let target = proxy.blob_target("a/b", &digest(b"nobody has it"));
    assert_eq!(get(proxy.addr(), &target).0, 404);
    let log = logged(&proxy, "GET /v2/a/b/blobs/sha256:");
    assert!(log.contains("GET /v2/a/b/blobs/sha256:"), "it was told to log: {log}");
    gone(proxy);
    gone(upstream);
}

#[test]
fn gantry_serves_with_either_driver() {
    // Under cargo a missing binary would be built: minutes that a test must not take.
    if env::var_os("GANTRY_BIN").is_none() {
        println!("lacks GANTRY_BIN");
        return;
    }
    for spec in ["gantry", "gantry:uring:nolog", "gantry:epoll:log:cores=2"] {
        let peer = start(spec, &Options::default()).unwrap();
        assert_eq!((peer.name(), peer.kind()), (spec, Kind::Registry));
        assert!(peer.version().starts_with("gantry "), "{}", peer.version());
        let target = peer.blob_target("a/b", &digest(b"nobody has it"));
        assert_eq!(get(peer.addr(), &target).0, 404);
        let said = logged(&peer, "/v2/a/b/blobs/");
        assert_eq!(said.contains("/v2/a/b/blobs/"), spec.contains(":log"), "{spec}: {said}");
        assert!(!said.contains("warning"), "{said}");
        gone(peer);
    }
}

#[test]
fn what_ends_early_is_quoted() {
    let dir = Dir::make("early", None).unwrap();
    let file = dir.0.join("early.toml");
    fs::write(&file, "name = 'early'\ncommand = ['sh', '-c', 'echo the disk is made of cheese >&2; exit 3']")
        .unwrap();
    let why = start(&file.to_string_lossy(), &Options::default()).unwrap_err();
    assert!(why.contains("made of cheese") && why.contains("exit status: 3"), "{why}");
    let left = fs::read_dir(env::temp_dir())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let ours = format!("gantry-bench-{}-", std::process::id());
    assert_eq!(
        left.filter(|name| name.starts_with(&ours) && name.ends_with("-early")).count(),
        1,
        "only our own"
    );
}

#[test]
fn a_server_that_ignores_sigterm_is_killed() {
    if !have("python3") {
        return;
    }
    let dir = Dir::make("deaf", None).unwrap();
    let file = dir.0.join("deaf.toml");
    let script = "import http.server, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); \
                  http.server.test(http.server.SimpleHTTPRequestHandler, port={port}, bind='127.0.0.1')";
    let text = format!(
        "name = 'deaf'\ncommand = ['python3', '-c', \"{script}\"]\nready = '/'\nkind = 'files'\nblob = '/{{digest}}'"
    );
    fs::write(&file, text).unwrap();
    let peer = start(&file.to_string_lossy(), &Options::default()).unwrap();
    assert_eq!(peer.version(), "unknown");
    gone(peer);
}

#[test]
fn a_name_that_leads_to_nobody_is_refused() {
    for (spec, expect) in
        [("apache", "bench/peers/"), ("no/such.toml", "no/such.toml"), ("gantry:fast", "`fast`")]
    {
        let why = start(spec, &Options::default()).unwrap_err();
        assert!(why.contains(expect), "{spec}: {why}");
    }
}
