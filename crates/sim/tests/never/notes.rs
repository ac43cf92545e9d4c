//! Never: a note that was acknowledged and is forgotten, or one that nobody set.

use crate::machine::Machine;
use crate::tap::{Fate, Verb};
use bytes::Bytes;
use std::rc::Rc;
use vdisk::{Kind, NoteKind, Vdisk};

fn try_set(machine: &Machine, kind: NoteKind, text: &'static str) -> node::Result<()> {
    let (shard, id) = (machine.shard(), machine.id("v"));
    machine.run(async move { shard.set_note(id, kind, Bytes::from_static(text.as_bytes())).await })
}

fn set(machine: &Machine, kind: NoteKind, text: &'static str) {
    try_set(machine, kind, text).expect("room");
}

fn note(machine: &Machine, kind: NoteKind) -> String {
    let note = machine.vdisk().note(kind);
    if kind.is_indexed() {
        assert_eq!(machine.shard().indexed_note(machine.id("v"), kind), note, "the index says what the log says");
    }
    String::from_utf8(note.unwrap_or_default().to_vec()).expect("text")
}

fn both(machine: &Machine) -> [String; 2] {
    [NoteKind::IscsiAccess, NoteKind::Reservations].map(|kind| note(machine, kind))
}

/// Ways to come back, with nothing but what was synced.
const RETURNS: [fn(&Machine); 4] = [
    |machine| {
        machine.lose_power();
        machine.open();
    },
    |machine| {
        machine.close();
        machine.open();
    },
    |machine| {
        machine.kill();
        machine.rebuild(2);
        machine.open();
    },
    |machine| {
        machine.lose_power();
        machine.rebuild(2);
        machine.open();
    },
];

#[test]
fn what_was_noted_is_there_after_a_crash_and_without_the_metadata_store() {
    for with_checkpoint in [false, true] {
        for (index, come_back) in RETURNS.into_iter().enumerate() {
            let machine = Machine::new();
            set(&machine, NoteKind::IscsiAccess, "everybody");
            set(&machine, NoteKind::Reservations, "none");
            if with_checkpoint {
                let vdisk: Rc<Vdisk> = machine.vdisk();
                machine.checkpoint(&vdisk);
            }
            set(&machine, NoteKind::IscsiAccess, "nobody");
            come_back(&machine);
            assert_eq!(both(&machine), ["nobody", "none"], "way {index}, checkpoint {with_checkpoint}");
            set(&machine, NoteKind::IscsiAccess, "");
            let vdisk = machine.vdisk();
            machine.write(&vdisk, 0, 1);
            machine.checkpoint(&vdisk);
            machine.lose_power();
            machine.open();
            assert_eq!(both(&machine), ["", "none"], "way {index}: a note that was removed does not come back");
        }
    }
}

#[test]
fn a_crash_anywhere_in_setting_a_note_leaves_the_old_or_the_new_one() {
    for at in 0.. {
        let machine = Machine::new();
        set(&machine, NoteKind::IscsiAccess, "old");
        let mut left = at;
        machine.tap.set_rule(move |operation| {
            let changes = operation.changes() || operation.verb == Verb::Commit;
            left -= i32::from(changes);
            if changes && left < 0 { Fate::Dies } else { Fate::Happens }
        });
        let (shard, id) = (machine.shard(), machine.id("v"));
        let kind = NoteKind::IscsiAccess;
        let done = machine.attempt(async move { shard.set_note(id, kind, Bytes::from_static(b"new")).await });
        machine.lose_power();
        machine.open();
        let found = note(&machine, kind);
        match done {
            Some(Ok(())) => {
                assert_eq!(found, "new");
                assert!(at > 2, "it died before: {at}");
                return;
            }
            Some(Err(error)) => panic!("{error}"),
            None => assert!(["old", "new"].contains(&found.as_str()), "{at}: {found:?}"),
        }
    }
}

#[test]
fn a_restored_metadata_store_does_not_bring_an_old_note_back() {
    let machine = Machine::new();
    set(&machine, NoteKind::IscsiAccess, "everybody");
    let old = machine.store.borrow().snapshot();
    set(&machine, NoteKind::IscsiAccess, "nobody");
    machine.kill();
    machine.store.replace(meta::MemStore::restore(machine.world().clock, 0, old));
    machine.open();
    assert_eq!(note(&machine, NoteKind::IscsiAccess), "nobody");
}

#[test]
fn what_is_too_long_or_too_late_is_refused() {
    let machine = Machine::new();
    set(&machine, NoteKind::Reservations, "held");
    let vdisk = machine.vdisk();
    let long = Bytes::from(vec![1; 8 << 10 | 1]);
    let (task, kind) = (vdisk.clone(), NoteKind::Reservations);
    let refused = machine.run(async move { task.set_note(kind, long).await }).expect_err("an eighth of a group");
    assert_eq!(refused.kind, Kind::Invalid);
    let task = vdisk.clone();
    machine.run(async move { task.set_read_only(true).await }).expect("the disk works");
    set(&machine, NoteKind::Reservations, "held by another");
    let shard = machine.shard();
    machine.run(async move { shard.delete(vdisk.id, false).await }).expect("not in use");
}
