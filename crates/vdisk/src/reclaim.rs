//! Making room: freeing groups in which nothing lives, punching large dead ranges, re-packing what is left of a group.
//!
//! Counters only choose where to look. A group is freed when a *synced* checkpoint does not reach any extent of it,
//! found out by looking up every extent that the group's frames name. Extents are moved by appending them again in this
//! vDisk's own log, if the map still says what it said.

mod copies;
mod empty;
mod free;
mod pace;
mod view;

pub(crate) use copies::CopiesTrouble;
pub(crate) use free::{find_any_in, list};
use pace::Behind;
pub(crate) use pace::Pace;

use crate::account::GroupAccount;
use crate::address::Address;
use crate::log::frame::RunKind;
use crate::log::{WalkedFrame, run_addresses};
use crate::vdisk::{State, Vdisk};
use crate::{Kind, Result};
use base::GroupId;
use std::rc::Rc;

/// A group that is fuller than this is not re-packed for space.
const FULL_PERCENT: u64 = 90;
/// Part of the live bytes that may lie dead until a checkpoint lets them go: each checkpoint of a vDisk that is written
/// all over stores its whole map, 0.4 % of the live bytes.
const DEAD_PART: u64 = 7;
/// Part of the live bytes by which re-packing may fall behind before clients are at their slowest.
const PACE_PART: u64 = 32;
/// How often the space rule is looked at, bytes of log.
const LOOK_EVERY: u64 = 8 << 20;

/// Bytes and number of the groups that re-packing is about.
#[derive(Default)]
struct OwnRoom {
    occupied: u64,
    live: u64,
    groups: u64,
    /// Of groups in which nothing lives, but which the last checkpoint may still need.
    dead: u64,
    /// Groups in which anything lives.
    living: u64,
}

impl Vdisk {
    /// Whether it is worth waking the maintenance: cheap, asked after each frame of a client. Frames of the maintenance
    /// itself do not count, or it would be the reason for more of it.
    pub(crate) fn space_is_due(&self) -> bool {
        if self.user_log_bytes.get() < self.next_space_look.get() {
            return false;
        }
        let own = self.own_room();
        let over = own.occupied > self.space_limit(own.live);
        let many = own.groups > self.groups_limit(own.live);
        if over || many {
            self.look_later();
        }
        over || many
    }

    /// What its own groups hold that nobody else needs. (Of the others nothing comes free by re-packing.)
    fn own_room(&self) -> OwnRoom {
        let state = self.state.borrow();
        let mut own = OwnRoom::default();
        for (id, account) in self.own_groups(&state) {
            let occupied = account.occupied();
            own.occupied += occupied;
            own.live += account.live();
            own.groups += 1;
            if account.live() > 0 && !state.emptied.contains(&id) {
                own.living += 1;
            } else if id != state.position.group {
                own.dead += occupied;
            }
        }
        own
    }

