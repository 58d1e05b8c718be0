//! A part of a blob that a reader wants long before the run comes to it: its own request, whose bytes stay.
//!
//! Invariants: an extent writes only the chunks that it has claimed, and gives back those it did not write.

use std::sync::Arc;

use oci::Problem;

use super::{
    Fill, Runner,
    files::end_of,
    run::{End, add, learn_size, misbehaved},
    writer::{Party, Tail, Writer},
};
use crate::limits::FILL_CHUNK_BYTES;

/// Gives back what is still claimed, also when its task is dropped.
struct Claimed {
    fill: Arc<Fill>,
    end: u64,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.fill.ahead().ended(self.end);
        self.fill.wake();
    }
}

/// Fetches the chunks from `first` to `end`, exclusive, which were claimed for it.
pub(super) async fn run(runner: Runner, fill: Arc<Fill>, first: u64, end: u64) {
    let claimed = Claimed { fill: fill.clone(), end };
    match fetch(&runner, &fill, first, end).await {
        Ok(()) => {}
        Err(End::Failed(problem) | End::Lost(problem)) => fill.extent_failed(problem),
        Err(End::Spoilt) => fill.extent_failed(misbehaved("the upstream tells another length than before")),
        Err(End::Full) => fill.has_no_room_ahead(&runner),
        Err(End::Here | End::Unwanted) => {}
    }
    drop(claimed);
    if fill.is_to_be_completed(&runner, fill.ahead().bytes()) {
        fill.go_on(runner);
    }
}

async fn fetch(runner: &Runner, fill: &Fill, first: u64, end: u64) -> Result<(), End> {
    let start = first * FILL_CHUNK_BYTES;
    let to =
        fill.size_bytes.get().or(runner.size_bytes.as_ref()).map(|size_bytes| end_of(end - 1, *size_bytes));
    let fetched = runner.control.fetch(runner.origin, fill.digest, (start, to)).await;
    let mut fetched = match fetched {
        Ok(Some(fetched)) => fetched,
        Ok(None) => return Err(End::Failed(Problem::BlobUnknown(fill.digest))),
        Err(problem) => return Err(End::Failed(problem)),
    };
    learn_size(runner, fill, &fetched)?;
    let Some(size_bytes) = fill.size_bytes.get() else {
        return Err(End::Failed(misbehaved("the upstream does not tell how long the blob is")));
    };
    if fetched.start != start {
        // Everybody waits for the run instead, which takes what is sent from its start.
        fill.ahead().forgo_ranges();
        return Ok(());
    }
    let until = end_of(end - 1, *size_bytes);
    let files = fill.open_files(runner).await?;
    let counters = runner.fills.of(&runner.origin);
    let mut writer = Writer::new(runner, fill, files, Party::Extent);
    let mut tail = Tail::at(start);
    while tail.offset < until {
        let Some(mut bytes) = writer.next(&mut tail, &mut fetched.bytes).await? else {
            writer.settle(&mut tail).await?;
            return Err(End::Failed(misbehaved("the upstream's answer ended early")));
        };
        add(counters, |counters| &counters.fetched_bytes, bytes.len() as u64);
        bytes.truncate(usize::try_from(until - tail.offset).unwrap_or(usize::MAX));
        while !bytes.is_empty() {
            fill.hold_room(runner, &writer.files, tail.offset).await?;
            let to_chunk_end = FILL_CHUNK_BYTES - tail.offset % FILL_CHUNK_BYTES;
            let part = bytes.split_to(bytes.len().min(to_chunk_end as usize));
            writer.push(&mut tail, part).await?;
        }
    }
    writer.settle(&mut tail).await
}
