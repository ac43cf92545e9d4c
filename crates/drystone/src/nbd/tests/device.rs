//! A server in front of a vDisk in memory.

use crate::config::{Config, NbdConfig, NbdTls};
pub use crate::frontend::testing::{Controls, SIZE};
use crate::frontend::testing::{Threads, found};
use crate::frontend::{Attach, Found};
use crate::nbd::{Exports, Server};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

struct Names;

impl Exports for Names {
    fn list(&self) -> Vec<Found> {
        found()
    }
    fn find(&self, name: &str) -> Option<Found> {
        let wanted = if name.is_empty() { "disk" } else { name };
        self.list().into_iter().find(|found| found.name == wanted)
    }
    fn bases(&self, _name: &str) -> Vec<(String, u64)> {
        Vec::new()
    }
}

/// A server on a port of its own and on a unix socket, with two workers.
pub struct Running {
    pub controls: Arc<Controls>,
    pub tcp: std::net::SocketAddr,
    pub folder: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
pub struct Setup {
    pub tls: Option<NbdTls>,
    pub connections_max: Option<u32>,
    pub negotiation_timeout: Option<Duration>,
}

impl Running {
    pub fn start(setup: Setup) -> Running {
        let controls = Controls::new();
        let folder = tempfile::tempdir().expect("a folder");
        let (workers, mut threads) = Threads::<dyn Attach>::start(&controls, |opener| Rc::new(opener));
        let config = NbdConfig {
            listen: Some("127.0.0.1:0".parse().expect("an address")),
            socket: Some(folder.path().join("nbd.sock")),
            tls: setup.tls,
            connections_max: setup.connections_max.unwrap_or(100),
            ..Config::defaults().nbd
        };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (report, address) = std::sync::mpsc::channel();
        threads.push(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let mut server = Server::bind(&config, 256 << 20).await.expect("the server listens");
                if let Some(timeout) = setup.negotiation_timeout {
                    server.negotiation_timeout = timeout;
                }
                report.send(server.tcp_address().expect("TCP is on")).expect("the test waits");
                let stop = async {
                    let _ = stopped.await;
                };
                server.serve(Arc::new(Names), Arc::new(workers), stop).await;
            });
        }));
        let tcp = address.recv().expect("the server reports");
        Running { controls, tcp, folder, stop: Some(stop), threads }
    }

    /// Asks the server to stop, without waiting.
    pub fn ask_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Whether serving has ended.
    pub fn is_over(&self) -> bool {
        self.threads.last().is_some_and(JoinHandle::is_finished)
    }

    /// Waits until `done` holds; panics after ten seconds.
    pub fn wait_until(&self, what: &str, mut done: impl FnMut(&Controls) -> bool) {
        for _ in 0..1000 {
            if done(&self.controls) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("did not happen: {what}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ask_to_stop();
        if std::thread::panicking() {
            return;
        }
        self.threads.drain(..).for_each(|thread| thread.join().expect("no thread panics"));
        assert_eq!(self.controls.attached.load(Ordering::SeqCst), 0, "a hold was not dropped");
    }
}
