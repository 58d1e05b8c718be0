//! The lane of questions: each is answered on a task of its own, within a bound.
//!
//! What was pushed here is answered from the metadata, what belongs to an upstream by the mirror; which of both is
//! decided here, by the repository's name. A question that waits for an upstream keeps no other from its answer: see
//! [`Turn`].

use std::sync::Arc;

use control::{Answer, Ask, CommitFailed, Description, Document, Lane, Link, PushedBlob, Writes};
use oci::{Digest, Problem, Reference, RepositoryName};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::limits;
use crate::manifests::{self, MissingReferences};
use crate::metadata::{DeleteManifest, Metadata, Mount};
use crate::mirror::Mirror;
use crate::turn::Turn;
use crate::upstream::Accept;

/// What a question is answered from.
pub(crate) struct Questions<M> {
    pub metadata: Arc<M>,
    /// `None`: this registry is nobody's mirror.
    pub mirror: Option<Arc<Mirror<M>>>,
    pub writes: Arc<Writes>,
    pub missing_references: MissingReferences,
    /// One permit for each manifest that is being parsed.
    pub parses: Arc<Semaphore>,
}

impl<M> Clone for Questions<M> {
    fn clone(&self) -> Questions<M> {
        Questions {
            metadata: Arc::clone(&self.metadata),
            mirror: self.mirror.clone(),
            writes: Arc::clone(&self.writes),
            missing_references: self.missing_references,
            parses: Arc::clone(&self.parses),
        }
    }
}

/// Answers until the lane closes, and then what was still being answered. Who waits for an upstream then is told to
/// come again.
pub(crate) async fn answer_all<M: Metadata>(questions: Questions<M>, mut lane: Lane<Ask>) {
    let places = Arc::new(Semaphore::new(limits::QUESTIONS_AT_ONCE));
    let mut answering = JoinSet::new();
    while let Some(ask) = lane.recv().await {
        let Some(turn) = Turn::take(&places).await else { break };
        while answering.try_join_next().is_some() {}
        answering.spawn(answer(questions.clone(), ask, turn));
    }
    if let Some(mirror) = &questions.mirror {
        mirror.close().await;
    }
    while answering.join_next().await.is_some() {}
}

async fn answer<M: Metadata>(questions: Questions<M>, ask: Ask, mut turn: Turn) {
    let Questions { metadata, mirror, writes, missing_references, parses } = &questions;
    // Everybody may do everything until there are accounts, so no arm looks at its principal.
    match ask {
        Ask::Link { repository, digest, principal: _, answer } => {
            reply(answer, questions.link(repository, digest, &mut turn).await);
        }
        Ask::Measure { origin, digest, answer } => {
            let link = match mirror {
                Some(mirror) => mirror.within(Box::pin(mirror.measure(&origin, digest, &mut turn))).await,
                // Nobody has a link to an upstream.
                None => Ok(None),
            };
            reply(answer, link);
        }
        Ask::Fetch { origin, digest, from, to, memory, answer } => {
            let fetched = match mirror {
                Some(mirror) => {
                    let fetch = mirror.fetch(&origin, digest, (from, to), memory, &mut turn);
                    mirror.within(Box::pin(fetch)).await
                }
                // Nobody has a link to an upstream.
                None => Ok(None),
            };
            reply(answer, fetched);
        }
        Ask::Manifest { repository, reference, accept, principal: _, answer } => {
            let accept = Accept::with(&accept);
            reply(answer, questions.manifest(repository, reference, &accept, &mut turn).await);
        }
        Ask::Describe { repository, reference, accept, principal: _, answer } => {
            let accept = Accept::with(&accept);
            reply(answer, questions.describe(repository, reference, &accept, &mut turn).await);
        }
        // A session is the data plane's, and the repository exists once something was pushed into it.
        Ask::OpenUpload { repository, principal: _, answer } => {
            let refusal = writes.refused().map(|refusal| Problem::WritesRefused { why: refusal.why() });
            let opened = match (refusal, mirror) {
                (Some(problem), _) => Err(problem),
                (None, Some(mirror)) => mirror.claim(&repository).await,
                (None, None) => Ok(()),
            };
            reply(answer, opened);
        }
        // What is an upstream's is in no table of what was pushed, so nothing is ever mounted from it.
        Ask::Mountable { repository, digest, from, principal: _, answer } => {
            let mountable = match questions.may_write(&repository) {
                Ok(()) => metadata.mountable(Mount { repository, digest, from }).await,
                Err(problem) => Err(problem),
            };
            reply(answer, mountable);
        }
        Ask::Mount { repository, digest, from, principal: _, answer } => {
            let mounted = match questions.may_write(&repository) {
                Ok(()) => metadata.mount(Mount { repository, digest, from }).await,
                Err(problem) => Err(problem),
            };
            reply(answer, mounted);
        }
        Ask::Home { digests, answer } => reply(answer, metadata.home(digests).await),
        Ask::HomeAfter { after, most, answer } => reply(answer, metadata.home_after(after, most).await),
        Ask::Commit { batch, answer } => {
            let _keeper_is_gone = answer.send(questions.commit(batch).await);
        }
        Ask::PutManifest { manifest, principal: _, answer } => {
            let stored = match questions.may_write(&manifest.repository) {
                Ok(()) => {
                    let (metadata, parses) = (Arc::clone(metadata), Arc::clone(parses));
                    manifests::put(metadata, *missing_references, parses, manifest).await
                }
                Err(problem) => Err(problem),
            };
            reply(answer, stored);
        }
        Ask::DeleteManifest { repository, reference, preconditions, principal: _, answer } => {
            let deleted = match questions.may_write(&repository) {
                Ok(()) => {
                    let delete = Box::new(DeleteManifest { repository, reference, preconditions });
                    metadata.delete_manifest(delete).await
                }
                Err(problem) => Err(problem),
            };
            reply(answer, deleted);
        }
        Ask::DeleteBlob { repository, digest, principal: _, answer } => {
            let deleted = match questions.may_write(&repository) {
                Ok(()) => metadata.delete_blob(repository, digest).await,
                Err(problem) => Err(problem),
            };
            reply(answer, deleted);
        }
    }
}

