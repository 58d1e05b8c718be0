//! Real clients pull an upstream's images through Gantry, by each way in: once while the upstream is there, and again,
//! with nothing of their own left, when it is not.
//!
//! What they are told is what `gantry mirror-config` prints. All of one way start at the same time.

mod programs;
mod source;

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    clients::desk::has_programs_as_root,
    harness::{Leg, Server, legs, say, wait_for},
};

use super::rig::{HUB, NO_ANSWER, Way, assert_store_is_right, mirror, upstream_at};
use programs::{PART_BYTES, Program, Pull};
use source::{Content, LARGE_BYTES, REPOSITORY, Size, Upstream};

/// Who can come by a way. dockerd's graph driver sends no `ns`; podman, buildah, skopeo and crane have none at all. A
/// mirror's URL has a path only in newer versions of dockerd.
fn programs(way: Way) -> &'static [Program] {
    match way {
        Way::Ns => &[Program::Containerd, Program::Buildkit, Program::DockerWithImageStore],
        Way::Bare => &[
            Program::Docker,
            Program::Containerd,
            Program::Buildkit,
            Program::Podman,
            Program::Buildah,
            Program::Skopeo,
            Program::Crane,
        ],
        Way::Prefix => &[
            Program::Docker,
            Program::DockerWithImageStore,
            Program::Containerd,
            Program::Buildkit,
            Program::Podman,
            Program::Buildah,
            Program::Skopeo,
            Program::Crane,
        ],
        Way::Front => &[Program::DockerWithImageStore],
    }
}

/// Who of them pulls the large image as well: each client by one way. Of an upstream that counts it is the first alone, for
/// the time that the others take.
fn programs_with_large(way: Way) -> &'static [Program] {
    match way {
        Way::Ns => &[Program::Containerd, Program::Buildkit],
        Way::Bare => &[Program::Docker, Program::Podman, Program::Crane],
        Way::Prefix => &[Program::Skopeo, Program::Buildah],
        Way::Front => &[],
    }
}

/// What was asked for the images: target and status. Access records are written a moment later.
fn asked(server: &Server) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for line in server.log() {
        let event: Value = serde_json::from_str(&line).expect("the log is JSON");
        let target = event["request_target"].as_str().filter(|target| target.contains(REPOSITORY));
        all.extend(target.zip(event["status"].as_u64()).map(|(target, status)| (target.to_owned(), status)));
    }
    all
}

/// Fails if a question for the images came otherwise than by the way.
fn assert_came_by(server: &Server, way: Way) {
    let start = match way {
        Way::Ns | Way::Bare => format!("/v2/{REPOSITORY}/"),
        Way::Prefix => format!("/v2/{HUB}/{REPOSITORY}/"),
        Way::Front => format!("/{HUB}/v2/{REPOSITORY}/"),
    };
    // Whoever asks a mirror whose URL has a path says it twice.
    let has_ns = matches!(way, Way::Ns | Way::Front);
    let all = asked(server);
    assert!(all.len() >= programs(way).len(), "{all:?}");
    for (target, _) in all {
        let is_by_it = target.starts_with(&start) && target.ends_with(&format!("?ns={HUB}")) == has_ns;
        assert!(is_by_it, "{target} is not by {way:?}");
    }
}

/// All clients of a way at the same time.
fn pull(server: &Server, content: &Content, way: Way, with_large: &[Program]) {
    let small = programs(way).iter().map(|program| (*program, Size::Small));
    let large = with_large.iter().map(|program| (*program, Size::Large));
    thread::scope(|scope| {
        for (program, size) in small.chain(large) {
            scope.spawn(move || Pull { server, content, way, size }.by(program));
        }
    });
}

