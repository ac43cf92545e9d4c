//! The server with real sockets and threads, a vDisk in memory behind it and a strict client before it.

mod client;
mod device;
mod tls;

use super::Server;
use crate::config::{Config, NbdConfig};
use block::Kind;
use client::{Client, encode_option, go_data, tcp};
use device::{Running, SIZE, Setup};
use nbd::Errno;
use nbd::wire::{command, option, option_reply};
use std::io::{Read, Write};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

fn start() -> Running {
    Running::start(Setup::default())
}

/// Bytes that tell where they belong.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (seed + at / 512 * 7 + at) as u8).collect()
}

#[test]
fn what_is_written_is_read_over_tcp_and_unix_in_both_modes() {
    let server = start();
    let socket = server.folder.path().join("nbd.sock");
    // One by one: a client that waits for the others takes longer over its negotiation than it may, on a busy machine.
    for index in 0..4 {
        let client = if index < 2 { Client::tcp(server.tcp) } else { Client::unix(&socket) };
        let client = if index % 2 == 1 { client.structured() } else { client };
        let mut client = client.ready("disk");
        for len in [512, 4096, 65_536, 65_536 + 512, 1 << 20, 32 << 20] {
            let data = pattern(index, len);
            assert_eq!(client.write(4096, &data), Ok(Vec::new()), "{len} bytes");
            assert!(client.read(4096, len as u32) == Ok(data), "{len} bytes");
        }
        assert_eq!(client.ask(command::FLUSH, 0, 0, &[]), Ok(Vec::new()));
        assert_eq!(client.ask(command::TRIM, 4096, 8192, &[]), Ok(Vec::new()));
        assert_eq!(client.read(4096, 8192), Ok(vec![0; 8192]));
        assert_eq!(client.read(SIZE, 512), Err(Errno::Inval.code()));
        assert_eq!(client.write(SIZE, &[1; 512]), Err(Errno::NoSpc.code()));
        client.send(command::DISC, 0, 0, &[]);
        assert!(client.is_closed());
    }
}

#[test]
fn exports_are_listed_and_live_on_their_own_workers() {
    let server = start();
    let mut client = Client::tcp(server.tcp);
    let names: Vec<Vec<u8>> = client.option(option::LIST, &[]).into_iter().map(|reply| reply.1).collect();
    assert_eq!(names, [b"\0\0\0\x04diskfor tests".to_vec(), b"\0\0\0\x05otherfor tests".to_vec(), Vec::new()]);
    assert_eq!(client.go("nobody").0, option_reply::ERR_UNKNOWN);
    let mut disk = client.ready("");
    let mut other = Client::tcp(server.tcp).ready("other");
    disk.write(0, &[1; 512]).expect("written");
    assert_eq!(other.read(0, 512), Ok(vec![0; 512]));
    assert_eq!(disk.read(0, 512), Ok(vec![1; 512]));
}

#[test]
fn one_segment_may_hold_everything_from_the_flags_to_the_requests() {
    let server = start();
    let mut client = Client::tcp(server.tcp);
    let mut bytes = encode_option(option::GO, &go_data("disk"));
    let (write, first) = client.encode(command::WRITE, 0, 512);
    bytes.extend(write);
    bytes.extend([5; 512]);
    let (read, second) = client.encode(command::READ, 0, 512);
    bytes.extend(read);
    client.stream.write_all(&bytes).expect("sent");
    let mut replies = vec![0; 3 * 20 + 12 + 14];
    client.stream.read_exact(&mut replies).expect("two INFO replies and an ACK");
    assert_eq!(client.receive(), (first, Ok(Vec::new())));
    assert_eq!(client.receive(), (second, Ok(vec![5; 512])));
}

