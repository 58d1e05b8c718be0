//! The lane of forwarded requests: lists, and the fixed paths.

use std::sync::Arc;

use control::{Forward, Lane, Reply};
use oci::{Endpoint, Problem, Referrers, RepositoryName};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::api::Api;
use crate::metadata::Metadata;
use crate::mirror::Mirror;
use crate::turn::Turn;
use crate::{limits, lists};

/// What a forwarded request is answered from.
pub(crate) struct Forwards<M> {
    pub metadata: Arc<M>,
    /// `None`: this registry is nobody's mirror.
    pub mirror: Option<Arc<Mirror<M>>>,
    pub api: Api,
}

/// Answers until the lane closes, and then what was still being answered. Who waits for an upstream then is told to
/// come again.
pub(crate) async fn answer_all<M: Metadata>(forwards: Forwards<M>, mut lane: Lane<Forward>) {
    let forwards = Arc::new(forwards);
    let places = Arc::new(Semaphore::new(limits::FORWARDS_AT_ONCE));
    let mut answering = JoinSet::new();
    while let Some(forward) = lane.recv().await {
        let Some(mut turn) = Turn::take(&places).await else { break };
        while answering.try_join_next().is_some() {}
        let forwards = Arc::clone(&forwards);
        answering.spawn(async move {
            let Forward { endpoint, method, target, body, principal: _, caller, answer } = forward;
            let reply = match endpoint {
                Endpoint::Fixed => forwards.api.answer(method, target, body, caller.as_ref()).await,
                endpoint => forwards.list(endpoint, &target, &mut turn).await,
            };
            // Whoever asked may have hung up.
            let _heard = answer.send(reply);
        });
    }
    if let Some(mirror) = &forwards.mirror {
        mirror.close().await;
    }
    while answering.join_next().await.is_some() {}
}

impl<M: Metadata> Forwards<M> {
    async fn list(&self, endpoint: Endpoint, target: &str, turn: &mut Turn) -> Result<Reply, Problem> {
        match endpoint {
            // What an upstream has nobody knows: this is what was pushed here.
            Endpoint::Catalog(page) => lists::catalog(&*self.metadata, &page, target).await,
            Endpoint::Tags { repository, page } => self.tags(repository, &page, target, turn).await,
            Endpoint::Referrers(asked) => self.referrers(*asked, target, turn).await,
            // The cores answer these themselves, with the questions of the other lane.
            Endpoint::Base
            | Endpoint::GetBlob { .. }
            | Endpoint::DeleteBlob { .. }
            | Endpoint::GetManifest { .. }
            | Endpoint::PutManifest(_)
            | Endpoint::DeleteManifest { .. }
            | Endpoint::OpenUpload(_)
            | Endpoint::PatchUpload { .. }
            | Endpoint::CloseUpload { .. }
            | Endpoint::UploadStatus { .. }
            | Endpoint::CancelUpload { .. }
            | Endpoint::Fixed => Err(Problem::Internal),
        }
    }

    async fn tags(
        &self,
        repository: RepositoryName,
        page: &oci::Page,
        target: &str,
        turn: &mut Turn,
    ) -> Result<Reply, Problem> {
        if let Some(mirror) = &self.mirror
            && let Some(place) = mirror.source(&repository).await?
        {
            return mirror.within(Box::pin(mirror.tags(&place, repository, page, target, turn))).await;
        }
        lists::tags(&*self.metadata, repository, page, target).await
    }

    async fn referrers(&self, asked: Referrers, target: &str, turn: &mut Turn) -> Result<Reply, Problem> {
        if let Some(mirror) = &self.mirror
            && let Some(place) = mirror.source(&asked.repository).await?
            && let Some(reply) =
                mirror.within(Box::pin(mirror.referrers(&place, &asked, target, turn))).await?
        {
            return Ok(reply);
        }
        lists::referrers(&*self.metadata, asked, target).await
    }
}
