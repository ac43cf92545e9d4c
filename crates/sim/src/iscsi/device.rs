//! A block device over two iSCSI paths: requests become SCSI commands, answers become replies again.

use super::initiator::{Answer, Command, Initiator};
use super::target::Portal;
use crate::rng::Rng;
use block::{Allocation, BlockDevice, Error, Geometry, Kind, Reply, Request, Result, Segment, Status, WriteZeroes};
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;
use world::{Completion, World};

/// How often a request that changes nothing is sent again.
const TRIES_MAX: u32 = 200;
/// Commands that name a number of blocks in one byte or two are not asked for more than this.
const BYTES_MAX: u64 = 4 << 20;

pub struct Device {
    paths: Vec<Rc<Initiator>>,
    /// What is behind it: tells the size, and takes what SCSI has no words for.
    direct: Rc<dyn BlockDevice>,
    rng: RefCell<Rng>,
}

impl Device {
    pub fn connect(world: World, portal: Rc<Portal>, direct: Rc<dyn BlockDevice>, seed: u64) -> Rc<Device> {
        // Ports that no earlier device of this run has: its sessions are not taken the place of.
        let first = portal.weather().below(120) as u8 * 2;
        let paths = (first..first + 2).map(|port| Initiator::start(world.clone(), portal.clone(), port)).collect();
        Rc::new(Device { paths, direct, rng: RefCell::new(Rng::new(seed, 0xd3f1)) })
    }

    fn path(&self) -> Rc<Initiator> {
        let path = self.rng.borrow_mut().below(self.paths.len() as u64);
        self.paths[path as usize].clone()
    }
}

impl BlockDevice for Device {
    fn geometry(&self) -> Geometry {
        self.direct.geometry()
    }

    fn submit(&self, request: Request) -> Completion<Result<Reply>> {
        let geometry = self.geometry();
        let Some(plan) = Plan::of(&request, &geometry) else { return self.direct.submit(request) };
        let path = self.path();
        let sector = u64::from(geometry.sector_bytes);
        Completion::pending(async move {
            let mut tries = 0;
            loop {
                tries += 1;
                let answer = plan.run(&path).await;
                let retry = match &answer {
                    Err(error) => !plan.changes && error.kind == Kind::Unavailable,
                    Ok(Told::Attention | Told::Full) => true,
                    Ok(_) => false,
                };
                match answer {
                    _ if retry && tries < TRIES_MAX => {}
                    Ok(Told::Attention | Told::Full) => {
                        return Err(Error::new(Kind::Unavailable, "refused without end"));
                    }
                    Ok(Told::Good(data)) => return Ok(plan.reply(&request, data, sector)),
                    Err(error) => return Err(error),
                }
            }
        })
    }
}

/// A command for a request.
struct Plan {
    cdb: [u8; 16],
    data_out: Bytes,
    expected_in: u32,
    changes: bool,
    /// Where a comparison begins.
    offset: u64,
    /// Another command that has to follow: a flush, for FUA where the command has none.
    flush: bool,
}

enum Told {
    Good(Vec<u8>),
    Attention,
    /// There was no room for it: nothing was done.
    Full,
}

impl Plan {
    /// `None`: SCSI has no words for it.
    fn of(request: &Request, geometry: &Geometry) -> Option<Plan> {
        let sector = u64::from(geometry.sector_bytes);
        let fits = |offset: u64, len: u64| offset % sector == 0 && len % sector == 0 && len > 0 && len <= BYTES_MAX;
        let plan = |code: u8, offset: u64, len: u64| {
            let mut cdb = [0; 16];
            cdb[0] = code;
            cdb[2..10].copy_from_slice(&(offset / sector).to_be_bytes());
            cdb[10..14].copy_from_slice(&((len / sector) as u32).to_be_bytes());
            Plan { cdb, data_out: Bytes::new(), expected_in: 0, changes: true, offset, flush: false }
        };
        let force = |mut plan: Plan, fua: bool| {
            plan.cdb[1] |= if fua { 8 } else { 0 };
            plan
        };
        Some(match request {
            Request::Read { offset, len } if fits(*offset, (*len).into()) => {
                Plan { expected_in: *len, changes: false, ..plan(0x88, *offset, (*len).into()) }
            }
            Request::Write { offset, data, fua } if fits(*offset, data.len() as u64) => {
                Plan { data_out: data.clone(), ..force(plan(0x8a, *offset, data.len() as u64), *fua) }
            }
            Request::Flush => Plan { changes: false, ..plan(0x91, 0, 0) },
            // UNMAP zeroes ragged edges too, which a trim leaves as they are.
            Request::Trim { offset, len, fua } if fits(*offset, *len) && (offset | len) % 4096 == 0 => {
                let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
                list.extend((offset / sector).to_be_bytes());
                list.extend(((len / sector) as u32).to_be_bytes());
                list.extend([0; 4]);
                let mut cdb = [0; 16];
                (cdb[0], cdb[8]) = (0x42, list.len() as u8);
                Plan { cdb, data_out: list.into(), flush: *fua, ..plan(0, *offset, *len) }
            }
            Request::WriteZeroes { offset, len, how, fua } if fits(*offset, *len) => {
                let unmap = if *how == WriteZeroes::Unmap { 8 } else { 0 };
                let mut plan =
                    Plan { data_out: vec![0; sector as usize].into(), flush: *fua, ..plan(0x93, *offset, *len) };
                plan.cdb[1] = unmap;
                plan
            }
            Request::CompareAndWrite { offset, expected, data, fua }
                if fits(*offset, data.len() as u64) && data.len() as u64 / sector <= 255 =>
            {
                let mut plan = force(plan(0x89, *offset, 0), *fua);
                plan.cdb[13] = (data.len() as u64 / sector) as u8;
                Plan { data_out: [expected.as_ref(), data.as_ref()].concat().into(), ..plan }
            }
            Request::OrWrite { offset, data, fua } if fits(*offset, data.len() as u64) => {
                Plan { data_out: data.clone(), ..force(plan(0x8b, *offset, data.len() as u64), *fua) }
            }
            Request::BlockStatus { offset, len, extents_max } if fits(*offset, *len) => {
                let room = 8 + 16 * (*extents_max).clamp(1, 64);
                let mut plan = Plan { expected_in: room, changes: false, ..plan(0x9e, *offset, 0) };
                plan.cdb[1] = 0x12;
                plan.cdb[10..14].copy_from_slice(&room.to_be_bytes());
                plan
            }
            _ => return None,
        })
    }

