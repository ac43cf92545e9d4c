//! Starting the controller and taking it down.

use super::directory::Directory;
use super::errors::from_node;
use super::exports::Exported;
use super::groups::{self, Groups};
use super::layout::{FORMAT, memory, shard_config, shard_path, shards_on_disk, store_path};
use super::shards::{Shards, put_here};
use super::targets::IscsiWorkers;
use super::verbs::{Fronts, Verbs};
use crate::config::{Config, NbdConfig};
use crate::iscsi::{self, Sessions};
use crate::nbd::Server;
use crate::up::Running;
use anyhow::{Context, Result, anyhow, bail};
use control::{Control, IscsiPortal, Listener, Protocol};
use meta::{NodeRecord, RedbCore, RedbStore, Store, Transaction, keys};
use metal::{Actor, Directory as DiskDirectory, Workers};
use node::Shard;
use pool::Cache;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use vdisk::NoteKind;

/// Number of the first node; a rebuilt metadata store counts on.
const FIRST_NODE: u16 = 1;

/// Jobs for the metadata store's thread.
pub struct ToStore(pub Actor<RedbCore>);

impl meta::Submit for ToStore {
    fn submit(&self, job: meta::Job) {
        self.0.submit(job);
    }
}

/// Starts everything that serves vDisks; returns when all of them are found, be they replayed yet or not.
pub async fn start(config: &Config) -> Result<Box<dyn Running>> {
    Ok(Box::new(start_controller(config).await?))
}

pub(super) async fn start_controller(config: &Config) -> Result<Controller> {
    raise_descriptor_limit();
    let mut nbd = NbdThread::bind(config).await?;
    let (core, node) = open_store(config)?;
    let store = Actor::start("metadata", core).context("cannot start the metadata store's thread")?;
    let worker_count = config.workers.min(u32::from(node.shards)) as usize;
    let workers = Workers::start(worker_count, config.engine.poll_max).context("cannot start the workers")?;
    let shards = Shards { workers, count: node.shards };
    let directory = Arc::new(Directory::default());
    let cache = Arc::new(Cache::new(memory(config).cache_bytes));
    let groups = Arc::new(Groups::default());
    let started = open_shards(config, &node, &shards, &store, &cache, &directory, &groups).await;
    let realms = match started {
        Ok(realms) => realms,
        Err(error) => {
            shards.workers.stop();
            store.stop();
            return Err(error);
        }
    };
    let listeners = nbd.listeners.clone();
    let sessions = Sessions::new();
    let portals = nbd.portals.iter().zip(1..).map(|(address, group_tag)| portal(config, *address, group_tag)).collect();
    let fronts = Fronts { listeners: listeners.clone(), portals, sessions: sessions.clone(), groups: groups.clone() };
    let verbs = Arc::new_cyclic(|own| {
        Verbs::new(config, node.node, shards.clone(), directory.clone(), cache, fronts, own.clone())
    });
    let exported = Arc::new(Exported { directory, shards: shards.clone(), groups, vms: verbs.vms.clone(), realms });
    verbs.load_vms().await.map_err(|error| anyhow!("VMs on record: {error}"))?;
    verbs.load_containers().await.map_err(|error| anyhow!("containers on record: {error}"))?;
    verbs.finish_rollbacks().await;
    super::resume::resume(&exported);
    nbd.serve(Serving { exported, sessions });
    let finishing = verbs.clone();
    tokio::spawn(async move { finishing.finish_group_changes().await });
    let learning = verbs.clone();
    tokio::spawn(async move {
        learning.finish_vms().await;
        // What a schedule has to find again is known only now, and behind this, who is in which container.
        learning.carry_out_everywhere().await;
        tokio::join!(
            super::schedules::run(learning.clone()),
            super::containers::run(learning.clone()),
            super::vm_start::go_on(learning)
        );
    });
    let nbd = Mutex::new(Some(nbd));
    let watch = tokio::spawn(super::health::watch(verbs.clone())).abort_handle();
    Ok(Controller { verbs, listeners, shards, store, nbd, watch, closing: AtomicUsize::new(0) })
}

