//! The record of an upload session's state: what a restart may go on from.
//!
//! A state file is a row of slots of [`STATE_RECORD_BYTES_MAX`] bytes, one record each, zeros behind it. A
//! record is only ever written to a new slot, so a torn one hides nothing: the last valid one wins.
//!
//! Invariants: what comes out was put in, whole; bytes that were cut or changed yield an older record or
//! none. Whether a record may be *trusted* (boot, length, mark) is decided in `start`.

use control::Principal;
use oci::{Algorithm, Digest, RepositoryName};

use crate::limits::STATE_RECORD_BYTES_MAX;

/// A slot of a state file.
pub type SlotBytes = [u8; STATE_RECORD_BYTES_MAX];

const VERSION: u8 = 1;
const CRC_BYTES: usize = 4;

/// What never changes about a session, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The boot in which it was written: it was never synced, so another boot's says nothing.
    pub boot: [u8; 16],
    /// The repository that is pushed to.
    pub repository: RepositoryName,
    /// Who opened the session.
    pub principal: Principal,
    /// When, in seconds since 1970.
    pub created_unix: u64,
    /// What its bytes are hashed with as they arrive.
    pub algorithm: Algorithm,
    /// Bytes that are in the file.
    pub offset: u64,
    /// Progress, or the end.
    pub step: Step,
}

/// What a record was written for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes arrived; the running hash, empty where there is no form to save it in.
    Progress(Vec<u8>),
    /// The keeper is about to link the file to this digest.
    Closing(Digest),
}

impl Record {
    /// The slot that holds this record.
    pub fn encode(&self) -> SlotBytes {
        let mut body = Vec::with_capacity(STATE_RECORD_BYTES_MAX);
        body.push(VERSION);
        body.extend_from_slice(&self.boot);
        push_short(&mut body, self.repository.as_str().as_bytes());
        body.push(match self.principal {
            Principal::Anonymous => 0,
        });
        body.extend_from_slice(&self.created_unix.to_le_bytes());
        body.push(code(self.algorithm));
        body.extend_from_slice(&self.offset.to_le_bytes());
        match &self.step {
            Step::Progress(state) => {
                body.push(0);
                push_short(&mut body, state);
            }
            Step::Closing(digest) => {
                body.push(1);
                body.push(code(digest.algorithm()));
                push_short(&mut body, digest.bytes());
            }
        }
        let mut slot = [0; STATE_RECORD_BYTES_MAX];
        slot[CRC_BYTES..CRC_BYTES + body.len()].copy_from_slice(&body);
        let crc = crc32fast::hash(&slot[CRC_BYTES..]);
        slot[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    /// `None`: not a whole record of this version.
    pub fn decode(slot: &[u8]) -> Option<Record> {
        if slot.len() != STATE_RECORD_BYTES_MAX {
            return None;
        }
        let (crc, body) = slot.split_first_chunk::<CRC_BYTES>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut rest = body;
        if byte(&mut rest)? != VERSION {
            return None;
        }
        Some(Record {
            boot: chunk(&mut rest)?,
            repository: RepositoryName::parse(std::str::from_utf8(short(&mut rest)?).ok()?).ok()?,
            principal: match byte(&mut rest)? {
                0 => Principal::Anonymous,
                _ => return None,
            },
            created_unix: u64::from_le_bytes(chunk(&mut rest)?),
            algorithm: algorithm(byte(&mut rest)?)?,
            offset: u64::from_le_bytes(chunk(&mut rest)?),
            step: match byte(&mut rest)? {
                0 => Step::Progress(short(&mut rest)?.to_vec()),
                1 => {
                    let algorithm = algorithm(byte(&mut rest)?)?;
                    Step::Closing(Digest::from_bytes(algorithm, short(&mut rest)?)?)
                }
                _ => return None,
            },
        })
    }
}

/// What a state file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The last record of progress.
    pub progress: Option<Record>,
    /// What the file was about to be linked to, if the keeper had it.
    pub closing: Option<Digest>,
}

/// Reads slots, oldest first. A part of a slot at the end is nothing.
pub fn read(slots: &[u8]) -> Told {
    let mut told = Told::default();
    for record in slots.chunks_exact(STATE_RECORD_BYTES_MAX).filter_map(Record::decode) {
        match record.step {
            Step::Progress(_) => told.progress = Some(record),
            Step::Closing(digest) => told.closing = Some(digest),
        }
    }
    told
}

fn code(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Sha256 => 0,
        Algorithm::Sha512 => 1,
        Algorithm::Blake3 => 2,
    }
}

