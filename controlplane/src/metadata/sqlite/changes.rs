//! The changes, in SQL. Each function runs inside a savepoint of the writer's transaction.
//!
//! Invariants: conditions are checked before the first row is written, so that a member which is refused
//! has written nothing. Whatever takes a cached *yes* away puts its slots into [`Revoked`]; nothing else
//! does.

use control::{Epochs, PushedBlob, Slot};
use oci::{Digest, Problem, Reference, RepositoryName, Tag};
use rusqlite::{Connection, OptionalExtension, params};

use super::columns::DigestColumn;
use super::migrations::{DELETED_LINK, DELETED_MANIFEST, DELETED_TAG, EDGE_BLOB, EDGE_CHILD, HOME};
use super::reads;
use super::touches::Touch;
use crate::metadata::{DeleteManifest, Edge, EdgeKind, Mount, NewManifest, preconditions};
use crate::mirror::Names;

/// Why a member of a batch did not happen.
#[derive(Debug)]
pub(super) enum Refused {
    /// It may not; the rest of the batch goes on.
    Problem(Problem),
    /// The database could not.
    Broken(rusqlite::Error),
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Refused {
        Refused::Problem(problem)
    }
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Refused {
        Refused::Broken(error)
    }
}

type Sql<T> = rusqlite::Result<T>;

/// The slots that a batch makes odd while it commits.
pub(super) struct Revoked<'a> {
    epochs: &'a Epochs,
    names: &'a Names,
    pub slots: Vec<Slot>,
}

impl<'a> Revoked<'a> {
    pub(super) fn new(epochs: &'a Epochs, names: &'a Names) -> Revoked<'a> {
        Revoked { epochs, names, slots: Vec::new() }
    }

    pub(super) fn repository(&mut self, name: &RepositoryName) {
        self.slots.push(self.epochs.of_repository(name));
    }

    /// An upstream's repository, by each name that a core may know it by.
    pub(super) fn mirrored(&mut self, name: &RepositoryName) {
        self.repository(name);
        self.names.also_called(name).iter().for_each(|also| self.repository(also));
    }

    /// A name that is written for the first time. It may have been the root mirror's until now.
    fn first_written(&mut self, name: &RepositoryName) {
        if self.names.has_root() {
            self.repository(name);
        }
    }

    fn digest(&mut self, digest: &Digest) {
        self.slots.push(self.epochs.of_digest(digest));
    }
}

/// A transaction's view: where it writes, when it is, and what it revokes.
pub(super) struct Change<'a, 'e> {
    pub connection: &'a Connection,
    /// Milliseconds of the clock.
    pub now: i64,
    pub revoked: &'a mut Revoked<'e>,
}

impl Change<'_, '_> {
    /// end-4b, end-6: the blob is home, and `repository` has a link to it. Of a blob that was home the pusher's
    /// bytes were verified, not those that are kept.
    pub(super) fn push(&mut self, pushed: &PushedBlob) -> Result<(), Refused> {
        let repository = self.repository_made(&pushed.repository)?;
        self.connection
            .prepare_cached(
                "INSERT INTO blob (digest, state, size_bytes, generation, verified_at)
                 VALUES (?1, ?2, ?3, 1, ?4)
                 ON CONFLICT (digest) DO UPDATE SET
                     state = excluded.state, size_bytes = excluded.size_bytes,
                     generation = generation + (tombstone_at IS NOT NULL),
                     tombstone_at = NULL",
            )?
            .execute(params![DigestColumn(pushed.digest), HOME, pushed.size_bytes, self.now])?;
        self.link(repository, &pushed.digest)?;
        Ok(())
    }

