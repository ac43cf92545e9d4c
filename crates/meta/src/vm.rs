//! Records of VMs, of sets of snapshots that were taken at one instant, and of what is under way; their bytes as in
//! [`crate::record`].

use crate::Result;
use crate::record::{Bad, Fields, begin, begin_version, decode, decode_versions, end, flag, put_text, text};
use base::{ContainerId, Reader, SnapshotId, VdiskId, VmId, Writer};
use bytes::Bytes;

/// A VM: a named set of vDisks. Each of these has a copy in its log.
///
/// | field | type |
/// |---|---|
/// | id | u64 |
/// | name | text |
/// | serial | u64 |
/// | created_wall_ns | u64 |
/// | template | bool |
/// | deleting | bool |
/// | vdisks | u16 number; each: label text, vDisk id u64 |
/// | luns, from version 2 on | next u16; of each vDisk u16 |
/// | groups, from version 3 on | u16 number; each: name text |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRecord {
    pub id: VmId,
    pub name: String,
    /// Raised by each change: of several copies the highest is the newest.
    pub serial: u64,
    pub created_wall_ns: u64,
    /// Its vDisks are not to be written.
    pub template: bool,
    /// It is to go, and its vDisks with it: a start goes on with that.
    pub deleting: bool,
    /// Names of the consistency groups that it is in, sorted. A group is there as long as a VM is in it.
    pub groups: Vec<String>,
    /// The first logical unit number that no vDisk of it ever had.
    pub lun_next: u16,
    pub vdisks: Vec<VmVdisk>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmVdisk {
    /// What the VM calls it.
    pub label: String,
    pub vdisk: VdiskId,
    /// Its logical unit number in the VM's iSCSI target.
    pub lun: u16,
}

/// Snapshots that were taken at one instant: they count when this is stored, and never without it.
///
/// | field | type |
/// |---|---|
/// | id | u64 |
/// | name | text |
/// | created_wall_ns | u64 |
/// | deleting | bool |
/// | group | optional: name text |
/// | vms | u16 number; each: VM id u64, u16 number of members; each: label text, vDisk id u64, snapshot id u64 |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetRecord {
    pub id: SnapshotId,
    pub name: String,
    pub created_wall_ns: u64,
    /// It is to go: a start goes on with that.
    pub deleting: bool,
    /// The group of VMs that it was taken of.
    pub group: Option<String>,
    pub vms: Vec<SetVm>,
}

/// A VM as it was at that instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetVm {
    pub vm: VmId,
    pub members: Vec<SetMember>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetMember {
    pub label: String,
    pub vdisk: VdiskId,
    pub snapshot: SnapshotId,
}

/// A VM that is being made; a start goes on with it.
///
/// | field | type |
/// |---|---|
/// | vm | u64 |
/// | name | text |
/// | vdisks | u16 number; each: label text, vDisk name text, source u8: 0 and size u64, sector u32; or 1 and vDisk id u64, snapshot id u64; or, version 3 only, 2 and vDisk id u64 |
/// | container | from version 2 on: u64 |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanRecord {
    pub vm: VmId,
    pub name: String,
    pub vdisks: Vec<PlannedVdisk>,
    /// Of vDisks that begin empty. Clones are where what they are made of is.
    pub container: ContainerId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedVdisk {
    pub label: String,
    pub name: String,
    pub source: Source,
}

/// What a vDisk begins as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Empty {
        size_bytes: u64,
        sector_bytes: u32,
    },
    Snapshot {
        vdisk: VdiskId,
        snapshot: SnapshotId,
    },
    /// It is there already, under another name.
    Existing {
        vdisk: VdiskId,
    },
}

/// A VM that is being rolled back; a start goes on with it before anybody can connect.
///
/// | field | type |
/// |---|---|
/// | vm | u64 |
/// | steps | u16 number; each: vDisk id u64, snapshot id u64 |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackRecord {
    pub vm: VmId,
    pub steps: Vec<(VdiskId, SnapshotId)>,
}

/// Numbers of a VM's logical units are below this: initiators of any age can name them.
pub const LUNS: u16 = 256;

impl VmRecord {
    const KIND: u8 = 6;
    /// Version 1 knew of no logical unit numbers, version 2 of no groups.
    const VERSION: u16 = 3;

    /// Adds a vDisk under the next logical unit number. A number is used a second time only if all have been used: a host that
    /// still had the old disk open under it would write to the new one.
    pub fn add(&mut self, label: String, vdisk: VdiskId) {
        let used = |lun: &u16| self.vdisks.iter().any(|member| member.lun == *lun);
        let lun = match self.lun_next {
            next if next < LUNS => next,
            _ => (0..LUNS).find(|lun| !used(lun)).expect("a VM has fewer vDisks than there are numbers"),
        };
        self.lun_next = self.lun_next.max(lun + 1);
        self.vdisks.push(VmVdisk { label, vdisk, lun });
    }

