//! Consistency groups of VMs: create, list, show, delete; their VMs, snapshots, rollback.

use super::snapshots::{DeleteSnapshotQuery, Names};
use super::vdisks::Name;
use crate::body::{self, Json};
use crate::problem::Problem;
use crate::router::Api;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use control::{AddVm, CreateSnapshot, CreateVmGroup, GroupRolledBack, GroupSnapshotInfo, RollBack, VmGroupInfo, rules};

/// Creates a consistency group of VMs.
#[utoipa::path(post, path = "/api/v1/groups", tag = "groups", request_body = CreateVmGroup, responses(
    (status = 201, description = "Created", body = VmGroupInfo),
    (status = 404, description = "No such VM", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The name is taken", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The name or the list is refused", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn create(
    State(api): State<Api>,
    request: Request,
) -> Result<(StatusCode, Json<VmGroupInfo>), Problem> {
    let create: CreateVmGroup = body::json(&api, request).await?;
    rules::groups::check_create(&create)?;
    Ok((StatusCode::CREATED, Json(api.control.vm_groups().create_vm_group(create).await?)))
}

/// Lists the consistency groups in the order of their names.
#[utoipa::path(get, path = "/api/v1/groups", tag = "groups", responses(
    (status = 200, description = "All of them", body = Vec<VmGroupInfo>),
    (status = "default", description = "Any error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(State(api): State<Api>) -> Result<Json<Vec<VmGroupInfo>>, Problem> {
    Ok(Json(api.control.vm_groups().list_vm_groups().await?))
}

/// Shows one consistency group.
#[utoipa::path(get, path = "/api/v1/groups/{name}", tag = "groups", params(("name" = String, Path)), responses(
    (status = 200, description = "The group", body = VmGroupInfo),
    (status = 404, description = "No such group", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn show(State(api): State<Api>, name: Name) -> Result<Json<VmGroupInfo>, Problem> {
    let Path(name) = name?;
    Ok(Json(api.control.vm_groups().show_vm_group(&name).await?))
}

/// Deletes a consistency group; its VMs stay, and its snapshots as theirs.
#[utoipa::path(delete, path = "/api/v1/groups/{name}", tag = "groups", params(("name" = String, Path)), responses(
    (status = 204, description = "Deleted"),
    (status = 404, description = "No such group", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn delete(State(api): State<Api>, name: Name) -> Result<StatusCode, Problem> {
    let Path(name) = name?;
    api.control.vm_groups().delete_vm_group(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Adds a VM to a consistency group.
#[utoipa::path(post, path = "/api/v1/groups/{name}/vms", tag = "groups", params(("name" = String, Path)), request_body = AddVm, responses(
    (status = 200, description = "The group as it is now", body = VmGroupInfo),
    (status = 404, description = "No such group or VM", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Too many", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn add(State(api): State<Api>, name: Name, request: Request) -> Result<Json<VmGroupInfo>, Problem> {
    let Path(name) = name?;
    let AddVm { vm } = body::json(&api, request).await?;
    Ok(Json(api.control.vm_groups().add_to_group(&name, &vm).await?))
}

/// Removes a VM, but not the last one, from a consistency group.
#[utoipa::path(delete, path = "/api/v1/groups/{name}/vms/{vm}", tag = "groups", params(("name" = String, Path), ("vm" = String, Path)), responses(
    (status = 200, description = "The group as it is now", body = VmGroupInfo),
    (status = 404, description = "No such group, or the VM is not in it", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "It is the last one", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn remove(State(api): State<Api>, names: Names) -> Result<Json<VmGroupInfo>, Problem> {
    let Path((name, vm)) = names?;
    Ok(Json(api.control.vm_groups().remove_from_group(&name, &vm).await?))
}

/// Lists the snapshots of a consistency group in order of age.
#[utoipa::path(get, path = "/api/v1/groups/{name}/snapshots", tag = "groups", params(("name" = String, Path)), responses(
    (status = 200, description = "The snapshots", body = Vec<GroupSnapshotInfo>),
    (status = 404, description = "No such group", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn snapshots(State(api): State<Api>, name: Name) -> Result<Json<Vec<GroupSnapshotInfo>>, Problem> {
    let Path(name) = name?;
    Ok(Json(api.control.vm_groups().group_snapshots(&name).await?))
}

/// Takes a snapshot of all vDisks of all VMs of a group at one instant.
#[utoipa::path(post, path = "/api/v1/groups/{name}/snapshots", tag = "groups", params(("name" = String, Path)), request_body = CreateSnapshot, responses(
    (status = 201, description = "Taken, and durable", body = GroupSnapshotInfo),
    (status = 404, description = "No such group", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "One of its VMs or vDisks has a snapshot of this name", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The name is refused, or there are no vDisks", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "A rollback that concerns one of its VMs is not complete", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn snapshot(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<(StatusCode, Json<GroupSnapshotInfo>), Problem> {
    let Path(name) = name?;
    let CreateSnapshot { name: snapshot } = body::json(&api, request).await?;
    rules::snapshots::check_snapshot_name(&snapshot)?;
    Ok((StatusCode::CREATED, Json(api.control.vm_groups().create_group_snapshot(&name, &snapshot).await?)))
}

/// Deletes a snapshot of a consistency group, all of it. Clones of it stay.
#[utoipa::path(delete, path = "/api/v1/groups/{name}/snapshots/{snapshot}", tag = "groups", params(("name" = String, Path), ("snapshot" = String, Path), DeleteSnapshotQuery), responses(
    (status = 204, description = "Deleted"),
    (status = 404, description = "No such group or snapshot", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Somebody reads it and force is not set", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn delete_snapshot(
    State(api): State<Api>,
    names: Names,
    query: Result<Query<DeleteSnapshotQuery>, QueryRejection>,
) -> Result<StatusCode, Problem> {
    let (Path((name, snapshot)), Query(query)) = (names?, query?);
    api.control.vm_groups().delete_group_snapshot(&name, &snapshot, query.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a snapshot what is there now, on all VMs of the group. What was there before is kept as a snapshot
/// `before-rollback-TIME`.
#[utoipa::path(post, path = "/api/v1/groups/{name}/rollback", tag = "groups", params(("name" = String, Path)), request_body = RollBack, responses(
    (status = 200, description = "Done, and what was there before", body = GroupRolledBack),
    (status = 404, description = "No such group or snapshot", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Clients are connected, a VM is a template, or a SANITIZE is not complete", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Another rollback that concerns it is not complete", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The group has other VMs now, or one of them other vDisks", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn roll_back(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<Json<GroupRolledBack>, Problem> {
    let Path(name) = name?;
    let RollBack { snapshot } = body::json(&api, request).await?;
    Ok(Json(api.control.vm_groups().roll_back_group(&name, &snapshot).await?))
}
