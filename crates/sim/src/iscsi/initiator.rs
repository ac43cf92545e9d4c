//! An initiator, written from RFC 7143 and without the codec: one session to one portal, which is begun again whenever its
//! connection is lost.
//!
//! It knows what was done to its PDUs on their way, so that it can tell what the target must not answer.

mod manage;

use super::network::{End, Sent};
use super::pdu::{Digests, Pdu};
use super::target::{NAME, Portal};
use bytes::Bytes;
use manage::Managing;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use world::World;
use world::local::{Notify, OneshotReceiver, OneshotSender, oneshot};

const FIRST_BURST: u32 = 4096;
const BURST: u32 = 8192;
const SEGMENT: usize = 4096;
/// Linux gives a command half a minute.
const PATIENCE_NS: u64 = 30_000_000_000;

/// A command as it is asked for.
pub struct Command {
    pub cdb: [u8; 16],
    pub data_out: Bytes,
    pub expected_in: u32,
}

impl Command {
    /// Byte on the medium where a write begins, and what it writes there.
    fn written(&self) -> Option<(u64, &[u8])> {
        let lba = u64::from_be_bytes(self.cdb[2..10].try_into().expect("eight bytes"));
        match self.cdb[0] {
            0x8a => Some((lba * 512, &self.data_out[..])),
            // What is compared comes first.
            0x89 => Some((lba * 512, &self.data_out[self.data_out.len() / 2..])),
            _ => None,
        }
    }
}

/// How it ended.
pub enum Answer {
    Status {
        status: u8,
        sense: Vec<u8>,
        data: Vec<u8>,
    },
    /// Its connection was lost, or it was aborted: it took effect or not.
    Unknown(&'static str),
}

struct Outstanding {
    command: Command,
    /// Data-in that has come.
    came: Vec<u8>,
    /// Some of its data-out was changed on its way.
    damaged: bool,
    /// Functions on the whole unit that had ended when this was sent, whoever sent them.
    sweeps: u64,
    /// Responses to functions that mean it.
    named: u32,
    answer: OneshotSender<Answer>,
}

struct State {
    queue: VecDeque<Outstanding>,
    under_way: BTreeMap<u32, Outstanding>,
    /// Functions under way, by their task tag.
    managing: BTreeMap<u32, Managing>,
    number: u32,
    window_end: u32,
    status: Option<u32>,
    tag: u32,
    /// A header was damaged on its way: nothing that is sent from then on must be answered.
    deaf: bool,
    /// Tags of that.
    behind: BTreeSet<u32>,
    /// Nothing came for so long that what is under way was aborted.
    asked_late: bool,
}

pub struct Initiator {
    world: World,
    portal: Rc<Portal>,
    isid: [u8; 6],
    state: RefCell<State>,
    notify: Rc<Notify>,
    digests: Cell<Digests>,
    /// Data may be sent unasked behind a command.
    unsolicited: Cell<bool>,
}

impl Initiator {
    pub fn start(world: World, portal: Rc<Portal>, port: u8) -> Rc<Initiator> {
        let state = State {
            queue: VecDeque::new(),
            under_way: BTreeMap::new(),
            managing: BTreeMap::new(),
            number: 1,
            window_end: 0,
            status: None,
            tag: 0,
            deaf: false,
            behind: BTreeSet::new(),
            asked_late: false,
        };
        let initiator = Rc::new(Initiator {
            world: world.clone(),
            portal,
            isid: [0x80, 0, 0, 0, 0, port],
            state: RefCell::new(state),
            notify: Notify::new(),
            digests: Cell::default(),
            unsolicited: Cell::new(false),
        });
        // The device and its sessions live as long as the node.
        let running = initiator.clone();
        world.spawn(async move { running.run().await });
        initiator
    }

    pub fn submit(&self, command: Command) -> OneshotReceiver<Answer> {
        let (answer, answered) = oneshot();
        let outstanding = Outstanding { command, came: Vec::new(), damaged: false, sweeps: 0, named: 0, answer };
        self.state.borrow_mut().queue.push_back(outstanding);
        self.notify.notify();
        answered
    }

