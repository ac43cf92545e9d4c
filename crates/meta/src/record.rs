//! Typed records and their bytes.
//!
//! Every record: version u16, kind u8, the fields in order (little-endian; a text is u16 length and UTF-8, an optional
//! part is u8 0 or 1 and, if 1, its fields, a bool is u8 0 or 1), crc32c u32 of everything before it.

use crate::{Error, Kind, Result};
use base::{DiskId, Epoch, GroupId, Reader, Sequence, Truncated, VdiskId, Writer};
use bytes::Bytes;

const VERSION: u16 = 1;
/// Of the record of a clone. Others have version 1, which builds from before there were clones can read.
const VERSION_WITH_CLONE: u16 = 2;
/// Of the record of a shard with anything to say of starts that were cut short, or of vDisks that it does not know. Others have
/// version 1.
const VERSION_WITH_DOUBT: u16 = 2;

/// The node of this data directory.
///
/// | field | type |
/// |---|---|
/// | node | u16 |
/// | shards | u16 |
/// | format | u32 |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    pub node: u16,
    /// Never changes after the first start.
    pub shards: u16,
    /// Of the data directory as a whole.
    pub format: u32,
}

/// A shard's disk as it was seen last.
///
/// | field | type |
/// |---|---|
/// | disk | u64 |
/// | generation | u64 |
/// | clean | bool |
/// | begun, from version 2 on | u64 |
/// | may hide, from version 2 on | bool |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardRecord {
    pub disk: DiskId,
    /// A disk that comes with a lower one is an old copy.
    pub generation: u64,
    /// Closed cleanly.
    pub clean: bool,
    /// Starts from this very record have begun to raise the generation of the disk up to this one; 0: none has. Such a disk with
    /// a higher generation is not newer than the store.
    pub begun: u64,
    /// A vDisk may be on the disk that no record names: the store was older, or made anew, when a part of the disk could not be
    /// read, and that has not been read since.
    pub may_hide: bool,
}

/// Where the newest known checkpoint frame stands; bytes counted from the group's header page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointHint {
    pub group: GroupId,
    pub offset: u32,
    pub len: u32,
    pub sequence: Sequence,
}

/// Where the log ended when the record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailHint {
    pub group: GroupId,
    /// End of the last frame, bytes from the group's header page.
    pub len: u32,
    /// Of the last frame.
    pub sequence: Sequence,
    /// Checksum of the last frame header.
    pub chain: u32,
    /// Nothing was appended behind it, and all of it was synced.
    pub clean: bool,
}

/// A vDisk.
///
/// | field | type |
/// |---|---|
/// | id | u64 |
/// | name | text |
/// | size_bytes | u64 |
/// | sector_bytes | u32 |
/// | read_only | bool |
/// | created_wall_ns | u64 |
/// | shard | u16 |
/// | epoch | u64 |
/// | checkpoint | optional: group u64, offset u32, len u32, sequence u64 |
/// | tail | optional: group u64, len u32, sequence u64, chain u32, clean bool |
/// | deleted | bool |
/// | clone | version 2 only: family u64, parent u64 |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VdiskRecord {
    pub id: VdiskId,
    pub name: String,
    pub size_bytes: u64,
    pub sector_bytes: u32,
    pub read_only: bool,
    pub created_wall_ns: u64,
    pub shard: u16,
    pub epoch: Epoch,
    pub checkpoint: Option<CheckpointHint>,
    pub tail: Option<TailHint>,
    /// A tombstone: the vDisk is gone, its groups may still have to be freed.
    pub deleted: bool,
    pub clone: Option<CloneOf>,
}

/// Where a clone comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloneOf {
    /// The vDisk that it and all that may share extents with it descend from.
    pub family: VdiskId,
    /// The vDisk whose snapshot it began with.
    pub parent: VdiskId,
}

/// A copy of a note in the log of a vDisk, so that it can be read before the log is.
///
/// | field | type |
/// |---|---|
/// | vdisk | u64 |
/// | kind | u8 |
/// | length | u32 |
/// | bytes | |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteRecord {
    pub vdisk: VdiskId,
    /// What kinds there are is known to the log.
    pub kind: u8,
    pub bytes: Bytes,
}

/// A named list of iSCSI initiators. vDisks whose rules refer to it have copies in their logs.
///
/// | field | type |
/// |---|---|
/// | name | text |
/// | serial | u64 |
/// | initiators | u16 number of texts, texts |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitiatorGroupRecord {
    pub name: String,
    /// Raised by each change: of several copies the highest is the newest.
    pub serial: u64,
    pub initiators: Vec<String>,
}

/// Clones that are being made. They exist when this is replaced by their records, all at once; if it is found by a start,
/// whatever of them is in the logs is to go.
///
/// | field | type |
/// |---|---|
/// | shard | u16 |
/// | vdisks | u16 number of ids, u64 each |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BirthsRecord {
    pub shard: u16,
    pub vdisks: Vec<VdiskId>,
}

