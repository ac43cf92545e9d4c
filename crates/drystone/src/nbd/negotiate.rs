//! A connection before it is served: option haggling, TLS, and the move to the worker of the chosen vDisk.

use super::connection::{self, End, Opened};
use super::listen::Shared;
use super::seam::Exports;
use crate::frontend::channel::{Channel, PartedChannel};
use crate::frontend::payload::Part;
use crate::frontend::{Attach, Attached, Found};
use nbd::{Directory, Export, Limits, Negotiation, Output, Refusal, Step, TlsPolicy};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, info, warn};
use world::LocalFuture;

/// What is read at once. Options are tens of bytes.
const READ_BYTES: usize = 4096;

/// A connection that has not chosen its export yet.
pub(super) struct Client {
    channel: Channel,
    negotiation: Negotiation,
    out: Output,
    /// Received and not parsed.
    unread: Vec<u8>,
    about: About,
}

/// What goes with a connection wherever it goes.
struct About {
    /// The peer, for the log.
    peer: String,
    /// Its place among the connections that are allowed.
    _permit: OwnedSemaphorePermit,
}

/// A client on its way to the worker.
struct Parted {
    channel: PartedChannel,
    negotiation: Negotiation,
    unread: Vec<u8>,
    about: About,
}

impl Client {
    pub fn new(channel: Channel, tls: TlsPolicy, peer: String, permit: OwnedSemaphorePermit) -> Client {
        let mut out = Output::new();
        let negotiation = Negotiation::start(tls, &mut out);
        Client { channel, negotiation, out, unread: Vec::new(), about: About { peer, _permit: permit } }
    }