#[test]
fn a_deep_queue_is_answered_completely() {
    let server = start();
    for pending in [false, true] {
        server.controls.pending.store(pending, SeqCst);
        let mut client = Client::tcp(server.tcp).structured().ready("disk");
        let mut bytes = Vec::new();
        let mut waiting = std::collections::HashMap::new();
        for index in 0..1000u64 {
            let data = pattern(index, 4096);
            let (write, cookie) = client.encode(command::WRITE, index * 4096, 4096);
            bytes.extend(write);
            bytes.extend(&data);
            waiting.insert(cookie, Vec::new());
        }
        // The other direction must be drained at the same time, so that neither side waits for the other.
        let sent = bytes.len();
        client.stream.write_all(&bytes).expect("sent");
        for _ in 0..1000 {
            let (cookie, answer) = client.receive();
            assert_eq!(answer.ok(), waiting.remove(&cookie), "after {sent} bytes");
        }
        let mut bytes = Vec::new();
        for index in 0..300u64 {
            let (read, cookie) = client.encode(command::READ, index * 4096, 4096);
            bytes.extend(read);
            waiting.insert(cookie, pattern(index, 4096));
        }
        client.stream.write_all(&bytes).expect("sent");
        for _ in 0..300 {
            let (cookie, answer) = client.receive();
            assert_eq!(answer.ok(), waiting.remove(&cookie));
        }
        assert!(waiting.is_empty());
    }
}

