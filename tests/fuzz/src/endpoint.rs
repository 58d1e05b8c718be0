//! The request target: decoded once, one meaning, the same for HEAD as for GET.

use oci::{Endpoint, Method, Page, Problem};

use super::latin1;

/// The input is a method, a space, and a target.
pub fn endpoint(bytes: &[u8]) {
    let space = bytes.iter().position(|byte| *byte == b' ').unwrap_or(bytes.len());
    let method = Method::parse(&latin1(&bytes[..space]));
    let target = bytes.get(space + 1..).unwrap_or_default();
    let parsed = Endpoint::parse(method, target);

    assert_eq!(Endpoint::parse(Method::Head, target), Endpoint::parse(Method::Get, target));
    if target.starts_with(b"/") {
        check_escapes(method, target, &parsed);
    }
    match &parsed {
        Ok(endpoint) => {
            if let Some((method, target)) = written(endpoint) {
                let again = Endpoint::parse(method, target.as_bytes());
                assert_eq!(again.as_ref(), Ok(endpoint), "written as {target}");
            }
        }
        Err(Problem::MethodNotAllowed { allow }) => {
            for allowed in allow.split(", ") {
                assert_ne!(allowed, method.name());
                let other = Endpoint::parse(Method::parse(allowed), target);
                assert!(!matches!(other, Err(Problem::MethodNotAllowed { .. })), "{allowed} is not allowed");
            }
        }
        Err(_) => {}
    }
}

/// A path means what it means when each of its bytes is an escape; the query is left as it is.
fn check_escapes(method: Method, target: &[u8], parsed: &Result<Endpoint, Problem>) {
    let question = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(question);
    let Some(path) = unescaped(path) else {
        assert!(matches!(parsed, Err(Problem::RequestMalformed { .. })), "a % that is no escape");
        return;
    };
    let mut escaped = b"/".to_vec();
    for byte in &path[1..] {
        escaped.extend_from_slice(format!("%{byte:02x}").as_bytes());
    }
    escaped.extend_from_slice(query);
    assert_eq!(&Endpoint::parse(method, &escaped), parsed);
    if let Ok(Some(repository)) = parsed.as_ref().map(Endpoint::repository) {
        assert!(latin1(&path).starts_with(&format!("/v2/{repository}/")), "{repository}");
    }
}

/// `None`: a `%` without two hex digits behind it.
fn unescaped(path: &[u8]) -> Option<Vec<u8>> {
    let text = latin1(path);
    let mut pieces = text.split('%');
    let mut plain = pieces.next()?.to_owned();
    for piece in pieces {
        let digits = piece.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        plain.push(char::from(u8::from_str_radix(digits, 16).ok()?));
        plain.push_str(&piece[2..]);
    }
    plain.chars().map(|letter| u8::try_from(letter).ok()).collect()
}

/// The request that asks for this and nothing else. `None`: a fixed path does not say which.
fn written(endpoint: &Endpoint) -> Option<(Method, String)> {
    let below = |method, repository: &oci::RepositoryName, rest: String| {
        Some((method, format!("/v2/{repository}/{rest}")))
    };
    match endpoint {
        Endpoint::Fixed => None,
        Endpoint::Base => Some((Method::Get, "/v2/".to_owned())),
        Endpoint::Catalog(page) => Some((Method::Get, format!("/v2/_catalog?{}", paging(page)))),
        Endpoint::GetBlob { repository, digest } => below(Method::Get, repository, format!("blobs/{digest}")),
        Endpoint::DeleteBlob { repository, digest } => {
            below(Method::Delete, repository, format!("blobs/{digest}"))
        }
        Endpoint::GetManifest { repository, reference } => {
            below(Method::Get, repository, format!("manifests/{reference}"))
        }
        Endpoint::DeleteManifest { repository, reference } => {
            below(Method::Delete, repository, format!("manifests/{reference}"))
        }
        Endpoint::PutManifest(put) => {
            let tags: String = put.tags.iter().map(|tag| format!("&tag={tag}")).collect();
            below(Method::Put, &put.repository, format!("manifests/{}?{tags}", put.reference))
        }
        Endpoint::OpenUpload(open) => {
            let mut query = String::new();
            if let Some(algorithm) = open.algorithm {
                query += &format!("&digest-algorithm={algorithm}");
            }
            if let Some(digest) = open.digest {
                query += &format!("&digest={digest}");
            }
            if let Some(mount) = &open.mount {
                query += &format!("&mount={}", mount.digest);
                if let Some(from) = mount.from {
                    query += &format!("&from={from}");
                }
            }
            below(Method::Post, &open.repository, format!("blobs/uploads/?{query}"))
        }
        Endpoint::PatchUpload { repository, id } => {
            below(Method::Patch, repository, format!("blobs/uploads/{id}"))
        }
        Endpoint::CloseUpload { repository, id, digest } => {
            below(Method::Put, repository, format!("blobs/uploads/{id}?digest={digest}"))
        }
        Endpoint::UploadStatus { repository, id } => {
            below(Method::Get, repository, format!("blobs/uploads/{id}"))
        }
        Endpoint::CancelUpload { repository, id } => {
            below(Method::Delete, repository, format!("blobs/uploads/{id}"))
        }
        Endpoint::Tags { repository, page } => {
            below(Method::Get, repository, format!("tags/list?{}", paging(page)))
        }
        Endpoint::Referrers(asked) => {
            let filter = asked.artifact_type.as_deref().map(escaped).unwrap_or_default();
            let query = format!("artifactType={filter}&{}", paging(&asked.page));
            below(Method::Get, &asked.repository, format!("referrers/{}?{query}", asked.subject))
        }
    }
}

fn paging(page: &Page) -> String {
    let n = page.n.map(|n| format!("n={n}&")).unwrap_or_default();
    format!("{n}last={}", page.last.as_deref().map(escaped).unwrap_or_default())
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
