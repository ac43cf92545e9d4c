//! Records of schedules; their bytes as in [`crate::record`].

use crate::record::{Bad, Fields, begin_version, decode_versions, end, flag, put_text, text};
use crate::{Error, Kind, Result};
use base::{ContainerId, Reader, SnapshotId, VdiskId, VmId, Writer};
use bytes::Bytes;

/// A schedule: what it takes snapshots of, how often, and which ones it took.
///
/// | field | type |
/// |---|---|
/// | name | text |
/// | created_wall_ns | u64 |
/// | serial | u64 |
/// | target | u8: 0 and vDisk id u64; 1 and VM id u64; or 2 and the name of a group of VMs, text; version 2 only: 3 and container id u64 |
/// | paused | bool |
/// | rules | u16 number; each: period in seconds u32, number that is kept u32 |
/// | last_success_wall_ns | u64, 0: none yet |
/// | last_period | optional: u64 |
/// | taking | optional: name of the snapshot that is being taken, text |
/// | taken | u16 number; each, in the order in which they were taken: id u64, name text, seconds since 1970 u64 |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRecord {
    pub name: String,
    pub created_wall_ns: u64,
    /// Raised by each change of what the user sees to, so that the newest of several copies is known.
    pub serial: u64,
    pub target: ScheduleTarget,
    pub paused: bool,
    pub rules: Vec<ScheduleRule>,
    pub last_success_wall_ns: u64,
    /// Number of the shortest rule's period in which the last one was taken.
    pub last_period: Option<u64>,
    /// Stored before the snapshot is taken, so that one that a crash leaves is known.
    pub taking: Option<String>,
    pub taken: Vec<ScheduledSnapshot>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScheduleTarget {
    Vdisk(VdiskId),
    Vm(VmId),
    Group(String),
    Container(ContainerId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleRule {
    pub every_seconds: u32,
    pub keep: u32,
}

/// A snapshot of a vDisk, or a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduledSnapshot {
    pub id: SnapshotId,
    pub name: String,
    pub unix_seconds: u64,
}

impl ScheduleRecord {
    const KIND: u8 = 11;
    /// Of a container, of which version 1 knew nothing; others can be read by builds that do.
    const VERSION: u16 = 2;

    /// One that has taken nothing yet.
    pub fn new(
        name: impl Into<String>,
        created_wall_ns: u64,
        target: ScheduleTarget,
        rules: Vec<ScheduleRule>,
    ) -> ScheduleRecord {
        ScheduleRecord {
            name: name.into(),
            created_wall_ns,
            serial: 1,
            target,
            paused: false,
            rules,
            last_success_wall_ns: 0,
            last_period: None,
            taking: None,
            taken: Vec::new(),
        }
    }

    /// Names and numbers are limited where they come in.
    pub fn encode(&self) -> Bytes {
        let of_container = matches!(self.target, ScheduleTarget::Container(_));
        let mut w = begin_version(Self::KIND, if of_container { Self::VERSION } else { 1 });
        put_text(&mut w, &self.name);
        w.u64_le(self.created_wall_ns).u64_le(self.serial);
        match &self.target {
            ScheduleTarget::Vdisk(id) => {
                w.u8(0).u64_le(id.raw());
            }
            ScheduleTarget::Vm(id) => {
                w.u8(1).u64_le(id.raw());
            }
            ScheduleTarget::Group(name) => {
                w.u8(2);
                put_text(&mut w, name);
            }
            ScheduleTarget::Container(id) => {
                w.u8(3).u64_le(id.raw());
            }
        }
        w.u8(self.paused.into());
        put_count(&mut w, self.rules.len());
        for ScheduleRule { every_seconds, keep } in &self.rules {
            w.u32_le(*every_seconds).u32_le(*keep);
        }
        w.u64_le(self.last_success_wall_ns).u8(self.last_period.is_some().into());
        if let Some(period) = self.last_period {
            w.u64_le(period);
        }
        w.u8(self.taking.is_some().into());
        self.taking.iter().for_each(|name| put_text(&mut w, name));
        put_count(&mut w, self.taken.len());
        for ScheduledSnapshot { id, name, unix_seconds } in &self.taken {
            w.u64_le(id.raw());
            put_text(&mut w, name);
            w.u64_le(*unix_seconds);
        }
        end(w)
    }

    /// As if it had taken nothing yet.
    pub fn as_made(&self) -> ScheduleRecord {
        // Field by field, so that what it took is not copied first.
        let made =
            ScheduleRecord::new(self.name.clone(), self.created_wall_ns, self.target.clone(), self.rules.clone());
        ScheduleRecord { serial: self.serial, paused: self.paused, ..made }
    }

    /// `Corrupt` if the bytes are damaged, `UnsupportedFormat` if a newer build wrote them.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode_versions(bytes, Self::KIND, "schedule", Self::VERSION, |r, version| {
            Ok(ScheduleRecord {
                name: text(r)?,
                created_wall_ns: r.u64_le()?,
                serial: r.u64_le()?,
                target: target(r, version)?,
                paused: flag(r)?,
                rules: list(r, |r| Ok(ScheduleRule { every_seconds: r.u32_le()?, keep: r.u32_le()? }))?,
                last_success_wall_ns: r.u64_le()?,
                last_period: if flag(r)? { Some(r.u64_le()?) } else { None },
                taking: if flag(r)? { Some(text(r)?) } else { None },
                taken: list(r, |r| {
                    let id = SnapshotId::from_raw(r.u64_le()?).ok_or(Bad::Value("snapshot id"))?;
                    Ok(ScheduledSnapshot { id, name: text(r)?, unix_seconds: r.u64_le()? })
                })?,
            })
        })
    }
}

