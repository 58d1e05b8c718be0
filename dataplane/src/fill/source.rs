//! An upstream's bytes of a blob that is not kept, in order, gone on with when an answer breaks off.
//!
//! Invariants: nothing of them is held here but what came and was not taken. None is given twice, and none left out.

use std::collections::VecDeque;

use bytes::Bytes;
use control::Fetched;
use oci::{Digest, Problem, Span};
use tokio::sync::mpsc;

use super::{
    Runner,
    run::{TOO_LARGE, add, misbehaved},
};
use crate::limits::{FILL_RESUME_PAUSE, FILL_RESUMES_MAX};

/// What is still to come of a blob, and from where.
pub(super) struct Source {
    runner: Runner,
    digest: Digest,
    /// Of the whole blob. `None`: nobody has told it.
    size_bytes: Option<u64>,
    /// The next byte that is given.
    at: u64,
    /// Exclusive. `None`: where the blob ends.
    end: Option<u64>,
    /// What came before it had a taker.
    came: VecDeque<Bytes>,
    answer: Option<Answer>,
    /// Whether anybody was told that it is to be had: then a failure is not the last word.
    has_begun: bool,
    resumes: u32,
}

/// An answer of the origin that has begun.
pub(super) struct Answer {
    pub(super) bytes: mpsc::Receiver<Result<Bytes, Problem>>,
    /// Bytes of it that lie before what is wanted.
    pub(super) skip: u64,
    /// Where it was asked to end, exclusive. `None`: at the blob's end.
    pub(super) until: Option<u64>,
}

/// What a run leaves that has no room for more.
#[derive(Default)]
pub(super) struct Leftover {
    /// What came behind the frontier.
    pub(super) came: VecDeque<Bytes>,
    pub(super) answer: Option<Answer>,
}

impl Source {
    /// A request of its own for `span` of a blob. `has_begun`: of an answer that is in its middle.
    pub(super) fn of(runner: Runner, digest: Digest, size_bytes: u64, span: Span, has_begun: bool) -> Source {
        let Span { start, end } = span;
        Source {
            runner,
            digest,
            size_bytes: Some(size_bytes),
            at: start,
            end: Some(end),
            came: VecDeque::new(),
            answer: None,
            has_begun,
            resumes: 0,
        }
    }

    /// The rest of a blob from `at` on, of which a run has the start.
    pub(super) fn after_run(
        runner: Runner,
        digest: Digest,
        size_bytes: Option<u64>,
        at: u64,
        left: Leftover,
    ) -> Source {
        let Leftover { came, answer } = left;
        let (end, has_begun, resumes) = (size_bytes, true, 0);
        Source { runner, digest, size_bytes, at, end, came, answer, has_begun, resumes }
    }

    /// Bytes of the whole blob, if anybody has told, or its end was met.
    pub(super) fn size_bytes(&self) -> Option<u64> {
        self.size_bytes
    }

    /// Whether all of it was given.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some_and(|end| self.at >= end)
    }

    /// The next bytes, never none of them. `None`: that was all.
    ///
    /// Errors: they can't be had.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        while !self.is_over() {
            if let Some(bytes) = self.came.pop_front() {
                match self.take(bytes)? {
                    Some(bytes) => return Ok(Some(bytes)),
                    None => continue,
                }
            }
            let Some(answer) = &mut self.answer else {
                match self.ask().await {
                    Ok(answer) => self.answer = Some(answer),
                    // The first answer decides at once what the client is told.
                    Err(problem) if !self.has_begun => return Err(problem),
                    Err(problem) => self.broke_off(problem).await?,
                }
                continue;
            };
            match answer.bytes.recv().await {
                Some(Ok(mut bytes)) => {
                    let counters = self.runner.fills.of(&self.runner.origin);
                    add(counters, |counters| &counters.fetched_bytes, bytes.len() as u64);
                    let dropped = answer.skip.min(bytes.len() as u64);
                    answer.skip -= dropped;
                    let _ = bytes.split_to(dropped as usize);
                    self.came.push_back(bytes);
                }
                Some(Err(problem)) => self.broke_off(problem).await?,
                None if answer.until == Some(self.at) => self.answer = None,
                None if self.end.is_none() => (self.size_bytes, self.end) = (Some(self.at), Some(self.at)),
                None => self.broke_off(misbehaved("the upstream's answer ended early")).await?,
            }
        }
        Ok(None)
    }

    fn take(&mut self, mut bytes: Bytes) -> Result<Option<Bytes>, Problem> {
        if let Some(end) = self.end {
            bytes.truncate(usize::try_from(end - self.at).unwrap_or(usize::MAX));
        }
        self.at += bytes.len() as u64;
        self.has_begun |= !bytes.is_empty();
        if self.at > self.runner.blob_bytes_max {
            return Err(misbehaved(TOO_LARGE));
        }
        Ok((!bytes.is_empty()).then_some(bytes))
    }

    async fn broke_off(&mut self, why: Problem) -> Result<(), Problem> {
        if self.resumes == FILL_RESUMES_MAX {
            return Err(why);
        }
        self.resumes += 1;
        self.answer = None;
        let io = &self.runner.io;
        io.sleep_until(io.now() + FILL_RESUME_PAUSE * self.resumes).await;
        Ok(())
    }

    async fn fetch(&self, span: (u64, Option<u64>)) -> Result<Option<Fetched>, Problem> {
        let Runner { control, fills, origin, .. } = &self.runner;
        control.fetch(*origin, self.digest, span, fills.passing.memory.clone()).await
    }

    async fn ask(&mut self) -> Result<Answer, Problem> {
        let until = self.end.filter(|end| self.size_bytes != Some(*end));
        let fetched = self.fetch((self.at, until)).await?;
        let fetched = fetched.ok_or(Problem::BlobUnknown(self.digest))?;
        match (self.size_bytes, fetched.size_bytes) {
            (Some(known), Some(told)) if known != told => {
                return Err(misbehaved("the upstream tells another length than before"));
            }
            (None, Some(told)) => (self.size_bytes, self.end) = (Some(told), Some(told)),
            _ => {}
        }
        // An origin without ranges begins at 0 again, and goes on to the end.
        match self.at.checked_sub(fetched.start) {
            Some(skip) => Ok(Answer { bytes: fetched.bytes, skip, until: until.filter(|_| skip == 0) }),
            None => Err(misbehaved("the upstream answered with another range")),
        }
    }
}
