//! The verbs on the past in memory. The model's clock stands still: the only moment of the past is now.

use super::snapshots::NOW_UNIX_MS;
use super::{Model, State, ready};
use crate::rules::rewind::{Wanted, check_rewind, moment};
use crate::{
    ControlFuture, Error, HistoryKind, HistoryPoint, MakeClones, Moment, Result, RewindControl, RewindInfo, RolledBack,
    SetRewind, SnapshotInfo, VdiskInfo, VmInfo, VmRolledBack, VmSnapshotInfo,
};
use base::utc;

const NOW_NS: u64 = NOW_UNIX_MS * 1_000_000;

pub(super) fn kept(SetRewind { window_seconds, limit_bytes }: SetRewind) -> RewindInfo {
    RewindInfo { window_seconds, limit_bytes, since_unix_ms: Some(NOW_UNIX_MS), held_bytes: 0, cut_short: false }
}

impl State {
    pub(super) fn set_rewind(&mut self, vdisk: &str, set: Option<SetRewind>) -> Result<VdiskInfo> {
        set.as_ref().map_or(Ok(()), check_rewind)?;
        let info = &mut self.vdisk(vdisk)?.info;
        info.rewind = set.map(kept);
        info.rewind_inherited = false;
        Ok(info.clone())
    }

    fn check_moment(&mut self, vdisk: &str, wanted: &Moment) -> Result<()> {
        let wanted = moment(wanted)?;
        let window = self.vdisk(vdisk)?.info.rewind;
        match (window, wanted) {
            (None, _) => Err(Error::invalid(format!("vDisk {vdisk:?} keeps no history"))),
            (Some(_), Wanted::At(NOW_NS) | Wanted::Before(1)) => Ok(()),
            (Some(_), _) => {
                Err(Error::invalid(format!("that is outside the window, which is {}", utc::format_ns(NOW_NS))))
            }
        }
    }

    fn check_moment_of_vm(&mut self, vm: &str, wanted: &Moment) -> Result<()> {
        let info = self.vm_info(vm)?;
        info.vdisks.iter().try_for_each(|member| self.check_moment(&member.vdisk, wanted))
    }

    fn history(&mut self, vdisk: &str) -> Result<Vec<HistoryPoint>> {
        let (kind, at) = (HistoryKind::Checkpoint, utc::format_ns(NOW_NS));
        let point = |_| HistoryPoint { kind, at: at.clone(), before_write: 1, seconds: 0, bytes: 0 };
        Ok(self.vdisk(vdisk)?.info.rewind.map(point).into_iter().collect())
    }
}

impl RewindControl for Model {
    fn set_rewind<'a>(&'a self, vdisk: &'a str, set: Option<SetRewind>) -> ControlFuture<'a, VdiskInfo> {
        ready(self.lock().set_rewind(vdisk, set))
    }

    fn inherit_rewind<'a>(&'a self, vdisk: &'a str) -> ControlFuture<'a, VdiskInfo> {
        ready(self.lock().inherit(vdisk))
    }

    fn history<'a>(
        &'a self,
        vdisk: &'a str,
        _: Option<&'a str>,
        _: Option<&'a str>,
    ) -> ControlFuture<'a, Vec<HistoryPoint>> {
        ready(self.lock().history(vdisk))
    }

    fn snapshot_past<'a>(&'a self, vdisk: &'a str, name: &'a str, moment: Moment) -> ControlFuture<'a, SnapshotInfo> {
        let mut state = self.lock();
        let checked = state.check_moment(vdisk, &moment);
        ready(checked.and_then(|()| state.create_snapshot(vdisk, name)))
    }

    fn clone_past<'a>(
        &'a self,
        vdisk: &'a str,
        names: Vec<String>,
        moment: Moment,
    ) -> ControlFuture<'a, Vec<VdiskInfo>> {
        let mut state = self.lock();
        let checked = state.check_moment(vdisk, &moment);
        ready(checked.and_then(|()| state.make_clones(vdisk, MakeClones { snapshot: None, names })))
    }

    fn roll_back_to_past<'a>(&'a self, vdisk: &'a str, moment: Moment) -> ControlFuture<'a, RolledBack> {
        let mut state = self.lock();
        let checked = state.check_moment(vdisk, &moment);
        let made = checked.and_then(|()| state.create_snapshot(vdisk, "past"));
        ready(made.and_then(|past| state.roll_back(vdisk, &past.name)))
    }

    fn snapshot_vm_past<'a>(&'a self, vm: &'a str, name: &'a str, moment: Moment) -> ControlFuture<'a, VmSnapshotInfo> {
        let mut state = self.lock();
        let checked = state.check_moment_of_vm(vm, &moment);
        ready(checked.and_then(|()| state.create_vm_snapshot(vm, name)))
    }

    fn clone_vm_past<'a>(&'a self, vm: &'a str, names: Vec<String>, moment: Moment) -> ControlFuture<'a, Vec<VmInfo>> {
        let mut state = self.lock();
        let checked = state.check_moment_of_vm(vm, &moment);
        ready(checked.and_then(|()| state.clone_vm(vm, MakeClones { snapshot: None, names })))
    }

    /// The only moment of the past is now, so that nothing changes.
    fn roll_vm_back_to_past<'a>(&'a self, vm: &'a str, moment: Moment) -> ControlFuture<'a, VmRolledBack> {
        let mut state = self.lock();
        let checked = state.check_moment_of_vm(vm, &moment);
        ready(checked.and_then(|()| {
            let kept = crate::rules::snapshots::kept_name(NOW_UNIX_MS, |_| false);
            let kept = state.create_vm_snapshot(vm, &kept)?;
            Ok(VmRolledBack { vm: state.vm_info(vm)?, kept })
        }))
    }
}
