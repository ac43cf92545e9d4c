//! The target's side: the production login, session and device server, with a transport of a few lines.

use super::network::{End, connect};
use super::pdu::{Digests, HEADER};
use super::tap::Tap;
use super::weather::Weather;
use base::{Output, Room};
use block::BlockDevice;
use iscsi::{Access, Chosen, Directory, Entropy, Execute, Limits, Login, ManageTag, Next, Secret, Session, Step, Tag};
use scsi::{Command, Ended, Event, LogicalUnit, Nexus, Outcome, Target, Task};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use world::local::Notify;
use world::{Completion, LocalFuture, World};

pub const NAME: &str = "iqn.2026-11.io.drystone:disk";

struct Everybody;

impl Directory for Everybody {
    fn access(&self, target: &str, _initiator: &str) -> Access {
        if target == NAME { Access::Granted { target: 1, chap: None, mutual: None } } else { Access::NotFound }
    }
    fn discovery_secrets(&self, _initiator: &str) -> Vec<Secret> {
        Vec::new()
    }
    fn has_session(&self, _tsih: u16) -> bool {
        false
    }
}

struct Host(World);

impl scsi::Host for Host {
    fn save_state(&self, _bytes: Vec<u8>) -> Completion<block::Result<()>> {
        Completion::Ready(Ok(()))
    }
    fn open(&self, _designator: &[u8], _initiator_port: &str) -> Completion<Option<Rc<dyn BlockDevice>>> {
        Completion::Ready(None)
    }
    fn sleep(&self, duration_ns: u64) -> LocalFuture<()> {
        self.0.clock.sleep(duration_ns)
    }
    fn spawn(&self, task: LocalFuture<()>) {
        self.0.spawn.spawn(task);
    }
}

/// A session by which its successor waits for its end.
struct Living {
    ends: Cell<bool>,
    over: Cell<bool>,
    notify: Rc<Notify>,
    gone: Rc<Notify>,
}

/// Where initiators connect to one vDisk.
pub struct Portal {
    world: World,
    weather: Rc<Weather>,
    target: RefCell<Option<(Rc<Target>, Rc<Tap>)>>,
    /// By initiator port.
    sessions: RefCell<BTreeMap<[u8; 6], Rc<Living>>>,
    /// Functions on the whole unit that were sent, on any path.
    pub sweeps: Cell<u64>,
    /// Those of them that have not ended: no last response came, and none comes any more where the session was lost.
    pub sweeping: Cell<u64>,
}

impl Portal {
    pub fn new(world: World, weather: Rc<Weather>) -> Rc<Portal> {
        let (target, sessions) = (RefCell::default(), RefCell::default());
        Rc::new(Portal { world, weather, target, sessions, sweeps: Cell::new(0), sweeping: Cell::new(0) })
    }

    /// Serves this device, if none is served yet.
    pub fn serve(&self, device: Rc<dyn BlockDevice>, id: u64) {
        self.target.borrow_mut().get_or_insert_with(|| {
            let identity = scsi::Identity { id, realm: 1, name: "disk".to_string(), target_name: NAME.to_string() };
            let host = Rc::new(Host(self.world.clone()));
            let tap = Tap::new(device);
            let unit = LogicalUnit::new(tap.clone(), identity, host, &[]).expect("nothing was saved");
            (Target::new(BTreeMap::from([(0, unit)])), tap)
        });
    }

    fn served(&self) -> (Rc<Target>, Rc<Tap>) {
        self.target.borrow().clone().expect("a device is served before anybody connects")
    }

    pub fn tap(&self) -> Rc<Tap> {
        self.served().1
    }

    pub fn sweeps(&self) -> u64 {
        self.sweeps.get()
    }

    pub fn weather(&self) -> &Weather {
        &self.weather
    }

    /// The initiator's end of a new connection.
    pub fn connect(self: &Rc<Self>) -> End {
        let (theirs, ours) = connect(self.weather.clone());
        let portal = self.clone();
        self.world.spawn(async move { portal.accept(ours).await });
        theirs
    }

    async fn accept(self: Rc<Self>, end: End) {
        let notify = Notify::new();
        end.tell(notify.clone());
        let mut login = Login::new(1, Entropy { identifier: 1, challenge: [1; 32] });
        let mut out = Output::new();
        let mut unread: Vec<u8> = Vec::new();
        loop {
            let mut rest = unread.as_slice();
            let step = login.step(&mut rest, &Everybody, &mut out);
            let used = unread.len() - rest.len();
            unread.drain(..used);
            send(&end, &mut out, Digests::default());
            match step {
                Step::Answered => {}
                Step::Enter(Chosen::Target(_)) => break,
                Step::Starved if end.has_bytes() => unread.extend(end.receive()),
                Step::Starved if end.is_lost() => return,
                Step::Starved => notify.notified().await,
                other => panic!("the login ends with {other:?}"),
            }
        }
        let isid = login.initiator().isid;
        let living = self.take_place_of_others(isid, &notify).await;
        let chosen = login.parameters().digests;
        let digests = Digests { header: chosen.header, data: chosen.data };
        let limits = Limits { commands: 8, room: Room { payload_bytes: 256 << 10, single_bytes: 1 << 20 } };
        let session = login.accept(1, limits, &mut out);
        send(&end, &mut out, Digests::default());
        let (target, _) = self.served();
        let port = format!("iqn.2000-01.sim:host,i,0x{:02x}", isid[5]);
        let connection = Connection {
            world: self.world.clone(),
            end,
            session,
            nexus: target.nexus(&port, 1),
            out,
            notify,
            done: Rc::default(),
            living: living.clone(),
            digests,
            portal: self.clone(),
        };
        connection.run(unread).await;
        living.over.set(true);
        living.gone.notify();
    }

