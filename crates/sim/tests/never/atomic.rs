//! Never: a part of what is to be whole. Requests that compare first, writes of several blocks, readers beside them.

use crate::machine::{Machine, content};
use crate::tap::{Fate, Verb};
use base::units::{BLOCK, KIB, MIB};
use block::{Error, Kind, Reply, Request};
use bytes::Bytes;
use std::rc::Rc;
use vdisk::Vdisk;
use vdisk::log::frame::RunKind;

type Answer = block::Result<Reply>;

/// All of them are submitted before the first is waited for.
fn submit(machine: &Machine, vdisk: &Rc<Vdisk>, requests: Vec<Request>) -> Vec<Answer> {
    let device = vdisk.device();
    machine.run(async move {
        let submitted: Vec<_> = requests.into_iter().map(|request| device.submit(request)).collect();
        let mut answers = Vec::new();
        for completion in submitted {
            answers.push(completion.await);
        }
        answers
    })
}

fn one(machine: &Machine, vdisk: &Rc<Vdisk>, request: Request) -> Answer {
    submit(machine, vdisk, vec![request]).pop().expect("one answer")
}

fn bytes(machine: &Machine, vdisk: &Rc<Vdisk>, offset: u64, len: u64) -> Vec<u8> {
    let Ok(Reply::Data(segments)) = one(machine, vdisk, Request::Read { offset, len: len as u32 }) else {
        panic!("readable")
    };
    let all = segments.into_iter().flat_map(|segment| match segment {
        block::Segment::Bytes(bytes) => bytes.to_vec(),
        block::Segment::Zeros(len) => vec![0; len as usize],
    });
    all.collect()
}

fn full(byte: u8, len: u64) -> Bytes {
    vec![byte; len as usize].into()
}

fn compare_and_write(offset: u64, expected: Bytes, data: Bytes) -> Request {
    Request::CompareAndWrite { offset, expected, data, fua: false }
}

fn miscompare_at(answer: &Answer) -> Option<u64> {
    match answer {
        Err(Error { kind: Kind::Miscompare, at, .. }) => *at,
        _ => None,
    }
}

#[test]
fn only_what_is_as_expected_is_replaced() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    // Sectors 7 to 10: the end of one block, the beginning of the next.
    let (offset, len) = (7 * 512, 4 * 512);
    one(&machine, &vdisk, compare_and_write(offset, full(0, len), full(1, len))).expect("it was never written");
    let mut expected = vec![1; len as usize];
    expected[1300] = 9;
    let refused = one(&machine, &vdisk, compare_and_write(offset, expected.into(), full(2, len)));
    assert_eq!(miscompare_at(&refused), Some(offset + 1300), "{refused:?}");
    let all = [vec![0; offset as usize], vec![1; len as usize], vec![0; 5 * 512]].concat();
    assert_eq!(bytes(&machine, &vdisk, 0, 2 * BLOCK), all, "nothing else was touched");
    let or = Request::OrWrite { offset: 0, data: full(6, BLOCK), fua: true };
    one(&machine, &vdisk, or).expect("room");
    let vdisk = machine.restart();
    let all = [vec![6; offset as usize], vec![7; 512], vec![1; 3 * 512], vec![0; 5 * 512]].concat();
    assert_eq!(bytes(&machine, &vdisk, 0, 2 * BLOCK), all);
}

#[test]
fn what_was_submitted_before_is_what_is_compared_with() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    let write = |byte| Request::Write { offset: 0, data: full(byte, BLOCK), fua: false };
    let swap = |from, to| compare_and_write(512, full(from, 512), full(to, 512));
    let answers = submit(&machine, &vdisk, vec![write(1), swap(1, 2), swap(1, 3), swap(2, 4), write(5), swap(4, 6)]);
    let lost: Vec<Option<u64>> = answers.iter().map(miscompare_at).collect();
    assert_eq!(lost, [None, None, Some(512), None, None, Some(512)], "{answers:?}");
    assert!(answers.iter().enumerate().all(|(i, answer)| answer.is_ok() || [2, 5].contains(&i)));
    assert_eq!(bytes(&machine, &vdisk, 0, BLOCK), vec![5; BLOCK as usize]);
}

#[test]
fn of_many_who_want_to_be_first_one_is() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    let all = (1..40).map(|who| compare_and_write(0, full(0, 512), full(who, 512))).collect();
    let answers = submit(&machine, &vdisk, all);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert!(answers.iter().all(|answer| answer.is_ok() || miscompare_at(answer) == Some(0)));
}

