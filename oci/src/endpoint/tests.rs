//! Every route, method and query key, and what is not one.

use proptest::prelude::*;

use super::*;

const HEX: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const DIGEST: Digest = Digest::Sha256([0x11; 32]);
const ID: &str = "abababababababababababababababab";

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

fn id() -> UploadId {
    UploadId::from_bytes([0xab; 16])
}

/// `{d}` stands for a digest, `{id}` for a session.
fn filled(target: &str) -> String {
    target.replace("{d}", &format!("sha256:{HEX}")).replace("{id}", ID)
}

fn parse(method: Method, target: &str) -> Result<Endpoint, Problem> {
    Endpoint::parse(method, filled(target).as_bytes())
}

fn check(method: Method, target: &str, expect: Endpoint) {
    assert_eq!(parse(method, target), Ok(expect), "{method:?} {target}");
}

fn refuse(method: Method, target: &str, expect: Problem) {
    assert_eq!(parse(method, target), Err(expect), "{method:?} {target}");
}

fn get_and_head(target: &str, expect: Endpoint) {
    check(Method::Get, target, expect.clone());
    check(Method::Head, target, expect);
}

use Method::{Delete, Get, Head, Other, Patch, Post, Put};

fn get_blob(repository: &str) -> Endpoint {
    Endpoint::GetBlob { repository: name(repository), digest: DIGEST }
}

fn get_tag(repository: &str, reference: &str) -> Endpoint {
    Endpoint::GetManifest { repository: name(repository), reference: Reference::Tag(tag(reference)) }
}

#[test]
fn end_1() {
    get_and_head("/v2/", Endpoint::Base);
    get_and_head("/v2", Endpoint::Base);
    get_and_head("/v2/?ns=docker.io", Endpoint::Base);
    refuse(Post, "/v2/", Problem::MethodNotAllowed { allow: "GET, HEAD" });
}

#[test]
fn end_2_and_10() {
    get_and_head("/v2/a/b/blobs/{d}", get_blob("a/b"));
    check(Delete, "/v2/a/blobs/{d}", Endpoint::DeleteBlob { repository: name("a"), digest: DIGEST });
    refuse(Put, "/v2/a/blobs/{d}", Problem::MethodNotAllowed { allow: "GET, HEAD, DELETE" });
    for bad in ["sha256:bad", "sha256", "md5:00", "", "latest", "sha256:..%2F..%2Fetc"] {
        for method in [Get, Head, Delete] {
            let parsed = parse(method, &format!("/v2/a/blobs/{bad}"));
            assert!(
                matches!(parsed, Err(Problem::DigestInvalid { .. } | Problem::NotFound)),
                "{method:?} {bad}: {parsed:?}"
            );
        }
    }
    assert!(matches!(parse(Get, "/v2/a/blobs/sha256:bad"), Err(Problem::DigestInvalid { .. })));
}

#[test]
fn end_3_7_and_9() {
    get_and_head("/v2/a/b/manifests/latest", get_tag("a/b", "latest"));
    let by_digest = Reference::Digest(DIGEST);
    get_and_head(
        "/v2/a/manifests/{d}",
        Endpoint::GetManifest { repository: name("a"), reference: by_digest },
    );
    let by_tag = Reference::Tag(tag("v1"));
    check(
        Delete,
        "/v2/a/manifests/v1",
        Endpoint::DeleteManifest { repository: name("a"), reference: by_tag },
    );
    check(
        Delete,
        "/v2/a/manifests/{d}",
        Endpoint::DeleteManifest { repository: name("a"), reference: by_digest },
    );
    let put = |reference, tags: &[&str]| {
        let tags = tags.iter().map(|text| tag(text)).collect();
        Endpoint::PutManifest(Box::new(PutManifest { repository: name("a"), reference, tags }))
    };
    check(Put, "/v2/a/manifests/v1", put(by_tag, &[]));
    check(
        Put,
        "/v2/a/manifests/{d}?tag=1.2.3&tag=1.2&x=y&t%61g=late%73t",
        put(by_digest, &["1.2.3", "1.2", "latest"]),
    );
    let tags = |count: usize| format!("/v2/a/manifests/{{d}}?{}", vec!["tag=t"; count].join("&"));
    check(Put, &tags(PutManifest::TAGS_MAX), put(by_digest, &["t"; PutManifest::TAGS_MAX]));
    refuse(Put, &tags(PutManifest::TAGS_MAX + 1), Problem::TooManyTags);
    for bad in ["", "a:b", ".a", "a/b", "a%20b", "a+b"] {
        refuse(Put, &format!("/v2/a/manifests/{{d}}?tag=good&tag={bad}"), Problem::TagInvalid);
    }
    refuse(Put, "/v2/a/manifests/{d}?tag", Problem::TagInvalid);
    refuse(Post, "/v2/a/manifests/v1", Problem::MethodNotAllowed { allow: "GET, HEAD, PUT, DELETE" });
}

