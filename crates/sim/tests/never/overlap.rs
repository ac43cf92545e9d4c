//! Two frames under way: nothing is believed of the second before the first has succeeded.

use crate::machine::{Machine, content, manual};
use crate::tap::{Fate, Operation, Verb};
use base::units::BLOCK;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Acknowledgements in their order.
type Heard = Rc<RefCell<Vec<(u64, vdisk::Result<()>)>>>;

fn overlapping() -> Machine {
    let mut config = manual();
    config.settings.overlap_bytes_min = BLOCK as u32;
    config.settings.frame_payload_bytes_max = BLOCK as u32;
    Machine::with(config, 1)
}

fn is_append(o: &Operation) -> bool {
    o.verb == Verb::Write && o.is_slab()
}

/// Writes blocks 0 to 4, each a frame, all at once: the first two are under way together.
fn write_five(machine: &Machine) -> Heard {
    let (heard, vdisk) = (Heard::default(), machine.vdisk());
    for block in 0..5 {
        let (vdisk, heard) = (vdisk.clone(), heard.clone());
        machine.spawn(async move {
            let result = vdisk.write(block * BLOCK, content(block, block + 1)).await;
            heard.borrow_mut().push((block, result));
        });
    }
    heard
}

fn answers(heard: &Heard) -> Vec<(u64, bool)> {
    heard.borrow().iter().map(|(block, result)| (*block, result.is_ok())).collect()
}

#[test]
fn two_frames_are_under_way_and_answered_in_their_order() {
    let machine = overlapping();
    let vdisk = machine.vdisk();
    machine.tap.clear();
    // The first waits; the second is done long before it.
    let count = Cell::new(0);
    machine.tap.set_rule(move |o| {
        if !is_append(o) {
            return Fate::Happens;
        }
        count.set(count.get() + 1);
        if count.get() == 1 { Fate::Waits } else { Fate::Happens }
    });
    let heard = write_five(&machine);
    machine.idle(1_000);
    let begun = machine.tap.take().iter().filter(|o| is_append(o)).count();
    assert_eq!((begun, answers(&heard)), (2, vec![]), "the second is done, and nobody hears of it yet");
    assert_eq!(machine.reads(&vdisk, 0..5), [0; 5]);
    machine.idle(10_000_000_000);
    assert_eq!(answers(&heard), [0, 1, 2, 3, 4].map(|block| (block, true)));
    assert_eq!(machine.reads(&machine.restart(), 0..5), [1, 2, 3, 4, 5]);
}

/// Whichever fails, in whatever way, and whichever is done first: both are there afterwards, in their order.
#[test]
fn a_frame_that_fails_takes_nothing_with_it() {
    for failing in 1..=3 {
        for waiting in 0..=3 {
            for how in 0..4 {
                for power in [false, true] {
                    let machine = overlapping();
                    let count = Cell::new(0);
                    machine.tap.set_rule(move |o| {
                        if !is_append(o) {
                            return Fate::Happens;
                        }
                        count.set(count.get() + 1);
                        match how {
                            _ if count.get() == waiting && waiting != failing => Fate::Waits,
                            _ if count.get() != failing => Fate::Happens,
                            0 => Fate::Fails,
                            1 => Fate::FailsWhole,
                            2 => Fate::FailsAfter(BLOCK / 2),
                            _ => Fate::FailsAfter(BLOCK + 100),
                        }
                    });
                    let heard = write_five(&machine);
                    machine.idle(10_000_000_000);
                    let context = format!("failing {failing}, waiting {waiting}, how {how}, power {power}");
                    assert_eq!(answers(&heard), [0, 1, 2, 3, 4].map(|block| (block, true)), "{context}");
                    let vdisk = machine.vdisk();
                    assert_eq!(machine.reads(&vdisk, 0..5), [1, 2, 3, 4, 5], "{context}");
                    machine.flush(&vdisk);
                    if power {
                        machine.lose_power()
                    } else {
                        machine.kill()
                    }
                    machine.open();
                    let vdisk = machine.vdisk();
                    machine.assert_online(&vdisk);
                    assert_eq!(machine.reads(&vdisk, 0..5), [1, 2, 3, 4, 5], "{context}");
                }
            }
        }
    }
}

/// Of frames that were under way when the machine died any may be there, but none without those before it.
#[test]
fn a_crash_leaves_a_beginning_of_the_log() {
    for dies in 1..=4 {
        for waiting in 0..dies {
            let machine = overlapping();
            let count = Cell::new(0);
            machine.tap.set_rule(move |o| {
                if !is_append(o) {
                    return Fate::Happens;
                }
                count.set(count.get() + 1);
                match count.get() {
                    now if now == dies => Fate::Dies,
                    now if now == waiting => Fate::Waits,
                    _ => Fate::Happens,
                }
            });
            let heard = write_five(&machine);
            let clock = machine.world().clock;
            let _ = machine.attempt(async move { clock.sleep(10_000_000_000).await });
            let acknowledged = heard.borrow().len();
            machine.kill();
            machine.open();
            let vdisk = machine.vdisk();
            machine.assert_online(&vdisk);
            let found = machine.reads(&vdisk, 0..5);
            let there = found.iter().take_while(|tag| **tag != 0).count();
            assert!(there >= acknowledged, "dies at {dies}, {waiting} waits: {acknowledged} heard, {found:?}");
            assert_eq!(found[..there], [1, 2, 3, 4, 5][..there]);
            assert!(found[there..].iter().all(|tag| *tag == 0), "dies at {dies}, {waiting} waits: {found:?}");
        }
    }
}
