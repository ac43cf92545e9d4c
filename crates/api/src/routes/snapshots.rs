//! Snapshots of vDisks: take, list, delete; clones, rollback, and what changed.

use super::vdisks::Name;
use crate::body::{self, Json};
use crate::limits::CHANGES_LIMIT_DEFAULT;
use crate::problem::Problem;
use crate::router::Api;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use control::{
    ChangesPage, CreateSnapshot, ListChanges, MakeClones, RollBack, RolledBack, SnapshotInfo, VdiskInfo, VdiskSpace,
    rules,
};
use serde::Deserialize;

/// Of a vDisk or VM, and of a snapshot.
pub(crate) type Names = Result<Path<(String, String)>, PathRejection>;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeleteSnapshotQuery {
    /// Disconnect who reads it first.
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangesQuery {
    /// Snapshot on the older side; absent: before anything was written.
    from: Option<String>,
    /// Snapshot on the newer side; absent: what is there now.
    to: Option<String>,
    /// Bytes: `next` of the page before.
    #[serde(default)]
    #[param(default = 0)]
    offset: u64,
    /// Ranges on this page.
    #[param(minimum = 1, maximum = 10000, default = 1000)]
    limit: Option<u32>,
}

/// Lists the snapshots of a vDisk in order of age.
#[utoipa::path(get, path = "/api/v1/vdisks/{name}/snapshots", tag = "snapshots", params(("name" = String, Path)), responses(
    (status = 200, description = "The snapshots", body = Vec<SnapshotInfo>),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(State(api): State<Api>, name: Name) -> Result<Json<Vec<SnapshotInfo>>, Problem> {
    let Path(name) = name?;
    Ok(Json(api.control.snapshots().list_snapshots(&name).await?))
}

/// Takes a snapshot: what is acknowledged by now is in it. It costs one small write, whatever the size.
#[utoipa::path(post, path = "/api/v1/vdisks/{name}/snapshots", tag = "snapshots", params(("name" = String, Path)), request_body = CreateSnapshot, responses(
    (status = 201, description = "Taken, and durable", body = SnapshotInfo),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The vDisk has a snapshot of this name", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The name is refused", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn create(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<(StatusCode, Json<SnapshotInfo>), Problem> {
    let Path(name) = name?;
    let CreateSnapshot { name: snapshot } = body::json(&api, request).await?;
    Ok((StatusCode::CREATED, Json(api.control.snapshots().create_snapshot(&name, &snapshot).await?)))
}

/// Deletes a snapshot. Clones of it stay; its space comes back in the background.
#[utoipa::path(delete, path = "/api/v1/vdisks/{name}/snapshots/{snapshot}", tag = "snapshots",
    params(("name" = String, Path), ("snapshot" = String, Path), DeleteSnapshotQuery), responses(
    (status = 204, description = "Deleted"),
    (status = 404, description = "No such vDisk or snapshot", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Clients read it and force is not set", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn delete(
    State(api): State<Api>,
    names: Names,
    query: Result<Query<DeleteSnapshotQuery>, QueryRejection>,
) -> Result<StatusCode, Problem> {
    let (Path((name, snapshot)), Query(query)) = (names?, query?);
    api.control.snapshots().delete_snapshot(&name, &snapshot, query.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes vDisks with the content of a snapshot, or of what is there now: all of them or none.
#[utoipa::path(post, path = "/api/v1/vdisks/{name}/clones", tag = "snapshots", params(("name" = String, Path)), request_body = MakeClones, responses(
    (status = 201, description = "Made, in the order in which they were named", body = Vec<VdiskInfo>),
    (status = 404, description = "No such vDisk or snapshot", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "A name is taken", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Too many, a name is refused, or the capacity of the container is used up", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "How much is in the container is not known yet", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn make_clones(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<(StatusCode, Json<Vec<VdiskInfo>>), Problem> {
    let Path(name) = name?;
    let clones: MakeClones = body::json(&api, request).await?;
    rules::snapshots::clone_names(&clones)?;
    Ok((StatusCode::CREATED, Json(api.control.snapshots().make_clones(&name, clones).await?)))
}

/// Makes a snapshot what is there now. What was there before is kept as a snapshot `before-rollback-TIME`.
#[utoipa::path(post, path = "/api/v1/vdisks/{name}/rollback", tag = "snapshots", params(("name" = String, Path)), request_body = RollBack, responses(
    (status = 200, description = "Done, and what was there before", body = RolledBack),
    (status = 404, description = "No such vDisk or snapshot", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Clients are connected, the vDisk is read-only, or a SANITIZE is not complete", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Another rollback that concerns it is not complete", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn roll_back(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<Json<RolledBack>, Problem> {
    let Path(name) = name?;
    let RollBack { snapshot } = body::json(&api, request).await?;
    Ok(Json(api.control.snapshots().roll_back(&name, &snapshot).await?))
}

/// Says which bytes may differ between two snapshots, or between one and what is there now.
#[utoipa::path(get, path = "/api/v1/vdisks/{name}/changes", tag = "snapshots", params(("name" = String, Path), ChangesQuery), responses(
    (status = 200, description = "One page", body = ChangesPage),
    (status = 404, description = "No such vDisk or snapshot", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The limit is refused", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn changes(
    State(api): State<Api>,
    name: Name,
    query: Result<Query<ChangesQuery>, QueryRejection>,
) -> Result<Json<ChangesPage>, Problem> {
    let (Path(name), Query(query)) = (name?, query?);
    let ChangesQuery { from, to, offset, limit } = query;
    let limit = limit.unwrap_or(CHANGES_LIMIT_DEFAULT);
    rules::snapshots::check_changes_limit(limit)?;
    let request = ListChanges { from, to, offset, limit };
    Ok(Json(api.control.snapshots().changes(&name, request).await?))
}

/// Says which bytes a vDisk and its snapshots take, and how much of that others share. Walks their maps: it takes longer the
/// more they differ.
#[utoipa::path(get, path = "/api/v1/vdisks/{name}/space", tag = "snapshots", params(("name" = String, Path)), responses(
    (status = 200, description = "As of now", body = VdiskSpace),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn space(State(api): State<Api>, name: Name) -> Result<Json<VdiskSpace>, Problem> {
    let Path(name) = name?;
    Ok(Json(api.control.snapshots().space(&name).await?))
}
