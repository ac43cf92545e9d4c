//! Containers: their life, what is refused, and the vDisks in them.

use crate::client::{Call, Server};
use serde_json::{Value, json};

async fn gold(server: &Server) -> Value {
    let create = json!({"name": "gold", "rewind": {"window_seconds": 3600}, "capacity_bytes": 8192, "comment": "c"});
    let made = server.json("POST", "/api/v1/containers", create).await;
    assert_eq!(made.status, 201, "{made:?}");
    made.json()
}

async fn vdisk(server: &Server, path: &str) -> (Value, Value, Value) {
    let info = server.get(path).await.json();
    (info["container"].clone(), info["rewind"]["window_seconds"].clone(), info["rewind_inherited"].clone())
}

#[tokio::test]
async fn a_container_lives_its_life() {
    let server = Server::start().await;
    let made = gold(&server).await;
    assert_eq!((&made["rewind"]["window_seconds"], &made["vdisks"]), (&json!(3600), &json!(0)));
    assert_eq!(server.get("/api/v1/containers/gold").await.json(), made);
    let all = server.get("/api/v1/containers").await.json();
    let names: Vec<&Value> = all.as_array().expect("a list").iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["default", "gold"]);
    let create = json!({"name": "web", "size_bytes": 1 << 20, "container": "gold"});
    assert_eq!(server.json("POST", "/api/v1/vdisks", create).await.status, 201);
    assert_eq!(vdisk(&server, "/api/v1/vdisks/web").await, (json!("gold"), json!(3600), json!(true)));
    // What is absent stays; null is the absence of a window.
    let set = server.json("PATCH", "/api/v1/containers/gold", json!({"rewind": null})).await.json();
    assert_eq!((&set["rewind"], &set["comment"], &set["capacity_bytes"]), (&Value::Null, &json!("c"), &json!(8192)));
    assert_eq!(vdisk(&server, "/api/v1/vdisks/web").await, (json!("gold"), Value::Null, json!(true)));
    // A window of its own, and none of its own again.
    server.json("PUT", "/api/v1/vdisks/web/rewind", json!({"window_seconds": 7200})).await;
    assert_eq!(vdisk(&server, "/api/v1/vdisks/web").await, (json!("gold"), json!(7200), json!(false)));
    assert_eq!(server.delete("/api/v1/vdisks/web/rewind?inherit=true").await.status, 200);
    assert_eq!(vdisk(&server, "/api/v1/vdisks/web").await, (json!("gold"), Value::Null, json!(true)));
    assert_eq!(server.delete("/api/v1/vdisks/web/rewind").await.status, 200);
    assert_eq!(vdisk(&server, "/api/v1/vdisks/web").await.2, json!(false));
    let renamed = server.json("PATCH", "/api/v1/containers/gold", json!({"name": "tin"})).await.json();
    assert_eq!((&renamed["name"], &renamed["id"]), (&json!("tin"), &made["id"]));
    server.delete("/api/v1/containers/tin").await.problem(422, "invalid");
    let moved = server.json("PATCH", "/api/v1/vdisks/web", json!({"container": "default"})).await.json();
    assert_eq!(moved["container"], "default");
    let listed = server.get("/api/v1/vdisks?container=tin").await.json();
    assert_eq!(listed["vdisks"], json!([]));
    assert_eq!(server.delete("/api/v1/containers/tin").await.status, 204);
    server.get("/api/v1/containers/tin").await.problem(404, "not-found");
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let server = Server::start().await;
    gold(&server).await;
    server.create("web", 1 << 20).await;
    for (method, path, body, status, word) in [
        ("POST", "/api/v1/containers", json!({"name": "gold"}), 409, "exists"),
        ("POST", "/api/v1/containers", json!({"name": "a b"}), 422, "invalid"),
        ("POST", "/api/v1/containers", json!({"name": "a", "colour": 1}), 422, "invalid"),
        ("POST", "/api/v1/containers", json!({"name": "a", "rewind": {"window_seconds": 1}}), 422, "invalid"),
        ("PATCH", "/api/v1/containers/none", json!({}), 404, "not-found"),
        ("PATCH", "/api/v1/containers/default", json!({"name": "other"}), 422, "invalid"),
        ("DELETE", "/api/v1/containers/default", json!({}), 422, "invalid"),
        ("POST", "/api/v1/vdisks", json!({"name": "a", "size_bytes": 4096, "container": "none"}), 404, "not-found"),
        ("POST", "/api/v1/vms", json!({"name": "a", "container": "none"}), 404, "not-found"),
        ("PATCH", "/api/v1/vdisks/web", json!({"size_bytes": 2 << 20, "container": "none"}), 404, "not-found"),
        ("GET", "/api/v1/vdisks?container=none", json!({}), 404, "not-found"),
    ] {
        let answer = server.json(method, path, body.clone()).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
        answer.problem(status, word);
    }
    // It has more than gold may get. What was made larger would stay so.
    let data = Call::new("PUT", "/api/v1/vdisks/web/data?offset=0").header("Content-Type", "application/octet-stream");
    assert_eq!(server.send(data.body(vec![1; 12288])).await.status, 204);
    let too_much = json!({"size_bytes": 2 << 20, "container": "gold"});
    server.json("PATCH", "/api/v1/vdisks/web", too_much).await.problem(422, "invalid");
    assert_eq!(server.get("/api/v1/vdisks/web").await.json()["size_bytes"], 1 << 20);
    assert_eq!(server.get("/api/v1/containers").await.json().as_array().map(Vec::len), Some(2));
}
