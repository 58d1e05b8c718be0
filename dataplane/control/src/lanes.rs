//! Two bounded lanes from the cores to the control plane: questions, and forwarded requests.
//!
//! They are two so that a flood of catalog requests can't starve a commit. A full lane is an answer:
//! [`Problem::Overloaded`], 503 with `Retry-After`; nothing queues without bound.

use std::sync::Arc;

use oci::{Digest, MediaType, Problem, Reference, RepositoryName};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    Answer, Ask, CommitFailed, Description, Document, Fetched, Forward, Link, Manifest, Memory, Origin,
    Preconditions, Principal, PushedBlob, Reply, StoredManifest,
};

/// The cores' end. Cloning it is cheap; all clones share the lanes.
#[derive(Clone)]
pub struct Control {
    questions: mpsc::Sender<Ask>,
    forwards: mpsc::Sender<Forward>,
    closed: Arc<watch::Sender<bool>>,
}

/// The control plane's end.
pub struct Lanes {
    /// Questions, in order of arrival.
    pub questions: Lane<Ask>,
    /// Requests to be answered whole.
    pub forwards: Lane<Forward>,
}

/// One bounded lane, at the end where it is emptied.
pub struct Lane<T> {
    waiting: mpsc::Receiver<T>,
    closed: watch::Receiver<bool>,
}

impl<T> Lane<T> {
    pub(crate) fn of(waiting: mpsc::Receiver<T>, closed: watch::Receiver<bool>) -> Lane<T> {
        Lane { waiting, closed }
    }

    /// The next entry. `None`: the lane is closed, or every [`Control`] is gone, and it is empty.
    pub async fn recv(&mut self) -> Option<T> {
        if !*self.closed.borrow() {
            tokio::select! {
                next = self.waiting.recv() => return next,
                // An error says that every `Control` is gone; then so is every sender.
                _ = self.closed.wait_for(|closed| *closed) => {}
            }
        }
        self.waiting.close();
        self.waiting.recv().await
    }
}

const OVERLOADED: Problem = Problem::Overloaded { retry_after_s: 1 };

impl Control {
    /// Two lanes of at most `questions` and `forwards` waiting entries.
    pub fn lanes(questions: usize, forwards: usize) -> (Control, Lanes) {
        let (question_sender, questions_receiver) = mpsc::channel(questions);
        let (forward_sender, forwards_receiver) = mpsc::channel(forwards);
        let (close, closed) = watch::channel(false);
        let control =
            Control { questions: question_sender, forwards: forward_sender, closed: Arc::new(close) };
        let lanes = Lanes {
            questions: Lane { waiting: questions_receiver, closed: closed.clone() },
            forwards: Lane { waiting: forwards_receiver, closed },
        };
        (control, lanes)
    }

    /// Takes nothing more from anybody. What waits in the lanes is still answered.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// See [`Ask::Link`].
    pub async fn link(
        &self,
        repository: RepositoryName,
        digest: Digest,
        principal: Principal,
    ) -> Result<Option<Link>, Problem> {
        self.ask(|answer| Ask::Link { repository, digest, principal, answer }).await
    }

    /// See [`Ask::Measure`].
    pub async fn measure(&self, origin: Origin, digest: Digest) -> Result<Option<Link>, Problem> {
        self.ask(|answer| Ask::Measure { origin, digest, answer }).await
    }

    /// See [`Ask::Fetch`]; `span` is from where, and to where if not to the end.
    pub async fn fetch(
        &self,
        origin: Origin,
        digest: Digest,
        span: (u64, Option<u64>),
        memory: Memory,
    ) -> Result<Option<Fetched>, Problem> {
        let (from, to) = span;
        self.ask(|answer| Ask::Fetch { origin, digest, from, to, memory, answer }).await
    }

    /// See [`Ask::Manifest`]; for who takes whatever there is.
    pub async fn manifest(
        &self,
        repository: RepositoryName,
        reference: Reference,
        principal: Principal,
    ) -> Result<Option<Document>, Problem> {
        self.manifest_as(repository, reference, Vec::new(), principal).await
    }

    /// See [`Ask::Manifest`].
    pub async fn manifest_as(
        &self,
        repository: RepositoryName,
        reference: Reference,
        accept: Vec<MediaType>,
        principal: Principal,
    ) -> Result<Option<Document>, Problem> {
        self.ask(|answer| Ask::Manifest { repository, reference, accept, principal, answer }).await
    }

    /// See [`Ask::Describe`]; for who takes whatever there is.
    pub async fn describe(
        &self,
        repository: RepositoryName,
        reference: Reference,
        principal: Principal,
    ) -> Result<Option<Description>, Problem> {
        self.describe_as(repository, reference, Vec::new(), principal).await
    }