    /// Names and numbers are limited where they come in; so for all records here.
    pub fn encode(&self) -> Bytes {
        let mut w = begin_version(Self::KIND, Self::VERSION);
        w.u64_le(self.id.raw());
        put_text(&mut w, &self.name);
        w.u64_le(self.serial).u64_le(self.created_wall_ns).u8(self.template.into()).u8(self.deleting.into());
        put_count(&mut w, self.vdisks.len());
        for VmVdisk { label, vdisk, .. } in &self.vdisks {
            put_text(&mut w, label);
            w.u64_le(vdisk.raw());
        }
        w.u16_le(self.lun_next);
        for member in &self.vdisks {
            w.u16_le(member.lun);
        }
        put_count(&mut w, self.groups.len());
        self.groups.iter().for_each(|group| put_text(&mut w, group));
        end(w)
    }

    /// `Corrupt` if the bytes are damaged, `UnsupportedFormat` if a newer build wrote them; so for all records here.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode_versions(bytes, Self::KIND, "VM", Self::VERSION, |r, version| {
            let (id, name) = (vm(r)?, text(r)?);
            let (serial, created_wall_ns) = (r.u64_le()?, r.u64_le()?);
            let (template, deleting) = (flag(r)?, flag(r)?);
            let members = list(r, |r| Ok((text(r)?, vdisk(r)?)))?;
            if members.len() > LUNS.into() {
                return Err(Bad::Value("number of vDisks"));
            }
            let (groups, vdisks) = (Vec::new(), Vec::new());
            let mut record =
                VmRecord { id, name, serial, created_wall_ns, template, deleting, groups, lun_next: 0, vdisks };
            if version < 2 {
                members.into_iter().for_each(|(label, vdisk)| record.add(label, vdisk));
                return Ok(record);
            }
            record.lun_next = r.u16_le()?;
            for (label, vdisk) in members {
                let lun = r.u16_le()?;
                let twice = record.vdisks.iter().any(|other| other.lun == lun);
                if twice || lun >= record.lun_next || record.lun_next > LUNS {
                    return Err(Bad::Value("logical unit number"));
                }
                record.vdisks.push(VmVdisk { label, vdisk, lun });
            }
            if version >= 3 {
                record.groups = list(r, text)?;
            }
            Ok(record)
        })
    }
}

impl SetRecord {
    const KIND: u8 = 7;

    pub fn encode(&self) -> Bytes {
        let mut w = begin(Self::KIND);
        w.u64_le(self.id.raw());
        put_text(&mut w, &self.name);
        w.u64_le(self.created_wall_ns).u8(self.deleting.into()).u8(self.group.is_some().into());
        self.group.iter().for_each(|group| put_text(&mut w, group));
        put_count(&mut w, self.vms.len());
        for SetVm { vm, members } in &self.vms {
            w.u64_le(vm.raw());
            put_count(&mut w, members.len());
            for SetMember { label, vdisk, snapshot } in members {
                put_text(&mut w, label);
                w.u64_le(vdisk.raw()).u64_le(snapshot.raw());
            }
        }
        end(w)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes, Self::KIND, "snapshot set", |r| {
            let (id, name, created_wall_ns, deleting) = (snapshot(r)?, text(r)?, r.u64_le()?, flag(r)?);
            let group = if flag(r)? { Some(text(r)?) } else { None };
            let vms = list(r, |r| {
                let vm = vm(r)?;
                let member =
                    |r: &mut Reader| Ok(SetMember { label: text(r)?, vdisk: vdisk(r)?, snapshot: snapshot(r)? });
                Ok(SetVm { vm, members: list(r, member)? })
            })?;
            Ok(SetRecord { id, name, created_wall_ns, deleting, group, vms })
        })
    }
}

impl PlanRecord {
    const KIND: u8 = 8;
    /// Version 1 knew of no containers, version 2 of no vDisks that are there already. Builds that know no more can read plans
    /// that need no more.
    const VERSION: u16 = 3;

    fn version(&self) -> u16 {
        let takes = self.vdisks.iter().any(|planned| matches!(planned.source, Source::Existing { .. }));
        match (takes, self.container.is_none()) {
            (true, _) => Self::VERSION,
            (false, false) => 2,
            (false, true) => 1,
        }
    }

