//! What is written is read, whatever the alignment; holes, ends, full disks, and futures that are given up.

use super::*;
use crate::Directory;
use crate::worker::tests::{TEST_DIRECTORY, child, on_worker, test_directory};
use base::AlignedBuffer;
use std::future::poll_fn;
use std::task::Poll;
use world::{Disk, Kind};

/// Runs `task` with a new file on a disk of its own.
fn with_file<F: Future<Output = ()> + 'static>(task: impl FnOnce(Rc<dyn Disk>, Rc<dyn File>) -> F + Send + 'static) {
    let directory = test_directory();
    let path = directory.path().to_owned();
    on_worker(move |context| async move {
        let disk = Directory::open(&context, &path).expect("it exists");
        let file = disk.create("file").await.expect("created");
        task(disk, file).await;
    });
}

/// Bytes that differ from block to block and within each.
fn pattern(len: usize) -> Bytes {
    (0..len).map(|at| (at % 251 + at / 4096 * 7) as u8).collect()
}

#[test]
fn reads_need_no_alignment_and_end_in_zeros() {
    with_file(|_, file| async move {
        let content = pattern(3 * 4096 + 1234);
        file.write(0, std::slice::from_ref(&content)).await.expect("written");
        assert_eq!(file.size_bytes(), content.len() as u64);
        let check = async |offset: usize, len: usize| {
            let mut expect = content.slice(offset.min(content.len())..(offset + len).min(content.len())).to_vec();
            expect.resize(len, 0);
            let read = file.read(offset as u64, len).await.expect("read");
            assert!(read[..] == expect[..], "{len} bytes at {offset}");
        };
        for offset in [0, 1, 511, 512, 4095, 4096, 4097, 12288, 13000, 13521, 13522, 16384, 20000, 1 << 30] {
            for len in [0, 1, 100, 512, 4096, 4097, 8192, 20000] {
                check(offset, len).await;
            }
        }
        file.sync().await.expect("synced");
        check(0, content.len()).await;
    });
}

#[test]
fn many_parts_are_written_one_behind_the_other() {
    with_file(|_, file| async move {
        let content = pattern(70_000);
        let mut parts = vec![Bytes::new()];
        let mut at = 0;
        for index in 0..500 {
            let len = index % 281;
            parts.push(content.slice(at..at + len));
            at += len;
        }
        assert!(parts.len() > 4 * 64 && at <= content.len());
        file.write(777, &parts).await.expect("written");
        file.write(9, &[]).await.expect("nothing written");
        file.write(9, &[Bytes::new(), Bytes::new()]).await.expect("nothing written");
        assert!(file.read(777, at).await.expect("read")[..] == content[..at]);
        assert_eq!(file.read(0, 777).await.expect("read")[..], [0; 777]);
        assert_eq!(file.size_bytes(), 777 + at as u64);
    });
}

#[test]
fn a_punched_range_is_zeros_and_no_data() {
    with_file(|_, file| async move {
        file.write(0, &[pattern(1 << 20)]).await.expect("written");
        file.sync().await.expect("synced");
        assert_eq!(file.data_ranges().await.expect("found"), [(0, 1 << 20)]);
        file.punch(256 << 10, 512 << 10).await.expect("punched");
        file.sync().await.expect("synced");
        assert_eq!(file.data_ranges().await.expect("found"), [(0, 256 << 10), (768 << 10, 1 << 20)]);
        let read = file.read(0, 1 << 20).await.expect("read");
        let mut expect = pattern(1 << 20).to_vec();
        expect[256 << 10..768 << 10].fill(0);
        assert!(read[..] == expect[..]);
        assert_eq!(file.size_bytes(), 1 << 20);
        file.punch(0, 0).await.expect("nothing punched");
        assert_eq!(file.punch(u64::MAX, 1).await.map_err(|error| error.kind), Err(Kind::Io));
        file.punch(1 << 40, 4096).await.expect("nothing is there to punch");
    });
}

