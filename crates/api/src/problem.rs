//! Problem documents (RFC 9457): the one form that every error of the API has.

use axum::body::Body;
use axum::extract::Request;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use control::Kind;
use serde::{Deserialize, Serialize};

pub const CONTENT_TYPE: &str = "application/problem+json";

/// `type` and `status` are for programs, `title` and `detail` for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// `urn:drystone:problem:` and a word that never changes its meaning.
    #[serde(rename = "type")]
    #[schema(example = "urn:drystone:problem:not-found")]
    pub kind: String,
    /// The same for every problem of this type.
    #[schema(example = "Not found")]
    pub title: String,
    #[schema(example = 404)]
    pub status: u16,
    /// What was refused here and what to do.
    pub detail: String,
    /// Why the controller is not healthy; only from `/healthz`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub reasons: Vec<String>,
}

impl Problem {
    pub fn new(status: StatusCode, word: &str, title: &str, detail: impl Into<String>) -> Problem {
        Problem {
            kind: format!("urn:drystone:problem:{word}"),
            title: title.to_string(),
            status: status.as_u16(),
            detail: detail.into(),
            reasons: Vec::new(),
        }
    }

    pub fn malformed(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", "Malformed request", detail)
    }

    pub fn unauthorized(detail: &str) -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Token required", detail)
    }

    pub fn timeout(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "Request took too long to arrive", detail)
    }

    pub fn unavailable(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available now", detail)
    }

    pub fn unsupported_media_type(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Unsupported media type", detail)
    }

    pub fn too_large(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Body too large", detail)
    }

    pub fn length_required() -> Problem {
        let detail = "send the body with a Content-Length; chunked bodies are not accepted here";
        Problem::new(StatusCode::LENGTH_REQUIRED, "length-required", "Length required", detail)
    }

    pub fn invalid(detail: impl Into<String>) -> Problem {
        Problem::from(control::Error::invalid(detail))
    }

    fn of_status(status: StatusCode, detail: String) -> Problem {
        let title = status.canonical_reason().unwrap_or("Error");
        Problem::new(status, &title.to_ascii_lowercase().replace(' ', "-"), title, detail)
    }

    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<control::Error> for Problem {
    fn from(error: control::Error) -> Problem {
        let (status, word, title) = match error.kind {
            Kind::NotFound => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Kind::Exists => (StatusCode::CONFLICT, "exists", "Name is taken"),
            Kind::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Refused"),
            Kind::Busy => (StatusCode::CONFLICT, "busy", "In use"),
            Kind::Full => (StatusCode::INSUFFICIENT_STORAGE, "full", "No space left"),
            Kind::ReadOnly => (StatusCode::CONFLICT, "read-only", "Read-only"),
            Kind::Damaged => (StatusCode::INTERNAL_SERVER_ERROR, "damaged", "Stored bytes are damaged"),
            Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available now"),
            Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        };
        Problem::new(status, word, title, error.message)
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Problem {
        Problem::malformed(rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Problem {
        Problem::malformed(rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("strings and a number are always JSON");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        match self.status() {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"drystone\""));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            // What is left of the body is not read, so the connection cannot be used again.
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT | StatusCode::LENGTH_REQUIRED => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

/// Turns what the router answers by itself (404, 405) into problem documents; it adds `Allow` afterwards.
pub(crate) async fn everywhere(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    let response = next.run(request).await;
    let status = response.status();
    let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == CONTENT_TYPE);
    if is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let detail = match status {
        StatusCode::NOT_FOUND => format!("there is nothing at {path}; /api/v1/openapi.json describes what there is"),
        StatusCode::METHOD_NOT_ALLOWED => format!("{path} does not know {method}; the header Allow says what it does"),
        _ => format!("{method} {path} failed"),
    };
    Problem::of_status(status, detail).into_response()
}
