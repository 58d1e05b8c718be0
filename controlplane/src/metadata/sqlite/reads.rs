//! The questions, in SQL. Each function is one read transaction, or part of the writer's.

use std::sync::Arc;

use bytes::Bytes;
use control::Document;
use oci::{Digest, Reference, RepositoryName};
use rusqlite::{Connection, OptionalExtension, params};

use super::columns::DigestColumn;
use super::migrations::HOME;
use super::touches::Touch;
use crate::metadata::{Listed, Mount, Page, Referrers, ReferrersQuery};

type Sql<T> = rusqlite::Result<T>;

/// The row of a repository.
pub(super) fn repository(connection: &Connection, name: &RepositoryName) -> Sql<Option<i64>> {
    connection
        .prepare_cached("SELECT id FROM repository WHERE name = ?1")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()
}

/// A link with the size of its blob in bytes.
pub(super) fn link(
    connection: &Connection,
    name: &RepositoryName,
    digest: &Digest,
) -> Sql<Option<(Touch, u64)>> {
    connection
        .prepare_cached(
            "SELECT link.repository, blob.size_bytes
             FROM repository
             JOIN link ON link.repository = repository.id AND link.digest = ?2
             JOIN blob ON blob.digest = link.digest AND blob.state = ?3
             WHERE repository.name = ?1",
        )?
        .query_row(params![name.as_str(), DigestColumn(*digest), HOME], |row| {
            Ok((Touch { repository: row.get(0)?, digest: *digest }, row.get(1)?))
        })
        .optional()
}

/// Whether `repository` has a link to the blob.
pub(super) fn linked(connection: &Connection, repository: i64, digest: &Digest) -> Sql<bool> {
    connection
        .prepare_cached("SELECT 1 FROM link WHERE repository = ?1 AND digest = ?2")?
        .exists(params![repository, DigestColumn(*digest)])
}

/// The size of a blob that is home, if the repository has a link to it already, or the one it is to come from
/// has, or any.
pub(super) fn mountable(connection: &Connection, mount: &Mount) -> Sql<Option<u64>> {
    if let Some((_, size_bytes)) = link(connection, &mount.repository, &mount.digest)? {
        return Ok(Some(size_bytes));
    }
    match &mount.from {
        Some(name) => Ok(link(connection, name, &mount.digest)?.map(|(_, size_bytes)| size_bytes)),
        None => connection
            .prepare_cached(
                "SELECT size_bytes FROM blob WHERE digest = ?1 AND state = ?2
                 AND EXISTS (SELECT 1 FROM link WHERE link.digest = blob.digest)",
            )?
            .query_row(params![DigestColumn(mount.digest), HOME], |row| row.get(0))
            .optional(),
    }
}

/// The manifest with its bytes.
pub(super) fn manifest(
    connection: &Connection,
    name: &RepositoryName,
    reference: &Reference,
) -> Sql<Option<Document>> {
    let document = |row: &rusqlite::Row<'_>| {
        let DigestColumn(digest) = row.get(0)?;
        let media_type: Arc<str> = row.get(1)?;
        let bytes: Vec<u8> = row.get(2)?;
        Ok(Document::new(digest, media_type, Bytes::from(bytes)))
    };
    match reference {
        Reference::Tag(tag) => connection
            .prepare_cached(
                "SELECT manifest.digest, manifest.media_type, manifest.bytes
                 FROM repository
                 JOIN tag ON tag.repository = repository.id AND tag.name = ?2
                 JOIN manifest ON manifest.repository = tag.repository AND manifest.digest = tag.digest
                 WHERE repository.name = ?1",
            )?
            .query_row(params![name.as_str(), tag.as_str()], document)
            .optional(),
        Reference::Digest(digest) => connection
            .prepare_cached(
                "SELECT manifest.digest, manifest.media_type, manifest.bytes
                 FROM repository
                 JOIN manifest ON manifest.repository = repository.id AND manifest.digest = ?2
                 WHERE repository.name = ?1",
            )?
            .query_row(params![name.as_str(), DigestColumn(*digest)], document)
            .optional(),
    }
}

/// The digest that a tag points to, or the digest itself if its manifest is here.
pub(super) fn current(
    connection: &Connection,
    repository: i64,
    reference: &Reference,
) -> Sql<Option<Digest>> {
    match reference {
        Reference::Tag(tag) => connection
            .prepare_cached("SELECT digest FROM tag WHERE repository = ?1 AND name = ?2")?
            .query_row(params![repository, tag.as_str()], |row| row.get(0))
            .optional()
            .map(|found| found.map(|DigestColumn(digest)| digest)),
        Reference::Digest(digest) => Ok(manifest_here(connection, repository, digest)?.then_some(*digest)),
    }
}

/// Whether the manifest is in `repository`.
pub(super) fn manifest_here(connection: &Connection, repository: i64, digest: &Digest) -> Sql<bool> {
    connection
        .prepare_cached("SELECT 1 FROM manifest WHERE repository = ?1 AND digest = ?2")?
        .exists(params![repository, DigestColumn(*digest)])
}