/// `start`: the upstream. `judge`: what it was asked for.
fn by(leg: Leg, way: Way, start: fn(&Content) -> Upstream, judge: fn(&Upstream, &Content)) {
    let needed: Vec<&str> = programs(way).iter().flat_map(|program| program.programs()).copied().collect();
    if !has_programs_as_root(&[&needed[..], &["crane", "docker-registry"]].concat()) {
        return;
    }
    let content = Content::get();
    let mut upstream = start(&content);
    // Without a root, docker is told a mirror with a path.
    let root = if matches!(way, Way::Bare | Way::Ns) { "mirror = \"root\"" } else { "" };
    let server = mirror(leg, &upstream_at(HUB, &upstream.url(), root)).start();
    let with_large = match &upstream {
        Upstream::DockerRegistry { .. } => programs_with_large(way),
        Upstream::Counting(_) => &programs_with_large(way)[..1],
    };
    let begun = Instant::now();
    pull(&server, &content, way, with_large);
    let first = begun.elapsed();
    judge(&upstream, &content);
    if way == Way::Ns {
        assert_fetched_in_parts(&server, &content);
    }

    upstream.stop();
    let begun = Instant::now();
    pull(&server, &content, way, with_large);
    // Nothing was asked of it: each question without an answer is logged.
    assert!(!server.log().iter().any(|line| line.contains(NO_ANSWER)));
    assert_store_is_right(&server);
    assert_came_by(&server, way);
    say(&format!(
        "clients: {way:?} on {}, {} of them: {:.1} s, and {:.1} s without the upstream",
        leg.name(),
        programs(way).len(),
        first.as_secs_f64(),
        begun.elapsed().as_secs_f64(),
    ));
}

/// containerd was told to, and did.
fn assert_fetched_in_parts(server: &Server, content: &Content) {
    let large = content.large_layer().to_string();
    let is_part = |(target, status): &(String, u64)| target.contains(&large) && *status == 206;
    wait_for("the large layer is asked for in parts", || {
        asked(server).iter().filter(|asked| is_part(asked)).count() >= LARGE_BYTES / PART_BYTES
    });
}

/// Each blob that was asked for came once, whoever asked for it, how often, and in however many parts.
fn assert_came_once(upstream: &Upstream, content: &Content) {
    let Upstream::Counting(registry) = upstream else { unreachable!("it counts") };
    wait_for("no answer is on its way", || registry.wait_until_idle(Duration::from_secs(1)));
    let large = content.large_layer();
    let mut fetched = 0;
    for digest in content.small.blobs().union(&content.large.blobs()) {
        let (gets, bytes) =
            (registry.count("GET", &digest.to_string()), registry.sent_bytes(&digest.to_string()));
        fetched += usize::from(gets > 0);
        let size_bytes = registry.bytes(digest).expect("it was pushed").len() as u64;
        if digest == large {
            // A request that was cut may have been answered with more than was read.
            assert!(bytes as f64 <= size_bytes as f64 * 1.05, "{bytes} of {size_bytes} bytes in {gets} GETs");
        } else if gets > 0 {
            assert_eq!((gets, bytes), (1, size_bytes), "{digest}");
        }
    }
    let own = content.small.own().blobs().chain(content.large.own().blobs()).count();
    assert!(fetched >= own, "{fetched} blobs were fetched of the {own} that each client needs");
}

legs! {
    /// containerd's hosts.toml, buildkitd.toml.
    fn ns(leg) { by(leg, Way::Ns, Content::docker_registry, |_, _| {}) }

    /// dockerd's registry-mirrors, and whoever takes the root mirror for the registry.
    fn bare(leg) { by(leg, Way::Bare, Content::docker_registry, |_, _| {}) }

    /// registries.conf, and whoever names the prefix.
    fn prefix(leg) { by(leg, Way::Prefix, Content::docker_registry, |_, _| {}) }

    /// A mirror whose URL has a path.
    fn front(leg) { by(leg, Way::Front, Content::docker_registry, |_, _| {}) }

    fn ns_counted(leg) { by(leg, Way::Ns, Content::counting, assert_came_once) }

    fn bare_counted(leg) { by(leg, Way::Bare, Content::counting, assert_came_once) }

    fn prefix_counted(leg) { by(leg, Way::Prefix, Content::counting, assert_came_once) }
}
