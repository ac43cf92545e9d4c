//! Reading a backup file, front to back. Nothing that it says is believed before its checksum was looked at, and the file
//! as a whole not before its end.

use crate::header::{HEADER_BYTES_MAX, Header, MAGIC, Malformed, PREFIX, VERSION};
use crate::record::{DATA_BYTES_MAX, DIGEST, HEAD, Head, Kind, UNIT};
use crate::writer::Summary;
use base::crc::crc32c;
use sha2::{Digest, Sha256};
use std::io;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it is no backup file of drystone")]
    Foreign,
    #[error("it has format version {0}; this build reads version {VERSION}")]
    Version(u32),
    #[error("it is damaged: {what} (byte {at} of the file)")]
    Damaged { at: u64, what: String },
    #[error("it ends too early, at byte {at}: it was cut off, or its backup never came to its end")]
    Truncated { at: u64 },
    #[error("it cannot be read")]
    Io(#[source] io::Error),
}

pub type Result<T> = std::result::Result<T, Error>;

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub enum Read<'a> {
    Data { offset: u64, bytes: &'a [u8] },
    Zeros { offset: u64, len: u64 },
}

pub struct Reader<R> {
    source: R,
    pub header: Header,
    digest: Sha256,
    chain: u32,
    summary: Summary,
    /// Where the last record ends.
    end: u64,
    payload: Vec<u8>,
    /// The digest, once the end has been read and was right.
    ended: Option<[u8; DIGEST]>,
}

/// A file that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub header: Header,
    pub summary: Summary,
    /// SHA-256 of everything before it, as it stands at the end of the file.
    pub digest: [u8; DIGEST],
}

/// Reads all of it. Whatever is wrong with a file is found here.
pub fn verify(source: impl io::Read) -> Result<Verified> {
    let mut reader = Reader::open(source)?;
    while reader.next()?.is_some() {}
    Ok(reader.verified().expect("its end has been read"))
}

impl<R: io::Read> Reader<R> {
    pub fn open(mut source: R) -> Result<Reader<R>> {
        let mut bytes = vec![0; PREFIX];
        let got = fill(&mut source, &mut bytes)?;
        if !bytes[..got].starts_with(&MAGIC[..got.min(MAGIC.len())]) {
            return Err(Error::Foreign);
        }
        if got < PREFIX {
            return Err(if got == 0 { Error::Foreign } else { Error::Truncated { at: got as u64 } });
        }
        let word = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("the prefix is there"));
        let (version, len) = (word(8), word(12) as usize);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        if !(PREFIX + 4..=HEADER_BYTES_MAX).contains(&len) {
            return Err(Error::Damaged { at: 12, what: "its header has an impossible length".into() });
        }
        bytes.resize(len, 0);
        let got = PREFIX + fill(&mut source, &mut bytes[PREFIX..])?;
        if got < len {
            return Err(Error::Truncated { at: got as u64 });
        }
        let damaged = |why: Malformed| Error::Damaged { at: 0, what: why.to_string() };
        let header = Header::decode(&bytes).map_err(damaged)?;
        let mut digest = Sha256::new();
        digest.update(&bytes);
        Ok(Reader {
            source,
            header,
            digest,
            chain: crc32c(&bytes),
            summary: Summary { file_bytes: len as u64, ..Summary::default() },
            end: 0,
            payload: Vec::new(),
            ended: None,
        })
    }

    /// The next record, its payload checked. `None`: that was all, and the file as a whole is what was written. (What was
    /// read before that is what was written at its place; only the end says that all of it was there.)
    #[allow(clippy::should_implement_trait, reason = "it lends what it reads")]
    pub fn next(&mut self) -> Result<Option<Read<'_>>> {
        if self.ended.is_some() {
            return Ok(None);
        }
        let at = self.summary.file_bytes;
        let mut bytes = [0; HEAD];
        self.read(&mut bytes)?;
        let (head, chain) = Head::decode(&bytes, self.chain).map_err(|what| damaged(at, what))?;
        self.chain = chain;
        if head.kind == Kind::End {
            self.end(at, &head)?;
            return Ok(None);
        }
        self.check(&head).map_err(|what| damaged(at, what))?;
        self.end = head.offset + head.len;
        self.summary.records += 1;
        if head.kind == Kind::Zeros {
            self.summary.zero_bytes += head.len;
            return Ok(Some(Read::Zeros { offset: head.offset, len: head.len }));
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(head.len as usize, 0);
        let read = self.read(&mut payload);
        self.payload = payload;
        read?;
        if crc32c(&self.payload) != head.payload_crc {
            return Err(damaged(at, &format!("the {} bytes of offset {} fail their checksum", head.len, head.offset)));
        }
        self.summary.data_bytes += head.len;
        Ok(Some(Read::Data { offset: head.offset, bytes: &self.payload }))
    }

    /// What the file is, once [`Reader::next`] has come to its end.
    pub fn verified(&self) -> Option<Verified> {
        let digest = self.ended?;
        Some(Verified { header: self.header.clone(), summary: self.summary, digest })
    }

    /// What its checksum covers may still be nonsense: files come from outside.
    fn check(&self, head: &Head) -> std::result::Result<(), &'static str> {
        let end = head.offset.checked_add(head.len).ok_or("a record reaches beyond every size")?;
        if head.len == 0 || head.offset % UNIT != 0 || head.len % UNIT != 0 {
            return Err("a record is no multiple of 4096 bytes");
        }
        if head.offset < self.end {
            return Err("a record lies before the one that precedes it");
        }
        if end > self.header.to.size_bytes {
            return Err("a record reaches beyond the end of the vDisk");
        }
        match head.kind {
            Kind::Data if head.len > DATA_BYTES_MAX => Err("a record is too long"),
            Kind::Zeros if self.header.from.is_none() => Err("a full backup names zeros"),
            _ => Ok(()),
        }
    }

    fn end(&mut self, at: u64, head: &Head) -> Result<()> {
        if (head.offset, head.len) != (self.summary.records, self.summary.data_bytes) {
            return Err(damaged(at, "its end counts other records than there are"));
        }
        let expect: [u8; DIGEST] = self.digest.clone().finalize().into();
        let mut digest = [0; DIGEST];
        self.read(&mut digest)?;
        if digest != expect {
            return Err(damaged(at, "its digest is another one: something in it was changed"));
        }
        if fill(&mut self.source, &mut [0])? > 0 {
            return Err(damaged(self.summary.file_bytes, "something follows its end"));
        }
        self.ended = Some(digest);
        Ok(())
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        let got = fill(&mut self.source, bytes)?;
        self.summary.file_bytes += got as u64;
        if got < bytes.len() {
            return Err(Error::Truncated { at: self.summary.file_bytes });
        }
        self.digest.update(bytes);
        Ok(())
    }
}

fn damaged(at: u64, what: &str) -> Error {
    Error::Damaged { at, what: what.to_string() }
}

/// Reads until `bytes` are full or the source has ended; how many came.
fn fill(source: &mut impl io::Read, bytes: &mut [u8]) -> Result<usize> {
    let mut got = 0;
    while got < bytes.len() {
        match source.read(&mut bytes[got..]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Io(error)),
        }
    }
    Ok(got)
}
