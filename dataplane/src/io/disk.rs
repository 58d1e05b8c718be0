//! Files: read at once when memory has the pages, otherwise later by the ring or the pool.

use std::{
    any::Any,
    future::Future,
    io::{self, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use rustix::{
    fs::{AtFlags, Mode, OFlags, StatxFlags},
    io::{Errno, ReadWriteFlags},
};

use super::{Buf, Call, Driver, Faults, Io, driver::InFlight, fs::Stat};
use crate::limits::BUF_BYTES;

/// An open file. Clones share it; it is closed when the last is dropped. It may move between cores.
#[derive(Clone)]
pub struct File(Arc<Inner>);

struct Inner {
    fd: OwnedFd,
    name: Box<str>,
    faults: Faults,
    number: u64,
    /// For reads past the page cache, made by the first. `None`: it can't be read so.
    direct: OnceLock<Option<OwnedFd>>,
    /// Behind the descriptors, to be dropped after them.
    kept: OnceLock<Arc<dyn Any + Send + Sync>>,
}

/// A page of memory. The offset and the length of a direct read are multiples of it.
pub const PAGE_BYTES: u64 = 4096;

/// How a file is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Into the page cache and from there.
    Cached,
    /// Past it.
    Direct,
}

impl File {
    pub(super) fn new(fd: OwnedFd, name: &str, faults: Faults) -> File {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let (direct, kept) = (OnceLock::new(), OnceLock::new());
        File(Arc::new(Inner { fd, name: name.into(), faults, number, direct, kept }))
    }

    /// Keeps this until the last descriptor is closed, those of operations in flight included. The first of several stays.
    pub fn keep(&self, what: Arc<dyn Any + Send + Sync>) {
        // One that is there already is as good: it is the same.
        let _ = self.0.kept.set(what);
    }

    /// What it keeps, if that is one of these.
    pub fn kept<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.kept.get().and_then(|kept| kept.clone().downcast().ok())
    }

    /// The path it was opened by, relative to the data directory.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it is now.
    pub fn stat(&self) -> io::Result<Stat> {
        let stat = rustix::fs::fstat(&self.0.fd)?;
        if !Stat::is_file(&stat) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Stat::from_raw(&stat))
    }

    /// A number that no other file of this process has or had.
    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    fn can_be_read_directly(&self) -> bool {
        self.0.direct.get_or_init(|| reopen_direct(&self.0.fd)).is_some()
    }

    /// The descriptor for that way.
    fn descriptor(&self, way: Way) -> &OwnedFd {
        match (way, self.0.direct.get()) {
            (Way::Direct, Some(Some(direct))) => direct,
            _ => &self.0.fd,
        }
    }
}

/// The same file once more, to be read past the page cache. `None`: the kernel (before 6.1) or the file system does not
/// say that it can, or it needs more than pages for it.
fn reopen_direct(fd: &OwnedFd) -> Option<OwnedFd> {
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let aligns = [stat.stx_dio_mem_align, stat.stx_dio_offset_align];
    if !aligns.iter().all(|align| (1..=PAGE_BYTES).contains(&u64::from(*align))) {
        return None;
    }
    // By its number, since its name may be gone or another's.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok()
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }
}

