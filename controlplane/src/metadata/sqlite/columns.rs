//! How the vocabulary's values stand in columns.

use oci::{Algorithm, Digest};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

/// A digest as one byte of algorithm and its raw bytes; these sort by algorithm, then by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DigestColumn(pub Digest);

fn code(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
        Algorithm::Blake3 => 3,
    }
}

impl ToSql for DigestColumn {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let raw = self.0.bytes();
        let mut column = Vec::with_capacity(1 + raw.len());
        column.push(code(self.0.algorithm()));
        column.extend_from_slice(raw);
        Ok(ToSqlOutput::from(column))
    }
}

impl FromSql for DigestColumn {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let (first, raw) = value.as_blob()?.split_first().ok_or(FromSqlError::InvalidType)?;
        Algorithm::ALL
            .into_iter()
            .find(|algorithm| code(*algorithm) == *first)
            .and_then(|algorithm| Digest::from_bytes(algorithm, raw))
            .map(DigestColumn)
            .ok_or(FromSqlError::InvalidType)
    }
}
