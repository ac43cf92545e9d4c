//! VMs: their life, their snapshots, clones, templates.

use crate::client::Server;
use serde_json::{Value, json};

async fn web01(server: &Server) -> Value {
    let vdisks = json!([{"label": "root", "size_bytes": 1 << 20}, {"label": "data", "size_bytes": 1 << 21}]);
    let made = server.json("POST", "/api/v1/vms", json!({"name": "web01", "vdisks": vdisks})).await;
    assert_eq!(made.status, 201, "{made:?}");
    made.json()
}

fn labels(vm: &Value) -> Vec<(&str, &str)> {
    let vdisks = vm["vdisks"].as_array().expect("a list").iter();
    vdisks.map(|one| (one["label"].as_str().expect("text"), one["vdisk"].as_str().expect("text"))).collect()
}

#[tokio::test]
async fn a_vm_lives_its_life() {
    let server = Server::start().await;
    let vm = web01(&server).await;
    assert_eq!(labels(&vm), [("root", "web01-root"), ("data", "web01-data")]);
    assert_eq!(
        (&vm["template"], &vm["snapshots"], &vm["vdisks"][1]["size_bytes"]),
        (&json!(false), &json!(0), &json!(1 << 21))
    );
    server.create("web01-logs", 4096).await;
    let attach = json!({"vdisk": "web01-logs"});
    let attached = server.json("POST", "/api/v1/vms/web01/vdisks", attach.clone()).await.json();
    assert_eq!(labels(&attached)[2], ("logs", "web01-logs"));
    let twice = server.json("POST", "/api/v1/vms/web01/vdisks", attach).await.problem(422, "invalid");
    assert!(twice["detail"].as_str().expect("text").contains("drystone vm detach"), "{twice}");
    server.delete("/api/v1/vdisks/web01-logs").await.problem(422, "invalid");
    assert_eq!(labels(&server.delete("/api/v1/vms/web01/vdisks/logs").await.json()).len(), 2);
    server.delete("/api/v1/vms/web01/vdisks/logs").await.problem(404, "not-found");
    assert_eq!(server.delete("/api/v1/vdisks/web01-logs").await.status, 204);
    let renamed = server.json("PATCH", "/api/v1/vms/web01", json!({"name": "www"})).await.json();
    assert_eq!((&renamed["name"], labels(&renamed)[0]), (&json!("www"), ("root", "web01-root")));
    server.get("/api/v1/vms/web01").await.problem(404, "not-found");
    assert_eq!(server.get("/api/v1/vms/www").await.json(), renamed);
    server.model.set_connections("web01-root", 1);
    server.delete("/api/v1/vms/www").await.problem(409, "busy");
    assert_eq!(server.delete("/api/v1/vms/www?force=true").await.status, 204);
    server.get("/api/v1/vdisks/web01-root").await.problem(404, "not-found");
}

#[tokio::test]
async fn vms_that_cannot_be_are_refused() {
    let server = Server::start().await;
    web01(&server).await;
    server.create("db-root", 4096).await;
    let root = json!([{"label": "root", "size_bytes": 4096}]);
    for (body, status, word, part) in [
        (json!({"name": "web01"}), 409, "exists", "a VM \"web01\" exists already"),
        (json!({"name": "db", "vdisks": root}), 409, "exists", "a vDisk \"db-root\" exists already"),
        (json!({"name": "a@b"}), 422, "invalid", "the name of a VM"),
        (json!({"name": "a", "vdisks": [{"label": "r", "size_bytes": 1}]}), 422, "invalid", "use 4096"),
        (json!({"name": "a", "vdisks": [root[0], root[0]]}), 409, "exists", "\"root\" already"),
        (json!({"name": "a", "disks": []}), 422, "invalid", "unknown field"),
    ] {
        let problem = server.json("POST", "/api/v1/vms", body.clone()).await.problem(status, word);
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains(part), "{body}: {detail}");
    }
    server.get("/api/v1/vdisks/a-root").await.problem(404, "not-found");
    server.json("PATCH", "/api/v1/vms/none", json!({})).await.problem(404, "not-found");
    server.json("PATCH", "/api/v1/vms/web01", json!({"colour": 1})).await.problem(422, "invalid");
    server.json("POST", "/api/v1/vms/web01/vdisks", json!({"vdisk": "none"})).await.problem(404, "not-found");
    server
        .json("POST", "/api/v1/vms/web01/vdisks", json!({"vdisk": "db-root", "label": "root"}))
        .await
        .problem(409, "exists");
}