impl Io {
    /// Reads what memory has, without waiting. `None`: nothing of it, or the file system can't tell.
    /// Fewer bytes than asked for: the rest is not in memory, or the file ends.
    pub fn read_now(&self, file: &File, at: u64, into: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(into)], at, ReadWriteFlags::NOWAIT) {
            Ok(count) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads at most `len` bytes into the spare part of `into`, waiting for the disk if need be. The buffer
    /// comes back in every case. A short read is normal; 0 is the end of the file. `ErrorKind::ConnectionAborted` once
    /// the core ends.
    pub fn read(
        &self,
        file: &File,
        at: u64,
        len: usize,
        into: Buf,
    ) -> impl Future<Output = (io::Result<usize>, Buf)> + use<> {
        self.read_by(Way::Cached, file, at, len, into)
    }

    /// The same for all of an empty buffer, from a multiple of [`PAGE_BYTES`]; where the file system can, what is read
    /// takes no memory but the buffer and none of the core's time for pages.
    pub fn read_direct(
        &self,
        file: &File,
        at: u64,
        into: Buf,
    ) -> impl Future<Output = (io::Result<usize>, Buf)> + use<> {
        let way = if file.can_be_read_directly() { Way::Direct } else { Way::Cached };
        let read = self.read_by(way, file, at, BUF_BYTES, into);
        let (io, file) = (self.clone(), file.clone());
        async move {
            let (result, into) = read.await;
            // What is below the file system may ask for more than it said.
            if way == Way::Direct
                && matches!(&result, Err(error) if Errno::from_io_error(error) == Some(Errno::INVAL))
            {
                return io.read(&file, at, BUF_BYTES, into).await;
            }
            (result, into)
        }
    }

    fn read_by(
        &self,
        way: Way,
        file: &File,
        at: u64,
        len: usize,
        into: Buf,
    ) -> impl Future<Output = (io::Result<usize>, Buf)> + use<> {
        let file = file.clone();
        let started = match (file.0.faults.meet(Call::Read, file.name()), self.driver()) {
            (Err(error), _) => Err((error, into)),
            (Ok(()), Driver::Uring) => {
                Ok(Later::Ring(monoio::spawn(read_by_ring(self.in_flight(), file, way, at, len, into))))
            }
            (Ok(()), Driver::Epoll) => {
                let job = self.pool().run(move |_fs| {
                    let mut into = into;
                    let mut spare = into.spare();
                    let len = len.min(spare.len());
                    spare = &mut spare[..len];
                    let fd = file.descriptor(way);
                    let result = rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut *spare, at));
                    if let Ok(count) = result {
                        into.fill(count);
                    }
                    Ok((result.map_err(io::Error::from), into))
                });
                Ok(Later::Pool(Box::pin(job)))
            }
        };
        let io = self.clone();
        async move {
            match started {
                Err((error, into)) => (Err(error), into),
                Ok(Later::Ring(task)) => task.await,
                Ok(Later::Pool(job)) => match job.await {
                    Ok(done) => done,
                    // The queue was full, and took the buffer with it.
                    Err(error) => (Err(error), io.buf().await),
                },
            }
        }
    }

    /// Writes all of `from` at `at`, or fails; on failure any part of it may have been written. It starts
    /// when called and goes on if the future is dropped. Errors also as [`Io::read`].
    pub fn write(
        &self,
        file: &File,
        at: u64,
        from: Bytes,
    ) -> impl Future<Output = io::Result<()>> + 'static + use<> {
        let file = file.clone();
        let allowed = file.0.faults.meet(Call::Write, file.name());
        let started = allowed.map(|()| match self.driver() {
            Driver::Uring => Later::Ring(monoio::spawn(write_by_ring(self.in_flight(), file, at, from))),
            Driver::Epoll => {
                let job = self.pool().run(move |_fs| {
                    let mut at = at;
                    let mut rest = &from[..];
                    while !rest.is_empty() {
                        let count = rustix::io::retry_on_intr(|| rustix::io::pwrite(&file, rest, at))?;
                        if count == 0 {
                            return Err(io::ErrorKind::WriteZero.into());
                        }
                        rest = &rest[count..];
                        at += count as u64;
                    }
                    Ok(())
                });
                Later::Pool(Box::pin(job))
            }
        });
        async move {
            match started? {
                Later::Ring(task) => task.await,
                Later::Pool(job) => job.await,
            }
        }
    }
}

/// Something that was started on one of the two legs.
enum Later<R: 'static, P> {
    Ring(monoio::task::JoinHandle<R>),
    Pool(P),
}

/// monoio closes a file that it was given, so it is given a duplicate: an operation in flight keeps the
/// file open by itself, whatever becomes of its future.
fn for_the_ring(file: &File, way: Way) -> io::Result<monoio::fs::File> {
    monoio::fs::File::from_std(std::fs::File::from(file.descriptor(way).try_clone()?))
}

async fn read_by_ring(
    in_flight: io::Result<InFlight>,
    file: File,
    way: Way,
    at: u64,
    len: usize,
    into: Buf,
) -> (io::Result<usize>, Buf) {
    match in_flight.and_then(|in_flight| Ok((in_flight, for_the_ring(&file, way)?))) {
        Ok((_in_flight, ring)) => {
            let (result, part) = ring.read_at(Part { into, len }, at).await;
            close(ring, file);
            (result, part.into)
        }
        Err(error) => (Err(error), into),
    }
}

async fn write_by_ring(in_flight: io::Result<InFlight>, file: File, at: u64, from: Bytes) -> io::Result<()> {
    let _in_flight = in_flight?;
    let ring = for_the_ring(&file, Way::Cached)?;
    let (result, _from) = ring.write_all_at(from, at).await;
    close(ring, file);
    result
}

/// The ring closes it, some time later; what the file keeps is kept until then.
fn close(ring: monoio::fs::File, file: File) {
    if file.0.kept.get().is_some() {
        monoio::spawn(async move {
            let _already_gone = ring.close().await;
            drop(file);
        });
    }
}

/// The first `len` bytes of a buffer's spare part.
struct Part {
    into: Buf,
    len: usize,
}

// SAFETY: as for `Buf`, of which this shows less.
unsafe impl monoio::buf::IoBufMut for Part {
    fn write_ptr(&mut self) -> *mut u8 {
        self.into.write_ptr()
    }

    fn bytes_total(&mut self) -> usize {
        self.into.bytes_total().min(self.len)
    }

    unsafe fn set_init(&mut self, count: usize) {
        self.into.fill(count);
    }
}
