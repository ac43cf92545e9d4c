//! A small blocking NBD client (fixed newstyle, simple replies), for load, checks and bad behaviour.
//!
//! Deliberately not built from the project's own NBD crate: an error in the codec must not cancel itself out.
//! Source: the NBD protocol document (github.com/NetworkBlockDevice/nbd, doc/proto.md).

use anyhow::{Context, Result, bail, ensure};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISCONNECT: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const WRITE_ZEROES: u16 = 6;

pub const FUA: u16 = 1;
pub const NO_HOLE: u16 = 2;

pub const CAN_MULTI_CONN: u16 = 1 << 8;

const OPTION_MAGIC: u64 = 0x4948_4156_454F_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;

/// Where an NBD server listens.
#[derive(Clone, Debug)]
pub enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl Address {
    /// As QEMU and libnbd write it.
    pub fn uri(&self, export: &str) -> String {
        match self {
            Address::Tcp(address) => format!("nbd://{address}/{export}"),
            Address::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
        }
    }
}

/// A connected socket of either kind.
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub fn connect(address: &Address) -> io::Result<Stream> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path)?)),
        }
    }

    pub fn set_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_read_timeout(limit).and(stream.set_write_timeout(limit)),
            Stream::Unix(stream) => stream.set_read_timeout(limit).and(stream.set_write_timeout(limit)),
        }
    }

    pub fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_nonblocking(true),
            Stream::Unix(stream) => stream.set_nonblocking(true),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(from),
            Stream::Unix(stream) => stream.write(from),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection in transmission phase.
pub struct Client {
    pub stream: Stream,
    pub size_bytes: u64,
    pub flags: u16,
}

/// A reply: the caller's cookie and NBD's error number (0: done). The data of a read is still on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub cookie: u64,
    pub error: u32,
}

impl Client {
    /// Connects and negotiates with NBD_OPT_GO. Waits at most 30 s for any byte.
    pub fn connect(address: &Address, export: &str) -> Result<Client> {
        let mut stream = Stream::connect(address)?;
        stream.set_timeout(Some(Duration::from_secs(30)))?;
        greet(&mut stream)?;
        let mut option = Vec::new();
        option.extend(OPTION_MAGIC.to_be_bytes());
        option.extend(7u32.to_be_bytes());
        option.extend((export.len() as u32 + 6).to_be_bytes());
        option.extend((export.len() as u32).to_be_bytes());
        option.extend(export.as_bytes());
        option.extend(0u16.to_be_bytes());
        stream.write_all(&option)?;
        let (mut size_bytes, mut flags) = (0, 0);
        loop {
            let (kind, data) = option_reply(&mut stream)?;
            match kind {
                1 => return Ok(Client { stream, size_bytes, flags }),
                3 if data.len() == 12 && data[..2] == [0, 0] => {
                    size_bytes = u64::from_be_bytes(data[2..10].try_into().expect("8 bytes"));
                    flags = u16::from_be_bytes(data[10..12].try_into().expect("2 bytes"));
                }
                3 => {}
                error => bail!("export {export:?} refused: {error:#x} {}", String::from_utf8_lossy(&data)),
            }
        }
    }

    pub fn multi_conn(&self) -> bool {
        self.flags & CAN_MULTI_CONN != 0
    }

    pub fn send(
        &mut self,
        command: u16,
        flags: u16,
        cookie: u64,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> io::Result<()> {
        let header = header(command, flags, cookie, offset, len);
        if data.is_empty() {
            return self.stream.write_all(&header);
        }
        let mut whole = Vec::with_capacity(header.len() + data.len());
        whole.extend_from_slice(&header);
        whole.extend_from_slice(data);
        self.stream.write_all(&whole)
    }

    pub fn answer(&mut self) -> Result<Answer> {
        let mut reply = [0u8; 16];
        self.stream.read_exact(&mut reply)?;
        parse_answer(&reply)
    }

    fn call(&mut self, command: u16, flags: u16, offset: u64, len: u32, data: &[u8]) -> Result<()> {
        self.send(command, flags, 1, offset, len, data)?;
        let answer = self.answer()?;
        ensure!(answer.error == 0, "command {command} at {offset}+{len}: NBD error {}", answer.error);
        Ok(())
    }

    pub fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.call(READ, 0, offset, into.len() as u32, &[])?;
        self.stream.read_exact(into).context("data of a read")
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.call(WRITE, 0, offset, data.len() as u32, data)
    }

    pub fn trim(&mut self, offset: u64, len: u32) -> Result<()> {
        self.call(TRIM, 0, offset, len, &[])
    }

    pub fn flush(&mut self) -> Result<()> {
        self.call(FLUSH, 0, 0, 0, &[])
    }

    pub fn disconnect(mut self) -> Result<()> {
        Ok(self.send(DISCONNECT, 0, 0, 0, 0, &[])?)
    }
}

pub fn header(command: u16, flags: u16, cookie: u64, offset: u64, len: u32) -> [u8; 28] {
    let mut header = [0u8; 28];
    header[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    header[4..6].copy_from_slice(&flags.to_be_bytes());
    header[6..8].copy_from_slice(&command.to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    header[16..24].copy_from_slice(&offset.to_be_bytes());
    header[24..].copy_from_slice(&len.to_be_bytes());
    header
}

pub fn parse_answer(reply: &[u8; 16]) -> Result<Answer> {
    let word = |from: usize| u32::from_be_bytes(reply[from..from + 4].try_into().expect("4 bytes"));
    ensure!(word(0) == SIMPLE_REPLY_MAGIC, "not a simple reply: {reply:02x?}");
    Ok(Answer { error: word(4), cookie: u64::from_be_bytes(reply[8..].try_into().expect("8 bytes")) })
}

/// Reads the server's greeting and answers that we speak fixed newstyle without the zeroes.
pub fn greet(stream: &mut Stream) -> Result<()> {
    let mut greeting = [0u8; 18];
    stream.read_exact(&mut greeting).context("greeting")?;
    ensure!(&greeting[..16] == b"NBDMAGICIHAVEOPT", "not an NBD server: {greeting:02x?}");
    stream.write_all(&3u32.to_be_bytes())?;
    Ok(())
}

/// Type and data of a reply to an option.
pub fn option_reply(stream: &mut Stream) -> Result<(u32, Vec<u8>)> {
    let mut head = [0u8; 20];
    stream.read_exact(&mut head).context("option reply")?;
    let magic = u64::from_be_bytes(head[..8].try_into().expect("8 bytes"));
    ensure!(magic == OPTION_REPLY_MAGIC, "option reply magic {magic:#x}");
    let kind = u32::from_be_bytes(head[12..16].try_into().expect("4 bytes"));
    let len = u32::from_be_bytes(head[16..].try_into().expect("4 bytes"));
    ensure!(len <= 1 << 16, "option reply of {len} bytes");
    let mut data = vec![0; len as usize];
    stream.read_exact(&mut data)?;
    Ok((kind, data))
}
