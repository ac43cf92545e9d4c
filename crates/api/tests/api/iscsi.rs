//! Access rules, groups, sessions, portals; and secrets that never come back.

use crate::client::{Call, Server};
use control::IscsiSession;
use serde_json::json;

const SECRET: &str = "correct-horse-battery";
const HOST: &str = "iqn.2026-11.com.example:host";

fn session(id: u64) -> IscsiSession {
    IscsiSession {
        id,
        vdisk: "demo".into(),
        initiator: HOST.into(),
        alias: None,
        isid: "000000000001".into(),
        tsih: 1,
        user: None,
        address: "10.0.0.2:4000".into(),
        portal: "10.0.0.1:3260".into(),
        group_tag: 1,
        header_digest: true,
        data_digest: false,
        since_unix_ms: 1,
        commands_in_flight: 0,
        read_bytes: 0,
        written_bytes: 0,
    }
}

#[tokio::test]
async fn access_is_changed_part_by_part_and_secrets_stay_inside() {
    let server = Server::start().await;
    server.create("demo", 4096).await;
    let path = "/api/v1/vdisks/demo/iscsi";
    let open = server.get(path).await.json();
    assert_eq!(open["target_name"], "iqn.2026-11.io.drystone:demo");
    let served = |target: &serde_json::Value| -> Vec<bool> {
        target["portals"].as_array().expect("a list").iter().map(|portal| portal["served"] == true).collect()
    };
    assert_eq!(served(&open), [true, false]);
    let why = open["portals"][1]["reason"].as_str().expect("a sentence");
    assert!(why.contains("drystone iscsi access"), "{why}");
    let chap = json!({"chap": {"user": "guest", "secret": SECRET}});
    let set = server.json("PATCH", path, chap).await;
    assert_eq!((set.status, &set.json()["chap_user"]), (200, &json!("guest")));
    assert_eq!(served(&set.json()), [true, true]);
    let named = server.json("PATCH", path, json!({"initiators": [HOST.to_uppercase()]})).await.json();
    assert_eq!((&named["initiators"], &named["chap_user"]), (&json!([HOST]), &json!("guest")));
    for path in [path, "/api/v1/iscsi/targets", "/api/v1/vdisks/demo", "/api/v1/status", "/metrics"] {
        let shown = String::from_utf8(server.get(path).await.body).expect("text");
        assert!(!shown.contains(SECRET), "{path} shows it");
    }
    let taken = server.json("PATCH", path, json!({"chap": null})).await.json();
    assert_eq!((&taken["initiators"], taken.get("chap_user")), (&json!([HOST]), None));
    server.get("/api/v1/vdisks/none/iscsi").await.problem(404, "not-found");
    server.json("PATCH", "/api/v1/vdisks/none/iscsi", json!({})).await.problem(404, "not-found");
}

#[tokio::test]
async fn bad_access_is_refused_and_what_was_sent_is_not_repeated() {
    let server = Server::start().await;
    server.create("demo", 4096).await;
    for (body, part) in [
        (json!({"initiators": ["host"]}), "no iSCSI name"),
        (json!({"groups": ["esx"]}), "no initiator group"),
        (json!({"mutual": {"user": "t", "secret": SECRET}}), "ask the initiator first"),
        (json!({"chap": {"user": "u", "secret": "horse"}}), "12 to 255"),
        (json!({"chap": {"user": "u", "secret": SECRET}, "mutual": {"user": "t", "secret": SECRET}}), "must differ"),
        (json!({"chap": SECRET}), "does not fit"),
        (json!({"chap": {"user": "u", "password": SECRET}}), "does not fit"),
        (json!({"colour": 1}), "does not fit"),
    ] {
        let problem = server.json("PATCH", "/api/v1/vdisks/demo/iscsi", body.clone()).await.problem(422, "invalid");
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains(part) && !detail.contains("horse"), "{body}: {detail:?}");
    }
}

#[tokio::test]
async fn groups_are_named_lists() {
    let server = Server::start().await;
    server.create("demo", 4096).await;
    let groups = "/api/v1/iscsi/groups";
    let made = server.json("POST", groups, json!({"name": "esx", "initiators": [HOST]})).await;
    assert_eq!(made.status, 201);
    server.json("POST", groups, json!({"name": "esx", "initiators": [HOST]})).await.problem(409, "exists");
    server.json("POST", groups, json!({"name": "e x", "initiators": [HOST]})).await.problem(422, "invalid");
    server.json("POST", groups, json!({"name": "none", "initiators": []})).await.problem(422, "invalid");
    server.json("PUT", "/api/v1/iscsi/groups/other", json!({"initiators": [HOST]})).await.problem(404, "not-found");
    let access = server.json("PATCH", "/api/v1/vdisks/demo/iscsi", json!({"groups": ["esx"]})).await;
    assert_eq!(access.json()["groups"], json!(["esx"]));
    let esx = "/api/v1/iscsi/groups/esx";
    let set = server.json("PUT", esx, json!({"initiators": [HOST, "eui.0200456789abcdef"]})).await.json();
    assert_eq!((set["initiators"].as_array().map(Vec::len), &set["vdisks"]), (Some(2), &json!(["demo"])));
    let used = server.send(Call::new("DELETE", esx)).await.problem(422, "invalid");
    assert!(used["detail"].as_str().expect("text").contains("demo"), "{used}");
    server.json("PATCH", "/api/v1/vdisks/demo/iscsi", json!({"groups": []})).await;
    assert_eq!(server.send(Call::new("DELETE", esx)).await.status, 204);
    server.send(Call::new("DELETE", esx)).await.problem(404, "not-found");
    assert_eq!(server.get(groups).await.json(), json!([]));
}

#[tokio::test]
async fn sessions_are_listed_and_dropped() {
    let server = Server::start().await;
    server.create("demo", 4096).await;
    [4, 7].into_iter().for_each(|id| server.model.add_session(session(id)));
    assert_eq!(server.get("/api/v1/vdisks/demo/iscsi").await.json()["sessions"], 2);
    assert_eq!(server.send(Call::new("DELETE", "/api/v1/iscsi/sessions/4")).await.status, 204);
    server.send(Call::new("DELETE", "/api/v1/iscsi/sessions/4")).await.problem(404, "not-found");
    server.send(Call::new("DELETE", "/api/v1/iscsi/sessions/four")).await.problem(400, "malformed");
    let left = server.get("/api/v1/iscsi/sessions").await.json();
    assert_eq!((left.as_array().map(Vec::len), &left[0]["id"]), (Some(1), &json!(7)));
    assert_eq!(server.get("/api/v1/iscsi/portals").await.json()[1]["serves_open"], false);
}