/// An asker that is gone has hung up: that is no error, and a change that was made stays.
fn reply<T>(answer: Answer<T>, result: Result<T, Problem>) {
    let _hung_up = answer.send(result);
}

impl<M: Metadata> Questions<M> {
    /// One read, with a mirror as without one.
    async fn link(
        &self,
        repository: RepositoryName,
        digest: Digest,
        turn: &mut Turn,
    ) -> Result<Option<Link>, Problem> {
        let meant = self.mirror.as_ref().and_then(|mirror| Some((mirror, mirror.place(&repository)?)));
        match meant {
            Some((mirror, place)) => Box::pin(mirror.link(repository, &place, digest, turn)).await,
            None => self.metadata.link(repository, digest).await,
        }
    }

    async fn manifest(
        &self,
        repository: RepositoryName,
        reference: Reference,
        accept: &Accept,
        turn: &mut Turn,
    ) -> Result<Option<Document>, Problem> {
        if let Some(document) = self.pushed(repository, reference).await? {
            return Ok(Some(document));
        }
        let Some(mirror) = &self.mirror else { return Ok(None) };
        let Some(place) = mirror.source(&repository).await? else { return Ok(None) };
        let asked = Box::pin(mirror.manifest(&place, reference, accept, turn));
        let document = mirror.within(asked).await?;
        if let (Some(document), Reference::Tag(_)) = (&document, reference) {
            mirror.prefetch(&place, document);
        }
        Ok(document)
    }

    async fn describe(
        &self,
        repository: RepositoryName,
        reference: Reference,
        accept: &Accept,
        turn: &mut Turn,
    ) -> Result<Option<Description>, Problem> {
        if let Some(document) = self.pushed(repository, reference).await? {
            return Ok(Some(Description::Whole(document)));
        }
        let Some(mirror) = &self.mirror else { return Ok(None) };
        match mirror.source(&repository).await? {
            None => Ok(None),
            Some(place) => mirror.within(Box::pin(mirror.describe(&place, reference, accept, turn))).await,
        }
    }

    async fn pushed(
        &self,
        repository: RepositoryName,
        reference: Reference,
    ) -> Result<Option<Document>, Problem> {
        if self.is_upstreams(&repository) {
            return Ok(None);
        }
        self.metadata.manifest(repository, reference).await
    }

    fn is_upstreams(&self, repository: &RepositoryName) -> bool {
        self.mirror.as_ref().is_some_and(|mirror| mirror.is_upstreams(repository))
    }

    fn may_write(&self, repository: &RepositoryName) -> Result<(), Problem> {
        if self.is_upstreams(repository) { Err(Problem::PullOnly) } else { Ok(()) }
    }

    /// A session may be older than the upstream that has its name now: such a member is refused alone.
    async fn commit(&self, batch: Vec<PushedBlob>) -> Result<Vec<Result<(), Problem>>, CommitFailed> {
        let refused: Vec<bool> = batch.iter().map(|pushed| self.is_upstreams(&pushed.repository)).collect();
        if !refused.contains(&true) {
            return self.metadata.commit(batch).await;
        }
        let members = batch.into_iter().zip(&refused).filter(|(_, refused)| !**refused);
        let mut results =
            self.metadata.commit(members.map(|(pushed, _)| pushed).collect()).await?.into_iter();
        let of = |refused: bool| {
            if refused { Some(Err(Problem::PullOnly)) } else { results.next() }
        };
        Ok(refused.into_iter().filter_map(of).collect())
    }
}
