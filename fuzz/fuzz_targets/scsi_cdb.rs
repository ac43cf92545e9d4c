//! Any commands with any data, from two nexuses, with task management between them: no panic, an answer for each, only requests that a
//! device may get, sense data with CHECK CONDITION alone, and a saved state that can be read again.
#![no_main]

use base::Reader;
use block::{Allocation, BlockDevice, Error, Geometry, Kind, LEND_BYTES_MAX, Lent, Reply, Request, Segment, Status};
use bytes::Bytes;
use drystone_fuzz::bounded;
use libfuzzer_sys::fuzz_target;
use scsi::{Attribute, Command, Ended, Function, Host, Identity, LogicalUnit, Nexus, Target};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use world::{Completion, LocalFuture};

const SIZE: u64 = 128 << 10;
const TRANSFER: u32 = 64 << 10;
const ATOMIC: u32 = 16 << 10;

/// With its sector; one of 512 lends and takes what it has.
struct Device(u32);

/// What is lent: where it begins, and how long it is.
struct Range(u64, u64);

impl BlockDevice for Device {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: SIZE,
            sector_bytes: self.0,
            preferred_bytes: 4096,
            transfer_bytes_max: TRANSFER,
            atomic_bytes_max: ATOMIC,
            read_only: false,
        }
    }
    fn submit(&self, request: Request) -> Completion<block::Result<Reply>> {
        Completion::Ready(answer(&request))
    }
    fn lend(&self, offset: u64, len: u32) -> Completion<block::Result<Lent>> {
        is_whole_blocks(offset, len.into());
        Completion::Ready(match offset / 4096 % 7 {
            _ if self.0 != 512 => Err(Error::new(Kind::Unsupported, "not this one")),
            3 => Err(Error::new(Kind::Corrupt, "rot")),
            _ => Ok(Lent(Rc::new(Range(offset, len.into())))),
        })
    }
    fn take(&self, offset: u64, lent: Lent) -> Completion<block::Result<()>> {
        let Range(from, len) = *lent.0.downcast::<Range>().expect("only devices like this one lend");
        is_whole_blocks(offset, len);
        Completion::Ready(match (offset / 4096 + from / 4096) % 11 {
            3 => Err(Error::new(Kind::Full, "no room")),
            5 => Err(Error::new(Kind::Io, "the disk is gone")),
            7 => Err(Error::new(Kind::Unsupported, "not here")),
            _ => Ok(()),
        })
    }
}

fn is_whole_blocks(offset: u64, len: u64) {
    let is_right = offset % 4096 == 0 && len % 4096 == 0 && (1..=LEND_BYTES_MAX.into()).contains(&len);
    assert!(is_right && offset + len <= SIZE, "{offset}+{len}");
}

/// Checks what a device relies on, and answers: by content, by holes, or with an error, all from the offset.
fn answer(request: &Request) -> block::Result<Reply> {
    let (offset, len, most) = match request {
        Request::Flush => (0, 512, u64::MAX),
        Request::Read { offset, len } => (*offset, u64::from(*len), TRANSFER.into()),
        Request::Write { offset, data, .. } => (*offset, data.len() as u64, TRANSFER.into()),
        Request::OrWrite { offset, data, .. } => (*offset, data.len() as u64, ATOMIC.into()),
        Request::CompareAndWrite { offset, expected, data, .. } => {
            assert_eq!(expected.len(), data.len());
            (*offset, data.len() as u64, ATOMIC.into())
        }
        Request::Trim { offset, len, .. }
        | Request::WriteZeroes { offset, len, .. }
        | Request::Prefetch { offset, len }
        | Request::BlockStatus { offset, len, .. } => (*offset, *len, u64::MAX),
    };
    assert!(offset % 512 == 0 && len % 512 == 0 && len <= most && offset + len <= SIZE, "{request:?}");
    if offset % 7 == 3 {
        return Err(Error::new(Kind::Corrupt, "rot").at(offset + offset % len.max(1)));
    }
    Ok(match request {
        Request::Read { .. } => {
            let run = |at: u64| match at / 512 % 5 {
                0 | 1 => Segment::Zeros(512),
                _ => Segment::Bytes(vec![at as u8; 512].into()),
            };
            Reply::Data((0..len / 512).map(|sector| run(offset + sector * 512)).collect())
        }
        Request::BlockStatus { extents_max, .. } => {
            let run = |index: u64| Status {
                len: 4096.min(len - index * 4096),
                allocation: [Allocation::Data, Allocation::Hole, Allocation::Zero][index as usize % 3],
            };
            Reply::Status((0..len.div_ceil(4096)).map(run).take(*extents_max as usize).collect())
        }
        _ => Reply::Done,
    })
}

#[derive(Default)]
struct Keeper {
    saved: RefCell<Vec<u8>>,
    tasks: RefCell<Vec<LocalFuture<()>>>,
}

