//! Create, list, show, change, delete.

use crate::client::{Call, Server};
use serde_json::json;

#[tokio::test]
async fn a_vdisk_is_created_shown_and_deleted() {
    let server = Server::start().await;
    let made = server.json("POST", "/api/v1/vdisks", json!({"name": "demo", "size_bytes": 1 << 30})).await;
    assert_eq!((made.status, made.header("location")), (201, "/api/v1/vdisks/demo"));
    let info = made.json();
    assert_eq!((&info["size_bytes"], &info["sector_bytes"]), (&json!(1 << 30), &json!(512)));
    assert_eq!(info["state"], json!({"kind": "online"}));
    let shown = server.get("/api/v1/vdisks/demo").await;
    assert_eq!((shown.status, shown.json()), (200, info));
    let again = server.json("POST", "/api/v1/vdisks", json!({"name": "demo", "size_bytes": 4096})).await;
    again.problem(409, "exists");
    let gone = server.send(Call::new("DELETE", "/api/v1/vdisks/demo")).await;
    assert_eq!((gone.status, gone.body.len()), (204, 0));
    server.get("/api/v1/vdisks/demo").await.problem(404, "not-found");
    server.send(Call::new("DELETE", "/api/v1/vdisks/demo")).await.problem(404, "not-found");
}

#[tokio::test]
async fn the_list_has_pages() {
    let server = Server::start().await;
    for name in ["c", "a", "e", "b", "d"] {
        server.create(name, 4096).await;
    }
    let mut names = Vec::new();
    let mut path = "/api/v1/vdisks?limit=2".to_string();
    loop {
        let page = server.get(&path).await.json();
        let on_page = page["vdisks"].as_array().expect("a list");
        assert!((1..=2).contains(&on_page.len()));
        names.extend(on_page.iter().map(|info| info["name"].as_str().expect("a name").to_string()));
        match page["next"].as_str() {
            Some(next) => path = format!("/api/v1/vdisks?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    server.get("/api/v1/vdisks?limit=0").await.problem(422, "invalid");
    server.get("/api/v1/vdisks?limit=1001").await.problem(422, "invalid");
    server.get("/api/v1/vdisks?limit=many").await.problem(400, "malformed");
    server.get("/api/v1/vdisks?page=2").await.problem(400, "malformed");
}

#[tokio::test]
async fn a_patch_changes_what_it_names() {
    let server = Server::start().await;
    server.create("one", 8192).await;
    server.create("two", 8192).await;
    let path = "/api/v1/vdisks/one";
    let patched = server.json("PATCH", path, json!({"size_bytes": 16384, "read_only": true, "name": "uno"})).await;
    let info = patched.json();
    assert_eq!((patched.status, &info["name"], &info["size_bytes"]), (200, &json!("uno"), &json!(16384)));
    assert_eq!(info["state"]["kind"], "read_only");
    server.json("PATCH", path, json!({})).await.problem(404, "not-found");
    let path = "/api/v1/vdisks/uno";
    server.json("PATCH", path, json!({"size_bytes": 4096})).await.problem(422, "invalid");
    server.json("PATCH", path, json!({"name": "two"})).await.problem(409, "exists");
    server.json("PATCH", path, json!({"name": ".."})).await.problem(422, "invalid");
    server.json("PATCH", path, json!({"colour": "red"})).await.problem(422, "invalid");
    // A refused member changes nothing of the others.
    server.json("PATCH", path, json!({"size_bytes": 32768, "name": "a/b"})).await.problem(422, "invalid");
    assert_eq!(server.get(path).await.json()["size_bytes"], 16384);
}

#[tokio::test]
async fn a_connected_vdisk_is_deleted_by_force_only() {
    let server = Server::start().await;
    server.create("demo", 4096).await;
    server.model.set_connections("demo", 2);
    let refused = server.send(Call::new("DELETE", "/api/v1/vdisks/demo")).await.problem(409, "busy");
    assert!(refused["detail"].as_str().expect("text").contains("2 clients"), "{refused}");
    let gone = server.send(Call::new("DELETE", "/api/v1/vdisks/demo?force=true")).await;
    assert_eq!(gone.status, 204);
}

#[tokio::test]
async fn bad_vdisks_are_refused() {
    let server = Server::start().await;
    for (body, part) in [
        (json!({"name": "a b", "size_bytes": 4096}), "contains ' '"),
        (json!({"name": "", "size_bytes": 4096}), "it is empty"),
        (json!({"name": "a", "size_bytes": 0}), "size 0"),
        (json!({"name": "a", "size_bytes": 4097}), "4096 or 8192"),
        (json!({"name": "a", "size_bytes": u64::MAX}), "64 TiB"),
        (json!({"name": "a", "size_bytes": 4096, "sector_bytes": 520}), "512 or 4096"),
        (json!({"name": "a", "size_bytes": "20GiB"}), "does not fit"),
        (json!({"name": "a", "size_bytes": -1}), "does not fit"),
        (json!({"name": "a"}), "missing field `size_bytes`"),
        (json!({"name": "a", "size_bytes": 4096, "colour": 1}), "unknown field `colour`"),
        (json!([]), "does not fit"),
    ] {
        let problem = server.json("POST", "/api/v1/vdisks", body.clone()).await.problem(422, "invalid");
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains(part), "{body}: {detail:?} does not say {part:?}");
    }
}
