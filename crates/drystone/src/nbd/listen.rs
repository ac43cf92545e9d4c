//! The listening sockets: who may connect, how many, and how it ends.

use super::negotiate::Client;
use super::seam::Exports;
use crate::config::NbdConfig;
use crate::frontend::channel::Channel;
use crate::frontend::socket::{Socket, is_local};
use crate::frontend::{Attach, Workers, tls};
use anyhow::{Context, Result, bail};
use nbd::TlsPolicy;
use rustls::ServerConfig;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info, warn};

/// A client that needs longer is none; a listing of a thousand exports takes milliseconds.
const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long connections may take to end after the stop: their grace for the last replies, and for the peer's close.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an accept that failed, which it does for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The owner and the group may connect to the unix socket.
const SOCKET_MODE: u32 = 0o660;

/// Listening, not yet serving.
pub struct Server {
    tcp: Option<(TcpListener, TlsPolicy)>,
    unix: Option<(UnixListener, TlsPolicy, SocketFile)>,
    tls: Option<Arc<ServerConfig>>,
    connections_max: usize,
    /// From the connection (or from a refusal by the worker) to the chosen export, TLS handshake included.
    pub(super) negotiation_timeout: Duration,
    /// Memory for requests under way on each worker.
    worker_payload_bytes: u64,
}

/// What every connection needs.
pub(super) struct Shared {
    pub exports: Arc<dyn Exports>,
    pub workers: Arc<dyn Workers<dyn Attach>>,
    pub tls: Option<Arc<ServerConfig>>,
    pub negotiation_timeout: Duration,
    pub worker_payload_bytes: u64,
    /// Becomes true when every connection is to end.
    pub stop: watch::Receiver<bool>,
}

impl Server {
    /// Listens where the settings say. To be called inside the runtime that will serve. Every error says what to do.
    /// `worker_payload_bytes`: memory for requests under way on each worker.
    pub async fn bind(config: &NbdConfig, worker_payload_bytes: u64) -> Result<Server> {
        let tls = config.tls.as_ref().map(tls::load).transpose().context("NBD over TLS cannot be set up")?;
        let required = config.tls.as_ref().is_some_and(|tls| tls.require);
        let policy = match (&tls, required) {
            (None, _) => TlsPolicy::Off,
            (Some(_), false) => TlsPolicy::Offered,
            (Some(_), true) => TlsPolicy::Required,
        };
        let tcp = match config.listen {
            None => None,
            Some(address) => {
                // Checked with the settings too; here it is what keeps the promise.
                if !is_local(&address) && policy != TlsPolicy::Required && !config.allow_plaintext {
                    bail!("NBD without TLS on {address} is open to everybody who reaches it, and was not allowed");
                }
                let listener = TcpListener::bind(address).await;
                let listener = listener.with_context(|| format!("cannot listen for NBD on {address}"))?;
                Some((listener, policy))
            }
        };
        let unix = match &config.socket {
            None => None,
            Some(path) => {
                let listener = bind_unix(path)?;
                // The socket's file permissions say who may connect, so that plaintext is never refused there.
                let policy = if tls.is_some() { TlsPolicy::Offered } else { TlsPolicy::Off };
                Some((listener, policy, SocketFile(path.clone())))
            }
        };
        let connections_max = config.connections_max as usize;
        let negotiation_timeout = NEGOTIATION_TIMEOUT;
        Ok(Server { tcp, unix, tls, connections_max, negotiation_timeout, worker_payload_bytes })
    }

    /// Where it listens on TCP: with the real port if port 0 was asked for.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// Accepts and serves until `stop` completes, then ends all connections: what is under way is answered first, within
    /// ten seconds.
    pub async fn serve(
        self,
        exports: Arc<dyn Exports>,
        workers: Arc<dyn Workers<dyn Attach>>,
        stop: impl Future<Output = ()>,
    ) {
        let (stopping, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            exports,
            workers,
            tls: self.tls,
            negotiation_timeout: self.negotiation_timeout,
            worker_payload_bytes: self.worker_payload_bytes,
            stop: stopped,
        });
        let permits = Arc::new(Semaphore::new(self.connections_max));
        let accepting = async {
            tokio::join!(
                async {
                    if let Some((listener, policy)) = &self.tcp {
                        accept(&shared, &permits, *policy, async || tcp(listener.accept().await)).await;
                    }
                },
                async {
                    if let Some((listener, policy, _)) = &self.unix {
                        accept(&shared, &permits, *policy, async || unix(listener.accept().await)).await;
                    }
                },
            );
        };
        tokio::select! {
            _ = accepting => {}
            () = stop => {}
        }
        drop((self.tcp, self.unix));
        stopping.send_replace(true);
        let all = u32::try_from(self.connections_max).unwrap_or(u32::MAX);
        if tokio::time::timeout(STOP_TIMEOUT, permits.acquire_many(all)).await.is_err() {
            warn!("NBD connections were still open when the server stopped");
        }
    }
}

fn tcp(accepted: io::Result<(tokio::net::TcpStream, SocketAddr)>) -> io::Result<(Socket, String)> {
    let (stream, peer) = accepted?;
    Ok((Socket::tcp(stream)?, peer.to_string()))
}

fn unix(accepted: io::Result<(tokio::net::UnixStream, tokio::net::unix::SocketAddr)>) -> io::Result<(Socket, String)> {
    let (stream, _) = accepted?;
    let peer = match stream.peer_cred() {
        Ok(peer) => format!("unix:pid={},uid={}", peer.pid().unwrap_or_default(), peer.uid()),
        Err(_) => "unix".to_string(),
    };
    Ok((Socket::unix(stream)?, peer))
}

/// Accepts for ever.
async fn accept(
    shared: &Arc<Shared>,
    permits: &Arc<Semaphore>,
    policy: TlsPolicy,
    mut next: impl AsyncFnMut() -> io::Result<(Socket, String)>,
) {
    let mut was_full = false;
    loop {
        let (socket, peer) = match next().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "an NBD connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match permits.clone().try_acquire_owned() {
            Ok(permit) => {
                was_full = false;
                tokio::spawn(Client::new(Channel::new(socket), policy, peer, permit).run(shared.clone()));
            }
            // Dropping the socket closes it. One line for all that are turned away in a row.
            Err(_) if !was_full => {
                was_full = true;
                info!(peer, "NBD clients are turned away: nbd.connections_max is reached");
            }
            Err(_) => {}
        }
    }
}

/// Removes the unix socket's file with the server.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Best effort: a file that stays is replaced at the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A socket file that a dead server left behind is replaced; one that somebody listens on is not.
fn bind_unix(path: &Path) -> Result<UnixListener> {
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            bail!("{} exists and is no socket; name another path for the NBD socket", path.display());
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let removed = std::fs::remove_file(path);
                removed.with_context(|| format!("cannot replace the old socket {}", path.display()))?;
            }
            _ => bail!("another process listens on {}; stop it, or name another path", path.display()),
        }
    }
    let listener = UnixListener::bind(path);
    let listener = listener.with_context(|| format!("cannot listen for NBD on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))
        .with_context(|| format!("cannot set the permissions of {}", path.display()))?;
    Ok(listener)
}
