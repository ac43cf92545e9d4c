//! A controller in memory behind a real socket, and command lines against it.

use crate::cli::args::Connection;
use crate::cli::client::Client;
use crate::cli::output::{Format, Printer};
use crate::cli::run_line;
use anyhow::Result;
use control::model::Model;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

pub const TOKEN: &str = "feedface";

pub struct Server {
    pub model: Arc<Model>,
    pub url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub fn start() -> Server {
        let model = Arc::new(Model::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("supported");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let (stop, stopped) = oneshot::channel::<()>();
        let control = model.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let token = api::Token::new(TOKEN).expect("not empty");
                let settings = api::Settings { token, request_timeout: Duration::from_secs(10) };
                let patience = api::Patience::with_connections(16);
                let listener = tokio::net::TcpListener::from_std(listener).expect("registered");
                let stopped = async move {
                    let _ = stopped.await;
                };
                api::serve(listener, api::router(control, settings), patience, stopped).await.expect("served");
            });
        });
        Server { model, url, stop: Some(stop), thread: Some(thread) }
    }

    pub fn client(&self) -> Client {
        let connection =
            Connection { server: Some(self.url.clone()), token: Some(TOKEN.to_string()), ..Connection::default() };
        Client::new(&connection).expect("complete")
    }

    /// `drystone <line>`: what it prints.
    pub fn run(&self, line: &[&str]) -> Result<String> {
        let printer = Printer::to_memory(Format::Table);
        run_line(&[&["drystone"], line].concat(), &self.client(), &printer)?;
        Ok(printer.take())
    }

    pub fn json(&self, line: &[&str]) -> Value {
        let printer = Printer::to_memory(Format::Json);
        run_line(&[&["drystone"], line].concat(), &self.client(), &printer).expect("done");
        serde_json::from_str(&printer.take()).expect("JSON")
    }

    /// Refused with a message that says `part`.
    pub fn refused(&self, line: &[&str], part: &str) {
        match self.run(line) {
            Ok(text) => panic!("{line:?} was accepted: {text}"),
            Err(error) => assert!(format!("{error:#}").contains(part), "{line:?}: {error:#} does not say {part:?}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.take();
        let ended = self.thread.take().map(|thread| thread.join().is_ok());
        assert!(std::thread::panicking() || ended == Some(true), "the server panicked");
    }
}
