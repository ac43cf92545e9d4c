//! Backups: what was backed up is restored, and files that are not what was written restore nothing.

use super::server::Server;
use control::Error;
use control::model::Verb;
use std::path::{Path, PathBuf};

const M: u64 = 1 << 20;
const SIZE: u64 = 16 * M;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A full backup and two incremental ones, and what the vDisk held at the last.
struct Chain {
    server: Server,
    folder: tempfile::TempDir,
    content: Vec<u8>,
}

impl Chain {
    fn make() -> Chain {
        let (server, folder) = (Server::start(), tempfile::tempdir().expect("a folder"));
        server.run(&["vdisk", "create", "web", "--size", &SIZE.to_string()]).expect("created");
        let mut content = vec![0; SIZE as usize];
        let mut put = |offset: u64, bytes: &[u8]| {
            content[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
            server.client().write("web", offset, bytes).expect("written");
        };
        put(0, &[1; 4096]);
        put(5 * M - 8192, &[2; 3 * M as usize]);
        server.run(&["vdisk", "snapshot", "web", "a"]).expect("taken");
        put(4096, &[3; 8192]);
        put(6 * M, &[0; 4096]);
        server.run(&["vdisk", "snapshot", "web", "b"]).expect("taken");
        put(15 * M, &[4; M as usize]);
        server.run(&["vdisk", "snapshot", "web", "c"]).expect("taken");
        let chain = Chain { server, folder, content };
        for (source, since, file) in [("web@a", None, "a"), ("web@b", Some("a"), "b"), ("web@c", Some("b"), "c")] {
            let file = chain.file(file);
            let mut line = vec!["vdisk", "backup", source, text(&file)];
            line.extend(since.iter().flat_map(|since| ["--since", *since]));
            chain.server.run(&line).expect("backed up");
        }
        chain
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name).with_extension("dbk")
    }

    /// What a restore of these files says.
    fn restore(&self, files: &[&str]) -> Result<String, String> {
        let files: Vec<PathBuf> = files.iter().map(|file| self.file(file)).collect();
        let files = files.iter().map(|file| text(file));
        let line: Vec<&str> = ["vdisk", "restore"].into_iter().chain(files).chain(["back"]).collect();
        self.server.run(&line).map_err(|error| format!("{error:#}"))
    }

    fn names(&self) -> Vec<String> {
        let list = self.server.json(&["vdisk", "list"]);
        let names =
            list.as_array().expect("a list").iter().map(|info| info["name"].as_str().expect("text").to_string());
        names.collect()
    }
}

#[test]
fn a_chain_is_restored() {
    let chain = Chain::make();
    let said = chain.restore(&["a", "b", "c"]).expect("restored");
    assert!(said.starts_with("restored web@c as back: 16 MiB"), "{said}");
    assert_eq!(chain.names(), ["back", "web"]);
    let mut content = vec![0xff; SIZE as usize];
    chain.server.client().read("back", 0, &mut content).expect("read");
    assert!(content == chain.content, "the copy differs");
    assert_eq!(chain.server.model.flushes(), 1);
    let again = chain.restore(&["a"]).expect_err("it is there");
    assert!(again.contains("exists already"), "{again}");
}

#[test]
fn a_restore_makes_its_vdisk_in_a_container() {
    let chain = Chain::make();
    chain.server.run(&["container", "create", "gold"]).expect("created");
    let file = chain.file("a");
    chain.server.refused(&["vdisk", "restore", text(&file), "b", "--container", "none"], "no container \"none\"");
    chain.server.run(&["vdisk", "restore", text(&file), "b", "--container", "gold"]).expect("restored");
    assert_eq!(chain.server.json(&["vdisk", "show", "b"])["container"], "gold");
    chain.server.run(&["vm", "create", "m", "--vdisk", "root=1MiB"]).expect("created");
    chain.server.run(&["vm", "snapshot", "m", "s"]).expect("taken");
    let folder = chain.folder.path().join("vm");
    chain.server.run(&["vm", "backup", "m@s", text(&folder)]).expect("backed up");
    chain.server.run(&["vm", "restore", text(&folder), "n", "--container", "gold"]).expect("restored");
    assert_eq!(chain.server.json(&["vdisk", "show", "n-root"])["container"], "gold");
}

#[test]
fn incremental_files_hold_what_changed() {
    let chain = Chain::make();
    let file = chain.file("again");
    let made = chain.server.json(&["vdisk", "backup", "web@b", "--since", "a", text(&file)]);
    assert_eq!((&made["data_bytes"], &made["zero_bytes"], &made["since"]), (&8192.into(), &4096.into(), &"a".into()));
    let files = [text(&chain.file("a")).to_string(), text(&file).to_string()];
    let proven = chain.server.json(&["vdisk", "verify-backup", &files[0], &files[1]]);
    assert_eq!((&proven[0]["since"], &proven[1]["since"]), (&serde_json::Value::Null, &"a".into()));
}

