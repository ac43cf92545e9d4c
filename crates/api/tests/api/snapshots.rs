//! Snapshots, clones, rollback, differences.

use crate::client::{Answer, Call, Server};
use serde_json::{Value, json};

const BLOCK: u64 = 4096;

impl Server {
    /// One block of `byte`.
    pub async fn write_block(&self, vdisk: &str, block: u64, byte: u8) {
        let path = format!("/api/v1/vdisks/{vdisk}/data?offset={}", block * BLOCK);
        let call = Call::new("PUT", &path).header("Content-Type", "application/octet-stream");
        let answer = self.send(call.body(vec![byte; BLOCK as usize])).await;
        assert_eq!(answer.status, 204, "{answer:?}");
    }

    pub async fn first_byte(&self, vdisk: &str, block: u64) -> u8 {
        let path = format!("/api/v1/vdisks/{vdisk}/data?offset={}&length=512", block * BLOCK);
        self.get(&path).await.body[0]
    }

    pub async fn snapshot(&self, vdisk: &str, name: &str) -> Answer {
        self.json("POST", &format!("/api/v1/vdisks/{vdisk}/snapshots"), json!({"name": name})).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Call::new("DELETE", path)).await
    }
}

fn names(infos: &Value) -> Vec<&str> {
    infos.as_array().expect("a list").iter().map(|info| info["name"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn a_snapshot_is_taken_listed_and_deleted() {
    let server = Server::start().await;
    server.create("web", 1 << 20).await;
    server.write_block("web", 0, 1).await;
    let taken = server.snapshot("web", "one").await;
    let info = taken.json();
    assert_eq!((taken.status, &info["vdisk"], &info["mapped_bytes"]), (201, &json!("web"), &json!(4096)));
    assert_eq!(info.get("set"), None);
    server.snapshot("web", "one").await.problem(409, "exists");
    server.snapshot("web", "two").await;
    assert_eq!(names(&server.get("/api/v1/vdisks/web/snapshots").await.json()), ["one", "two"]);
    server.model.set_readers("web", "one", 1);
    let busy = server.delete("/api/v1/vdisks/web/snapshots/one").await.problem(409, "busy");
    assert!(busy["detail"].as_str().expect("text").contains("1 client reads snapshot \"one\""), "{busy}");
    assert_eq!(server.delete("/api/v1/vdisks/web/snapshots/one?force=true").await.status, 204);
    server.delete("/api/v1/vdisks/web/snapshots/one").await.problem(404, "not-found");
    server.delete("/api/v1/vdisks/none/snapshots/one").await.problem(404, "not-found");
    server.get("/api/v1/vdisks/none/snapshots").await.problem(404, "not-found");
}

#[tokio::test]
async fn a_vdisk_with_snapshots_is_deleted_only_with_them() {
    let server = Server::start().await;
    server.create("web", 4096).await;
    server.snapshot("web", "one").await;
    let refused = server.delete("/api/v1/vdisks/web?force=true").await.problem(422, "invalid");
    let detail = refused["detail"].as_str().expect("text");
    assert!(detail.contains("1 snapshot") && detail.contains("--snapshots"), "{detail}");
    assert_eq!(server.delete("/api/v1/vdisks/web?snapshots=true").await.status, 204);
}

#[tokio::test]
async fn clones_are_made_all_or_none() {
    let server = Server::start().await;
    server.create("web", 1 << 20).await;
    server.write_block("web", 0, 1).await;
    server.snapshot("web", "one").await;
    server.write_block("web", 0, 2).await;
    let clones = "/api/v1/vdisks/web/clones";
    let made = server.json("POST", clones, json!({"snapshot": "one", "names": ["desk-{01..20}", "x"]})).await;
    assert_eq!(made.status, 201);
    assert_eq!((names(&made.json()).len(), names(&made.json())[20]), (21, "x"));
    let now = server.json("POST", clones, json!({"names": ["now"]})).await;
    assert_eq!(now.status, 201);
    assert_eq!((server.first_byte("desk-07", 0).await, server.first_byte("now", 0).await), (1, 2));
    assert_eq!(names(&server.get("/api/v1/vdisks/web/snapshots").await.json()), ["one"]);
    for (body, status, part) in [
        (json!({"names": ["y", "desk-20"]}), 409, "\"desk-20\" exists already"),
        (json!({"names": ["y{1..1001}"]}), 422, "1001 clones are more"),
        (json!({"names": []}), 422, "need names"),
        (json!({"names": ["y"], "snapshot": "none"}), 404, "no snapshot \"none\""),
        (json!({"names": "y"}), 422, "does not fit"),
    ] {
        let answer = server.json("POST", clones, body.clone()).await;
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        let detail = answer.json()["detail"].to_string().replace("\\\"", "\"");
        assert!(detail.contains(part), "{body}: {detail}");
    }
    server.get("/api/v1/vdisks/y").await.problem(404, "not-found");
}

#[tokio::test]
async fn a_thousand_names_fit_into_a_request() {
    let server = Server::start().await;
    server.create("web", 4096).await;
    let names: Vec<String> = (0..1000).map(|number| format!("{number:0>63}")).collect();
    let made = server.json("POST", "/api/v1/vdisks/web/clones", json!({ "names": names })).await;
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
}

#[tokio::test]
async fn a_rollback_keeps_what_it_replaces() {
    let server = Server::start().await;
    server.create("web", 1 << 20).await;
    server.write_block("web", 0, 1).await;
    server.snapshot("web", "one").await;
    server.write_block("web", 0, 2).await;
    let path = "/api/v1/vdisks/web/rollback";
    server.json("POST", path, json!({"snapshot": "none"})).await.problem(404, "not-found");
    server.model.set_connections("web", 1);
    let busy = server.json("POST", path, json!({"snapshot": "one"})).await.problem(409, "busy");
    assert!(busy["detail"].as_str().expect("text").contains("stop the VM first"), "{busy}");
    server.model.set_connections("web", 0);
    server.json("PATCH", "/api/v1/vdisks/web", json!({"read_only": true})).await;
    server.json("POST", path, json!({"snapshot": "one"})).await.problem(409, "read-only");
    server.json("PATCH", "/api/v1/vdisks/web", json!({"read_only": false})).await;
    assert_eq!(names(&server.get("/api/v1/vdisks/web/snapshots").await.json()), ["one"]);
    let done = server.json("POST", path, json!({"snapshot": "one"})).await;
    assert_eq!(done.status, 200);
    assert_eq!(server.first_byte("web", 0).await, 1);
    let kept = done.json()["kept"]["name"].as_str().expect("a name").to_string();
    assert!(kept.starts_with("before-rollback-"), "{kept}");
    server.json("POST", path, json!({"snapshot": kept})).await;
    assert_eq!(server.first_byte("web", 0).await, 2);
}

#[tokio::test]
async fn differences_come_in_pages() {
    let server = Server::start().await;
    server.create("web", 1 << 20).await;
    for block in [0, 1, 5, 9] {
        server.write_block("web", block, 1).await;
    }
    server.snapshot("web", "one").await;
    server.write_block("web", 1, 2).await;
    server.write_block("web", 7, 2).await;
    let zeroes = json!({"offset": 5 * BLOCK, "length": BLOCK});
    server.json("POST", "/api/v1/vdisks/web/zeroes", zeroes).await;
    server.snapshot("web", "two").await;
    server.write_block("web", 9, 3).await;
    let changes = async |query: &str| {
        let path = format!("/api/v1/vdisks/web/changes{query}");
        let page = server.get(&path).await.json();
        let ranges = page["changes"].as_array().expect("a list").iter();
        let numbers = |range: &Value| {
            (range["offset"].as_u64().expect("a number") / BLOCK, range["length"].as_u64().expect("a number") / BLOCK)
        };
        (ranges.map(numbers).collect::<Vec<_>>(), page["next"].as_u64().map(|next| next / BLOCK))
    };
    assert_eq!(changes("?to=one").await, (vec![(0, 2), (5, 1), (9, 1)], None));
    assert_eq!(changes("?from=one&to=two").await, (vec![(1, 1), (5, 1), (7, 1)], None));
    assert_eq!(changes("?from=two").await, (vec![(9, 1)], None));
    assert_eq!(changes("?from=one&limit=2").await, (vec![(1, 1), (5, 1)], Some(7)));
    assert_eq!(changes(&format!("?from=one&limit=2&offset={}", 7 * BLOCK)).await, (vec![(7, 1), (9, 1)], None));
    let hole = server.get("/api/v1/vdisks/web/changes?from=one&to=two").await.json();
    assert_eq!((&hole["changes"][0]["data"], &hole["changes"][1]["data"]), (&json!(true), &json!(false)));
    server.get("/api/v1/vdisks/web/changes?from=none").await.problem(404, "not-found");
    server.get("/api/v1/vdisks/web/changes?limit=0").await.problem(422, "invalid");
    server.get("/api/v1/vdisks/web/changes?limit=many").await.problem(400, "malformed");
}

#[tokio::test]
async fn space_says_what_is_shared() {
    let server = Server::start().await;
    server.create("web", 1 << 20).await;
    server.write_block("web", 0, 1).await;
    server.write_block("web", 1, 1).await;
    server.snapshot("web", "one").await;
    server.write_block("web", 0, 2).await;
    server.json("POST", "/api/v1/vdisks/web/clones", json!({"snapshot": "one", "names": ["copy"]})).await;
    let share = |unique: u64, shared: u64| json!({"unique_bytes": unique * BLOCK, "shared_bytes": shared * BLOCK});
    let space = server.get("/api/v1/vdisks/web/space").await.json();
    assert_eq!((&space["vdisk"], &space["alone_bytes"], &space["now"]), (&json!("web"), &json!(BLOCK), &share(1, 1)));
    let one = json!({"name": "one", "unique_bytes": 0, "shared_bytes": 2 * BLOCK});
    assert_eq!(space["snapshots"], json!([one]));
    server.get("/api/v1/vdisks/none/space").await.problem(404, "not-found");
}
