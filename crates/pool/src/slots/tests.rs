//! Slots against a model under random operations.

use super::*;

fn blocks(charged: u32) -> Blocks {
    Blocks { charged, allocated_to: charged, written_to: charged }
}

#[test]
fn the_lowest_comes_first_and_freed_slots_wait_for_a_sync() {
    let mut slots = Slots::new(4);
    let taken: Vec<u32> = (0..4).filter_map(|_| slots.take_blank()).map(|taken| taken.slot).collect();
    assert_eq!(taken, [0, 1, 2, 3]);
    assert_eq!((slots.take_blank(), slots.take_recycled()), (None, None));
    slots.freed(2, blocks(9));
    slots.freed(1, blocks(8));
    slots.freed(0, blocks(0));
    assert_eq!(slots.recycled(), (2, 17), "counted at once");
    assert_eq!((slots.take_blank(), slots.take_recycled()), (None, None), "not handed out before a sync");
    slots.sync_begins();
    slots.freed(3, blocks(7));
    slots.sync_succeeded();
    assert_eq!(slots.take_recycled(), Some(Taken { slot: 1, blocks: blocks(8) }));
    assert_eq!(slots.take_recycled(), Some(Taken { slot: 2, blocks: blocks(9) }));
    assert_eq!(slots.take_recycled(), None, "freed after the sync had begun");
    assert_eq!(slots.take_blank(), Some(Taken { slot: 0, blocks: blocks(0) }));
    assert_eq!((slots.used(), slots.has_limbo(), slots.has_limbo_with_blocks()), (3, true, true));
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Fresh,
    Used,
    Limbo(u32),
    Syncing(u32),
    Free(u32),
    Lost,
}

#[test]
fn random_operations_match_a_model() {
    for seed in 1..=200_u64 {
        let numbers = crate::tests::disk::Numbers::new(seed);
        let max = 1 + numbers.below(6) as u32;
        let (mut slots, mut model) = (Slots::new(max), vec![State::Fresh; max as usize]);
        let mut syncing = false;
        let lowest = |model: &[State], want: fn(State) -> bool| model.iter().position(|&state| want(state));
        for _ in 0..200 {
            let slot = numbers.below(max.into()) as usize;
            let charged = numbers.below(3) as u32;
            match numbers.below(9) {
                0 | 1 => {
                    let expect = lowest(&model, |state| matches!(state, State::Free(0)))
                        .or_else(|| lowest(&model, |state| state == State::Fresh));
                    assert_eq!(slots.take_blank().map(|taken| taken.slot as usize), expect, "seed {seed}");
                    expect.into_iter().for_each(|slot| model[slot] = State::Used);
                }
                2 | 3 => {
                    let expect = lowest(&model, |state| matches!(state, State::Free(charged) if charged > 0));
                    let taken = slots.take_recycled();
                    assert_eq!(taken.map(|taken| taken.slot as usize), expect, "seed {seed}");
                    if let Some(slot) = expect {
                        assert_eq!(State::Free(taken.expect("as expected").blocks.charged), model[slot]);
                        model[slot] = State::Used;
                    }
                }
                4 if model[slot] == State::Used => {
                    slots.freed(slot as u32, blocks(charged));
                    model[slot] = State::Limbo(charged);
                }
                5 if model[slot] == State::Used => {
                    slots.untake(slot as u32, blocks(charged));
                    model[slot] = State::Free(charged);
                }
                6 if model[slot] == State::Used && numbers.below(4) == 0 => {
                    slots.lost();
                    model[slot] = State::Lost;
                }
                7 if !syncing => {
                    slots.sync_begins();
                    syncing = true;
                    for state in &mut model {
                        if let State::Limbo(charged) = *state {
                            *state = State::Syncing(charged);
                        }
                    }
                }
                8 if syncing => {
                    slots.sync_succeeded();
                    syncing = false;
                    for state in &mut model {
                        if let State::Syncing(charged) = *state {
                            *state = State::Free(charged);
                        }
                    }
                }
                _ => {}
            }
            let count = |want: fn(&State) -> bool| model.iter().filter(|state| want(state)).count() as u32;
            assert_eq!(slots.used(), count(|state| *state == State::Used), "seed {seed}");
            assert_eq!(slots.quarantined(), count(|state| *state == State::Lost), "seed {seed}");
            let held = |state: &State| match *state {
                State::Limbo(charged) | State::Syncing(charged) | State::Free(charged) => u64::from(charged),
                _ => 0,
            };
            assert_eq!(slots.recycled().1, model.iter().map(held).sum::<u64>(), "seed {seed}");
        }
    }
}
