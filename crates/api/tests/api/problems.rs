//! Every way to be refused is a problem document; everything wants the token.

use crate::client::{Call, Server, TOKEN};
use control::model::{Verb, every_kind};
use control::{Health, Kind};
use serde_json::json;

#[tokio::test]
async fn a_token_is_required() {
    let server = Server::start().await;
    let long = format!("Bearer {TOKEN}0");
    let short = format!("Bearer {}", &TOKEN[1..]);
    let other = format!("Bearer {}", TOKEN.replace('0', "f"));
    let basic = format!("Basic {TOKEN}");
    let headers = [None, Some(""), Some("Bearer"), Some("Bearer "), Some(TOKEN)];
    let refused = [long.as_str(), &short, &other, &basic].map(Some);
    for path in ["/api/v1/vdisks", "/api/v1/vdisks/x/data?offset=0&length=0", "/api/v1/status", "/metrics"] {
        for header in headers.iter().chain(&refused) {
            let mut call = Call::without_token("GET", path);
            if let Some(value) = header {
                call = call.header("Authorization", value);
            }
            let answer = server.send(call).await;
            answer.problem(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"drystone\"", "{path} {header:?}");
        }
    }
    let lower = Call::without_token("GET", "/api/v1/status").header("Authorization", &format!("bearer  {TOKEN}"));
    assert_eq!(server.send(lower).await.status, 200, "the scheme has no case");
    for path in ["/healthz", "/api/v1/openapi.json"] {
        assert_eq!(server.send(Call::without_token("GET", path)).await.status, 200, "{path} is open");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_so() {
    let server = Server::start().await;
    for path in ["/", "/api", "/api/v1/", "/api/v2/vdisks", "/api/v1/vdisks/a/b/c", "/api/v1/vdisks/"] {
        server.get(path).await.problem(404, "not-found");
    }
    for (method, path, allow) in [
        ("PUT", "/api/v1/vdisks", "GET,HEAD,POST"),
        ("POST", "/api/v1/vdisks/demo", "DELETE,GET,HEAD,PATCH"),
        ("DELETE", "/healthz", "GET,HEAD"),
        ("GET", "/api/v1/vdisks/demo/flush", "POST"),
    ] {
        let answer = server.send(Call::new(method, path)).await;
        answer.problem(405, "method-not-allowed");
        let mut allowed: Vec<&str> = answer.header("allow").split(',').map(str::trim).collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(","), allow, "{method} {path}");
    }
    server.get("/api/v1/vdisks/%ff").await.problem(400, "malformed");
    server.get("/api/v1/vdisks/a%2Fb").await.problem(404, "not-found");
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused() {
    let server = Server::start().await;
    let path = "/api/v1/vdisks";
    for (content_type, body, status, word) in [
        ("application/json", &b"{"[..], 400, "malformed"),
        ("application/json", b"", 400, "malformed"),
        ("application/json", b"\xff\xfe", 400, "malformed"),
        ("application/json", b"{} trailing", 422, "invalid"),
        ("text/plain", b"{}", 415, "unsupported-media-type"),
        ("application/json; charset=utf-8", b"{}", 422, "invalid"),
    ] {
        let call = Call::new("POST", path).header("Content-Type", content_type).body(body.to_vec());
        server.send(call).await.problem(status, word);
    }
    server.send(Call::new("POST", path).body(b"{}".to_vec())).await.problem(415, "unsupported-media-type");
    let long = format!("{{\"name\": \"{}\"}}", "n".repeat(128 << 10));
    let long = Call::new("POST", path).header("Content-Type", "application/json").body(long.into_bytes());
    server.send(long).await.problem(413, "too-large");
}

#[tokio::test]
async fn every_kind_has_its_status() {
    let server = Server::start().await;
    for error in every_kind() {
        let (status, word) = match error.kind {
            Kind::NotFound => (404, "not-found"),
            Kind::Exists => (409, "exists"),
            Kind::Invalid => (422, "invalid"),
            Kind::Busy => (409, "busy"),
            Kind::Full => (507, "full"),
            Kind::ReadOnly => (409, "read-only"),
            Kind::Damaged => (500, "damaged"),
            Kind::Unavailable => (503, "unavailable"),
            Kind::Internal => (500, "internal"),
        };
        server.model.fail_next(Verb::Create, error.clone());
        let answer = server.json("POST", "/api/v1/vdisks", json!({"name": "n", "size_bytes": 4096})).await;
        let problem = answer.problem(status, word);
        assert_eq!(problem["detail"], error.message);
        assert_eq!(answer.headers.contains_key("retry-after"), status == 503);
    }
}

#[tokio::test]
async fn health_is_told() {
    let server = Server::start().await;
    let healthy = server.send(Call::without_token("GET", "/healthz")).await;
    assert_eq!((healthy.status, healthy.json()), (200, json!({"kind": "healthy"})));
    let reasons = vec!["disk d1 is full".to_string(), "vDisk \"a\" is damaged".to_string()];
    server.model.set_health(Health::Degraded { reasons: reasons.clone() });
    let problem = server.send(Call::without_token("GET", "/healthz")).await.problem(503, "degraded");
    assert_eq!(problem["reasons"], json!(reasons));
    assert!(problem["detail"].as_str().expect("text").contains("disk d1 is full; vDisk"));
    for (health, word) in [(Health::Starting { reasons: Vec::new() }, "starting"), (Health::Stopping, "stopping")] {
        server.model.set_health(health);
        server.send(Call::without_token("GET", "/healthz")).await.problem(503, word);
    }
}
