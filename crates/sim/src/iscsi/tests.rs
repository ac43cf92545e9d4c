//! A short history with the connection lost at every PDU in turn, and with every kind of damage.

use super::weather::{Function, Mischief};
use super::*;
use crate::executor::{Executor, Order, Stop};
use crate::journal::Journal;
use block::{Error, Geometry, Kind, Reply, Request, Segment, WriteZeroes};
use std::cell::Cell;
use std::collections::BTreeSet;
use world::Completion;

/// 64 KiB in memory, each request taking a while, in order.
struct Memory {
    world: World,
    bytes: RefCell<Vec<u8>>,
}

impl BlockDevice for Memory {
    fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: 64 << 10,
            sector_bytes: 512,
            preferred_bytes: 4096,
            transfer_bytes_max: 1 << 20,
            atomic_bytes_max: 32 << 10,
            read_only: false,
        }
    }
    fn submit(&self, request: Request) -> Completion<Result<Reply>> {
        let mut bytes = self.bytes.borrow_mut();
        fn range(bytes: &mut [u8], offset: u64, len: u64) -> &mut [u8] {
            &mut bytes[offset as usize..(offset + len) as usize]
        }
        let reply = match request {
            Request::Read { offset, len } => {
                Ok(Reply::Data(vec![Segment::Bytes(range(&mut bytes, offset, len.into()).to_vec().into())]))
            }
            Request::Write { offset, data, .. } => {
                range(&mut bytes, offset, data.len() as u64).copy_from_slice(&data);
                Ok(Reply::Done)
            }
            Request::CompareAndWrite { offset, expected, data, .. } => {
                let there = range(&mut bytes, offset, data.len() as u64);
                match *there == expected {
                    true => {
                        there.copy_from_slice(&data);
                        Ok(Reply::Done)
                    }
                    false => Err(Error::new(Kind::Miscompare, "something else").at(offset)),
                }
            }
            Request::Trim { offset, len, .. } | Request::WriteZeroes { offset, len, .. } => {
                range(&mut bytes, offset, len).fill(0);
                Ok(Reply::Done)
            }
            Request::OrWrite { offset, data, .. } => {
                range(&mut bytes, offset, data.len() as u64).iter_mut().zip(&data).for_each(|(old, new)| *old |= new);
                Ok(Reply::Done)
            }
            Request::Flush | Request::Prefetch { .. } => Ok(Reply::Done),
            Request::BlockStatus { .. } => Err(Error::new(Kind::Unsupported, "no test asks for it")),
        };
        let clock = self.world.clock.clone();
        Completion::pending(async move {
            clock.sleep(1_000_000).await;
            reply
        })
    }
}

/// What the test does, each on 16 KiB of its own: a mark, and how it gets there.
fn change(step: u64) -> Request {
    let (offset, mark) = (step % 4 * (16 << 10), step as u8 + 1);
    let data = bytes::Bytes::from(vec![mark; 12 << 10]);
    match step % 6 {
        4 => Request::WriteZeroes { offset, len: 12 << 10, how: WriteZeroes::Unmap, fua: true },
        5 => Request::Trim { offset, len: 12 << 10, fua: false },
        fua => Request::Write { offset, data, fua: fua == 0 },
    }
}

fn mark(step: u64) -> u8 {
    if step % 6 < 4 { step as u8 + 1 } else { 0 }
}

/// Runs the history in this weather; the number of PDUs it took.
fn history(weather: Weather, seed: u64, steps: u64) -> u64 {
    let executor = Executor::new(seed, Order::Seeded, Journal::new());
    let domain = executor.new_domain();
    let world = executor.world(domain, seed);
    let weather = Rc::new(weather);
    let memory = Rc::new(Memory { world: world.clone(), bytes: RefCell::new(vec![0; 64 << 10]) });
    let portal = Portal::new(world.clone(), weather.clone());
    portal.serve(memory.clone(), 7);
    let device = Device::connect(world.clone(), portal, memory, seed);
    let over = Rc::new(Cell::new(false));
    let done = over.clone();
    executor.spawn(
        domain,
        Box::pin(async move {
            // By place: what may be there.
            let mut legal: Vec<BTreeSet<u8>> = vec![BTreeSet::from([0]); 4];
            for step in 0..steps {
                let place = (step % 4) as usize;
                match device.submit(change(step)).await {
                    Ok(_) => legal[place] = BTreeSet::from([mark(step)]),
                    Err(error) if error.kind == Kind::Unavailable => drop(legal[place].insert(mark(step))),
                    Err(error) => panic!("step {step}: {error:?}"),
                }
                let offset = place as u64 * (16 << 10);
                let reply =
                    device.submit(Request::Read { offset, len: 12 << 10 }).await.expect("reads are tried again");
                let Reply::Data(segments) = reply else { panic!("{reply:?}") };
                let Segment::Bytes(bytes) = &segments[0] else { panic!("{segments:?}") };
                assert!(bytes.len() == 12 << 10 && bytes.iter().all(|byte| *byte == bytes[0]), "step {step}: torn");
                assert!(legal[place].contains(&bytes[0]), "step {step}: {} is not one of {legal:?}", bytes[0]);
                // It cannot change any more.
                legal[place] = BTreeSet::from([bytes[0]]);
            }
            done.set(true);
        }),
    );
    let stop = executor.run(1_000_000, 3_600_000_000_000, || over.get());
    assert_eq!(stop, Stop::Done, "the history hangs");
    executor.kill(domain);
    weather.pdus.get()
}

#[test]
fn a_connection_may_be_lost_at_every_pdu() {
    for seed in 0..4 {
        let pdus = history(Weather::calm(seed), seed, 12);
        assert!(pdus > 50, "{pdus} PDUs");
        for at in 0..pdus {
            for mischief in [Mischief::CutBefore, Mischief::CutInside] {
                history(Weather { planned: Some((at, mischief)), ..Weather::calm(seed) }, seed, 12);
            }
        }
    }
}

#[test]
fn every_function_may_come_behind_every_pdu() {
    for function in Function::ALL {
        let seed = function as u64;
        let pdus = history(Weather::calm(seed), seed, 12);
        for at in 0..pdus {
            history(Weather { planned: Some((at, Mischief::Manage(function))), ..Weather::calm(seed) }, seed, 12);
        }
    }
}

#[test]
fn functions_come_in_any_number_and_order() {
    for seed in 0..40 {
        let (manage, twice, ahead) = (Chance::percent(30), Chance::percent(30), Chance::HALF);
        history(Weather { manage, twice, ahead, ..Weather::calm(seed) }, seed, 40);
    }
}

#[test]
fn damage_is_noticed_and_survived() {
    for seed in 0..40 {
        let digests = Some(((seed & 1) == 0, (seed & 2) == 0));
        history(Weather { damage: Chance(50_000), digests, ..Weather::calm(seed) }, seed, 40);
    }
}

#[test]
fn rough_weather_is_survived() {
    for seed in 0..40 {
        history(Weather { damage: Chance(30_000), cut: Chance(30_000), ..Weather::calm(seed) }, seed, 40);
    }
}
