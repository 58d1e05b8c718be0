//! The table from problem to wire, and the shape of its body.

use super::*;
use crate::Tag;

const ONE: Digest = Digest::Sha256([1; 32]);
const TWO: Digest = Digest::Sha256([2; 32]);

fn body(problem: &Problem) -> Value {
    serde_json::from_str(&problem.body()).unwrap()
}

/// One of each, with its status and code.
fn all() -> Vec<(Problem, u16, &'static str)> {
    let name = RepositoryName::parse("a/b").unwrap();
    let tag = Reference::Tag(Tag::parse("v1").unwrap());
    let why = "because";
    vec![
        (Problem::NameInvalid, 400, "NAME_INVALID"),
        (Problem::NameUnknown(name), 404, "NAME_UNKNOWN"),
        (Problem::NamespaceUnknown, 404, "NAME_UNKNOWN"),
        (Problem::DigestInvalid { why }, 400, "DIGEST_INVALID"),
        (Problem::DigestMismatch { expected: ONE, computed: TWO }, 400, "DIGEST_INVALID"),
        (Problem::TagInvalid, 400, "MANIFEST_INVALID"),
        (Problem::ReferenceInvalid, 404, "MANIFEST_UNKNOWN"),
        (Problem::ManifestInvalid { why: why.into() }, 400, "MANIFEST_INVALID"),
        (Problem::ManifestUnknown(tag), 404, "MANIFEST_UNKNOWN"),
        (Problem::ManifestBlobUnknown(vec![ONE]), 404, "MANIFEST_BLOB_UNKNOWN"),
        (Problem::ManifestTooLarge, 413, "MANIFEST_INVALID"),
        (Problem::TooManyDescriptors, 413, "MANIFEST_INVALID"),
        (Problem::BlobUnknown(ONE), 404, "BLOB_UNKNOWN"),
        (Problem::BlobTooLarge { limit_bytes: 1 }, 413, "BLOB_UPLOAD_INVALID"),
        (Problem::BlobUploadUnknown, 404, "BLOB_UPLOAD_UNKNOWN"),
        (Problem::BlobUploadInvalid { why }, 400, "BLOB_UPLOAD_INVALID"),
        (Problem::UploadBusy, 409, "BLOB_UPLOAD_INVALID"),
        (Problem::ChunkOutOfOrder { location: "/v2/x".into(), offset: 100 }, 416, "BLOB_UPLOAD_INVALID"),
        (Problem::SizeInvalid, 400, "SIZE_INVALID"),
        (Problem::RangeUnsatisfiable { size_bytes: 5 }, 416, "UNSUPPORTED"),
        (Problem::TooManyRanges, 400, "UNSUPPORTED"),
        (Problem::PaginationNumberInvalid, 400, "UNSUPPORTED"),
        (Problem::PreconditionFailed, 412, "UNSUPPORTED"),
        (Problem::TooManyTags, 414, "UNSUPPORTED"),
        (Problem::UriTooLong, 414, "UNSUPPORTED"),
        (Problem::HeadersTooLarge, 431, "UNSUPPORTED"),
        (Problem::RequestMalformed { why }, 400, "UNSUPPORTED"),
        (Problem::LengthRequired, 411, "UNSUPPORTED"),
        (Problem::RequestTimeout, 408, "UNSUPPORTED"),
        (Problem::ExpectationFailed, 417, "UNSUPPORTED"),
        (Problem::VersionUnsupported, 505, "UNSUPPORTED"),
        (Problem::BlobReferenced { digest: ONE, by: TWO }, 405, "DENIED"),
        (Problem::Denied, 403, "DENIED"),
        (Problem::Unauthorized, 401, "UNAUTHORIZED"),
        (Problem::MethodNotAllowed { allow: "GET, HEAD" }, 405, "UNSUPPORTED"),
        (Problem::NotFound, 404, "UNSUPPORTED"),
        (Problem::Overloaded { retry_after_s: 3 }, 503, "TOOMANYREQUESTS"),
        (Problem::WritesRefused { why }, 503, "UNAVAILABLE"),
        (Problem::DiskFull, 507, "UNAVAILABLE"),
        (Problem::PullOnly, 405, "UNSUPPORTED"),
        (Problem::UpstreamUnreachable { retry_after_s: 5 }, 503, "UNAVAILABLE"),
        (Problem::UpstreamTimeout, 504, "UNAVAILABLE"),
        (Problem::UpstreamMisbehaved { why }, 502, "UNAVAILABLE"),
        (Problem::UpstreamBusy { retry_after_s: 5 }, 503, "TOOMANYREQUESTS"),
        (Problem::BlobLost(ONE), 500, "UNKNOWN"),
        (Problem::Internal, 500, "UNKNOWN"),
    ]
}