#[test]
fn more_than_is_done_in_one_step_is_refused_and_so_is_what_does_not_match() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    let max = u64::from(vdisk.device().geometry().atomic_bytes_max);
    assert_eq!(max, 16 * KIB, "what the settings of the test leave of 128 KiB");
    for (request, legal) in [
        (compare_and_write(0, full(0, max), full(1, max)), true),
        (compare_and_write(512, full(1, max - 512), full(1, max - 512)), true),
        (compare_and_write(max + 512, full(0, max), full(1, max)), true),
        (compare_and_write(0, full(1, max + 512), full(1, max + 512)), false),
        (compare_and_write(0, full(1, 1024), full(1, 512)), false),
        (compare_and_write(4 * MIB, full(0, 512), full(1, 512)), false),
        (compare_and_write(100, full(0, 512), full(1, 512)), false),
        (Request::OrWrite { offset: 0, data: full(1, max), fua: false }, true),
        (Request::OrWrite { offset: 0, data: full(1, max + 512), fua: false }, false),
        (Request::OrWrite { offset: 0, data: Bytes::new(), fua: false }, true),
    ] {
        let answer = one(&machine, &vdisk, request.clone());
        match answer {
            Ok(Reply::Done) => assert!(legal, "{request:?}"),
            Err(error) => assert!(!legal && error.kind == Kind::Invalid, "{request:?}: {error:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_write_that_is_to_be_whole_is_one_frame_wherever_it_falls() {
    let machine = Machine::new();
    let vdisk = machine.vdisk();
    let mut writes = Vec::new();
    let mut at = 0;
    // Frames of 16 KiB: 12, 16 and 8 fit into none together; groups of 64 KiB end within them.
    for (i, blocks) in [3, 4, 2, 1, 4, 3, 3, 4].into_iter().cycle().take(60).enumerate() {
        writes.push((at, blocks, i as u64 + 1));
        at += blocks;
    }
    let request = |&(block, count, tag): &(u64, u64, u64)| {
        let data: Vec<Bytes> = (block..block + count).map(|block| content(block, tag)).collect();
        Request::Write { offset: block * BLOCK, data: data.concat().into(), fua: false }
    };
    for answer in submit(&machine, &vdisk, writes.iter().map(request).collect()) {
        answer.expect("room");
    }
    machine.flush(&vdisk);
    machine.kill();
    let frames: Vec<_> = machine.groups().iter().flat_map(|placed| machine.frames(placed)).collect();
    for (block, count, _) in &writes {
        let holds = |block: u64| {
            move |run: &vdisk::log::frame::Run| {
                run.kind == RunKind::Data && (run.block..run.block + u64::from(run.count)).contains(&block)
            }
        };
        let whole = frames.iter().any(|frame| (*block..block + count).all(|b| frame.runs.iter().any(holds(b))));
        assert!(whole, "blocks {block} to {} are in more than one frame", block + count);
    }
    machine.open();
    for (block, count, tag) in writes {
        assert_eq!(machine.reads(&machine.vdisk(), block..block + count), vec![tag; count as usize]);
    }
}

#[test]
fn a_reader_sees_all_of_a_write_or_nothing_even_if_it_has_to_wait_for_the_map() {
    // Two leaves of the map, neither in memory: the reader waits for the one, then for the other; a write of both goes by.
    for (slow_from, slow_count) in [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 3), (0, 9), (3, 2)] {
        for delay_ns in [0, 100_000, 5_000_000, 50_000_000] {
            let machine = Machine::new();
            let vdisk = machine.vdisk();
            machine.try_write(&vdisk, 255, &[1, 1]).expect("it lives").expect("room");
            machine.checkpoint(&vdisk);
            // What was looked at lately stays the first time.
            assert!((0..3).map(|_| vdisk.evict_map(u64::MAX)).sum::<u64>() > 0);
            let mut reads = 0;
            machine.tap.set_rule(move |operation| {
                let read = operation.verb == Verb::Read && operation.is_slab();
                reads += usize::from(read);
                let slow = read && (slow_from..slow_from + slow_count).contains(&(reads - 1));
                if slow { Fate::Waits } else { Fate::Happens }
            });
            let (device, clock) = (vdisk.device(), machine.world().clock);
            let reader = device.submit(Request::Read { offset: 255 * BLOCK, len: 2 * BLOCK as u32 });
            let data: Bytes = [content(255, 2), content(256, 2)].concat().into();
            let (sender, receiver) = world::local::oneshot();
            let read = async move { sender.send(reader.await) };
            machine.executor.spawn(machine.domain(), Box::pin(read));
            let answer = machine.run(async move {
                clock.sleep(delay_ns).await;
                let written = device.submit(Request::Write { offset: 255 * BLOCK, data, fua: false });
                written.await.expect("room");
                receiver.await.expect("an answer")
            });
            let Ok(Reply::Data(segments)) = answer else { panic!("{answer:?}") };
            let tags: Vec<u8> = segments
                .iter()
                .map(|segment| match segment {
                    block::Segment::Bytes(bytes) => bytes[0],
                    block::Segment::Zeros(_) => 0,
                })
                .collect();
            assert!(
                tags == [1, 1] || tags == [2, 2],
                "slow reads {slow_from}+{slow_count}, write after {delay_ns}: {tags:?}"
            );
        }
    }
}