#[test]
fn what_cannot_be_backed_up_is_said() {
    let chain = Chain::make();
    let file = chain.file("new");
    for (line, word) in [
        (&["web"][..], "drystone vdisk snapshot web"),
        (&["web@none"], "no snapshot \"none\""),
        (&["none@a"], "no vDisk"),
        (&["web@b", "--since", "none"], "no snapshot \"none\""),
        (&["web@b", "--since", "b"], "not older than"),
        (&["web@b", "--since", "c"], "not older than"),
    ] {
        let line: Vec<&str> = ["vdisk", "backup"].iter().chain(line).copied().chain([text(&file)]).collect();
        let error = format!("{:#}", chain.server.run(&line).expect_err("refused"));
        assert!(error.contains(word), "{line:?}: {error}");
    }
    chain.server.model.fail_next(Verb::Read, Error::internal("rot"));
    chain.server.run(&["vdisk", "backup", "web@a", text(&file)]).expect_err("it cannot be read");
    let left: Vec<_> = std::fs::read_dir(chain.folder.path()).expect("a folder").flatten().collect();
    assert!(!left.iter().any(|entry| entry.file_name().to_string_lossy().starts_with("new")), "{left:?}");
}

#[test]
fn files_in_another_order_or_damaged_restore_nothing() {
    let chain = Chain::make();
    for (files, word) in [
        (&["b", "c"][..], "holds only what changed since snapshot \"a\""),
        (&["a", "c"], "a file is missing"),
        (&["a", "c", "b"], "a file is missing"),
        (&["a", "b", "a"], "full backup"),
        (&["a", "none"], "cannot open"),
    ] {
        let error = chain.restore(files).expect_err("refused");
        assert!(error.contains(word), "{files:?}: {error}");
    }
    let sound = std::fs::read(chain.file("b")).expect("a file");
    for at in [0, 9, 20, 60, 300, sound.len() - 1] {
        let mut damaged = sound.clone();
        damaged[at] ^= 4;
        std::fs::write(chain.file("b"), &damaged).expect("written");
        let error = chain.restore(&["a", "b", "c"]).expect_err("damaged");
        assert!(error.contains("b.dbk is refused"), "byte {at}: {error}");
    }
    std::fs::write(chain.file("b"), &sound[..sound.len() - 40]).expect("written");
    let error = chain.restore(&["a", "b", "c"]).expect_err("cut");
    assert!(error.contains("ends too early"), "{error}");
    assert_eq!(chain.names(), ["web"]);
}

#[test]
fn a_restore_that_fails_leaves_nothing() {
    let chain = Chain::make();
    chain.server.model.fail_next(Verb::Write, Error::internal("the disk is on fire"));
    let error = chain.restore(&["a", "b"]).expect_err("it cannot be written");
    assert!(error.contains("no vDisk \"back\" is there") && error.contains("on fire"), "{error}");
    assert_eq!(chain.names(), ["web"]);
}

#[test]
fn a_vm_is_restored_from_its_folders() {
    let (server, folder) = (Server::start(), tempfile::tempdir().expect("a folder"));
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    server.run(&["vm", "create", "m", "--vdisk", "root=4MiB", "--vdisk", "data=4MiB"]).expect("created");
    server.client().write("m-root", 0, &[1; 4096]).expect("written");
    server.run(&["vm", "snapshot", "m", "a"]).expect("taken");
    server.run(&["vm", "backup", "m@a", text(&one)]).expect("backed up");
    server.client().write("m-root", 4096, &[2; 4096]).expect("written");
    server.client().write("m-data", 0, &[3; 4096]).expect("written");
    server.run(&["vm", "snapshot", "m", "b"]).expect("taken");
    let made = server.json(&["vm", "backup", "m@b", "--since", "a", text(&two)]);
    assert_eq!((&made[0]["since"], made.as_array().map(Vec::len)), (&"a".into(), Some(2)));
    server.refused(&["vm", "backup", "m@b", text(&two)], "is there already");
    server.refused(&["vm", "restore", text(&two), "n"], "holds only what changed since");
    let sound = server.json(&["vm", "verify-backup", text(&one), text(&two)]);
    assert_eq!((sound.as_array().map(Vec::len), &sound[0]["vdisk"]), (Some(4), &"m-data".into()));
    assert_eq!(server.json(&["vm", "verify-backup", text(&two)])[1]["since"], "a");
    server.refused(&["vm", "verify-backup", text(&two), text(&two)], "holds only what changed since");
    server.refused(&["vm", "restore", text(&two), text(&one), "m"], "exists already");
    let manifest = one.join("manifest.json");
    let sound = std::fs::read_to_string(&manifest).expect("a manifest");
    std::fs::write(&manifest, sound.replace("\"root\"", "\"rooT\"")).expect("written");
    server.refused(&["vm", "restore", text(&one), text(&two), "n"], "fails its checksum");
    server.refused(&["vm", "verify-backup", text(&one)], "fails its checksum");
    std::fs::write(&manifest, &sound).expect("written");
    std::fs::copy(one.join("root.dbk"), one.join("data.dbk")).expect("copied");
    server.refused(&["vm", "restore", text(&one), "n"], "another file than the one");
    server.refused(&["vm", "verify-backup", text(&one)], "another file than the one");
    let before = server.json(&["vdisk", "list"]).as_array().map(Vec::len);
    assert_eq!(before, Some(2), "what was refused made nothing");
    std::fs::remove_dir_all(&one).expect("removed");
    server.run(&["vm", "backup", "m@a", text(&one)]).expect("backed up");
    server.run(&["vm", "restore", text(&one), text(&two), "n"]).expect("restored");
    for (vdisk, expect) in [("n-root", [1, 2]), ("n-data", [3, 0])] {
        let mut bytes = [9; 8192];
        server.client().read(vdisk, 0, &mut bytes).expect("read");
        assert_eq!([bytes[0], bytes[4096]], expect, "{vdisk}");
    }
    let vm = server.json(&["vm", "show", "n"]);
    assert_eq!(vm["vdisks"].as_array().map(Vec::len), Some(2), "{vm}");
}
