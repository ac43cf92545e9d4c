//! An NBD client for the sockets of `qemu-nbd`: one request after the other, simple replies.

use anyhow::{Context, Result, bail, ensure};
use base::{Reader, Truncated, Writer};
use nbd::wire::{self, command, option, option_reply};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A disk that needs longer is not there any more.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Longest reply to an option that is read; QEMU's are tens of bytes.
const OPTION_REPLY_BYTES_MAX: usize = 4096;

pub struct Client {
    stream: UnixStream,
    pub size_bytes: u64,
    cookie: u64,
}

impl Client {
    /// The export without a name.
    pub fn connect(socket: &Path) -> std::io::Result<UnixStream> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(stream)
    }

    pub fn negotiate(mut stream: UnixStream) -> Result<Client> {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).context("qemu-nbd does not greet")?;
        let mut reader = Reader::new(&greeting);
        let is_newstyle = reader.u64_be()? == wire::INIT_PASSWD && reader.u64_be()? == wire::IHAVEOPT;
        ensure!(
            is_newstyle && reader.u16_be()? & wire::FLAG_FIXED_NEWSTYLE != 0,
            "qemu-nbd does not speak newstyle NBD"
        );
        let mut hello = Writer::default();
        hello.u32_be(u32::from(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES));
        // The empty name, and no wishes.
        hello.u64_be(wire::IHAVEOPT).u32_be(option::GO).u32_be(6).u32_be(0).u16_be(0);
        stream.write_all(&hello.bytes)?;
        let mut size_bytes = None;
        loop {
            let (kind, data) = option_answer(&mut stream)?;
            match kind {
                option_reply::ACK => break,
                option_reply::INFO => {
                    let mut reader = Reader::new(&data);
                    if reader.u16_be()? == wire::info::EXPORT {
                        size_bytes = Some(reader.u64_be()?);
                    }
                }
                _ => bail!("qemu-nbd refuses: {}", String::from_utf8_lossy(&data)),
            }
        }
        let size_bytes = size_bytes.context("qemu-nbd does not say how large the image is")?;
        Ok(Client { stream, size_bytes, cookie: 0 })
    }

    pub fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.request(command::READ, offset, into.len() as u32, &[])?;
        self.stream.read_exact(into).context("qemu-nbd went away")
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.request(command::WRITE, offset, data.len() as u32, data)
    }

    pub fn flush(&mut self) -> Result<()> {
        self.request(command::FLUSH, 0, 0, &[])
    }

    pub fn disconnect(mut self) -> Result<()> {
        Ok(self.stream.write_all(&self.header(command::DISC, 0, 0))?)
    }

    fn header(&self, command: u16, offset: u64, len: u32) -> Vec<u8> {
        let mut header = Writer::with_capacity(wire::REQUEST_HEADER);
        header.u32_be(wire::REQUEST_MAGIC).u16_be(0).u16_be(command).u64_be(self.cookie).u64_be(offset).u32_be(len);
        header.bytes
    }

    fn request(&mut self, command: u16, offset: u64, len: u32, data: &[u8]) -> Result<()> {
        self.cookie += 1;
        let header = self.header(command, offset, len);
        self.stream.write_all(&header).and_then(|()| self.stream.write_all(data)).context("qemu-nbd went away")?;
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply).context("qemu-nbd went away")?;
        let mut reader = Reader::new(&reply);
        let (magic, errno, cookie) = (reader.u32_be()?, reader.u32_be()?, reader.u64_be()?);
        ensure!(magic == wire::SIMPLE_REPLY_MAGIC && cookie == self.cookie, "qemu-nbd answers something else");
        if errno != 0 {
            bail!("qemu-nbd: {}", std::io::Error::from_raw_os_error(errno as i32));
        }
        Ok(())
    }
}

fn option_answer(stream: &mut UnixStream) -> Result<(u32, Vec<u8>)> {
    let mut head = [0; 20];
    stream.read_exact(&mut head).context("qemu-nbd went away")?;
    let parse = || {
        let mut reader = Reader::new(&head);
        Ok::<_, Truncated>((reader.u64_be()?, reader.u32_be()?, reader.u32_be()?, reader.u32_be()?))
    };
    let (magic, _, kind, len) = parse()?;
    ensure!(magic == wire::OPTION_REPLY_MAGIC, "qemu-nbd answers something else");
    ensure!(len as usize <= OPTION_REPLY_BYTES_MAX, "qemu-nbd answers too much");
    let mut data = vec![0; len as usize];
    stream.read_exact(&mut data).context("qemu-nbd went away")?;
    Ok((kind, data))
}
