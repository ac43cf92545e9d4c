//! `drystone vdisk` on snapshots, against a controller in memory.

use super::server::Server;
use control::Control;

const BLOCK: u64 = 4096;

fn server() -> Server {
    let server = Server::start();
    server.run(&["vdisk", "create", "web", "--size", "1MiB"]).expect("created");
    server
}

impl Server {
    fn write_block(&self, vdisk: &str, block: u64, byte: u8) {
        self.client().write(vdisk, block * BLOCK, &[byte; BLOCK as usize]).expect("written");
    }

    fn first_byte(&self, vdisk: &str) -> u8 {
        let mut buffer = [0; 512];
        self.client().read(vdisk, 0, &mut buffer).expect("read");
        buffer[0]
    }
}

#[test]
fn a_snapshot_lives_its_life() {
    let server = server();
    assert!(server.run(&["vdisk", "snapshots", "web"]).expect("listed").contains("no snapshots of web yet"));
    server.write_block("web", 0, 1);
    assert_eq!(server.run(&["vdisk", "snapshot", "web", "one"]).expect("taken"), "took web@one\n");
    let list = server.run(&["vdisk", "snapshots", "web"]).expect("listed");
    assert!(list.contains("one       2023-11-14 22:13:20 UTC  1 MiB  4 KiB  0"), "{list}");
    assert_eq!(server.json(&["vdisk", "snapshots", "web"])[0]["vdisk"], "web");
    server.write_block("web", 0, 2);
    let made = server.run(&["vdisk", "clone", "web@one", "desk-{1..3}"]).expect("made");
    assert_eq!(made, "made 3 clones, desk-1 to desk-3\n");
    assert_eq!(server.run(&["vdisk", "clone", "web", "now"]).expect("made"), "made now\n");
    assert_eq!((server.first_byte("desk-2"), server.first_byte("now")), (1, 2));
    let done = server.run(&["vdisk", "rollback", "web", "one"]).expect("done");
    assert!(done.starts_with("web is as it was at one; what was there before is web@before-rollback-"), "{done}");
    assert_eq!(server.first_byte("web"), 1);
    server.refused(&["vdisk", "delete", "web"], "has 2 snapshots");
    assert_eq!(server.run(&["vdisk", "snapshot-delete", "web", "one"]).expect("done"), "deleted web@one\n");
    assert_eq!(server.run(&["vdisk", "delete", "web", "--snapshots"]).expect("done"), "deleted web\n");
}

#[test]
fn space_is_counted() {
    let server = server();
    server.write_block("web", 0, 1);
    server.write_block("web", 1, 1);
    server.run(&["vdisk", "snapshot", "web", "one"]).expect("taken");
    server.write_block("web", 0, 2);
    let table = server.run(&["vdisk", "space", "web"]).expect("counted");
    assert!(table.contains("(now)    4 KiB  4 KiB\none      4 KiB  4 KiB\n"), "{table}");
    assert!(table.ends_with("deleting web with its snapshots would free 12 KiB\n"), "{table}");
    assert_eq!(server.json(&["vdisk", "space", "web"])["snapshots"][0]["unique_bytes"], BLOCK);
    server.refused(&["vdisk", "space", "none"], "no vDisk");
}

#[test]
fn differences_are_lines_of_json() {
    let server = server();
    server.write_block("web", 0, 1);
    server.run(&["vdisk", "snapshot", "web", "one"]).expect("taken");
    // More than a page of the API.
    server.run(&["vdisk", "resize", "web", "--size", "64MiB"]).expect("resized");
    for block in 0..1_100 {
        server.write_block("web", 2 * block + 2, 2);
    }
    let lines = |line: &[&str]| server.run(line).expect("compared").lines().map(str::to_string).collect::<Vec<_>>();
    assert_eq!(lines(&["vdisk", "diff", "web", "", "one"]), [r#"{"offset":0,"length":4096,"data":true}"#]);
    let since = lines(&["vdisk", "diff", "web", "one"]);
    assert_eq!((since.len(), since[1_099].as_str()), (1_100, r#"{"offset":9011200,"length":4096,"data":true}"#));
    assert_eq!(lines(&["vdisk", "diff", "web", "one", "one"]), [""; 0]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let server = server();
    server.run(&["vdisk", "snapshot", "web", "one"]).expect("taken");
    server.model.set_readers("web", "one", 2);
    for (line, part) in [
        (&["vdisk", "snapshot", "web", "one"][..], "has a snapshot \"one\" already"),
        (&["vdisk", "snapshot", "web", "a@b"], "contains '@'"),
        (&["vdisk", "snapshot", "none", "one"], "no vDisk \"none\""),
        (&["vdisk", "snapshot-delete", "web", "none"], "no snapshot \"none\""),
        (&["vdisk", "snapshot-delete", "web", "one"], "2 clients read"),
        (&["vdisk", "clone", "web@none", "x"], "no snapshot \"none\""),
        (&["vdisk", "clone", "web", "web"], "\"web\" exists already"),
        (&["vdisk", "clone", "web", "x{1..1001}"], "1001 clones are more"),
        (&["vdisk", "clone", "web", "x", "x"], "named twice"),
        (&["vdisk", "clone", "web"], "required"),
        (&["vdisk", "rollback", "web", "none"], "no snapshot \"none\""),
        (&["vdisk", "diff", "web", "none"], "no snapshot \"none\""),
        (&["vdisk", "diff", "web"], "required"),
    ] {
        server.refused(line, part);
    }
    server.model.set_connections("web", 1);
    server.refused(&["vdisk", "rollback", "web", "one"], "stop the VM first");
    server.run(&["vdisk", "snapshot-delete", "web", "one", "--force"]).expect("forced");
    let left = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let left = left.block_on(server.model.snapshots().list_snapshots("web")).expect("listed");
    assert!(left.is_empty(), "{left:?}");
}