    /// Session reinstatement (RFC 7143 section 6.3.5).
    async fn take_place_of_others(&self, isid: [u8; 6], notify: &Rc<Notify>) -> Rc<Living> {
        loop {
            let old = self.sessions.borrow().get(&isid).cloned().filter(|old| !old.over.get());
            let Some(old) = old else { break };
            old.ends.set(true);
            old.notify.notify();
            old.gone.notified().await;
        }
        let living = Rc::new(Living {
            ends: Cell::new(false),
            over: Cell::new(false),
            notify: notify.clone(),
            gone: Notify::new(),
        });
        self.sessions.borrow_mut().insert(isid, living.clone());
        living
    }
}

enum Done {
    Command(Tag, Ended),
    Manage(ManageTag, Outcome),
}

struct Connection {
    world: World,
    end: End,
    session: Session<Task>,
    nexus: Nexus,
    out: Output,
    notify: Rc<Notify>,
    done: Rc<RefCell<Vec<Done>>>,
    living: Rc<Living>,
    digests: Digests,
    portal: Rc<Portal>,
}

impl Connection {
    async fn run(mut self, mut unread: Vec<u8>) {
        loop {
            if self.living.ends.get() {
                return self.end.lose();
            }
            let mut rest = unread.as_slice();
            let open = self.parse(&mut rest);
            unread = rest.to_vec();
            for done in self.done.take() {
                match done {
                    Done::Command(tag, ended) => self.ended(tag, ended),
                    Done::Manage(tag, outcome) => self.managed(tag, outcome),
                }
            }
            send(&self.end, &mut self.out, self.digests);
            if !open {
                return self.end.lose();
            }
            if self.end.has_bytes() {
                unread.extend(self.end.receive());
                continue;
            }
            if self.end.is_lost() {
                return;
            }
            if self.done.borrow().is_empty() && !self.session.can_admit(&self.out) {
                self.wait().await;
            }
        }
    }

    /// For bytes, for something that was done, or for an event of the nexus.
    async fn wait(&mut self) {
        let notify = self.notify.clone();
        let mut notified = pin!(notify.notified());
        let event = poll_fn(|context| {
            if let Poll::Ready(event) = self.nexus.poll_event(context) {
                return Poll::Ready(Some(event));
            }
            notified.as_mut().poll(context).map(|()| None)
        });
        match event.await {
            Some(Event::TaskAborted { tag }) => {
                if let Some(execute) = self.session.stop_gathering(tag) {
                    self.execute(execute);
                }
            }
            Some(Event::Asynchronous { lun, sense }) => {
                self.session.notify(&iscsi::Notice::Sense { lun, sense }, &mut self.out);
            }
            None => {}
        }
    }

    /// False: the session is over.
    fn parse(&mut self, input: &mut &[u8]) -> bool {
        loop {
            match self.session.next(input, &mut self.out) {
                Next::Command { tag, lun, cdb, attribute, offered } => {
                    let (number, cdb) = (tag.number(), cdb.as_slice());
                    let task =
                        self.nexus.start(Command { tag: number, lun, cdb, attribute, data_out_offered: offered });
                    let wanted = task.data_out_bytes();
                    if let Some(execute) = self.session.gather(tag, wanted, task, &mut self.out) {
                        self.execute(execute);
                    }
                }
                Next::Execute(execute) => self.execute(execute),
                Next::Manage { tag, lun, function } => match self.nexus.manage(function, lun) {
                    Completion::Ready(outcome) => self.managed(tag, outcome),
                    pending => self.later(pending, move |outcome| Done::Manage(tag, outcome)),
                },
                Next::Targets(tag, _) => self.session.advertise(tag, &[], &mut self.out),
                Next::Starved | Next::Full => return true,
                Next::Logout => {
                    self.session.logged_out(&mut self.out);
                    return false;
                }
                Next::Broken(_) => return false,
            }
        }
    }

    fn managed(&mut self, tag: ManageTag, outcome: Outcome) {
        let all_end = tag.is_cold_reset() && outcome == Outcome::Complete;
        self.session.managed(tag, outcome, &mut self.out);
        if all_end {
            send(&self.end, &mut self.out, self.digests);
            for living in self.portal.sessions.borrow().values() {
                living.ends.set(true);
                living.notify.notify();
            }
        }
    }

    fn execute(&mut self, execute: Execute<Task>) {
        let Execute { tag, task, data } = execute;
        match task.run(data) {
            Completion::Ready(ended) => self.ended(tag, ended),
            pending => self.later(pending, move |ended| Done::Command(tag, ended)),
        }
    }

    fn ended(&mut self, tag: Tag, ended: Ended) {
        match ended {
            Ended::Response(response) => self.session.respond(tag, response, &mut self.out),
            Ended::Aborted => self.session.forget(tag),
        }
    }

    fn later<V: 'static>(&self, pending: Completion<V>, done: impl FnOnce(V) -> Done + 'static) {
        let (queue, notify) = (self.done.clone(), self.notify.clone());
        self.world.spawn(async move {
            let value = pending.await;
            queue.borrow_mut().push(done(value));
            notify.notify();
        });
    }
}

/// Sends what is in `out`, PDU by PDU.
fn send(end: &End, out: &mut Output, digests: Digests) {
    let mut bytes = Vec::new();
    while !out.is_empty() {
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = out.slices(&mut slices);
        let count = slices[..filled].iter().map(|slice| slice.len()).sum();
        slices[..filled].iter().for_each(|slice| bytes.extend_from_slice(slice));
        out.advance(count);
    }
    let mut rest = bytes.as_slice();
    while rest.len() >= HEADER {
        let (pdu, tail) = rest.split_at(digests.len_of(rest));
        end.send(pdu, digests);
        rest = tail;
    }
}
