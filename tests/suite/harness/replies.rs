//! The rules that every reply keeps, whatever was asked; each reply of the whole suite passes here.

use oci::{Digest, UploadId};

use super::response::Response;

/// The spec's codes, and the two that we add for 5xx.
const CODES: [&str; 16] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DENIED",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "TOOMANYREQUESTS",
    "UNAUTHORIZED",
    "UNAVAILABLE",
    "UNKNOWN",
    "UNSUPPORTED",
];

/// Fails if `response` to a request of that method breaks a rule that holds whatever was asked; `secret` is the
/// server's data directory.
#[track_caller]
pub fn check(response: &Response, method: &str, secret: &str) {
    if response.status < 200 {
        assert!(response.headers.is_empty(), "an interim reply says nothing: {}", response.text());
        return;
    }
    let what = format!("{method} -> {}", response.text());
    let date = response.get("date").unwrap_or_else(|| panic!("no Date: {what}"));
    assert!(date.len() == 29 && date.ends_with(" GMT"), "Date is no IMF-fixdate: {what}");
    for (name, value) in &response.headers {
        assert!(!value.contains(secret), "{name} shows an internal path: {what}");
        assert!(!name.eq_ignore_ascii_case("oci-chunk-min-length"), "we have no minimum: {what}");
    }
    if let Some(location) = response.get("location") {
        assert!(location.starts_with("/v2/"), "Location is path-absolute: {what}");
        // A repository may be called like the path of its uploads; only a blob's location has a digest.
        let upload = location.contains("/blobs/uploads/") && !location.contains(':');
        assert!(!(upload && location.contains('?')), "an upload URL carries no query: {what}");
        let uuid = response.get("docker-upload-uuid");
        assert!(!upload || uuid.is_some_and(|uuid| location.ends_with(uuid)), "Docker-Upload-UUID: {what}");
    }
    for link in response.all("link") {
        assert!(link.starts_with("</v2/") && link.ends_with(">; rel=\"next\""), "Link: {what}");
    }
    if response.status == 405 {
        assert!(response.get("allow").is_some_and(|allow| !allow.is_empty()), "405 without Allow: {what}");
    }
    if response.status == 503 {
        let after = response.get("retry-after").is_some_and(|after| after.parse::<u32>().is_ok());
        assert!(after || response.code() != "TOOMANYREQUESTS", "503 without Retry-After: {what}");
    }
    let stored = response.get("docker-content-digest").is_some();
    if stored && [200, 206].contains(&response.status) {
        assert_eq!(response.get("x-content-type-options"), Some("nosniff"), "{what}");
    }
    if response.status >= 400 {
        check_error(response, method, &what, secret);
    }
}

/// Likewise for the rules that depend on what was asked.
#[track_caller]
pub fn check_target(response: &Response, method: &str, target: &str) {
    let what = format!("{method} {target} -> {}", response.text());
    let Some(path) = target.strip_prefix("/v2/") else { return };
    let version = response.get("docker-distribution-api-version");
    assert_eq!(version, Some("registry/2.0"), "{what}");
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let segments: Vec<&str> = path.rsplit('/').collect();
    let digest = match segments[..] {
        [digest, "blobs", ..] if is_digest(digest) => Some(digest),
        [reference, "manifests", ..] => Some(reference).filter(|text| is_digest(text)),
        [_, "uploads", "blobs", ..] | ["uploads", "blobs", ..] => {
            check_upload(response, segments[0], &what);
            let named = query.split('&').filter_map(|pair| pair.split_once('='));
            named.filter(|(key, _)| ["digest", "mount"].contains(key)).map(|(_, digest)| digest).next_back()
        }
        _ => return,
    };
    if ![200, 201, 206, 304].contains(&response.status) {
        return;
    }
    let told = response.header("docker-content-digest");
    let asked = digest.map(|digest| digest.replace("%3A", ":").replace("%3a", ":"));
    assert!(asked.is_none_or(|asked| asked == told), "Docker-Content-Digest: {what}");
    let told = Digest::parse(told).unwrap_or_else(|_| panic!("Docker-Content-Digest: {what}"));
    if response.status == 200 && method == "GET" && segments[1] == "manifests" {
        assert_eq!(Digest::of(told.algorithm(), &response.body), told, "the bytes are not those of {what}");
    }
}

fn is_digest(text: &str) -> bool {
    text.contains(':') || text.contains("%3A") || text.contains("%3a")
}

/// `id` is the last segment of the path, which is empty or `uploads` for a POST.
#[track_caller]
fn check_upload(response: &Response, id: &str, what: &str) {
    let uuid = response.get("docker-upload-uuid");
    if UploadId::parse(id).is_none() {
        // A blob that is there at once has no session.
        assert_eq!(uuid.is_some(), response.status == 202, "Docker-Upload-UUID: {what}");
    } else if [201, 202, 204, 404, 405, 409, 413, 416].contains(&response.status) {
        assert_eq!(uuid, Some(id), "Docker-Upload-UUID: {what}");
    }
}

#[track_caller]
fn check_error(response: &Response, method: &str, what: &str, secret: &str) {
    let text = String::from_utf8_lossy(&response.body);
    for internal in [secret, "src/", "os error", "panicked", "sqlite", "rusqlite", "control.db"] {
        assert!(!text.contains(internal), "the error shows {internal:?}: {what}");
    }
    if method == "HEAD" {
        return;
    }
    assert_eq!(response.get("content-type"), Some("application/json"), "{what}");
    let body = response.json();
    if body["writes"]["allowed"] == false {
        // `/healthz` is a document of 503.
        return;
    }
    let errors = body["errors"].as_array().unwrap_or_else(|| panic!("no errors[]: {what}"));
    assert!(!errors.is_empty(), "errors[] is empty: {what}");
    for error in errors {
        let code = error["code"].as_str().unwrap_or_else(|| panic!("no code: {what}"));
        assert!(CODES.contains(&code), "{code} is not in the closed set: {what}");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "no message: {what}");
        assert!(!message.contains(|c: char| c.is_control()), "control character in the message: {what}");
    }
}
