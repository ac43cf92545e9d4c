//! iSCSI: who may log in to which vDisk, who is, and where.

use crate::body::{self, Json};
use crate::problem::Problem;
use crate::router::Api;
use crate::routes::vdisks::Name;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use control::{InitiatorGroup, InitiatorGroupInfo, IscsiPortal, IscsiSession, IscsiTarget, SetIscsiAccess};
use serde::Deserialize;

/// Lists all targets, in the order of the vDisks' names. Secrets are never shown.
#[utoipa::path(get, path = "/api/v1/iscsi/targets", tag = "iscsi", responses(
    (status = 200, description = "The targets", body = Vec<IscsiTarget>),
    (status = "default", description = "Any error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn targets(State(api): State<Api>) -> Result<Json<Vec<IscsiTarget>>, Problem> {
    Ok(Json(api.control.iscsi().targets().await?))
}

/// Shows a vDisk as a target. Secrets are never shown.
#[utoipa::path(get, path = "/api/v1/vdisks/{name}/iscsi", tag = "iscsi", params(("name" = String, Path)), responses(
    (status = 200, description = "The target", body = IscsiTarget),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn target(State(api): State<Api>, name: Name) -> Result<Json<IscsiTarget>, Problem> {
    let Path(name) = name?;
    Ok(Json(api.control.iscsi().target(&name).await?))
}

/// Changes who may log in. Sessions that are logged in stay.
#[utoipa::path(patch, path = "/api/v1/vdisks/{name}/iscsi", tag = "iscsi", params(("name" = String, Path)), request_body = SetIscsiAccess, responses(
    (status = 200, description = "The target as it is now", body = IscsiTarget),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "A name, a secret or a group is refused", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn set_access(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<Json<IscsiTarget>, Problem> {
    let Path(name) = name?;
    let set: SetIscsiAccess = body::json_with_secrets(&api, request).await?;
    Ok(Json(api.control.iscsi().set_access(&name, set).await?))
}

/// Lists the initiator groups and the vDisks that refer to them.
#[utoipa::path(get, path = "/api/v1/iscsi/groups", tag = "iscsi", responses(
    (status = 200, description = "The groups", body = Vec<InitiatorGroupInfo>),
    (status = "default", description = "Any error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn groups(State(api): State<Api>) -> Result<Json<Vec<InitiatorGroupInfo>>, Problem> {
    Ok(Json(api.control.iscsi().groups().await?))
}

/// Creates an initiator group.
#[utoipa::path(post, path = "/api/v1/iscsi/groups", tag = "iscsi", request_body = InitiatorGroup, responses(
    (status = 201, description = "Created", body = InitiatorGroupInfo),
    (status = 409, description = "The name is taken", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The name or an initiator is refused", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn create_group(
    State(api): State<Api>,
    request: Request,
) -> Result<(StatusCode, Json<InitiatorGroupInfo>), Problem> {
    let group: InitiatorGroup = body::json(&api, request).await?;
    Ok((StatusCode::CREATED, Json(api.control.iscsi().create_group(group).await?)))
}

/// The list of a group; the name is in the path.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetInitiators {
    /// 1 to 32 names of initiators.
    #[schema(min_items = 1, max_items = 32)]
    pub initiators: Vec<String>,
}

/// Replaces the list of an initiator group; all vDisks that refer to it follow.
#[utoipa::path(put, path = "/api/v1/iscsi/groups/{name}", tag = "iscsi", params(("name" = String, Path)), request_body = SetInitiators, responses(
    (status = 200, description = "The group as it is now", body = InitiatorGroupInfo),
    (status = 404, description = "No such group", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "An initiator is refused", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn set_group(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<Json<InitiatorGroupInfo>, Problem> {
    let Path(name) = name?;
    let SetInitiators { initiators } = body::json(&api, request).await?;
    Ok(Json(api.control.iscsi().set_group(InitiatorGroup { name, initiators }).await?))
}

/// Deletes an initiator group that no vDisk refers to.
#[utoipa::path(delete, path = "/api/v1/iscsi/groups/{name}", tag = "iscsi", params(("name" = String, Path)), responses(
    (status = 204, description = "Deleted"),
    (status = 404, description = "No such group", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "vDisks refer to it", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn delete_group(State(api): State<Api>, name: Name) -> Result<StatusCode, Problem> {
    let Path(name) = name?;
    api.control.iscsi().delete_group(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the sessions that are logged in, in order of login.
#[utoipa::path(get, path = "/api/v1/iscsi/sessions", tag = "iscsi", responses(
    (status = 200, description = "The sessions", body = Vec<IscsiSession>),
    (status = "default", description = "Any error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn sessions(State(api): State<Api>) -> Result<Json<Vec<IscsiSession>>, Problem> {
    Ok(Json(api.control.iscsi().sessions().await?))
}

/// Ends a session; its initiator may log in again.
#[utoipa::path(delete, path = "/api/v1/iscsi/sessions/{id}", tag = "iscsi", params(("id" = u64, Path)), responses(
    (status = 204, description = "It ends"),
    (status = 404, description = "No such session", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn drop_session(
    State(api): State<Api>,
    id: Result<Path<u64>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let Path(id) = id?;
    api.control.iscsi().drop_session(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the addresses at which initiators connect.
#[utoipa::path(get, path = "/api/v1/iscsi/portals", tag = "iscsi", responses(
    (status = 200, description = "The portals", body = Vec<IscsiPortal>),
    (status = "default", description = "Any error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn portals(State(api): State<Api>) -> Result<Json<Vec<IscsiPortal>>, Problem> {
    Ok(Json(api.control.iscsi().portals().await?))
}
