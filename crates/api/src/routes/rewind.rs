//! The past of vDisks: how much of it is kept, what is of note in it, and moments of it as snapshots, clones, or as what is
//! there now.

use super::vdisks::Name;
use crate::body::{self, Json};
use crate::problem::Problem;
use crate::router::Api;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use control::{
    ClonesOfPast, HistoryPoint, Moment, RollBackToPast, RolledBack, SetRewind, SnapshotInfo, SnapshotOfPast, VdiskInfo,
    VmInfo, VmRolledBack, VmSnapshotInfo, rules,
};
use serde::Deserialize;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryQuery {
    /// RFC 3339; absent: from the oldest moment on.
    from: Option<String>,
    /// RFC 3339; absent: up to now.
    to: Option<String>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoWindowQuery {
    /// What its container says holds for it again.
    #[serde(default)]
    inherit: bool,
}

/// Keeps the past of a vDisk from now on, or changes how much of it.
#[utoipa::path(put, path = "/api/v1/vdisks/{name}/rewind", tag = "rewind", params(("name" = String, Path)), request_body = SetRewind, responses(
    (status = 200, description = "Set, and durable", body = VdiskInfo),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The window or the limit is refused", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn set(State(api): State<Api>, name: Name, request: Request) -> Result<Json<VdiskInfo>, Problem> {
    let Path(name) = name?;
    let set: SetRewind = body::json(&api, request).await?;
    rules::rewind::check_rewind(&set)?;
    Ok(Json(api.control.rewind().set_rewind(&name, Some(set)).await?))
}

/// Keeps the past of a vDisk no longer, and gives back what was kept; or keeps of it what its container says.
#[utoipa::path(delete, path = "/api/v1/vdisks/{name}/rewind", tag = "rewind", params(("name" = String, Path), NoWindowQuery), responses(
    (status = 200, description = "It has no window of its own, or none at all; durable", body = VdiskInfo),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "It is on record that it has none of its own, and is carried out when that can be", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn switch_off(
    State(api): State<Api>,
    name: Name,
    query: Result<Query<NoWindowQuery>, QueryRejection>,
) -> Result<Json<VdiskInfo>, Problem> {
    let (Path(name), Query(NoWindowQuery { inherit })) = (name?, query?);
    let control = api.control.rewind();
    Ok(Json(if inherit { control.inherit_rewind(&name).await? } else { control.set_rewind(&name, None).await? }))
}

