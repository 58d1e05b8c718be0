//! The rules that every reply keeps, whatever was asked; each reply of the whole suite passes here.

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

/// Fails if `response` to this request breaks a rule; `secret` is the server's data directory.
#[track_caller]
pub fn check(response: &Response, method: &str, target: &str, secret: &str) {
    let what = format!("{method} {target} -> {}", response.text());
    let date = response.get("date").unwrap_or_else(|| panic!("no Date: {what}"));
    assert!(date.len() == 29 && date.ends_with(" GMT"), "Date is no IMF-fixdate: {what}");
    if target.starts_with("/v2/") {
        let version = response.get("docker-distribution-api-version");
        assert_eq!(version, Some("registry/2.0"), "{what}");
    }
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
    if response.status >= 400 {
        check_error(response, &what, secret);
    }
}

fn check_error(response: &Response, what: &str, secret: &str) {
    let text = String::from_utf8_lossy(&response.body);
    for internal in [secret, "src/", "os error", "panicked", "sqlite", "rusqlite", "control.db"] {
        assert!(!text.contains(internal), "the error shows {internal:?}: {what}");
    }
    if response.body.is_empty() {
        return;
    }
    let media_type = response.get("content-type").unwrap_or_default();
    // Outside of `/v2/` a document may say more than an error does: `/healthz` is one of 503 as well.
    if !media_type.starts_with("application/json") || what.contains(" /healthz ") {
        return;
    }
    let body = response.json();
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
