//! A part of a blob that a reader wants long before the run comes to it: its own request, whose bytes stay.
//!
//! Invariants: an extent writes only the chunks that it has claimed, and gives back those it did not write. The answer of an
//! origin without ranges is no extent: it is the run's, from its start.

use std::sync::Arc;

use oci::Problem;

use super::{
    ANOTHER_LENGTH, Fill, Runner,
    ahead::Ticket,
    files::end_of,
    memory::Begun,
    run::{End, add, learn_size, misbehaved},
    writer::{Party, Tail, Writer},
};
use crate::limits::FILL_CHUNK_BYTES;

/// Gives back what is still claimed, also when its task is dropped.
struct Claimed {
    fill: Arc<Fill>,
    claim: Ticket,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.fill.ahead().ended(self.claim);
        self.fill.wake();
    }
}

/// Fetches the chunks from `first` to `end`, exclusive, which were claimed for it.
pub(super) async fn run(runner: Runner, fill: Arc<Fill>, first: u64, end: u64, claim: Ticket) {
    let claimed = Claimed { fill: fill.clone(), claim };
    match fetch(&runner, &fill, first, end).await {
        Ok(Came::Chunks) => {}
        Ok(Came::Whole(answer)) => {
            // Before anybody sees that it takes a run, and asks for one.
            fill.go_on_with(runner.clone(), Some(answer));
            fill.ahead().forgo_ranges();
        }
        Err(End::Failed(problem) | End::Lost(problem)) => fill.failed(&runner, problem),
        Err(End::Spoilt) => {
            fill.failed(&runner, misbehaved("the upstream tells another length than before"));
            fill.is_spoilt_ahead(&runner).await;
        }
        Err(End::Full) => fill.has_no_room_ahead(&runner),
        Err(End::Here | End::Unwanted | End::CoreEnds) => {}
    }
    drop(claimed);
    if fill.is_to_be_completed(&runner, fill.ahead().bytes()) {
        fill.go_on(runner);
    }
}

/// What was asked for, or all of the blob.
enum Came {
    Chunks,
    Whole(Begun),
}

async fn fetch(runner: &Runner, fill: &Fill, first: u64, end: u64) -> Result<Came, End> {
    let start = first * FILL_CHUNK_BYTES;
    let to =
        fill.size_bytes.get().or(runner.size_bytes.as_ref()).map(|size_bytes| end_of(end - 1, *size_bytes));
    let fetched = match fill.ask(runner, (start, to)).await {
        Ok(Some(fetched)) => fetched,
        Ok(None) => return Err(End::Failed(Problem::BlobUnknown(fill.digest))),
        Err(problem) => return Err(End::Failed(problem)),
    };
    // Nothing of it is verified before all is there, and until then its length would be believed.
    if runner.size_bytes.is_some() && fetched.size_bytes.is_some() && runner.size_bytes != fetched.size_bytes
    {
        return Err(End::Failed(misbehaved(ANOTHER_LENGTH)));
    }
    learn_size(runner, fill, &fetched, start)?;
    let has_all = |size_bytes: &u64| start == 0 && end_of(end - 1, *size_bytes) == *size_bytes;
    if fetched.start != start || (fetched.is_whole && !fill.size_bytes.get().is_some_and(has_all)) {
        return Ok(Came::Whole(fetched));
    }
    let Some(size_bytes) = fill.size_bytes.get() else {
        return Err(End::Failed(misbehaved("the upstream does not tell how long the blob is")));
    };
    let until = end_of(end - 1, *size_bytes);
    let files = fill.open_files(runner).await?;
    let counters = runner.fills.of(&runner.origin);
    let mut fetched = fetched.open();
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
            if let Err(end) = fill.hold_room(runner, &writer.files, tail.offset).await {
                // What is in flight is written before others may claim its chunk.
                writer.settle(&mut tail).await?;
                return Err(end);
            }
            writer.begin(&mut tail).await?;
            let to_chunk_end = FILL_CHUNK_BYTES - tail.offset % FILL_CHUNK_BYTES;
            let part = bytes.split_to(bytes.len().min(to_chunk_end as usize));
            writer.push(&mut tail, part).await?;
        }
    }
    writer.settle(&mut tail).await.map(|()| Came::Chunks)
}