fn algorithm(byte: u8) -> Option<Algorithm> {
    Algorithm::ALL.into_iter().find(|algorithm| code(*algorithm) == byte)
}

fn push_short(body: &mut Vec<u8>, bytes: &[u8]) {
    body.push(u8::try_from(bytes.len()).expect("names, hash states and digests are shorter than 256 bytes"));
    body.extend_from_slice(bytes);
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    chunk::<1>(rest).map(|[byte]| byte)
}

fn chunk<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (chunk, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*chunk)
}

fn short<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::from(byte(rest)?);
    let (bytes, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use oci::Hasher;
    use proptest::prelude::*;

    use super::*;

    fn record(offset: u64, algorithm: Algorithm, closing: bool) -> Record {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(&offset.to_le_bytes());
        let saved = hasher.save().map_or_else(Vec::new, |saved| saved.as_bytes().to_vec());
        Record {
            boot: [3; 16],
            repository: RepositoryName::parse("library/thing").unwrap(),
            principal: Principal::Anonymous,
            created_unix: 1_700_000_000 + offset,
            algorithm,
            offset,
            step: if closing { Step::Closing(hasher.finish()) } else { Step::Progress(saved) },
        }
    }

    #[test]
    fn the_longest_record_fits_its_slot() {
        let name = "a".repeat(255);
        let mut longest = record(u64::MAX - 1_700_000_000, Algorithm::Sha512, false);
        longest.repository = RepositoryName::parse(&name).unwrap();
        assert_eq!(Record::decode(&longest.encode()), Some(longest));
    }

    #[test]
    fn the_last_of_each_kind_counts() {
        let of = |offset, closing| record(offset, Algorithm::Sha256, closing);
        let slots = [of(0, false), of(9, false), of(9, true)].map(|record| record.encode()).concat();
        let told = read(&slots);
        assert_eq!(told.progress, Some(of(9, false)));
        assert_eq!(told.closing, Some(Digest::of(Algorithm::Sha256, &9_u64.to_le_bytes())));
        assert_eq!(read(&[]), Told::default());
        assert_eq!(read(&[0; 2 * STATE_RECORD_BYTES_MAX]), Told::default());
    }

    fn any_record() -> impl Strategy<Value = Record> {
        (any::<u32>(), 0..Algorithm::ALL.len(), any::<bool>()).prop_map(|(offset, algorithm, closing)| {
            record(offset.into(), Algorithm::ALL[algorithm], closing)
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in any_record()) {
            prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        }

        #[test]
        fn cut_or_changed_files_yield_older_records_or_none(
            records in proptest::collection::vec(any_record(), 1..6),
            cut in any::<prop::sample::Index>(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), 1..=u8::MAX), 0..4),
        ) {
            let mut file: Vec<u8> = records.iter().flat_map(Record::encode).collect();
            for (at, by) in &changes {
                let at = at.index(file.len());
                file[at] ^= by;
            }
            file.truncate(cut.index(file.len() + 1));
            let told = read(&file);
            let closings: Vec<Digest> = records
                .iter()
                .filter_map(|record| match record.step {
                    Step::Closing(digest) => Some(digest),
                    Step::Progress(_) => None,
                })
                .collect();
            prop_assert!(told.progress.is_none_or(|told| records.contains(&told)));
            prop_assert!(told.closing.is_none_or(|told| closings.contains(&told)));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1100)) {
            prop_assert_eq!(read(&bytes), Told::default());
        }

        #[test]
        fn a_body_of_any_bytes_with_a_right_crc_does_not_panic(
            body in proptest::collection::vec(any::<u8>(), STATE_RECORD_BYTES_MAX - CRC_BYTES)
        ) {
            let mut slot = crc32fast::hash(&body).to_le_bytes().to_vec();
            slot.extend_from_slice(&body);
            let decoded = Record::decode(&slot);
            prop_assert!(decoded.is_none_or(|record| Record::decode(&record.encode()) == Some(record)));
        }
    }
}
