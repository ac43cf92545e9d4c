//! The OpenAPI document: served, checked in, and true.

use crate::client::{Call, Server};
use serde_json::Value;

const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");

#[test]
fn the_document_is_the_one_that_is_checked_in() {
    let document = api::document();
    if std::env::var_os("DRYSTONE_BLESS").is_some() {
        std::fs::write(CHECKED_IN, &document).expect("docs/ is writable");
    }
    let checked_in = std::fs::read_to_string(CHECKED_IN).unwrap_or_default();
    assert!(
        checked_in == document,
        "docs/openapi.json is not what the API serves; regenerate it: DRYSTONE_BLESS=1 cargo test -p api document"
    );
}

#[tokio::test]
async fn the_document_is_served() {
    let server = Server::start().await;
    let answer = server.send(Call::without_token("GET", "/api/v1/openapi.json")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert_eq!(String::from_utf8(answer.body).expect("text"), api::document());
}

#[tokio::test]
async fn every_documented_operation_exists_and_no_other_method() {
    let server = Server::start().await;
    let document: Value = serde_json::from_str(&api::document()).expect("JSON");
    assert!(document["openapi"].as_str().expect("a version").starts_with("3.1"));
    for (path, item) in document["paths"].as_object().expect("paths") {
        let concrete = path.replace("{name}", "nope");
        for method in ["get", "put", "post", "patch", "delete"] {
            let answer = server.send(Call::new(&method.to_ascii_uppercase(), &concrete)).await;
            let documented = item.get(method).is_some();
            assert_eq!(answer.status != 405, documented, "{method} {path}: {answer:?}");
            if let Some(operation) = item.get(method) {
                let code = answer.status.to_string();
                let known =
                    operation["responses"].get(&code).is_some() || operation["responses"].get("default").is_some();
                assert!(known, "{method} {path} answers {code}, which is not documented");
            }
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document: Value = serde_json::from_str(&api::document()).expect("JSON");
    fn check(at: &Value, document: &Value, seen: &mut usize) {
        match at {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.strip_prefix('#').expect("a local reference");
                    assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                    *seen += 1;
                }
                members.values().for_each(|value| check(value, document, seen));
            }
            Value::Array(values) => values.iter().for_each(|value| check(value, document, seen)),
            _ => {}
        }
    }
    let mut seen = 0;
    check(&document, &document, &mut seen);
    assert!(seen > 10, "only {seen} references were found");
}
