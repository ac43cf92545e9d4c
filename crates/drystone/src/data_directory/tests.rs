//! One process at a time; a token that only its owner reads and that stays.

use super::*;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it exists").permissions().mode() & 0o777
}

#[test]
fn the_token_is_private_and_stays() {
    let scratch = scratch();
    let path = scratch.path().join("a/b");
    let directory = DataDirectory::create_or_open(&path).expect("created");
    std::fs::write(path.join("token.new"), "half").expect("the left-over of an interrupted start");
    let token = directory.token().expect("made");
    assert!(token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{token}");
    assert_eq!((mode(&path), mode(&path.join("token"))), (0o700, 0o600));
    assert!(!path.join("token.new").exists());
    drop(directory);
    let again = DataDirectory::create_or_open(&path).expect("opened");
    assert_eq!(again.token().expect("read"), token);
    let other = DataDirectory::create_or_open(&scratch.path().join("c")).expect("created");
    assert_ne!(other.token().expect("made"), token);
}

#[test]
fn an_empty_token_opens_no_door() {
    let scratch = scratch();
    std::fs::write(scratch.path().join("token"), "\n").expect("written");
    let directory = DataDirectory::open(scratch.path()).expect("opened");
    assert!(directory.token().expect_err("refused").to_string().contains("delete it"));
}

#[test]
fn a_second_process_is_refused() {
    let scratch = scratch();
    let first = DataDirectory::open(scratch.path()).expect("opened");
    let message = DataDirectory::open(scratch.path()).expect_err("refused").to_string();
    let expect = format!("in use by process {}", std::process::id());
    assert!(message.contains(&expect) && message.contains("--data"), "{message}");
    drop(first);
    DataDirectory::open(scratch.path()).expect("free again");
}

#[test]
fn a_missing_directory_is_named() {
    let message = DataDirectory::open(Path::new("/nowhere/at/all")).expect_err("refused").to_string();
    assert!(message.contains("/nowhere/at/all"), "{message}");
}
