//! The bearer token: compared in constant time, never printed.

use crate::problem::Problem;
use crate::router::Api;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use std::fmt;
use subtle::ConstantTimeEq;

#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Surrounding white space (the newline of a token file) is not part of it. `None` if nothing is left.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        (!text.is_empty()).then(|| Token(text.to_string()))
    }

    /// Takes the same time wherever the first difference is; only the length shows.
    fn matches(&self, candidate: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(candidate).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Lets a request pass only with `Authorization: Bearer <token>` (RFC 6750, section 2.1). Runs before the body is read.
pub(crate) async fn require_token(State(api): State<Api>, request: Request, next: Next) -> Result<Response, Problem> {
    let Some(value) = request.headers().get(AUTHORIZATION) else {
        return Err(Problem::unauthorized("this needs a token: send `Authorization: Bearer <content of DIR/token>`"));
    };
    match bearer(value.as_bytes()) {
        Some(candidate) if api.settings.token.matches(candidate) => Ok(next.run(request).await),
        Some(_) => Err(Problem::unauthorized("wrong token; it is in the file `token` of the data directory")),
        None => Err(Problem::unauthorized("send the token as `Authorization: Bearer <token>`")),
    }
}

/// What follows the scheme, whose case does not matter.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}