#[test]
fn what_is_neither_tag_nor_digest_is_404_to_a_reader_and_400_to_a_writer() {
    for bad in ["sha256:baddigeststring", "sha256:", ".tag", "-tag", "ta%20g", "", "md5:00", "a%00"] {
        let target = format!("/v2/a/manifests/{bad}");
        refuse(Get, &target, Problem::ReferenceInvalid);
        refuse(Head, &target, Problem::ReferenceInvalid);
        for method in [Put, Delete] {
            let problem = parse(method, &target).unwrap_err();
            assert_eq!(problem.wire().status, 400, "{method:?} {target}");
        }
    }
    assert!(matches!(
        parse(Put, "/v2/a/manifests/sha256:baddigeststring"),
        Err(Problem::DigestInvalid { .. })
    ));
    refuse(Put, "/v2/a/manifests/.tag", Problem::TagInvalid);
}

#[test]
fn end_4_and_11() {
    let open = |algorithm, digest, mount| {
        Endpoint::OpenUpload(Box::new(OpenUpload { repository: name("a"), algorithm, digest, mount }))
    };
    check(Post, "/v2/a/blobs/uploads/", open(None, None, None));
    check(Post, "/v2/a/blobs/uploads", open(None, None, None));
    check(Post, "/v2/a/blobs/uploads?digest={d}", open(None, Some(DIGEST), None));
    check(
        Post,
        "/v2/a/blobs/uploads/?digest=sha256%3A1111111111111111111111111111111111111111111111111111111111111111",
        open(None, Some(DIGEST), None),
    );
    for algorithm in Algorithm::ALL {
        check(
            Post,
            &format!("/v2/a/blobs/uploads/?digest-algorithm={algorithm}"),
            open(Some(algorithm), None, None),
        );
    }
    check(
        Post,
        "/v2/a/blobs/uploads/?mount={d}",
        open(None, None, Some(Mount { digest: DIGEST, from: None })),
    );
    check(
        Post,
        "/v2/a/blobs/uploads/?mount={d}&from=",
        open(None, None, Some(Mount { digest: DIGEST, from: None })),
    );
    let mount = Mount { digest: DIGEST, from: Some(name("b/c")) };
    check(Post, "/v2/a/blobs/uploads/?from=b%2Fc&mount={d}", open(None, None, Some(mount.clone())));
    check(Post, "/v2/a/blobs/uploads/?from=b/c&mount={d}&ns=x", open(None, None, Some(mount)));
    check(Post, "/v2/a/blobs/uploads/?from=b/c", open(None, None, None));
    check(Post, "/v2/a/blobs/uploads/?mount={d}&from=NOT%20A%20NAME", open(None, None, None));
    for bad in [
        "digest=bad",
        "digest=",
        "digest",
        "mount=bad",
        "digest-algorithm=md5",
        "digest-algorithm=",
        "digest=md5:00",
    ] {
        let problem = parse(Post, &format!("/v2/a/blobs/uploads/?{bad}")).unwrap_err();
        assert!(matches!(problem, Problem::DigestInvalid { .. }), "{bad}: {problem:?}");
    }
    refuse(Get, "/v2/a/blobs/uploads/", Problem::MethodNotAllowed { allow: "POST" });
    refuse(Put, "/v2/a/blobs/uploads", Problem::MethodNotAllowed { allow: "POST" });
}

