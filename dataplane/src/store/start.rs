//! Opening a store: what an earlier process left in `uploads/`, and what of it may go on.
//!
//! Invariants: lists only `uploads/`, whose size is bounded by the sessions that were open, and never `blobs/`.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use control::{Epochs, Refusal, Writes};
use oci::{Algorithm, Digest, Hasher, Problem, UploadId};

use super::{
    Evictions, Shared, Store, StoreCounters, StoreSettings, UPLOADS, blob_directory, blob_path,
    cached::Cached,
    doctor::disk_error_marked,
    ghosts::Ghosts,
    keeper::Queue,
    record::{self, Record, Step, Told},
    sessions::{Files, Open, Sessions, open_files, remove_upload},
    suspects::Suspects,
    upload_data, upload_state,
};
use crate::{
    fill::FILLS,
    io::{Fs, Instant, Stat, unix_time},
    limits::{EPOCH_SLOTS, STATE_RECORD_BYTES_MAX, STATE_RECORDS_READ_MAX},
};

/// Opens the store in `fs`, making what is missing. Blocks; to be called before the cores start. `home`
/// gives the size of each blob that the metadata has a row for.
///
/// With the mark `disk-error`, writes are refused and no session is trusted.
///
/// Errors: the system's; blobs and uploads on different volumes; `home` failed.
pub fn open(
    fs: Fs,
    settings: StoreSettings,
    writes: Arc<Writes>,
    home: &mut dyn FnMut(Vec<Digest>) -> Result<Vec<Option<u64>>, Problem>,
) -> io::Result<Store> {
    make_directories(&fs)?;
    check_device(&fs)?;
    let marked = disk_error_marked(&fs)?;
    if marked {
        writes.refuse(Refusal::MarkFound);
    }
    let boot = Fs::boot_id()?;
    let sessions = Sessions::default();
    let mut linked = Vec::new();
    for name in fs.list(UPLOADS)? {
        let Some(id) = UploadId::parse(&name) else {
            tracing::warn!(name, "not an upload; left alone");
            continue;
        };
        match fs.stat(&upload_data(&id))? {
            Some(data) if data.links > 1 => linked.push((id, data)),
            Some(data) => match restore(&fs, id, data, &boot, settings.upload_expiry)? {
                Some(open) if !marked && sessions.claim(open.id, &open.repository) => sessions.insert(open),
                Some(_) | None => remove_upload(&fs, &id)?,
            },
            None => remove_upload(&fs, &id)?,
        }
    }
    reconcile(&fs, linked, home)?;
    let (cached, log) = Cached::open(&fs, settings.cache)?;
    let evictions = Evictions::of(settings.namespaces.clone());
    let shared = Shared {
        filesystem: fs.filesystem()?,
        fs,
        settings,
        writes,
        boot,
        sessions,
        promised_bytes: 0.into(),
        names: Epochs::new(EPOCH_SLOTS),
        given: Epochs::new(EPOCH_SLOTS),
        cached,
        suspects: Suspects::default(),
        ghosts: Ghosts::of_this_machine(),
        queue: Queue::default(),
        counters: StoreCounters { evictions, ..StoreCounters::default() },
    };
    Ok(Store { shared: Arc::new(shared), log: Mutex::new(Some(log)) })
}

fn make_directories(fs: &Fs) -> io::Result<()> {
    let mut made = fs.make_directory("blobs")?;
    for algorithm in Algorithm::ALL {
        made |= fs.make_directory(blob_directory(algorithm))?;
    }
    made |= fs.make_directory(UPLOADS)?;
    made |= fs.make_directory(FILLS)?;
    if made { fs.sync_volume() } else { Ok(()) }
}

/// A link can't cross from one volume to another, and a copy is not what a commit does.
fn check_device(fs: &Fs) -> io::Result<()> {
    let device = |path| Ok::<_, io::Error>(fs.stat(path)?.map(|stat| stat.device));
    let uploads = device(UPLOADS)?;
    for other in Algorithm::ALL.map(blob_directory).into_iter().chain([FILLS]) {
        if device(other)? != uploads {
            return Err(io::Error::other("blobs, uploads and fills have to be on one volume"));
        }
    }
    Ok(())
}

