//! An initiator, written from RFC 7143 and without the codec: one session to one portal, which is begun again whenever its
//! connection is lost.

use super::network::End;
use super::target::{NAME, Portal};
use base::crc::crc32c;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
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
    /// It may be aborted on its way.
    pub abort: bool,
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
    sent: Option<Sent>,
    answer: OneshotSender<Answer>,
}

/// What is known of a command that was sent.
struct Sent {
    data: Vec<u8>,
}

struct State {
    queue: VecDeque<Outstanding>,
    under_way: BTreeMap<u32, Outstanding>,
    /// Functions under way: their task tag, and the command that they abort.
    aborting: BTreeMap<u32, u32>,
    number: u32,
    window_end: u32,
    status: Option<u32>,
    tag: u32,
}

pub struct Initiator {
    world: World,
    portal: Rc<Portal>,
    isid: [u8; 6],
    state: RefCell<State>,
    notify: Rc<Notify>,
    header_digest: Cell<bool>,
    data_digest: Cell<bool>,
}

impl Initiator {
    pub fn start(world: World, portal: Rc<Portal>, port: u8) -> Rc<Initiator> {
        let state = State {
            queue: VecDeque::new(),
            under_way: BTreeMap::new(),
            aborting: BTreeMap::new(),
            number: 1,
            window_end: 0,
            status: None,
            tag: 0,
        };
        let initiator = Rc::new(Initiator {
            world: world.clone(),
            portal,
            isid: [0x80, 0, 0, 0, 0, port],
            state: RefCell::new(state),
            notify: Notify::new(),
            header_digest: Cell::new(false),
            data_digest: Cell::new(false),
        });
        // The device and its sessions live as long as the node.
        let running = initiator.clone();
        world.spawn(async move { running.run().await });
        initiator
    }

