//! Commands, their output, and what they refuse.

use super::server::Server;
use crate::cli::args::{Cli, Connection};
use crate::cli::client::Client;
use crate::cli::output::{columns, duration, time};
use clap::{CommandFactory, Parser};

#[test]
fn the_parser_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_vdisk_lives_its_life() {
    let server = Server::start();
    assert!(server.run(&["vdisk", "list"]).expect("listed").contains("no vDisks yet"));
    let made = server.run(&["vdisk", "create", "web", "--size", "20GiB"]).expect("created");
    assert_eq!(made, "created web (20 GiB)\n");
    server.run(&["vdisk", "create", "db", "--size", "1TiB", "--sector", "4096"]).expect("created");
    let list = server.run(&["vdisk", "ls"]).expect("listed");
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines[0], "NAME  SIZE    DATA  ON DISK  STATE   CONNECTIONS  CONTAINER");
    assert_eq!(lines[1], "db    1 TiB   0 B   0 B      online  0            default");
    assert_eq!(lines.len(), 3, "{list}");
    assert_eq!(server.run(&["vdisk", "resize", "web", "--size", "30GiB"]).expect("done"), "web has 30 GiB now\n");
    assert_eq!(server.run(&["vdisk", "rename", "web", "www"]).expect("done"), "web is www now\n");
    assert_eq!(server.run(&["vdisk", "set", "www", "--read-only", "on"]).expect("done"), "www is read-only now\n");
    let shown = server.run(&["vdisk", "show", "www"]).expect("shown");
    for part in ["name:         www\n", "(32212254720 bytes)", "state:        read-only\n", "2023-11-14 22:13:20 UTC"] {
        assert!(shown.contains(part), "{shown} does not contain {part:?}");
    }
    assert_eq!(server.run(&["vdisk", "set", "www", "--read-only", "off"]).expect("done"), "www is writable now\n");
    assert_eq!(server.run(&["vdisk", "delete", "www"]).expect("done"), "deleted www\n");
    assert_eq!(server.json(&["vdisk", "list"])[0]["name"], "db");
}

#[test]
fn json_is_what_the_api_says() {
    let server = Server::start();
    let made = server.json(&["vdisk", "create", "a", "--size", "4096"]);
    assert_eq!((&made["name"], &made["size_bytes"]), (&"a".into(), &4096.into()));
    assert_eq!(server.json(&["vdisk", "show", "a"]), made);
    assert_eq!(server.json(&["vdisk", "resize", "a", "--size", "8192"])["size_bytes"], 8192);
    assert_eq!(server.json(&["vdisk", "rename", "a", "b"])["name"], "b");
    assert_eq!(server.json(&["vdisk", "delete", "b"])["deleted"], "b");
    assert_eq!(server.json(&["status"])["health"]["kind"], "healthy");
    assert!(server.json(&["vdisk", "list"]).as_array().expect("a list").is_empty());
}

#[test]
fn more_vdisks_than_a_page_are_listed() {
    let server = Server::start();
    let client = server.client();
    for index in 0..205 {
        let name = format!("v{index:03}");
        client
            .create(&control::CreateVdisk {
                name,
                size_bytes: 4096,
                sector_bytes: 512,
                container: None,
                near: None,
                rewind: None,
            })
            .expect("created");
    }
    let names: Vec<String> = client.list(None).expect("listed").into_iter().map(|info| info.name).collect();
    assert_eq!(names, (0..205).map(|index| format!("v{index:03}")).collect::<Vec<_>>());
}

#[test]
fn status_is_told() {
    let server = Server::start();
    server.run(&["vdisk", "create", "a", "--size", "1GiB"]).expect("created");
    let text = server.run(&["status"]).expect("told");
    for part in ["health:       healthy\n", "vDisks:       1 (1 online)\n", "up for:       1s\n"] {
        assert!(text.contains(part), "{text} does not contain {part:?}");
    }
    server.model.set_health(control::Health::Degraded { reasons: vec!["one".into(), "two".into()] });
    assert!(server.run(&["status"]).expect("told").contains("degraded: one; two"));
}

