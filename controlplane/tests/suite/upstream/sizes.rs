//! How much an upstream may say: bodies, heads, fields.

use controlplane::{
    limits,
    upstream::{Failure, Listing},
};
use faults::{Fault, On, Registry};

use super::rig::*;

/// DOCUMENT_BYTES: announced or not.
#[tokio::test]
async fn a_document_has_a_size() {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[10]);
    let upstream = client(&registry);
    for (bytes, fits) in
        [(limits::DOCUMENT_BYTES, true), (limits::DOCUMENT_BYTES + 1, false), (64 << 20, false)]
    {
        for chunked in [false, true] {
            registry.script(On::get("/v2/"), Fault::Huge { bytes });
            if chunked {
                registry.script(On::get("/v2/"), Fault::Chunked);
            }
            let pulled = pull(&upstream, "latest").await;
            let listed = upstream.list(&repository(), &Listing::Tags, None).await.map(|page| page.is_some());
            if fits {
                assert_eq!(pulled.unwrap().unwrap().len(), bytes);
                assert_eq!(listed, Ok(true));
            } else {
                assert!(misbehaved(&pulled.unwrap_err()), "{bytes} {chunked}");
                assert!(misbehaved(&listed.unwrap_err()), "{bytes} {chunked}");
            }
            registry.heal();
        }
    }
    assert!(registry.sent_bytes("/v2/") < 128 << 20, "what is too large is not read to its end");
}

/// HEADERS, READ_BYTES.
#[tokio::test]
async fn a_head_has_a_size() {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[10]);
    let upstream = client(&registry);
    let names: Vec<&'static str> =
        (0..limits::HEADERS + 1).map(|n| &*Box::leak(format!("X-{n}").into_boxed_str())).collect();
    for name in names {
        registry.script(On::get("/manifests/"), Fault::Header(name, "x".into()));
    }
    let failure = pull(&upstream, "latest").await.unwrap_err();
    assert!(matches!(failure, Failure::Misbehaved { .. } | Failure::Unreachable { .. }), "{failure}");
    registry.heal();
    registry.script(On::get("/manifests/"), Fault::Header("X-Long", "x".repeat(4 * limits::READ_BYTES)));
    let failure = pull(&upstream, "latest").await.unwrap_err();
    assert!(matches!(failure, Failure::Misbehaved { .. } | Failure::Unreachable { .. }), "{failure}");
    registry.heal();
    assert!(pull(&upstream, "latest").await.unwrap().is_some());
}