#[test]
fn allocated_space_keeps_its_content() {
    with_file(|disk, file| async move {
        file.write(100, &[pattern(5000)]).await.expect("written");
        let before = disk.usage().await.expect("asked").free_bytes;
        file.allocate(0, 64 << 20).await.expect("allocated");
        let after = disk.usage().await.expect("asked").free_bytes;
        // Others use the disk too; but not 32 MiB in this moment.
        assert!(before.saturating_sub(after) > 32 << 20, "{before} {after}");
        assert_eq!(file.size_bytes(), 64 << 20);
        assert!(file.read(100, 5000).await.expect("read")[..] == pattern(5000)[..]);
        assert!(file.read(5100, 1 << 20).await.expect("read").iter().all(|&byte| byte == 0));
    });
}

/// Whether a block of the file at `path` is in the page cache. (A read with RWF_NOWAIT would tell as well, but starts
/// a read-ahead.)
fn is_cached(path: &std::path::Path, offset: libc::off_t) -> bool {
    use std::os::fd::AsRawFd;
    let file = std::fs::File::open(path).expect("opens");
    let mut resident = 0_u8;
    // SAFETY: a fresh mapping of one page is looked at by mincore alone, which writes one byte, and unmapped.
    let result = unsafe {
        let map = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), offset);
        assert_ne!(map, libc::MAP_FAILED);
        let result = libc::mincore(map, 4096, &mut resident);
        libc::munmap(map, 4096);
        result
    };
    assert_eq!(result, 0);
    resident & 1 == 1
}

#[test]
fn large_aligned_writes_go_past_the_page_cache() {
    let directory = test_directory();
    let path = directory.path().to_owned();
    on_worker(move |context| async move {
        let disk = Directory::open(&context, &path).expect("it exists");
        let file = disk.create("file").await.expect("created");
        let path = path.join("file");
        // Parts that are aligned in memory, parts that are not, and parts that only together fill blocks.
        let content = pattern(1 << 20);
        let whole = |range: std::ops::Range<usize>| {
            let mut buffer = AlignedBuffer::zeroed(range.len());
            buffer.copy_from_slice(&content[range]);
            buffer.into_bytes()
        };
        let cut = |range: std::ops::Range<usize>| Bytes::from([&[0], &content[range]].concat()).slice(1..);
        let parts = [
            cut(0..100),
            Bytes::new(),
            cut(100..4096),
            whole(4096..300 << 10),
            cut(300 << 10..(300 << 10) + 5000),
            whole((300 << 10) + 5000..(300 << 10) + 9096),
            cut((300 << 10) + 9096..(300 << 10) + 12288),
            whole((300 << 10) + 12288..1 << 20),
        ];
        file.write(64 << 10, &parts).await.expect("written");
        assert!(!is_cached(&path, 128 << 10) && !is_cached(&path, 1 << 20), "no page of it is in memory");
        assert!(file.read(64 << 10, 1 << 20).await.expect("read")[..] == content[..]);
        // Over what is in the cache and was not synced, and under what comes after.
        file.write(2 << 20, &[pattern(100_000)]).await.expect("written");
        file.write(2 << 20, std::slice::from_ref(&content)).await.expect("written");
        file.write((2 << 20) + 5000, &[Bytes::from_static(b"later")]).await.expect("written");
        let mut expect = content.to_vec();
        expect[5000..5005].copy_from_slice(b"later");
        assert!(file.read(2 << 20, 1 << 20).await.expect("read")[..] == expect[..]);
        file.sync().await.expect("synced");
        assert!(file.read(2 << 20, 1 << 20).await.expect("read")[..] == expect[..]);
    });
}

