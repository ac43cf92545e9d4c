//! Task management as initiators do it: to give up a command, to get a unit back, or out of impatience.

use super::{Answer, Initiator, Outstanding};
use crate::iscsi::network::{End, Sent};
use crate::iscsi::pdu::Pdu;
use crate::iscsi::weather::Function;

/// More functions are not under way at once; a target may refuse more.
const MANAGING_MAX: usize = 6;

/// A function that waits for its response.
pub(super) struct Managing {
    function: Function,
    /// Commands that were under way, and are meant by it.
    names: Vec<u32>,
    /// What had reached the engine when it was sent.
    since: u64,
    /// Responses that may come: an immediate request that comes twice is answered twice.
    responses: u32,
}

impl Initiator {
    /// What is planned for this moment.
    pub(super) fn manage_if_due(&self, end: &End) {
        if let Some(function) = self.portal.weather().take_due() {
            let newest = self.state.borrow().under_way.keys().next_back().copied();
            self.manage(end, function, newest.map(|task| (task, self.state.borrow().number.wrapping_sub(1))));
        }
    }

    /// Sends a function, perhaps twice, perhaps with a number of its own. `about`: the command that ABORT TASK names, and
    /// the number that it has.
    pub(super) fn manage(&self, end: &End, function: Function, about: Option<(u32, u32)>) {
        let weather = self.portal.weather();
        let mut state = self.state.borrow_mut();
        if state.managing.len() >= MANAGING_MAX {
            return;
        }
        let (names, referenced) = match (function, about) {
            (Function::AbortTask, Some((task, number))) => (vec![task], (task, number)),
            (Function::AbortTask, None) => return,
            _ => (state.under_way.keys().copied().collect(), (u32::MAX, 0)),
        };
        state.tag = (state.tag + 1) & 0x0fff_ffff;
        let own = state.tag;
        let numbered = state.window_end.wrapping_sub(state.number) as i32 >= 0 && weather.below(2) == 0;
        let twice = weather.chance(weather.twice);
        let pdu = Pdu::new(if numbered { 0x02 } else { 0x42 }, 0x80 | function as u8);
        let pdu = pdu.word(16, own).word(20, referenced.0).word(24, state.number).word(32, referenced.1);
        if numbered {
            state.number = state.number.wrapping_add(1);
        }
        let since = self.portal.tap().now();
        let responses = if twice && !numbered { 2 } else { 1 };
        for task in &names {
            if let Some(outstanding) = state.under_way.get_mut(task) {
                outstanding.named += responses;
            }
        }
        state.managing.insert(own, Managing { function, names, since, responses });
        drop(state);
        if function.is_of_the_unit() {
            self.portal.sweeps.set(self.portal.sweeps() + 1);
            self.portal.sweeping.set(self.portal.sweeping.get() + 1);
        }
        let bytes = self.digests.get().encode(&pdu, &[]);
        self.tag_is_sent(own);
        for again in [false, true] {
            if (!again || twice) && end.send(&bytes, self.digests.get()) == Sent::HeaderDamaged {
                let mut state = self.state.borrow_mut();
                state.deaf = true;
                if !again {
                    state.behind.insert(own);
                }
            }
        }
    }

    /// Nothing has come for too long: everything is given up, command by command. False: that was done before, or there is
    /// nothing to be given up.
    pub(super) fn abort_all(&self, end: &End) -> bool {
        let stuck: Vec<u32> = {
            let mut state = self.state.borrow_mut();
            if std::mem::replace(&mut state.asked_late, true) || !state.managing.is_empty() {
                return false;
            }
            state.under_way.keys().copied().take(MANAGING_MAX).collect()
        };
        for task in &stuck {
            // Its number does not matter for a command that the target has had.
            let number = self.state.borrow().number.wrapping_sub(1);
            self.manage(end, Function::AbortTask, Some((*task, number)));
        }
        !stuck.is_empty()
    }

    pub(super) fn managed(&self, own: u32, code: u8) {
        let (managing, ended) = {
            let mut state = self.state.borrow_mut();
            let managing = state.managing.get_mut(&own).expect("a function that was asked for");
            managing.responses -= 1;
            let (function, since) = (managing.function, managing.since);
            let names = std::mem::take(&mut managing.names);
            if managing.responses == 0 {
                state.managing.remove(&own);
                if function.is_of_the_unit() {
                    self.portal.sweeping.set(self.portal.sweeping.get() - 1);
                }
            }
            let ended: Vec<Outstanding> = names.iter().filter_map(|task| state.under_way.remove(task)).collect();
            ((function, since), ended)
        };
        let (function, since) = managing;
        match code {
            // Complete: no answer will come any more, if none came.
            0 => {}
            // It has been answered, or another function has ended it.
            1 if function == Function::AbortTask => {
                let by_another =
                    |outstanding: &Outstanding| self.portal.sweeps() > outstanding.sweeps || outstanding.named > 1;
                assert!(ended.iter().all(by_another), "the target does not know a command that it has");
            }
            other => panic!("{function:?} ends with {other}"),
        }
        if function.is_of_the_unit() {
            self.portal.tap().assert_stopped(since);
        }
        for outstanding in ended {
            if let Some((offset, data)) = outstanding.command.written() {
                self.portal.tap().assert_ended(offset, data);
            }
            outstanding.answer.send(Answer::Unknown("it was aborted"));
        }
    }
}
