//! Writes that the kernel cuts short, and writes beside a change of space.

use super::*;
use crate::Directory;
use crate::worker::tests::{on_worker, test_directory};
use world::Completion;

/// Bytes that differ from block to block and within each.
fn pattern(len: usize) -> Bytes {
    (0..len).map(|at| (at % 251 + at / 4096 * 7) as u8).collect()
}

#[test]
fn short_and_interrupted_writes_go_on_where_they_stopped() {
    let content = pattern(5000);
    let parts: Vec<Bytes> = (0..200).map(|index| content.slice(index * 25..index * 25 + index % 26)).collect();
    let expect = parts.concat();
    for step in [1, 2, 24, 25, 26, 700, 100_000] {
        let mut written = Vec::new();
        let mut calls = 0;
        let result = write_all_with(1000, &parts, |slices, offset| {
            calls += 1;
            if calls % 3 == 0 {
                return Err(Errno::INTR);
            }
            assert_eq!(offset, 1000 + written.len() as u64);
            let bytes = slices.iter().flat_map(|slice| slice.iter().copied());
            let before = written.len();
            written.extend(bytes.take(step));
            Ok(written.len() - before)
        });
        assert_eq!(result, Ok(()));
        assert!(written == expect, "in steps of {step}");
    }
    let stuck = write_all_with(0, &parts, |_, _| Ok(0));
    assert_eq!(stuck, Err(Errno::IO));
}

#[test]
fn what_was_written_is_dropped_from_the_front() {
    let check = |lens: &[usize], count: usize| {
        let all = pattern(lens.iter().sum());
        let mut rest = all.clone();
        let mut parts: Vec<Bytes> = lens.iter().map(|&len| rest.split_to(len)).collect();
        drop_front(&mut parts, count);
        assert!(parts.concat() == all[count..], "{count} of {lens:?}");
        assert!(count < all.len() || parts.is_empty(), "{count} of {lens:?}");
    };
    for count in 0..=30 {
        check(&[10, 1, 19], count);
        check(&[30], count);
        check(&[1; 30], count);
    }
}

#[test]
fn writes_beside_a_change_of_space_do_not_hold_the_worker_up() {
    let directory = test_directory();
    let path = directory.path().to_owned();
    on_worker(move |context| async move {
        let disk = Directory::open(&context, &path).expect("it exists");
        let file = disk.create("file").await.expect("created");
        file.write(0, &[pattern(4 << 20)]).await.expect("written");
        let punch = file.punch(0, 2 << 20);
        let parts: Vec<Bytes> =
            (0..3000).map(|index| pattern(3000).slice(index..3000.min(index + index % 5))).collect();
        let beside = file.write(3 << 20, &parts);
        assert!(matches!(beside, Completion::Pending(_)), "the punch holds the inode");
        let nothing = file.write(3 << 20, &[Bytes::new()]);
        // Given up with its buffers: they must live on in the ring.
        drop(file.write(5 << 20, &[Bytes::from(vec![7; 64 << 10])]));
        nothing.await.expect("nothing written");
        beside.await.expect("written");
        punch.await.expect("punched");
        let expect = parts.concat();
        assert!(file.read(3 << 20, expect.len()).await.expect("read")[..] == expect[..]);
        assert!(file.read(0, 2 << 20).await.expect("read").iter().all(|&byte| byte == 0));
        assert!(matches!(file.write(0, &[pattern(1)]), Completion::Ready(Ok(()))), "inline again after the punch");
        // A punch that nobody waits for counts until the kernel is done with it.
        drop(file.punch(0, 4096));
        assert!(matches!(file.write(0, &[pattern(1)]), Completion::Pending(_)));
    });
}

#[test]
fn direct_writes_are_cut_into_parts_that_are_not_small() {
    let check = |lens: &[usize], expect: &[usize]| {
        let pages: usize = lens.iter().sum();
        let all = pattern(pages * ALIGN);
        let mut rest = all.clone();
        let parts = lens.iter().map(|&len| rest.split_to(len * ALIGN)).collect();
        let writes = side_by_side(parts);
        let lens: Vec<usize> = writes.iter().map(|write| write.iter().map(Bytes::len).sum::<usize>() / ALIGN).collect();
        assert_eq!(lens, expect, "{pages} pages");
        assert!(writes.concat().concat() == all, "{pages} pages");
    };
    check(&[64], &[64]);
    check(&[1, 64], &[65]);
    check(&[1, 64, 64, 64, 64], &[64, 64, 64, 65]);
    check(&[1, 256], &[64, 64, 64, 65]);
    check(&[127], &[127]);
    check(&[128], &[64, 64]);
    check(&[40, 40, 40, 40], &[64, 96]);
}
