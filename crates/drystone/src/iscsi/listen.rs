//! The portals: where initiators connect, how many, and how it ends.

use super::Timeouts;
use super::access::Portal;
use super::login::{About, Client};
use super::seam::{Targets, Units};
use super::sessions::Sessions;
use crate::config::IscsiConfig;
use crate::frontend::Workers;
use crate::frontend::channel::Channel;
use crate::frontend::socket::Socket;
use anyhow::{Context, Result};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info, warn};

/// An initiator that needs longer is none; a login takes milliseconds, and its pauses are ours.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
const UNPROVEN_PAUSE: Duration = Duration::from_secs(2);
/// How long sessions may take to end after the stop: the time to log out, the grace for the last answers, and the
/// peer's close.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an accept that failed, which it does for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listening, not yet serving.
pub struct Server {
    listeners: Vec<(TcpListener, Portal)>,
    allow_open: bool,
    connections_max: usize,
    pub(super) login_timeout: Duration,
    pub(super) timeouts: Timeouts,
    /// Before an initiator hears that its proof was wrong: guessing is slow.
    pub(super) unproven_pause: Duration,
    /// Memory for commands under way on each worker.
    worker_payload_bytes: u64,
}

/// What every connection needs.
pub(super) struct Shared {
    pub targets: Arc<dyn Targets>,
    pub workers: Arc<dyn Workers<dyn Units>>,
    pub sessions: Arc<Sessions>,
    pub portals: Vec<Portal>,
    pub allow_open: bool,
    pub login_timeout: Duration,
    pub timeouts: Timeouts,
    pub unproven_pause: Duration,
    pub worker_payload_bytes: u64,
    /// Becomes true when every connection is to end.
    pub stop: watch::Receiver<bool>,
}

impl Server {
    /// Listens where the settings say. To be called inside the runtime that will serve. Every error says what to do.
    /// `worker_payload_bytes`: memory for commands under way on each worker.
    pub async fn bind(config: &IscsiConfig, worker_payload_bytes: u64) -> Result<Server> {
        let mut listeners = Vec::new();
        for (address, group) in config.listen.iter().zip(1..) {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| {
                format!(
                    "cannot listen for iSCSI on {address}; choose another address with --iscsi HOST:PORT (iscsi.listen), or do \
                     without with --no-iscsi"
                )
            })?;
            // With the real port if port 0 was asked for.
            let listen = listener.local_addr().context("a listening socket has no address")?;
            listeners.push((listener, Portal { listen, group }));
        }
        Ok(Server {
            listeners,
            allow_open: config.allow_open,
            connections_max: config.connections_max as usize,
            login_timeout: LOGIN_TIMEOUT,
            timeouts: Timeouts { ping_after: config.keepalive, ..Timeouts::default() },
            unproven_pause: UNPROVEN_PAUSE,
            worker_payload_bytes,
        })
    }

    /// Where it listens: with the real port if port 0 was asked for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(_, portal)| portal.listen).collect()
    }

    /// Accepts and serves until `stop` completes, then ends all sessions: what is under way is answered first, within ten
    /// seconds.
    pub async fn serve(
        self,
        targets: Arc<dyn Targets>,
        workers: Arc<dyn Workers<dyn Units>>,
        sessions: Arc<Sessions>,
        stop: impl Future<Output = ()>,
    ) {
        let (stopping, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            targets,
            workers,
            sessions,
            portals: self.listeners.iter().map(|(_, portal)| *portal).collect(),
            allow_open: self.allow_open,
            login_timeout: self.login_timeout,
            timeouts: self.timeouts,
            unproven_pause: self.unproven_pause,
            worker_payload_bytes: self.worker_payload_bytes,
            stop: stopped,
        });
        let permits = Arc::new(Semaphore::new(self.connections_max));
        let accepting = self.listeners.iter().map(|(listener, portal)| accept(&shared, &permits, listener, *portal));
        let accepting = async {
            futures_util::future::join_all(accepting).await;
            // Without a portal there is nothing to accept, and still something to stop.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = accepting => {}
            () = stop => {}
        }
        drop(self.listeners);
        stopping.send_replace(true);
        let all = u32::try_from(self.connections_max).unwrap_or(u32::MAX);
        if tokio::time::timeout(STOP_TIMEOUT, permits.acquire_many(all)).await.is_err() {
            warn!("iSCSI sessions were still there when the server stopped");
        }
    }
}

/// Accepts for ever.
async fn accept(shared: &Arc<Shared>, permits: &Arc<Semaphore>, listener: &TcpListener, portal: Portal) {
    let mut was_full = false;
    loop {
        let accepted = async {
            let (stream, peer) = listener.accept().await?;
            let local = stream.local_addr()?;
            io::Result::Ok((Socket::tcp(stream)?, peer, local))
        };
        let (socket, peer, local) = match accepted.await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "an iSCSI connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match permits.clone().try_acquire_owned() {
            Ok(permit) => {
                was_full = false;
                let about = About { peer, local, portal, _permit: permit };
                match Client::new(Channel::new(socket), about) {
                    Ok(client) => drop(tokio::spawn(client.run(shared.clone()))),
                    Err(error) => warn!(%peer, %error, "an iSCSI connection was not taken: no random numbers"),
                }
            }
            // Dropping the socket closes it. One line for all that are turned away in a row.
            Err(_) if !was_full => {
                was_full = true;
                info!(%peer, "iSCSI initiators are turned away: iscsi.connections_max is reached");
            }
            Err(_) => {}
        }
    }
}