#[test]
fn end_5_6_13_and_14() {
    let repository = name("a/b");
    check(Patch, "/v2/a/b/blobs/uploads/{id}", Endpoint::PatchUpload { repository, id: id() });
    get_and_head("/v2/a/b/blobs/uploads/{id}", Endpoint::UploadStatus { repository, id: id() });
    check(Delete, "/v2/a/b/blobs/uploads/{id}", Endpoint::CancelUpload { repository, id: id() });
    let close = Endpoint::CloseUpload { repository, id: id(), digest: DIGEST };
    check(Put, "/v2/a/b/blobs/uploads/{id}?digest={d}", close.clone());
    check(Put, "/v2/a/b/blobs/uploads/{id}?_state=x%&digest={d}", close);
    assert!(matches!(parse(Put, "/v2/a/b/blobs/uploads/{id}"), Err(Problem::DigestInvalid { .. })));
    assert!(matches!(parse(Put, "/v2/a/b/blobs/uploads/{id}?digest=x"), Err(Problem::DigestInvalid { .. })));
    for bad in ["x", "ABABABABABABABABABABABABABABABAB", "..", "{id}0"] {
        for method in [Get, Head, Patch, Put, Delete] {
            refuse(method, &format!("/v2/a/blobs/uploads/{bad}?digest={{d}}"), Problem::BlobUploadUnknown);
        }
    }
    refuse(
        Post,
        "/v2/a/blobs/uploads/{id}",
        Problem::MethodNotAllowed { allow: "GET, HEAD, PATCH, PUT, DELETE" },
    );
}

#[test]
fn end_8_and_the_catalog() {
    let page = |n, last: Option<&str>| Page { n, last: last.map(str::to_owned) };
    for (query, expect) in [
        ("", page(None, None)),
        ("?", page(None, None)),
        ("?n=0", page(Some(0), None)),
        ("?n=10&last=v1", page(Some(10), Some("v1"))),
        ("?last=not%20a%20tag/%C3%A9&n=99999", page(Some(1000), Some("not a tag/é"))),
        ("?last=&ns=docker.io", page(None, None)),
        ("?last=a=b", page(None, Some("a=b"))),
    ] {
        get_and_head(
            &format!("/v2/a/b/tags/list{query}"),
            Endpoint::Tags { repository: name("a/b"), page: expect.clone() },
        );
        get_and_head(&format!("/v2/_catalog{query}"), Endpoint::Catalog(expect));
    }
    for bad in ["n=-1", "n=abc", "n=", "n", "n=1.5", "n=%2B1", "n=0x10"] {
        refuse(Get, &format!("/v2/a/tags/list?{bad}"), Problem::PaginationNumberInvalid);
        refuse(Get, &format!("/v2/_catalog?{bad}"), Problem::PaginationNumberInvalid);
    }
    refuse(Post, "/v2/_catalog", Problem::MethodNotAllowed { allow: "GET, HEAD" });
    refuse(Delete, "/v2/a/tags/list", Problem::MethodNotAllowed { allow: "GET, HEAD" });
}

#[test]
fn end_12() {
    let referrers = |artifact_type: Option<&str>, last: Option<&str>| {
        Endpoint::Referrers(Box::new(Referrers {
            repository: name("a"),
            subject: DIGEST,
            artifact_type: artifact_type.map(str::to_owned),
            page: Page { n: None, last: last.map(str::to_owned) },
        }))
    };
    get_and_head("/v2/a/referrers/{d}", referrers(None, None));
    get_and_head("/v2/a/referrers/{d}?artifactType=", referrers(None, None));
    for sent in ["application/x+json", "application/x%2Bjson", "application%2Fx%20json"] {
        get_and_head(
            &format!("/v2/a/referrers/{{d}}?artifactType={sent}"),
            referrers(Some("application/x+json"), None),
        );
    }
    get_and_head("/v2/a/referrers/{d}?n=no&last=7", referrers(None, Some("7")));
    for bad in ["sha256:bad", "latest", "md5:00"] {
        let problem = parse(Get, &format!("/v2/a/referrers/{bad}")).unwrap_err();
        assert_eq!((problem.wire().status, problem.wire().code), (400, "DIGEST_INVALID"), "{bad}");
    }
    refuse(Put, "/v2/a/referrers/{d}", Problem::MethodNotAllowed { allow: "GET, HEAD" });
}

