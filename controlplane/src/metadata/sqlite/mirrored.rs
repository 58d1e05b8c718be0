//! What is kept of upstreams, in SQL: the questions, and the changes inside a savepoint of the writer's transaction.
//!
//! Invariants: `mirrored_total` is the sum of what all rows are charged with, and after a change at most its bound.
//! Whoever takes a tag away or moves it puts the slots of all its repository's names into `Revoked`.

use std::sync::Arc;

use bytes::Bytes;
use control::{Document, Link};
use oci::{Digest, RepositoryName, Tag};
use rusqlite::{Connection, OptionalExtension, params};

use super::changes::{Change, Refused, edge_column};
use super::columns::DigestColumn;
use super::migrations::EDGE_BLOB;
use super::reads::{cut, link, one_more};
use super::touches::Touch;
use crate::metadata::{Keep, Kept, KeptTag, Listed, MirroredEdge, NewMirrored, Page, Standing};

type Sql<T> = rusqlite::Result<T>;

/// What a row takes on disk beside the bytes of a manifest, roughly, in bytes.
const ROW_BYTES: u64 = 512;
const EDGE_BYTES: u64 = 160;
pub(super) const TAG_BYTES: u64 = 256;

/// Whether the name was ever written here, or claimed by an upload.
pub(super) fn is_local(connection: &Connection, name: &RepositoryName) -> Sql<bool> {
    connection
        .prepare_cached(
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM repository WHERE name = ?1)
             OR EXISTS (SELECT 1 FROM local_name WHERE name = ?1)",
        )?
        .exists([name.as_str()])
}

/// A local repository whose name begins with `prefix` and a slash.
pub(super) fn local_below(connection: &Connection, prefix: &str) -> Sql<Option<String>> {
    // `0` follows `/`.
    connection
        .prepare_cached("SELECT name FROM repository WHERE name > ?1 || '/' AND name < ?1 || '0' LIMIT 1")?
        .query_row([prefix], |row| row.get(0))
        .optional()
}

pub(super) fn repository(connection: &Connection, name: &RepositoryName) -> Sql<Option<i64>> {
    connection
        .prepare_cached("SELECT id FROM mirrored_repository WHERE name = ?1")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()
}

pub(super) fn is_mirrored(connection: &Connection, name: &RepositoryName) -> Sql<bool> {
    connection.prepare_cached("SELECT 1 FROM mirrored_repository WHERE name = ?1")?.exists([name.as_str()])
}

/// From digest, media type, bytes, and when it was last used.
fn kept(row: &rusqlite::Row<'_>) -> Sql<Kept> {
    let DigestColumn(digest) = row.get(0)?;
    let media_type: Arc<str> = row.get(1)?;
    let bytes: Vec<u8> = row.get(2)?;
    let document = Document::new(digest, media_type, Bytes::from(bytes));
    Ok(Kept { document, used_at: row.get(3)? })
}

pub(super) fn manifest(connection: &Connection, name: &RepositoryName, digest: &Digest) -> Sql<Option<Kept>> {
    connection
        .prepare_cached(
            "SELECT manifest.digest, manifest.media_type, manifest.bytes, manifest.used_at
             FROM mirrored_repository AS repository
             JOIN mirrored_manifest AS manifest
                 ON manifest.repository = repository.id AND manifest.digest = ?2
             WHERE repository.name = ?1",
        )?
        .query_row(params![name.as_str(), DigestColumn(*digest)], kept)
        .optional()
}

pub(super) fn tag(connection: &Connection, name: &RepositoryName, tag: &Tag) -> Sql<Option<KeptTag>> {
    connection
        .prepare_cached(
            "SELECT manifest.digest, manifest.media_type, manifest.bytes, manifest.used_at, tag.checked_at
             FROM mirrored_repository AS repository
             JOIN mirrored_tag AS tag ON tag.repository = repository.id AND tag.name = ?2
             JOIN mirrored_manifest AS manifest
                 ON manifest.repository = tag.repository AND manifest.digest = tag.digest
             WHERE repository.name = ?1",
        )?
        .query_row(params![name.as_str(), tag.as_str()], |row| {
            Ok(KeptTag { manifest: kept(row)?, checked_at: row.get(4)? })
        })
        .optional()
}

/// What `Mirrored::standing` tells, with the touch of a link. One transaction, which is what a statement costs most.
pub(super) fn standing(
    connection: &Connection,
    bare: Option<&RepositoryName>,
    repository: &RepositoryName,
    digest: &Digest,
) -> Sql<(Standing, Option<Touch>)> {
    let reading = connection.unchecked_transaction()?;
    if let Some(bare) = bare {
        if let Some((touch, size_bytes)) = link(&reading, bare, digest)? {
            return Ok((Standing::Pushed(Link::Here { size_bytes }), Some(touch)));
        }
        if is_local(&reading, bare)? {
            return Ok((Standing::Local, None));
        }
    }
    Ok((named(&reading, repository, digest)?, None))
}

