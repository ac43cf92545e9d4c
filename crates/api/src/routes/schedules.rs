//! Schedules of snapshots: create, list, show, pause, delete.

use super::vdisks::Name;
use crate::body::{self, Json};
use crate::problem::Problem;
use crate::router::Api;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use control::{CreateSchedule, ScheduleInfo, rules};
use serde::{Deserialize, Serialize};

/// What to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchSchedule {
    /// Nothing is taken and nothing deleted while it is paused.
    pub paused: bool,
}

/// Creates a schedule; the first snapshot is taken at once.
#[utoipa::path(post, path = "/api/v1/schedules", tag = "schedules", request_body = CreateSchedule, responses(
    (status = 201, description = "Created", body = ScheduleInfo),
    (status = 404, description = "There is nothing of that name to take snapshots of", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The name is taken", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "The name, a period or a number is refused", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn create(
    State(api): State<Api>,
    request: Request,
) -> Result<(StatusCode, Json<ScheduleInfo>), Problem> {
    let create: CreateSchedule = body::json(&api, request).await?;
    rules::schedules::check_schedule(&create)?;
    Ok((StatusCode::CREATED, Json(api.control.schedules().create_schedule(create).await?)))
}

/// Lists the schedules in the order of their names.
#[utoipa::path(get, path = "/api/v1/schedules", tag = "schedules", responses(
    (status = 200, description = "All of them", body = Vec<ScheduleInfo>),
    (status = "default", description = "Any error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(State(api): State<Api>) -> Result<Json<Vec<ScheduleInfo>>, Problem> {
    Ok(Json(api.control.schedules().list_schedules().await?))
}

/// Shows one schedule.
#[utoipa::path(get, path = "/api/v1/schedules/{name}", tag = "schedules", params(("name" = String, Path)), responses(
    (status = 200, description = "The schedule", body = ScheduleInfo),
    (status = 404, description = "No such schedule", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn show(State(api): State<Api>, name: Name) -> Result<Json<ScheduleInfo>, Problem> {
    let Path(name) = name?;
    Ok(Json(api.control.schedules().show_schedule(&name).await?))
}

/// Pauses a schedule, or lets it go on.
#[utoipa::path(patch, path = "/api/v1/schedules/{name}", tag = "schedules", params(("name" = String, Path)), request_body = PatchSchedule, responses(
    (status = 200, description = "The schedule as it is now", body = ScheduleInfo),
    (status = 404, description = "No such schedule", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn patch(State(api): State<Api>, name: Name, request: Request) -> Result<Json<ScheduleInfo>, Problem> {
    let Path(name) = name?;
    let PatchSchedule { paused } = body::json(&api, request).await?;
    Ok(Json(api.control.schedules().pause_schedule(&name, paused).await?))
}

/// Deletes a schedule; its snapshots stay.
#[utoipa::path(delete, path = "/api/v1/schedules/{name}", tag = "schedules", params(("name" = String, Path)), responses(
    (status = 204, description = "Deleted"),
    (status = 404, description = "No such schedule", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn delete(State(api): State<Api>, name: Name) -> Result<StatusCode, Problem> {
    let Path(name) = name?;
    api.control.schedules().delete_schedule(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