/// The session as its last record says, if that may be trusted: it was written in this boot, and the file
/// has at least its bytes. What is longer is cut. One without progress for `expiry` is gone, too.
fn restore(
    fs: &Fs,
    id: UploadId,
    data: Stat,
    boot: &[u8; 16],
    expiry: Duration,
) -> io::Result<Option<Box<Open>>> {
    let State { told, records, written_unix } = read_state(fs, &id)?;
    // A state is written whenever bytes are settled.
    let idle = Duration::from_secs(unix_time().saturating_sub(written_unix));
    if idle > expiry {
        return Ok(None);
    }
    let Some(record) = told.progress else { return Ok(None) };
    if record.boot != *boot || record.offset > data.len {
        return Ok(None);
    }
    let Ok(running) = running(&record) else { return Ok(None) };
    if data.len > record.offset {
        let Files { data, state: _ } = open_files(fs, &id)?;
        fs.truncate(&data, record.offset)?;
    }
    Ok(Some(Box::new(Open {
        id,
        repository: record.repository,
        principal: record.principal,
        created_unix: record.created_unix,
        algorithm: record.algorithm,
        running,
        offset: record.offset,
        // How far is not known; more than the offset makes the commit give it back.
        allocated: u64::MAX,
        written_back: record.offset,
        records,
        progress: Instant::now() - idle,
        files: None,
        reopened: false,
    })))
}

/// The saved hash is none of its algorithm's, or not of the bytes that the record says.
struct Unreadable;

/// The hash to go on from. `None`: it can't be saved, so it is lost.
fn running(record: &Record) -> Result<Option<Hasher>, Unreadable> {
    match &record.step {
        Step::Progress(_) if record.offset == 0 => Ok(Some(Hasher::new(record.algorithm))),
        Step::Progress(saved) if saved.is_empty() => Ok(None),
        Step::Progress(saved) => {
            Hasher::restore(record.algorithm, saved, record.offset).map(Some).ok_or(Unreadable)
        }
        Step::Closing(_) => Err(Unreadable),
    }
}

/// A state file; all zero if there is none.
#[derive(Default)]
struct State {
    /// What its end says.
    told: Told,
    /// How many slots of it are used up.
    records: u64,
    /// When the last of them was written.
    written_unix: u64,
}

fn read_state(fs: &Fs, id: &UploadId) -> io::Result<State> {
    let Some(file) = fs.open_file(&upload_state(id))? else { return Ok(State::default()) };
    let slot_bytes = STATE_RECORD_BYTES_MAX as u64;
    let stat = file.stat()?;
    let slots = stat.len.div_ceil(slot_bytes);
    let first = slots.saturating_sub(STATE_RECORDS_READ_MAX);
    let mut bytes = vec![0; usize::try_from((slots - first) * slot_bytes).unwrap_or(0)];
    let count = fs.read_at(&file, first * slot_bytes, &mut bytes)?;
    Ok(State { told: record::read(&bytes[..count]), records: slots, written_unix: stat.written_unix })
}

/// Uploads that died between their link and their row's COMMIT, or between that and the removal of their
/// own name. With a row the blob is acknowledged or may be; without one nobody was told of it. A blob whose name
/// no record tells stays: its bytes were synced before it was linked, and the next push of it finds it.
fn reconcile(
    fs: &Fs,
    linked: Vec<(UploadId, Stat)>,
    home: &mut dyn FnMut(Vec<Digest>) -> Result<Vec<Option<u64>>, Problem>,
) -> io::Result<()> {
    if linked.is_empty() {
        return Ok(());
    }
    let mut known = Vec::new();
    for (id, data) in &linked {
        match closing(fs, id, data)? {
            Some(digest) => known.push((*id, digest)),
            None => {
                tracing::info!(%id, "an upload was linked, and no record says to what: that name is left")
            }
        }
    }
    let asked: Vec<Digest> = known.iter().map(|(_, digest)| *digest).collect();
    let rows = home(asked.clone()).map_err(|problem| {
        io::Error::other(format!("the metadata did not tell what is recorded: {problem:?}"))
    })?;
    if rows.len() != asked.len() {
        return Err(io::Error::other("the metadata did not tell of every blob"));
    }
    for ((id, digest), row) in known.into_iter().zip(rows) {
        tracing::info!(%id, %digest, recorded = row.is_some(), "an upload was being committed when the last process ended");
        if row.is_none() {
            fs.unlink(&blob_path(&digest))?;
        }
    }
    linked.iter().try_for_each(|(id, _)| remove_upload(fs, id))
}

/// The digest in the closing record, if the file is linked to it.
fn closing(fs: &Fs, id: &UploadId, data: &Stat) -> io::Result<Option<Digest>> {
    let Some(digest) = read_state(fs, id)?.told.closing else { return Ok(None) };
    let same = fs.stat(&blob_path(&digest))?.is_some_and(|blob| blob.inode == data.inode);
    Ok(same.then_some(digest))
}