    pub fn encode(&self) -> Bytes {
        let version = self.version();
        let mut w = begin_version(Self::KIND, version);
        w.u64_le(self.vm.raw());
        put_text(&mut w, &self.name);
        put_count(&mut w, self.vdisks.len());
        for PlannedVdisk { label, name, source } in &self.vdisks {
            put_text(&mut w, label);
            put_text(&mut w, name);
            match source {
                Source::Empty { size_bytes, sector_bytes } => w.u8(0).u64_le(*size_bytes).u32_le(*sector_bytes),
                Source::Snapshot { vdisk, snapshot } => w.u8(1).u64_le(vdisk.raw()).u64_le(snapshot.raw()),
                Source::Existing { vdisk } => w.u8(2).u64_le(vdisk.raw()),
            };
        }
        if version > 1 {
            w.u64_le(self.container.raw());
        }
        end(w)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode_versions(bytes, Self::KIND, "plan", Self::VERSION, |r, version| {
            let (vm, name) = (vm(r)?, text(r)?);
            let vdisks = list(r, |r| {
                let (label, name) = (text(r)?, text(r)?);
                let source = match r.u8()? {
                    0 => Source::Empty { size_bytes: r.u64_le()?, sector_bytes: r.u32_le()? },
                    1 => Source::Snapshot { vdisk: vdisk(r)?, snapshot: snapshot(r)? },
                    2 if version == Self::VERSION => Source::Existing { vdisk: vdisk(r)? },
                    _ => return Err(Bad::Value("source")),
                };
                Ok(PlannedVdisk { label, name, source })
            })?;
            let container = match version {
                1 => ContainerId::NONE,
                _ => ContainerId::from_raw(r.u64_le()?).ok_or(Bad::Value("container id"))?,
            };
            Ok(PlanRecord { vm, name, vdisks, container })
        })
    }
}

impl RollbackRecord {
    const KIND: u8 = 9;

    pub fn encode(&self) -> Bytes {
        let mut w = begin(Self::KIND);
        w.u64_le(self.vm.raw());
        put_count(&mut w, self.steps.len());
        for (vdisk, snapshot) in &self.steps {
            w.u64_le(vdisk.raw()).u64_le(snapshot.raw());
        }
        end(w)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes, Self::KIND, "rollback", |r| {
            Ok(RollbackRecord { vm: vm(r)?, steps: list(r, |r| Ok((vdisk(r)?, snapshot(r)?)))? })
        })
    }
}

fn put_count(w: &mut Writer, count: usize) {
    w.u16_le(u16::try_from(count).expect("lists are limited where they come in"));
}

fn list<T>(r: &mut Reader, item: impl Fn(&mut Reader) -> Fields<T>) -> Fields<Vec<T>> {
    (0..r.u16_le()?).map(|_| item(r)).collect()
}

fn vm(r: &mut Reader) -> Fields<VmId> {
    VmId::from_raw(r.u64_le()?).ok_or(Bad::Value("VM id"))
}

fn vdisk(r: &mut Reader) -> Fields<VdiskId> {
    VdiskId::from_raw(r.u64_le()?).ok_or(Bad::Value("vDisk id"))
}

