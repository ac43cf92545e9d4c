//! What VMs and their parts may be called, how many there may be, and what a snapshot of a VM can be put back onto.

use super::snapshots::{CLONES_MAX, clone_names};
use super::{NAME_LEN_MAX, check_name, check_sector, check_size};
use crate::{AttachVdisk, CreateVm, Error, Kind, MakeClones, Result};
use std::collections::BTreeSet;

/// vDisks of one VM: what a virtual SCSI adapter takes. All of them are in every copy of the VM's record.
pub const VDISKS_MAX: usize = 64;
/// vDisks that one call makes: those of [`CLONES_MAX`] VMs with four each. Their records are one transaction.
pub const CLONED_VDISKS_MAX: usize = 4 * CLONES_MAX;

pub fn check_vm_name(name: &str) -> Result<()> {
    check_name(name).map_err(|error| Error::invalid(error.message.replace("the name of a vDisk", "the name of a VM")))
}

pub fn check_label(label: &str) -> Result<()> {
    check_name(label)
        .map_err(|error| Error::invalid(error.message.replace("the name of a vDisk", "what a VM calls a vDisk")))
}

/// `web01-root`.
pub fn vdisk_name(vm: &str, label: &str) -> Result<String> {
    let name = format!("{vm}-{label}");
    if name.len() > NAME_LEN_MAX {
        return Err(Error::invalid(format!(
            "the vDisk {label:?} of VM {vm:?} would be called {name:?}, which has more than {NAME_LEN_MAX} characters; \
             use shorter names"
        )));
    }
    Ok(name)
}

/// What a VM calls a vDisk that is attached to it: as is said, or by its name.
pub fn label_of(vm: &str, attach: &AttachVdisk) -> Result<String> {
    let of_name = || attach.vdisk.strip_prefix(vm).and_then(|rest| rest.strip_prefix('-')).unwrap_or(&attach.vdisk);
    let label = attach.label.clone().unwrap_or_else(|| of_name().to_string());
    check_label(&label).map(|()| label)
}

/// VMs that could not be made, and are to be forgotten once the metadata store takes that: their names are kept until then.
const GIVEN_UP_MAX: usize = 1_000;

pub fn check_given_up(count: usize) -> Result<()> {
    if count < GIVEN_UP_MAX {
        return Ok(());
    }
    let text = "too many VMs could not be made and are not forgotten yet; `drystone status` says what is in the way";
    Err(Error::new(Kind::Unavailable, text))
}

/// Name, labels, sizes and sectors of a new VM.
pub fn check_create(create: &CreateVm) -> Result<()> {
    check_vm_name(&create.name)?;
    check_vdisk_count(&create.name, create.vdisks.len() + create.existing.len())?;
    for vdisk in &create.vdisks {
        check_size(vdisk.size_bytes)?;
        check_sector(vdisk.sector_bytes)?;
    }
    let mut taken = BTreeSet::new();
    for existing in &create.existing {
        if !taken.insert(&existing.vdisk) {
            return Err(Error::invalid(format!("the vDisk {:?} is named twice", existing.vdisk)));
        }
    }
    let mut labels = BTreeSet::new();
    let all = create.vdisks.iter().map(|vdisk| &vdisk.label);
    for label in all.chain(create.existing.iter().map(|existing| &existing.label)) {
        check_label(label)?;
        vdisk_name(&create.name, label)?;
        if !labels.insert(label) {
            return Err(Error::label_exists(&create.name, label));
        }
    }
    Ok(())
}

pub fn check_vdisk_count(vm: &str, count: usize) -> Result<()> {
    if count <= VDISKS_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!("VM {vm:?} would have {count} vDisks; a VM has at most {VDISKS_MAX}")))
}

/// The names of the VMs that are to be clones of one with these labels; all names of vDisks are good, too.
pub fn vm_clone_names(clones: &MakeClones, labels: &[String]) -> Result<Vec<String>> {
    let names = clone_names(clones)?;
    let count = names.len() * labels.len();
    if count > CLONED_VDISKS_MAX {
        return Err(Error::invalid(format!(
            "{} VMs with {} vDisks each are {count} vDisks, more than one call makes ({CLONED_VDISKS_MAX}); make them in \
             several calls",
            names.len(),
            labels.len()
        )));
    }
    for name in &names {
        labels.iter().try_for_each(|label| vdisk_name(name, label).map(drop))?;
    }
    Ok(names)
}

