//! Slots and what they hold go back, whichever way an operation ends.

use super::*;
use crate::Directory;
use crate::worker::tests::{on_worker, test_directory};
use rustix::fs::{Mode, OFlags};
use std::ffi::CString;

impl Ring {
    fn slots_in_use(&self) -> usize {
        let inner = self.inner.borrow();
        inner.slots.len() - inner.free.len()
    }
}

#[test]
fn slots_of_finished_and_of_abandoned_operations_are_free_again() {
    let directory = test_directory();
    let path = directory.path().to_owned();
    on_worker(move |context| async move {
        let disk = Directory::open(&context, &path).expect("it exists");
        let file = disk.create("file").await.expect("created");
        for round in 0..5 {
            let reads: Vec<_> = (0..5000).map(|_| file.read(0, 4096)).collect();
            assert_eq!(context.ring.slots_in_use(), 5000);
            for (index, read) in reads.into_iter().enumerate() {
                // Given up: all in one round, the odd ones, and some while the others are under way.
                if round > 0 && index % 2 == 0 {
                    read.await.expect("read");
                }
            }
            file.release(0, 1 << 20);
            file.sync().await.expect("synced");
            for _ in 0..1000 {
                if context.ring.slots_in_use() == 0 {
                    break;
                }
                context.world.clock.sleep(1_000_000).await;
            }
            assert_eq!(context.ring.slots_in_use(), 0, "round {round}");
        }
        let slots = context.ring.inner.borrow().slots.len();
        assert!(slots <= 5002, "{slots} slots for at most 5002 operations at a time");
    });
}

/// Descriptors of this process that lead to files below `path`.
fn descriptors_below(path: &std::path::Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").expect("/proc is there");
    let targets = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
    targets.filter(|target| target.starts_with(path) && target != path).count()
}

#[test]
fn a_descriptor_that_nobody_waits_for_is_closed() {
    let directory = test_directory();
    let path = directory.path().to_owned();
    std::fs::write(path.join("file"), "x").expect("written");
    on_worker(move |context| async move {
        let folder = rustix::fs::open(&path, OFlags::RDONLY, Mode::empty()).expect("it exists");
        let (folder, name) = (Rc::new(folder), CString::new("file").expect("no zero byte"));
        for index in 0..64 {
            let open = context.ring.open(&folder, &name, OFlags::RDONLY, Mode::empty());
            if index % 2 == 0 {
                // Done when it is dropped; the others are under way.
                context.world.clock.sleep(1_000_000).await;
            }
            drop(open);
        }
        context.world.clock.sleep(20_000_000).await;
        let open = context.ring.open(&folder, &name, OFlags::RDONLY, Mode::empty());
        context.world.clock.sleep(20_000_000).await;
        assert_eq!(descriptors_below(&path), 1, "the one that is open now");
        drop(open);
        assert_eq!(descriptors_below(&path), 0);
    });
}

#[test]
fn a_removed_file_gives_its_space_back_on_the_helper() {
    let directory = test_directory();
    let path = directory.path().to_owned();
    on_worker(move |context| async move {
        let disk = Directory::open(&context, &path).expect("it exists");
        let file = disk.create("file").await.expect("created");
        disk.remove("file").await.expect("removed");
        assert_eq!(descriptors_below(&path), 2);
        drop(file);
        // Behind the close on the same thread.
        disk.usage().await.expect("asked");
        assert_eq!(descriptors_below(&path), 0);
    });
}