/// What the log of a vDisk says of the schedules that take snapshots of it: what the user sees to, and nothing of what they
/// did since.
///
/// | field | type |
/// |---|---|
/// | version | u8: 1 |
/// | schedules | u16 number; each: length u16, record |
pub struct ScheduleNote(pub Vec<ScheduleRecord>);

impl ScheduleNote {
    const VERSION: u8 = 1;

    /// Empty if there are none, as the note is then.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        if self.0.is_empty() {
            return w.bytes.into();
        }
        w.u8(Self::VERSION);
        put_count(&mut w, self.0.len());
        for record in &self.0 {
            let record = record.as_made().encode();
            put_count(&mut w, record.len());
            w.put(&record);
        }
        w.bytes.into()
    }

    /// `Corrupt` if the bytes are damaged, `UnsupportedFormat` if a newer build wrote them.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = || Error::new(Kind::Corrupt, "what the log says of schedules is damaged");
        let mut r = Reader::new(bytes);
        if bytes.is_empty() {
            return Ok(ScheduleNote(Vec::new()));
        }
        match r.u8().map_err(|_| corrupt())? {
            Self::VERSION => {}
            other => {
                let text = format!("what the log says of schedules has version {other}; this build reads 1");
                return Err(Error::new(Kind::UnsupportedFormat, text));
            }
        }
        let mut records = Vec::new();
        for _ in 0..r.u16_le().map_err(|_| corrupt())? {
            let len = r.u16_le().map_err(|_| corrupt())?;
            records.push(ScheduleRecord::decode(r.take(len.into()).map_err(|_| corrupt())?)?);
        }
        if r.is_empty() { Ok(ScheduleNote(records)) } else { Err(corrupt()) }
    }
}

fn target(r: &mut Reader, version: u16) -> Fields<ScheduleTarget> {
    match r.u8()? {
        0 => VdiskId::from_raw(r.u64_le()?).map(ScheduleTarget::Vdisk).ok_or(Bad::Value("vDisk id")),
        1 => VmId::from_raw(r.u64_le()?).map(ScheduleTarget::Vm).ok_or(Bad::Value("VM id")),
        2 => text(r).map(ScheduleTarget::Group),
        3 if version >= 2 => {
            ContainerId::from_raw(r.u64_le()?).map(ScheduleTarget::Container).ok_or(Bad::Value("container id"))
        }
        _ => Err(Bad::Value("target")),
    }
}

fn put_count(w: &mut Writer, count: usize) {
    w.u16_le(u16::try_from(count).expect("lists are limited where they come in"));
}