    fn own_groups<'a>(&'a self, state: &'a State) -> impl Iterator<Item = (GroupId, &'a GroupAccount)> {
        let groups = state.accounts.groups.iter().map(|(id, account)| (*id, account));
        groups.filter(|(id, account)| self.is_own(*id, account))
    }

    /// Written by this vDisk and needed by nobody else, nor by its own history.
    pub(super) fn is_own(&self, group: GroupId, account: &GroupAccount) -> bool {
        !account.is_foreign() && !self.is_history(account) && !self.context.references.is_held(group)
    }

    fn look_later(&self) {
        let every = LOOK_EVERY.min(self.context.settings.space_slack_bytes / 4);
        self.next_space_look.set(self.user_log_bytes.get() + every);
    }

    /// More is dead than may wait for a checkpoint that comes anyway. As long as somebody is not heard nothing comes free by one.
    fn much_is_dead(&self) -> bool {
        if !self.may_free() {
            return false;
        }
        let own = self.own_room();
        own.dead > if self.urgent.get() { 0 } else { self.dead_limit(own.live) }
    }

    fn dead_limit(&self, live: u64) -> u64 {
        (self.context.settings.space_slack_bytes / 2).max(live / DEAD_PART)
    }

    /// How many groups are emptied between two checkpoints, about.
    fn turn_groups(&self) -> u64 {
        let live = self.state.borrow().accounts.live_bytes();
        self.dead_limit(live) / u64::from(self.context.pool.group_size())
    }

    /// Clients write in step with re-packing, as far as it is behind.
    fn keep_pace(&self) {
        let own = self.own_room();
        let behind = Behind {
            over_bytes: (own.occupied - own.dead).saturating_sub(self.usual_limit(own.live) + self.lost_bytes()),
            band_bytes: own.live / PACE_PART + self.context.settings.space_slack_bytes / 4,
        };
        self.pace.set(behind, self.context.world.now().0);
    }

    /// Of groups that cannot be emptied: no client is to wait for them.
    fn lost_bytes(&self) -> u64 {
        let state = self.state.borrow();
        let accounts = state.unreadable.iter().map(|group| state.accounts.of(*group));
        accounts.map(|account| account.occupied().saturating_sub(account.live())).sum()
    }

    fn space_limit(&self, live: u64) -> u64 {
        if self.urgent.get() {
            return live + live / 20 + u64::from(self.context.pool.group_size());
        }
        self.usual_limit(live)
    }

    fn usual_limit(&self, live: u64) -> u64 {
        live * self.context.settings.space_percent / 100 + self.context.settings.space_slack_bytes
    }

    /// Groups are to stay within three times what the live bytes would fill; re-packing starts at two.
    fn groups_limit(&self, live: u64) -> u64 {
        2 * live.div_ceil(self.context.pool.group_size().into()) + 4
    }

    /// Frees what is dead and re-packs until the groups hold no more than they may.
    pub async fn make_room(self: &Rc<Self>) -> Result<()> {
        let _one = self.one_reclaim.acquire(1).await;
        if self.closing.get() {
            return Ok(());
        }
        match self.make_room_once().await {
            Ok(true) => self.maintenance.notify(),
            result => {
                self.lift_pace();
                result?;
            }
        }
        Ok(())
    }

    /// True: there is more to do, and it pays.
    async fn make_room_once(self: &Rc<Self>) -> Result<bool> {
        let (before, written_before) = (self.own_room().occupied, self.user_log_bytes.get());
        self.free_dead_groups().await?;
        self.empty_groups().await?;
        if self.much_is_dead() {
            self.checkpoint().await?;
            self.free_dead_groups().await?;
            self.contents.borrow_mut().none_is_emptied();
        }
        self.look_later();
        // Go on only while it pays: moving what lives and a checkpoint write too, and could feed each other for ever.
        let (after, written) = (self.own_room().occupied, self.user_log_bytes.get() - written_before);
        let pays = after + u64::from(self.context.pool.group_size()) / 2 < before + written;
        Ok(pays && self.pick_victim().is_some())
    }

    pub(crate) fn lift_pace(&self) {
        self.pace.lift();
        self.queued.notify();
    }

    /// Re-packs until the groups hold no more than they may, or much of it waits for a checkpoint.
    async fn empty_groups(self: &Rc<Self>) -> Result<()> {
        while let Some(victim) = self.pick_victim() {
            self.keep_pace();
            let account = self.state.borrow().accounts.of(victim);
            self.state.borrow_mut().emptied.insert(victim);
            match self.empty_group(victim).await {
                Err(error) if matches!(error.kind, Kind::Io | Kind::Corrupt) => {
                    tracing::error!(vdisk = %self.id, group = %victim, %error, "a group cannot be emptied; it is kept");
                    self.state.borrow_mut().unreadable.insert(victim);
                }
                result => {
                    result?;
                    let dead = account.occupied().saturating_sub(account.live());
                    self.pace.freed(dead, self.turn_groups(), self.context.world.now().0);
                }
            }
            // Space comes back with the next checkpoint; do not run far ahead of it.
            if self.closing.get() || self.much_is_dead() {
                break;
            }
        }
        Ok(())
    }

    /// The disk is full: everything that is dead comes free now, and what is half dead is re-packed.
    pub async fn make_room_urgently(self: &Rc<Self>) -> Result<()> {
        self.urgent.set(true);
        let done = async {
            self.checkpoint_if_it_fits().await?;
            self.make_room().await?;
            self.empty_copies().await
        };
        let result = done.await;
        self.urgent.set(false);
        result
    }

    /// The disk is full: what is dead comes free, the history that was given up first of all. Nothing is moved for it.
    pub async fn free_what_is_dead(self: &Rc<Self>) -> Result<()> {
        let _one = self.one_reclaim.acquire(1).await;
        if self.closing.get() {
            return Ok(());
        }
        self.checkpoint_if_it_fits().await?;
        self.free_dead_groups().await?;
        Ok(())
    }

    /// Without it, what an earlier checkpoint has left dead may still come free.
    async fn checkpoint_if_it_fits(self: &Rc<Self>) -> Result<()> {
        match self.checkpoint().await {
            Err(error) if error.kind == Kind::Full => Ok(()),
            result => result,
        }
    }

    fn pick_victim(&self) -> Option<GroupId> {
        // Who was not heard yet may need what looks dead.
        if !self.may_free() {
            return None;
        }
        let own = self.own_room();
        let over = own.occupied.saturating_sub(own.dead) > self.space_limit(own.live);
        let many = own.living > self.groups_limit(own.live);
        if !over && !many {
            return None;
        }
        let state = self.state.borrow();
        let open = state.open.as_ref().map(|group| group.id());
        let fullness = |account: &GroupAccount| account.live() * 1000 / account.occupied().max(1);
        let candidates = self.own_groups(&state).filter(|(id, account)| {
            let settled = *id != state.position.group
                && Some(*id) != open
                && !state.unreadable.contains(id)
                && !state.emptied.contains(id);
            let worth =
                fullness(account) < FULL_PERCENT * 10 || (many && account.len < self.context.pool.group_size() / 2);
            settled && account.live() > 0 && worth
        });
        // Ties are broken by id: the choice does not depend on the order of a hash map.
        let key = |account: &GroupAccount| if over { fullness(account) } else { account.live() };
        candidates.min_by_key(|(id, account)| (key(account), *id)).map(|(id, _)| id)
    }
}

/// Lets the worker's other tasks run: a window of a group holds a thousand frames, clients must not wait for them all.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await
}

fn extents(walked: &WalkedFrame, run: &crate::log::frame::Run) -> Vec<Address> {
    match run.kind {
        RunKind::Data | RunKind::Page => run_addresses(&walked.frame, run),
        RunKind::ClearHole | RunKind::ClearZeros | RunKind::Control => Vec::new(),
    }
}
