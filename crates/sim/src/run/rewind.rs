//! The past of a run's vDisks: windows that are set and taken away, snapshots of moments inside and outside of them, a clock
//! that is set forward and back.

use super::client::Shared;
use super::model::{Model, Slot};
use super::snapshots::{answer, begin, delete_one, free_name, new_cut, note, read_whole, refused};
use crate::engine::{Kept, Moment, Node, Past, Window};
use crate::oracle::history::past::BeforeEvent;
use crate::oracle::history::{Image, Time};
use crate::oracle::snapshots::Presence;
use crate::oracle::walls::Place;
use crate::rng::{Chance, Rng};
use block::{Error, Kind, Result};
use std::rc::Rc;

const SECOND_NS: u64 = 1_000_000_000;
/// Moments are taken from the last of these events.
const EVENTS_BACK: u64 = 1500;

/// What window a vDisk may have, and since when.
pub struct Windows {
    /// The first is the acknowledged one; the others may have come about.
    states: Vec<Option<Window>>,
    /// What came before need not be there.
    from_ns: u64,
    /// Of the first change that was acknowledged after that.
    changed_ns: Option<u64>,
    /// Verbs begun and ended so far.
    sets: u64,
    is_busy: bool,
    /// It may be cut short: it has, or had, a limit.
    is_limited: bool,
    /// An event, and the last write that was in the log then.
    marks: Vec<(Time, u64)>,
}

impl Default for Windows {
    fn default() -> Windows {
        Windows {
            states: vec![None],
            from_ns: 0,
            changed_ns: None,
            sets: 0,
            is_busy: false,
            is_limited: false,
            marks: Vec::new(),
        }
    }
}

impl Windows {
    /// A change was acknowledged.
    pub fn changed(&mut self, wall_ns: u64) {
        self.changed_ns.get_or_insert(wall_ns);
    }

    fn begin(&mut self, window: Option<Window>, wall_ns: u64) {
        let shortest = self.states.iter().flatten().map(|window| window.length_ns).min().unwrap_or(0);
        self.from_ns = self.from_ns.max(wall_ns.saturating_sub(shortest));
        self.states.push(window);
        self.sets += 1;
        self.is_busy = true;
        self.is_limited |= window.is_some_and(|window| window.limit_bytes > 0);
    }

    fn succeed(&mut self, wall_ns: u64) {
        let was_off = self.states[..self.states.len() - 1].contains(&None);
        self.states = self.states.split_off(self.states.len() - 1);
        if was_off {
            (self.from_ns, self.changed_ns) = (wall_ns, None);
        }
    }

    /// After a start it has this one.
    fn settle(&mut self, found: Option<Window>, wall_ns: u64) -> std::result::Result<(), String> {
        if !self.states.contains(&found) {
            return Err(format!("its window is {found:?}, but it may be {:?}", self.states));
        }
        if self.states.len() > 1 {
            (self.from_ns, self.changed_ns) = (wall_ns, None);
        }
        (self.states, self.is_busy) = (vec![found], false);
        Ok(())
    }

    fn known(&self) -> Option<Option<Window>> {
        if let [only] = self.states[..] { Some(only) } else { None }
    }

    /// What the node says of the window against what was promised.
    fn check(&self, kept: Option<Kept>, now_ns: u64, is_monotone: bool) -> std::result::Result<(), String> {
        let Some(window) = self.known() else { return Ok(()) };
        if kept.map(|kept| kept.window) != window {
            return Err(format!("{kept:?} is said of a vDisk with the window {window:?}"));
        }
        let Some(kept) = kept else { return Ok(()) };
        if kept.cut_short && !self.is_limited {
            return Err(format!("{kept:?} is cut short, but nothing limits it"));
        }
        let promised_ns = now_ns.saturating_sub(kept.window.length_ns).max(self.from_ns);
        let (Some(since_ns), Some(changed_ns)) = (kept.since_ns, self.changed_ns) else { return Ok(()) };
        if is_monotone && !kept.cut_short && since_ns > promised_ns.max(changed_ns) {
            return Err(format!(
                "{kept:?} does not reach as far back as {promised_ns}; kept since {}, written to since {changed_ns}",
                self.from_ns
            ));
        }
        Ok(())
    }
}