#[test]
fn requests_that_trickle_in_are_put_together() {
    let server = start();
    let mut client = Client::tcp(server.tcp).ready("disk");
    let (mut bytes, _) = client.encode(command::WRITE, 0, 100 * 1024);
    bytes.extend(pattern(3, 100 * 1024));
    let mut rest = bytes.as_slice();
    for size in [1, 20, 9, 1000, 30_000, 512, 69_000, 1].into_iter().cycle() {
        let (head, tail) = rest.split_at(size.min(rest.len()));
        client.stream.write_all(head).expect("sent");
        std::thread::sleep(Duration::from_millis(2));
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    assert_eq!(client.receive().1, Ok(Vec::new()));
    assert!(client.read(0, 100 * 1024) == Ok(pattern(3, 100 * 1024)));
}

#[test]
fn errors_of_the_vdisk_reach_the_client() {
    let server = start();
    let mut client = Client::tcp(server.tcp).structured().ready("disk");
    for (kind, errno) in [(Kind::Full, Errno::NoSpc), (Kind::Corrupt, Errno::Io), (Kind::Unavailable, Errno::Shutdown)]
    {
        for pending in [false, true] {
            server.controls.pending.store(pending, SeqCst);
            *server.controls.fail.lock().expect("no panics") = Some(kind);
            assert_eq!(client.write(0, &[1; 512]), Err(errno.code()), "{kind:?}");
        }
    }
    *server.controls.fail.lock().expect("no panics") = None;
    assert_eq!(client.write(0, &[1; 512]), Ok(Vec::new()));
}

#[test]
fn a_vdisk_that_cannot_be_attached_says_why_and_another_can_be_chosen() {
    let server = start();
    *server.controls.attach_error.lock().expect("no panics") = Some("the log is damaged".to_string());
    let mut client = Client::tcp(server.tcp);
    assert_eq!(client.go("disk"), (option_reply::ERR_POLICY, b"the log is damaged".to_vec()));
    let mut client = client.ready("other");
    assert_eq!(client.read(0, 512), Ok(vec![0; 512]));
}

#[test]
fn an_attach_that_takes_longer_than_the_negotiation_may_is_waited_for() {
    let server = Running::start(Setup { negotiation_timeout: Some(Duration::from_millis(200)), ..Setup::default() });
    *server.controls.attach_delay.lock().expect("no panics") = Duration::from_millis(600);
    let mut client = Client::tcp(server.tcp).ready("disk");
    assert_eq!(client.read(0, 512), Ok(vec![0; 512]));
}

#[test]
fn a_client_that_does_not_choose_in_time_is_cut_off() {
    let server = Running::start(Setup { negotiation_timeout: Some(Duration::from_millis(200)), ..Setup::default() });
    let since = Instant::now();
    let mut client = Client::tcp(server.tcp);
    assert!(client.is_closed() && since.elapsed() < Duration::from_secs(10));
}

#[test]
fn requests_follow_the_current_size() {
    let server = start();
    let mut client = Client::tcp(server.tcp).ready("disk");
    assert_eq!(client.write(SIZE, &[1; 512]), Err(Errno::NoSpc.code()));
    server.controls.size_bytes.store(2 * SIZE, SeqCst);
    assert_eq!(client.write(SIZE, &[1; 512]), Ok(Vec::new()));
    let mut later = Client::tcp(server.tcp);
    let replies = later.option(option::GO, &go_data("disk"));
    assert_eq!(replies[0].1[2..10], (2 * SIZE).to_be_bytes());
}

#[test]
fn connections_beyond_the_limit_are_turned_away() {
    let server = Running::start(Setup { connections_max: Some(2), ..Setup::default() });
    let first = Client::tcp(server.tcp);
    let mut second = Client::tcp(server.tcp).ready("disk");
    let mut third = tcp(server.tcp);
    assert!(!matches!(third.read(&mut [0; 18]), Ok(1..)), "a third connection was greeted");
    drop(first);
    assert_eq!(second.read(0, 512), Ok(vec![0; 512]));
    // The place is free again as soon as the server has seen the end.
    let until = Instant::now() + Duration::from_secs(10);
    while !matches!(tcp(server.tcp).read(&mut [0; 18]), Ok(18)) {
        assert!(Instant::now() < until, "the place of a closed connection stays taken");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_client_that_does_not_read_holds_little_and_harms_nobody() {
    let server = start();
    let mut deaf = Client::tcp(server.tcp).ready("disk");
    deaf.write(0, &pattern(1, 1 << 20)).expect("written");
    let before = server.controls.submitted.load(SeqCst);
    // One gigabyte in replies is asked for; 64 MiB and what the sockets hold may be under way.
    let mut bytes = Vec::new();
    for _ in 0..1000 {
        bytes.extend(deaf.encode(command::READ, 0, 1 << 20).0);
    }
    deaf.stream.write_all(&bytes).expect("headers fit into the socket");
    server.wait_until("the server takes what it may", |controls| controls.submitted.load(SeqCst) - before >= 60);
    let mut other = Client::tcp(server.tcp).ready("disk");
    for _ in 0..100 {
        assert!(other.read(0, 4096) == Ok(pattern(1, 4096)));
    }
    std::thread::sleep(Duration::from_millis(100));
    let taken = server.controls.submitted.load(SeqCst) - before - 100;
    assert!(taken <= 64 + 16, "{taken} MiB of reads were taken for a client that does not read");
    for _ in 0..1000 {
        assert!(deaf.receive().1 == Ok(pattern(1, 1 << 20)));
    }
}

#[test]
fn no_more_than_256_requests_are_under_way() {
    let server = start();
    let mut client = Client::tcp(server.tcp).ready("disk");
    server.controls.open.send_replace(false);
    let before = server.controls.submitted.load(SeqCst);
    let mut bytes = Vec::new();
    for _ in 0..1000 {
        bytes.extend(client.encode(command::READ, 0, 512).0);
    }
    client.stream.write_all(&bytes).expect("sent");
    server.wait_until("256 are taken", |controls| controls.submitted.load(SeqCst) - before >= 256);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(server.controls.submitted.load(SeqCst) - before, 256);
    server.controls.open.send_replace(true);
    for _ in 0..1000 {
        assert_eq!(client.receive().1, Ok(vec![0; 512]));
    }
}

#[test]
fn one_busy_connection_lets_others_have_their_turn() {
    let server = start();
    let mut busy = Client::tcp(server.tcp).ready("disk");
    // All of it fits into two reads, and keeps the worker busy for more than a second.
    *server.controls.think.lock().expect("no panics") = Duration::from_micros(50);
    let bytes: Vec<u8> = (0..15_000).flat_map(|_| busy.encode(command::WRITE_ZEROES, 0, 512).0).collect();
    let before = server.controls.submitted.load(SeqCst);
    busy.stream.write_all(&bytes).expect("sent");
    server.wait_until("it is busy", |controls| controls.submitted.load(SeqCst) > before + 200);
    let since = Instant::now();
    let mut other = Client::tcp(server.tcp).ready("disk");
    assert_eq!(other.read(0, 512), Ok(vec![0; 512]));
    let waited = since.elapsed();
    assert!(server.controls.submitted.load(SeqCst) - before < 14_000, "the busy one was done after {waited:?}");
    (0..15_000).for_each(|_| assert_eq!(busy.receive().1, Ok(Vec::new())));
}

#[test]
fn a_forced_end_answers_what_is_under_way() {
    let server = start();
    let mut client = Client::tcp(server.tcp).ready("disk");
    server.controls.open.send_replace(false);
    let before = server.controls.submitted.load(SeqCst);
    let cookie = client.send(command::WRITE, 0, 512, &[1; 512]);
    server.wait_until("it is under way", |controls| controls.submitted.load(SeqCst) > before);
    server.controls.close.send_replace(true);
    std::thread::sleep(Duration::from_millis(50));
    server.controls.open.send_replace(true);
    assert_eq!(client.receive(), (cookie, Ok(Vec::new())));
    assert!(client.is_closed());
    server.wait_until("the hold is dropped", |controls| controls.attached.load(SeqCst) == 0);
}

#[test]
fn a_request_that_fails_because_of_the_end_is_not_answered() {
    let server = start();
    let mut client = Client::tcp(server.tcp).ready("disk");
    server.controls.open.send_replace(false);
    let before = server.controls.submitted.load(SeqCst);
    client.send(command::WRITE, 0, 512, &[1; 512]);
    server.wait_until("it is under way", |controls| controls.submitted.load(SeqCst) > before);
    server.controls.close.send_replace(true);
    std::thread::sleep(Duration::from_millis(50));
    *server.controls.fail.lock().expect("no panics") = Some(Kind::Unavailable);
    server.controls.open.send_replace(true);
    assert!(client.is_closed(), "a guest would see an I/O error where a reconnect helps");
}

#[test]
fn a_stop_answers_what_is_under_way_and_closes() {
    let mut server = start();
    let mut client = Client::tcp(server.tcp).ready("disk");
    let mut idle = Client::tcp(server.tcp).ready("other");
    let mut negotiating = Client::tcp(server.tcp);
    server.controls.open.send_replace(false);
    let before = server.controls.submitted.load(SeqCst);
    let cookie = client.send(command::WRITE, 0, 512, &[1; 512]);
    server.wait_until("it is under way", |controls| controls.submitted.load(SeqCst) > before);
    server.ask_to_stop();
    let since = Instant::now();
    assert!(idle.is_closed() && negotiating.is_closed());
    assert!(since.elapsed() < Duration::from_secs(8), "closed by the end of the server, not by the stop");
    assert!(std::net::TcpStream::connect(server.tcp).is_err(), "still listening");
    assert!(!server.folder.path().join("nbd.sock").exists(), "the socket file stays");
    std::thread::sleep(Duration::from_millis(50));
    assert!(!server.is_over(), "the server did not wait for what is under way");
    server.controls.open.send_replace(true);
    assert_eq!(client.receive(), (cookie, Ok(Vec::new())));
    assert!(client.is_closed());
}

#[test]
fn a_client_that_hangs_up_with_requests_under_way_lets_go() {
    let server = start();
    for _ in 0..3 {
        let mut client = Client::tcp(server.tcp).ready("disk");
        server.controls.open.send_replace(false);
        for _ in 0..10 {
            client.send(command::WRITE, 0, 4096, &[1; 4096]);
        }
        drop(client);
        server.controls.open.send_replace(true);
        server.wait_until("the hold is dropped", |controls| controls.attached.load(SeqCst) == 0);
    }
}

#[test]
fn a_client_that_says_goodbye_and_does_not_read_is_let_go() {
    let server = start();
    let mut client = Client::tcp(server.tcp).ready("disk");
    for _ in 0..64 {
        client.send(command::READ, 0, 1 << 20, &[]);
    }
    client.send(command::DISC, 0, 0, &[]);
    server.wait_until("the hold is dropped", |controls| controls.attached.load(SeqCst) == 0);
}

#[test]
fn many_connections_share_what_may_be_under_way() {
    let server = start();
    let mut deaf: Vec<Client> = (0..32).map(|_| Client::tcp(server.tcp).ready("disk")).collect();
    deaf[0].write(0, &pattern(1, 1 << 20)).expect("written");
    let before = server.controls.submitted.load(SeqCst);
    for client in &mut deaf {
        for _ in 0..40 {
            client.send(command::READ, 0, 1 << 20, &[]);
        }
    }
    server.wait_until("each gets its share", |controls| controls.submitted.load(SeqCst) - before >= 32 * 4);
    let mut taken = 0;
    server.wait_until("no more is taken", |controls| {
        std::thread::sleep(Duration::from_millis(300));
        let now = controls.submitted.load(SeqCst) - before;
        now == std::mem::replace(&mut taken, now)
    });
    // 256 MiB together, and for each what has gone into its socket (4 to 10 MiB over loopback).
    assert!(taken <= 256 + 32 * 12, "{taken} MiB for 32 clients that do not read");
}

#[test]
fn garbage_is_cut_off_and_harms_nobody() {
    let server = start();
    let mut good = Client::tcp(server.tcp).ready("disk");
    good.write(0, &[3; 512]).expect("written");
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], &[0; 64]] {
        let mut stream = tcp(server.tcp);
        stream.write_all(garbage).expect("sent");
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        assert_eq!(all.len(), 18, "more than a greeting for {garbage:02x?}");
        let mut client = Client::tcp(server.tcp).ready("disk");
        client.stream.write_all(garbage).expect("sent");
        assert!(client.is_closed());
        assert_eq!(good.read(0, 512), Ok(vec![3; 512]));
    }
}

fn bind(config: NbdConfig) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { Server::bind(&config, 64 << 20).await.map(drop).map_err(|error| format!("{error:#}")) })
}