/// Why fields could not be read.
pub(crate) enum Bad {
    Truncated,
    Value(&'static str),
}

impl From<Truncated> for Bad {
    fn from(_: Truncated) -> Bad {
        Bad::Truncated
    }
}

pub(crate) type Fields<T> = std::result::Result<T, Bad>;

impl NodeRecord {
    const KIND: u8 = 1;

    pub fn encode(&self) -> Bytes {
        let mut w = begin(Self::KIND);
        w.u16_le(self.node).u16_le(self.shards).u32_le(self.format);
        end(w)
    }

    /// `Corrupt` if the bytes are damaged, `UnsupportedFormat` if a newer build wrote them.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes, Self::KIND, "node", |r| {
            Ok(NodeRecord { node: r.u16_le()?, shards: r.u16_le()?, format: r.u32_le()? })
        })
    }
}

impl ShardRecord {
    const KIND: u8 = 2;

    pub fn encode(&self) -> Bytes {
        let has_doubt = self.begun > 0 || self.may_hide;
        let mut w = begin_version(Self::KIND, if has_doubt { VERSION_WITH_DOUBT } else { VERSION });
        w.u64_le(self.disk.0).u64_le(self.generation).u8(self.clean.into());
        if has_doubt {
            w.u64_le(self.begun).u8(self.may_hide.into());
        }
        end(w)
    }

    /// As [`NodeRecord::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode_versions(bytes, Self::KIND, "shard", VERSION_WITH_DOUBT, |r, version| {
            let (disk, generation, clean) = (DiskId(r.u64_le()?), r.u64_le()?, flag(r)?);
            let (begun, may_hide) = if version == VERSION_WITH_DOUBT { (r.u64_le()?, flag(r)?) } else { (0, false) };
            Ok(ShardRecord { disk, generation, clean, begun, may_hide })
        })
    }
}

impl VdiskRecord {
    const KIND: u8 = 3;

    /// Names are at most 65,535 bytes; the control plane allows far fewer.
    pub fn encode(&self) -> Bytes {
        let mut w = begin_version(Self::KIND, if self.clone.is_some() { VERSION_WITH_CLONE } else { VERSION });
        let name_len = u16::try_from(self.name.len()).expect("names are limited where they come in");
        w.u64_le(self.id.raw()).u16_le(name_len).put(self.name.as_bytes());
        w.u64_le(self.size_bytes).u32_le(self.sector_bytes).u8(self.read_only.into());
        w.u64_le(self.created_wall_ns).u16_le(self.shard).u64_le(self.epoch.0);
        w.u8(self.checkpoint.is_some().into());
        if let Some(c) = self.checkpoint {
            w.u64_le(c.group.raw()).u32_le(c.offset).u32_le(c.len).u64_le(c.sequence.0);
        }
        w.u8(self.tail.is_some().into());
        if let Some(t) = self.tail {
            w.u64_le(t.group.raw()).u32_le(t.len).u64_le(t.sequence.0).u32_le(t.chain).u8(t.clean.into());
        }
        w.u8(self.deleted.into());
        if let Some(clone) = self.clone {
            w.u64_le(clone.family.raw()).u64_le(clone.parent.raw());
        }
        end(w)
    }

    /// As [`NodeRecord::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode_versions(bytes, Self::KIND, "vDisk", VERSION_WITH_CLONE, |r, version| {
            Ok(VdiskRecord {
                id: VdiskId::from_raw(r.u64_le()?).ok_or(Bad::Value("vDisk id"))?,
                name: text(r)?,
                size_bytes: r.u64_le()?,
                sector_bytes: r.u32_le()?,
                read_only: flag(r)?,
                created_wall_ns: r.u64_le()?,
                shard: r.u16_le()?,
                epoch: Epoch(r.u64_le()?),
                checkpoint: if flag(r)? { Some(checkpoint(r)?) } else { None },
                tail: if flag(r)? { Some(tail(r)?) } else { None },
                deleted: flag(r)?,
                clone: if version == VERSION_WITH_CLONE { Some(clone_of(r)?) } else { None },
            })
        })
    }
}

impl NoteRecord {
    const KIND: u8 = 4;

    /// The bytes are limited where they come in.
    pub fn encode(&self) -> Bytes {
        let mut w = begin(Self::KIND);
        let len = u32::try_from(self.bytes.len()).expect("notes are limited where they come in");
        w.u64_le(self.vdisk.raw()).u8(self.kind).u32_le(len).put(&self.bytes);
        end(w)
    }

    /// As [`NodeRecord::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes, Self::KIND, "note", |r| {
            let vdisk = VdiskId::from_raw(r.u64_le()?).ok_or(Bad::Value("vDisk id"))?;
            let (kind, len) = (r.u8()?, r.u32_le()? as usize);
            Ok(NoteRecord { vdisk, kind, bytes: Bytes::copy_from_slice(r.take(len)?) })
        })
    }
}

impl InitiatorGroupRecord {
    const KIND: u8 = 5;

    /// Names and their number are limited where they come in.
    pub fn encode(&self) -> Bytes {
        let mut w = begin(Self::KIND);
        put_text(&mut w, &self.name);
        w.u64_le(self.serial)
            .u16_le(u16::try_from(self.initiators.len()).expect("lists are limited where they come in"));
        self.initiators.iter().for_each(|name| put_text(&mut w, name));
        end(w)
    }

