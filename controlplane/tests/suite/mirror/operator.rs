//! What an operator asks of a mirror, with a cache that is played: what it is asked for, and what survives.

use std::sync::{Arc, Mutex};

use control::{CacheAsk, CacheEntry, CachePage, Caller, FillEnd, Forward, Lane, Purged};
use controlplane::limits;
use controlplane::upstream::Policy;
use oci::{Digest, Endpoint, Method, Platform};
use serde_json::{Value, json};

use super::registry::Registry;
use super::rig::{Rig, eventually, mirror_of, upstream};
use crate::harness::{Answered, IMAGE, INDEX, NOBODY};

/// What a cache was asked, as text.
#[derive(Clone, Default)]
struct Played(Arc<Mutex<Vec<String>>>);

impl Played {
    /// Answers everything: each blob is here once it was wanted, and kept as it is told.
    fn start(mut lane: Lane<CacheAsk>) -> Played {
        let played = Played::default();
        let seen = played.clone();
        tokio::spawn(async move {
            let (mut here, mut kept): (Vec<Digest>, Vec<Digest>) = Default::default();
            while let Some(ask) = lane.recv().await {
                let says = |text: String| seen.0.lock().unwrap().push(text);
                match ask {
                    CacheAsk::Stat { answer } => drop(answer.send(Ok(Default::default()))),
                    CacheAsk::List { after, most, answer } => {
                        let entry = |digest: &Digest| CacheEntry {
                            digest: *digest,
                            size_bytes: 1,
                            is_filling: false,
                            is_pinned: kept.contains(digest),
                            uses: 0,
                            came_unix: 1,
                        };
                        let from = here.iter().skip(after as usize).take(most as usize);
                        let entries: Vec<CacheEntry> = from.map(entry).collect();
                        let at = after + entries.len() as u64;
                        let next = (at < here.len() as u64).then_some(at);
                        drop(answer.send(Ok(CachePage { entries, next })));
                    }
                    CacheAsk::Keep { digests, keep, answer } => {
                        assert!(digests.len() <= limits::CACHE_DIGESTS);
                        kept.retain(|digest| !digests.contains(digest));
                        let found: Vec<Digest> =
                            digests.into_iter().filter(|digest| here.contains(digest)).collect();
                        drop(answer.send(Ok(found.len() as u64)));
                        found.iter().for_each(|digest| says(format!("keep {keep} {digest}")));
                        kept.extend(found.into_iter().filter(|_| keep));
                    }
                    CacheAsk::Purge { digests, answer } => {
                        let before = here.len();
                        here.retain(|digest| !digests.contains(digest));
                        let blobs = (before - here.len()) as u64;
                        drop(answer.send(Ok(Purged { blobs, bytes: blobs, filling: 0 })));
                    }
                    CacheAsk::Fill { wanted, answer, .. } => {
                        says(format!("fill {} {}", wanted.gives_way, wanted.digest));
                        here.push(wanted.digest);
                        drop(answer.send(Ok(FillEnd::Fetched)));
                    }
                    CacheAsk::Settle { answer, .. } => drop(answer.send(Ok(()))),
                }
            }
        });
        played
    }

    fn count(&self, part: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|text| text.contains(part)).count()
    }
}

fn local() -> Option<Caller> {
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let fields = vec![field("Host", "localhost:5000"), field("Gantry-Api", "1")];
    Some(Caller { peer: "127.0.0.1:4711".parse().unwrap(), fields })
}

impl Rig {
    async fn api(&self, method: &str, path: &str, body: &str) -> Answered {
        let reply = self.plane.control.forward(|answer| Forward {
            endpoint: Endpoint::Fixed,
            method: Method::parse(method),
            target: format!("/api/v1/cache{path}"),
            body: body.to_owned().into(),
            principal: NOBODY,
            caller: local(),
            answer,
        });
        Answered::from(reply.await.unwrap())
    }