/// Both ends of the sizes that manifests tell of a blob, by an index: thousands of manifests may name one base layer. An
/// entry of an index permits nothing, since not every registry looks for it.
fn named(connection: &Connection, name: &RepositoryName, target: &Digest) -> Sql<Standing> {
    let sizes = connection
        .prepare_cached(SIZES)?
        .query_row(params![name.as_str(), DigestColumn(*target), EDGE_BLOB], |row| {
            Ok((row.get::<_, Option<u64>>(0)?, row.get::<_, Option<u64>>(1)?))
        })
        .optional()?;
    Ok(match sizes {
        None => Standing::Unopened,
        Some((None, _)) => Standing::Unnamed,
        Some((smallest, largest)) => Standing::Named(smallest.filter(|_| smallest == largest)),
    })
}

/// The smallest and the largest.
const SIZES: &str = "SELECT
     (SELECT size_bytes FROM mirrored_edge AS edge
      WHERE edge.repository = repository.id AND target = ?2 AND kind = ?3 ORDER BY size_bytes LIMIT 1),
     (SELECT size_bytes FROM mirrored_edge AS edge
      WHERE edge.repository = repository.id AND target = ?2 AND kind = ?3 ORDER BY size_bytes DESC LIMIT 1)
     FROM mirrored_repository AS repository WHERE name = ?1";

/// A page of known tags; `None`: nothing of the repository is kept.
pub(super) fn tags(connection: &Connection, name: &RepositoryName, page: &Page) -> Sql<Option<Listed>> {
    let transaction = connection.unchecked_transaction()?;
    let Some(repository) = repository(&transaction, name)? else { return Ok(None) };
    let names = transaction
        .prepare_cached(
            "SELECT name FROM mirrored_tag WHERE repository = ?1 AND name > ?2 ORDER BY name LIMIT ?3",
        )?
        .query_map(params![repository, page.after, one_more(page)], |row| row.get(0))?
        .collect::<Sql<Vec<String>>>()?;
    transaction.finish()?;
    Ok(Some(cut(names, page)))
}

impl Change<'_, '_> {
    /// An upload was opened for a name that may have been an upstream's until now.
    pub(super) fn claim(&mut self, name: &RepositoryName) -> Result<(), Refused> {
        if is_local(self.connection, name)? {
            return Ok(());
        }
        self.revoked.repository(name);
        self.connection
            .prepare_cached("INSERT INTO local_name (name, claimed_at) VALUES (?1, ?2)")?
            .execute(params![name.as_str(), self.now])?;
        Ok(())
    }

    /// `false`: what the change is about is not kept.
    pub(super) fn keep(&mut self, keep: &Keep) -> Result<bool, Refused> {
        match keep {
            Keep::Manifest(new) => self.keep_manifest(new)?,
            Keep::Tag { repository: name, tag, digest, at } => {
                let Some(repository) = repository(self.connection, name)? else { return Ok(false) };
                if row_of(self.connection, repository, digest)?.is_none() {
                    return Ok(false);
                }
                self.set_tag(name, repository, tag, digest, *at)?;
            }
            Keep::NoTag { repository: name, tag } => {
                let Some(repository) = repository(self.connection, name)? else { return Ok(false) };
                let gone = self
                    .connection
                    .prepare_cached("DELETE FROM mirrored_tag WHERE repository = ?1 AND name = ?2")?
                    .execute(params![repository, tag.as_str()])?;
                if gone == 0 {
                    return Ok(false);
                }
                self.revoked.mirrored(name);
                self.charge(0, TAG_BYTES)?;
            }
            Keep::Pin { pattern } => return Ok(self.pin(pattern)?),
            Keep::Unpin { pattern } => return Ok(self.unpin(pattern)?),
            Keep::Used { repository: name, digest, at } => {
                let Some(repository) = repository(self.connection, name)? else { return Ok(false) };
                self.connection
                    .prepare_cached(
                        "UPDATE mirrored_manifest SET used_at = max(used_at, ?3)
                         WHERE repository = ?1 AND digest = ?2",
                    )?
                    .execute(params![repository, DigestColumn(*digest), at])?;
                self.mirror_time(*at)?;
            }
        }
        Ok(true)
    }

    fn keep_manifest(&mut self, new: &NewMirrored) -> Sql<()> {
        let repository = match repository(self.connection, &new.repository)? {
            Some(repository) => repository,
            None => {
                self.connection
                    .prepare_cached("INSERT INTO mirrored_repository (name) VALUES (?1)")?
                    .execute([new.repository.as_str()])?;
                self.connection.last_insert_rowid()
            }
        };
        let id = match row_of(self.connection, repository, &new.digest)? {
            // What a digest names never changes, and what it is served as was told together with it.
            Some(id) => id,
            None => {
                let charge_bytes = new.bytes.len() as u64 + ROW_BYTES + EDGE_BYTES * new.edges.len() as u64;
                self.connection
                    .prepare_cached(
                        "INSERT INTO mirrored_manifest
                             (repository, digest, media_type, used_at, charge_bytes, bytes)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    )?
                    .execute(params![
                        repository,
                        DigestColumn(new.digest),
                        new.media_type,
                        new.at,
                        charge_bytes,
                        &new.bytes[..]
                    ])?;
                let id = self.connection.last_insert_rowid();
                self.hang_mirrored(repository, id, &new.edges)?;
                self.charge(charge_bytes, 0)?;
                id
            }
        };
        if let Some(tag) = &new.tag {
            self.set_tag(&new.repository, repository, tag, &new.digest, new.at)?;
        }
        self.mirror_time(new.at)?;
        self.make_room(new.bytes_max, id)
    }