pub async fn step(model: &Shared, node: &Rc<dyn Node>, rng: &mut Rng) {
    let settled = model.borrow().settled();
    let Some(slot) = rng.pick(&settled).copied() else { return };
    let id = model.borrow().entries[slot].id.expect("a live vDisk has an id");
    let Some(past) = node.past() else { return };
    let is_off = model.borrow().slots[slot].windows.known() == Some(None);
    match rng.below(100) {
        0..50 if is_off => keep(model, past, slot, id, rng).await,
        0..8 => keep(model, past, slot, id, rng).await,
        8..45 => take(model, node, slot, id, rng).await,
        45..60 => mark(model, past, slot, id),
        60..75 => take_before(model, node, slot, id, rng).await,
        75..85 => wait(model, rng).await,
        85..89 => jump(model, rng),
        _ => look(model, past, slot, id).await,
    }
}

/// After a start.
pub async fn audit(model: &Shared, node: &Rc<dyn Node>, slot: usize, id: u64) -> std::result::Result<(), String> {
    let Some(past) = node.past() else { return Ok(()) };
    let kept = past.kept(id).await.map_err(|error| format!("its window is not told: {error}"))?;
    let mut model = model.borrow_mut();
    if let Some(kept) = kept {
        model.executor.journal.note("window", [kept.since_ns.unwrap_or(0), kept.since.unwrap_or(0), kept.held_bytes]);
    }
    let wall_ns = model.executor.wall_ns();
    let windows = &mut model.slots[slot].windows;
    windows.settle(kept.map(|kept| kept.window), wall_ns)?;
    check_kept(&model, slot, kept)
}

fn check_kept(model: &Model, slot: usize, kept: Option<Kept>) -> std::result::Result<(), String> {
    let windows = &model.slots[slot].windows;
    // The first point may be of a time at which the clock was ahead.
    let is_monotone = model.walls.is_monotone_since(0);
    if kept.is_some_and(|kept| kept.cut_short) && (model.profile.fills_disk || model.was_nearly_full) {
        return Ok(());
    }
    windows.check(kept, model.executor.wall_ns(), is_monotone)
}

async fn keep(model: &Shared, past: &dyn Past, slot: usize, id: u64, rng: &mut Rng) {
    if model.borrow().slots[slot].windows.is_busy {
        return;
    }
    let window = Window {
        length_ns: *rng.pick(&[2, 40, 600, 3600]).expect("four") * SECOND_NS,
        limit_bytes: *rng.pick(&[0, 0, 512 << 10, 2 << 20, 8 << 20]).expect("five"),
    };
    let is_on = model.borrow().slots[slot].windows.known() != Some(None);
    let window = if is_on && rng.chance(Chance::percent(40)) { None } else { Some(window) };
    note(model, "keep past", slot, [window.map_or(0, |of| of.length_ns), window.map_or(0, |of| of.limit_bytes), 0]);
    {
        let mut model = model.borrow_mut();
        let wall_ns = model.executor.wall_ns();
        model.slots[slot].windows.begin(window, wall_ns);
    }
    let result = past.keep(id, window).await;
    let mut model = model.borrow_mut();
    let wall_ns = model.executor.wall_ns();
    let windows = &mut model.slots[slot].windows;
    windows.sets += 1;
    match result {
        Ok(()) => {
            windows.is_busy = false;
            windows.succeed(wall_ns);
        }
        Err(error) => {
            if error.kind == Kind::Full {
                windows.is_busy = false;
                windows.states.pop();
            }
            // Otherwise in doubt until the next start.
            if !model.excuses(error.kind, slot, true) {
                model.fail(format!("a window was refused without need: {:?}, {error}", error.kind));
            }
        }
    }
}

/// What is known of a moment, and when it was asked for.
struct Asked {
    moment: Moment,
    /// `None`: it is as good as now.
    image: Option<Image>,
    begun: Time,
    wall_ns: u64,
    sets: u64,
}

