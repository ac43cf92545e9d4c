//! `drystone up`: data directory, API, controller; then waits for a signal and takes them down in the opposite order.

use crate::config::Config;
use crate::controller;
use crate::data_directory::DataDirectory;
use anyhow::{Context, Result, anyhow};
use base::units::GIB;
use control::{Control, CreateVdisk, Kind, Listener, Protocol};
use std::future::Future;
use std::io::IsTerminal;
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

const DEMO_NAME: &str = "demo";
const DEMO_BYTES: u64 = 20 * GIB;

/// A controller that runs. [`controller::start`] returns one when vDisks are being served or recovered; it lives on
/// threads of its own.
pub trait Running: Send + Sync {
    fn control(&self) -> Arc<dyn Control>;
    /// Where the front-ends listen, the ports as they really are.
    fn listeners(&self) -> Vec<Listener>;
    /// Stops accepting, ends connections, checkpoints every vDisk, closes the disks: the next start replays nothing.
    /// Called once.
    fn stop(&self) -> Pin<Box<dyn Future<Output = Result<()>> + Send + '_>>;
    /// What `stop` is waiting for at this moment, for people: "3 vDisks to be checkpointed".
    fn waiting_for(&self) -> String;
}

/// Runs until a signal asks it to end. `invoked_as` is what the user typed, for commands to copy.
pub fn run(config: Config, invoked_as: &str) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    runtime.block_on(serve(config, invoked_as))
}

async fn serve(mut config: Config, invoked_as: &str) -> Result<()> {
    let directory = DataDirectory::create_or_open(&config.data)?;
    let token = api::Token::new(&directory.token()?).context("the token is empty")?;
    let listener = TcpListener::bind(config.api.listen)
        .await
        .with_context(|| format!("the API cannot listen on {}; choose another with --api", config.api.listen))?;
    config.api.listen = listener.local_addr().context("the API has no address")?;

    let running = controller::start(&config).await?;
    let mut signals = Signals::new()?;
    let api = Api::start(listener, running.control(), token, &config);
    let served = async {
        if config.demo {
            make_demo(running.control().as_ref()).await?;
        }
        announce(&config, running.listeners(), invoked_as);
        signals.next().await;
        anyhow::Ok(())
    };
    let served = served.await;

    tracing::info!("stopping");
    let stopped = stop(running.as_ref(), api, &mut signals).await;
    drop(directory);
    served.and(stopped)
}

/// The API on this runtime, and the way to end it.
struct Api {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Api {
    fn start(listener: TcpListener, control: Arc<dyn Control>, token: api::Token, config: &Config) -> Api {
        let patience = api::Patience::with_connections(config.api.connections_max as usize);
        let settings = api::Settings { token, request_timeout: config.api.request_timeout };
        let router = api::router(control, settings);
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            // An error says that the other half is gone, which means the same.
            let _ = stopped.await;
        };
        let task = tokio::spawn(api::serve(listener, router, patience, stopped));
        Api { stop, task }
    }

    async fn end(self) -> Result<()> {
        let _ = self.stop.send(());
        self.task.await.map_err(|error| anyhow!("the API ended with {error}"))?.context("the API failed")
    }
}

/// Further signals do not hurry it, since what is left to do is what makes the next start fast; they tell what it waits for.
async fn stop(running: &dyn Running, api: Api, signals: &mut Signals) -> Result<()> {
    let ended = async {
        let api = api.end().await;
        running.stop().await.and(api)
    };
    let mut ended = std::pin::pin!(ended);
    loop {
        tokio::select! {
            result = &mut ended => return result,
            () = signals.next() => {
                let waiting_for = running.waiting_for();
                tracing::warn!(waiting_for, "still stopping; kill -9 is safe, the next start then replays the log");
            }
        }
    }
}

/// SIGTERM, SIGINT, and SIGHUP: a closed terminal is no reason to crash.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Signals> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Signals([listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?]))
    }

    async fn next(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn make_demo(control: &dyn Control) -> Result<()> {
    let create = CreateVdisk {
        name: DEMO_NAME.to_string(),
        size_bytes: DEMO_BYTES,
        sector_bytes: 512,
        container: None,
        near: None,
        rewind: None,
    };
    match control.create_vdisk(create).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind == Kind::Exists => Ok(()),
        Err(error) => Err(error).context("cannot create the vDisk \"demo\""),
    }
}

/// Where it listens and what to type next.
fn announce(config: &Config, listeners: Vec<Listener>, invoked_as: &str) {
    // Who watches log and announcement on one screen reads it once.
    let on_one_screen = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    for listener in listeners.iter().filter(|_| !on_one_screen) {
        tracing::info!(protocol = ?listener.protocol, address = listener.address, tls = listener.tls, "listening");
    }
    let text = announcement(config, &listeners, invoked_as);
    // Nobody may be reading; that is no reason not to serve.
    let _ = crate::cli::output::print(&text);
}

fn announcement(config: &Config, listeners: &[Listener], invoked_as: &str) -> String {
    let data = config.data.display();
    let mut lines = vec![
        format!("drystone {} serves {data}", env!("CARGO_PKG_VERSION")),
        format!("  API  http://{}  (token in {data}/token)", config.api.listen),
    ];
    let uris: Vec<String> = listeners.iter().filter_map(uri).collect();
    lines.extend(uris.iter().map(|uri| format!("  NBD  {}", uri.replace("{name}", ""))));
    let portals = listeners.iter().filter(|listener| listener.protocol == Protocol::Iscsi);
    lines
        .extend(portals.map(|portal| format!("  iSCSI  {}  (targets {}NAME)", portal.address, control::TARGET_PREFIX)));
    lines.push(String::new());
    lines.push("Next, in another terminal:".to_string());
    let mut cli = invoked_as.to_string();
    if config.api.listen.to_string() != crate::config::API_DEFAULT {
        cli += &format!(" --server http://{}", config.api.listen);
    }
    if config.data != std::path::Path::new(crate::config::DATA_DEFAULT) {
        cli += &format!(" --data {data}");
    }
    let name = if config.demo { DEMO_NAME } else { "disk1" };
    if !config.demo {
        lines.push(format!("  {cli} vdisk create {name} --size 20GiB"));
    }
    lines.push(format!("  {cli} vdisk list"));
    if let Some(uri) = uris.first() {
        let uri = uri.replace("{name}", name);
        lines.push(format!("  nbdinfo '{uri}'"));
        lines.push(format!("  qemu-img convert -O raw image.qcow2 '{uri}'"));
    }
    lines.join("\n") + "\n"
}

/// As the NBD project writes them; `{name}` stands for the export.
fn uri(listener: &Listener) -> Option<String> {
    let s = if listener.tls { "s" } else { "" };
    match listener.protocol {
        Protocol::Api | Protocol::Iscsi => None,
        Protocol::Nbd => Some(format!("nbd{s}://{}/{{name}}", listener.address)),
        Protocol::NbdUnix => Some(format!("nbd{s}+unix:///{{name}}?socket={}", listener.address)),
    }
}

#[cfg(test)]
mod tests;