    fn hang_mirrored(&self, repository: i64, id: i64, edges: &[MirroredEdge]) -> Sql<()> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO mirrored_edge (manifest, target, kind, repository, size_bytes)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for edge in edges {
            let (target, kind) = (DigestColumn(edge.target), edge_column(edge.kind));
            statement.execute(params![id, target, kind, repository, edge.size_bytes])?;
        }
        Ok(())
    }

    fn set_tag(
        &mut self,
        name: &RepositoryName,
        repository: i64,
        tag: &Tag,
        digest: &Digest,
        at: i64,
    ) -> Sql<()> {
        let before = self
            .connection
            .prepare_cached("SELECT digest FROM mirrored_tag WHERE repository = ?1 AND name = ?2")?
            .query_row(params![repository, tag.as_str()], |row| row.get(0))
            .optional()?;
        match before {
            Some(DigestColumn(before)) if before == *digest => {}
            Some(_other) => self.revoked.mirrored(name),
            None => self.charge(TAG_BYTES, 0)?,
        }
        self.connection
            .prepare_cached(
                "INSERT INTO mirrored_tag (repository, name, digest, checked_at) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (repository, name) DO UPDATE SET
                     digest = excluded.digest, checked_at = excluded.checked_at",
            )?
            .execute(params![repository, tag.as_str(), DigestColumn(*digest), at])?;
        self.mirror_time(at)
    }

    /// Takes away what was not asked for the longest, but never `keep`, until the bound holds.
    fn make_room(&mut self, bytes_max: u64, keep: i64) -> Sql<()> {
        while self.total()? > bytes_max {
            let oldest = self
                .connection
                .prepare_cached(
                    "SELECT id, repository, charge_bytes, digest FROM mirrored_manifest
                     WHERE id <> ?1 ORDER BY used_at, id LIMIT 1",
                )?
                .query_row([keep], |row| {
                    let DigestColumn(digest) = row.get(3)?;
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, digest))
                })
                .optional()?;
            let Some((id, repository, charge_bytes, digest)) = oldest else { return Ok(()) };
            self.evict(id, repository, charge_bytes, &digest)?;
        }
        Ok(())
    }

    pub(super) fn evict(&mut self, id: i64, repository: i64, charge_bytes: u64, digest: &Digest) -> Sql<()> {
        let tags = self
            .connection
            .prepare_cached("DELETE FROM mirrored_tag WHERE repository = ?1 AND digest = ?2")?
            .execute(params![repository, DigestColumn(*digest)])?;
        if tags > 0 {
            // When the tag comes again, nobody will see that it has moved meanwhile.
            let name: String = self
                .connection
                .prepare_cached("SELECT name FROM mirrored_repository WHERE id = ?1")?
                .query_row([repository], |row| row.get(0))?;
            if let Ok(name) = RepositoryName::parse(&name) {
                self.revoked.mirrored(&name);
            }
        }
        self.connection.prepare_cached("DELETE FROM mirrored_edge WHERE manifest = ?1")?.execute([id])?;
        self.connection.prepare_cached("DELETE FROM mirrored_manifest WHERE id = ?1")?.execute([id])?;
        self.connection
            .prepare_cached(
                "DELETE FROM mirrored_repository WHERE id = ?1
                 AND NOT EXISTS (SELECT 1 FROM mirrored_manifest WHERE repository = ?1)",
            )?
            .execute([repository])?;
        self.charge(0, charge_bytes + TAG_BYTES * tags as u64)
    }

    fn total(&self) -> Sql<u64> {
        self.connection
            .prepare_cached("SELECT bytes FROM mirrored_total WHERE id = 0")?
            .query_row([], |row| row.get(0))
    }

    fn charge(&self, more_bytes: u64, fewer_bytes: u64) -> Sql<()> {
        self.connection
            .prepare_cached("UPDATE mirrored_total SET bytes = bytes + ?1 - ?2 WHERE id = 0")?
            .execute(params![more_bytes, fewer_bytes])?;
        Ok(())
    }

    /// The mirror's clock goes on from here after a restart.
    fn mirror_time(&self, at: i64) -> Sql<()> {
        self.connection.prepare_cached("UPDATE clock SET at = max(at, ?1)")?.execute([at])?;
        Ok(())
    }
}

fn row_of(connection: &Connection, repository: i64, digest: &Digest) -> Sql<Option<i64>> {
    connection
        .prepare_cached("SELECT id FROM mirrored_manifest WHERE repository = ?1 AND digest = ?2")?
        .query_row(params![repository, DigestColumn(*digest)], |row| row.get(0))
        .optional()
}

#[cfg(test)]
mod tests;