    pub fn submit(&self, command: Command) -> OneshotReceiver<Answer> {
        let (answer, answered) = oneshot();
        self.state.borrow_mut().queue.push_back(Outstanding { command, sent: None, answer });
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
            if !self.log_in(&end).await {
                self.world.clock.sleep(1_000_000).await;
                continue;
            }
            // Now nothing of the old session is under way any more.
            for outstanding in lost.drain(..) {
                outstanding.answer.send(Answer::Unknown("the connection was lost"));
            }
            self.serve(&end).await;
            end.lose();
            let mut state = self.state.borrow_mut();
            lost.extend(std::mem::take(&mut state.under_way).into_values());
            state.aborting.clear();
        }
    }

    /// False: the connection was lost meanwhile.
    async fn log_in(&self, end: &End) -> bool {
        let choose = |bound| self.portal.weather().below(bound);
        let (header, data) = (choose(3) != 0, choose(3) != 0);
        let digest = |on: bool| if on { "CRC32C" } else { "None" };
        let keys = [
            "InitiatorName=iqn.2000-01.sim:host".to_string(),
            format!("TargetName={NAME}"),
            format!("HeaderDigest={}", digest(header)),
            format!("DataDigest={}", digest(data)),
            format!("InitialR2T={}", if choose(2) == 0 { "Yes" } else { "No" }),
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
            state.status = None;
            pdu = pdu.word(24, state.number);
        }
        let text: Vec<u8> = keys.iter().flat_map(|key| [key.as_bytes(), &[0]].concat()).collect();
        self.header_digest.set(false);
        self.data_digest.set(false);
        end.send(&self.encode(pdu, &text), false);
        let mut buffer = Vec::new();
        let answer = loop {
            buffer.extend(end.receive());
            match self.decode(&mut buffer) {
                Some(answer) => break answer.expect("nothing damages a login"),
                None if end.has_bytes() => {}
                None if end.is_lost() => return false,
                None => self.notify.notified().await,
            }
        };
        assert!(buffer.is_empty() && answer.0.0[36..38] == [0, 0], "the login was refused");
        self.header_digest.set(header);
        self.data_digest.set(data);
        self.noted(&answer.0);
        true
    }

    /// Until the connection is lost, or something that arrived is damaged.
    async fn serve(&self, end: &End) {
        let mut buffer = Vec::new();
        loop {
            self.send_what_may_be_sent(end);
            loop {
                match self.decode(&mut buffer) {
                    None => break,
                    Some(Some((pdu, data))) => self.arrived(end, &pdu, data),
                    // ErrorRecoveryLevel 0: begin anew.
                    Some(None) => return,
                }
            }
            if end.has_bytes() {
                buffer.extend(end.receive());
            } else if end.is_lost() || !self.told_in_time().await {
                return;
            }
        }
    }

    /// False: what is under way takes too long. A length that was damaged leaves both sides waiting for each other.
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
            state.tag = (state.tag + 1) & 0x0fff_ffff;
            let (task, number) = (state.tag, state.number);
            state.number = number.wrapping_add(1);
            let command = &outstanding.command;
            let len = command.data_out.len() as u32;
            let immediate = self.portal.weather().below(u64::from(len.min(FIRST_BURST)) + 1) as usize;
            let flags = if len > 0 { 0xa1 } else { 0xc1 };
            let mut pdu = Pdu::new(0x01, flags).word(16, task).word(24, number);
            pdu = pdu.word(20, if len > 0 { len } else { command.expected_in });
            pdu.0[32..48].copy_from_slice(&command.cdb);
            let bytes = self.encode(pdu, &command.data_out[..immediate]);
            let abort = command.abort;
            outstanding.sent = Some(Sent { data: Vec::new() });
            state.under_way.insert(task, outstanding);
            drop(state);
            self.send(end, &bytes);
            if abort {
                self.abort(end, task, number);
            }
        }
    }

    /// ABORT TASK, once or twice, sometimes with a number of its own.
    fn abort(&self, end: &End, task: u32, number: u32) {
        for _ in 0..1 + self.portal.weather().below(2) {
            let mut state = self.state.borrow_mut();
            state.tag = (state.tag + 1) & 0x0fff_ffff;
            let own = state.tag;
            state.aborting.insert(own, task);
            let opcode = if state.window_end == number || self.portal.weather().below(2) == 0 { 0x42 } else { 0x02 };
            let pdu = Pdu::new(opcode, 0x81).word(16, own).word(20, task).word(24, state.number).word(32, number);
            if opcode == 0x02 {
                if state.window_end.wrapping_sub(state.number) as i32 == -1 {
                    state.aborting.remove(&own);
                    return;
                }
                state.number = state.number.wrapping_add(1);
            }
            drop(state);
            let bytes = self.encode(pdu, &[]);
            self.send(end, &bytes);
        }
    }

    fn send(&self, end: &End, bytes: &[u8]) {
        end.send(bytes, self.header_digest.get() && self.data_digest.get());
    }

    fn arrived(&self, end: &End, pdu: &Pdu, data: Vec<u8>) {
        self.noted(pdu);
        let task = pdu.get(16);
        match pdu.0[0] {
            0x21 => self.ended(task, pdu.0[3], data.get(2..).unwrap_or_default().to_vec()),
            0x25 => {
                {
                    let mut state = self.state.borrow_mut();
                    let outstanding = state.under_way.get_mut(&task).expect("data for a command that was asked for");
                    let sent = outstanding.sent.as_mut().expect("it was sent");
                    assert_eq!(pdu.get(40) as usize, sent.data.len(), "data comes in order");
                    sent.data.extend(data);
                    assert!(sent.data.len() <= outstanding.command.expected_in as usize, "more data than is expected");
                }
                if pdu.0[1] & 1 != 0 {
                    self.ended(task, pdu.0[3], Vec::new());
                }
            }
            0x22 => self.aborted(task, pdu.0[2]),
            0x31 => self.answer(end, pdu),
            // Damage that the target noticed; an answer for the command follows.
            0x3f => assert_eq!(pdu.0[2], 2, "the target rejects a request"),
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
        let data = outstanding.sent.map(|sent| sent.data).unwrap_or_default();
        outstanding.answer.send(Answer::Status { status, sense, data });
    }

    fn aborted(&self, own: u32, code: u8) {
        let outstanding = {
            let mut state = self.state.borrow_mut();
            let task = state.aborting.remove(&own).expect("a function that was asked for");
            match code {
                // Complete: no answer will come any more, if none came.
                0 => state.under_way.remove(&task),
                1 => {
                    // It has been answered, or another function has aborted it.
                    assert!(!state.under_way.contains_key(&task), "the target does not know a command that it has");
                    None
                }
                other => panic!("ABORT TASK ends with {other}"),
            }
        };
        if let Some(outstanding) = outstanding {
            outstanding.answer.send(Answer::Unknown("it was aborted"));
        }
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
        let parts: Vec<&[u8]> = data[offset..offset + len].chunks(SEGMENT).collect();
        let mut at = offset as u32;
        for (number, part) in parts.iter().enumerate() {
            let flags = if number + 1 == parts.len() { 0x80 } else { 0 };
            let pdu = Pdu::new(0x05, flags).word(16, task).word(20, r2t.get(20)).word(36, number as u32).word(40, at);
            let bytes = self.encode(pdu, part);
            self.send(end, &bytes);
            at += part.len() as u32;
        }
    }

    fn encode(&self, pdu: Pdu, data: &[u8]) -> Vec<u8> {
        let mut bytes = pdu.0.to_vec();
        bytes[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        if self.header_digest.get() {
            bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
        }
        let start = bytes.len();
        bytes.extend_from_slice(data);
        bytes.resize(start + data.len().next_multiple_of(4), 0);
        if self.data_digest.get() && !data.is_empty() {
            let crc = crc32c(&bytes[start..]);
            bytes.extend_from_slice(&crc.to_le_bytes());
        }
        bytes
    }

    /// The next PDU, once it is whole; `Some(None)`: a digest is wrong.
    fn decode(&self, buffer: &mut Vec<u8>) -> Option<Option<(Pdu, Vec<u8>)>> {
        let header = 48 + 4 * usize::from(self.header_digest.get());
        let basic: [u8; 48] = *buffer.get(..header)?.first_chunk()?;
        if self.header_digest.get() && buffer[48..52] != crc32c(&basic).to_le_bytes() {
            return Some(None);
        }
        let len = u32::from_be_bytes([0, basic[5], basic[6], basic[7]]) as usize;
        let padded = len.next_multiple_of(4);
        let digest = 4 * usize::from(self.data_digest.get() && len > 0);
        let whole = buffer.get(header..header + padded + digest)?;
        let (data, crc) = whole.split_at(padded);
        if digest > 0 && crc != crc32c(data).to_le_bytes() {
            return Some(None);
        }
        let data = data[..len].to_vec();
        buffer.drain(..header + padded + digest);
        Some(Some((Pdu(basic), data)))
    }
}

struct Pdu([u8; 48]);

impl Pdu {
    fn new(opcode: u8, flags: u8) -> Pdu {
        let mut basic = [0; 48];
        (basic[0], basic[1]) = (opcode, flags);
        Pdu(basic)
    }
    fn word(mut self, at: usize, value: u32) -> Pdu {
        self.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
        self
    }
    fn get(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }
}