impl Host for Keeper {
    fn save_state(&self, bytes: Vec<u8>) -> Completion<block::Result<()>> {
        self.saved.replace(bytes);
        Completion::Ready(Ok(()))
    }
    fn open(&self, designator: &[u8], _initiator_port: &str) -> Completion<Option<Rc<dyn BlockDevice>>> {
        let found = designator.first() == Some(&0x31);
        let sector_bytes = if designator.get(1).is_some_and(|byte| byte % 2 == 1) { 512 } else { 4096 };
        Completion::Ready(found.then(|| Rc::new(Device(sector_bytes)) as Rc<dyn BlockDevice>))
    }
    fn sleep(&self, _duration_ns: u64) -> LocalFuture<()> {
        Box::pin(std::future::ready(()))
    }
    fn spawn(&self, task: LocalFuture<()>) {
        self.tasks.borrow_mut().push(task);
    }
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn finish<F: Future + Unpin>(keeper: &Keeper, mut future: F) -> F::Output {
    for _ in 0..64 {
        if let Poll::Ready(value) = poll(&mut future) {
            return value;
        }
        for mut task in std::mem::take(&mut *keeper.tasks.borrow_mut()) {
            if poll(&mut task).is_pending() {
                keeper.tasks.borrow_mut().push(task);
            }
        }
    }
    panic!("it waits for ever");
}

fn unit(keeper: &Rc<Keeper>, sector_bytes: u32) -> Rc<LogicalUnit> {
    let identity = Identity { id: 1, realm: 2, name: "fuzz".into(), target_name: "iqn.fuzz".into() };
    let saved = keeper.saved.borrow().clone();
    LogicalUnit::new(Rc::new(Device(sector_bytes)), identity, keeper.clone(), &saved).expect("it was saved here")
}

/// One step of the input: a command with its data, or something else that happens.
fn step(
    reader: &mut Reader<'_>,
    target: &Rc<Target>,
    nexuses: &mut [Nexus; 2],
    keeper: &Keeper,
    tag: u64,
) -> Option<()> {
    let [kind, cdb_bytes, data_bytes] = reader.array::<3>().ok()?;
    let who = usize::from(kind & 1);
    let lun = if kind & 0x0e == 0x0e { [0, 1, 0, 0, 0, 0, 0, 0] } else { [0; 8] };
    let function = match kind >> 4 {
        0 => {
            nexuses[who] = target.nexus(["iqn.a,i,0x800000000000", "iqn.b,i,0x800000000001"][who], 1);
            return Some(());
        }
        1 => Some(Function::LogicalUnitReset),
        2 => Some(Function::AbortTask { tag: tag.saturating_sub(1) }),
        3 => Some(Function::ClearTaskSet),
        _ => None,
    };
    if let Some(function) = function {
        finish(keeper, nexuses[who].manage(function, lun));
        return Some(());
    }
    let cdb = reader.take(usize::from(cdb_bytes % 33)).ok()?;
    let data = reader.take(usize::from(data_bytes).min(reader.rest().len())).ok()?;
    // Whole blocks are too long for an input: the data is repeated up to what is offered.
    let offered = if kind & 0x10 != 0 { data.len() } else { data.len().div_ceil(4) * 512 };
    let all: Vec<u8> = data.iter().copied().cycle().take(if data.is_empty() { 0 } else { offered }).collect();
    let attribute =
        [Attribute::Simple, Attribute::Ordered, Attribute::HeadOfQueue, Attribute::Simple][usize::from(kind >> 2 & 3)];
    let command = Command { tag, lun, cdb, attribute, data_out_offered: all.len() as u32 };
    let task = nexuses[who].start(command);
    let wanted = (task.data_out_bytes() as usize).min(all.len());
    match finish(keeper, task.run(Bytes::copy_from_slice(&all[..wanted]))) {
        Ended::Response(response) => {
            assert_eq!(response.status == scsi::Status::CheckCondition, response.sense.is_some());
            assert!(response.data.is_empty() || response.status == scsi::Status::Good);
        }
        Ended::Aborted => panic!("nobody aborted it"),
    }
    Some(())
}

fuzz_target!(|input: &[u8]| bounded(input, one));

fn one(input: &[u8]) {
    let Some((first, input)) = input.split_first() else { return };
    let sector_bytes = if first % 2 == 0 { 512 } else { 4096 };
    let keeper = Rc::new(Keeper::default());
    let target = Target::new(BTreeMap::from([(0, unit(&keeper, sector_bytes))]));
    let mut nexuses = [target.nexus("iqn.a,i,0x800000000000", 1), target.nexus("iqn.b,i,0x800000000001", 1)];
    let mut reader = Reader::new(input);
    let mut tag = 0;
    while step(&mut reader, &target, &mut nexuses, &keeper, tag).is_some() {
        tag += 1;
    }
    // A restart understands whatever was kept.
    unit(&keeper, sector_bytes);
}