/// What a start relies on that comes after a killed process.
#[test]
fn taking_space_that_is_there_waits_for_the_direct_writes_under_way() {
    with_file(|disk, file| async move {
        const LEN: usize = 128 << 20;
        file.allocate(0, LEN as u64).await.expect("room");
        file.sync().await.expect("synced");
        let filled = |byte: u8| {
            let mut buffer = AlignedBuffer::zeroed(1 << 20);
            buffer.fill(byte);
            buffer.into_bytes()
        };
        let other = disk.open("file").await.expect("it is there");
        for round in 1..6 {
            let full = filled(round);
            let write = |at: usize| file.write(at as u64, std::slice::from_ref(&full));
            let mut writes: Vec<_> = (0..LEN).step_by(1 << 20).map(write).collect();
            poll_once(&mut writes[0]).await;
            tokio::task::yield_now().await;
            // From another descriptor, as a process does that was started since.
            other.allocate(0, 4096).await.expect("it is there already");
            let end = other.read(LEN as u64 - 4096, 4096).await.expect("read");
            assert!(end.iter().all(|&byte| byte == round), "round {round}: the last of them had not arrived");
            for write in writes {
                write.await.expect("written");
            }
        }
    });
}

#[test]
fn released_pages_leave_the_cache_and_reads_leave_none_there() {
    let directory = test_directory();
    let path = directory.path().to_owned();
    on_worker(move |context| async move {
        let disk = Directory::open(&context, &path).expect("it exists");
        let file = disk.create("file").await.expect("created");
        let path = path.join("file");
        let content = pattern(1 << 20);
        for at in (0..1 << 20).step_by(128 << 10) {
            file.write(at, &[content.slice(at as usize..at as usize + (128 << 10))]).await.expect("written");
        }
        assert!(is_cached(&path, 512 << 10), "the writes went through the cache");
        file.sync().await.expect("synced");
        file.release(0, 1 << 20);
        // Operations of a ring may overtake each other, so the hint is given time.
        for _ in 0..1000 {
            if !is_cached(&path, 512 << 10) {
                break;
            }
            context.world.clock.sleep(1_000_000).await;
        }
        assert!(!is_cached(&path, 512 << 10), "released");
        assert!(file.read(0, 1 << 20).await.expect("read")[..] == content[..]);
        assert!(!is_cached(&path, 512 << 10), "read past the cache");
    });
}

#[test]
fn a_thousand_reads_at_once_each_get_their_own_bytes() {
    with_file(|_, file| async move {
        let content = pattern(4 << 20);
        file.write(0, std::slice::from_ref(&content)).await.expect("written");
        file.sync().await.expect("synced");
        for round in 0..3 {
            // More than the rings have entries, so the backlog is used as well.
            let reads: Vec<_> = (0..6000)
                .map(|index: usize| {
                    let (offset, len) = (index * 4099 % (4 << 20), 1 + (index * 37 + round) % 6000);
                    let len = len.min((4 << 20) - offset);
                    (offset, len, file.read(offset as u64, len))
                })
                .collect();
            for (offset, len, read) in reads {
                let read = read.await.expect("read");
                assert!(read[..] == content[offset..offset + len], "{len} bytes at {offset}");
            }
        }
    });
}

/// Polls the completion once and says whether it was ready.
async fn poll_once<T>(completion: &mut Completion<T>) -> bool {
    poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *completion).poll(context).is_ready())).await
}

#[test]
fn a_read_that_is_given_up_writes_into_nobodys_memory() {
    with_file(|_, file| async move {
        const LEN: usize = 64 << 10;
        let content = Bytes::from(vec![0xee; 16 << 20]);
        file.write(0, std::slice::from_ref(&content)).await.expect("written");
        file.sync().await.expect("synced");
        file.release(0, 16 << 20);
        for round in 0..40 {
            let mut reads: Vec<_> =
                (0..64).map(|index| Some(file.read(((index * 7 + round) % 256 * LEN) as u64, LEN))).collect();
            for (index, read) in reads.iter_mut().enumerate() {
                if index % 3 > 0 {
                    poll_once(read.as_mut().expect("not given up yet")).await;
                }
            }
            // Let the driver submit them, then give up two of three in flight.
            tokio::task::yield_now().await;
            for (index, read) in reads.iter_mut().enumerate() {
                if index % 3 < 2 {
                    *read = None;
                }
            }
            // The allocator would give out again what was freed too early.
            let bystanders: Vec<_> = (0..64).map(|_| AlignedBuffer::zeroed(LEN)).collect();
            for read in reads.into_iter().flatten() {
                assert!(read.await.expect("read").iter().all(|&byte| byte == 0xee));
            }
            file.sync().await.expect("synced");
            assert!(bystanders.iter().all(|buffer| buffer.iter().all(|&byte| byte == 0)), "round {round}");
        }
    });
}