fn list<T>(r: &mut Reader, item: impl Fn(&mut Reader) -> Fields<T>) -> Fields<Vec<T>> {
    (0..r.u16_le()?).map(|_| item(r)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(target: ScheduleTarget) -> ScheduleRecord {
        ScheduleRecord {
            serial: 3,
            paused: true,
            last_success_wall_ns: 5,
            last_period: Some(7),
            taking: Some("t".into()),
            taken: vec![ScheduledSnapshot { id: SnapshotId::new(7, 10), name: "s".into(), unix_seconds: 9 }],
            ..ScheduleRecord::new("n", 0x1122, target, vec![ScheduleRule { every_seconds: 3600, keep: 24 }])
        }
    }

    #[test]
    fn golden_bytes() {
        let encoded = record(ScheduleTarget::Vdisk(VdiskId::new(7, 9))).encode();
        let hex: String = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
        let body = "01000b01006e22110000000000000300000000000000000900000007000000010100100e000018000000\
                    050000000000000001070000000000000001010074\
                    01000a000000070000000100730900000000000000";
        assert_eq!(hex.strip_prefix(body).map(str::len), Some(8), "{hex}");
        let of_container = record(ScheduleTarget::Container(ContainerId::new(7, 9))).encode();
        let of_container: String = of_container.iter().map(|byte| format!("{byte:02x}")).collect();
        let body = body.replacen("01000b", "02000b", 1).replacen("000009000000", "000309000000", 1);
        assert_eq!(of_container.strip_prefix(&body).map(str::len), Some(8), "{of_container}");
    }

    #[test]
    fn golden_bytes_of_a_note() {
        let note = ScheduleNote(vec![record(ScheduleTarget::Vm(VmId::new(7, 3)))]).encode();
        let hex: String = note.iter().map(|byte| format!("{byte:02x}")).collect();
        let body = "0101003a0001000b01006e22110000000000000300000000000000010300000007000000010100100e000018000000\
                    000000000000000000000000";
        assert_eq!(hex.strip_prefix(body).map(str::len), Some(8), "{hex}");
        assert!(ScheduleNote(Vec::new()).encode().is_empty());
    }

    #[test]
    fn notes_come_back_without_what_was_taken() {
        let all = [record(ScheduleTarget::Group("g".into())), record(ScheduleTarget::Vdisk(VdiskId::new(1, 2)))];
        let note = ScheduleNote(all.to_vec()).encode();
        assert_eq!(ScheduleNote::decode(&note).expect("good").0, all.map(|record| record.as_made()));
        assert!(ScheduleNote::decode(&[]).expect("none").0.is_empty());
        for len in 1..note.len() {
            assert!(ScheduleNote::decode(&note[..len]).is_err(), "{len} bytes");
        }
        let mut newer = note.to_vec();
        newer[0] = 2;
        assert_eq!(ScheduleNote::decode(&newer).map(|_| ()).expect_err("newer").kind, Kind::UnsupportedFormat);
    }

    #[test]
    fn records_come_back() {
        let bare = ScheduleRecord {
            paused: false,
            last_period: None,
            taking: None,
            taken: Vec::new(),
            ..record(ScheduleTarget::Vm(VmId::new(7, 3)))
        };
        for record in [
            record(ScheduleTarget::Group("g".into())),
            record(ScheduleTarget::Container(ContainerId::NONE)),
            bare,
            record(ScheduleTarget::Vdisk(VdiskId::new(1, 2))),
        ] {
            assert_eq!(ScheduleRecord::decode(&record.encode()).expect("good"), record);
        }
    }

    #[test]
    fn damage_is_noticed() {
        let good = record(ScheduleTarget::Group("g".into())).encode();
        for len in 0..good.len() {
            assert_eq!(ScheduleRecord::decode(&good[..len]).expect_err("short").kind, Kind::Corrupt, "{len} bytes");
        }
        let body = &good[..good.len() - 4];
        let sealed = |body: &[u8]| [body, &base::crc::crc32c(body).to_le_bytes()].concat();
        for len in 0..body.len() {
            assert_eq!(ScheduleRecord::decode(&sealed(&body[..len])).expect_err("cut").kind, Kind::Corrupt);
        }
        assert_eq!(ScheduleRecord::decode(&sealed(&[body, &[0]].concat())).expect_err("long").kind, Kind::Corrupt);
    }
}