fn settings(listen: Option<&str>, socket: Option<&std::path::Path>) -> NbdConfig {
    let listen = listen.map(|text| text.parse().expect("an address"));
    NbdConfig { listen, socket: socket.map(Into::into), ..Config::defaults().nbd }
}

#[test]
fn plaintext_beyond_this_machine_has_to_be_allowed() {
    for (address, allowed, fine) in [
        ("0.0.0.0:0", false, false),
        ("[::]:0", false, false),
        ("0.0.0.0:0", true, true),
        ("127.0.0.1:0", false, true),
        ("127.1.2.3:0", false, true),
    ] {
        let config = NbdConfig { allow_plaintext: allowed, ..settings(Some(address), None) };
        assert_eq!(bind(config).is_ok(), fine, "{address} allowed: {allowed}");
    }
}

#[test]
fn a_socket_file_is_replaced_only_if_nobody_listens() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nbd.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    let error = bind(settings(None, Some(&path))).expect_err("somebody listens");
    assert!(error.contains("another process listens"), "{error}");
    drop(listener);
    assert!(path.exists());
    bind(settings(None, Some(&path))).expect("nobody listens any more");
    assert!(!path.exists(), "the file goes with the server");
    std::fs::write(&path, "precious").expect("written");
    let error = bind(settings(None, Some(&path))).expect_err("it is a file");
    assert!(error.contains("is no socket") && path.exists(), "{error}");
}