    /// end-11: `false` if nobody who was named has it.
    pub(super) fn mount(&mut self, mount: &Mount) -> Result<bool, Refused> {
        if reads::mountable(self.connection, mount)?.is_none() {
            return Ok(false);
        }
        let repository = self.repository_made(&mount.repository)?;
        self.connection
            .prepare_cached(
                "UPDATE blob SET tombstone_at = NULL, generation = generation + 1
                 WHERE digest = ?1 AND tombstone_at IS NOT NULL",
            )?
            .execute([DigestColumn(mount.digest)])?;
        self.link(repository, &mount.digest)?;
        Ok(true)
    }

    /// end-7: the manifest with everything that hangs on it.
    pub(super) fn put_manifest(&mut self, new: &NewManifest) -> Result<(), Refused> {
        let known = reads::repository(self.connection, &new.repository)?;
        let missing = self.missing(known, &new.edges)?;
        if !missing.is_empty() {
            return Err(Problem::ManifestBlobUnknown(missing).into());
        }
        let current = match known {
            Some(repository) => reads::current(self.connection, repository, &new.reference)?,
            None => None,
        };
        if !preconditions::allow(&new.preconditions, current) {
            return Err(Problem::PreconditionFailed.into());
        }
        let repository = self.repository_made(&new.repository)?;
        self.manifest(repository, new)?;
        for tag in &new.tags {
            self.tag(repository, new, tag)?;
        }
        Ok(())
    }

    /// end-9: a tag alone, or a manifest with its tags.
    pub(super) fn delete_manifest(&mut self, delete: &DeleteManifest) -> Result<(), Refused> {
        let unknown = || Problem::ManifestUnknown(delete.reference);
        let repository = reads::repository(self.connection, &delete.repository)?
            .ok_or(Problem::NameUnknown(delete.repository))?;
        let digest = reads::current(self.connection, repository, &delete.reference)?.ok_or_else(unknown)?;
        if let Reference::Digest(digest) = &delete.reference
            && let Some(by) = self.named_by(repository, digest, Some(EdgeKind::Child))?
        {
            return Err(Problem::BlobReferenced { digest: *digest, by }.into());
        }
        if !preconditions::allow(&delete.preconditions, Some(digest)) {
            return Err(Problem::PreconditionFailed.into());
        }
        self.revoked.repository(&delete.repository);
        match &delete.reference {
            Reference::Tag(tag) => {
                self.deleted(repository, DELETED_TAG, &digest, Some(tag.as_str()))?;
                self.connection
                    .prepare_cached("DELETE FROM tag WHERE repository = ?1 AND name = ?2")?
                    .execute(params![repository, tag.as_str()])?;
            }
            Reference::Digest(digest) => {
                self.revoked.digest(digest);
                self.delete_by_digest(repository, digest)?;
            }
        }
        Ok(())
    }