/// By wall time.
async fn take(model: &Shared, node: &Rc<dyn Node>, slot: usize, id: u64, rng: &mut Rng) {
    let past = node.past().expect("asked before");
    let kept = past.kept(id).await.unwrap_or_default();
    let now_ns = model.borrow().executor.wall_ns();
    let since_ns = kept.and_then(|kept| kept.since_ns).unwrap_or(now_ns);
    let wall_ns = match rng.below(20) {
        0 => since_ns.saturating_sub(1),
        1 | 2 => since_ns,
        3 => now_ns,
        4 => now_ns + rng.below(2 * SECOND_NS),
        5 => rng.below(now_ns),
        6..10 => rng.between(since_ns.min(now_ns), now_ns),
        _ => {
            let model = model.borrow();
            let events = model.walls.events();
            let Some(last) = (events.len() as u64).checked_sub(1) else { return };
            let (_, at) = events[rng.between(last.saturating_sub(EVENTS_BACK), last) as usize];
            at.saturating_sub(1) + rng.below(3)
        }
    };
    let asked = {
        let mut model = model.borrow_mut();
        let begun = model.tick();
        let slot = &model.slots[slot];
        let image = match model.walls.find(wall_ns) {
            Place::AfterAll => None,
            // What the log has there depends on what was written meanwhile.
            Place::Twice => return,
            Place::Before(moment) => match image(slot, moment) {
                Some(image) => Some(image),
                None => return,
            },
        };
        Asked { moment: Moment::At(wall_ns), image, begun, wall_ns: now_ns, sets: slot.windows.sets }
    };
    snapshot(model, node, (slot, id), asked, kept, rng).await;
}

fn image(slot: &Slot, moment: BeforeEvent) -> Option<Image> {
    let sizes = slot.past.sizes_at(moment);
    let [size_bytes] = sizes[..] else { return None };
    slot.past.image(&slot.history, moment, size_bytes)
}

/// Remembers how far the log is.
fn mark(model: &Shared, past: &dyn Past, slot: usize, id: u64) {
    let mut model = model.borrow_mut();
    // What was acknowledged is being written again.
    if model.disk.damage().failed_syncs > model.damage_before.failed_syncs {
        return;
    }
    let now = model.tick();
    if let Some(sequence) = past.last_write(id) {
        model.slots[slot].windows.marks.push((now, sequence));
    }
}

/// By the number of a write.
async fn take_before(model: &Shared, node: &Rc<dyn Node>, slot: usize, id: u64, rng: &mut Rng) {
    let kept = node.past().expect("asked before").kept(id).await.unwrap_or_default();
    let asked = {
        let mut model = model.borrow_mut();
        let begun = model.tick();
        let wall_ns = model.executor.wall_ns();
        let slot = &model.slots[slot];
        let Some((event, sequence)) = rng.pick(&slot.windows.marks).copied() else { return };
        let moment = BeforeEvent(event);
        let Some(image) = image(slot, moment).filter(|_| slot.past.is_kept(moment)) else { return };
        Asked { moment: Moment::Before(sequence + 1), image: Some(image), begun, wall_ns, sets: slot.windows.sets }
    };
    snapshot(model, node, (slot, id), asked, kept, rng).await;
}

async fn snapshot(
    model: &Shared,
    node: &Rc<dyn Node>,
    (slot, id): (usize, u64),
    asked: Asked,
    before: Option<Kept>,
    rng: &mut Rng,
) {
    let past = node.past().expect("asked before");
    let Some(name) = free_name(model, &[slot], rng) else { return };
    let is_now = asked.image.is_none();
    let number = match &asked.image {
        None => begin(model, slot, &name, &new_cut(model), None),
        Some(image) => {
            let number = begin(model, slot, &name, &image.cut(), None);
            let mut model = model.borrow_mut();
            let snapshot = &mut model.snapshots[number];
            snapshot.image = Some(image.clone());
            // Its age is that of its content.
            snapshot.entry.begun = 0;
            number
        }
    };
    let numbers = match asked.moment {
        Moment::At(wall_ns) => [number as u64, 0, wall_ns],
        Moment::Before(sequence) => [number as u64, 1, sequence],
    };
    note(model, "take past", slot, numbers);
    let result = past.snapshot(id, name, asked.moment).await;
    let after = past.kept(id).await.unwrap_or_default();
    note(model, "took past", slot, [number as u64, u64::from(result.is_ok()), 0]);
    if is_now {
        answer(model, number, &result);
    } else {
        answered(model, number, asked.begun, &result);
    }
    let is_outside = result.as_ref().is_err_and(|error| error.kind == Kind::Invalid);
    if is_outside {
        model.borrow_mut().snapshots[number].entry.presence = Presence::Gone;
    }
    let judged = judge(&model.borrow(), slot, &asked, (before, after), &result);
    if let Err(what) = judged {
        let text = format!("{:?} of v{}, asked for at {}: {what}", asked.moment, slot + 1, asked.wall_ns);
        model.borrow_mut().fail(text);
        return;
    }
    match result {
        Ok(_) => {
            read_whole(model, node, number).await;
            if rng.chance(Chance::percent(60)) {
                delete_one(model, node, number, rng).await;
            }
        }
        Err(_) if is_outside => {}
        Err(error) => refused(model, "a snapshot of the past", number, &error, true),
    }
}

