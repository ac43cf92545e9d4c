//! Never: a request that takes effect out of its turn, or not at all because nobody waited for it.

use crate::machine::{Machine, content};
use base::units::BLOCK;
use block::{Reply, Request, Segment, WriteZeroes};
use std::rc::Rc;
use vdisk::Vdisk;

/// What leaves zeros in blocks 1 to 4.
fn clearing() -> [Request; 3] {
    let (offset, len) = (BLOCK, 4 * BLOCK);
    let zeroes = |how| Request::WriteZeroes { offset, len, how, fua: false };
    [Request::Trim { offset, len, fua: false }, zeroes(WriteZeroes::Unmap), zeroes(WriteZeroes::KeepAllocated)]
}

fn write(block: u64, tag: u64) -> Request {
    Request::Write { offset: block * BLOCK, data: content(block, tag), fua: false }
}

/// Writes 1 to blocks 0 to 5, then hands in these requests; `heard`: the first one is waited for after the others.
fn submit(requests: [Request; 2], heard: bool) -> (Machine, Rc<Vdisk>) {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    machine.try_write(&vdisk, 0, &[1; 6]).expect("it lives").expect("room");
    let device = vdisk.device();
    machine.run(async move {
        let [first, second] = requests.map(|request| device.submit(request));
        let first = heard.then_some(first);
        second.await.expect("room");
        if let Some(first) = first {
            first.await.expect("room");
        }
    });
    (machine, vdisk)
}

#[test]
fn what_is_handed_in_first_takes_effect_first_whoever_waits() {
    for clear in clearing() {
        for heard in [true, false] {
            let (machine, vdisk) = submit([clear.clone(), write(2, 7)], heard);
            assert_eq!(machine.reads(&vdisk, 0..6), [1, 0, 7, 0, 0, 1], "{clear:?} {heard}");
            let (machine, vdisk) = submit([write(2, 7), clear.clone()], heard);
            assert_eq!(machine.reads(&vdisk, 0..6), [1, 0, 0, 0, 0, 1], "{clear:?} {heard}");
        }
    }
}

#[test]
fn ragged_edges_are_zeros_in_their_turn_too() {
    // Sectors: edges of one block, of two that meet, around whole blocks, and nothing.
    for (first, count) in [(9, 3), (12, 8), (9, 30), (8, 30), (9, 31), (10, 0)] {
        let zeroes =
            Request::WriteZeroes { offset: first * 512, len: count * 512, how: WriteZeroes::Unmap, fua: false };
        let (machine, vdisk) = submit([zeroes, write(5, 8)], false);
        let device = vdisk.device();
        let read = device.submit(Request::Read { offset: 0, len: 6 * BLOCK as u32 });
        let Ok(Reply::Data(segments)) = machine.run(read) else { panic!("readable") };
        let bytes = segments.into_iter().flat_map(|segment| match segment {
            Segment::Bytes(bytes) => bytes.to_vec(),
            Segment::Zeros(len) => vec![0; len as usize],
        });
        let mut expect: Vec<u8> = (0..6).flat_map(|block| content(block, if block == 5 { 8 } else { 1 })).collect();
        expect[(first * 512) as usize..((first + count) * 512) as usize].fill(0);
        assert!(bytes.collect::<Vec<u8>>() == expect, "{first} {count}");
    }
}
