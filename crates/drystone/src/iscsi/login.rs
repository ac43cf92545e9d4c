//! A connection before it is served: login, discovery, and the move to the worker of the chosen vDisk.

use super::access::{Portal, View};
use super::listen::Shared;
use super::seam::{FoundTarget, Targets};
use super::sessions::SessionInfo;
use crate::frontend::channel::{Channel, PartedChannel};
use base::{Output, Room};
use iscsi::wire::LoginStatus;
use iscsi::{Chosen, Entropy, Initiator, Limits, Login, Next, Scope, Session, Step};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, info, warn};
use world::LocalFuture;

/// What is read at once. Login requests are hundreds of bytes.
const READ_BYTES: usize = 4096;

/// A connection that has not logged in yet.
pub(super) struct Client {
    channel: Channel,
    login: Login,
    out: Output,
    /// Received and not parsed.
    unread: Vec<u8>,
    about: About,
}

/// What goes with a connection wherever it goes.
pub(super) struct About {
    pub peer: SocketAddr,
    /// Where it came in.
    pub local: SocketAddr,
    pub portal: Portal,
    /// Its place among the connections that are allowed.
    pub _permit: OwnedSemaphorePermit,
}

/// An initiator on its way to the worker.
pub(super) struct Parted {
    pub channel: PartedChannel,
    pub login: Login,
    pub unread: Vec<u8>,
    pub about: About,
}

