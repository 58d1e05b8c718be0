//! Lists: pages of tags and referrers, and when there is no such list.

use controlplane::upstream::{Failure, Listing};
use faults::{Fault, On, Place, Registry, To};
use serde_json::{Value, json};

use super::rig::*;

#[tokio::test]
async fn pages_follow_each_other_by_their_query() {
    let registry = Registry::start();
    for tag in ["a", "b", "c"] {
        registry.push_image(NAME, tag, &[10]);
    }
    let upstream = client(&registry);
    let mut query = Some("n=2".to_owned());
    let mut tags = Vec::new();
    while let Some(asked) = query {
        let page = upstream.list(&repository(), &Listing::Tags, Some(&asked)).await.unwrap().unwrap();
        let document: Value = serde_json::from_slice(&page.bytes).unwrap();
        tags.extend(document["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()));
        query = page.next;
    }
    assert_eq!(tags, ["a", "b", "c"]);
    assert_eq!(registry.count("GET", "/tags/list"), 2);
}

#[tokio::test]
async fn referrers_are_a_list_too() {
    let registry = Registry::start();
    let image = registry.push_image(NAME, "latest", &[10]);
    let signature = json!({ "schemaVersion": 2, "subject": { "digest": image.index.to_string() } });
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let digest = registry.push_manifest(NAME, None, media_type, signature.to_string());
    let upstream = client(&registry);
    let page = upstream.list(&repository(), &Listing::Referrers(image.index), None).await.unwrap().unwrap();
    assert!(std::str::from_utf8(&page.bytes).unwrap().contains(&digest.to_string()));
    assert_eq!(page.media_type.unwrap().as_str(), "application/vnd.oci.image.index.v1+json");
}

#[tokio::test]
async fn a_list_that_is_not_there_is_none_and_an_outage_is_not() {
    let registry = Registry::start();
    let image = registry.push_image(NAME, "latest", &[10]);
    let upstream = client(&registry);
    let referrers = Listing::Referrers(image.index);
    registry.script(On::get("/referrers/").times(1), Fault::Status(404));
    assert_eq!(upstream.list(&repository(), &referrers, None).await, Ok(None));
    // Off its host: it has no such list. On its host: it is followed.
    registry.script(On::get("/referrers/").at(Place::Own).times(1), Fault::Redirect(To::Foreign));
    assert_eq!(upstream.list(&repository(), &referrers, None).await, Ok(None));
    registry.script(On::get("/referrers/").times(1), Fault::Redirect(To::Itself));
    assert!(upstream.list(&repository(), &referrers, None).await.unwrap().is_some());
    registry.script(On::get("/tags/").at(Place::Own).times(1), Fault::Redirect(To::Foreign));
    assert!(upstream.list(&repository(), &Listing::Tags, None).await.unwrap().is_some());
    registry.script(On::get("/referrers/"), Fault::Status(500));
    let failed = upstream.list(&repository(), &referrers, None).await;
    assert_eq!(failed, Err(Failure::Server { status: 500 }));
}
