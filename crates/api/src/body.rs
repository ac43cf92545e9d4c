//! Reading bodies: bounded in bytes and in time, refused by problem documents.

use crate::limits::JSON_BYTES_MAX;
use crate::problem::Problem;
use crate::router::Api;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use base::units::format_size;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Parses a JSON body: 415 for another type, 400 for what is no JSON, 422 for JSON that says something else.
pub(crate) async fn json<T: DeserializeOwned>(api: &Api, request: Request) -> Result<T, Problem> {
    parse(&json_bytes(api, request).await?, |error| error.to_string())
}

/// As [`json`], but what is wrong is named by its place only: the parser's words repeat what was sent.
pub(crate) async fn json_with_secrets<T: DeserializeOwned>(api: &Api, request: Request) -> Result<T, Problem> {
    parse(&json_bytes(api, request).await?, |error| format!("see line {} column {}", error.line(), error.column()))
}

async fn json_bytes(api: &Api, request: Request) -> Result<Bytes, Problem> {
    let media_type = media_type(request.headers());
    if !matches!(media_type.as_deref(), Some("application/json" | "application/merge-patch+json")) {
        return Err(Problem::unsupported_media_type("send JSON with Content-Type: application/json"));
    }
    read(request, JSON_BYTES_MAX, api.settings.request_timeout).await
}

fn parse<T: DeserializeOwned>(body: &[u8], tell: impl Fn(&serde_json::Error) -> String) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Problem::invalid(format!("the body does not fit: {}", tell(&error))),
        _ => Problem::malformed(format!("the body is not JSON: {}", tell(&error))),
    })
}

/// The whole body, if it arrives in time and has at most `bytes_max`.
pub(crate) async fn read(request: Request, bytes_max: usize, timeout: Duration) -> Result<Bytes, Problem> {
    let too_large = || {
        let most = format_size(bytes_max as u64);
        Problem::too_large(format!("the body is longer than {most}, the most that is accepted here"))
    };
    let announced = content_length(request.headers());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large());
    }
    let mut gathered = BytesMut::with_capacity(announced.unwrap_or(0) as usize);
    let mut stream = request.into_body().into_data_stream();
    let gather = async {
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|_| Problem::malformed("the body ended before its announced length"))?;
            if gathered.len() + piece.len() > bytes_max {
                return Err(too_large());
            }
            gathered.extend_from_slice(&piece);
        }
        Ok(gathered.freeze())
    };
    tokio::time::timeout(timeout, gather)
        .await
        .unwrap_or_else(|_| Err(Problem::timeout(format!("the body did not arrive within {} s", timeout.as_secs()))))
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Without parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim().to_ascii_lowercase())
}

/// An answer in JSON.
pub(crate) struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => {
                Problem::from(control::Error::internal(format!("cannot write JSON: {error}"))).into_response()
            }
        }
    }
}
