//! `drystone vm` against a controller in memory.

use super::server::Server;

const WEB01: [&str; 7] = ["vm", "create", "web01", "--vdisk", "root=1MiB", "--vdisk", "data=2MiB"];

#[test]
fn a_vm_lives_its_life() {
    let server = Server::start();
    assert!(server.run(&["vm", "list"]).expect("listed").contains("no VMs yet"));
    assert_eq!(server.run(&WEB01).expect("created"), "created web01 with web01-root, web01-data\n");
    server.run(&["vdisk", "create", "logs", "--size", "1MiB"]).expect("created");
    let attached = server.run(&["vm", "attach", "web01", "logs"]).expect("attached");
    assert_eq!(attached, "web01 has web01-root, web01-data, logs\n");
    let list = server.run(&["vm", "ls"]).expect("listed");
    assert_eq!(list, "NAME   KIND  SIZE   SNAPSHOTS  VDISKS\nweb01  VM    4 MiB  0          root, data, logs\n");
    let shown = server.run(&["vm", "show", "web01"]).expect("shown");
    assert!(shown.contains("kind:        VM\n") && shown.contains("data   web01-data  2 MiB  1\n"), "{shown}");
    assert_eq!(server.run(&["vm", "detach", "web01", "logs"]).expect("done"), "web01 has web01-root, web01-data\n");
    assert_eq!(server.run(&["vm", "rename", "web01", "www"]).expect("done"), "web01 is www now\n");
    assert_eq!(server.json(&["vm", "show", "www"])["vdisks"][0]["vdisk"], "web01-root");
    assert_eq!(server.run(&["vm", "delete", "www", "--keep-vdisks"]).expect("done"), "deleted www\n");
    server.run(&["vdisk", "delete", "web01-root"]).expect("it stayed");
}

#[test]
fn snapshots_clones_templates() {
    let server = Server::start();
    server.run(&WEB01).expect("created");
    assert!(server.run(&["vm", "snapshots", "web01"]).expect("listed").contains("no snapshots of web01 yet"));
    assert_eq!(server.run(&["vm", "snapshot", "web01", "one"]).expect("taken"), "took web01@one\n");
    let list = server.run(&["vm", "snapshots", "web01"]).expect("listed");
    assert!(list.contains("one       2023-11-14 22:13:20 UTC  root, data\n"), "{list}");
    let made = server.run(&["vm", "clone", "web01@one", "desk-{001..120}"]).expect("made");
    assert_eq!(made, "made 120 VMs, desk-001 to desk-120\n");
    assert_eq!(server.run(&["vm", "clone", "web01", "now"]).expect("made"), "made now\n");
    // More than a page of the API.
    assert_eq!(server.json(&["vm", "list"]).as_array().map(Vec::len), Some(122));
    let done = server.run(&["vm", "rollback", "web01", "one"]).expect("done");
    assert!(done.starts_with("web01 is as it was at one; what was there before is web01@before-rollback-"), "{done}");
    assert_eq!(server.run(&["vm", "snapshot-delete", "web01", "one"]).expect("done"), "deleted web01@one\n");
    assert_eq!(server.run(&["vm", "template", "web01", "on"]).expect("done"), "web01 is a template now\n");
    server.refused(&["vm", "rollback", "web01", "one"], "no snapshot \"one\"");
    server.refused(&["vm", "detach", "web01", "root"], "is a template");
    server.refused(&["vdisk", "set", "web01-root", "--read-only", "off"], "drystone vm template web01 off");
    assert_eq!(server.run(&["vm", "template", "web01", "off"]).expect("done"), "web01 is a VM now\n");
    server.refused(&["vm", "delete", "web01"], "has 1 snapshot");
    assert_eq!(server.run(&["vm", "delete", "web01", "--snapshots"]).expect("done"), "deleted web01\n");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let server = Server::start();
    server.run(&WEB01).expect("created");
    server.run(&["vm", "create", "bare"]).expect("created");
    for (line, part) in [
        (&["vm", "create", "web01"][..], "a VM \"web01\" exists already"),
        (&["vm", "create", "x", "--vdisk", "root"], "no LABEL=SIZE"),
        (&["vm", "create", "x", "--vdisk", "root=huge"], "is not a size"),
        (&["vm", "create", "x", "--vdisk", "root=1000"], "use 4096"),
        (&["vm", "create", "x", "--vdisk", "r=4096", "--vdisk", "r=4096"], "\"r\" already"),
        (&["vm", "show", "none"], "no VM \"none\""),
        (&["vm", "attach", "web01", "none"], "no vDisk \"none\""),
        (&["vm", "attach", "bare", "web01-root"], "belongs to VM \"web01\""),
        (&["vm", "detach", "web01", "none"], "no vDisk that it calls \"none\""),
        (&["vm", "snapshot", "bare", "one"], "has no vDisks"),
        (&["vm", "snapshot", "web01", "a@b"], "contains '@'"),
        (&["vm", "snapshot-delete", "web01", "none"], "no snapshot \"none\""),
        (&["vm", "clone", "web01@none", "x"], "no snapshot \"none\""),
        (&["vm", "clone", "web01", "x{1..1001}"], "1001 clones are more"),
        (&["vm", "clone", "web01", "bare"], "a VM \"bare\" exists already"),
        (&["vm", "rollback", "web01", "none"], "no snapshot \"none\""),
        (&["vm", "template", "web01", "maybe"], "possible values: on, off"),
        (&["vdisk", "delete", "web01-root"], "belongs to VM \"web01\""),
    ] {
        server.refused(line, part);
    }
}