    async fn run(&self) {
        let mut lost: Vec<Outstanding> = Vec::new();
        loop {
            // Nothing is done without need: a network that loses what nobody sends would never rest.
            while lost.is_empty() && self.state.borrow().queue.is_empty() {
                self.notify.notified().await;
            }
            let end = self.portal.connect();
            end.tell(self.notify.clone());
            let Some(behind) = self.log_in(&end).await else {
                self.world.clock.sleep(1_000_000).await;
                continue;
            };
            // Now nothing of the old session is under way any more.
            for outstanding in lost.drain(..) {
                outstanding.answer.send(Answer::Unknown("the connection was lost"));
            }
            self.serve(&end, behind).await;
            end.lose();
            let mut state = self.state.borrow_mut();
            lost.extend(std::mem::take(&mut state.under_way).into_values());
            state.managing.clear();
        }
    }

    /// What came behind the answer, as a message about a resize may. `None`: the connection was lost meanwhile.
    async fn log_in(&self, end: &End) -> Option<Vec<u8>> {
        let weather = self.portal.weather();
        let choose = |bound| weather.below(bound);
        let (header, data) = weather.digests.unwrap_or_else(|| (choose(3) != 0, choose(3) != 0));
        let initial_r2t = choose(2) == 0;
        let digest = |on: bool| if on { "CRC32C" } else { "None" };
        let keys = [
            "InitiatorName=iqn.2000-01.sim:host".to_string(),
            format!("TargetName={NAME}"),
            "iSCSIProtocolLevel=2".to_string(),
            format!("HeaderDigest={}", digest(header)),
            format!("DataDigest={}", digest(data)),
            format!("InitialR2T={}", if initial_r2t { "Yes" } else { "No" }),
            format!("FirstBurstLength={FIRST_BURST}"),
            format!("MaxBurstLength={BURST}"),
            format!("MaxRecvDataSegmentLength={SEGMENT}"),
            format!("MaxOutstandingR2T={}", 1 + choose(4)),
        ];
        let mut pdu = Pdu::new(0x43, 0x87);
        pdu.0[8..14].copy_from_slice(&self.isid);
        {
            let mut state = self.state.borrow_mut();
            state.number = 1 + choose(2) as u32 * 0xffff_fff0;
            (state.status, state.deaf, state.asked_late) = (None, false, false);
            state.behind.clear();
            pdu = pdu.word(24, state.number);
        }
        let text: Vec<u8> = keys.iter().flat_map(|key| [key.as_bytes(), &[0]].concat()).collect();
        self.digests.set(Digests::default());
        end.send(&self.digests.get().encode(&pdu, &text), Digests::default());
        let mut buffer = Vec::new();
        let answer = loop {
            buffer.extend(end.receive());
            match self.digests.get().decode(&mut buffer) {
                Some(answer) => break answer.expect("nothing damages a login"),
                None if end.has_bytes() => {}
                None if end.is_lost() => return None,
                None => self.notify.notified().await,
            }
        };
        assert_eq!(answer.0.0[36..38], [0, 0], "the login was refused");
        self.digests.set(Digests { header, data });
        self.unsolicited.set(!initial_r2t);
        self.noted(&answer.0);
        Some(buffer)
    }

    /// Until the connection is lost, or something that arrived is damaged.
    async fn serve(&self, end: &End, mut buffer: Vec<u8>) {
        loop {
            self.manage_if_due(end);
            self.send_what_may_be_sent(end);
            loop {
                match self.digests.get().decode(&mut buffer) {
                    None => break,
                    Some(Ok((pdu, data))) => self.arrived(end, &pdu, data),
                    // ErrorRecoveryLevel 0: begin anew.
                    Some(Err(_)) => {
                        assert!(end.is_damaged(), "the target's digest is wrong, and nothing was damaged on its way");
                        return;
                    }
                }
            }
            if end.has_bytes() {
                buffer.extend(end.receive());
            } else if end.is_lost() || !(self.told_in_time().await || self.abort_all(end)) {
                return;
            }
        }
    }

