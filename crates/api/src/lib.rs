//! REST types, router, problem documents and the OpenAPI document.