/// A thousand connections need more descriptors than the usual soft limit of 1,024; the hard limit is the administrator's.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// Opens or begins the metadata store. A store that is missing beside disks that are not is for `drystone recover`.
fn open_store(config: &Config) -> Result<(RedbCore, NodeRecord)> {
    let path = store_path(&config.data);
    let on_disk = shards_on_disk(&config.data).with_context(|| format!("cannot read {}", config.data.display()))?;
    let recover = format!("run `drystone recover --data {}`, which rebuilds it from the disks", config.data.display());
    if !path.exists() && on_disk.iter().any(|shard| shard_path(&config.data, *shard).join("superblock").exists()) {
        bail!("the metadata store {} is missing; {recover}", path.display());
    }
    let mut core = RedbCore::open(&path).map_err(|error| match error.kind {
        meta::Kind::Corrupt => anyhow!("{error}; delete it and {recover}"),
        _ => anyhow!(error),
    })?;
    let node = match core.get(keys::NODE)? {
        Some(bytes) => NodeRecord::decode(&bytes)?,
        None => {
            let node = NodeRecord { node: FIRST_NODE, shards: config.workers as u16, format: FORMAT };
            let outcome = core.commit(&Transaction::new().put(keys::NODE, node.encode()))?;
            anyhow::ensure!(outcome == meta::Outcome::Committed, "the first record could not be written");
            node
        }
    };
    if node.format != FORMAT {
        bail!("the data directory has format {}; this build reads format {FORMAT}; use a newer build", node.format);
    }
    if let Some(missing) = (0..node.shards).find(|shard| !on_disk.is_empty() && !on_disk.contains(shard)) {
        // A crash in the middle of the first start leaves fewer; then no vDisk exists yet.
        tracing::warn!(shard = missing, "a shard's folder is missing; it is made anew");
    }
    Ok((core, node))
}

