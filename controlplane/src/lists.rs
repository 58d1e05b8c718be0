//! The lists of what was pushed here: tags (end-8), repositories, referrers (end-12). Those of an upstream's repository
//! are the mirror's; the catalog names none of them.
//!
//! Invariants: an empty list is `[]`, never `null`. A page says where the next one starts, or is the last.
//! Referrers come from what manifests say of their subject when they are pushed. The index that a client
//! keeps under a fallback tag lists such manifests again and adds none: of its entries only those that are
//! here and name this subject would count, and they are found already.

use control::Reply;
use oci::{Digest, Problem, RepositoryName};
use serde_json::json;

use crate::limits;
use crate::metadata::{Metadata, Page, ReferrersQuery};

const JSON: &str = "application/json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const REFERRERS_HEAD: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":["#;
const REFERRERS_TAIL: &str = "]}";

/// end-8. Errors: `NameUnknown` (404).
pub(crate) async fn tags<M: Metadata>(
    metadata: &M,
    repository: RepositoryName,
    page: &oci::Page,
    target: &str,
) -> Result<Reply, Problem> {
    let listed = metadata.tags(repository, asked(page)).await?.ok_or(Problem::NameUnknown(repository))?;
    let body = json!({ "name": repository.as_str(), "tags": listed.names });
    Ok(list(body, page, listed.names.last().filter(|_| listed.more), target))
}

/// `GET /v2/_catalog`.
pub(crate) async fn catalog<M: Metadata>(
    metadata: &M,
    page: &oci::Page,
    target: &str,
) -> Result<Reply, Problem> {
    let listed = metadata.repositories(asked(page)).await?;
    let body = json!({ "repositories": listed.names });
    Ok(list(body, page, listed.names.last().filter(|_| listed.more), target))
}

fn asked(page: &oci::Page) -> Page {
    Page { after: page.last.clone().unwrap_or_default(), limit: page.limit() }
}

/// A page of nothing has no last entry, so `n=0` gets no link.
pub(crate) fn list(
    body: serde_json::Value,
    page: &oci::Page,
    more_after: Option<&String>,
    target: &str,
) -> Reply {
    let mut reply = Reply::whole(200, JSON, body.to_string());
    if let Some(last) = more_after {
        reply.headers.push(("link", page.next_link(target.as_bytes(), last)));
    }
    reply
}

/// end-12: 200 in every case, also when nothing of that name is here.
pub(crate) async fn referrers<M: Metadata>(
    metadata: &M,
    asked: oci::Referrers,
    target: &str,
) -> Result<Reply, Problem> {
    let query = ReferrersQuery {
        repository: asked.repository,
        subject: asked.subject,
        artifact_type: asked.artifact_type.clone(),
        after: after(&asked.page)?,
        limit_bytes: limits::REFERRERS_BYTES - REFERRERS_HEAD.len() - REFERRERS_TAIL.len(),
    };
    let found = metadata.referrers(query).await?;
    let body = referrers_body(&found.entries.join(","));
    let last = found.more_after.map(|last| last.to_string());
    Ok(referrers_reply(body, &asked, last.as_deref(), target))
}

/// An index of these entries, which have a comma between each two.
pub(crate) fn referrers_body(entries: &str) -> String {
    [REFERRERS_HEAD, entries, REFERRERS_TAIL].concat()
}

/// An index of referrers as an answer; `last` is where it goes on.
pub(crate) fn referrers_reply(
    body: String,
    asked: &oci::Referrers,
    last: Option<&str>,
    target: &str,
) -> Reply {
    let mut reply =
        Reply { status: 200, headers: vec![("content-type", INDEX.to_owned())], body: body.into() };
    if asked.artifact_type.is_some() {
        reply.headers.push(("oci-filters-applied", "artifactType".to_owned()));
    }
    if let Some(last) = last {
        reply.headers.push(("link", asked.page.next_link(target.as_bytes(), last)));
    }
    reply
}

/// The digest that a link of ours put into `last`. Errors: `DigestInvalid` (400) for anything else.
fn after(page: &oci::Page) -> Result<Option<Digest>, Problem> {
    let Some(last) = &page.last else { return Ok(None) };
    Digest::parse(last).map(Some).map_err(|error| Problem::DigestInvalid { why: error.why() })
}