#[test]
fn every_problem_has_its_status_code_and_body() {
    for (problem, status, code) in all() {
        let wire = problem.wire();
        assert_eq!((wire.status, wire.code), (status, code), "{problem:?}");
        let body = body(&problem);
        let errors = body["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 1, "{problem:?}");
        assert_eq!(errors[0]["code"], code, "{problem:?}");
        assert!(!errors[0]["message"].as_str().unwrap().is_empty(), "{problem:?}");
        assert!(errors[0].get("detail").is_some(), "{problem:?}");
    }
}

#[test]
fn the_headers_that_belong_to_an_answer() {
    fn check(problem: Problem, expect: &[(&'static str, &str)]) {
        let headers = problem.wire().headers;
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(headers, expect, "{problem:?}");
    }
    check(Problem::MethodNotAllowed { allow: "POST" }, &[("allow", "POST")]);
    check(Problem::BlobReferenced { digest: ONE, by: TWO }, &[("allow", "GET, HEAD")]);
    check(Problem::Overloaded { retry_after_s: 3 }, &[("retry-after", "3")]);
    check(Problem::UpstreamUnreachable { retry_after_s: 5 }, &[("retry-after", "5")]);
    check(Problem::UpstreamBusy { retry_after_s: 60 }, &[("retry-after", "60")]);
    check(Problem::RangeUnsatisfiable { size_bytes: 2048 }, &[("content-range", "bytes */2048")]);
    let out_of_order = |offset| Problem::ChunkOutOfOrder { location: "/v2/a/blobs/uploads/x".into(), offset };
    check(out_of_order(100), &[("location", "/v2/a/blobs/uploads/x"), ("range", "0-99")]);
    check(out_of_order(0), &[("location", "/v2/a/blobs/uploads/x"), ("range", "0-0")]);
    check(Problem::Internal, &[]);
    for (problem, status, _) in all() {
        let allow = problem.wire().headers.iter().any(|(name, _)| *name == "allow");
        assert_eq!(allow, status == 405, "{problem:?}");
    }
}

#[test]
fn missing_digests_are_named_one_by_one() {
    let two = body(&Problem::ManifestBlobUnknown(vec![ONE, TWO]));
    let named: Vec<_> =
        two["errors"].as_array().unwrap().iter().map(|error| error["detail"]["digest"].clone()).collect();
    assert_eq!(named, [ONE.to_string(), TWO.to_string()]);
    let errors = |missing| {
        let body = body(&Problem::ManifestBlobUnknown(vec![ONE; missing]));
        body["errors"].as_array().unwrap().clone()
    };
    let all = errors(Problem::MISSING_NAMED_MAX);
    assert_eq!(all.len(), Problem::MISSING_NAMED_MAX);
    assert!(all.iter().all(|error| error["detail"]["digest"] == ONE.to_string()));
    for others in [1, 5] {
        let cut = errors(Problem::MISSING_NAMED_MAX + others);
        assert_eq!(cut[..Problem::MISSING_NAMED_MAX], all);
        assert_eq!(cut.len(), Problem::MISSING_NAMED_MAX + 1);
        assert_eq!(cut[Problem::MISSING_NAMED_MAX]["code"], "MANIFEST_BLOB_UNKNOWN");
        assert_eq!(cut[Problem::MISSING_NAMED_MAX]["detail"]["more"], others);
    }
}

#[test]
fn details_say_what_is_needed_to_go_on() {
    let detail = |problem: Problem| body(&problem)["errors"][0]["detail"].clone();
    assert_eq!(
        detail(Problem::BlobReferenced { digest: ONE, by: TWO }),
        json!({ "digest": ONE.to_string(), "referrer": TWO.to_string() })
    );
    assert_eq!(
        detail(Problem::DigestMismatch { expected: ONE, computed: TWO }),
        json!({ "expected": ONE.to_string(), "computed": TWO.to_string() })
    );
    assert_eq!(detail(Problem::Internal), Value::Null);
}

#[test]
fn text_of_a_client_is_bounded_and_escaped() {
    assert_eq!(excerpt("plain 'text' \"é\""), "plain 'text' \"é\"");
    assert_eq!(excerpt("a\r\n\0\u{1b}[1m\u{202e}"), "a\\r\\n\\0\\u{1b}[1m\\u{202e}");
    for long in ["x".repeat(5000), "\u{1b}".repeat(5000), "é".repeat(5000)] {
        let shown = excerpt(&long);
        assert!(shown.chars().count() <= 128 && shown.ends_with('…'), "{shown}");
    }
    assert_eq!(excerpt(&"x".repeat(127)), "x".repeat(127));
    let message = Problem::ManifestInvalid { why: "\n".repeat(5000) }.message();
    assert!(message.chars().count() <= Problem::MESSAGE_CHARS_MAX && !message.contains('\n'));
}

#[test]
fn errors_of_parsing_become_their_problem() {
    assert_eq!(Problem::from(NameError), Problem::NameInvalid);
    assert_eq!(Problem::from(TagError), Problem::TagInvalid);
    assert!(matches!(Problem::from(DigestError::Malformed), Problem::DigestInvalid { .. }));
    assert_eq!(Problem::from(ReferenceError::Tag), Problem::TagInvalid);
    let digest = ReferenceError::Digest(DigestError::UnknownAlgorithm);
    assert!(matches!(Problem::from(digest), Problem::DigestInvalid { .. }));
}

#[test]
fn a_problem_is_no_larger_than_a_name() {
    assert!(size_of::<Problem>() <= 264, "{}", size_of::<Problem>());
}
