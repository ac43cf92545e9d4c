//! A server for one test, and an HTTP client that hides nothing.

use api::{Patience, Settings, Token};
use control::model::Model;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const TOKEN: &str = "0123456789abcdef";

pub struct Server {
    pub address: SocketAddr,
    pub model: Arc<Model>,
    pub stop: Option<oneshot::Sender<()>>,
    pub ended: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub async fn start() -> Server {
        Server::with(Duration::from_secs(5), Patience::with_connections(64)).await
    }

    pub async fn with(request_timeout: Duration, patience: Patience) -> Server {
        let model = Arc::new(Model::default());
        let token = Token::new(TOKEN).expect("not empty");
        let settings = Settings { token, request_timeout };
        let router = api::router(model.clone(), settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let ended = tokio::spawn(api::serve(listener, router, patience, stopped));
        Server { address, model, stop: Some(stop), ended }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Call::new("GET", path)).await
    }

    pub async fn json(&self, method: &str, path: &str, body: Value) -> Answer {
        let body = body.to_string().into_bytes();
        self.send(Call::new(method, path).header("Content-Type", "application/json").body(body)).await
    }

    pub async fn create(&self, name: &str, size_bytes: u64) {
        let answer =
            self.json("POST", "/api/v1/vdisks", serde_json::json!({"name": name, "size_bytes": size_bytes})).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    pub async fn send(&self, call: Call) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.expect("the server listens");
        stream.write_all(&call.bytes()).await.expect("the server reads");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.expect("the server answers and closes");
        Answer::parse(&bytes)
    }
}

pub struct Call {
    head: String,
    body: Vec<u8>,
}

impl Call {
    pub fn new(method: &str, path: &str) -> Call {
        Call::without_token(method, path).header("Authorization", &format!("Bearer {TOKEN}"))
    }

    pub fn without_token(method: &str, path: &str) -> Call {
        Call { head: format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"), body: Vec::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Call {
        self.head += &format!("{name}: {value}\r\n");
        self
    }

    pub fn body(mut self, body: Vec<u8>) -> Call {
        self.head += &format!("Content-Length: {}\r\n", body.len());
        self.body = body;
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        [self.head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn parse(bytes: &[u8]) -> Answer {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a complete head");
        let head = String::from_utf8(bytes[..end].to_vec()).expect("heads are text");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").expect("a header");
            (name.to_ascii_lowercase(), value.to_string())
        });
        let status = status.parse().expect("a number");
        Answer { status, headers: headers.collect(), body: bytes[end + 4..].to_vec() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Asserts that this is a problem document of that status and type, all members in place.
    pub fn problem(&self, status: u16, word: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:drystone:problem:{word}"), "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        for member in ["title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {problem}");
        }
        problem
    }
}
