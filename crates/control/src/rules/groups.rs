//! What consistency groups of VMs may be.

use super::check_name;
use crate::{CreateVmGroup, Error, Result, VmGroupInfo};

/// VMs of one group: all their vDisks are paused together, and one record names them all.
pub const GROUP_VMS_MAX: usize = 64;
/// Groups that one VM is in; their names are in every copy of its record.
pub const GROUPS_OF_VM_MAX: usize = 8;

/// vDisks of all VMs of one group: each snapshot of it names them all in the log of each of them, and in every checkpoint while
/// it is kept. With 512 that a schedule keeps these are 1 MiB; twice as many vDisks would double that.
pub const GROUP_VDISKS_MAX: usize = 256;

pub fn check_group_vdisks(group: &str, vdisks: usize) -> Result<()> {
    if vdisks <= GROUP_VDISKS_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the VMs of group {group:?} would have {vdisks} vDisks; those of a group have at most {GROUP_VDISKS_MAX} together"
    )))
}

pub fn check_create(create: &CreateVmGroup) -> Result<()> {
    check_name(&create.name)
        .map_err(|error| Error::invalid(error.message.replace("the name of a vDisk", "the name of a group")))?;
    if create.vms.is_empty() {
        return Err(Error::invalid("a group has at least one VM: --vm NAME"));
    }
    if let Some((_, twice)) = create.vms.iter().enumerate().find(|(index, vm)| create.vms[..*index].contains(vm)) {
        return Err(Error::invalid(format!("VM {twice:?} is named twice")));
    }
    check_group_size(&create.name, create.vms.len())
}

pub fn check_group_size(group: &str, vms: usize) -> Result<()> {
    if vms <= GROUP_VMS_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!("group {group:?} would have {vms} VMs; a group has at most {GROUP_VMS_MAX}")))
}

pub fn check_groups_of(vm: &str, groups: usize) -> Result<()> {
    if groups <= GROUPS_OF_VM_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!("VM {vm:?} would be in {groups} groups; a VM is in at most {GROUPS_OF_VM_MAX}")))
}

/// The last VM does not leave: a group without VMs is none.
pub fn check_removal(group: &VmGroupInfo, vm: &str) -> Result<()> {
    if !group.vms.iter().any(|member| member == vm) {
        return Err(Error::not_in_group(vm, &group.name));
    }
    if group.vms.len() == 1 {
        return Err(Error::invalid(format!(
            "VM {vm:?} is the last one of group {:?}; delete the group (`drystone group delete {}`)",
            group.name, group.name
        )));
    }
    Ok(())
}
