//! Octets in and out, zeros, flush, extents.

use crate::client::{Call, Server};
use control::Error;
use control::model::Verb;
use serde_json::json;

const DATA: &str = "/api/v1/vdisks/demo/data";

fn put(offset: u64, data: Vec<u8>) -> Call {
    Call::new("PUT", &format!("{DATA}?offset={offset}")).header("Content-Type", "application/octet-stream").body(data)
}

#[tokio::test]
async fn what_was_written_is_read() {
    let server = Server::start().await;
    server.create("demo", 1 << 20).await;
    let data: Vec<u8> = (0..12288).map(|at| (at % 251) as u8).collect();
    let written = server.send(put(4608, data.clone())).await;
    assert_eq!((written.status, written.body.len()), (204, 0));
    let read = server.get(&format!("{DATA}?offset=4096&length=13312")).await;
    assert_eq!((read.status, read.header("content-type")), (200, "application/octet-stream"));
    assert_eq!(read.body, [vec![0; 512], data, vec![0; 512]].concat());
    assert_eq!(server.get(&format!("{DATA}?offset=0&length=0")).await.body.len(), 0);
    assert_eq!(server.send(Call::new("POST", "/api/v1/vdisks/demo/flush")).await.status, 204);
    assert_eq!(server.model.flushes(), 1);
}

#[tokio::test]
async fn snapshots_are_read_by_their_names() {
    let server = Server::start().await;
    server.create("demo", 1 << 20).await;
    server.send(put(8192, vec![1; 4096])).await;
    server.json("POST", "/api/v1/vdisks/demo/snapshots", json!({"name": "monday"})).await;
    server.send(put(8192, vec![2; 4096])).await;
    server.send(put(0, vec![2; 4096])).await;
    let path = "/api/v1/vdisks/demo%40monday";
    assert_eq!(server.get(&format!("{path}/data?offset=8192&length=4096")).await.body, vec![1; 4096]);
    let extents = server.get(&format!("{path}/extents")).await.json();
    let expect = json!([
        {"offset": 0, "length": 8192, "data": false},
        {"offset": 8192, "length": 4096, "data": true},
        {"offset": 12288, "length": (1 << 20) - 12288, "data": false},
    ]);
    assert_eq!(extents["extents"], expect);
    for name in ["demo%40tuesday", "nope%40monday"] {
        assert_eq!(server.get(&format!("/api/v1/vdisks/{name}/data?offset=0&length=512")).await.status, 404, "{name}");
        assert_eq!(server.get(&format!("/api/v1/vdisks/{name}/extents")).await.status, 404, "{name}");
    }
}

#[tokio::test]
async fn extents_come_in_pages_and_zeroes_remove_them() {
    let server = Server::start().await;
    server.create("demo", 1 << 20).await;
    for block in [1, 3, 5, 7] {
        assert_eq!(server.send(put(block * 4096, vec![1; 4096])).await.status, 204);
    }
    let path = "/api/v1/vdisks/demo/extents";
    let first = server.get(path).await.json();
    assert_eq!(first["extents"][1], json!({"offset": 4096, "length": 4096, "data": true}));
    let next = first["next"].as_u64().expect("more than one page");
    let second = server.get(&format!("{path}?offset={next}")).await.json();
    assert_eq!(second["extents"][0]["offset"], next);
    let range = json!({"offset": 0, "length": 5 * 4096});
    assert_eq!(server.json("POST", "/api/v1/vdisks/demo/zeroes", range).await.status, 204);
    let left = server.get(&format!("{path}?offset=0&length=32768")).await.json();
    let data: Vec<_> = left["extents"].as_array().expect("a list").iter().filter(|e| e["data"] == true).collect();
    assert_eq!(data.iter().map(|e| e["offset"].as_u64()).collect::<Vec<_>>(), [Some(5 * 4096), Some(7 * 4096)]);
}

#[tokio::test]
async fn bad_ranges_are_refused() {
    let server = Server::start().await;
    server.create("demo", 1 << 20).await;
    for (query, status, word) in [
        ("offset=1&length=512", 422, "invalid"),
        ("offset=0&length=100", 422, "invalid"),
        ("offset=0&length=33554944", 422, "invalid"),
        ("offset=1048576&length=512", 422, "invalid"),
        ("offset=18446744073709551104&length=512", 422, "invalid"),
        ("offset=0&length=18446744073709551615", 422, "invalid"),
        ("offset=0", 400, "malformed"),
        ("offset=-512&length=512", 400, "malformed"),
        ("offset=0&length=512&colour=red", 400, "malformed"),
    ] {
        server.get(&format!("{DATA}?{query}")).await.problem(status, word);
    }
    server.get("/api/v1/vdisks/nope/data?offset=0&length=512").await.problem(404, "not-found");
    server.send(put(1 << 20, vec![0; 512])).await.problem(422, "invalid");
    server.send(put(0, vec![0; 513])).await.problem(422, "invalid");
    let far = json!({"offset": 0, "length": 1 << 21});
    server.json("POST", "/api/v1/vdisks/demo/zeroes", far).await.problem(422, "invalid");
}

#[tokio::test]
async fn bodies_have_a_limit_a_length_and_a_type() {
    let server = Server::start().await;
    server.create("demo", 1 << 30).await;
    let long = Call::new("PUT", &format!("{DATA}?offset=0")).header("Content-Length", "33554433");
    server.send(long).await.problem(413, "too-large");
    let chunked = Call::new("PUT", &format!("{DATA}?offset=0")).header("Transfer-Encoding", "chunked");
    server.send(chunked).await.problem(411, "length-required");
    let typed = Call::new("PUT", &format!("{DATA}?offset=0")).header("Content-Type", "text/html").body(vec![0; 512]);
    server.send(typed).await.problem(415, "unsupported-media-type");
    let longest = server.send(put(0, vec![7; 32 << 20])).await;
    assert_eq!(longest.status, 204, "{longest:?}");
    let read = server.get(&format!("{DATA}?offset=0&length=33554432")).await;
    assert!(read.body.len() == 32 << 20 && read.body.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn failures_of_the_engine_reach_the_client() {
    let server = Server::start().await;
    server.create("demo", 1 << 20).await;
    server.model.fail_next(Verb::Write, Error::full("demo"));
    server.send(put(0, vec![0; 512])).await.problem(507, "full");
    server.json("PATCH", "/api/v1/vdisks/demo", json!({"read_only": true})).await;
    server.send(put(0, vec![0; 512])).await.problem(409, "read-only");
    server.model.fail_next(Verb::Flush, Error::internal("sync failed"));
    server.send(Call::new("POST", "/api/v1/vdisks/demo/flush")).await.problem(500, "internal");
}
