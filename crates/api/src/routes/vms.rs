//! VMs: create, list, show, change, delete; their vDisks, snapshots, clones, rollback.

use super::snapshots::{DeleteSnapshotQuery, Names};
use super::vdisks::{ListQuery, Name};
use crate::body::{self, Json};
use crate::limits::LIST_LIMIT_DEFAULT;
use crate::problem::Problem;
use crate::router::Api;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use control::{
    AttachVdisk, CreateSnapshot, CreateVm, DeleteVm, ListVms, MakeClones, RollBack, VmInfo, VmPage, VmRolledBack,
    VmSnapshotInfo, rules,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeleteVmQuery {
    /// Disconnect clients first.
    #[serde(default)]
    force: bool,
    /// Delete its snapshots, and those of its vDisks, with it.
    #[serde(default)]
    snapshots: bool,
    /// Leave its vDisks, and all their snapshots, where they are.
    #[serde(default)]
    keep_vdisks: bool,
}

/// What to change; what is absent stays. Done in this order: template, name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchVm {
    /// Whether it is a template: its vDisks are read-only then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<bool>,
    /// Its vDisks keep their names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    pub name: Option<String>,
}

/// Creates a VM with new vDisks, or with vDisks that are there and in no VM: all of it or nothing. That of the label `root` of the VM `web01` is called `web01-root`.
#[utoipa::path(post, path = "/api/v1/vms", tag = "vms", request_body = CreateVm, responses(
    (status = 201, description = "Created", body = VmInfo),
    (status = 404, description = "No such container or vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The name of the VM or of a vDisk is taken, or is for a vDisk of another VM that is being made; or another one is to have the vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "A name, label, size or sector is refused, a vDisk is in a VM, or the capacity of the container is used up", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "It is on record and there when the metadata store can be written, or a rollback that concerns a vDisk is not complete", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn create(State(api): State<Api>, request: Request) -> Result<(StatusCode, Json<VmInfo>), Problem> {
    let create: CreateVm = body::json(&api, request).await?;
    rules::vms::check_create(&create)?;
    Ok((StatusCode::CREATED, Json(api.control.vms().create_vm(create).await?)))
}

/// Lists VMs in the order of their names.
#[utoipa::path(get, path = "/api/v1/vms", tag = "vms", params(ListQuery), responses(
    (status = 200, description = "One page", body = VmPage),
    (status = "default", description = "Any error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(api): State<Api>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<VmPage>, Problem> {
    let Query(ListQuery { limit, after }) = query?;
    let limit = limit.unwrap_or(LIST_LIMIT_DEFAULT);
    rules::check_list_limit(limit)?;
    Ok(Json(api.control.vms().list_vms(ListVms { after, limit }).await?))
}

