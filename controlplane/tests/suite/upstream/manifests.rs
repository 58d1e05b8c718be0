//! Manifests: described, fetched, compared; and what is no manifest is not taken for one.

use controlplane::upstream::{Accept, Failure, GotManifest, SeenManifest};
use faults::{Fault, On, Registry};
use oci::{MediaType, Reference};

use super::rig::*;

#[tokio::test]
async fn a_head_tells_what_a_get_gives() {
    let registry = Registry::start();
    let image = registry.push_image(NAME, "latest", &[100]);
    let upstream = client(&registry);
    let expect = registry.bytes(&image.index).unwrap();
    for reference in [tag("latest"), Reference::Digest(image.index)] {
        let described = upstream.describe_manifest(&repository(), &reference, &Accept::default()).await;
        let SeenManifest::Described(described) = described.unwrap() else { panic!("it is there") };
        assert_eq!(described.digest, Some(image.index));
        assert_eq!(described.size_bytes, Some(expect.len() as u64));
        assert_eq!(described.media_type, Some(MediaType::OCI_INDEX));
        let got = upstream.manifest(&repository(), &reference, &Accept::default(), None).await.unwrap();
        let GotManifest::Manifest { bytes, media_type, digest_header } = got else { panic!("{got:?}") };
        assert_eq!((&bytes[..], digest_header), (&expect[..], Some(image.index)));
        assert_eq!(media_type, Some(MediaType::OCI_INDEX));
    }
    assert_eq!(registry.count("HEAD", "/manifests/"), 2);
}

#[tokio::test]
async fn every_request_asks_for_all_types_and_for_bytes_as_they_are() {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[100]);
    let upstream = client(&registry);
    let accept = Accept::with(&[MediaType::parse("application/vnd.example+json").unwrap()]);
    upstream.describe_manifest(&repository(), &tag("latest"), &accept).await.unwrap();
    upstream.manifest(&repository(), &tag("latest"), &accept, None).await.unwrap();
    for seen in registry.seen() {
        let sent = seen.header("accept").unwrap();
        for expect in [
            MediaType::OCI_INDEX,
            MediaType::DOCKER_LIST,
            MediaType::OCI_MANIFEST,
            MediaType::DOCKER_MANIFEST,
        ] {
            assert!(sent.contains(expect.as_str()), "{sent}");
        }
        assert!(sent.ends_with("application/vnd.example+json"), "{sent}");
        assert_eq!(seen.header("accept-encoding"), Some("identity"));
        assert!(seen.header("user-agent").unwrap().starts_with("gantry/"));
    }
}

#[tokio::test]
async fn a_refused_head_says_nothing_and_costs_nothing() {
    for status in [403, 405] {
        let registry = Registry::start();
        registry.push_image(NAME, "latest", &[100]);
        registry.script(On::head("/manifests/"), Fault::Status(status));
        let upstream = client(&registry);
        let seen = upstream.describe_manifest(&repository(), &tag("latest"), &Accept::default()).await;
        assert_eq!(seen, Ok(SeenManifest::HeadRefused), "{status}");
        assert_eq!(registry.count("GET", "/manifests/"), 0, "what to GET is for the caller to know");
        assert_eq!(upstream.metrics().read().failures, 0);
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_a_failure() {
    let registry = Registry::start();
    let upstream = client(&registry);
    let described = describe(&upstream, "nope").await;
    assert_eq!(described, Ok(None));
    assert_eq!(pull(&upstream, "nope").await, Ok(None));
    assert_eq!(upstream.metrics().read().failures, 0);
}

#[tokio::test]
async fn a_manifest_that_did_not_change_is_not_sent() {
    let registry = Registry::start();
    let image = registry.push_image(NAME, "latest", &[100]);
    let upstream = client(&registry);
    let ask = async |digest| {
        upstream.manifest(&repository(), &tag("latest"), &Accept::default(), Some(digest)).await
    };
    assert_eq!(ask(&image.index).await, Ok(GotManifest::Unchanged));
    assert!(matches!(ask(&image.manifests[0]).await, Ok(GotManifest::Manifest { .. })));
    // A 304 that nobody asked for.
    registry.script(On::get("/manifests/"), Fault::Status(304));
    assert!(misbehaved(&pull(&upstream, "latest").await.unwrap_err()));
}

#[tokio::test]
async fn what_the_headers_say_is_handed_on_and_not_believed() {
    let registry = Registry::start();
    let image = registry.push_image(NAME, "latest", &[100]);
    let upstream = client(&registry);
    registry.script(On::any("/manifests/"), Fault::WrongDigestHeader);
    let got = upstream.manifest(&repository(), &tag("latest"), &Accept::default(), None).await.unwrap();
    let GotManifest::Manifest { bytes, digest_header, .. } = got else { panic!("{got:?}") };
    assert_eq!(&bytes[..], &registry.bytes(&image.index).unwrap()[..]);
    assert_ne!(digest_header, Some(image.index));
    for value in ["", "sha256:short", "latest"] {
        registry.heal();
        registry.script(On::any("/manifests/"), Fault::Header("Docker-Content-Digest", value.into()));
        let described = describe(&upstream, "latest").await;
        assert_eq!(described.unwrap().unwrap().digest, None, "{value}");
    }
}

#[tokio::test]
async fn an_answer_of_another_kind_is_refused() {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[100]);
    let upstream = client(&registry);
    for (fault, expect) in [
        (Fault::Gzip, None),
        (Fault::Status(400), None),
        (Fault::Status(204), None),
        (Fault::Status(500), Some(Failure::Server { status: 500 })),
        (Fault::Status(502), Some(Failure::Server { status: 502 })),
        (Fault::Status(503), Some(Failure::Server { status: 503 })),
    ] {
        registry.script(On::get("/manifests/"), fault.clone());
        let failure = pull(&upstream, "latest").await.unwrap_err();
        match expect {
            Some(expect) => assert_eq!(failure, expect),
            None => assert!(misbehaved(&failure), "{fault:?}: {failure}"),
        }
        registry.heal();
        assert!(pull(&upstream, "latest").await.unwrap().is_some(), "healthy again after {fault:?}");
    }
}

/// A 204 has no body: what follows its head all the same is on the connection when the next request takes it.
#[tokio::test]
async fn what_is_left_on_a_connection_is_no_answer_to_the_next_request() {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[100]);
    let upstream = client(&registry);
    for round in 0..500 {
        registry.script(On::get("/manifests/"), Fault::Status(204));
        assert!(misbehaved(&pull(&upstream, "latest").await.unwrap_err()));
        registry.heal();
        assert!(pull(&upstream, "latest").await.unwrap().is_some(), "round {round}");
    }
}

#[tokio::test]
async fn a_document_that_breaks_off_is_none() {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[100]);
    let upstream = client(&registry);
    for fault in [Fault::Truncated { at: 10 }, Fault::Reset { at: 10 }, Fault::Reset { at: 0 }] {
        registry.script(On::get("/manifests/"), fault.clone());
        let failure = pull(&upstream, "latest").await.unwrap_err();
        assert!(is_unreachable(&failure), "{fault:?}: {failure}");
        registry.heal();
    }
    registry.script(On::get("/manifests/"), Fault::Chunked);
    assert!(pull(&upstream, "latest").await.unwrap().is_some());
}
