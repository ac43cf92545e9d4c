//! Containers on the command line.

use super::server::Server;

#[test]
fn a_container_lives_its_life() {
    let server = Server::start();
    let create = ["container", "create", "gold", "--rewind", "24h", "--capacity", "1TiB", "--comment", "for the shop"];
    assert_eq!(server.run(&create).expect("created"), "created gold\n");
    assert_eq!(server.json(&["container", "show", "gold"])["capacity_bytes"], 1u64 << 40);
    server.run(&["vdisk", "create", "web", "--size", "1GiB", "--container", "gold"]).expect("created");
    server
        .run(&["vdisk", "create", "own", "--size", "1GiB", "--container", "gold", "--rewind", "2h"])
        .expect("created");
    server.run(&["vm", "create", "db", "--vdisk", "root=1GiB", "--container", "gold"]).expect("created");
    let window = |vdisk: &str| {
        let info = server.json(&["vdisk", "show", vdisk]);
        (info["rewind"]["window_seconds"].as_u64(), info["rewind_inherited"] == true)
    };
    assert_eq!(
        (window("web"), window("own"), window("db-root")),
        ((Some(86_400), true), (Some(7200), false), (Some(86_400), true))
    );
    let shown = server.run(&["vdisk", "show", "web"]).expect("shown");
    assert!(shown.contains("container:    gold\n") && shown.contains("1d 0h (of container gold), "), "{shown}");
    let set = server.run(&["container", "set", "gold", "--rewind", "off"]).expect("set");
    for part in ["rewind:       off\n", "comment:      for the shop\n", "carried out:  on all vDisks\n"] {
        assert!(set.contains(part), "{set} does not contain {part:?}");
    }
    assert_eq!((window("web"), window("own")), ((None, true), (Some(7200), false)));
    server.run(&["vdisk", "set", "own", "--rewind", "inherit"]).expect("set");
    assert_eq!(window("own"), (None, true));
    assert_eq!(server.run(&["container", "rename", "gold", "tin"]).expect("done"), "gold is tin now\n");
    let moved = server.run(&["vdisk", "move", "own", "--container", "default"]).expect("moved");
    assert_eq!(moved, "own is in container default now\n");
    let listed = server.json(&["vdisk", "list", "--container", "tin"]);
    let names: Vec<&str> = listed.as_array().expect("a list").iter().filter_map(|info| info["name"].as_str()).collect();
    assert_eq!(names, ["db-root", "web"]);
    let empty = server.run(&["vdisk", "list", "--container", "none"]).expect_err("no such container").to_string();
    assert!(empty.contains("no container \"none\""), "{empty}");
    let table = server.run(&["container", "list"]).expect("listed");
    assert_eq!(table.lines().count(), 3, "{table}");
    let refused = server.run(&["container", "delete", "tin"]).expect_err("in use").to_string();
    assert!(refused.contains("2 vDisks are in container \"tin\""), "{refused}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let server = Server::start();
    for (line, part) in [
        (&["create", "x", "--rewind", "inherit"][..], "in no other one"),
        (&["create", "x", "--rewind", "1s"], "60 s"),
        (&["set", "default", "--rewind", "off", "--rewind-limit", "1GiB"], "not named"),
        (&["set", "default"], "required"),
        (&["delete", "default"], "always there"),
        (&["rename", "default", "other"], "keeps its name"),
        (&["show", "none"], "no container \"none\""),
    ] {
        let refused = server.run(&[&["container"], line].concat()).expect_err(part).to_string();
        assert!(refused.contains(part), "{refused}");
    }
}
