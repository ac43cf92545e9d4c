//! Verbs on snapshots and clones for the tests: what a machine holds, by name, and what it must hold.

use crate::machine::{Machine, bytes_of, content, home};
use base::units::BLOCK;
use base::{SnapshotId, VdiskId};
use block::{BlockDevice, Reply, Request};
use node::{Kind, SnapshotSummary};
use std::ops::Range;
use std::rc::Rc;
use vdisk::Vdisk;

impl Machine {
    pub fn try_snapshot(&self, vdisk: VdiskId, name: &str) -> Option<node::Result<SnapshotSummary>> {
        let (shard, name) = (self.shard(), name.to_string());
        self.attempt(async move { shard.snapshot(vdisk, &name).await })
    }

    pub fn snapshot(&self, vdisk: VdiskId, name: &str) -> SnapshotId {
        self.try_snapshot(vdisk, name).expect("it lives").expect("room").id
    }

    pub fn snapshot_names(&self, vdisk: VdiskId) -> Vec<String> {
        let shard = self.shard();
        let all = self.run(async move { shard.snapshots(vdisk).await }).expect("it is served");
        all.into_iter().map(|snapshot| snapshot.name).collect()
    }

    pub fn find_snapshot(&self, vdisk: VdiskId, name: &str) -> Option<SnapshotSummary> {
        let shard = self.shard();
        let all = self.run(async move { shard.snapshots(vdisk).await }).expect("it is served");
        all.into_iter().find(|snapshot| snapshot.name == name)
    }

    pub fn try_delete_snapshot(&self, vdisk: VdiskId, snapshot: SnapshotId) -> Option<node::Result<()>> {
        let shard = self.shard();
        self.attempt(async move { shard.delete_snapshot(vdisk, snapshot, false).await })
    }

    pub fn delete_snapshot(&self, vdisk: VdiskId, snapshot: SnapshotId) {
        self.try_delete_snapshot(vdisk, snapshot).expect("it lives").expect("nobody reads it");
    }

    pub fn delete(&self, vdisk: VdiskId) {
        let shard = self.shard();
        self.run(async move { shard.delete(vdisk, false).await }).expect("nobody uses it");
    }

    pub fn clone_of(&self, vdisk: VdiskId, snapshot: SnapshotId, name: &str) -> Rc<Vdisk> {
        let (shard, names) = (self.shard(), vec![name.to_string()]);
        let made = self.run(async move { shard.clone_snapshot(vdisk, snapshot, names, None).await }).expect("room");
        self.vdisk_by_id(made[0].id).expect("just made")
    }

    /// The tags of blocks as a reader of the snapshot finds them.
    pub fn read_snapshot(&self, vdisk: VdiskId, snapshot: SnapshotId, blocks: Range<u64>) -> Vec<u64> {
        let shard = self.shard();
        let attached = self.run(async move { shard.attach_snapshot(vdisk, snapshot).await }).expect("it is there");
        blocks.map(|block| self.read_device(&attached.device, block).expect("readable")).collect()
    }

    /// The tag of a block, every byte of which must be right.
    pub fn read_device(&self, device: &Rc<dyn BlockDevice>, block: u64) -> block::Result<u64> {
        let read = device.submit(Request::Read { offset: block * BLOCK, len: BLOCK as u32 });
        let Reply::Data(segments) = self.run(read)? else { panic!("a read has data") };
        let bytes: Vec<u8> = segments.iter().flat_map(bytes_of).collect();
        let tag = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
        assert!(
            bytes == content(home(block, tag), tag),
            "block {block} is of no write: it begins with {:02x?}",
            &bytes[..16]
        );
        Ok(tag)
    }

    /// Blocks from 0 on.
    pub fn write_tags(&self, vdisk: &Rc<Vdisk>, tags: impl IntoIterator<Item = u64>) {
        tags.into_iter().enumerate().for_each(|(block, tag)| self.write(vdisk, block as u64, tag));
    }

    /// Everything that can come free does, whatever waits for what.
    pub fn settle(&self) {
        for _ in 0..2 {
            for vdisk in self.shard().open_vdisks() {
                self.run(async move { drop(vdisk.checkpoint().await) });
            }
            for vdisk in self.shard().open_vdisks() {
                self.run(async move { drop(vdisk.make_room().await) });
            }
            self.idle(1_000_000_000);
        }
    }
}

/// Ways to come back with nothing but what was synced; the number is the store's new node, where it is lost.
pub const RETURNS: [fn(&Machine, u16); 4] = [
    |machine, _| {
        machine.lose_power();
        machine.open();
    },
    |machine, _| {
        machine.close();
        machine.open();
    },
    |machine, node| {
        machine.kill();
        assert!(machine.rebuild(node).lost.is_empty());
        machine.open();
    },
    |machine, node| {
        machine.lose_power();
        assert!(machine.rebuild(node).lost.is_empty());
        machine.open();
    },
];

pub fn is_busy<T>(result: &node::Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.kind == Kind::Busy)
}