    async fn good(&self, method: &str, path: &str, body: &str) -> Value {
        let answer = self.api(method, path, body).await;
        assert!(answer.status < 300, "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    /// Warms an image, to its end.
    async fn warm(&self, image: &str) -> Value {
        let begun = self.good("POST", "/warm", &format!("{{\"image\":\"{image}\"}}")).await;
        let path = format!("/warm/{}", begun["id"]);
        eventually("the warming has ended", async || {
            !["waiting", "running"].contains(&self.good("GET", &path, "").await["state"].as_str().unwrap())
        })
        .await;
        self.good("GET", &path, "").await
    }
}

fn played(rig: &mut Rig) -> Played {
    Played::start(rig.plane.cache_asks.take().unwrap())
}

/// An index under a tag, whose entries are all for this architecture.
fn push_index(registry: &Registry, tag: &str, children: &[Digest], architecture: Option<&str>) {
    let entry = |digest: &Digest| {
        let platform =
            architecture.map(|architecture| json!({ "os": "linux", "architecture": architecture }));
        json!({ "mediaType": IMAGE, "digest": digest.to_string(), "size": 1, "platform": platform })
    };
    let entries: Vec<Value> = children.iter().map(entry).collect();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    registry.push_manifest("library/app", Some(tag), &index);
}

#[tokio::test]
async fn a_warming_wants_each_blob_and_its_end_can_be_asked_for() {
    let registry = Registry::start();
    registry.push_image("library/app", "1", "x");
    let mut rig = Rig::hub(&registry, Policy::default());
    let cache = played(&mut rig);
    let end = rig.warm("app:1").await;
    assert_eq!((&end["state"], &end["blobs"]["fetched"]), (&"done".into(), &2.into()), "{end}");
    assert_eq!(cache.count("fill false"), 2);
    let list = rig.good("GET", "/blobs", "").await;
    let rows = list["blobs"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["repositories"][0] == "docker.io/library/app"), "{list}");
    assert_eq!(rig.api("GET", "/warm/999", "").await.status, 404);
    assert_eq!(rig.api("POST", "/warm", "{").await.status, 400);
    let many = vec!["\"linux/amd64\""; limits::WARM_PLATFORMS + 1].join(",");
    let many = format!("{{\"image\":\"app\",\"platforms\":[{many}]}}");
    assert_eq!(rig.api("POST", "/warm", &many).await.status, 400);
    assert_eq!(rig.api("PATCH", "/warm", "").await.status, 405);
}

#[tokio::test]
async fn an_image_of_too_many_manifests_is_had_in_part() {
    let registry = Registry::start();
    let children: Vec<Digest> = (0..limits::WARM_MANIFESTS)
        .map(|number| registry.push_image("library/app", &format!("t{number}"), &number.to_string()).manifest)
        .collect();
    push_index(&registry, "all", &children, None);
    let mut rig = Rig::hub(&registry, Policy::default());
    let cache = played(&mut rig);
    let end = rig.warm("app:all").await;
    assert_eq!(end["manifests"], limits::WARM_MANIFESTS, "{end}");
    assert!(
        end["state"] == "failed" && end["problems"][0]["why"] == "the image names too many manifests",
        "{end}"
    );
    assert!(cache.count("fill") >= limits::WARM_MANIFESTS - 1);
}

#[tokio::test]
async fn pins_outlive_a_restart_and_have_a_bound() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let mut rig = Rig::hub(&registry, Policy::default());
    let cache = played(&mut rig);
    rig.warm("app:1").await;
    let pinned = rig.good("PUT", "/pins?pattern=docker.io/library/*", "").await;
    assert_eq!((&pinned["changed"], &pinned["blobs"]), (&true.into(), &2.into()));
    assert_eq!(cache.count(&format!("keep true {}", image.layer)), 1);
    // A second pattern keeps what the first no longer does.
    rig.good("PUT", "/pins?pattern=*/app", "").await;
    rig.good("DELETE", "/pins?pattern=docker.io/library/*", "").await;
    assert_eq!(cache.count("keep false"), 0);
    let mut rig = rig.restart().await;
    let cache = played(&mut rig);
    assert_eq!(rig.good("GET", "/pins", "").await["pins"][0]["pattern"], "*/app");
    // The index may have lost it: what is here of pinned repositories is kept once more after a start.
    rig.warm("app:1").await;
    rig.good("DELETE", "/pins?pattern=*/app", "").await;
    assert_eq!(cache.count("keep false"), 2);
    assert_eq!(rig.good("DELETE", "/pins?pattern=*/app", "").await["changed"], false);
    for number in 0..limits::PINS {
        rig.good("PUT", &format!("/pins?pattern=docker.io/a{number}"), "").await;
    }
    assert_eq!(rig.api("PUT", "/pins?pattern=docker.io/more", "").await.status, 400);
    for wrong in ["", "?pattern=", "?pattern=a%20b", "?pattern=a&pattern=b"] {
        assert_eq!(rig.api("PUT", &format!("/pins{wrong}"), "").await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_purge_forgets_manifests_tags_and_what_was_absent() {
    let registry = Registry::start();
    registry.push_image("library/app", "1", "x");
    let mut rig = Rig::hub(&registry, Policy::default());
    let _cache = played(&mut rig);
    rig.warm("app:1").await;
    assert!(rig.manifest("app", "none").await.unwrap().is_none());
    registry.push_image("library/app", "none", "y");
    assert!(rig.manifest("app", "none").await.unwrap().is_none(), "it is remembered");
    let gone = rig.good("POST", "/purge?repository=docker.io/library/app", "").await;
    assert_eq!((&gone["repositories"], &gone["blobs"]), (&1.into(), &2.into()), "{gone}");
    assert_eq!(rig.pull("app", "1").await.1, control::Came::Fill, "it is asked again");
    rig.pull("app", "none").await;
    for wrong in ["", "?digest=x", "?digest=sha256:0&repository=a", "?repository=a%20b"] {
        assert_eq!(rig.api("POST", &format!("/purge{wrong}"), "").await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn platforms_are_fetched_behind_and_give_way() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "amd64", "x");
    push_index(&registry, "1", &[image.manifest], Some("amd64"));
    let policy = Policy { platforms: vec![Platform::parse("linux/amd64").unwrap()], ..Policy::default() };
    let mut rig = Rig::new(mirror_of(vec![upstream("docker.io", &registry, policy)]));
    let cache = played(&mut rig);
    rig.pull("app", "1").await;
    eventually("both blobs are wanted", async || cache.count("fill true") == 2).await;
    rig.pull("app", "1").await;
    eventually("it is counted", async || {
        rig.plane.metrics().contains("gantry_mirror_prefetches_total{upstream=\"docker.io\",end=\"done\"} 1")
    })
    .await;
    assert_eq!(cache.count("fill"), 2, "not twice");
}