#[tokio::test]
async fn vms_are_listed_in_pages() {
    let server = Server::start().await;
    for name in ["c", "a", "b"] {
        assert_eq!(server.json("POST", "/api/v1/vms", json!({"name": name})).await.status, 201);
    }
    let page = server.get("/api/v1/vms?limit=2").await.json();
    assert_eq!(
        (&page["vms"][0]["name"], &page["vms"][1]["name"], &page["next"]),
        (&json!("a"), &json!("b"), &json!("b"))
    );
    let page = server.get("/api/v1/vms?limit=2&after=b").await.json();
    assert_eq!((&page["vms"][0]["name"], page.get("next")), (&json!("c"), None));
    server.get("/api/v1/vms?limit=0").await.problem(422, "invalid");
}

#[tokio::test]
async fn a_snapshot_of_a_vm_has_all_its_vdisks() {
    let server = Server::start().await;
    web01(&server).await;
    let path = "/api/v1/vms/web01/snapshots";
    server.write_block("web01-root", 0, 1).await;
    let taken = server.json("POST", path, json!({"name": "one"})).await;
    assert_eq!((taken.status, &taken.json()["labels"]), (201, &json!(["root", "data"])));
    let of_data = server.get("/api/v1/vdisks/web01-data/snapshots").await.json();
    assert_eq!((&of_data[0]["name"], &of_data[0]["set"]), (&json!("one"), &taken.json()["id"]));
    server.json("POST", path, json!({"name": "one"})).await.problem(409, "exists");
    server.snapshot("web01-data", "alone").await;
    let clash = server.json("POST", path, json!({"name": "alone"})).await.problem(409, "exists");
    assert!(clash["detail"].as_str().expect("text").contains("vDisk \"web01-data\" has a snapshot"), "{clash}");
    let part = server.delete("/api/v1/vdisks/web01-data/snapshots/one").await.problem(422, "invalid");
    assert!(part["detail"].as_str().expect("text").contains("drystone vm snapshot-delete web01 one"), "{part}");
    server.delete("/api/v1/vms/web01").await.problem(422, "invalid");
    server.model.set_readers("web01-data", "one", 1);
    server.delete("/api/v1/vms/web01/snapshots/one").await.problem(409, "busy");
    assert_eq!(server.delete("/api/v1/vms/web01/snapshots/one?force=true").await.status, 204);
    server.delete("/api/v1/vms/web01/snapshots/one").await.problem(404, "not-found");
    assert_eq!(server.get(path).await.json(), json!([]));
    assert_eq!(server.get("/api/v1/vdisks/web01-root/snapshots").await.json(), json!([]));
    assert_eq!(server.delete("/api/v1/vms/web01?snapshots=true").await.status, 204);
    server.json("POST", "/api/v1/vms", json!({"name": "bare"})).await;
    server.json("POST", "/api/v1/vms/bare/snapshots", json!({"name": "one"})).await.problem(422, "invalid");
}