    /// Negotiates on this thread, then moves on.
    pub async fn run(mut self, shared: Arc<Shared>) {
        let mut stop = shared.stop.clone();
        loop {
            let chosen = tokio::select! {
                chosen = tokio::time::timeout(shared.negotiation_timeout, self.negotiate(&shared)) => chosen,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let name = match chosen {
                Ok(Ok(Ended::Chose(name))) => name,
                Ok(Ok(Ended::Closed(why))) => {
                    debug!(peer = self.about.peer, why, "NBD negotiation ended");
                    return self.channel.close().await;
                }
                Ok(Err(error)) => return debug!(peer = self.about.peer, %error, "NBD connection lost"),
                Err(_) => return info!(peer = self.about.peer, "an NBD client did not choose an export in time"),
            };
            match shared.exports.find(&name) {
                Some(found) => return self.move_to_worker(shared, found),
                None if !self.refuse(&Refusal::Unknown) => return,
                None => {}
            }
        }
    }

    /// Until an export is chosen or the connection ends. Nothing is lost if it is cancelled and the client with it.
    async fn negotiate(&mut self, shared: &Shared) -> io::Result<Ended> {
        loop {
            self.channel.write(&mut self.out).await?;
            let mut rest = self.unread.as_slice();
            let step = self.negotiation.step(&mut rest, &Listed(&*shared.exports), &mut self.out);
            let used = self.unread.len() - rest.len();
            self.unread.drain(..used);
            match step {
                Step::Answered => {}
                Step::Select(name) => return Ok(Ended::Chose(name)),
                Step::Close(why) => {
                    self.channel.write(&mut self.out).await?;
                    return Ok(Ended::Closed(why));
                }
                Step::StartTls => {
                    self.channel.write(&mut self.out).await?;
                    let config = shared.tls.clone().expect("TLS is offered only where it is set up");
                    self.channel.start_tls(config).await?;
                    self.negotiation.tls_started();
                }
                Step::Starved => {
                    self.unread.resize(READ_BYTES, 0);
                    let count = self.channel.read(&mut self.unread).await;
                    self.unread.truncate(*count.as_ref().unwrap_or(&0));
                    if count? == 0 {
                        return Ok(Ended::Closed("the client hung up"));
                    }
                }
            }
        }
    }

    /// False if the client cannot go on after that.
    fn refuse(&mut self, refusal: &Refusal) -> bool {
        matches!(self.negotiation.refuse(refusal, &mut self.out), Step::Answered)
    }

    fn move_to_worker(self, shared: Arc<Shared>, found: Found) {
        let Client { channel, negotiation, unread, about, .. } = self;
        let channel = match channel.part() {
            Ok(channel) => channel,
            Err(error) => return warn!(peer = about.peer, %error, "an NBD connection could not change threads"),
        };
        let parted = Parted { channel, negotiation, unread, about };
        let workers = shared.workers.clone();
        let worker = found.worker;
        workers.run(
            worker,
            Box::new(move |attach| -> LocalFuture<()> {
                Box::pin(async move { parted.arrive(shared, found, attach).await })
            }),
        );
    }
}

impl Parted {
    /// On the worker: attaches the vDisk and serves it, or tells the client why not.
    async fn arrive(self, shared: Arc<Shared>, found: Found, attach: Rc<dyn Attach>) {
        let Parted { channel, negotiation, unread, about } = self;
        let channel = match channel.join() {
            Ok(channel) => channel,
            Err(error) => return warn!(peer = about.peer, %error, "an NBD connection could not change threads"),
        };
        let mut stop = shared.stop.clone();
        let attached = tokio::select! {
            attached = attach.attach(found.key, found.snapshot) => attached,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let attached = match attached {
            Ok(attached) => {
                let selected = negotiation.selected_bitmaps();
                attach_all(attached, selected, &*shared.exports, &found, &*attach).await
            }
            Err(error) => Err(error),
        };
        let opened = match attached {
            Ok(opened) => opened,
            Err(error) => {
                warn!(peer = about.peer, vdisk = found.name, %error, "a vDisk could not be attached");
                let mut client = Client { channel, negotiation, out: Output::new(), unread, about };
                return match client.refuse(&Refusal::Unavailable(error.context)) {
                    true => client.run(shared).await,
                    false => client.channel.close().await,
                };
            }
        };
        let mut out = Output::new();
        let export = Export { geometry: opened.export.device.geometry(), ..export_of(&found) };
        let session = negotiation.accept(&export, Limits::default(), &mut out);
        debug!(peer = about.peer, vdisk = found.name, "NBD client connected");
        let part = Part::join(shared.worker_payload_bytes);
        let stopped = Box::pin(async move {
            // An error says that the server is gone, which is as good a reason.
            let _ = stop.wait_for(|stop| *stop).await;
        });
        match connection::serve(channel, session, out, unread, opened, part, stopped).await {
            End::Silent => {
                info!(
                    peer = about.peer,
                    vdisk = found.name,
                    "an NBD client that took no replies was cut off: others waited"
                );
            }
            End::Broken(why) => info!(peer = about.peer, vdisk = found.name, why, "an NBD client was cut off"),
            end => debug!(peer = about.peer, vdisk = found.name, ?end, "NBD client disconnected"),
        }
    }
}

/// With what the export is to be compared, in the order in which it was selected.
async fn attach_all(
    export: Attached,
    selected: &[String],
    exports: &dyn Exports,
    found: &Found,
    attach: &dyn Attach,
) -> block::Result<Opened> {
    if selected.is_empty() {
        return Ok(Opened { export, differences: Vec::new() });
    }
    let bases = exports.bases(&found.name);
    let mut differences = Vec::with_capacity(selected.len());
    for name in selected {
        let Some((_, base)) = bases.iter().find(|(base, _)| base == name) else {
            let text = format!("the snapshot {name:?} is not there any more");
            return Err(block::Error::new(block::Kind::Unavailable, text));
        };
        differences.push(attach.attach_difference(found.key, found.snapshot, *base).await?);
    }
    Ok(Opened { export, differences })
}

enum Ended {
    Chose(String),
    Closed(&'static str),
}

/// The exports as the protocol asks for them.
struct Listed<'a>(&'a dyn Exports);

impl Directory for Listed<'_> {
    fn list(&self) -> Vec<(String, String)> {
        self.0.list().into_iter().map(|found| (found.name, found.description)).collect()
    }
    fn find(&self, name: &str) -> Option<Export> {
        self.0.find(name).map(|found| export_of(&found))
    }
    fn bitmaps(&self, name: &str) -> Vec<String> {
        self.0.bases(name).into_iter().map(|(name, _)| name).collect()
    }
}

fn export_of(found: &Found) -> Export {
    Export { name: found.name.clone(), description: found.description.clone(), geometry: found.geometry }
}
