//! The lane of questions: each is answered on a task of its own, within a bound.

use std::sync::Arc;

use control::{Answer, Ask, Lane, Writes};
use oci::Problem;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::limits;
use crate::manifests::{self, MissingReferences};
use crate::metadata::{DeleteManifest, Metadata, Mount};

/// What a question is answered from.
pub(crate) struct Questions<M> {
    pub metadata: Arc<M>,
    pub writes: Arc<Writes>,
    pub missing_references: MissingReferences,
    /// One permit for each manifest that is being parsed.
    pub parses: Arc<Semaphore>,
}

impl<M> Clone for Questions<M> {
    fn clone(&self) -> Questions<M> {
        Questions {
            metadata: Arc::clone(&self.metadata),
            writes: Arc::clone(&self.writes),
            missing_references: self.missing_references,
            parses: Arc::clone(&self.parses),
        }
    }
}

/// Answers until the lane closes, and then what was still being answered.
pub(crate) async fn answer_all<M: Metadata>(questions: Questions<M>, mut lane: Lane<Ask>) {
    let mut answering = JoinSet::new();
    while let Some(ask) = lane.recv().await {
        if answering.len() >= limits::QUESTIONS_AT_ONCE {
            answering.join_next().await;
        }
        while answering.try_join_next().is_some() {}
        answering.spawn(answer(questions.clone(), ask));
    }
    while answering.join_next().await.is_some() {}
}

async fn answer<M: Metadata>(questions: Questions<M>, ask: Ask) {
    let Questions { metadata, writes, missing_references, parses } = questions;
    // Everybody may do everything until there are accounts, so no arm looks at its principal.
    match ask {
        Ask::Link { repository, digest, principal: _, answer } => {
            reply(answer, metadata.link(repository, digest).await);
        }
        // There are no upstreams yet, so nobody has a link to one.
        Ask::Fetch { answer, .. } => reply(answer, Ok(None)),
        Ask::Manifest { repository, reference, principal: _, answer } => {
            reply(answer, metadata.manifest(repository, reference).await);
        }
        // A session is the data plane's, and the repository exists once something was pushed into it.
        Ask::OpenUpload { repository: _, principal: _, answer } => {
            let refusal = writes.refused().map(|refusal| Problem::WritesRefused { why: refusal.why() });
            reply(answer, refusal.map_or(Ok(()), Err));
        }
        Ask::Mountable { repository, digest, from, principal: _, answer } => {
            reply(answer, metadata.mountable(Mount { repository, digest, from }).await);
        }
        Ask::Mount { repository, digest, from, principal: _, answer } => {
            reply(answer, metadata.mount(Mount { repository, digest, from }).await);
        }
        Ask::Home { digests, answer } => reply(answer, metadata.home(digests).await),
        Ask::HomeAfter { after, most, answer } => reply(answer, metadata.home_after(after, most).await),
        Ask::Commit { batch, answer } => {
            let _keeper_is_gone = answer.send(metadata.commit(batch).await);
        }
        Ask::PutManifest { manifest, principal: _, answer } => {
            reply(answer, manifests::put(metadata, missing_references, parses, manifest).await);
        }
        Ask::DeleteManifest { repository, reference, preconditions, principal: _, answer } => {
            let delete = Box::new(DeleteManifest { repository, reference, preconditions });
            reply(answer, metadata.delete_manifest(delete).await);
        }
        Ask::DeleteBlob { repository, digest, principal: _, answer } => {
            reply(answer, metadata.delete_blob(repository, digest).await);
        }
    }
}

/// An asker that is gone has hung up: that is no error, and a change that was made stays.
fn reply<T>(answer: Answer<T>, result: Result<T, Problem>) {
    let _hung_up = answer.send(result);
}