fn answered(model: &Shared, number: usize, begun: Time, result: &Result<u64>) {
    let mut model = model.borrow_mut();
    let now = model.tick();
    let model = &mut *model;
    let snapshot = &mut model.snapshots[number];
    let slot = &mut model.slots[snapshot.slot];
    slot.cutting -= 1;
    match result {
        Ok(id) => {
            snapshot.entry.created(now, *id);
            slot.history.flushed(begun, now);
        }
        Err(error) if error.kind == Kind::Full => snapshot.entry.presence = Presence::Gone,
        // In doubt until the next start.
        Err(_) => {}
    }
}

/// Whether the moment was in the window, as far as that is known.
fn judge(
    model: &Model,
    slot: usize,
    asked: &Asked,
    (before, after): (Option<Kept>, Option<Kept>),
    result: &std::result::Result<u64, Error>,
) -> std::result::Result<(), String> {
    let windows = &model.slots[slot].windows;
    if model.slots[slot].is_closing || windows.sets != asked.sets {
        return Ok(());
    }
    check_kept(model, slot, after)?;
    let is_outside = match result {
        Ok(_) => false,
        Err(error) if error.kind == Kind::Invalid => true,
        Err(_) => return Ok(()),
    };
    let Some(window) = windows.known() else { return Ok(()) };
    if window.is_none() {
        return if is_outside { Ok(()) } else { Err("nothing is kept, but a moment of it is there".into()) };
    }
    let (now_ns, is_monotone) = (model.executor.wall_ns(), model.walls.is_monotone_since(asked.begun));
    let (too_early, too_late, inside) = match asked.moment {
        Moment::At(at) => {
            let since = |kept: Option<Kept>| kept.and_then(|kept| kept.since_ns);
            (
                since(before).is_some_and(|since| at < since),
                is_monotone && at > now_ns,
                is_monotone && at <= asked.wall_ns && since(after).is_some_and(|since| at >= since),
            )
        }
        Moment::Before(sequence) => {
            let since = |kept: Option<Kept>| kept.and_then(|kept| kept.since);
            (
                since(before).is_some_and(|since| sequence < since),
                false,
                since(after).is_some_and(|since| sequence >= since),
            )
        }
    };
    match is_outside {
        true if inside => Err(format!("it is in the window, {after:?}, but was refused: {result:?}")),
        false if too_early || too_late => Err(format!("it is outside the window, {before:?}, but was had")),
        _ => Ok(()),
    }
}

async fn wait(model: &Shared, rng: &mut Rng) {
    let sleep = model.borrow().executor.sleep(rng.below(4 * SECOND_NS));
    sleep.await;
}

fn jump(model: &Shared, rng: &mut Rng) {
    let mut model = model.borrow_mut();
    model.tick();
    let by = rng.below(20 * SECOND_NS) as i64;
    let offset = model.executor.wall_offset_ns();
    // Seldom back: of what was written twice at one time little is known.
    let offset = if rng.chance(Chance::percent(10)) { offset - by } else { offset + by };
    model.executor.step_wall(offset);
    model.executor.journal.note("clock is set", [offset as u64, 0, 0]);
    model.tick();
}

async fn look(model: &Shared, past: &dyn Past, slot: usize, id: u64) {
    let sets = model.borrow().slots[slot].windows.sets;
    let (kept, found) = (past.kept(id).await, past.history(id).await);
    let mut model = model.borrow_mut();
    if let Ok(kept) = kept
        && model.slots[slot].windows.sets == sets
        && let Err(what) = check_kept(&model, slot, kept)
    {
        model.fail(format!("v{}: {what}", slot + 1));
    }
    match found {
        Ok(found) if !found.is_sorted() => model.fail(format!("moments of note in no order: {found:?}")),
        Ok(_) => {}
        // Its first point is stored before it is read.
        Err(error) if model.excuses(error.kind, slot, true) => {}
        Err(error) => model.fail(format!("the history of v{} was refused: {:?}, {error}", slot + 1, error.kind)),
    }
}
