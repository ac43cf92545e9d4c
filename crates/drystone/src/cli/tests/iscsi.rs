//! `drystone iscsi` against a controller in memory.

use super::server::Server;

const HOST: &str = "iqn.2026-11.com.example:host";
const SECRET: &str = "correct-horse-battery";

fn server() -> Server {
    let server = Server::start();
    server.run(&["vdisk", "create", "web", "--size", "1GiB"]).expect("created");
    server
}

#[test]
fn access_is_set_and_shown_without_secrets() {
    let server = server();
    let directory = tempfile::tempdir().expect("a directory");
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    std::fs::write(&one, format!("{SECRET}\n")).expect("written");
    std::fs::write(&two, "another-horse-battery").expect("written");
    let (one, two) = (one.to_str().expect("text"), two.to_str().expect("text"));
    let line = ["iscsi", "access", "web", "--initiator", HOST, "--chap", "guest", "--chap-secret-file", one];
    let text = server.run(&[&line[..], &["--mutual", "target", "--mutual-secret-file", two]].concat()).expect("set");
    for part in ["iqn.2026-11.io.drystone:web", HOST, "mutual CHAP", "guest", "target"] {
        assert!(text.contains(part), "{text}");
    }
    let shown = [
        text,
        server.run(&["iscsi", "show"]).expect("shown"),
        server.run(&["iscsi", "show", "web"]).expect("shown"),
        server.json(&["iscsi", "show"]).to_string(),
        server.json(&["iscsi", "show", "web"]).to_string(),
    ];
    assert!(shown.iter().all(|text| !text.contains("horse")), "{shown:?}");
    let open = server.run(&["iscsi", "access", "web", "--any-initiator", "--no-chap"]).expect("set");
    assert!(open.contains("initiator:") && open.contains("any") && open.contains("not served"), "{open}");
    let json = server.json(&["iscsi", "show", "web"]);
    assert_eq!((&json["initiators"], json.get("chap_user")), (&serde_json::json!([]), None));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let server = server();
    server.refused(&["iscsi", "access", "web"], "nothing to change");
    server.refused(&["iscsi", "access", "web", "--initiator", "host"], "no iSCSI name");
    server.refused(&["iscsi", "access", "web", "--any-initiator", "--initiator", HOST], "cannot be used with");
    server.refused(&["iscsi", "access", "web", "--chap", "u", "--no-chap"], "cannot be used with");
    server.refused(&["iscsi", "access", "web", "--chap-secret-file", "x"], "--chap");
    server.refused(&["iscsi", "access", "web", "--group", "esx"], "no initiator group");
    server.refused(&["iscsi", "access", "none", "--any-initiator"], "no vDisk");
    server.refused(&["iscsi", "drop", "3"], "no iSCSI session 3");
    server.refused(&["iscsi", "group", "delete", "esx"], "no initiator group");
}

#[test]
fn groups_and_portals() {
    let server = server();
    assert!(server.run(&["iscsi", "group", "list"]).expect("a list").contains("no initiator groups"));
    server.run(&["iscsi", "group", "create", "esx", "--initiator", HOST]).expect("created");
    server.run(&["iscsi", "access", "web", "--group", "esx"]).expect("set");
    let other = "eui.0200456789abcdef";
    let changed = server.run(&["iscsi", "group", "set", "esx", "--initiator", HOST, "--initiator", other]);
    assert!(changed.expect("changed").contains("web"));
    let listed = server.run(&["iscsi", "group", "list"]).expect("a list");
    assert!(listed.contains(HOST) && listed.contains(other), "{listed}");
    server.refused(&["iscsi", "group", "delete", "esx"], "is used by web");
    server.run(&["iscsi", "access", "web", "--any-initiator"]).expect("set");
    server.run(&["iscsi", "group", "delete", "esx"]).expect("deleted");
    assert!(server.run(&["iscsi", "portals"]).expect("a list").contains("127.0.0.1:3260"));
    assert!(server.run(&["iscsi", "sessions"]).expect("a list").contains("no iSCSI sessions"));
}
