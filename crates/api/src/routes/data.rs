//! The data plane for import and export: raw octets, zeros, flush, extents.

use super::vdisks::Name;
use crate::body::{self, Json};
use crate::problem::Problem;
use crate::router::Api;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use control::{ExtentPage, rules};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadQuery {
    /// Bytes; a multiple of 512.
    #[param(multiple_of = 512)]
    offset: u64,
    /// Bytes; a multiple of 512, at most 32 MiB.
    #[param(multiple_of = 512, maximum = 33554432)]
    length: u64,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteQuery {
    /// Bytes; a multiple of 512.
    #[param(multiple_of = 512)]
    offset: u64,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtentsQuery {
    /// Bytes; a multiple of 512.
    #[serde(default)]
    #[param(multiple_of = 512, default = 0)]
    offset: u64,
    /// Bytes; a multiple of 512. To the end of the vDisk if absent.
    #[param(multiple_of = 512)]
    length: Option<u64>,
}

/// A range of a vDisk, bytes; multiples of 512.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ZeroRange {
    #[schema(multiple_of = 512)]
    pub offset: u64,
    #[schema(multiple_of = 512)]
    pub length: u64,
}

/// Raw bytes.
#[derive(utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(crate) struct Octets(#[expect(dead_code, reason = "only its schema is used")] Vec<u8>);

/// Reads bytes of a vDisk, or of a snapshot.
#[utoipa::path(get, path = "/api/v1/vdisks/{name}/data", tag = "data", params(("name" = String, Path, description = "Name of a vDisk, or `NAME@SNAPSHOT`"), ReadQuery), responses(
    (status = 200, description = "Exactly `length` bytes", body = Octets, content_type = "application/octet-stream"),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Not aligned, too long, or beyond the end", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn read(
    State(api): State<Api>,
    name: Name,
    query: Result<Query<ReadQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let (Path(name), Query(query)) = (name?, query?);
    rules::check_transfer(u64::MAX, query.offset, query.length)?;
    let permit = permit(&api, query.length).await?;
    let bytes = api.control.read(&name, query.offset, query.length as u32).await?;
    let held = Bytes::from_owner(Held { bytes, _permit: permit });
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], held).into_response())
}

/// Writes the body at an offset. Survives power loss only after a flush.
#[utoipa::path(put, path = "/api/v1/vdisks/{name}/data", tag = "data", params(("name" = String, Path), WriteQuery),
    request_body(content = Octets, content_type = "application/octet-stream", description = "A multiple of 512 bytes, at most 32 MiB"), responses(
    (status = 204, description = "Written"),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The vDisk is read-only", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "Longer than 32 MiB", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Not aligned or beyond the end", body = Problem, content_type = "application/problem+json"),
    (status = 507, description = "No space left", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn write(
    State(api): State<Api>,
    name: Name,
    query: Result<Query<WriteQuery>, QueryRejection>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let (Path(name), Query(query)) = (name?, query?);
    if !matches!(body::media_type(request.headers()).as_deref(), None | Some("application/octet-stream")) {
        return Err(Problem::unsupported_media_type("send raw bytes with Content-Type: application/octet-stream"));
    }
    let length = body::content_length(request.headers()).ok_or_else(Problem::length_required)?;
    let bytes_max = rules::TRANSFER_BYTES_MAX as usize;
    let _permit = permit(&api, length.min(bytes_max as u64)).await?;
    let data = body::read(request, bytes_max, api.settings.request_timeout).await?;
    rules::check_transfer(u64::MAX, query.offset, data.len() as u64)?;
    api.control.write(&name, query.offset, data).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a range read as zeros and frees its space.
#[utoipa::path(post, path = "/api/v1/vdisks/{name}/zeroes", tag = "data", params(("name" = String, Path)), request_body = ZeroRange, responses(
    (status = 204, description = "The range reads as zeros"),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Not aligned or beyond the end", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn write_zeroes(State(api): State<Api>, name: Name, request: Request) -> Result<StatusCode, Problem> {
    let Path(name) = name?;
    let range: ZeroRange = body::json(&api, request).await?;
    rules::check_range(u64::MAX, range.offset, range.length)?;
    api.control.write_zeroes(&name, range.offset, range.length).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes everything written before survive power loss.
#[utoipa::path(post, path = "/api/v1/vdisks/{name}/flush", tag = "data", params(("name" = String, Path)), responses(
    (status = 204, description = "Flushed"),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn flush(State(api): State<Api>, name: Name) -> Result<StatusCode, Problem> {
    let Path(name) = name?;
    api.control.flush(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says which parts hold data, in order and without gaps.
#[utoipa::path(get, path = "/api/v1/vdisks/{name}/extents", tag = "data", params(("name" = String, Path, description = "Name of a vDisk, or `NAME@SNAPSHOT`"), ExtentsQuery), responses(
    (status = 200, description = "One page", body = ExtentPage),
    (status = 404, description = "No such vDisk", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "Not aligned or beyond the end", body = Problem, content_type = "application/problem+json"),
    (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn extents(
    State(api): State<Api>,
    name: Name,
    query: Result<Query<ExtentsQuery>, QueryRejection>,
) -> Result<Json<ExtentPage>, Problem> {
    let (Path(name), Query(query)) = (name?, query?);
    let length = match query.length {
        Some(length) => length,
        None => size_of(&api, &name).await?.saturating_sub(query.offset),
    };
    rules::check_range(u64::MAX, query.offset, length)?;
    Ok(Json(api.control.extents(&name, query.offset, length).await?))
}

/// Of a vDisk or of `NAME@SNAPSHOT`.
async fn size_of(api: &Api, name: &str) -> control::Result<u64> {
    let (vdisk, snapshot) = rules::snapshots::split(name);
    let Some(snapshot) = snapshot else { return Ok(api.control.show_vdisk(vdisk).await?.size_bytes) };
    let all = api.control.snapshots().list_snapshots(vdisk).await?;
    let found = all.into_iter().find(|info| info.name == snapshot);
    found.map(|info| info.size_bytes).ok_or_else(|| control::Error::no_snapshot(vdisk, snapshot))
}

/// Bytes of an answer; the permit goes back when the client has taken them, or is gone.
struct Held {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Waits until `length` bytes of transfer memory are free.
async fn permit(api: &Api, length: u64) -> Result<OwnedSemaphorePermit, Problem> {
    let kib = u32::try_from(length.div_ceil(1024)).map_err(|_| Problem::too_large("too long for one request"))?;
    let waiting = api.transfers.clone().acquire_many_owned(kib);
    waiting.await.map_err(|_| Problem::unavailable("the controller is shutting down"))
}
