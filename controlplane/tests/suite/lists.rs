//! Lists are sorted by bytes, paged, and never `null` (end-8, `_catalog`).

use oci::Problem;
use serde_json::json;

use crate::harness::{Directory, Plane, index};

#[tokio::test]
async fn tags_come_in_ascii_order() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    for tag in ["b", "a", "B", "_x", "1.10", "1.9", "a-b", "a.b", "aB"] {
        plane.put("a/one", tag, &index(&[])).await.unwrap();
    }
    let answer = plane.list("/v2/a/one/tags/list").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.json()["name"], "a/one");
    assert_eq!(answer.names("tags"), ["1.10", "1.9", "B", "_x", "a", "a-b", "a.b", "aB", "b"]);
    assert_eq!(answer.header("link"), None);
}

#[tokio::test]
async fn pages_follow_their_links_to_the_end() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    for number in 0..7 {
        plane.put("a/one", &format!("t{number}"), &index(&[])).await.unwrap();
    }
    let mut target = "/v2/a/one/tags/list?ns=x%2Fy&n=3&last=".to_owned();
    let mut pages = Vec::new();
    loop {
        let answer = plane.list(&target).await;
        pages.push(answer.names("tags"));
        let Some(next) = answer.next() else { break };
        assert!(next.starts_with("/v2/a/one/tags/list?ns=x%2Fy&n=3&last=t"), "{next}");
        target = next;
    }
    assert_eq!(pages, [vec!["t0", "t1", "t2"], vec!["t3", "t4", "t5"], vec!["t6"]]);
    let whole = plane.list("/v2/a/one/tags/list?n=7").await;
    assert_eq!((whole.names("tags").len(), whole.header("link")), (7, None));
    let rest = plane.list("/v2/a/one/tags/list?last=t4x").await;
    assert_eq!(rest.names("tags"), ["t5", "t6"]);
}

#[tokio::test]
async fn a_link_keeps_the_path_as_it_was_sent() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    plane.put("a/one", "t0", &index(&[])).await.unwrap();
    plane.put("a/one", "t1", &index(&[])).await.unwrap();
    let answer = plane.list("/v2/a%2Fone/tags/list?n=1&x=%22").await;
    assert_eq!(answer.next().unwrap(), "/v2/a%2Fone/tags/list?x=%22&n=1&last=t0");
}

#[tokio::test]
async fn no_entries_are_an_empty_list_and_no_link() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    assert_eq!(plane.list("/v2/_catalog").await.json(), json!({ "repositories": [] }));
    plane.push("a/one", "hello").await;
    assert_eq!(plane.list("/v2/a/one/tags/list").await.json(), json!({ "name": "a/one", "tags": [] }));
    plane.put("a/one", "v1", &index(&[])).await.unwrap();
    for target in ["/v2/a/one/tags/list?n=0", "/v2/a/one/tags/list?n=0&last=a"] {
        let answer = plane.list(target).await;
        assert_eq!(answer.json()["tags"], json!([]));
        assert_eq!(answer.header("link"), None);
    }
    assert_eq!(plane.list("/v2/_catalog?n=0").await.json(), json!({ "repositories": [] }));
}

#[tokio::test]
async fn a_repository_that_was_never_pushed_to_is_unknown() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let Err(problem) = plane.forward("GET", "/v2/a/one/tags/list").await else { panic!("listed") };
    assert!(matches!(problem, Problem::NameUnknown(_)));
    assert_eq!((problem.wire().status, problem.wire().code), (404, "NAME_UNKNOWN"));
}

#[tokio::test]
async fn a_number_that_is_none_is_refused() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    for target in ["/v2/a/one/tags/list?n=-1", "/v2/_catalog?n=many"] {
        let Err(problem) = plane.forward("GET", target).await else { panic!("{target} was listed") };
        assert!(matches!(problem, Problem::PaginationNumberInvalid));
    }
}

#[tokio::test]
async fn without_a_number_the_first_thousand_come_with_a_link() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let body = index(&[]);
    let digest = crate::harness::digest_of(&body).to_string();
    for hundred in 0..40 {
        let tags = (0..30).map(|number| crate::harness::tag(&format!("t{:04}", hundred * 30 + number)));
        let sent =
            control::Manifest { tags: tags.collect(), ..crate::harness::manifest("a/one", &digest, &body) };
        plane.put_whole(sent).await.unwrap();
    }
    let answer = plane.list("/v2/a/one/tags/list").await;
    assert_eq!(answer.names("tags").len(), 1000);
    let rest = plane.list(&answer.next().unwrap()).await;
    assert_eq!((rest.names("tags").len(), rest.header("link")), (200, None));
    assert_eq!(plane.list("/v2/a/one/tags/list?n=5000").await.names("tags").len(), 1000);
}

#[tokio::test]
async fn the_catalog_is_paged_too() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    for repository in ["b", "a/two", "a/one"] {
        plane.push(repository, "hello").await;
    }
    let first = plane.list("/v2/_catalog?n=2").await;
    assert_eq!(first.names("repositories"), ["a/one", "a/two"]);
    assert_eq!(first.next().unwrap(), "/v2/_catalog?n=2&last=a%2Ftwo");
    let second = plane.list(&first.next().unwrap()).await;
    assert_eq!((second.names("repositories"), second.header("link")), (vec!["b".to_owned()], None));
}
