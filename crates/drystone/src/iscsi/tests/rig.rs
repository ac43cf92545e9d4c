//! A server with two portals in front of vDisks in memory.

use crate::config::IscsiConfig;
pub use crate::frontend::testing::Controls;
use crate::frontend::testing::{Opener, Threads, found};
use crate::frontend::{Attach, Attached};
use crate::iscsi::{FoundTarget, Server, Sessions, Targets, Timeouts, Unit, Units};
use block::BlockDevice;
use control::{ChapSecret, IscsiAccess};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use world::{Completion, LocalFuture};

pub const PREFIX: &str = "iqn.2026-11.io.drystone:";

/// The access rules of "disk"; "other" is open.
#[derive(Default)]
pub struct Names(pub Mutex<IscsiAccess>);

impl Targets for Names {
    fn list(&self) -> Vec<FoundTarget> {
        let target = |found: crate::frontend::Found| FoundTarget {
            target_name: format!("{PREFIX}{}", found.name),
            access: match found.name.as_str() {
                "disk" => self.0.lock().expect("no panics").clone(),
                _ => IscsiAccess::default(),
            },
            found,
        };
        found().into_iter().map(target).collect()
    }
    fn find(&self, target_name: &str) -> Option<FoundTarget> {
        self.list().into_iter().find(|target| target.target_name == target_name)
    }
}

pub fn secret(user: &str, secret: &str) -> Option<ChapSecret> {
    Some(ChapSecret { user: user.to_string(), secret: secret.to_string() })
}

struct Here(Opener);

impl Attach for Here {
    fn attach(&self, key: u64, snapshot: Option<u64>) -> LocalFuture<block::Result<Attached>> {
        self.0.attach(key, snapshot)
    }
}

impl Units for Here {
    fn unit(&self, key: u64) -> LocalFuture<block::Result<Unit>> {
        let identity = scsi::Identity { id: key, realm: 1, name: "disk".to_string(), target_name: String::new() };
        Box::pin(async move { Ok(Unit { identity, host: Rc::new(Host), saved: Vec::new() }) })
    }
    fn exists(&self, _key: u64) -> bool {
        true
    }
}

struct Host;

impl scsi::Host for Host {
    fn save_state(&self, _bytes: Vec<u8>) -> Completion<block::Result<()>> {
        Completion::Ready(Ok(()))
    }
    fn open(&self, _designator: &[u8], _initiator_port: &str) -> Completion<Option<Rc<dyn BlockDevice>>> {
        Completion::Ready(None)
    }
    fn sleep(&self, _duration_ns: u64) -> LocalFuture<()> {
        Box::pin(std::future::ready(()))
    }
    fn spawn(&self, task: LocalFuture<()>) {
        tokio::task::spawn_local(task);
    }
}

#[derive(Default)]
pub struct Setup {
    pub access: IscsiAccess,
    pub connections_max: Option<u32>,
    pub timeouts: Option<Timeouts>,
    pub payload_bytes: Option<u64>,
    /// Where the two portals listen, if not on loopback.
    pub listen: Option<[&'static str; 2]>,
}

pub struct Running {
    pub controls: Arc<Controls>,
    pub portals: Vec<SocketAddr>,
    pub sessions: Arc<Sessions>,
    pub names: Arc<Names>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    pub fn start(setup: Setup) -> Running {
        let controls = Controls::new();
        let (workers, mut threads) = Threads::<dyn Units>::start(&controls, |opener| Rc::new(Here(opener)));
        let listen = setup.listen.unwrap_or(["127.0.0.1:0"; 2]);
        let config = IscsiConfig {
            listen: listen.map(|address| address.parse().expect("an address")).to_vec(),
            connections_max: setup.connections_max.unwrap_or(100),
            ..crate::config::Config::defaults().iscsi
        };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (report, addresses) = std::sync::mpsc::channel();
        let names = Arc::new(Names(Mutex::new(setup.access)));
        let sessions = Sessions::new();
        let shown = names.clone();
        let listed = sessions.clone();
        let payload_bytes = setup.payload_bytes.unwrap_or(256 << 20);
        threads.push(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let mut server = Server::bind(&config, payload_bytes).await.expect("the server listens");
                server.timeouts = setup.timeouts.unwrap_or(server.timeouts);
                server.unproven_pause = Duration::from_millis(200);
                report.send(server.addresses()).expect("the test waits");
                let stop = async {
                    let _ = stopped.await;
                };
                server.serve(names, Arc::new(workers), listed, stop).await;
            });
        }));
        let portals = addresses.recv().expect("the server reports");
        Running { controls, portals, sessions, names: shown, stop: Some(stop), threads }
    }

    /// Asks the server to stop, without waiting.
    pub fn ask_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until `done` holds; panics after ten seconds.
    pub fn wait_until(&self, what: &str, mut done: impl FnMut(&Running) -> bool) {
        for _ in 0..1000 {
            if done(self) {
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
        assert!(self.sessions.list().is_empty(), "a session is still listed");
    }
}
