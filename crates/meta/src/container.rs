//! Records of containers, and of which vDisk is in which; their bytes as in [`crate::record`].

use crate::record::{Bad, Fields, begin, decode, end, flag, put_text, text};
use crate::{Error, Kind, Result};
use base::{ContainerId, Reader, VdiskId, Writer};
use bytes::Bytes;

/// Name of the container that vDisks are in which nothing is said of. Its record is there once something was set.
pub const DEFAULT_CONTAINER: &str = "default";

/// A container: settings of the vDisks in it that have none of their own.
///
/// | field | type |
/// |---|---|
/// | id | u64, 0: the container `default` |
/// | name | text |
/// | serial | u64 |
/// | created_wall_ns | u64 |
/// | rewind | optional: window in seconds u64, limit in bytes u64 |
/// | capacity_bytes | u64, 0: none |
/// | comment | text |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRecord {
    pub id: ContainerId,
    pub name: String,
    /// Raised by each change: of several copies the highest is the newest. 0: nothing was ever set.
    pub serial: u64,
    pub created_wall_ns: u64,
    pub rewind: Option<ContainerRewind>,
    pub capacity_bytes: u64,
    pub comment: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerRewind {
    pub window_seconds: u64,
    /// 0: none.
    pub limit_bytes: u64,
}

/// In which container a vDisk is.
///
/// | field | type |
/// |---|---|
/// | vdisk | u64 |
/// | container | u64 |
/// | serial | u64 |
/// | inherits | bool |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberRecord {
    pub vdisk: VdiskId,
    pub container: ContainerId,
    /// Raised by each change: of several copies the highest is the newest.
    pub serial: u64,
    /// Its window is that of the container; else its own, which may be none.
    pub inherits: bool,
}

/// What the log of a vDisk says of its container.
///
/// | field | type |
/// |---|---|
/// | version | u8: 1 |
/// | member | length u16, record |
/// | container | length u16, record |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerNote {
    pub member: MemberRecord,
    pub container: ContainerRecord,
}

impl ContainerRecord {
    const KIND: u8 = 12;

    /// The container `default`, as long as nothing was set.
    pub fn unset() -> ContainerRecord {
        ContainerRecord {
            id: ContainerId::NONE,
            name: DEFAULT_CONTAINER.to_string(),
            serial: 0,
            created_wall_ns: 0,
            rewind: None,
            capacity_bytes: 0,
            comment: String::new(),
        }
    }

    /// Names and comments are limited where they come in.
    pub fn encode(&self) -> Bytes {
        let mut w = begin(Self::KIND);
        w.u64_le(self.id.raw());
        put_text(&mut w, &self.name);
        w.u64_le(self.serial).u64_le(self.created_wall_ns).u8(self.rewind.is_some().into());
        if let Some(ContainerRewind { window_seconds, limit_bytes }) = self.rewind {
            w.u64_le(window_seconds).u64_le(limit_bytes);
        }
        w.u64_le(self.capacity_bytes);
        put_text(&mut w, &self.comment);
        end(w)
    }

    /// `Corrupt` if the bytes are damaged, `UnsupportedFormat` if a newer build wrote them; so for all records here.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes, Self::KIND, "container", |r| {
            Ok(ContainerRecord {
                id: container(r)?,
                name: text(r)?,
                serial: r.u64_le()?,
                created_wall_ns: r.u64_le()?,
                rewind: if flag(r)? {
                    Some(ContainerRewind { window_seconds: r.u64_le()?, limit_bytes: r.u64_le()? })
                } else {
                    None
                },
                capacity_bytes: r.u64_le()?,
                comment: text(r)?,
            })
        })
    }
}

impl MemberRecord {
    const KIND: u8 = 13;

    /// Of a vDisk that begins in this container.
    pub fn new(vdisk: VdiskId, container: ContainerId) -> MemberRecord {
        MemberRecord { vdisk, container, serial: 1, inherits: true }
    }

    pub fn encode(&self) -> Bytes {
        let mut w = begin(Self::KIND);
        w.u64_le(self.vdisk.raw()).u64_le(self.container.raw()).u64_le(self.serial).u8(self.inherits.into());
        end(w)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes, Self::KIND, "member", |r| {
            Ok(MemberRecord {
                vdisk: VdiskId::from_raw(r.u64_le()?).ok_or(Bad::Value("vDisk id"))?,
                container: container(r)?,
                serial: r.u64_le()?,
                inherits: flag(r)?,
            })
        })
    }
}