#[test]
fn operations_given_up_before_they_began_leave_the_ring_usable() {
    with_file(|_, file| async move {
        file.write(0, &[pattern(4096)]).await.expect("written");
        for _ in 0..20 {
            // Beyond the completion queue: the last of them never leave the backlog.
            let mut reads: Vec<_> = (0..5000).map(|_| file.read(0, 4096)).collect();
            poll_once(&mut reads[0]).await;
            drop(reads);
            drop(file.punch(1 << 30, 4096));
            drop(file.allocate(0, 4096));
        }
        assert!(file.read(0, 4096).await.expect("read")[..] == pattern(4096)[..]);
        file.sync().await.expect("synced");
    });
}

#[test]
fn ranges_beyond_what_a_file_can_hold_are_errors() {
    with_file(|_, file| async move {
        let far = i64::MAX as u64;
        let kind = |result: Result<()>| result.map_err(|error| error.kind);
        assert_eq!(kind(file.read(u64::MAX, 1).await.map(|_| ())), Err(Kind::Io));
        assert_eq!(kind(file.read(far, 4096).await.map(|_| ())), Err(Kind::Io));
        assert_eq!(kind(file.write(far, &[pattern(4096)]).await), Err(Kind::Io));
        assert_eq!(kind(file.write(u64::MAX, &[pattern(4096)]).await), Err(Kind::Io));
        assert_eq!(kind(file.allocate(u64::MAX, 4096).await), Err(Kind::Io));
        assert_eq!(file.size_bytes(), 0);
    });
}

/// In a mount namespace of its own with a small tmpfs, which any user may make.
#[test]
fn a_full_disk_says_so_and_goes_on_once_there_is_room() {
    const NAME: &str = "file::tests::a_full_disk_says_so_and_goes_on_once_there_is_room";
    const CHILD: &str = "METAL_TEST_FULL_DISK";
    if std::env::var_os(CHILD).is_some() {
        return with_file(|disk, file| async move {
            let usage = disk.usage().await.expect("asked");
            assert_eq!(usage.capacity_bytes, 1 << 20, "the test runs on its small disk");
            let kind = |result: Result<()>| result.map_err(|error| error.kind);
            assert_eq!(kind(file.allocate(0, 2 << 20).await), Err(Kind::Full));
            file.write(0, &[pattern(512 << 10)]).await.expect("half of it is free");
            assert_eq!(kind(file.write(512 << 10, &[pattern(1 << 20)]).await), Err(Kind::Full));
            assert!(file.read(0, 512 << 10).await.expect("read")[..] == pattern(512 << 10)[..]);
            file.punch(0, 1 << 20).await.expect("punched");
            file.write(0, &[pattern(900 << 10)]).await.expect("there is room again");
            file.sync().await.expect("synced");
            assert!(file.read(0, 900 << 10).await.expect("read")[..] == pattern(900 << 10)[..]);
        });
    }
    let directory = test_directory();
    let inside = child(NAME, CHILD);
    let output = std::process::Command::new("unshare")
        .args([
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs -o size=1m tmpfs \"$METAL_TEST_DIRECTORY\" && exec \"$@\"",
            "sh",
        ])
        .arg(inside.get_program())
        .args(inside.get_args())
        .env(CHILD, "1")
        .env(TEST_DIRECTORY, directory.path())
        .output()
        .expect("unshare (util-linux) runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
}
