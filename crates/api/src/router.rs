//! Which path leads where, and what every request passes on its way.

use crate::auth::{Token, require_token};
use crate::limits::TRANSFERS_BYTES_MAX;
use crate::problem::{self, Problem};
use crate::routes::{containers, data, groups, iscsi, node, rewind, schedules, snapshots, vdisks, vms};
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use control::Control;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

const HEALTH_PATH: &str = "/healthz";

#[derive(Debug, Clone)]
pub struct Settings {
    pub token: Token,
    /// For the body of a request to arrive, and again for the verb to finish.
    pub request_timeout: Duration,
}

/// What every handler gets.
#[derive(Clone)]
pub(crate) struct Api {
    pub control: Arc<dyn Control>,
    pub settings: Arc<Settings>,
    /// One permit for each KiB of a transfer under way.
    pub transfers: Arc<Semaphore>,
}

/// The whole API over `control`.
pub fn router(control: Arc<dyn Control>, settings: Settings) -> Router {
    let transfers = Arc::new(Semaphore::new(TRANSFERS_BYTES_MAX >> 10));
    let api = Api { control, settings: Arc::new(settings), transfers };
    let with_token = Router::new()
        .route("/api/v1/vdisks", get(vdisks::list).post(vdisks::create))
        .route("/api/v1/vdisks/{name}", get(vdisks::show).patch(vdisks::patch).delete(vdisks::delete))
        .route("/api/v1/vdisks/{name}/data", get(data::read).put(data::write))
        .route("/api/v1/vdisks/{name}/zeroes", post(data::write_zeroes))
        .route("/api/v1/vdisks/{name}/flush", post(data::flush))
        .route("/api/v1/vdisks/{name}/extents", get(data::extents))
        .route("/api/v1/vdisks/{name}/snapshots", get(snapshots::list).post(snapshots::create))
        .route("/api/v1/vdisks/{name}/snapshots/{snapshot}", delete(snapshots::delete))
        .route("/api/v1/vdisks/{name}/clones", post(snapshots::make_clones))
        .route("/api/v1/vdisks/{name}/rollback", post(snapshots::roll_back))
        .route("/api/v1/vdisks/{name}/changes", get(snapshots::changes))
        .route("/api/v1/vdisks/{name}/rewind", put(rewind::set).delete(rewind::switch_off))
        .route("/api/v1/vdisks/{name}/history", get(rewind::history))
        .route("/api/v1/vdisks/{name}/rewind/snapshots", post(rewind::snapshot))
        .route("/api/v1/vdisks/{name}/rewind/clones", post(rewind::make_clones))
        .route("/api/v1/vdisks/{name}/rewind/rollback", post(rewind::roll_back))
        .route("/api/v1/vdisks/{name}/space", get(snapshots::space))
        .route("/api/v1/vms", get(vms::list).post(vms::create))
        .route("/api/v1/vms/{name}", get(vms::show).patch(vms::patch).delete(vms::delete))
        .route("/api/v1/vms/{name}/vdisks", post(vms::attach))
        .route("/api/v1/vms/{name}/vdisks/{label}", delete(vms::detach))
        .route("/api/v1/vms/{name}/snapshots", get(vms::snapshots).post(vms::snapshot))
        .route("/api/v1/vms/{name}/snapshots/{snapshot}", delete(vms::delete_snapshot))
        .route("/api/v1/vms/{name}/clones", post(vms::make_clones))
        .route("/api/v1/vms/{name}/rollback", post(vms::roll_back).delete(vms::abort_rollback))
        .route("/api/v1/vms/{name}/rewind/snapshots", post(rewind::snapshot_vm))
        .route("/api/v1/vms/{name}/rewind/clones", post(rewind::make_vm_clones))
        .route("/api/v1/vms/{name}/rewind/rollback", post(rewind::roll_vm_back))
        .route("/api/v1/containers", get(containers::list).post(containers::create))
        .route("/api/v1/containers/{name}", get(containers::show).patch(containers::patch).delete(containers::delete))
        .route("/api/v1/groups", get(groups::list).post(groups::create))
        .route("/api/v1/groups/{name}", get(groups::show).delete(groups::delete))
        .route("/api/v1/groups/{name}/vms", post(groups::add))
        .route("/api/v1/groups/{name}/vms/{vm}", delete(groups::remove))
        .route("/api/v1/groups/{name}/snapshots", get(groups::snapshots).post(groups::snapshot))
        .route("/api/v1/groups/{name}/snapshots/{snapshot}", delete(groups::delete_snapshot))
        .route("/api/v1/groups/{name}/rollback", post(groups::roll_back))
        .route("/api/v1/schedules", get(schedules::list).post(schedules::create))
        .route("/api/v1/schedules/{name}", get(schedules::show).patch(schedules::patch).delete(schedules::delete))
        .route("/api/v1/vdisks/{name}/iscsi", get(iscsi::target).patch(iscsi::set_access))
        .route("/api/v1/iscsi/targets", get(iscsi::targets))
        .route("/api/v1/iscsi/groups", get(iscsi::groups).post(iscsi::create_group))
        .route("/api/v1/iscsi/groups/{name}", put(iscsi::set_group).delete(iscsi::delete_group))
        .route("/api/v1/iscsi/sessions", get(iscsi::sessions))
        .route("/api/v1/iscsi/sessions/{id}", delete(iscsi::drop_session))
        .route("/api/v1/iscsi/portals", get(iscsi::portals))
        .route("/api/v1/status", get(node::status))
        .route("/metrics", get(node::metrics))
        .route_layer(from_fn_with_state(api.clone(), require_token));
    Router::new()
        .route("/api/v1/openapi.json", get(node::openapi))
        .route(HEALTH_PATH, get(node::healthz))
        .merge(with_token)
        .layer(from_fn_with_state(api.clone(), time_limit))
        .layer(from_fn(problem::everywhere))
        .layer(from_fn(trace))
        .with_state(api)
}

/// Answers for a verb that does not finish. Twice the time for a body: what waits longer than that waits for the engine.
async fn time_limit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let limit = api.settings.request_timeout * 2;
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
        let detail = format!("this did not finish within {} s; it may still take effect", limit.as_secs());
        Problem::unavailable(detail).into_response()
    })
}

/// One line for each request; never its headers or its body. What monitors ask for every few seconds is no failure of
/// the request: the controller logs a change of its health once.
async fn trace(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_string());
    let begun = Instant::now();
    let response = next.run(request).await;
    let (status, ms) = (response.status().as_u16(), begun.elapsed().as_millis() as u64);
    if response.status().is_server_error() && path != HEALTH_PATH {
        tracing::warn!(%method, path, route, status, ms, "request failed");
    } else {
        tracing::debug!(%method, path, route, status, ms, "request");
    }
    response
}