#[test]
fn refusals_say_why() {
    let server = Server::start();
    server.run(&["vdisk", "create", "a", "--size", "1GiB"]).expect("created");
    server.model.set_connections("a", 1);
    for (line, part) in [
        (&["vdisk", "show", "nope"][..], "there is no vDisk \"nope\""),
        (&["vdisk", "show", ".."], "there is no vDisk \"..\""),
        (&["vdisk", "show", "a/b?c#d"], "there is no vDisk \"a/b?c#d\""),
        (&["vdisk", "show", "%2e"], "there is no vDisk \"%2e\""),
        (&["vdisk", "create", "a", "--size", "1GiB"], "exists already"),
        (&["vdisk", "create", "a b", "--size", "1GiB"], "contains ' '"),
        (&["vdisk", "create", "b", "--size", "1000"], "use 4096"),
        (&["vdisk", "create", "b", "--size", "65TiB"], "64 TiB"),
        (&["vdisk", "resize", "a", "--size", "512MiB"], "cannot shrink"),
        (&["vdisk", "delete", "a"], "1 client is connected"),
        (&["vdisk", "create", "b", "--size", "huge"], "is not a size"),
        (&["vdisk", "create", "b", "--size", "1GiB", "--sector", "520"], "possible values: 512, 4096"),
        (&["vdisk", "create", "b", "--size", "1GiB", "--near", "nobody"], "there is no vDisk \"nobody\""),
        (&["vdisk", "set", "a"], "--read-only"),
        (&["vdisk", "set", "a", "--read-only", "maybe"], "possible values: on, off"),
        (&["frobnicate"], "unrecognized subcommand"),
    ] {
        server.refused(line, part);
    }
    assert_eq!(server.run(&["vdisk", "delete", "a", "--force"]).expect("forced"), "deleted a\n");
}

#[test]
fn the_way_to_the_controller_is_explained() {
    let server = Server::start();
    let connect = |url: &str, token: Option<&str>, data: Option<&str>| {
        let connection =
            Connection { server: Some(url.into()), token: token.map(String::from), data: data.map(Into::into) };
        Client::new(&connection).and_then(|client| client.status())
    };
    let message = |result: anyhow::Result<control::NodeStatus>| format!("{:#}", result.expect_err("refused"));
    let bare = server.url.trim_start_matches("http://").to_string();
    connect(&bare, Some(super::server::TOKEN), None).expect("the scheme may be left out");
    connect(&format!("{}/", server.url), Some(super::server::TOKEN), None).expect("a slash does no harm");
    assert!(message(connect(&server.url, Some("wrong"), None)).contains("wrong token"));
    assert!(message(connect("https://x", Some("t"), None)).contains("ssh -L"));
    assert!(message(connect(&server.url, None, Some("/nowhere"))).contains("/nowhere/token"));
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    assert!(message(connect(&format!("http://{free}"), Some("t"), None)).contains("is it running"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("token"), format!("{}\n", super::server::TOKEN)).expect("written");
    connect(&server.url, None, directory.path().to_str()).expect("the token is found");
}

#[test]
fn flags_go_anywhere_and_mistakes_are_usage() {
    for line in [
        &["drystone", "-o", "json", "vdisk", "list"][..],
        &["drystone", "vdisk", "list", "-o", "json", "--server", "h:1"],
        &["drystone", "up", "--demo", "--data", "/d", "--log", "debug", "--log-format", "json"],
        &["drystone", "recover", "--data", "/d"],
        &["drystone", "completions", "fish"],
    ] {
        Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    }
    for line in [&["drystone"][..], &["drystone", "vdisk"], &["drystone", "vdisk", "create", "a"]] {
        assert_eq!(Cli::try_parse_from(line).expect_err("refused").exit_code(), 2, "{line:?}");
    }
}

#[test]
fn tables_times_and_durations() {
    let rows = [["a".to_string(), "1".to_string()], ["long name".to_string(), String::new()]];
    assert_eq!(columns(["N", "VALUE"], &rows), "N          VALUE\na          1\nlong name\n");
    for (unix_ms, expect) in [
        (0, "1970-01-01 00:00:00 UTC"),
        (951_782_400_000, "2000-02-29 00:00:00 UTC"),
        (1_700_000_000_999, "2023-11-14 22:13:20 UTC"),
        (4_102_444_799_000, "2099-12-31 23:59:59 UTC"),
    ] {
        assert_eq!(time(unix_ms), expect);
    }
    for (seconds, expect) in [(0, "0s"), (61, "1m 1s"), (3_661, "1h 1m"), (90_000, "1d 1h")] {
        assert_eq!(duration(seconds), expect);
    }
}
