//! What is kept of upstreams, looked at as a whole: which repositories, what they name, who names a blob; and pins.

use oci::{Digest, RepositoryName};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::changes::{Change, Refused};
use super::columns::DigestColumn;
use super::mirrored::repository;
use super::reads::{cut, one_more};
use crate::limits;
use crate::metadata::{Listed, Page};

type Sql<T> = rusqlite::Result<T>;

/// A page of repositories of which something is kept.
pub(super) fn repositories(connection: &Connection, page: &Page) -> Sql<Listed> {
    let names = connection
        .prepare_cached("SELECT name FROM mirrored_repository WHERE name > ?1 ORDER BY name LIMIT ?2")?
        .query_map(params![page.after, one_more(page)], |row| row.get(0))?
        .collect::<Sql<Vec<String>>>()?;
    Ok(cut(names, page))
}

/// A page of what kept manifests of a repository name.
pub(super) fn targets(
    connection: &Connection,
    name: &RepositoryName,
    after: Option<Digest>,
    most: u32,
) -> Sql<Vec<Digest>> {
    let Some(repository) = repository(connection, name)? else { return Ok(Vec::new()) };
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT target FROM mirrored_edge WHERE repository = ?1 AND target > ?2
         ORDER BY target LIMIT ?3",
    )?;
    let digest = |row: &Row<'_>| row.get(0).map(|DigestColumn(digest)| digest);
    match after {
        Some(after) => statement.query_map(params![repository, DigestColumn(after), most], digest)?.collect(),
        // Every digest comes after no bytes.
        None => statement.query_map(params![repository, [0_u8; 0], most], digest)?.collect(),
    }
}

/// For each digest, some of the repositories with a manifest that names it.
pub(super) fn named_by(connection: &Connection, digests: &[Digest], most: u32) -> Sql<Vec<Vec<String>>> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT repository.name FROM mirrored_edge AS edge
         JOIN mirrored_repository AS repository ON repository.id = edge.repository
         WHERE edge.target = ?1 LIMIT ?2",
    )?;
    let of = |digest: &Digest| {
        statement
            .query_map(params![DigestColumn(*digest), most], |row| row.get(0))?
            .collect::<Sql<Vec<String>>>()
    };
    digests.iter().map(of).collect()
}

/// The patterns that were pinned.
pub(super) fn pins(connection: &Connection) -> Sql<Vec<String>> {
    connection
        .prepare_cached("SELECT pattern FROM cache_pin ORDER BY pattern")?
        .query_map([], |row| row.get(0))?
        .collect()
}

impl Change<'_, '_> {
    /// `false`: it was pinned already.
    pub(super) fn pin(&mut self, pattern: &str) -> Sql<bool> {
        let made = self
            .connection
            .prepare_cached(
                "INSERT INTO cache_pin (pattern, pinned_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            )?
            .execute(params![pattern, self.now])?;
        Ok(made > 0)
    }

    /// `false`: it was not pinned.
    pub(super) fn unpin(&mut self, pattern: &str) -> Sql<bool> {
        let gone =
            self.connection.prepare_cached("DELETE FROM cache_pin WHERE pattern = ?1")?.execute([pattern])?;
        Ok(gone > 0)
    }

    /// Some manifests of a repository go, with their tags. Gives what they named and nobody names any more. `None`: there
    /// were none.
    pub(super) fn forget(&mut self, name: &RepositoryName) -> Result<Option<Vec<Digest>>, Refused> {
        let Some(repository) = repository(self.connection, name)? else { return Ok(None) };
        self.revoked.mirrored(name);
        let mut named = Vec::new();
        for _ in 0..limits::FORGOTTEN_AT_ONCE {
            if named.len() >= limits::FORGOTTEN_TARGETS {
                break;
            }
            let Some((id, charge_bytes, digest)) = self.any_of(repository)? else { break };
            named.push(digest);
            named.extend(self.targets_of(id)?);
            self.evict(id, repository, charge_bytes, &digest)?;
        }
        named.sort_unstable();
        named.dedup();
        let mut nobodys = Vec::with_capacity(named.len());
        for digest in named {
            if !self.is_named(&digest)? {
                nobodys.push(digest);
            }
        }
        Ok(Some(nobodys))
    }

    fn any_of(&self, repository: i64) -> Sql<Option<(i64, u64, Digest)>> {
        self.connection
            .prepare_cached(
                "SELECT id, charge_bytes, digest FROM mirrored_manifest WHERE repository = ?1 LIMIT 1",
            )?
            .query_row([repository], |row| {
                let DigestColumn(digest) = row.get(2)?;
                Ok((row.get(0)?, row.get(1)?, digest))
            })
            .optional()
    }

    fn targets_of(&self, manifest: i64) -> Sql<Vec<Digest>> {
        self.connection
            .prepare_cached("SELECT DISTINCT target FROM mirrored_edge WHERE manifest = ?1")?
            .query_map([manifest], |row| row.get(0).map(|DigestColumn(digest)| digest))?
            .collect()
    }

    fn is_named(&self, digest: &Digest) -> Sql<bool> {
        self.connection
            .prepare_cached("SELECT 1 FROM mirrored_edge WHERE target = ?1 LIMIT 1")?
            .exists([DigestColumn(*digest)])
    }
}