#[tokio::test]
async fn a_vm_is_cloned_and_rolled_back() {
    let server = Server::start().await;
    web01(&server).await;
    server.write_block("web01-root", 0, 1).await;
    server.json("POST", "/api/v1/vms/web01/snapshots", json!({"name": "one"})).await;
    server.write_block("web01-root", 0, 2).await;
    let clones = "/api/v1/vms/web01/clones";
    let made = server.json("POST", clones, json!({"snapshot": "one", "names": ["desk-{01..30}"]})).await;
    assert_eq!((made.status, made.json().as_array().map(Vec::len)), (201, Some(30)));
    assert_eq!(labels(&made.json()[29]), [("root", "desk-30-root"), ("data", "desk-30-data")]);
    assert_eq!(server.json("POST", clones, json!({"names": ["now"]})).await.status, 201);
    assert_eq!((server.first_byte("desk-07-root", 0).await, server.first_byte("now-root", 0).await), (1, 2));
    server.json("POST", clones, json!({"names": ["x", "desk-01"]})).await.problem(409, "exists");
    server.json("POST", clones, json!({"names": ["x{1..1001}"]})).await.problem(422, "invalid");
    server.json("POST", clones, json!({"names": ["x"], "snapshot": "none"})).await.problem(404, "not-found");
    server.get("/api/v1/vms/x").await.problem(404, "not-found");
    let back = "/api/v1/vms/web01/rollback";
    server.model.set_connections("web01-data", 1);
    server.json("POST", back, json!({"snapshot": "one"})).await.problem(409, "busy");
    server.model.set_connections("web01-data", 0);
    server.create("extra", 4096).await;
    server.json("POST", "/api/v1/vms/web01/vdisks", json!({"vdisk": "extra"})).await;
    let other = server.json("POST", back, json!({"snapshot": "one"})).await.problem(422, "invalid");
    assert!(other["detail"].as_str().expect("text").contains("drystone vm detach web01 extra"), "{other}");
    server.delete("/api/v1/vms/web01/vdisks/extra").await;
    let done = server.json("POST", back, json!({"snapshot": "one"})).await;
    assert_eq!((done.status, server.first_byte("web01-root", 0).await), (200, 1));
    let kept = done.json()["kept"]["name"].clone();
    assert_eq!(server.get("/api/v1/vms/web01/snapshots").await.json()[1]["name"], kept);
    server.json("POST", back, json!({"snapshot": kept})).await;
    assert_eq!(server.first_byte("web01-root", 0).await, 2);
    server.json("POST", back, json!({"snapshot": "none"})).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_template_is_not_written() {
    let server = Server::start().await;
    web01(&server).await;
    let vm = "/api/v1/vms/web01";
    server.json("POST", &format!("{vm}/snapshots"), json!({"name": "one"})).await;
    server.model.set_connections("web01-data", 1);
    server.json("PATCH", vm, json!({"template": true})).await.problem(409, "busy");
    server.model.set_connections("web01-data", 0);
    assert_eq!(server.json("PATCH", vm, json!({"template": true})).await.json()["template"], true);
    let zeroes = json!({"offset": 0, "length": 4096});
    server.json("POST", "/api/v1/vdisks/web01-root/zeroes", zeroes.clone()).await.problem(409, "read-only");
    let writable = server.json("PATCH", "/api/v1/vdisks/web01-root", json!({"read_only": false})).await;
    let refused = writable.problem(409, "read-only");
    assert!(refused["detail"].as_str().expect("text").contains("drystone vm template web01 off"), "{refused}");
    server.json("POST", &format!("{vm}/rollback"), json!({"snapshot": "one"})).await.problem(409, "read-only");
    server
        .json("POST", "/api/v1/vdisks/web01-root/rollback", json!({"snapshot": "one"}))
        .await
        .problem(409, "read-only");
    server.create("extra", 4096).await;
    server.json("POST", &format!("{vm}/vdisks"), json!({"vdisk": "extra"})).await.problem(409, "read-only");
    server.delete(&format!("{vm}/vdisks/root")).await.problem(409, "read-only");
    let made = server.json("POST", &format!("{vm}/clones"), json!({"names": ["desk"]})).await.json();
    assert_eq!(made[0]["template"], false);
    server.write_block("desk-root", 0, 1).await;
    server.json("PATCH", vm, json!({"template": false})).await;
    server.write_block("web01-root", 0, 1).await;
}
