//! A session's nexus on another worker than its own: a task over there, which is sent what is to be done in order.

use super::{Ports, Ran};
use crate::frontend::Workers;
use crate::iscsi::part::Part;
use crate::iscsi::seam::{FoundUnit, Units};
use block::Kind;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use scsi::{Attribute, Command, Ended, Event, Function, Outcome, Response, Status, Task};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use world::{Completion, LocalFuture};

/// What was sent and not taken yet. A window of commands with two messages each fits several times; what does not is told to
/// come again.
const WAITING_MAX: usize = 1024;
/// Places that commands leave to task management and to changes of the logical units.
const SPARE: usize = 64;
/// Longest data-out that is gathered for a command that may want less; the device server refuses what claims more.
const DATA_OUT_BYTES_MAX: u32 = 32 << 20;

/// How soon it is looked again whether there is room.
const ROOM_PAUSE: Duration = Duration::from_millis(1);

enum Asked {
    Start {
        tag: u64,
        lun: [u8; 8],
        cdb: Vec<u8>,
        attribute: Attribute,
        offered: u32,
    },
    Run {
        tag: u64,
        data: Bytes,
        answer: oneshot::Sender<Ran>,
    },
    /// Instead of running it.
    Drop {
        tag: u64,
    },
    Manage {
        function: Function,
        lun: [u8; 8],
        answer: oneshot::Sender<Outcome>,
    },
    Hold {
        unit: Box<FoundUnit>,
        answer: oneshot::Sender<block::Result<()>>,
    },
    /// What was put is seen from now on.
    Show {
        lun: u64,
    },
    Take {
        lun: u64,
        answer: oneshot::Sender<()>,
    },
    Report {
        luns: Vec<u64>,
    },
}

pub(in crate::iscsi) struct Far {
    /// Dropping it is I_T nexus loss.
    asked: RefCell<Option<mpsc::Sender<Asked>>>,
    /// Commands that were started and will send one more message each.
    owed: Cell<usize>,
    ended: RefCell<Option<oneshot::Receiver<()>>>,
}

/// A command over there.
pub(in crate::iscsi) struct FarTask {
    /// `None`: it could not be started, or its last message was sent.
    far: Option<Rc<Far>>,
    tag: u64,
    pub offered: u32,
    pub memory_bytes: u64,
}

impl Far {
    pub fn open(workers: &dyn Workers<dyn Units>, worker: usize, ports: Ports, tell: mpsc::Sender<Event>) -> Rc<Far> {
        let (asked, asking) = mpsc::channel(WAITING_MAX);
        let (end, ended) = oneshot::channel();
        workers.run(
            worker,
            Box::new(move |units| -> LocalFuture<()> {
                Box::pin(async move {
                    let part = Rc::new(Part::new(ports.nexus(), units));
                    There { part, tasks: BTreeMap::new(), running: FuturesUnordered::new() }.serve(asking, tell).await;
                    // The session may not wait for it.
                    let _ = end.send(());
                })
            }),
        );
        Rc::new(Far { asked: RefCell::new(Some(asked)), owed: Cell::new(0), ended: RefCell::new(Some(ended)) })
    }

    pub fn start(this: &Rc<Far>, command: Command<'_>, sector_bytes: u32) -> FarTask {
        let Command { tag, lun, cdb, attribute, data_out_offered } = command;
        let asked = Asked::Start { tag, lun, cdb: cdb.to_vec(), attribute, offered: data_out_offered };
        let sent = this.room() > this.owed.get() + SPARE && this.send(asked);
        if sent {
            this.owed.set(this.owed.get() + 1);
        }
        FarTask {
            far: sent.then(|| this.clone()),
            tag,
            offered: data_out_offered.min(DATA_OUT_BYTES_MAX),
            memory_bytes: scsi::memory_bytes(cdb, sector_bytes),
        }
    }

    fn room(&self) -> usize {
        self.asked.borrow().as_ref().map_or(0, mpsc::Sender::capacity)
    }

    /// Whether it will be done, unless the worker ends.
    fn send(&self, asked: Asked) -> bool {
        self.asked.borrow().as_ref().is_some_and(|sender| sender.try_send(asked).is_ok())
    }

    pub fn manage(&self, function: Function, lun: [u8; 8]) -> Completion<Outcome> {
        let (answer, answered) = oneshot::channel();
        // An initiator that hears of a failure resets more, and logs in anew at last.
        if self.room() <= self.owed.get() || !self.send(Asked::Manage { function, lun, answer }) {
            return Completion::Ready(Outcome::Rejected);
        }
        Completion::pending(async move { answered.await.unwrap_or(Outcome::Rejected) })
    }

    /// As [`Far::send`], once there is room for it beside what was promised to commands.
    async fn send_later(&self, asked: Asked) -> bool {
        let is_there = || self.asked.borrow().as_ref().is_some_and(|sender| !sender.is_closed());
        while is_there() && self.room() <= self.owed.get() {
            tokio::time::sleep(ROOM_PAUSE).await;
        }
        self.send(asked)
    }