    async fn run(&self, path: &Rc<Initiator>) -> Result<Told> {
        let told = self.ask(path, self.cdb, self.data_out.clone()).await?;
        if self.flush && matches!(told, Told::Good(_)) {
            let mut cdb = [0; 16];
            cdb[0] = 0x91;
            loop {
                match self.ask(path, cdb, Bytes::new()).await {
                    Ok(Told::Good(_)) => break,
                    Ok(Told::Attention | Told::Full) => {}
                    // Flushing again changes nothing.
                    Err(error) if error.kind == Kind::Unavailable => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(told)
    }

    async fn ask(&self, path: &Rc<Initiator>, cdb: [u8; 16], data_out: Bytes) -> Result<Told> {
        let command = Command { cdb, data_out, expected_in: self.expected_in };
        let answer = path.submit(command).await.unwrap_or(Answer::Unknown("the node has gone"));
        match answer {
            Answer::Unknown(why) => Err(Error::new(Kind::Unavailable, why)),
            Answer::Status { status: 0, data, .. } => Ok(Told::Good(data)),
            Answer::Status { status: 2, sense, .. } if sense.get(2) == Some(&6) => Ok(Told::Attention),
            Answer::Status { status: 2, sense, .. } => Err(self.error(&sense)),
            Answer::Status { status: 0x28, .. } => Ok(Told::Full),
            Answer::Status { status, .. } => panic!("status {status:#x} of {:#x}", self.cdb[0]),
        }
    }

    /// Fixed format sense data.
    fn error(&self, sense: &[u8]) -> Error {
        let byte = |at: usize| sense.get(at).copied().unwrap_or(0);
        let (key, code, qualifier) = (byte(2), byte(12), byte(13));
        let information = u64::from(u32::from_be_bytes([byte(3), byte(4), byte(5), byte(6)]));
        let kind = match (key, code, qualifier) {
            (0x0e, ..) => Kind::Miscompare,
            (0x07, 0x27, 0x07) => Kind::Full,
            (0x07, ..) => Kind::ReadOnly,
            (0x03, ..) => Kind::Corrupt,
            (0x04, ..) => Kind::Io,
            (0x05, ..) => Kind::Invalid,
            // Not ready, and what was damaged on its way.
            _ => Kind::Unavailable,
        };
        let error = Error::new(kind, format!("sense {key:x}/{code:02x}/{qualifier:02x} of {:#x}", self.cdb[0]));
        if kind == Kind::Miscompare { error.at(self.offset + information) } else { error }
    }

    fn reply(&self, request: &Request, data: Vec<u8>, sector: u64) -> Reply {
        match request {
            Request::Read { .. } => Reply::Data(vec![Segment::Bytes(data.into())]),
            Request::BlockStatus { offset, len, .. } => Reply::Status(statuses(&data, *offset, *len, sector)),
            _ => Reply::Done,
        }
    }
}

/// LBA status descriptors (SBC-3 5.5), cut to the range that was asked for.
fn statuses(data: &[u8], offset: u64, len: u64, sector: u64) -> Vec<Status> {
    let mut left = len;
    let mut at = offset;
    let mut found = Vec::new();
    for descriptor in data.get(8..).unwrap_or_default().chunks_exact(16) {
        if left == 0 {
            break;
        }
        let lba = u64::from_be_bytes(descriptor[..8].try_into().expect("eight bytes"));
        let blocks = u32::from_be_bytes(descriptor[8..12].try_into().expect("four bytes"));
        assert_eq!(lba * sector, at, "LBA status descriptors are in order and without a gap");
        let covered = (u64::from(blocks) * sector).min(left);
        let allocation = match descriptor[12] & 0x0f {
            0 => Allocation::Data,
            1 => Allocation::Hole,
            2 => Allocation::Zero,
            other => panic!("provisioning status {other}"),
        };
        if covered > 0 {
            found.push(Status { len: covered, allocation });
        }
        (at, left) = (at + covered, left - covered);
    }
    found
}