/// Lists what is of note in the past of a vDisk: checkpoints, quiet moments, bursts of overwriting. Reads the log.
#[utoipa::path(get, path = "/api/v1/vdisks/{name}/history", tag = "rewind", params(("name" = String, Path), HistoryQuery), responses(
    (status = 200, description = "In the order in which it was written", body = Vec<HistoryPoint>),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "A time is refused", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn history(
    State(api): State<Api>,
    name: Name,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Json<Vec<HistoryPoint>>, Problem> {
    let (Path(name), Query(HistoryQuery { from, to })) = (name?, query?);
    Ok(Json(api.control.rewind().history(&name, from.as_deref(), to.as_deref()).await?))
}

/// Takes a snapshot of a moment of the past.
#[utoipa::path(post, path = "/api/v1/vdisks/{name}/rewind/snapshots", tag = "rewind", params(("name" = String, Path)), request_body = SnapshotOfPast, responses(
    (status = 201, description = "Taken, and durable", body = SnapshotInfo),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The vDisk has a snapshot of this name", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The name is refused, or the moment is outside of the window", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn snapshot(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<(StatusCode, Json<SnapshotInfo>), Problem> {
    let Path(name) = name?;
    let SnapshotOfPast { name: snapshot, at, before_write } = body::json(&api, request).await?;
    let made = api.control.rewind().snapshot_past(&name, &snapshot, Moment { at, before_write }).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Makes vDisks with the content of a moment of the past: all of them or none.
#[utoipa::path(post, path = "/api/v1/vdisks/{name}/rewind/clones", tag = "rewind", params(("name" = String, Path)), request_body = ClonesOfPast, responses(
    (status = 201, description = "Made, in the order in which they were named", body = Vec<VdiskInfo>),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "A name is taken", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Too many, a name is refused, the moment is outside of the window, or the capacity of the container is used up", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "How much is in the container is not known yet", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn make_clones(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<(StatusCode, Json<Vec<VdiskInfo>>), Problem> {
    let Path(name) = name?;
    let ClonesOfPast { names, at, before_write } = body::json(&api, request).await?;
    let made = api.control.rewind().clone_past(&name, names, Moment { at, before_write }).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Makes a moment of the past what is there now. What was there before is kept as a snapshot `before-rollback-TIME`.
#[utoipa::path(post, path = "/api/v1/vdisks/{name}/rewind/rollback", tag = "rewind", params(("name" = String, Path)), request_body = RollBackToPast, responses(
    (status = 200, description = "Done, and what was there before", body = RolledBack),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Clients are connected, the vDisk is read-only, or a SANITIZE is not complete", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Another rollback that concerns it is not complete", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The moment is outside of the window", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn roll_back(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<Json<RolledBack>, Problem> {
    let Path(name) = name?;
    let RollBackToPast { at, before_write } = body::json(&api, request).await?;
    Ok(Json(api.control.rewind().roll_back_to_past(&name, Moment { at, before_write }).await?))
}

/// Takes a snapshot of a VM as it was at a time, all its vDisks at once. It has that time as its own.
#[utoipa::path(post, path = "/api/v1/vms/{name}/rewind/snapshots", tag = "rewind", params(("name" = String, Path)), request_body = SnapshotOfPast, responses(
    (status = 201, description = "Taken, and durable", body = VmSnapshotInfo),
    (status = 404, description = "No such VM", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The VM or one of its vDisks has a snapshot of this name", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The name is refused, the VM has no vDisks, or the time is outside of the window of one of them", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "A rollback that concerns it is not complete", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn snapshot_vm(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<(StatusCode, Json<VmSnapshotInfo>), Problem> {
    let Path(name) = name?;
    let SnapshotOfPast { name: snapshot, at, before_write } = body::json(&api, request).await?;
    let made = api.control.rewind().snapshot_vm_past(&name, &snapshot, Moment { at, before_write }).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Makes VMs as one was at a time, all its vDisks at once: all of them or none.
#[utoipa::path(post, path = "/api/v1/vms/{name}/rewind/clones", tag = "rewind", params(("name" = String, Path)), request_body = ClonesOfPast, responses(
    (status = 201, description = "Made, in the order in which they were named", body = Vec<VmInfo>),
    (status = 404, description = "No such VM", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "A name is taken", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Too many, a name is refused, the VM has no vDisks, the time is outside of the window of one of them, or the capacity of a container is used up", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "A rollback that concerns it is not complete, how much is in a container is not known yet, or the clones are on record and there when the metadata store can be written", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn make_vm_clones(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<(StatusCode, Json<Vec<VmInfo>>), Problem> {
    let Path(name) = name?;
    let ClonesOfPast { names, at, before_write } = body::json(&api, request).await?;
    let made = api.control.rewind().clone_vm_past(&name, names, Moment { at, before_write }).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Makes what a VM was at a time what is there now, on all its vDisks. What was there before is kept as a snapshot
/// `before-rollback-TIME`.
#[utoipa::path(post, path = "/api/v1/vms/{name}/rewind/rollback", tag = "rewind", params(("name" = String, Path)), request_body = RollBackToPast, responses(
    (status = 200, description = "Done, and what was there before", body = VmRolledBack),
    (status = 404, description = "No such VM", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Clients are connected, the VM is a template, or a SANITIZE is not complete", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Another rollback that concerns it is not complete", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The time is outside of the window of one of the vDisks", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn roll_vm_back(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<Json<VmRolledBack>, Problem> {
    let Path(name) = name?;
    let RollBackToPast { at, before_write } = body::json(&api, request).await?;
    Ok(Json(api.control.rewind().roll_vm_back_to_past(&name, Moment { at, before_write }).await?))
}
