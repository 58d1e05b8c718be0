//! Of which upstream what is kept below a prefix is.
//!
//! Invariants: below a prefix lies only what came from the upstream that it means now. What came from another one says
//! nothing of this one's tags, and permits nothing in its repositories.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::mirrored::TAG_BYTES;
use crate::metadata::Source;

type Sql<T> = rusqlite::Result<T>;

/// Drops what is of another upstream than the one of its prefix, and notes which that is. For the start.
pub(super) fn settle(connection: &mut Connection, sources: &[Source]) -> Sql<()> {
    for source in sources {
        let Source { prefix, ns, url } = source;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let known = transaction
            .query_row("SELECT ns, url FROM mirrored_source WHERE prefix = ?1", [prefix], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })
            .optional()?;
        if known.is_some_and(|(known_ns, known_url)| known_ns == *ns && known_url == *url) {
            continue;
        }
        let manifests = drop_below(&transaction, prefix)?;
        transaction.execute(
            "INSERT INTO mirrored_source (prefix, ns, url) VALUES (?1, ?2, ?3)
             ON CONFLICT (prefix) DO UPDATE SET ns = excluded.ns, url = excluded.url",
            params![prefix, ns, url],
        )?;
        transaction.commit()?;
        if manifests > 0 {
            tracing::warn!(
                prefix,
                ns,
                url,
                manifests,
                "the prefix was another upstream's: its manifests are dropped"
            );
        }
    }
    Ok(())
}

/// How many manifests went.
fn drop_below(connection: &Connection, prefix: &str) -> Sql<usize> {
    connection.execute_batch("CREATE TEMP TABLE dropped (id INTEGER PRIMARY KEY);")?;
    // `0` follows `/`.
    connection.execute(
        "INSERT INTO dropped SELECT id FROM mirrored_repository WHERE name > ?1 || '/' AND name < ?1 || '0'",
        [prefix],
    )?;
    connection.execute(
        "UPDATE mirrored_total SET bytes = bytes
             - coalesce((SELECT sum(charge_bytes) FROM mirrored_manifest WHERE repository IN dropped), 0)
             - ?1 * (SELECT count(*) FROM mirrored_tag WHERE repository IN dropped)",
        [TAG_BYTES],
    )?;
    connection.execute("DELETE FROM mirrored_tag WHERE repository IN dropped", [])?;
    connection.execute(
        "DELETE FROM mirrored_edge WHERE manifest IN
             (SELECT id FROM mirrored_manifest WHERE repository IN dropped)",
        [],
    )?;
    let manifests = connection.execute("DELETE FROM mirrored_manifest WHERE repository IN dropped", [])?;
    connection.execute("DELETE FROM mirrored_repository WHERE id IN dropped", [])?;
    connection.execute_batch("DROP TABLE dropped;")?;
    Ok(manifests)
}