    /// See [`Ask::Describe`].
    pub async fn describe_as(
        &self,
        repository: RepositoryName,
        reference: Reference,
        accept: Vec<MediaType>,
        principal: Principal,
    ) -> Result<Option<Description>, Problem> {
        self.ask(|answer| Ask::Describe { repository, reference, accept, principal, answer }).await
    }

    /// See [`Ask::OpenUpload`].
    pub async fn open_upload(&self, repository: RepositoryName, principal: Principal) -> Result<(), Problem> {
        self.ask(|answer| Ask::OpenUpload { repository, principal, answer }).await
    }

    /// See [`Ask::Mountable`].
    pub async fn mountable(
        &self,
        repository: RepositoryName,
        digest: Digest,
        from: Option<RepositoryName>,
        principal: Principal,
    ) -> Result<Option<Link>, Problem> {
        self.ask(|answer| Ask::Mountable { repository, digest, from, principal, answer }).await
    }

    /// See [`Ask::Mount`].
    pub async fn mount(
        &self,
        repository: RepositoryName,
        digest: Digest,
        from: Option<RepositoryName>,
        principal: Principal,
    ) -> Result<bool, Problem> {
        self.ask(|answer| Ask::Mount { repository, digest, from, principal, answer }).await
    }

    /// See [`Ask::PutManifest`].
    pub async fn put_manifest(
        &self,
        manifest: Box<Manifest>,
        principal: Principal,
    ) -> Result<StoredManifest, Problem> {
        self.ask(|answer| Ask::PutManifest { manifest, principal, answer }).await
    }

    /// See [`Ask::DeleteManifest`].
    pub async fn delete_manifest(
        &self,
        repository: RepositoryName,
        reference: Reference,
        preconditions: Preconditions,
        principal: Principal,
    ) -> Result<(), Problem> {
        self.ask(|answer| Ask::DeleteManifest { repository, reference, preconditions, principal, answer })
            .await
    }

    /// See [`Ask::DeleteBlob`].
    pub async fn delete_blob(
        &self,
        repository: RepositoryName,
        digest: Digest,
        principal: Principal,
    ) -> Result<(), Problem> {
        self.ask(|answer| Ask::DeleteBlob { repository, digest, principal, answer }).await
    }

    /// Has the control plane answer a request whole; `request` makes it from the place for the answer.
    pub async fn forward(&self, request: impl FnOnce(Answer<Reply>) -> Forward) -> Result<Reply, Problem> {
        let (answer, reply) = oneshot::channel();
        self.forwards.try_send(request(answer)).map_err(|_full_or_closed| OVERLOADED)?;
        reply.await.unwrap_or(Err(Problem::Internal))
    }

    /// See [`Ask::Home`].
    pub async fn home(&self, digests: Vec<Digest>) -> Result<Vec<Option<u64>>, Problem> {
        self.ask(|answer| Ask::Home { digests, answer }).await
    }

    /// See [`Ask::HomeAfter`].
    pub async fn home_after(&self, after: Option<Digest>, most: u32) -> Result<Vec<(Digest, u64)>, Problem> {
        self.ask(|answer| Ask::HomeAfter { after, most, answer }).await
    }

    /// See [`Ask::Home`]. Blocks the calling thread: the keeper's, which waits for nothing else meanwhile.
    pub fn home_blocking(&self, digests: Vec<Digest>) -> Result<Vec<Option<u64>>, Problem> {
        let (answer, reply) = oneshot::channel();
        self.questions.blocking_send(Ask::Home { digests, answer }).map_err(|_closed| Problem::Internal)?;
        reply.blocking_recv().unwrap_or(Err(Problem::Internal))
    }

    /// See [`Ask::Commit`]. Blocks the calling thread, the keeper's. A control plane that is gone is a
    /// commit that failed: whether it happened is unknown.
    pub fn commit_blocking(&self, batch: Vec<PushedBlob>) -> Result<Vec<Result<(), Problem>>, CommitFailed> {
        let (answer, reply) = oneshot::channel();
        self.questions.blocking_send(Ask::Commit { batch, answer }).map_err(|_closed| CommitFailed)?;
        reply.blocking_recv().unwrap_or(Err(CommitFailed))
    }

    async fn ask<T>(&self, question: impl FnOnce(Answer<T>) -> Ask) -> Result<T, Problem> {
        let (answer, reply) = oneshot::channel();
        self.questions.try_send(question(answer)).map_err(|_full_or_closed| OVERLOADED)?;
        reply.await.unwrap_or(Err(Problem::Internal))
    }
}