    /// As [`NodeRecord::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes, Self::KIND, "initiator group", |r| {
            let (name, serial, count) = (text(r)?, r.u64_le()?, r.u16_le()?);
            let initiators = (0..count).map(|_| text(r)).collect::<Fields<Vec<_>>>()?;
            Ok(InitiatorGroupRecord { name, serial, initiators })
        })
    }
}

impl BirthsRecord {
    const KIND: u8 = 10;

    /// Their number is limited where they come in.
    pub fn encode(&self) -> Bytes {
        let mut w = begin(Self::KIND);
        let count = u16::try_from(self.vdisks.len()).expect("lists are limited where they come in");
        w.u16_le(self.shard).u16_le(count);
        for id in &self.vdisks {
            w.u64_le(id.raw());
        }
        end(w)
    }

    /// As [`NodeRecord::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes, Self::KIND, "births", |r| {
            let (shard, count) = (r.u16_le()?, r.u16_le()?);
            let vdisk = |_| VdiskId::from_raw(r.u64_le()?).ok_or(Bad::Value("vDisk id"));
            Ok(BirthsRecord { shard, vdisks: (0..count).map(vdisk).collect::<Fields<Vec<_>>>()? })
        })
    }
}

fn checkpoint(r: &mut Reader) -> Fields<CheckpointHint> {
    Ok(CheckpointHint { group: group(r)?, offset: r.u32_le()?, len: r.u32_le()?, sequence: Sequence(r.u64_le()?) })
}

fn clone_of(r: &mut Reader) -> Fields<CloneOf> {
    let mut vdisk = || VdiskId::from_raw(r.u64_le()?).ok_or(Bad::Value("vDisk id"));
    Ok(CloneOf { family: vdisk()?, parent: vdisk()? })
}

fn tail(r: &mut Reader) -> Fields<TailHint> {
    let (group, len, sequence) = (group(r)?, r.u32_le()?, Sequence(r.u64_le()?));
    Ok(TailHint { group, len, sequence, chain: r.u32_le()?, clean: flag(r)? })
}

fn group(r: &mut Reader) -> Fields<GroupId> {
    GroupId::from_raw(r.u64_le()?).ok_or(Bad::Value("group id"))
}

pub(crate) fn flag(r: &mut Reader) -> Fields<bool> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Bad::Value("bool")),
    }
}

pub(crate) fn put_text(w: &mut Writer, text: &str) {
    let len = u16::try_from(text.len()).expect("names are limited where they come in");
    w.u16_le(len).put(text.as_bytes());
}

pub(crate) fn text(r: &mut Reader) -> Fields<String> {
    let len = usize::from(r.u16_le()?);
    let text = std::str::from_utf8(r.take(len)?).map_err(|_| Bad::Value("text"))?;
    Ok(text.to_string())
}

pub(crate) fn begin(kind: u8) -> Writer {
    begin_version(kind, VERSION)
}

pub(crate) fn begin_version(kind: u8, version: u16) -> Writer {
    let mut w = Writer::with_capacity(128);
    w.u16_le(version).u8(kind);
    w
}

pub(crate) fn end(mut w: Writer) -> Bytes {
    let crc = base::crc::crc32c(&w.bytes);
    w.u32_le(crc);
    w.bytes.into()
}

pub(crate) fn decode<T>(
    bytes: &[u8],
    kind: u8,
    what: &str,
    fields: impl FnOnce(&mut Reader) -> Fields<T>,
) -> Result<T> {
    decode_versions(bytes, kind, what, VERSION, |r, _| fields(r))
}

/// `newest`: the last version of this kind of record.
pub(crate) fn decode_versions<T>(
    bytes: &[u8],
    kind: u8,
    what: &str,
    newest: u16,
    fields: impl FnOnce(&mut Reader, u16) -> Fields<T>,
) -> Result<T> {
    let corrupt =
        |why: &str| Error::new(Kind::Corrupt, format!("the {what} record in the metadata store is damaged: {why}"));
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| corrupt("it is too short"))?;
    if base::crc::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(corrupt("its checksum is wrong"));
    }
    let mut r = Reader::new(body);
    let head = r.u16_le().and_then(|version| Ok((version, r.u8()?)));
    let (version, found) = head.map_err(|_| corrupt("it is too short"))?;
    if !(VERSION..=newest).contains(&version) {
        let text = format!("the {what} record has format version {version}; this build reads versions to {newest}");
        return Err(Error::new(Kind::UnsupportedFormat, text));
    }
    if found != kind {
        return Err(corrupt("it is of another kind"));
    }
    match fields(&mut r, version) {
        Ok(record) if r.is_empty() => Ok(record),
        Ok(_) => Err(corrupt("it is too long")),
        Err(Bad::Truncated) => Err(corrupt("it is too short")),
        Err(Bad::Value(field)) => Err(corrupt(&format!("its {field} is impossible"))),
    }
}

#[cfg(test)]
mod tests;
