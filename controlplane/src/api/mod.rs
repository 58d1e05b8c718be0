//! The fixed paths outside `/v2/`: health, metrics, a greeting; and `/api/v1`, which is for loopback alone.
//!
//! axum routes them, called as a service: no client's socket is ever its own.

mod access;
mod cache;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use control::{Caller, Health, Reply};
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Request, StatusCode};
use oci::{Method, Problem};
use serde_json::json;
use tower_service::Service;

use crate::metadata::Metadata;
use crate::mirror::Mirror;

/// What the fixed paths show, asked anew for every request.
#[derive(Clone)]
pub struct Fixed {
    /// For `/healthz`.
    pub health: Arc<dyn Fn() -> Health + Send + Sync>,
    /// For `/metrics`: OpenMetrics text, with its `# EOF`.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// Paths below this are looked at by who asks.
const OPERATORS: &str = "/api/";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const GREETING: &str = "This is Gantry, a container registry. Its API is at /v2/.\n";
const GET: &str = "GET, HEAD";

/// The reply's headers that a fixed path may set, with the names that [`Reply`] takes.
const HEADERS: [(HeaderName, &str); 2] = [(CONTENT_TYPE, "content-type"), (ALLOW, "allow")];

/// The service behind all fixed paths.
#[derive(Clone)]
pub(crate) struct Api {
    router: Router,
}

impl Api {
    /// `mirror`: `None` where there are no upstreams, and so nothing below `/api/v1/cache`.
    pub(crate) fn new<M: Metadata>(fixed: Fixed, mirror: Option<Arc<Mirror<M>>>) -> Api {
        let operators = mirror.map(cache::routes).unwrap_or_default();
        let router = Router::new()
            .route("/", get(async || typed(StatusCode::OK, TEXT, GREETING)))
            .route("/livez", get(async || typed(StatusCode::OK, TEXT, "alive\n")))
            // Whoever reads this is being served.
            .route("/readyz", get(async || typed(StatusCode::OK, TEXT, "ready\n")))
            .route("/healthz", get(healthz))
            .route("/metrics", get(metrics))
            .method_not_allowed_fallback(async || problem(&Problem::MethodNotAllowed { allow: GET }))
            .fallback(async || problem(&Problem::NotFound))
            .with_state(fixed)
            .nest("/api/v1/cache", operators);
        Api { router }
    }

    /// Answers a request whose target is none of `/v2/`.
    pub(crate) async fn answer(
        &self,
        sent: Method,
        target: String,
        body: Bytes,
        caller: Option<&Caller>,
    ) -> Result<Reply, Problem> {
        if target.starts_with(OPERATORS)
            && let Some(why) = access::refusal(caller)
        {
            let body = json!({ "errors": [{ "code": "DENIED", "message": why, "detail": null }] });
            return Ok(Reply::whole(403, JSON, body.to_string()));
        }
        let request = Request::builder()
            .method(method(sent))
            .uri(target)
            .body(Body::from(body))
            .map_err(|_not_a_uri| Problem::NotFound)?;
        let response = match self.router.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status().as_u16();
        let headers = HEADERS
            .iter()
            .filter_map(|(header, name)| {
                let value = response.headers().get(header)?.to_str().ok()?;
                Some((*name, value.to_owned()))
            })
            .collect();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await;
        let body = body.map_err(|_broken| Problem::Internal)?;
        Ok(Reply { status, headers, body })
    }
}

async fn healthz(State(fixed): State<Fixed>) -> Response {
    let health = (fixed.health)();
    let status = if health.writes.allowed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match serde_json::to_string(&health) {
        Ok(text) => typed(status, JSON, text),
        Err(error) => {
            tracing::error!(%error, "health could not be written as JSON");
            problem(&Problem::Internal)
        }
    }
}

async fn metrics(State(fixed): State<Fixed>) -> Response {
    typed(StatusCode::OK, OPENMETRICS, (fixed.metrics)())
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static(content_type))], body.into()).into_response()
}

fn problem(problem: &Problem) -> Response {
    let wire = problem.wire();
    let status = StatusCode::from_u16(wire.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = typed(status, JSON, problem.body());
    if let Problem::MethodNotAllowed { allow } = problem {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    response
}

fn method(method: Method) -> http::Method {
    match method {
        // The core drops the body of a HEAD's reply, and wants to know its length.
        Method::Get | Method::Head => http::Method::GET,
        Method::Put => http::Method::PUT,
        Method::Post => http::Method::POST,
        Method::Patch => http::Method::PATCH,
        Method::Delete => http::Method::DELETE,
        // Whatever it was, no fixed path takes it.
        Method::Other => http::Method::OPTIONS,
    }
}