/// A snapshot is put back onto the vDisks that it was taken of, all of them and no others. A label and a vDisk each.
pub fn check_same_vdisks<Id: PartialEq>(vm: &str, then: &[(String, Id)], now: &[(String, Id)]) -> Result<()> {
    let missing = |these: &[(String, Id)], those: &[(String, Id)]| {
        these.iter().find(|(_, id)| !those.iter().any(|(_, other)| other == id)).map(|(label, _)| label.clone())
    };
    if let Some(label) = missing(then, now) {
        return Err(Error::invalid(format!(
            "the snapshot has the vDisk {label:?}, which is not attached to VM {vm:?} any more; attach it again, or roll \
             back each vDisk by itself (`drystone vdisk rollback`)"
        )));
    }
    match missing(now, then) {
        None => Ok(()),
        Some(label) => Err(Error::invalid(format!(
            "the vDisk {label:?} was attached to VM {vm:?} after the snapshot; detach it first (`drystone vm detach {vm} \
             {label}`), or roll back each vDisk by itself (`drystone vdisk rollback`)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NewVmVdisk;

    fn vdisk(label: &str) -> NewVmVdisk {
        NewVmVdisk { label: label.into(), size_bytes: 4096, sector_bytes: 512 }
    }

    fn create(name: &str, labels: &[&str]) -> CreateVm {
        CreateVm {
            name: name.into(),
            vdisks: labels.iter().map(|label| vdisk(label)).collect(),
            container: None,
            existing: Vec::new(),
        }
    }

    #[test]
    fn new_vms() {
        let long = "n".repeat(60);
        let many: Vec<String> = (0..=VDISKS_MAX).map(|index| format!("d{index}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (name, labels, part) in [
            ("web01", &["root", "data"][..], ""),
            ("web01", &[], ""),
            ("web01", &many[..VDISKS_MAX], ""),
            ("web01", &many, "at most 64"),
            ("a b", &["root"], "the name of a VM"),
            ("web@1", &["root"], "contains '@'"),
            ("web01", &["ro/ot"], "what a VM calls a vDisk"),
            ("web01", &["root", "data", "root"], "\"root\" already"),
            (&long, &["root"], "more than 63"),
        ] {
            let checked = check_create(&create(name, labels));
            match part {
                "" => checked.expect(name),
                part => {
                    let message = checked.expect_err(part).message;
                    assert!(message.contains(part), "{message}");
                }
            }
        }
        let bad = CreateVm { vdisks: vec![NewVmVdisk { size_bytes: 4097, ..vdisk("root") }], ..create("web", &[]) };
        assert!(check_create(&bad).is_err());
        let bad = CreateVm { vdisks: vec![NewVmVdisk { sector_bytes: 520, ..vdisk("root") }], ..create("web", &[]) };
        assert!(check_create(&bad).is_err());
        let existing = |label: &str, vdisk: &str| crate::ExistingVdisk { label: label.into(), vdisk: vdisk.into() };
        let with = |existing| CreateVm { existing, ..create("web", &["root"]) };
        check_create(&with(vec![existing("data", "a"), existing("logs", "b")])).expect("others of other labels");
        for (refused, part) in [
            (vec![existing("root", "a")], "\"root\" already"),
            (vec![existing("data", "a"), existing("logs", "a")], "named twice"),
            (vec![existing("da/ta", "a")], "what a VM calls a vDisk"),
        ] {
            let message = check_create(&with(refused)).expect_err(part).message;
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn labels_come_from_names() {
        let label = |vm: &str, vdisk: &str, label: Option<&str>| {
            label_of(vm, &AttachVdisk { vdisk: vdisk.into(), label: label.map(String::from) })
        };
        assert_eq!(label("web01", "web01-logs", None).expect("good"), "logs");
        assert_eq!(label("web01", "web012-logs", None).expect("good"), "web012-logs");
        assert_eq!(label("web01", "archive", None).expect("good"), "archive");
        assert_eq!(label("web01", "archive", Some("old")).expect("good"), "old");
        assert!(label("web01", "archive", Some("o ld")).is_err());
        assert!(label("web01", "web01-", None).is_err());
    }

    #[test]
    fn clones_of_vms_are_bounded() {
        let clones = |name: &str| MakeClones { snapshot: None, names: vec![name.into()] };
        let labels: Vec<String> = ["root", "a", "b", "c", "d"].map(String::from).into();
        assert_eq!(vm_clone_names(&clones("d{1..1000}"), &labels[..4]).expect("as many as may be").len(), 1000);
        let refused = vm_clone_names(&clones("d{1..1000}"), &labels).expect_err("too many").message;
        assert!(refused.contains("5000 vDisks"), "{refused}");
        assert!(vm_clone_names(&clones("d{1..1001}"), &[]).is_err());
        let long = "n".repeat(59);
        assert!(vm_clone_names(&clones(&long), &labels[1..]).is_ok());
        assert!(vm_clone_names(&clones(&long), &labels).is_err());
    }

    #[test]
    fn what_a_snapshot_can_be_put_back_onto() {
        let set = |labels: &[(&str, u8)]| labels.iter().map(|(label, id)| (label.to_string(), *id)).collect::<Vec<_>>();
        let then = set(&[("root", 1), ("data", 2)]);
        check_same_vdisks("web", &then, &set(&[("data2", 2), ("root", 1)])).expect("whatever they are called");
        let gone = check_same_vdisks("web", &then, &set(&[("root", 1)])).expect_err("one is missing").message;
        assert!(gone.contains("\"data\", which is not attached"), "{gone}");
        let more = set(&[("root", 1), ("data", 2), ("logs", 3)]);
        let more = check_same_vdisks("web", &then, &more).expect_err("one too many").message;
        assert!(more.contains("drystone vm detach web logs"), "{more}");
    }
}
