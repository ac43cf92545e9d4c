//! REST types, router, problem documents and the OpenAPI document.
//!
//! Serves any [`control::Control`] under `/api/v1`, with `/metrics` and `/healthz` beside it. Knows nothing of engines.
//! Everything except the OpenAPI document and `/healthz` wants the bearer token; every error is a problem document
//! (RFC 9457); everything has a limit: see `limits.rs`.

mod auth;
mod body;
mod limits;
mod openapi;
mod problem;
mod prometheus;
mod router;
mod routes;
mod server;
mod stream;

pub use auth::Token;
pub use limits::Patience;
pub use openapi::document;
pub use problem::Problem;
pub use router::{Settings, router};
pub use routes::data::ZeroRange;
pub use routes::iscsi::SetInitiators;
pub use routes::schedules::PatchSchedule;
pub use routes::vdisks::PatchVdisk;
pub use routes::vms::PatchVm;
pub use server::serve;
