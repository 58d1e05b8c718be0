//! What the control plane answers whole: lists, and the fixed paths outside `/v2/`.

use control::{Forward, Principal};
use oci::Problem;

use super::Unanswered;
use crate::{
    core::{Connection, Core, Request, Response},
    limits::MANIFEST_BYTES_MAX,
};

/// Hands a request over and renders the reply. (end-8, end-12, `_catalog`)
pub async fn forward(core: &Core, conn: &mut Connection, request: &Request) -> Result<Response, Unanswered> {
    let reserved = conn.reserve_body(core, Problem::ManifestTooLarge)?;
    let body = conn.collect(core, MANIFEST_BYTES_MAX, Problem::ManifestTooLarge).await;
    let reply = match body {
        Ok(body) => core
            .control
            .forward(|answer| Forward {
                endpoint: request.endpoint.clone(),
                method: request.method,
                target: request.target.clone(),
                body: body.into(),
                principal: Principal::Anonymous,
                caller: request.caller.clone(),
                answer,
            })
            .await
            .map_err(Unanswered::from),
        Err(end) => Err(end.into()),
    };
    core.release(reserved);
    let reply = reply?;
    let mut lines = core.lines(reply.status);
    for (name, value) in &reply.headers {
        lines.field(name, value.as_bytes());
    }
    Ok(Response::bytes(reply.status, lines, reply.body))
}