    /// False: what is under way takes too long. Another session's reset may have ended it, of which only a unit attention
    /// tells; or a length was damaged, and both sides wait for each other.
    async fn told_in_time(&self) -> bool {
        let mut told = pin!(self.notify.notified());
        if self.state.borrow().under_way.is_empty() {
            told.await;
            return true;
        }
        let mut late = self.world.clock.sleep(PATIENCE_NS);
        poll_fn(|context| match told.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending => late.as_mut().poll(context).map(|()| false),
        })
        .await
    }

    fn send_what_may_be_sent(&self, end: &End) {
        loop {
            let mut state = self.state.borrow_mut();
            let free = state.window_end.wrapping_sub(state.number) as i32 >= 0;
            let Some(mut outstanding) = state.queue.pop_front_if(|_| free) else { return };
            // Those that are under way may still sweep it away.
            outstanding.sweeps = self.portal.sweeps() - self.portal.sweeping.get();
            state.tag = (state.tag + 1) & 0x0fff_ffff;
            let (task, number) = (state.tag, state.number);
            state.number = number.wrapping_add(1);
            state.under_way.insert(task, outstanding);
            drop(state);
            self.send_command(end, task, number);
        }
    }

    fn send_command(&self, end: &End, task: u32, number: u32) {
        let weather = self.portal.weather();
        let (cdb, data, expected_in) = {
            let state = self.state.borrow();
            let command = &state.under_way[&task].command;
            (command.cdb, command.data_out.clone(), command.expected_in)
        };
        let manages = weather.chance(weather.manage);
        let ahead = manages && weather.chance(weather.ahead);
        if ahead {
            self.manage(end, weather.function(), Some((task, number)));
        }
        let len = data.len() as u32;
        let burst = len.min(FIRST_BURST);
        let immediate = weather.below(u64::from(burst) + 1) as usize;
        let unasked = self.unsolicited.get() && (immediate as u32) < burst && weather.below(2) == 0;
        let flags = match (len > 0, unasked) {
            (true, true) => 0x21,
            (true, false) => 0xa1,
            (false, _) => 0xc1,
        };
        let mut pdu = Pdu::new(0x01, flags).word(16, task).word(24, number);
        pdu = pdu.word(20, if len > 0 { len } else { expected_in });
        pdu.0[32..48].copy_from_slice(&cdb);
        let bytes = self.digests.get().encode(&pdu, &data[..immediate]);
        self.tag_is_sent(task);
        self.send_for(end, task, &bytes);
        if weather.chance(weather.twice) && end.send(&bytes, self.digests.get()) == Sent::HeaderDamaged {
            // It had the same number again: the target looks at the first one only.
            self.state.borrow_mut().deaf = true;
        }
        if unasked {
            self.send_data(end, task, u32::MAX, &data, immediate, burst as usize);
        }
        if manages && !ahead {
            self.manage(end, weather.function(), Some((task, number)));
        }
    }

    /// Sends a PDU that belongs to a command.
    fn send_for(&self, end: &End, task: u32, bytes: &[u8]) {
        let sent = end.send(bytes, self.digests.get());
        let mut state = self.state.borrow_mut();
        match sent {
            Sent::Whole => {}
            Sent::HeaderDamaged => {
                state.deaf = true;
                // A write may have all that it needs before this.
                if bytes[0] == 0x01 {
                    state.behind.insert(task);
                }
            }
            Sent::DataDamaged => {
                if let Some(outstanding) = state.under_way.get_mut(&task) {
                    outstanding.damaged = true;
                }
            }
        }
    }

    fn tag_is_sent(&self, tag: u32) {
        let mut state = self.state.borrow_mut();
        if state.deaf {
            state.behind.insert(tag);
        }
    }

