//! The lane of forwarded requests: lists, and the fixed paths.

use std::sync::Arc;

use bytes::Bytes;
use control::{Forward, Lane, Reply};
use oci::{Endpoint, Method, Problem};
use tokio::task::JoinSet;

use crate::api::Api;
use crate::metadata::Metadata;
use crate::{limits, lists};

/// Answers until the lane closes, and then what was still being answered.
pub(crate) async fn answer_all<M: Metadata>(metadata: Arc<M>, api: Api, mut lane: Lane<Forward>) {
    let mut answering = JoinSet::new();
    while let Some(forward) = lane.recv().await {
        if answering.len() >= limits::FORWARDS_AT_ONCE {
            answering.join_next().await;
        }
        while answering.try_join_next().is_some() {}
        let (metadata, api) = (Arc::clone(&metadata), api.clone());
        answering.spawn(async move {
            let Forward { endpoint, method, target, body, principal: _, answer } = forward;
            // Whoever asked may have hung up.
            let _heard = answer.send(reply(&*metadata, &api, endpoint, method, target, body).await);
        });
    }
    while answering.join_next().await.is_some() {}
}

async fn reply<M: Metadata>(
    metadata: &M,
    api: &Api,
    endpoint: Endpoint,
    method: Method,
    target: String,
    body: Bytes,
) -> Result<Reply, Problem> {
    match endpoint {
        Endpoint::Catalog(page) => lists::catalog(metadata, &page, &target).await,
        Endpoint::Tags { repository, page } => lists::tags(metadata, repository, &page, &target).await,
        Endpoint::Referrers(asked) => lists::referrers(metadata, *asked, &target).await,
        Endpoint::Fixed => api.answer(method, target, body).await,
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
        | Endpoint::CancelUpload { .. } => Err(Problem::Internal),
    }
}