impl ContainerNote {
    const VERSION: u8 = 1;

    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u8(Self::VERSION);
        for record in [self.member.encode(), self.container.encode()] {
            w.u16_le(u16::try_from(record.len()).expect("names and comments are limited")).put(&record);
        }
        w.bytes.into()
    }

    /// `Corrupt` if the bytes are damaged, `UnsupportedFormat` if a newer build wrote them.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = || Error::new(Kind::Corrupt, "what the log says of the container is damaged");
        let mut r = Reader::new(bytes);
        match r.u8().map_err(|_| corrupt())? {
            Self::VERSION => {}
            other => {
                let text = format!("what the log says of the container has version {other}; this build reads 1");
                return Err(Error::new(Kind::UnsupportedFormat, text));
            }
        }
        let mut record = || {
            let len = r.u16_le().map_err(|_| corrupt())?;
            r.take(len.into()).map_err(|_| corrupt())
        };
        let (member, container) = (MemberRecord::decode(record()?)?, ContainerRecord::decode(record()?)?);
        if r.is_empty() && member.container == container.id {
            Ok(ContainerNote { member, container })
        } else {
            Err(corrupt())
        }
    }
}

fn container(r: &mut Reader) -> Fields<ContainerId> {
    ContainerId::from_raw(r.u64_le()?).ok_or(Bad::Value("container id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> ContainerRecord {
        ContainerRecord {
            id: ContainerId::new(7, 3),
            name: "gold".into(),
            serial: 2,
            created_wall_ns: 0x1122,
            rewind: Some(ContainerRewind { window_seconds: 3600, limit_bytes: 1 << 30 }),
            capacity_bytes: 4096,
            comment: "c".into(),
        }
    }

    fn member() -> MemberRecord {
        MemberRecord { vdisk: VdiskId::new(7, 9), container: ContainerId::new(7, 3), serial: 5, inherits: true }
    }

    #[track_caller]
    fn golden(encoded: &[u8], body: &str) {
        let hex: String = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.strip_prefix(body).map(str::len), Some(8), "{hex}");
    }

    const MEMBER: &str = "01000d09000000070000000300000007000000050000000000000001";
    const CONTAINER: &str = "01000c03000000070000000400676f6c64020000000000000022110000000000000\
                             1100e00000000000000000040000000000010000000000000010063";

    #[test]
    fn golden_bytes() {
        golden(&member().encode(), MEMBER);
        golden(&container().encode(), CONTAINER);
        let note = ContainerNote { member: member(), container: container() }.encode();
        let (member, container) = (member().encode(), container().encode());
        let expected = [&[1, member.len() as u8, 0], &member[..], &[container.len() as u8, 0], &container[..]].concat();
        assert_eq!(note, expected);
    }

    #[test]
    fn records_come_back() {
        let bare = ContainerRecord { rewind: None, comment: String::new(), ..container() };
        for record in [container(), bare, ContainerRecord::unset()] {
            assert_eq!(ContainerRecord::decode(&record.encode()).expect("good"), record);
        }
        let own = MemberRecord { inherits: false, container: ContainerId::NONE, ..member() };
        for record in [member(), own] {
            assert_eq!(MemberRecord::decode(&record.encode()).expect("good"), record);
        }
        let note = ContainerNote { member: own, container: ContainerRecord::unset() };
        assert_eq!(ContainerNote::decode(&note.encode()).expect("good"), note);
    }

    #[test]
    fn damage_is_noticed() {
        let good = container().encode();
        for len in 0..good.len() {
            assert_eq!(ContainerRecord::decode(&good[..len]).expect_err("short").kind, Kind::Corrupt, "{len} bytes");
        }
        let body = &good[..good.len() - 4];
        let sealed = |body: &[u8]| [body, &base::crc::crc32c(body).to_le_bytes()].concat();
        for len in 0..body.len() {
            assert_eq!(ContainerRecord::decode(&sealed(&body[..len])).expect_err("cut").kind, Kind::Corrupt);
        }
        let note = ContainerNote { member: member(), container: container() }.encode();
        for len in 0..note.len() {
            assert!(ContainerNote::decode(&note[..len]).is_err(), "{len} bytes");
        }
        let mut newer = note.to_vec();
        newer[0] = 2;
        assert_eq!(ContainerNote::decode(&newer).expect_err("newer").kind, Kind::UnsupportedFormat);
        let other = ContainerNote { member: member(), container: ContainerRecord::unset() };
        assert_eq!(ContainerNote::decode(&other.encode()).expect_err("of two").kind, Kind::Corrupt);
    }
}
