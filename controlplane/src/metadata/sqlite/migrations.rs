//! The schema, as the steps that led to it.
//!
//! Invariants: a step that was released is never edited. `user_version` is the number of steps taken; a
//! file that has taken more than this binary knows is refused, since nobody here can tell what they mean.
//!
//! Columns: a digest is one byte of algorithm and its raw bytes; times are milliseconds since 1970 of the
//! `clock`, which never goes back; sizes are bytes.

use rusqlite::{Connection, TransactionBehavior};

use super::OpenError;

/// One entry a step, in order.
pub(super) const MIGRATIONS: &[&str] = &[
    // A blob is here once, whoever links to it. `home_key` says where, if the store would not find it by
    // itself; `generation` grows when it is pushed anew after a tombstone, so that a sweep that saw the
    // tombstone finds out; `tombstone_at` is when the last link went.
    "CREATE TABLE clock (
        id INTEGER PRIMARY KEY CHECK (id = 0),
        at INTEGER NOT NULL
    );
    INSERT INTO clock (id, at) VALUES (0, 0);

    CREATE TABLE repository (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        created_at INTEGER NOT NULL
    );

    CREATE TABLE blob (
        digest BLOB PRIMARY KEY,
        state INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        home_key TEXT,
        generation INTEGER NOT NULL,
        tombstone_at INTEGER,
        verified_at INTEGER
    ) WITHOUT ROWID;

    CREATE TABLE link (
        repository INTEGER NOT NULL REFERENCES repository (id),
        digest BLOB NOT NULL REFERENCES blob (digest),
        created_at INTEGER NOT NULL,
        last_touched_at INTEGER NOT NULL,
        PRIMARY KEY (repository, digest)
    ) WITHOUT ROWID;
    CREATE INDEX link_by_digest ON link (digest);

    CREATE TABLE manifest (
        id INTEGER PRIMARY KEY,
        repository INTEGER NOT NULL REFERENCES repository (id),
        digest BLOB NOT NULL,
        media_type TEXT NOT NULL,
        pushed_at INTEGER NOT NULL,
        bytes BLOB NOT NULL,
        UNIQUE (repository, digest)
    );

    CREATE TABLE tag (
        repository INTEGER NOT NULL,
        name TEXT NOT NULL,
        digest BLOB NOT NULL,
        updated_at INTEGER NOT NULL,
        PRIMARY KEY (repository, name),
        FOREIGN KEY (repository, digest) REFERENCES manifest (repository, digest)
    ) WITHOUT ROWID;
    CREATE INDEX tag_by_digest ON tag (repository, digest);

    CREATE TABLE edge (
        repository INTEGER NOT NULL,
        target BLOB NOT NULL,
        kind INTEGER NOT NULL,
        manifest INTEGER NOT NULL REFERENCES manifest (id),
        PRIMARY KEY (manifest, target, kind)
    ) WITHOUT ROWID;
    CREATE INDEX edge_by_target ON edge (repository, target);

    CREATE TABLE referrer (
        manifest INTEGER PRIMARY KEY REFERENCES manifest (id),
        repository INTEGER NOT NULL,
        subject BLOB NOT NULL,
        digest BLOB NOT NULL,
        artifact_type TEXT,
        entry TEXT NOT NULL
    );
    CREATE UNIQUE INDEX referrer_by_subject ON referrer (repository, subject, digest);

    CREATE TABLE deletion (
        id INTEGER PRIMARY KEY,
        repository INTEGER NOT NULL REFERENCES repository (id),
        what INTEGER NOT NULL,
        digest BLOB NOT NULL,
        tag TEXT,
        at INTEGER NOT NULL
    );",
    // The referrers of one type.
    "CREATE INDEX referrer_by_type ON referrer (repository, subject, artifact_type, digest);",
    // What a mirror keeps, apart from what was pushed. `checked_at` is when the upstream last said that the tag
    // names this; `charge_bytes` is what a manifest counts for in `mirrored_total`. A `local_name` is one that an
    // upload was opened for before anything was pushed.
    "CREATE TABLE local_name (
        name TEXT PRIMARY KEY,
        claimed_at INTEGER NOT NULL
    ) WITHOUT ROWID;

    CREATE TABLE mirrored_total (
        id INTEGER PRIMARY KEY CHECK (id = 0),
        bytes INTEGER NOT NULL
    );
    INSERT INTO mirrored_total (id, bytes) VALUES (0, 0);

    CREATE TABLE mirrored_repository (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    );

    CREATE TABLE mirrored_manifest (
        id INTEGER PRIMARY KEY,
        repository INTEGER NOT NULL REFERENCES mirrored_repository (id),
        digest BLOB NOT NULL,
        media_type TEXT NOT NULL,
        used_at INTEGER NOT NULL,
        charge_bytes INTEGER NOT NULL,
        bytes BLOB NOT NULL,
        UNIQUE (repository, digest)
    );
    CREATE INDEX mirrored_manifest_by_use ON mirrored_manifest (used_at);

    CREATE TABLE mirrored_tag (
        repository INTEGER NOT NULL,
        name TEXT NOT NULL,
        digest BLOB NOT NULL,
        checked_at INTEGER NOT NULL,
        PRIMARY KEY (repository, name),
        FOREIGN KEY (repository, digest) REFERENCES mirrored_manifest (repository, digest)
    ) WITHOUT ROWID;
    CREATE INDEX mirrored_tag_by_digest ON mirrored_tag (repository, digest);

    CREATE TABLE mirrored_edge (
        manifest INTEGER NOT NULL REFERENCES mirrored_manifest (id),
        target BLOB NOT NULL,
        kind INTEGER NOT NULL,
        repository INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        PRIMARY KEY (manifest, target, kind)
    ) WITHOUT ROWID;
    CREATE INDEX mirrored_edge_by_target ON mirrored_edge (repository, target, size_bytes);",
    // Of which upstream what is below a prefix is; what is of none goes. Only a blob's edge permits.
    "CREATE TABLE mirrored_source (
        prefix TEXT PRIMARY KEY,
        ns TEXT NOT NULL,
        url TEXT NOT NULL
    ) WITHOUT ROWID;

    DROP INDEX mirrored_edge_by_target;
    CREATE INDEX mirrored_edge_by_target ON mirrored_edge (repository, target, kind, size_bytes);",
    // Who names a blob, for the list of the cache and for a purge. `cache_pin` has what was pinned while it ran.
    "CREATE INDEX mirrored_edge_of_any ON mirrored_edge (target, repository);

    CREATE TABLE cache_pin (
        pattern TEXT PRIMARY KEY,
        pinned_at INTEGER NOT NULL
    ) WITHOUT ROWID;",
];

/// `blob.state`. The other states of a digest belong to the keeper and its cache; none is in a table.
pub(super) const HOME: i64 = 1;

/// `edge.kind`: config or layer.
pub(super) const EDGE_BLOB: i64 = 0;
/// `edge.kind`: entry of an index.
pub(super) const EDGE_CHILD: i64 = 1;

/// `deletion.what`: a link to a blob.
pub(super) const DELETED_LINK: i64 = 0;
/// `deletion.what`: a manifest.
pub(super) const DELETED_MANIFEST: i64 = 1;
/// `deletion.what`: a tag; `digest` is what it pointed to.
pub(super) const DELETED_TAG: i64 = 2;

/// Takes the steps that the file has not taken yet, each in a transaction of its own.
pub(super) fn run(connection: &mut Connection) -> Result<(), OpenError> {
    let taken: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let taken = usize::try_from(taken).map_err(|_negative| OpenError::NotOurs)?;
    if taken > MIGRATIONS.len() {
        return Err(OpenError::TooNew { file: taken, binary: MIGRATIONS.len() });
    }
    for (step, sql) in MIGRATIONS.iter().enumerate().skip(taken) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", step + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
