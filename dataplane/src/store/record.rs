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
pub(super) type SlotBytes = [u8; STATE_RECORD_BYTES_MAX];

/// Slots that are looked at, from the end of the file: a start reads at most this much of a session.
pub(super) const SLOTS_READ_MAX: u64 = 64;

const VERSION: u8 = 1;
const CRC_BYTES: usize = 4;

/// What never changes about a session, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The boot in which it was written: it was never synced, so another boot's says nothing.
    pub(super) boot: [u8; 16],
    /// The repository that is pushed to.
    pub(super) repository: RepositoryName,
    /// Who opened the session.
    pub(super) principal: Principal,
    /// When, in seconds since 1970.
    pub(super) created_unix: u64,
    /// What its bytes are hashed with as they arrive.
    pub(super) algorithm: Algorithm,
    /// Bytes that are in the file.
    pub(super) offset: u64,
    /// Progress, or the end.
    pub(super) step: Step,
}

/// What a record was written for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bytes arrived; the running hash, empty where there is no form to save it in.
    Progress(Vec<u8>),
    /// The keeper is about to link the file to this digest.
    Closing(Digest),
}

impl Record {
    /// The slot that holds this record.
    pub(super) fn encode(&self) -> SlotBytes {
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
    pub(super) fn decode(slot: &[u8]) -> Option<Record> {
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
pub(super) struct Told {
    /// The last record of progress.
    pub(super) progress: Option<Record>,
    /// What the file was about to be linked to, if the keeper had it.
    pub(super) closing: Option<Digest>,
}

/// Reads slots, oldest first. A part of a slot at the end is nothing.
pub(super) fn read(slots: &[u8]) -> Told {
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