    /// Attaches it, and shows nothing of it yet.
    pub async fn hold(&self, unit: FoundUnit) -> block::Result<()> {
        let gone = || block::Error::new(Kind::Unavailable, "the vDisk's worker does not answer any more");
        let (answer, answered) = oneshot::channel();
        if !self.send_later(Asked::Hold { unit: Box::new(unit), answer }).await {
            return Err(gone());
        }
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    pub async fn show(&self, lun: u64) {
        // If not, there is nobody to see it.
        self.send_later(Asked::Show { lun }).await;
    }

    pub async fn take(&self, lun: u64) {
        let (answer, answered) = oneshot::channel();
        if self.send_later(Asked::Take { lun, answer }).await {
            // An error says that all of it is gone.
            let _ = answered.await;
        }
    }

    pub async fn report(&self, luns: Vec<u64>) {
        // If not, there is nobody to be told.
        self.send_later(Asked::Report { luns }).await;
    }

    /// Completes when nothing of the session is left there.
    pub async fn close(&self) {
        drop(self.asked.take());
        let ended = self.ended.take();
        if let Some(ended) = ended {
            let _ = ended.await;
        }
    }
}

impl FarTask {
    pub fn run(mut self, data: Bytes) -> Completion<Ran> {
        let (answer, answered) = oneshot::channel();
        let sent = self.last_message(|tag| Asked::Run { tag, data, answer });
        if !sent {
            return Completion::Ready(busy());
        }
        Completion::pending(async move { answered.await.unwrap_or_else(|_| busy()) })
    }

    fn last_message(&mut self, message: impl FnOnce(u64) -> Asked) -> bool {
        let Some(far) = self.far.take() else { return false };
        far.owed.set(far.owed.get() - 1);
        far.send(message(self.tag))
    }
}

impl Drop for FarTask {
    fn drop(&mut self) {
        self.last_message(|tag| Asked::Drop { tag });
    }
}

/// The initiator is to send it again.
fn busy() -> Ran {
    Ended::Response(Response { status: Status::Busy, sense: None, data: Vec::new() }).into()
}

/// On the other worker.
struct There {
    part: Rc<Part>,
    /// Started, not run yet.
    tasks: BTreeMap<u64, Task>,
    /// What has begun and not ended.
    running: FuturesUnordered<LocalFuture<()>>,
}

impl There {
    /// Until the session ends.
    async fn serve(mut self, mut asking: mpsc::Receiver<Asked>, tell: mpsc::Sender<Event>) {
        loop {
            tokio::select! {
                asked = asking.recv() => match asked {
                    Some(asked) => self.carry_out(asked),
                    None => return,
                },
                event = self.part.nexus.next_event() => {
                    // One that there is no room for shows in the end of its task, or is a unit attention.
                    let _ = tell.try_send(event);
                }
                Some(()) = self.running.next() => {}
                lun = self.part.next_closed() => self.take(lun, || {}),
            }
        }
    }

    fn carry_out(&mut self, asked: Asked) {
        match asked {
            Asked::Start { tag, lun, cdb, attribute, offered } => {
                let command = Command { tag, lun, cdb: &cdb, attribute, data_out_offered: offered };
                self.tasks.insert(tag, self.part.nexus.start(command));
            }
            Asked::Run { tag, data, answer } => {
                let Some(task) = self.tasks.remove(&tag) else { return };
                let wanted = Some(task.data_out_bytes());
                // Whoever asked may have gone.
                self.then(task.run(data), move |ended| drop(answer.send(Ran { ended, wanted })));
            }
            Asked::Drop { tag } => drop(self.tasks.remove(&tag)),
            Asked::Manage { function, lun, answer } => {
                self.then(self.part.nexus.manage(function, lun), move |outcome| {
                    let _ = answer.send(outcome);
                });
            }
            Asked::Hold { unit, answer } => {
                let part = self.part.clone();
                self.running.push(Box::pin(async move { drop(answer.send(part.hold(&unit).await)) }));
            }
            Asked::Show { lun } => self.part.show(lun),
            Asked::Take { lun, answer } => self.take(lun, move || {
                let _ = answer.send(());
            }),
            Asked::Report { luns } => {
                self.part.nexus.report(luns);
            }
        }
    }

    fn then<T: 'static>(&self, completion: Completion<T>, tell: impl FnOnce(T) + 'static) {
        match completion {
            Completion::Ready(done) => tell(done),
            pending => self.running.push(Box::pin(async move { tell(pending.await) })),
        }
    }

    fn take(&self, lun: u64, tell: impl FnOnce() + 'static) {
        let part = self.part.clone();
        self.running.push(Box::pin(async move {
            part.take(lun).await;
            tell();
        }));
    }
}