/// Shows one VM.
#[utoipa::path(get, path = "/api/v1/vms/{name}", tag = "vms", params(("name" = String, Path)), responses(
    (status = 200, description = "The VM", body = VmInfo),
    (status = 404, description = "No such VM", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn show(State(api): State<Api>, name: Name) -> Result<Json<VmInfo>, Problem> {
    let Path(name) = name?;
    Ok(Json(api.control.vms().show_vm(&name).await?))
}

/// Renames a VM, or makes it a template, whose vDisks are read-only, or a VM again.
#[utoipa::path(patch, path = "/api/v1/vms/{name}", tag = "vms", params(("name" = String, Path)), request_body = PatchVm, responses(
    (status = 200, description = "The VM as it is now", body = VmInfo),
    (status = 404, description = "No such VM", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The new name is taken, or is for a VM that is being made, or clients are connected", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The new name is refused", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "A rollback that concerns it is not complete", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn patch(State(api): State<Api>, name: Name, request: Request) -> Result<Json<VmInfo>, Problem> {
    let Path(name) = name?;
    let PatchVm { template, name: new_name } = body::json(&api, request).await?;
    if let Some(new_name) = &new_name {
        rules::vms::check_vm_name(new_name)?;
    }
    let vms = api.control.vms();
    let mut info = vms.show_vm(&name).await?;
    if let Some(template) = template {
        info = vms.set_template(&name, template).await?;
    }
    if let Some(new_name) = &new_name {
        info = vms.rename_vm(&name, new_name).await?;
    }
    Ok(Json(info))
}

/// Deletes a VM, and its vDisks with their data unless they are to be kept.
#[utoipa::path(delete, path = "/api/v1/vms/{name}", tag = "vms", params(("name" = String, Path), DeleteVmQuery), responses(
    (status = 204, description = "Deleted"),
    (status = 404, description = "No such VM", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Clients are connected and force is not set", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "There are snapshots and snapshots is not set", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "A rollback that concerns it is not complete", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn delete(
    State(api): State<Api>,
    name: Name,
    query: Result<Query<DeleteVmQuery>, QueryRejection>,
) -> Result<StatusCode, Problem> {
    let (Path(name), Query(DeleteVmQuery { force, snapshots, keep_vdisks })) = (name?, query?);
    api.control.vms().delete_vm(&name, DeleteVm { force, snapshots, keep_vdisks }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Attaches a vDisk that belongs to no VM.
#[utoipa::path(post, path = "/api/v1/vms/{name}/vdisks", tag = "vms", params(("name" = String, Path)), request_body = AttachVdisk, responses(
    (status = 200, description = "The VM as it is now", body = VmInfo),
    (status = 404, description = "No such VM or vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The label is taken, or the VM is a template", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The vDisk belongs to a VM, or the label is refused", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "A rollback that concerns it is not complete", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn attach(State(api): State<Api>, name: Name, request: Request) -> Result<Json<VmInfo>, Problem> {
    let Path(name) = name?;
    let attach: AttachVdisk = body::json(&api, request).await?;
    Ok(Json(api.control.vms().attach_vdisk(&name, attach).await?))
}

/// Detaches a vDisk, which stays.
#[utoipa::path(delete, path = "/api/v1/vms/{name}/vdisks/{label}", tag = "vms", params(("name" = String, Path), ("label" = String, Path)), responses(
    (status = 200, description = "The VM as it is now", body = VmInfo),
    (status = 404, description = "No such VM or label", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The VM is a template", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "A rollback that concerns it is not complete", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn detach(State(api): State<Api>, names: Names) -> Result<Json<VmInfo>, Problem> {
    let Path((name, label)) = names?;
    Ok(Json(api.control.vms().detach_vdisk(&name, &label).await?))
}

/// Lists the snapshots of a VM in order of age.
#[utoipa::path(get, path = "/api/v1/vms/{name}/snapshots", tag = "vms", params(("name" = String, Path)), responses(
    (status = 200, description = "The snapshots", body = Vec<VmSnapshotInfo>),
    (status = 404, description = "No such VM", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn snapshots(State(api): State<Api>, name: Name) -> Result<Json<Vec<VmSnapshotInfo>>, Problem> {
    let Path(name) = name?;
    Ok(Json(api.control.vms().vm_snapshots(&name).await?))
}

/// Takes a snapshot of all vDisks of a VM at one instant.
#[utoipa::path(post, path = "/api/v1/vms/{name}/snapshots", tag = "vms", params(("name" = String, Path)), request_body = CreateSnapshot, responses(
    (status = 201, description = "Taken, and durable", body = VmSnapshotInfo),
    (status = 404, description = "No such VM", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The VM or one of its vDisks has a snapshot of this name", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The name is refused, or the VM has no vDisks", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "A rollback that concerns it is not complete", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn snapshot(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<(StatusCode, Json<VmSnapshotInfo>), Problem> {
    let Path(name) = name?;
    let CreateSnapshot { name: snapshot } = body::json(&api, request).await?;
    Ok((StatusCode::CREATED, Json(api.control.vms().create_vm_snapshot(&name, &snapshot).await?)))
}

/// Deletes a snapshot of a VM. Clones of it stay; its space comes back in the background.
#[utoipa::path(delete, path = "/api/v1/vms/{name}/snapshots/{snapshot}", tag = "vms",
    params(("name" = String, Path), ("snapshot" = String, Path), DeleteSnapshotQuery), responses(
    (status = 204, description = "Deleted"),
    (status = 404, description = "No such VM or snapshot", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Clients read it and force is not set", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn delete_snapshot(
    State(api): State<Api>,
    names: Names,
    query: Result<Query<DeleteSnapshotQuery>, QueryRejection>,
) -> Result<StatusCode, Problem> {
    let (Path((name, snapshot)), Query(query)) = (names?, query?);
    api.control.vms().delete_vm_snapshot(&name, &snapshot, query.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes VMs with the content of a snapshot, or of what is there now: all of them or none.
#[utoipa::path(post, path = "/api/v1/vms/{name}/clones", tag = "vms", params(("name" = String, Path)), request_body = MakeClones, responses(
    (status = 201, description = "Made, in the order in which they were named", body = Vec<VmInfo>),
    (status = 404, description = "No such VM or snapshot", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "A name is taken", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Too many, a name is refused, the VM has no vDisks, or the capacity of a container is used up", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "It is half rolled back (snapshots of it can be cloned), how much is in a container is not known yet, or the clones are on record and there when the metadata store can be written", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn make_clones(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<(StatusCode, Json<Vec<VmInfo>>), Problem> {
    let Path(name) = name?;
    let clones: MakeClones = body::json(&api, request).await?;
    rules::snapshots::clone_names(&clones)?;
    Ok((StatusCode::CREATED, Json(api.control.vms().clone_vm(&name, clones).await?)))
}

/// Makes a snapshot what is there now, on all vDisks. What was there before is kept as a snapshot `before-rollback-TIME`.
#[utoipa::path(post, path = "/api/v1/vms/{name}/rollback", tag = "vms", params(("name" = String, Path)), request_body = RollBack, responses(
    (status = 200, description = "Done, and what was there before", body = VmRolledBack),
    (status = 404, description = "No such VM or snapshot", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "Clients are connected, the VM is a template, or a SANITIZE is not complete", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Another rollback that concerns it is not complete", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The VM has other vDisks now", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn roll_back(
    State(api): State<Api>,
    name: Name,
    request: Request,
) -> Result<Json<VmRolledBack>, Problem> {
    let Path(name) = name?;
    let RollBack { snapshot } = body::json(&api, request).await?;
    Ok(Json(api.control.vms().roll_back_vm(&name, &snapshot).await?))
}

/// Gives up a rollback that was cut short and cannot be completed, also that of a group: what was rolled back stays so, the
/// rest stays as it was. Clients can connect again. A snapshot `before-rollback-TIME` has what was there before.
#[utoipa::path(delete, path = "/api/v1/vms/{name}/rollback", tag = "vms", params(("name" = String, Path)), responses(
    (status = 200, description = "The VM as it is now", body = VmInfo),
    (status = 404, description = "No such VM, or no such rollback", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn abort_rollback(State(api): State<Api>, name: Name) -> Result<Json<VmInfo>, Problem> {
    let Path(name) = name?;
    Ok(Json(api.control.vms().abort_rollback(&name).await?))
}
