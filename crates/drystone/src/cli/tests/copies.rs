//! Import and export: what goes in comes out, holes stay holes, failures leave no half file.

use super::server::Server;
use control::Error;
use control::model::Verb;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

const M: u64 = 1 << 20;

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Scratch {
        Scratch(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `len` bytes, a hole but for what `data` says: offset, length; every byte depends on its place.
    fn image(&self, name: &str, len: u64, data: &[(u64, usize)]) -> PathBuf {
        let path = self.path(name);
        let file = File::create(&path).expect("created");
        file.set_len(len).expect("sized");
        for (offset, len) in data {
            let bytes: Vec<u8> = (*offset..offset + *len as u64).map(|at| (at % 251 + 1) as u8).collect();
            file.write_all_at(&bytes, *offset).expect("written");
        }
        path
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("read");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).expect("it exists").blocks() * 512
}

#[test]
fn a_sparse_image_goes_in_and_comes_out() {
    let (server, scratch) = (Server::start(), Scratch::new());
    let data = [(0, 100), (5 * M - 10, 20), (9 * M, 3 * M as usize), (30 * M + 7, 1)];
    let image = scratch.image("in.raw", 32 * M, &data);
    // Explicit zeros are left out like holes.
    File::options().write(true).open(&image).expect("open").write_all_at(&vec![0; M as usize], 20 * M).expect("zeros");
    let said = server.run(&["vdisk", "import", "web", text(&image)]).expect("imported");
    assert!(said.starts_with("imported ") && said.contains("32 MiB"), "{said}");
    let info = server.json(&["vdisk", "show", "web"]);
    assert_eq!(info["size_bytes"], 32 * M);
    let mapped = info["mapped_bytes"].as_u64().expect("a number");
    assert!((3 * M..3 * M + 64 * 1024).contains(&mapped), "{mapped} bytes are mapped");
    assert_eq!(server.model.flushes(), 1);
    let out = scratch.path("out.raw");
    let done = server.json(&["vdisk", "export", "web", text(&out)]);
    assert_eq!((&done["file_bytes"], &done["data_bytes"]), (&(32 * M).into(), &mapped.into()));
    assert!(std::fs::read(&image).expect("read") == std::fs::read(&out).expect("read"), "the copy differs");
    assert!(allocated(&out) < 4 * M, "{} bytes are allocated", allocated(&out));
    assert_eq!(scratch.names(), ["in.raw", "out.raw"]);
}

#[test]
fn odd_sizes_are_rounded_up() {
    let (server, scratch) = (Server::start(), Scratch::new());
    for (name, len) in [("one", 1), ("sector", 512), ("block", 4097), ("chunk", 4 * M + 513)] {
        let image = scratch.image(name, len, &[(0, len as usize)]);
        server.run(&["vdisk", "import", name, text(&image)]).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let info = server.json(&["vdisk", "show", name]);
        assert_eq!(info["size_bytes"], len.div_ceil(4096) * 4096, "{name}");
        let out = scratch.path("out.raw");
        server.run(&["vdisk", "export", name, text(&out)]).expect("exported");
        let mut expect = std::fs::read(&image).expect("read");
        expect.resize(expect.len().next_multiple_of(4096), 0);
        assert!(std::fs::read(&out).expect("read") == expect, "{name} differs");
    }
}

#[test]
fn an_import_replaces_what_was_there() {
    let (server, scratch) = (Server::start(), Scratch::new());
    let first = scratch.image("first", 8 * M, &[(0, 8 * M as usize)]);
    let second = scratch.image("second", 6 * M, &[(3 * M, 512)]);
    server.run(&["vdisk", "import", "web", text(&first)]).expect("imported");
    server.run(&["vdisk", "import", "web", text(&second)]).expect("imported again");
    let out = scratch.path("out");
    server.run(&["vdisk", "export", "web", text(&out)]).expect("exported");
    let mut expect = std::fs::read(&second).expect("read");
    expect.resize(8 * M as usize, 0);
    assert!(std::fs::read(&out).expect("read") == expect, "old bytes show");
}

#[test]
fn an_import_makes_its_vdisk_in_a_container() {
    let (server, scratch) = (Server::start(), Scratch::new());
    let image = scratch.image("image", 2 * M, &[(0, 1)]);
    server.refused(&["vdisk", "import", "web", text(&image), "--container", "gold"], "no container \"gold\"");
    server.run(&["container", "create", "gold"]).expect("created");
    server.run(&["vdisk", "import", "web", text(&image), "--container", "gold"]).expect("imported");
    let disk = format!("root={}", text(&image));
    server.run(&["vm", "import", "vm", "--disk", &disk, "--container", "gold"]).expect("imported");
    for vdisk in ["web", "vm-root"] {
        assert_eq!(server.json(&["vdisk", "show", vdisk])["container"], "gold", "{vdisk}");
    }
    // What is there stays where it is.
    server.run(&["vdisk", "import", "web", text(&image)]).expect("imported again");
    assert_eq!(server.json(&["vdisk", "show", "web"])["container"], "gold");
    let other = ["vdisk", "import", "web", text(&image), "--container", "default"];
    server.refused(&other, "drystone vdisk move web --container default");
}

#[test]
fn imports_that_cannot_be_are_refused() {
    let (server, scratch) = (Server::start(), Scratch::new());
    let image = scratch.image("image", 2 * M, &[(0, 1)]);
    let empty = scratch.image("empty", 0, &[]);
    server.run(&["vdisk", "create", "small", "--size", "1MiB"]).expect("created");
    server.run(&["vdisk", "create", "busy", "--size", "2MiB"]).expect("created");
    server.model.set_connections("busy", 3);
    for (name, file, part) in [
        ("small", text(&image), "resize small --size 2097152"),
        ("busy", text(&image), "3 clients are connected"),
        ("web", text(&empty), "nothing to import"),
        ("web", text(&scratch.path("missing")), "cannot open"),
        ("web", text(scratch.0.path()), "is a directory"),
        ("a b", text(&image), "contains ' '"),
    ] {
        server.refused(&["vdisk", "import", name, file], part);
    }
    assert_eq!(server.json(&["vdisk", "list"]).as_array().map(Vec::len), Some(2), "nothing was created");
}

#[test]
fn failing_imports_say_so() {
    let (server, scratch) = (Server::start(), Scratch::new());
    let image = scratch.image("image", 64 * M, &[(0, M as usize), (40 * M, M as usize)]);
    server.model.fail_next(Verb::Write, Error::full("web"));
    server.refused(&["vdisk", "import", "web", text(&image)], "no space left");
    server.model.fail_next(Verb::Flush, Error::internal("the sync failed"));
    server.refused(&["vdisk", "import", "web", text(&image)], "the same command goes on where this one stopped");
    assert!(server.run(&["vdisk", "show", "web"]).is_err(), "a part of an image has the name");
    server.run(&["vdisk", "import", "web", text(&image)]).expect("the second time it works");
}

/// 4 KiB in each of 40 chunks, which are three segments.
fn long_image(scratch: &Scratch) -> PathBuf {
    let data: Vec<(u64, usize)> = (0..40).map(|chunk| (chunk * 4 * M, 4096)).collect();
    scratch.image("image", 160 * M, &data)
}

fn vdisks(server: &Server) -> usize {
    server.json(&["vdisk", "list"]).as_array().map_or(0, Vec::len)
}

#[test]
fn an_import_that_was_cut_short_goes_on() {
    let (server, scratch) = (Server::start(), Scratch::new());
    let image = long_image(&scratch);
    server.model.fail_next(Verb::Flush, Error::internal("the sync failed"));
    server.refused(&["vdisk", "import", "web", text(&image)], "drystone vdisk delete web.importing-");
    let done = server.json(&["vdisk", "import", "web", text(&image)]);
    assert_eq!((&done["resumed_at"], &done["data_bytes"]), (&(128 * M).into(), &(8 * 4096).into()));
    assert_eq!(vdisks(&server), 1);
    let out = scratch.path("out");
    server.run(&["vdisk", "export", "web", text(&out)]).expect("exported");
    assert!(std::fs::read(&out).expect("read") == std::fs::read(&image).expect("read"), "the copy differs");
}

#[test]
fn an_import_of_an_image_that_changed_begins_anew() {
    let (server, scratch) = (Server::start(), Scratch::new());
    let image = long_image(&scratch);
    server.model.fail_next(Verb::Flush, Error::internal("the sync failed"));
    server.refused(&["vdisk", "import", "web", text(&image)], "the sync failed");
    File::options().write(true).open(&image).expect("open").write_all_at(&[9; 512], 0).expect("written");
    let done = server.json(&["vdisk", "import", "web", text(&image)]);
    assert_eq!((&done["resumed_at"], &done["data_bytes"]), (&serde_json::Value::Null, &(40 * 4096).into()));
    assert_eq!(vdisks(&server), 2, "what the first one left stays until it is deleted");
    let out = scratch.path("out");
    server.run(&["vdisk", "export", "web", text(&out)]).expect("exported");
    assert!(std::fs::read(&out).expect("read") == std::fs::read(&image).expect("read"), "the copy differs");
}

#[test]
fn snapshots_are_exported() {
    let (server, scratch) = (Server::start(), Scratch::new());
    let image = scratch.image("image", 8 * M, &[(0, 4096), (5 * M, 4096)]);
    server.run(&["vdisk", "import", "web", text(&image)]).expect("imported");
    server.run(&["vdisk", "snapshot", "web", "monday"]).expect("taken");
    server.client().write("web", 0, &[9; 4096]).expect("written");
    let out = scratch.path("out");
    server.run(&["vdisk", "export", "web@monday", text(&out)]).expect("exported");
    assert!(std::fs::read(&out).expect("read") == std::fs::read(&image).expect("read"), "the copy differs");
    server.refused(&["vdisk", "export", "web@friday", text(&out)], "no snapshot \"friday\"");
}

#[test]
fn failing_exports_leave_nothing() {
    let (server, scratch) = (Server::start(), Scratch::new());
    let image = scratch.image("image", 16 * M, &[(0, 16 * M as usize)]);
    server.run(&["vdisk", "import", "web", text(&image)]).expect("imported");
    let out = scratch.path("out");
    std::fs::write(&out, "precious").expect("written");
    server.model.fail_next(Verb::Read, Error::new(control::Kind::Damaged, "extent g1.2+4096 is damaged"));
    server.refused(&["vdisk", "export", "web", text(&out)], "extent g1.2+4096 is damaged");
    assert_eq!(std::fs::read_to_string(&out).expect("still there"), "precious");
    assert_eq!(scratch.names(), ["image", "out"]);
    server.refused(&["vdisk", "export", "web", "/dev/null"], "not a regular file");
    server.refused(&["vdisk", "export", "web", "/nowhere/x"], "cannot create");
    server.refused(&["vdisk", "export", "nope", text(&out)], "there is no vDisk");
    server.run(&["vdisk", "export", "web", text(&out)]).expect("exported");
    assert!(std::fs::read(&out).expect("read") == std::fs::read(&image).expect("read"), "the copy differs");
}