fn snapshot(r: &mut Reader) -> Fields<SnapshotId> {
    SnapshotId::from_raw(r.u64_le()?).ok_or(Bad::Value("snapshot id"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn record() -> VmRecord {
        let vdisks = vec![VmVdisk { label: "root".into(), vdisk: VdiskId::new(7, 9), lun: 3 }];
        VmRecord {
            id: VmId::new(7, 3),
            name: "web".into(),
            serial: 2,
            created_wall_ns: 0x1122,
            template: true,
            deleting: false,
            groups: vec!["g".into()],
            lun_next: 4,
            vdisks,
        }
    }

    fn set() -> SetRecord {
        let member = SetMember { label: "a".into(), vdisk: VdiskId::new(7, 9), snapshot: SnapshotId::new(7, 10) };
        let vms = vec![SetVm { vm: VmId::new(7, 3), members: vec![member] }];
        let (id, group) = (SnapshotId::new(7, 11), Some("g".into()));
        SetRecord { id, name: "s".into(), created_wall_ns: 5, deleting: false, group, vms }
    }

    fn plan() -> PlanRecord {
        let empty = Source::Empty { size_bytes: 4096, sector_bytes: 512 };
        let copy = Source::Snapshot { vdisk: VdiskId::new(7, 9), snapshot: SnapshotId::new(7, 10) };
        let planned = |label: &str, source| PlannedVdisk { label: label.into(), name: format!("w-{label}"), source };
        let vdisks = vec![planned("a", empty), planned("b", copy)];
        PlanRecord { vm: VmId::new(7, 3), name: "w".into(), vdisks, container: ContainerId::NONE }
    }

    fn taking() -> PlanRecord {
        let source = Source::Existing { vdisk: VdiskId::new(7, 9) };
        PlanRecord { vdisks: vec![PlannedVdisk { label: "a".into(), name: "w-a".into(), source }], ..plan() }
    }

    fn rollback() -> RollbackRecord {
        RollbackRecord { vm: VmId::new(7, 3), steps: vec![(VdiskId::new(7, 9), SnapshotId::new(7, 10))] }
    }

    #[track_caller]
    fn golden(encoded: Bytes, body: &str) {
        let hex: String = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.strip_prefix(body).map(str::len), Some(8), "{hex}");
    }

    #[test]
    fn golden_bytes() {
        golden(
            record().encode(),
            "0300060300000007000000030077656202000000000000002211000000000000010001\
             000400726f6f740900000007000000040003000100010067",
        );
        golden(
            set().encode(),
            "0100070b0000000700000001007305000000000000000001010067010003000000070000000100\
             01006109000000070000000a00000007000000",
        );
        golden(
            plan().encode(),
            "010008030000000700000001007702000100610300772d6100001000000000000000020000\
             0100620300772d620109000000070000000a00000007000000",
        );
        let elsewhere = PlanRecord { container: ContainerId::new(7, 4), vdisks: Vec::new(), ..plan() };
        golden(elsewhere.encode(), "020008030000000700000001007700000400000007000000");
        golden(taking().encode(), "030008030000000700000001007701000100610300772d610209000000070000000000000000000000");
        golden(rollback().encode(), "0100090300000007000000010009000000070000000a00000007000000");
    }

    #[test]
    fn vms_from_before_there_were_logical_units_get_their_numbers_in_order() {
        let old = "010006030000000700000003007765620200000000000000221100000000000001000200\
                   0400726f6f7409000000070000000100610800000007000000";
        let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).expect("digits"), 16).expect("digits");
        let body: Vec<u8> = old.as_bytes().chunks(2).map(byte).collect();
        let vm =
            VmRecord::decode(&[&body[..], &base::crc::crc32c(&body).to_le_bytes()].concat()).expect("an old record");
        let luns: Vec<(&str, u16)> = vm.vdisks.iter().map(|member| (member.label.as_str(), member.lun)).collect();
        assert_eq!((luns, vm.lun_next), (vec![("root", 0), ("a", 1)], 2));
    }

    #[test]
    fn numbers_of_logical_units_are_not_used_twice_in_a_row() {
        let mut vm = VmRecord { vdisks: Vec::new(), lun_next: 0, ..record() };
        let add = |vm: &mut VmRecord, number: u32| vm.add(format!("d{number}"), VdiskId::new(7, number));
        (1..=3).for_each(|number| add(&mut vm, number));
        vm.vdisks.remove(1);
        add(&mut vm, 4);
        let luns = |vm: &VmRecord| vm.vdisks.iter().map(|member| member.lun).collect::<Vec<_>>();
        assert_eq!((luns(&vm), vm.lun_next), (vec![0, 2, 3], 4));
        vm.lun_next = LUNS;
        add(&mut vm, 5);
        add(&mut vm, 6);
        assert_eq!((luns(&vm), vm.lun_next), (vec![0, 2, 3, 1, 4], LUNS));
    }

    #[test]
    fn records_come_back() {
        let bare = VmRecord { vdisks: Vec::new(), template: false, deleting: true, ..record() };
        for vm in [record(), bare] {
            assert_eq!(VmRecord::decode(&vm.encode()).expect("good"), vm);
        }
        let alone = SetRecord { group: None, deleting: true, vms: Vec::new(), ..set() };
        for record in [set(), alone] {
            assert_eq!(SetRecord::decode(&record.encode()).expect("good"), record);
        }
        for record in [plan(), taking(), PlanRecord { container: ContainerId::new(7, 4), ..plan() }] {
            assert_eq!(PlanRecord::decode(&record.encode()).expect("good"), record);
        }
        assert_eq!(RollbackRecord::decode(&rollback().encode()).expect("good"), rollback());
    }

    #[test]
    fn damage_is_noticed() {
        fn check<T: std::fmt::Debug>(good: Bytes, decode: impl Fn(&[u8]) -> Result<T>) {
            for len in 0..good.len() {
                assert_eq!(decode(&good[..len]).expect_err("short").kind, Kind::Corrupt, "{len} bytes");
            }
            // With the right checksum: cut short, too long, and of another kind.
            let body = &good[..good.len() - 4];
            let sealed = |body: &[u8]| [body, &base::crc::crc32c(body).to_le_bytes()].concat();
            for len in 0..body.len() {
                assert_eq!(decode(&sealed(&body[..len])).expect_err("cut").kind, Kind::Corrupt, "cut at {len}");
            }
            assert_eq!(decode(&sealed(&[body, &[0]].concat())).expect_err("long").kind, Kind::Corrupt);
            let mut other = body.to_vec();
            other[2] = 1;
            assert_eq!(decode(&sealed(&other)).expect_err("another kind").kind, Kind::Corrupt);
        }
        check(record().encode(), VmRecord::decode);
        check(set().encode(), SetRecord::decode);
        check(plan().encode(), PlanRecord::decode);
        check(rollback().encode(), RollbackRecord::decode);
    }
}
