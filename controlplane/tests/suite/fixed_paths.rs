//! The fixed paths outside `/v2/`.

use control::Refusal;

use crate::harness::{Directory, Plane};

#[tokio::test]
async fn liveness_and_readiness_are_plain() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    for (target, body) in [("/livez", "alive\n"), ("/readyz?verbose", "ready\n")] {
        let answer = plane.list(target).await;
        assert_eq!((answer.status, &answer.body[..]), (200, body.as_bytes()));
    }
    let hello = plane.list("/").await;
    assert_eq!((hello.status, hello.header("content-type")), (200, Some("text/plain; charset=utf-8")));
    assert!(hello.body.starts_with(b"This is Gantry"));
}

#[tokio::test]
async fn health_says_whether_writes_are_allowed() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let well = plane.list("/healthz").await;
    assert_eq!((well.status, well.header("content-type")), (200, Some("application/json")));
    assert_eq!(well.json()["writes"]["allowed"], true);
    assert_eq!(well.json()["cores"][0]["driver"], "epoll");
    plane.writes.refuse(Refusal::SyncFailed);
    let ill = plane.list("/healthz").await;
    assert_eq!(ill.status, 503);
    assert_eq!(ill.json()["writes"]["why"], Refusal::SyncFailed.why());
    assert_eq!(plane.list("/livez").await.status, 200);
    assert_eq!(plane.list("/readyz").await.status, 200);
}

#[tokio::test]
async fn metrics_are_openmetrics() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let answer = plane.list("/metrics").await;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(content_type)));
    assert!(answer.body.ends_with(b"# EOF\n"));
}

#[tokio::test]
async fn other_paths_and_methods_are_problems() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    for target in ["/nothing", "/livez/", "/v3/"] {
        let answer = plane.list(target).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (404, Some("application/json")),
            "{target}"
        );
        assert!(answer.json()["errors"].is_array());
    }
    for method in ["POST", "DELETE", "TRACE"] {
        let answer = plane.forward(method, "/livez").await.unwrap();
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
        assert_eq!(answer.json()["errors"][0]["code"], "UNSUPPORTED");
    }
    assert_eq!(plane.forward("HEAD", "/livez").await.unwrap().status, 200);
}
