//! The node itself: status, health, metrics, and the document that describes all this.

use crate::body::Json;
use crate::problem::Problem;
use crate::router::Api;
use crate::{openapi, prometheus};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use control::{Health, NodeStatus};

/// Says how the controller is: disks, memory, shards, vDisks.
#[utoipa::path(get, path = "/api/v1/status", tag = "node", responses(
    (status = 200, description = "The status", body = NodeStatus),
    (status = "default", description = "Any error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn status(State(api): State<Api>) -> Result<Json<NodeStatus>, Problem> {
    Ok(Json(api.control.status().await?))
}

/// Is it healthy? For load balancers and monitors; needs no token.
#[utoipa::path(get, path = "/healthz", tag = "node", security(()), responses(
    (status = 200, description = "Healthy", body = Health),
    (status = 503, description = "Starting, degraded or stopping; `reasons` says why", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn healthz(State(api): State<Api>) -> Result<Response, Problem> {
    let health = api.control.status().await?.health;
    let (word, reasons) = match &health {
        Health::Healthy => return Ok(Json(health).into_response()),
        Health::Starting { reasons } => ("starting", reasons.clone()),
        Health::Degraded { reasons } => ("degraded", reasons.clone()),
        Health::Stopping => ("stopping", Vec::new()),
    };
    let detail = format!("the controller is {word}: {}", reasons.join("; "));
    let detail = detail.trim_end_matches(": ").to_string();
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, word, "Not healthy", detail);
    Err(Problem { reasons, ..problem })
}

/// Counters and gauges as Prometheus text.
#[utoipa::path(get, path = "/metrics", tag = "node", responses(
    (status = 200, description = "Prometheus text format 0.0.4", body = String, content_type = "text/plain"),
    (status = "default", description = "Any error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn metrics(State(api): State<Api>) -> Result<Response, Problem> {
    let text = prometheus::render(&api.control.metrics().await?);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// This document; needs no token.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "node", security(()), responses(
    (status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json"),
))]
pub(crate) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::document()).into_response()
}
