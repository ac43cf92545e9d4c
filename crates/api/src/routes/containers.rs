//! Containers: create, list, show, change, delete.

use super::vdisks::Name;
use crate::body::{self, Json};
use crate::problem::Problem;
use crate::router::Api;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use control::{ContainerInfo, CreateContainer, SetContainer, rules};

/// Creates a container: a set of vDisks with settings that are theirs as long as they have none of their own.
#[utoipa::path(post, path = "/api/v1/containers", tag = "containers", request_body = CreateContainer, responses(
    (status = 201, description = "Created", body = ContainerInfo),
    (status = 409, description = "The name is taken", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The name or a setting is refused", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn create(
    State(api): State<Api>,
    request: Request,
) -> Result<(StatusCode, Json<ContainerInfo>), Problem> {
    let create: CreateContainer = body::json(&api, request).await?;
    rules::containers::check_create(&create)?;
    Ok((StatusCode::CREATED, Json(api.control.containers().create_container(create).await?)))
}

/// Lists the containers in the order of their names; `default` is always among them.
#[utoipa::path(get, path = "/api/v1/containers", tag = "containers", responses(
    (status = 200, description = "All of them", body = Vec<ContainerInfo>),
    (status = "default", description = "Any error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(State(api): State<Api>) -> Result<Json<Vec<ContainerInfo>>, Problem> {
    Ok(Json(api.control.containers().list_containers().await?))
}

/// Shows one container, and on how many of its vDisks it is not carried out yet.
#[utoipa::path(get, path = "/api/v1/containers/{name}", tag = "containers", params(("name" = String, Path)), responses(
    (status = 200, description = "The container", body = ContainerInfo),
    (status = 404, description = "No such container", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn show(State(api): State<Api>, name: Name) -> Result<Json<ContainerInfo>, Problem> {
    let Path(name) = name?;
    Ok(Json(api.control.containers().show_container(&name).await?))
}

/// Changes a container, all at once. It is then carried out on its vDisks; what does not succeed is tried again.
#[utoipa::path(patch, path = "/api/v1/containers/{name}", tag = "containers", params(("name" = String, Path)), request_body = SetContainer, responses(
    (status = 200, description = "The container as it is now", body = ContainerInfo),
    (status = 404, description = "No such container", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The new name is taken", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The name or a setting is refused", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn patch(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<Json<ContainerInfo>, Problem> {
    let Path(name) = name?;
    let set: SetContainer = body::json(&api, request).await?;
    rules::containers::check_set(&name, &set)?;
    Ok(Json(api.control.containers().set_container(&name, set).await?))
}

/// Deletes a container that has no vDisks.
#[utoipa::path(delete, path = "/api/v1/containers/{name}", tag = "containers", params(("name" = String, Path)), responses(
    (status = 204, description = "Deleted"),
    (status = 404, description = "No such container", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "It has vDisks, or is the default one", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn delete(State(api): State<Api>, name: Name) -> Result<StatusCode, Problem> {
    let Path(name) = name?;
    api.control.containers().delete_container(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