/// The sizes of those blobs that are home, in order.
pub(super) fn home(connection: &Connection, digests: &[Digest]) -> Sql<Vec<Option<u64>>> {
    let transaction = connection.unchecked_transaction()?;
    let mut found = Vec::with_capacity(digests.len());
    {
        let mut statement =
            transaction.prepare_cached("SELECT size_bytes FROM blob WHERE digest = ?1 AND state = ?2")?;
        for digest in digests {
            found.push(
                statement.query_row(params![DigestColumn(*digest), HOME], |row| row.get(0)).optional()?,
            );
        }
    }
    transaction.finish()?;
    Ok(found)
}

const HOME_AFTER: &str = "SELECT digest, size_bytes FROM blob
     WHERE digest > coalesce(?1, x'') AND state = ?2 ORDER BY digest LIMIT ?3";

/// A page of the blobs that are home, with their sizes.
pub(super) fn home_after(
    connection: &Connection,
    after: Option<Digest>,
    most: u32,
) -> Sql<Vec<(Digest, u64)>> {
    connection
        .prepare_cached(HOME_AFTER)?
        .query_map(params![after.map(DigestColumn), HOME, most], |row| {
            let DigestColumn(digest) = row.get(0)?;
            Ok((digest, row.get(1)?))
        })?
        .collect()
}

/// A page of tags; `None`: no such repository.
pub(super) fn tags(connection: &Connection, name: &RepositoryName, page: &Page) -> Sql<Option<Listed>> {
    let transaction = connection.unchecked_transaction()?;
    let Some(repository) = repository(&transaction, name)? else { return Ok(None) };
    let names = transaction
        .prepare_cached("SELECT name FROM tag WHERE repository = ?1 AND name > ?2 ORDER BY name LIMIT ?3")?
        .query_map(params![repository, page.after, one_more(page)], |row| row.get(0))?
        .collect::<Sql<Vec<String>>>()?;
    transaction.finish()?;
    Ok(Some(cut(names, page)))
}

/// A page of repositories.
pub(super) fn repositories(connection: &Connection, page: &Page) -> Sql<Listed> {
    let names = connection
        .prepare_cached("SELECT name FROM repository WHERE name > ?1 ORDER BY name LIMIT ?2")?
        .query_map(params![page.after, one_more(page)], |row| row.get(0))?
        .collect::<Sql<Vec<String>>>()?;
    Ok(cut(names, page))
}

pub(super) fn one_more(page: &Page) -> u64 {
    u64::from(page.limit) + 1
}

pub(super) fn cut(mut names: Vec<String>, page: &Page) -> Listed {
    let limit = page.limit as usize;
    let more = names.len() > limit;
    names.truncate(limit);
    Listed { names, more }
}

/// A page of referrers.
pub(super) fn referrers(connection: &Connection, query: &ReferrersQuery) -> Sql<Referrers> {
    let mut statement = connection.prepare_cached(&referrers_sql(query.artifact_type.is_some()))?;
    let mut rows = statement.query(params![
        query.repository.as_str(),
        DigestColumn(query.subject),
        query.after.map(DigestColumn),
        query.artifact_type,
    ])?;
    let mut page = Referrers { entries: Vec::new(), more_after: None };
    let mut room = query.limit_bytes;
    let mut last = None;
    while let Some(row) = rows.next()? {
        let DigestColumn(digest) = row.get(0)?;
        let entry: String = row.get(1)?;
        let length = entry.len() + 1;
        if last.is_some() && length > room {
            page.more_after = last;
            break;
        }
        room = room.saturating_sub(length);
        page.entries.push(entry);
        last = Some(digest);
    }
    Ok(page)
}

/// Of all types, or of the one that is `?4`: each has its index.
fn referrers_sql(of_one_type: bool) -> String {
    let types = if of_one_type { "referrer.artifact_type = ?4" } else { "?4 IS NULL" };
    format!(
        "SELECT referrer.digest, referrer.entry
         FROM repository
         JOIN referrer ON referrer.repository = repository.id
             AND referrer.subject = ?2 AND referrer.digest > coalesce(?3, x'')
         WHERE repository.name = ?1 AND {types}
         ORDER BY referrer.digest"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::sqlite::migrations;

    /// The last page of a million blobs costs what the first does.
    #[test]
    fn a_page_of_blobs_begins_where_the_last_one_ended() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrations::run(&mut connection).unwrap();
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {HOME_AFTER}")).unwrap();
        let steps =
            statement.query_map(params![None::<i64>, HOME, 1], |row| row.get::<_, String>(3)).unwrap();
        let plan = steps.collect::<Sql<Vec<String>>>().unwrap();
        assert_eq!(plan, ["SEARCH blob USING PRIMARY KEY (digest>?)"]);
    }

    /// A page of few referrers among many is found without looking at the many, and comes in order as it is.
    #[test]
    fn referrers_are_found_by_an_index_with_a_type_and_without() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrations::run(&mut connection).unwrap();
        for (of_one_type, index) in [(true, "referrer_by_type"), (false, "referrer_by_subject")] {
            let sql = format!("EXPLAIN QUERY PLAN {}", referrers_sql(of_one_type));
            let mut statement = connection.prepare(&sql).unwrap();
            let steps = statement
                .query_map(params![None::<i64>, None::<i64>, None::<i64>, None::<i64>], |row| {
                    row.get::<_, String>(3)
                });
            let plan = steps.unwrap().collect::<Sql<Vec<String>>>().unwrap().join("; ");
            assert!(plan.contains(index) && plan.contains("digest>?"), "{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