#[test]
fn a_name_may_hold_the_words_of_a_route() {
    check(Get, "/v2/a/manifests/manifests/latest", get_tag("a/manifests", "latest"));
    check(Get, "/v2/blobs/uploads/manifests/list", get_tag("blobs/uploads", "list"));
    check(Get, "/v2/a/tags/list/manifests/v1", get_tag("a/tags/list", "v1"));
    check(Get, "/v2/a/blobs/uploads/blobs/{d}", get_blob("a/blobs/uploads"));
    check(Get, "/v2/v2/v2/blobs/{d}", get_blob("v2/v2"));
    check(Get, "/v2/blobs/blobs/{d}", get_blob("blobs"));
    check(
        Patch,
        "/v2/blobs/uploads/blobs/uploads/{id}",
        Endpoint::PatchUpload { repository: name("blobs/uploads"), id: id() },
    );
    check(
        Get,
        "/v2/a/manifests/tags/list",
        Endpoint::Tags { repository: name("a/manifests"), page: Page::default() },
    );
}

#[test]
fn names_are_checked() {
    for bad in
        ["A", "a//b", "a/", "/a", ".a", "a/..", "_catalog", "a%20b", "%00", "a%25", "%ff", &"a".repeat(256)]
    {
        for (method, rest) in [
            (Get, "blobs/{d}"),
            (Get, "manifests/v1"),
            (Put, "manifests/v1"),
            (Delete, "manifests/v1"),
            (Post, "blobs/uploads/"),
            (Patch, "blobs/uploads/{id}"),
            (Get, "tags/list"),
            (Get, "referrers/{d}"),
        ] {
            refuse(method, &format!("/v2/{bad}/{rest}"), Problem::NameInvalid);
        }
    }
    refuse(Get, "/v2//blobs/{d}", Problem::NameInvalid);
}

#[test]
fn escapes_are_decoded_once_before_routing() {
    check(
        Get,
        "/v2/a%2Fb/blobs/sha256%3a1111111111111111111111111111111111111111111111111111111111111111",
        get_blob("a/b"),
    );
    check(Get, "/%76%32/a%2fb%2Fmanifests%2Flatest", get_tag("a/b", "latest"));
    check(Get, "/v2/%61/manifests/v%31", get_tag("a", "v1"));
    refuse(Get, "/v2/a%252Fb/manifests/v1", Problem::NameInvalid);
    refuse(Get, "/v2/a%3Fb/manifests/v1", Problem::NameInvalid);
    for bad in ["/v2/a%/manifests/v1", "/v2/a/manifests/v%1", "/v2/%zz/tags/list", "/%"] {
        assert!(matches!(parse(Get, bad), Err(Problem::RequestMalformed { .. })), "{bad}");
    }
    for bad in ["last=%", "last=%ff", "n=%zz"] {
        let problem = parse(Get, &format!("/v2/a/tags/list?{bad}")).unwrap_err();
        assert!(matches!(problem, Problem::RequestMalformed { .. }), "{bad}");
    }
    check(
        Get,
        "/v2/a/tags/list?unknown=%&%=1",
        Endpoint::Tags { repository: name("a"), page: Page::default() },
    );
}

#[test]
fn one_key_has_one_value() {
    for (method, target) in [
        (Get, "/v2/a/tags/list?n=1&n=2"),
        (Get, "/v2/a/tags/list?last=a&l%61st=a"),
        (Post, "/v2/a/blobs/uploads/?digest={d}&digest={d}"),
        (Post, "/v2/a/blobs/uploads/?mount={d}&from=a&from=b"),
        (Put, "/v2/a/blobs/uploads/{id}?digest={d}&digest={d}"),
    ] {
        assert!(matches!(parse(method, target), Err(Problem::RequestMalformed { .. })), "{target}");
    }
}