/// How a login ended.
enum Ended {
    Chose(Chosen),
    Closed(&'static str),
    Unproven(&'static str),
}

impl Client {
    pub fn new(channel: Channel, about: About) -> io::Result<Client> {
        let mut random = [0; 33];
        fill_random(&mut random)?;
        let [identifier, challenge @ ..] = random;
        let login = Login::new(about.portal.group, Entropy { identifier, challenge });
        Ok(Client { channel, login, out: Output::new(), unread: Vec::new(), about })
    }

    /// Logs in on this thread, then discovers here or moves on.
    pub async fn run(mut self, shared: Arc<Shared>) {
        let mut stop = shared.stop.clone();
        let ended = tokio::select! {
            ended = tokio::time::timeout(shared.login_timeout, self.log_in(&shared)) => ended,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let peer = self.about.peer;
        match ended {
            Ok(Ok(Ended::Chose(Chosen::Discovery))) => {
                let served = tokio::time::timeout(shared.login_timeout, self.discover(&shared));
                tokio::select! {
                    _ = served => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            }
            Ok(Ok(Ended::Chose(Chosen::Target(name)))) => self.enter(shared, &name).await,
            Ok(Ok(Ended::Closed(why))) => {
                debug!(%peer, why, "iSCSI login ended");
                self.channel.close().await;
            }
            Ok(Ok(Ended::Unproven(why))) => {
                warn!(%peer, initiator = self.login.initiator().name, why, "an iSCSI initiator was not let in");
                tokio::time::sleep(shared.unproven_pause).await;
                // What it is told does not matter any more if it has gone.
                let _ = self.channel.write(&mut self.out).await;
                self.channel.close().await;
            }
            Ok(Err(error)) => debug!(%peer, %error, "iSCSI connection lost"),
            Err(_) => info!(%peer, "an iSCSI initiator did not log in in time"),
        }
    }

    async fn enter(self, shared: Arc<Shared>, target: &str) {
        let admitted = self.recheck(&shared);
        match (admitted, shared.targets.find(target)) {
            (Ok(()), Some(found)) => self.move_to_worker(shared, found),
            (Ok(()), None) => self.refuse(LoginStatus::NotFound).await,
            (Err(status), _) => self.refuse(status).await,
        }
    }

    /// Until a session is chosen or the connection ends.
    async fn log_in(&mut self, shared: &Shared) -> io::Result<Ended> {
        loop {
            self.channel.write(&mut self.out).await?;
            let mut rest = self.unread.as_slice();
            let view = shared.view(&self.about);
            let step = self.login.step(&mut rest, &view, &mut self.out);
            let used = self.unread.len() - rest.len();
            self.unread.drain(..used);
            match step {
                Step::Answered => {}
                Step::Enter(chosen) => return Ok(Ended::Chose(chosen)),
                Step::Unproven(why) => return Ok(Ended::Unproven(why)),
                Step::Close(why) => {
                    self.channel.write(&mut self.out).await?;
                    return Ok(Ended::Closed(why));
                }
                Step::Starved => {
                    if !self.read().await? {
                        return Ok(Ended::Closed("the initiator hung up"));
                    }
                }
            }
        }
    }

    /// False: the end.
    async fn read(&mut self) -> io::Result<bool> {
        self.unread.resize(READ_BYTES, 0);
        let count = self.channel.read(&mut self.unread).await;
        self.unread.truncate(*count.as_ref().unwrap_or(&0));
        Ok(count? > 0)
    }

    /// A discovery session, from its first request to its logout.
    async fn discover(mut self, shared: &Shared) -> io::Result<()> {
        let initiator = self.login.initiator().name.clone();
        let login = std::mem::replace(&mut self.login, Login::new(0, Entropy { identifier: 0, challenge: [0; 32] }));
        // Nothing can be added to a discovery session, so that its handle names nothing.
        let limits = Limits { commands: 16, room: Room { payload_bytes: 1 << 20, single_bytes: 0 } };
        let mut session: Session<()> = login.accept(1, limits, &mut self.out);
        loop {
            let mut rest = self.unread.as_slice();
            let next = session.next(&mut rest, &mut self.out);
            let used = self.unread.len() - rest.len();
            self.unread.drain(..used);
            match next {
                Next::Targets(tag, scope) => {
                    let view = shared.view(&self.about);
                    let targets = match scope {
                        Scope::Target(name) => view.visible_by_name(&name, &initiator).into_iter().collect(),
                        Scope::All => view.visible(&initiator),
                    };
                    session.advertise(tag, &targets, &mut self.out);
                }
                Next::Logout => {
                    session.logged_out(&mut self.out);
                    self.channel.write(&mut self.out).await?;
                    self.channel.close().await;
                    return Ok(());
                }
                Next::Full => self.channel.write(&mut self.out).await?,
                Next::Starved => {
                    self.channel.write(&mut self.out).await?;
                    if !self.read().await? {
                        return Ok(());
                    }
                }
                Next::Broken(why) => {
                    debug!(peer = %self.about.peer, why, "an iSCSI discovery was cut off");
                    self.channel.write(&mut self.out).await?;
                    self.channel.close().await;
                    return Ok(());
                }
                Next::Command { .. } | Next::Execute(_) | Next::Manage { .. } => {
                    unreachable!("a discovery session takes no commands")
                }
            }
        }
    }

    /// Ends a login that got through with an error.
    pub async fn refuse(mut self, status: LoginStatus) {
        self.login.refuse(status, &mut self.out);
        // What it is told does not matter any more if it has gone.
        let _ = self.channel.write(&mut self.out).await;
        self.channel.close().await;
    }

    fn move_to_worker(self, shared: Arc<Shared>, found: FoundTarget) {
        let Client { channel, login, unread, about, .. } = self;
        let channel = match channel.part() {
            Ok(channel) => channel,
            Err(error) => return warn!(peer = %about.peer, %error, "an iSCSI connection could not change threads"),
        };
        let parted = Parted { channel, login, unread, about };
        let (workers, worker) = (shared.workers.clone(), found.worker);
        workers.run(
            worker,
            Box::new(move |units| -> LocalFuture<()> {
                Box::pin(async move { parted.arrive(shared, found, units).await })
            }),
        );
    }
}

impl Parted {
    /// Puts the connection into this thread's runtime.
    pub fn join(self) -> io::Result<Client> {
        let Parted { channel, login, unread, about } = self;
        Ok(Client { channel: channel.join()?, login, out: Output::new(), unread, about })
    }
}

impl Client {
    /// Whether the rules still let it in.
    pub fn recheck(&self, shared: &Shared) -> Result<(), LoginStatus> {
        self.login.recheck(&shared.view(&self.about))
    }

    /// The session that it is about to have.
    pub fn describe(&self, found: &FoundTarget) -> SessionInfo {
        let Initiator { name, alias, isid, user } = self.login.initiator().clone();
        let digests = self.login.parameters().digests;
        SessionInfo {
            id: 0,
            key: found.key,
            vdisk: found.name.clone(),
            initiator: name,
            alias,
            isid,
            tsih: 0,
            units: Vec::new(),
            user,
            address: self.about.peer,
            portal: self.about.local,
            portal_group: self.about.portal.group,
            header_digest: digests.header,
            data_digest: digests.data,
            since: SystemTime::now(),
            commands_in_flight: 0,
            read_bytes: 0,
            written_bytes: 0,
        }
    }

    pub fn initiator(&self) -> &Initiator {
        self.login.initiator()
    }

    /// The portal group where it came in.
    pub fn group(&self) -> u16 {
        self.about.portal.group
    }

    pub fn view<'a>(&self, shared: &'a Shared) -> View<'a> {
        shared.view(&self.about)
    }

    /// What is left when the login is over.
    pub fn into_parts(self) -> (Channel, Login, Vec<u8>, About) {
        (self.channel, self.login, self.unread, self.about)
    }
}

impl Shared {
    pub fn view(&self, about: &About) -> View<'_> {
        View {
            targets: &*self.targets as &dyn Targets,
            sessions: &self.sessions,
            portals: &self.portals,
            portal: about.portal,
            local: about.local,
            allow_open: self.allow_open,
        }
    }
}

fn fill_random(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let filled = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
        bytes = bytes.get_mut(filled..).unwrap_or_default();
    }
    Ok(())
}