    /// end-10: the link of this repository, and nobody else's.
    pub(super) fn delete_blob(&mut self, name: &RepositoryName, digest: &Digest) -> Result<(), Refused> {
        let unknown = || Problem::BlobUnknown(*digest);
        let repository = reads::repository(self.connection, name)?.ok_or_else(unknown)?;
        if !reads::linked(self.connection, repository, digest)? {
            return Err(unknown().into());
        }
        if let Some(by) = self.named_by(repository, digest, None)? {
            return Err(Problem::BlobReferenced { digest: *digest, by }.into());
        }
        self.revoked.repository(name);
        self.revoked.digest(digest);
        self.deleted(repository, DELETED_LINK, digest, None)?;
        self.connection
            .prepare_cached("DELETE FROM link WHERE repository = ?1 AND digest = ?2")?
            .execute(params![repository, DigestColumn(*digest)])?;
        self.connection
            .prepare_cached(
                "UPDATE blob SET tombstone_at = ?2
                 WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM link WHERE link.digest = ?1)",
            )?
            .execute(params![DigestColumn(*digest), self.now])?;
        Ok(())
    }

    /// Links that were asked for. One that is gone meanwhile is none.
    pub(super) fn touch(&mut self, touches: &[Touch]) -> Sql<()> {
        let mut statement = self
            .connection
            .prepare_cached("UPDATE link SET last_touched_at = ?3 WHERE repository = ?1 AND digest = ?2")?;
        for touch in touches {
            statement.execute(params![touch.repository, DigestColumn(touch.digest), self.now])?;
        }
        Ok(())
    }

    /// Keeps the clock from ever going back, whatever the machine's does.
    pub(super) fn keep_time(&self) -> Sql<()> {
        self.connection.prepare_cached("UPDATE clock SET at = max(at, ?1)")?.execute([self.now])?;
        Ok(())
    }

    fn repository_made(&mut self, name: &RepositoryName) -> Sql<i64> {
        if let Some(repository) = reads::repository(self.connection, name)? {
            return Ok(repository);
        }
        self.revoked.first_written(name);
        self.connection
            .prepare_cached("INSERT INTO repository (name, created_at) VALUES (?1, ?2)")?
            .execute(params![name.as_str(), self.now])?;
        Ok(self.connection.last_insert_rowid())
    }

    fn link(&self, repository: i64, digest: &Digest) -> Sql<()> {
        self.connection
            .prepare_cached(
                "INSERT INTO link (repository, digest, created_at, last_touched_at) VALUES (?1, ?2, ?3, ?3)
                 ON CONFLICT (repository, digest) DO UPDATE SET last_touched_at = excluded.last_touched_at",
            )?
            .execute(params![repository, DigestColumn(*digest), self.now])?;
        Ok(())
    }

    /// What `edges` require and the repository lacks, each digest once, in order.
    fn missing(&self, repository: Option<i64>, edges: &[Edge]) -> Sql<Vec<Digest>> {
        let mut missing = Vec::new();
        for edge in edges.iter().filter(|edge| edge.required) {
            let here = match (repository, edge.kind) {
                (None, _) => false,
                (Some(id), EdgeKind::Blob) => reads::linked(self.connection, id, &edge.target)?,
                // BuildKit's cache indexes list layers as children.
                (Some(id), EdgeKind::Child) => {
                    reads::manifest_here(self.connection, id, &edge.target)?
                        || reads::linked(self.connection, id, &edge.target)?
                }
            };
            if !here && missing.last() != Some(&edge.target) {
                missing.push(edge.target);
            }
        }
        Ok(missing)
    }

    /// A manifest of the repository that names `target`, as `kind` or as whatever.
    fn named_by(&self, repository: i64, target: &Digest, kind: Option<EdgeKind>) -> Sql<Option<Digest>> {
        self.connection
            .prepare_cached(
                "SELECT manifest.digest FROM edge JOIN manifest ON manifest.id = edge.manifest
                 WHERE edge.repository = ?1 AND edge.target = ?2 AND (?3 IS NULL OR edge.kind = ?3) LIMIT 1",
            )?
            .query_row(params![repository, DigestColumn(*target), kind.map(edge_column)], |row| row.get(0))
            .optional()
            .map(|found| found.map(|DigestColumn(digest)| digest))
    }

    /// The row, its edges and its place among referrers. What is here already stays as it is, unless its
    /// pusher now calls it another type: then that is what it is from now on.
    fn manifest(&mut self, repository: i64, new: &NewManifest) -> Sql<()> {
        let here: Option<(i64, String)> = self
            .connection
            .prepare_cached("SELECT id, media_type FROM manifest WHERE repository = ?1 AND digest = ?2")?
            .query_row(params![repository, DigestColumn(new.digest)], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match here {
            Some((_, media_type)) if media_type == new.media_type => Ok(()),
            Some((id, _)) => {
                self.revoked.repository(&new.repository);
                self.revoked.digest(&new.digest);
                self.connection
                    .prepare_cached("UPDATE manifest SET media_type = ?2 WHERE id = ?1")?
                    .execute(params![id, new.media_type])?;
                self.take_apart(id)?;
                self.hang(repository, id, new)
            }
            None => {
                self.connection
                    .prepare_cached(
                        "INSERT INTO manifest (repository, digest, media_type, pushed_at, bytes)
                         VALUES (?1, ?2, ?3, ?4, ?5)",
                    )?
                    .execute(params![
                        repository,
                        DigestColumn(new.digest),
                        new.media_type,
                        self.now,
                        &new.bytes[..]
                    ])?;
                self.hang(repository, self.connection.last_insert_rowid(), new)
            }
        }
    }

    /// Hangs edges and referrer on a manifest's row.
    fn hang(&self, repository: i64, id: i64, new: &NewManifest) -> Sql<()> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO edge (repository, target, kind, manifest) VALUES (?1, ?2, ?3, ?4)",
        )?;
        for edge in &new.edges {
            statement.execute(params![repository, DigestColumn(edge.target), edge_column(edge.kind), id])?;
        }
        if let Some(referrer) = &new.referrer {
            self.connection
                .prepare_cached(
                    "INSERT INTO referrer (manifest, repository, subject, digest, artifact_type, entry)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![
                    id,
                    repository,
                    DigestColumn(referrer.subject),
                    DigestColumn(new.digest),
                    referrer.artifact_type,
                    referrer.entry
                ])?;
        }
        Ok(())
    }

    fn take_apart(&self, id: i64) -> Sql<()> {
        self.connection.prepare_cached("DELETE FROM edge WHERE manifest = ?1")?.execute([id])?;
        self.connection.prepare_cached("DELETE FROM referrer WHERE manifest = ?1")?.execute([id])?;
        Ok(())
    }

    fn tag(&mut self, repository: i64, new: &NewManifest, tag: &Tag) -> Sql<()> {
        match reads::current(self.connection, repository, &Reference::Tag(*tag))? {
            Some(digest) if digest == new.digest => return Ok(()),
            Some(_other) => self.revoked.repository(&new.repository),
            None => {}
        }
        self.connection
            .prepare_cached(
                "INSERT INTO tag (repository, name, digest, updated_at) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (repository, name) DO UPDATE SET
                     digest = excluded.digest, updated_at = excluded.updated_at",
            )?
            .execute(params![repository, tag.as_str(), DigestColumn(new.digest), self.now])?;
        Ok(())
    }

    fn delete_by_digest(&self, repository: i64, digest: &Digest) -> Sql<()> {
        let column = DigestColumn(*digest);
        self.connection
            .prepare_cached(
                "INSERT INTO deletion (repository, what, digest, tag, at)
                 SELECT repository, ?3, digest, name, ?4 FROM tag WHERE repository = ?1 AND digest = ?2",
            )?
            .execute(params![repository, column, DELETED_TAG, self.now])?;
        self.connection
            .prepare_cached("DELETE FROM tag WHERE repository = ?1 AND digest = ?2")?
            .execute(params![repository, column])?;
        let id: i64 = self
            .connection
            .prepare_cached("SELECT id FROM manifest WHERE repository = ?1 AND digest = ?2")?
            .query_row(params![repository, column], |row| row.get(0))?;
        self.take_apart(id)?;
        self.connection.prepare_cached("DELETE FROM manifest WHERE id = ?1")?.execute([id])?;
        self.deleted(repository, DELETED_MANIFEST, digest, None)
    }

    fn deleted(&self, repository: i64, what: i64, digest: &Digest, tag: Option<&str>) -> Sql<()> {
        self.connection
            .prepare_cached(
                "INSERT INTO deletion (repository, what, digest, tag, at) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![repository, what, DigestColumn(*digest), tag, self.now])?;
        Ok(())
    }
}

pub(super) fn edge_column(kind: EdgeKind) -> i64 {
    match kind {
        EdgeKind::Blob => EDGE_BLOB,
        EdgeKind::Child => EDGE_CHILD,
    }
}