#[test]
fn other_paths() {
    for fixed in [
        "/",
        "/metrics",
        "/livez?x=1",
        "/v1/",
        "/v2x/",
        "/V2/",
        "/token",
        "//v2/",
        "/hub/v2/a/tags/list",
        "/%ff",
    ] {
        for method in [Get, Head, Post, Put, Delete, Other] {
            check(method, fixed, Endpoint::Fixed);
        }
    }
    for unknown in [
        "/v2/a",
        "/v2/a/b",
        "/v2/a/tags",
        "/v2/a/tags/list/",
        "/v2/_catalog/",
        "/v2/manifests/v1",
        "/v2/blobs/uploads/",
        "/v2//",
        "/v2/a/blob/{d}",
        "/v2/../metrics",
        "/v2/a/blobs/uploads/{id}/x",
    ] {
        refuse(Get, unknown, Problem::NotFound);
    }
    for no_path in ["", "*", "v2/", "http://host/v2/", "host:443"] {
        assert!(matches!(parse(Get, no_path), Err(Problem::RequestMalformed { .. })), "{no_path}");
    }
    for known in [
        "/v2/",
        "/v2/_catalog",
        "/v2/a/blobs/{d}",
        "/v2/a/manifests/v1",
        "/v2/a/blobs/uploads/",
        "/v2/a/blobs/uploads/{id}",
        "/v2/a/tags/list",
        "/v2/a/referrers/{d}",
    ] {
        let problem = parse(Other, known).unwrap_err();
        assert_eq!(problem.wire().status, 405, "{known}");
    }
}

#[test]
fn an_endpoint_is_small() {
    assert!(size_of::<Endpoint>() <= 450, "{}", size_of::<Endpoint>());
}

#[test]
fn the_repository_of_a_request() {
    assert_eq!(parse(Get, "/v2/").unwrap().repository(), None);
    for (method, target) in [
        (Get, "/v2/a/b/blobs/{d}"),
        (Delete, "/v2/a/b/blobs/{d}"),
        (Get, "/v2/a/b/manifests/v1"),
        (Put, "/v2/a/b/manifests/v1"),
        (Delete, "/v2/a/b/manifests/v1"),
        (Post, "/v2/a/b/blobs/uploads/"),
        (Put, "/v2/a/b/blobs/uploads/{id}?digest={d}"),
        (Get, "/v2/a/b/tags/list"),
        (Get, "/v2/a/b/referrers/{d}"),
    ] {
        let endpoint = parse(method, target).unwrap();
        assert_eq!(endpoint.repository().map(RepositoryName::as_str), Some("a/b"), "{}", endpoint.label());
    }
}

const NAME: &str = r"[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/(blobs|manifests|tags|uploads|list|v2|[a-z]{1,4})){0,3}";

fn encode(path: &str, choose: &[bool]) -> String {
    let mut choose = choose.iter().cycle();
    path.bytes()
        .map(
            |byte| {
                if *choose.next().unwrap() { format!("%{byte:02x}") } else { char::from(byte).to_string() }
            },
        )
        .collect()
}

proptest! {
    #[test]
    fn any_name_routes_in_any_encoding(text in NAME, choose in proptest::collection::vec(any::<bool>(), 1..40)) {
        let digest = format!("sha256:{HEX}");
        for (rest, expect) in [
            (format!("blobs/{digest}"), Endpoint::GetBlob { repository: name(&text), digest: DIGEST }),
            ("manifests/v1".to_owned(), get_tag(&text, "v1")),
            ("tags/list".to_owned(), Endpoint::Tags { repository: name(&text), page: Page::default() }),
            (format!("blobs/uploads/{ID}"), Endpoint::UploadStatus { repository: name(&text), id: id() }),
        ] {
            let path = format!("/v2/{text}/{rest}");
            prop_assert_eq!(Endpoint::parse(Get, path.as_bytes()), Ok(expect.clone()));
            let encoded = format!("/{}", encode(&path[1..], &choose));
            prop_assert_eq!(Endpoint::parse(Get, encoded.as_bytes()), Ok(expect), "{}", encoded);
        }
    }

    #[test]
    fn no_target_panics(target in proptest::collection::vec(any::<u8>(), 0..80)) {
        for method in [Get, Put, Post, Patch, Delete, Other] {
            let _parsed = Endpoint::parse(method, &target);
        }
    }

    #[test]
    fn no_path_under_v2_panics_or_is_fixed(rest in "[a-z/:%0-9?&=.]{0,60}") {
        for method in [Get, Put, Post, Patch, Delete, Other] {
            let parsed = Endpoint::parse(method, format!("/v2/{rest}").as_bytes());
            prop_assert!(parsed != Ok(Endpoint::Fixed));
        }
    }
}
