//! Clients that are slow, many, or garbage harm nobody else.

use crate::client::{Answer, Call, Server};
use api::Patience;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes)).await.expect("the server closes");
    bytes
}

#[tokio::test]
async fn a_body_that_does_not_come_times_out() {
    let server = Server::with(Duration::from_millis(200), Patience::with_connections(8)).await;
    server.create("demo", 4096).await;
    for (method, path, content_type) in [
        ("PUT", "/api/v1/vdisks/demo/data?offset=0", "application/octet-stream"),
        ("POST", "/api/v1/vdisks", "application/json"),
    ] {
        let mut slow = TcpStream::connect(server.address).await.expect("connected");
        let call = Call::new(method, path).header("Content-Type", content_type).header("Content-Length", "512");
        slow.write_all(&call.bytes()).await.expect("sent");
        slow.write_all(b"only this").await.expect("sent");
        Answer::parse(&until_closed(&mut slow).await).problem(408, "timeout");
    }
    assert_eq!(server.get("/api/v1/vdisks/demo").await.status, 200);
}

#[tokio::test]
async fn a_body_that_is_cut_off_is_not_written() {
    let server = Server::start().await;
    server.create("demo", 4096).await;
    let mut cut = TcpStream::connect(server.address).await.expect("connected");
    let call = Call::new("PUT", "/api/v1/vdisks/demo/data?offset=0").header("Content-Length", "512");
    cut.write_all(&call.bytes()).await.expect("sent");
    cut.write_all(&[9; 100]).await.expect("sent");
    cut.shutdown().await.expect("closed");
    until_closed(&mut cut).await;
    let read = server.get("/api/v1/vdisks/demo/data?offset=0&length=512").await;
    assert_eq!(read.body, vec![0; 512]);
}

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_head_that_trickles_in_is_cut_off() {
    let server = Server::with(Duration::from_secs(5), Patience { head: SHORT, ..Patience::with_connections(8) }).await;
    let mut slow = TcpStream::connect(server.address).await.expect("connected");
    let begun = Instant::now();
    for byte in Call::new("GET", "/api/v1/status").bytes() {
        if slow.write_all(&[byte]).await.is_err() || begun.elapsed() > SHORT * 10 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(until_closed(&mut slow).await.is_empty(), "it was not answered");
    assert!(begun.elapsed() < SHORT * 5, "it was cut off after {:?}", begun.elapsed());
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = Server::with(Duration::from_secs(5), Patience { head: SHORT, ..Patience::with_connections(8) }).await;
    let mut idle = TcpStream::connect(server.address).await.expect("connected");
    let call = String::from_utf8(Call::new("GET", "/api/v1/status").bytes()).expect("text");
    idle.write_all(call.replace("Connection: close\r\n", "").as_bytes()).await.expect("sent");
    assert_eq!(Answer::parse(&until_closed(&mut idle).await).status, 200);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let patience = Patience { write_stall: SHORT, ..Patience::with_connections(1) };
    let server = Server::with(Duration::from_secs(5), patience).await;
    server.create("demo", 64 << 20).await;
    let mut deaf = TcpStream::connect(server.address).await.expect("connected");
    let call = Call::new("GET", "/api/v1/vdisks/demo/data?offset=0&length=33554432");
    deaf.write_all(&call.bytes()).await.expect("sent");
    // The only place becomes free although `deaf` is still there.
    let answer = timeout(Duration::from_secs(5), server.get("/api/v1/status")).await.expect("a place is free");
    assert_eq!(answer.status, 200);
    drop(deaf);
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_served() {
    let patience = Patience { write_stall: SHORT, ..Patience::with_connections(8) };
    let server = Server::with(Duration::from_secs(5), patience).await;
    server.create("demo", 64 << 20).await;
    let mut slow = TcpStream::connect(server.address).await.expect("connected");
    let call = Call::new("GET", "/api/v1/vdisks/demo/data?offset=0&length=33554432");
    slow.write_all(&call.bytes()).await.expect("sent");
    let mut buffer = vec![0; 4 << 20];
    let mut total = 0;
    loop {
        tokio::time::sleep(SHORT / 3).await;
        match slow.read(&mut buffer).await.expect("still served") {
            0 => break,
            read => total += read,
        }
    }
    assert!(total > 32 << 20, "{total} bytes came");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let server = Server::with(Duration::from_secs(5), Patience::with_connections(2)).await;
    let first = TcpStream::connect(server.address).await.expect("connected");
    let second = TcpStream::connect(server.address).await.expect("connected");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let third = server.get("/api/v1/status");
    let mut third = std::pin::pin!(third);
    assert!(timeout(Duration::from_millis(200), &mut third).await.is_err(), "no place is free");
    drop((first, second));
    assert_eq!(timeout(Duration::from_secs(5), third).await.expect("a place is free").status, 200);
}

#[tokio::test]
async fn garbage_harms_nobody() {
    let server = Server::start().await;
    server.create("demo", 4096).await;
    let endless = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 1 << 20]].concat();
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(1000)).into_bytes();
    for garbage in [b"\x00\x01\x02\x03\r\n\r\n".to_vec(), b"NBDMAGIC".repeat(8), endless, many] {
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        // The server may close before all of it is sent.
        let _ = stream.write_all(&garbage).await;
        let _ = stream.shutdown().await;
        until_closed(&mut stream).await;
        assert_eq!(server.get("/api/v1/vdisks/demo").await.status, 200);
    }
}

#[tokio::test]
async fn shutdown_lets_requests_end() {
    let mut server = Server::start().await;
    server.create("demo", 4096).await;
    let mut slow = TcpStream::connect(server.address).await.expect("connected");
    let call = Call::new("PUT", "/api/v1/vdisks/demo/data?offset=0").header("Content-Length", "512");
    slow.write_all(&call.bytes()).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop.take().expect("once").send(()).expect("the server runs");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(TcpStream::connect(server.address).await.is_err(), "it no longer listens");
    assert!(!server.ended.is_finished(), "it waits for the request");
    slow.write_all(&[1; 512]).await.expect("still served");
    assert_eq!(Answer::parse(&until_closed(&mut slow).await).status, 204);
    timeout(Duration::from_secs(2), server.ended).await.expect("it ends").expect("no panic").expect("no error");
}