#[test]
fn what_each_vdisk_has_for_itself() {
    let server = Server::start();
    server.run(&WEB01).expect("created");
    assert!(server.run(&["vm", "history", "web01"]).expect("listed").contains("drystone vm set web01 --rewind 24h"));
    server.client().write("web01-root", 0, &[1; 4096]).expect("written");
    server.run(&["vm", "snapshot", "web01", "one"]).expect("taken");
    server.client().write("web01-data", 8192, &[2; 4096]).expect("written");
    let line = |label: &str, offset: u64| {
        format!("{{\"label\":\"{label}\",\"offset\":{offset},\"length\":4096,\"data\":true}}\n")
    };
    assert_eq!(server.run(&["vm", "diff", "web01", "one"]).expect("printed"), line("data", 8192));
    assert_eq!(server.run(&["vm", "diff", "web01", "", "one"]).expect("printed"), line("root", 0));
    server.refused(&["vm", "diff", "web01", "none"], "no snapshot \"none\"");
    let space = server.run(&["vm", "space", "web01"]).expect("shown");
    for part in [
        "LABEL  CONTENT  ALONE",
        "root   one      0 B    4 KiB\n",
        "data   (now)    4 KiB  0 B\n",
        "deleting web01-root with",
    ] {
        assert!(space.contains(part), "{part:?}: {space}");
    }
    let space = server.json(&["vm", "space", "web01"]);
    assert_eq!((&space[1]["label"], &space[1]["alone_bytes"]), (&"data".into(), &4096.into()));
    let set = server.run(&["vm", "set", "web01", "--rewind", "24h"]).expect("set");
    assert!(set.contains("rewind of web01-root: ") && set.contains("rewind of web01-data: "), "{set}");
    let now = "2023-11-14T22:13:20Z";
    assert_eq!(server.run(&["vm", "snapshot", "web01", "then", "--at", now]).expect("taken"), "took web01@then\n");
    server.refused(&["vm", "snapshot", "web01", "never", "--at", "2020-01-01T00:00:00Z"], "outside the window");
    let history = server.json(&["vm", "history", "web01"]);
    let labels: Vec<_> = history.as_array().expect("a list").iter().map(|point| point["label"].clone()).collect();
    assert_eq!(labels, ["root", "data"]);
    server.refused(&["vm", "set", "web01", "--rewind", "1s"], "60 s");
    server.run(&["vm", "create", "kept", "--vdisk", "root=1MiB", "--rewind", "2h"]).expect("created");
    assert_eq!(server.json(&["vdisk", "show", "kept-root"])["rewind"]["window_seconds"], 7200);
    server.refused(&["vm", "create", "bad", "--vdisk", "root=1MiB", "--rewind", "1s"], "60 s");
    server.refused(&["vm", "show", "bad"], "no VM");
}