async fn open_shards(
    config: &Config,
    node: &NodeRecord,
    shards: &Shards,
    store: &Actor<RedbCore>,
    cache: &Arc<Cache>,
    directory: &Arc<Directory>,
    groups: &Arc<Groups>,
) -> Result<Vec<u64>> {
    for number in shards.numbers() {
        let path = shard_path(&config.data, number);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    sync_directory(&config.data)?;
    let opened = shards.numbers().map(|number| {
        let path = shard_path(&config.data, number);
        let shard_config = shard_config(config, node.shards);
        let (store, cache, directory, node) = (store.clone(), cache.clone(), directory.clone(), node.node);
        let groups = groups.clone();
        shards.on_worker(number, move |context| {
            Box::pin(async move {
                let disk = DiskDirectory::open(&context, &path).map_err(|error| internal(error.to_string()))?;
                let store: Rc<dyn Store> = Rc::new(RedbStore::new(Box::new(ToStore(store))));
                let world = context.world.clone();
                if store_is_new_to(&*store, number).await? {
                    match Shard::format(&world, &disk, &shard_config, node, number).await {
                        // It is in use: an earlier start got further, or the store is not the one it had.
                        Err(error) if error.kind == node::Kind::Invalid => {}
                        formatted => formatted.map_err(from_node)?,
                    }
                }
                let listener = listen(directory.clone());
                // Before anybody can log in.
                let stored = groups::load(&*store).await.map_err(|error| internal(error.to_string()))?;
                stored.into_iter().for_each(|(name, group)| groups.put(&name, group));
                let shard = Shard::open(world, disk, store, cache, shard_config, listener).await.map_err(from_node)?;
                for record in shard.records() {
                    let access = shard.indexed_note(record.id, NoteKind::IscsiAccess);
                    directory.put_with_access(&record, access.as_deref());
                }
                let realm = shard.context.pool.identity().disk.0;
                put_here(shard);
                Ok(realm)
            })
        })
    });
    let opened = futures_util::future::join_all(opened).await.into_iter().enumerate();
    opened.map(|(number, opened)| opened.map_err(|error| anyhow!("shard {number}: {error}"))).collect()
}

/// A shard that the store has a record of was formatted before; making it anew would hide what is lost.
async fn store_is_new_to(store: &dyn Store, shard: u16) -> control::Result<bool> {
    let record = store.get(&keys::shard(shard)).await.map_err(|error| internal(error.to_string()))?;
    Ok(record.is_none())
}

fn listen(directory: Arc<Directory>) -> node::Listener {
    Rc::new(move |id, told| match told {
        Some(told) => directory.put_with_access(told.record, told.access.as_deref()),
        None => directory.remove(id),
    })
}

fn internal(text: String) -> control::Error {
    control::Error::new(control::Kind::Internal, text)
}

pub fn sync_directory(path: &std::path::Path) -> Result<()> {
    let directory = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    directory.sync_all().with_context(|| format!("cannot sync {}", path.display()))
}

/// What a portal is to those who ask where targets are served.
fn portal(config: &Config, address: SocketAddr, group_tag: u16) -> IscsiPortal {
    let serves_open = config.iscsi.allow_open || crate::frontend::socket::is_local(&address);
    IscsiPortal { address: address.to_string(), group_tag, serves_open }
}

fn listeners(config: &NbdConfig, server: &Server, portals: &[SocketAddr]) -> Vec<Listener> {
    let tls = config.tls.is_some();
    let tcp =
        server.tcp_address().map(|address| Listener { protocol: Protocol::Nbd, address: address.to_string(), tls });
    let unix = config.socket.as_ref().map(|path| {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Listener { protocol: Protocol::NbdUnix, address: path.display().to_string(), tls: false }
    });
    let iscsi =
        portals.iter().map(|address| Listener { protocol: Protocol::Iscsi, address: address.to_string(), tls: false });
    tcp.into_iter().chain(unix).chain(iscsi).collect()
}

struct Serving {
    exported: Arc<Exported>,
    sessions: Arc<Sessions>,
}

/// The thread on which clients connect, and negotiate or log in: they must not wait for the API, nor it for them.
struct NbdThread {
    listeners: Vec<Listener>,
    /// Where iSCSI listens.
    portals: Vec<SocketAddr>,
    begin: Option<oneshot::Sender<Serving>>,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl NbdThread {
    /// Listens, so that an address in use is heard of before anything else is started; serves later.
    async fn bind(config: &Config) -> Result<NbdThread> {
        let (report, bound) = oneshot::channel();
        let (begin, begins) = oneshot::channel::<Serving>();
        let (stop, stops) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel();
        let settings = config.nbd.clone();
        let iscsi = config.iscsi.clone();
        let payload_bytes = memory(config).payload_bytes / u64::from(config.workers);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime for NBD")?;
        let work = move || {
            runtime.block_on(async move {
                let server = match Server::bind(&settings, payload_bytes).await {
                    Ok(server) => server,
                    Err(error) => return drop(report.send(Err(error))),
                };
                let iscsi = match iscsi::Server::bind(&iscsi, payload_bytes).await {
                    Ok(server) => server,
                    Err(error) => return drop(report.send(Err(error))),
                };
                let portals = iscsi.addresses();
                let _ = report.send(Ok((listeners(&settings, &server, &portals), portals)));
                // If the controller did not come to serving, nobody is to be served.
                let Ok(Serving { exported, sessions }) = begins.await else { return };
                let stops = futures_util::FutureExt::shared(stops);
                tokio::join!(
                    server.serve(exported.clone(), Arc::new(exported.shards.clone()), async {
                        drop(stops.clone().await)
                    }),
                    iscsi.serve(exported.clone(), Arc::new(IscsiWorkers(exported)), sessions, async {
                        drop(stops.clone().await)
                    }),
                );
                let _ = end.send(());
            })
        };
        std::thread::Builder::new().name("nbd".to_string()).spawn(work).context("cannot start the NBD thread")?;
        let (listeners, portals) = bound.await.context("the NBD thread ended")??;
        Ok(NbdThread { listeners, portals, begin: Some(begin), stop, ended })
    }

    fn serve(&mut self, serving: Serving) {
        if let Some(begin) = self.begin.take() {
            let _ = begin.send(serving);
        }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.ended.await;
    }
}

pub(super) struct Controller {
    pub(super) verbs: Arc<Verbs>,
    listeners: Vec<Listener>,
    shards: Shards,
    pub(super) store: Actor<RedbCore>,
    nbd: Mutex<Option<NbdThread>>,
    /// Logs changes of health.
    watch: AbortHandle,
    /// Shards that are still being closed.
    closing: AtomicUsize,
}

impl Controller {
    pub(super) async fn stop_all(&self) -> Result<()> {
        self.verbs.stopping();
        self.watch.abort();
        let nbd = self.nbd.lock().expect("a panic under the lock ends the process").take();
        if let Some(nbd) = nbd {
            nbd.stop().await;
        }
        self.closing.store(self.shards.count.into(), Ordering::Relaxed);
        let closed = self.shards.numbers().map(|number| async move {
            let closed =
                self.shards.on(number, |shard| Box::pin(async move { shard.close().await.map_err(from_node) }));
            let closed = closed.await;
            self.closing.fetch_sub(1, Ordering::Relaxed);
            closed.map_err(|error| anyhow!("shard {number} was not closed cleanly: {error}"))
        });
        let results = futures_util::future::join_all(closed).await;
        let (workers, store) = (self.shards.workers.clone(), self.store.clone());
        tokio::task::spawn_blocking(move || {
            workers.stop();
            store.stop();
        })
        .await
        .context("the workers did not end")?;
        results.into_iter().collect()
    }
}

impl Running for Controller {
    fn control(&self) -> Arc<dyn Control> {
        self.verbs.clone()
    }

    fn listeners(&self) -> Vec<Listener> {
        self.listeners.clone()
    }

    fn stop(&self) -> Pin<Box<dyn Future<Output = Result<()>> + Send + '_>> {
        Box::pin(self.stop_all())
    }

    fn waiting_for(&self) -> String {
        match self.closing.load(Ordering::Relaxed) {
            0 => "connections to end".to_string(),
            shards => format!("the vDisks of {shards} shards to be checkpointed"),
        }
    }
}