    fn arrived(&self, end: &End, pdu: &Pdu, data: Vec<u8>) {
        self.noted(pdu);
        let task = pdu.get(16);
        {
            let mut state = self.state.borrow_mut();
            state.asked_late = false;
            let behind = state.behind.contains(&task);
            assert!(!behind, "{:#x} for tag {task}, which was sent behind a damaged header", pdu.0[0]);
        }
        match pdu.0[0] {
            0x21 => self.ended(task, pdu.0[3], data.get(2..).unwrap_or_default().to_vec()),
            0x25 => {
                {
                    let mut state = self.state.borrow_mut();
                    let outstanding = state.under_way.get_mut(&task).expect("data for a command that was asked for");
                    assert_eq!(pdu.get(40) as usize, outstanding.came.len(), "data comes in order");
                    outstanding.came.extend(data);
                    assert!(
                        outstanding.came.len() <= outstanding.command.expected_in as usize,
                        "more data than is expected"
                    );
                }
                if pdu.0[1] & 1 != 0 {
                    self.ended(task, pdu.0[3], Vec::new());
                }
            }
            0x22 => self.managed(task, pdu.0[2]),
            0x31 => self.answer(end, pdu),
            // Damage that the target noticed; an answer for the command follows.
            0x3f if pdu.0[2] == 2 => assert!(end.was_damaged(), "the target rejects what arrived as it was sent"),
            0x3f => panic!("the target rejects a request: {}", pdu.0[2]),
            0x32 => {}
            other => panic!("{other:#x} from a target"),
        }
    }

    /// Status numbers come without a gap, and the window never shrinks.
    fn noted(&self, pdu: &Pdu) {
        let mut state = self.state.borrow_mut();
        let uses_one = !matches!(pdu.0[0], 0x31) && (pdu.0[0] != 0x25 || pdu.0[1] & 1 != 0);
        if uses_one {
            if let Some(status) = state.status {
                assert_eq!(pdu.get(24), status, "a status number is missing");
            }
            state.status = Some(pdu.get(24).wrapping_add(1));
        }
        let end = pdu.get(32);
        let is_login = pdu.0[0] == 0x23;
        assert!(is_login || end.wrapping_sub(state.window_end) as i32 >= 0, "the window shrinks");
        state.window_end = end;
    }

    fn ended(&self, task: u32, status: u8, sense: Vec<u8>) {
        let outstanding = self.state.borrow_mut().under_way.remove(&task).expect("one answer for each command");
        assert!(!outstanding.damaged || status != 0, "a command whose data was damaged on its way has succeeded");
        outstanding.answer.send(Answer::Status { status, sense, data: outstanding.came });
    }

    /// Sends what an R2T asks for.
    fn answer(&self, end: &End, r2t: &Pdu) {
        let (task, offset, len) = (r2t.get(16), r2t.get(40) as usize, r2t.get(44) as usize);
        assert!(len <= BURST as usize && len > 0, "an R2T for {len} bytes");
        let Some(data) =
            self.state.borrow().under_way.get(&task).map(|outstanding| outstanding.command.data_out.clone())
        else {
            // Aborted meanwhile.
            return;
        };
        self.send_data(end, task, r2t.get(20), &data, offset, offset + len);
    }

    /// Data-Outs from `start` to `end_at` of a command's data.
    fn send_data(&self, end: &End, task: u32, transfer: u32, data: &[u8], start: usize, end_at: usize) {
        let parts: Vec<&[u8]> = data[start..end_at].chunks(SEGMENT).collect();
        let mut at = start as u32;
        for (number, part) in parts.iter().enumerate() {
            let flags = if number + 1 == parts.len() { 0x80 } else { 0 };
            let pdu = Pdu::new(0x05, flags).word(16, task).word(20, transfer).word(36, number as u32).word(40, at);
            let bytes = self.digests.get().encode(&pdu, part);
            self.send_for(end, task, &bytes);
            at += part.len() as u32;
        }
    }
}
