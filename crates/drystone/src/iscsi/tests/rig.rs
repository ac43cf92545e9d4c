//! A server with two portals in front of vDisks in memory.

use crate::config::IscsiConfig;
pub use crate::frontend::testing::Controls;
use crate::frontend::testing::{Opener, Threads, found};
use crate::frontend::{Attach, Attached};
use crate::iscsi::{FoundTarget, FoundUnit, PORTS_OF_VMS, Server, Sessions, Targets, Timeouts, Unit, Units};
use block::BlockDevice;
use control::{ChapSecret, IscsiAccess};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;
use world::{Completion, LocalFuture};

pub const PREFIX: &str = "iqn.2026-11.io.drystone:";

const VM: u64 = 99;

/// "disk" and "other", and the VM "both", which has nothing at first.
#[derive(Default)]
pub struct Names {
    /// Of "disk"; "other" is open.
    pub access: Mutex<IscsiAccess>,
    /// Logical unit numbers of the VM.
    pub luns: watch::Sender<BTreeMap<&'static str, u64>>,
    changes: watch::Sender<u64>,
}

impl Names {
    /// The VM has these logical units now.
    pub fn set_luns(&self, luns: &[(&'static str, u64)]) {
        self.luns.send_replace(luns.iter().copied().collect());
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Targets for Names {
    fn list(&self) -> Vec<FoundTarget> {
        let unit = |(lun, found): (u64, crate::frontend::Found)| {
            let access = match found.name.as_str() {
                "disk" => self.access.lock().expect("no panics").clone(),
                _ => IscsiAccess::default(),
            };
            FoundUnit { lun, found, access }
        };
        let target = |key, name: &str, first_port, units: Vec<FoundUnit>| FoundTarget {
            key,
            worker: 0,
            name: name.to_string(),
            target_name: format!("{PREFIX}{name}"),
            first_port,
            chap: units.iter().find_map(|unit| unit.access.chap.clone()),
            mutual: units.iter().find_map(|unit| unit.access.mutual.clone()),
            units,
        };
        let own = |found: crate::frontend::Found| {
            let (key, worker, name) = (found.key, found.worker, found.name.clone());
            FoundTarget { worker, ..target(key, &name, 0, vec![unit((0, found))]) }
        };
        let luns = self.luns.borrow().clone();
        let all = found().into_iter().map(|found| found.name.clone()).zip(found());
        let of_vm = all.filter_map(|(name, found)| Some((*luns.get(name.as_str())?, found))).map(unit).collect();
        found().into_iter().map(own).chain([target(VM, "vm:both", PORTS_OF_VMS, of_vm)]).collect()
    }
    fn find(&self, target_name: &str) -> Option<FoundTarget> {
        self.list().into_iter().find(|target| target.target_name == target_name)
    }
    fn units(&self, key: u64) -> Option<Vec<FoundUnit>> {
        self.list().into_iter().find(|target| target.key == key).map(|target| target.units)
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
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
    fn unit(&self, key: u64, _snapshot: Option<u64>) -> LocalFuture<block::Result<Unit>> {
        let identity = scsi::Identity { id: key, realm: 1, name: "disk".to_string(), target_name: String::new() };
        Box::pin(async move { Ok(Unit { identity, host: Rc::new(Host), saved: Vec::new() }) })
    }
    fn exists(&self, _unit_key: u64) -> bool {
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
        let names = Arc::new(Names { access: Mutex::new(setup.access), ..Names::default() });
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
