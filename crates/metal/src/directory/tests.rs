//! Names: created, found again, removed, refused.

use super::*;
use crate::worker::tests::{on_worker, test_directory};
use bytes::Bytes;
use world::Kind;

#[test]
fn files_are_created_listed_opened_and_removed() {
    let directory = test_directory();
    let path = directory.path().to_owned();
    std::fs::create_dir(path.join("folder")).expect("created");
    std::os::unix::fs::symlink("/etc/passwd", path.join("link")).expect("linked");
    on_worker(move |context| async move {
        let disk = Directory::open(&context, &path).expect("it exists");
        for name in ["b", "a", "c"] {
            let file = disk.create(name).await.expect("created");
            file.write(0, &[Bytes::from(vec![1; 100 * name.len()])]).await.expect("written");
        }
        assert_eq!(disk.create("a").await.err().map(|error| error.kind), Some(Kind::Exists));
        let kept = disk.open("c").await.expect("opened");
        disk.remove("c").await.expect("removed");
        assert_eq!(disk.remove("c").await.map_err(|error| error.kind), Err(Kind::NotFound));
        assert_eq!(disk.open("c").await.err().map(|error| error.kind), Some(Kind::NotFound));
        assert_eq!(kept.read(99, 2).await.expect("open handles stay usable")[..], [1, 0]);
        assert_eq!(disk.open("link").await.err().map(|error| error.kind), Some(Kind::Io), "no way out by a link");
        let names = disk.list().await.expect("listed");
        let expect = ["a", "b"].map(|name| FileEntry { name: name.to_owned(), size_bytes: 100 });
        assert_eq!(names, expect);
    });
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let directory = test_directory();
    let path = directory.path().join("inner");
    std::fs::create_dir(&path).expect("created");
    std::fs::write(directory.path().join("outer"), "x").expect("written");
    on_worker(move |context| async move {
        let disk = Directory::open(&context, &path).expect("it exists");
        for name in ["", ".", "..", "../outer", "a/b", "a b", "a\0b", "ä"] {
            assert_eq!(disk.create(name).await.err().map(|error| error.kind), Some(Kind::Io), "{name:?}");
            assert_eq!(disk.open(name).await.err().map(|error| error.kind), Some(Kind::Io), "{name:?}");
            assert_eq!(disk.remove(name).await.err().map(|error| error.kind), Some(Kind::Io), "{name:?}");
        }
    });
}

#[test]
fn an_error_names_the_operation_and_the_file() {
    let directory = test_directory();
    let path = directory.path().to_owned();
    on_worker(move |context| async move {
        let disk = Directory::open(&context, &path).expect("it exists");
        let error = disk.open("slab-7").await.err().expect("it does not exist");
        assert_eq!(error.to_string(), "open slab-7: No such file or directory (os error 2)");
        let missing = Directory::open(&context, &path.join("none")).err().expect("it does not exist");
        assert_eq!(missing.kind, Kind::NotFound);
    });
}

#[test]
fn usage_is_that_of_the_file_system() {
    let directory = test_directory();
    let path = directory.path().to_owned();
    let usage = on_worker(move |context| async move {
        Directory::open(&context, &path).expect("it exists").usage().await.expect("asked")
    });
    assert!(usage.free_bytes > 0 && usage.free_bytes <= usage.capacity_bytes, "{usage:?}");
}
