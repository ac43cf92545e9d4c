//! vDisks: create, list, show, change, delete.

use crate::body::{self, Json};
use crate::limits::LIST_LIMIT_DEFAULT;
use crate::problem::Problem;
use crate::router::Api;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use control::{CreateVdisk, DeleteVdisk, ListVdisks, SetVdisk, VdiskInfo, VdiskPage, rules};
use serde::{Deserialize, Serialize};

pub(crate) type Name = Result<Path<String>, PathRejection>;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Entries on this page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<u32>,
    /// Names greater than this one: `next` of the page before.
    pub after: Option<String>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListVdisksQuery {
    /// Entries on this page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Names greater than this one: `next` of the page before.
    after: Option<String>,
    /// Only those of this container.
    container: Option<String>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeleteQuery {
    /// Disconnect clients first.
    #[serde(default)]
    force: bool,
    /// Delete its snapshots with it.
    #[serde(default)]
    snapshots: bool,
}

/// What to change; what is absent stays. Checked as a whole, then done in this order: container, which may be full, size,
/// read-only, name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchVdisk {
    /// Only growing; a multiple of 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 4096, maximum = 70368744177664_i64, multiple_of = 4096)]
    pub size_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// The container that it is to be in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    pub name: Option<String>,
}

/// Creates a vDisk. It is thin: it takes space when it is written.
#[utoipa::path(post, path = "/api/v1/vdisks", tag = "vdisks", request_body = CreateVdisk, responses(
    (status = 201, description = "Created", body = VdiskInfo, headers(("Location" = String, description = "Where it is"))),
    (status = 404, description = "No such container, or no such vDisk to be near", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The name is taken, or is for a vDisk of a VM that is being made", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Name, size, sector or window is refused, or the capacity of the container is used up", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn create(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let create: CreateVdisk = body::json(&api, request).await?;
    rules::check_create(&create)?;
    let info = api.control.create_vdisk(create).await?;
    let location = HeaderValue::try_from(format!("/api/v1/vdisks/{}", info.name));
    let mut response = (StatusCode::CREATED, Json(info)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Lists vDisks in the order of their names.
#[utoipa::path(get, path = "/api/v1/vdisks", tag = "vdisks", params(ListVdisksQuery), responses(
    (status = 200, description = "One page", body = VdiskPage),
    (status = 404, description = "No such container", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(api): State<Api>,
    query: Result<Query<ListVdisksQuery>, QueryRejection>,
) -> Result<Json<VdiskPage>, Problem> {
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(LIST_LIMIT_DEFAULT);
    rules::check_list_limit(limit)?;
    let ListVdisksQuery { after, container, .. } = query;
    Ok(Json(api.control.list_vdisks(ListVdisks { after, limit, container }).await?))
}

/// Shows one vDisk.
#[utoipa::path(get, path = "/api/v1/vdisks/{name}", tag = "vdisks", params(("name" = String, Path)), responses(
    (status = 200, description = "The vDisk", body = VdiskInfo),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn show(State(api): State<Api>, name: Name) -> Result<Json<VdiskInfo>, Problem> {
    let Path(name) = name?;
    Ok(Json(api.control.show_vdisk(&name).await?))
}

/// Resizes, renames, moves to another container or switches a vDisk to read-only and back, also while it is connected. What the
/// window of the new container does not keep of the past goes at once.
#[utoipa::path(patch, path = "/api/v1/vdisks/{name}", tag = "vdisks", params(("name" = String, Path)), request_body = PatchVdisk, responses(
    (status = 200, description = "The vDisk as it is now", body = VdiskInfo),
    (status = 404, description = "No such vDisk or container", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The new name is taken, or is for a vDisk of a VM that is being made, or such a VM is to have this one", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Shrinking, a refused name or size, or the capacity of the container is used up", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "It is on record that it is in the container, which is carried out when that can be; or nothing is changed yet, as logs are read still", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn patch(State(api): State<Api>, name: Name, request: Request) -> Result<Json<VdiskInfo>, Problem> {
    let Path(name) = name?;
    let patch: PatchVdisk = body::json(&api, request).await?;
    let mut info = api.control.show_vdisk(&name).await?;
    if let Some(size_bytes) = patch.size_bytes {
        rules::check_resize(info.size_bytes, size_bytes)?;
    }
    if let Some(new_name) = &patch.name {
        rules::check_name(new_name)?;
    }
    if let Some(container) = &patch.container {
        api.control.containers().show_container(container).await?;
    }
    // First, as it may be refused still: what has grown cannot be made smaller again.
    if let Some(container) = &patch.container {
        info = api.control.containers().move_vdisk(&name, container).await?;
    }
    if let Some(size_bytes) = patch.size_bytes {
        info = api.control.resize_vdisk(&name, size_bytes).await?;
    }
    if patch.read_only.is_some() {
        info = api.control.set_vdisk(&name, SetVdisk { read_only: patch.read_only }).await?;
    }
    if let Some(new_name) = &patch.name {
        info = api.control.rename_vdisk(&name, new_name).await?;
    }
    Ok(Json(info))
}

/// Deletes a vDisk and its data, for ever.
#[utoipa::path(delete, path = "/api/v1/vdisks/{name}", tag = "vdisks", params(("name" = String, Path), DeleteQuery), responses(
    (status = 204, description = "Deleted"),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Clients are connected and force is not set, or something that is not complete needs it", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "It has snapshots and snapshots is not set", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn delete(
    State(api): State<Api>,
    name: Name,
    query: Result<Query<DeleteQuery>, QueryRejection>,
) -> Result<StatusCode, Problem> {
    let (Path(name), Query(DeleteQuery { force, snapshots })) = (name?, query?);
    api.control.delete_vdisk(&name, DeleteVdisk { force, snapshots }).await?;
    Ok(StatusCode::NO_CONTENT)
}
