//! A client over any stream: blocking, strict, and willing to misbehave.

use base::{Reader, Writer};
use nbd::wire::{self, chunk, command, option, option_reply};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::time::Duration;

pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub struct Client {
    pub stream: Box<dyn Stream>,
    structured: bool,
    next_cookie: u64,
    /// Length of each read that was sent and not answered.
    reads: HashMap<u64, (u64, u32)>,
}

pub type Answer = Result<Vec<u8>, u32>;

impl Client {
    /// Reads the greeting and answers it.
    pub fn greet(mut stream: Box<dyn Stream>) -> Client {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).expect("a greeting");
        assert_eq!(greeting[..8], wire::INIT_PASSWD.to_be_bytes());
        stream.write_all(&3u32.to_be_bytes()).expect("flags are sent");
        Client { stream, structured: false, next_cookie: 1, reads: HashMap::new() }
    }

    pub fn tcp(address: std::net::SocketAddr) -> Client {
        Client::greet(Box::new(tcp(address)))
    }

    pub fn unix(path: &std::path::Path) -> Client {
        let stream = std::os::unix::net::UnixStream::connect(path).expect("the server listens");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        Client::greet(Box::new(stream))
    }

    /// The replies to one option, up to the final one: type and data.
    pub fn option(&mut self, kind: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.stream.write_all(&encode_option(kind, data)).expect("an option is sent");
        let mut replies = Vec::new();
        loop {
            let header = self.take(20);
            let mut reader = Reader::new(&header);
            assert_eq!(reader.u64_be(), Ok(wire::OPTION_REPLY_MAGIC));
            assert_eq!(reader.u32_be(), Ok(kind));
            let (reply, len) = (reader.u32_be().expect("type"), reader.u32_be().expect("length"));
            replies.push((reply, self.take(len as usize)));
            if reply == option_reply::ACK || reply >= 1 << 31 {
                return replies;
            }
        }
    }

    pub fn structured(mut self) -> Client {
        assert_eq!(self.option(option::STRUCTURED_REPLY, &[])[0].0, option_reply::ACK);
        self.structured = true;
        self
    }

    /// GO; the last reply.
    pub fn go(&mut self, name: &str) -> (u32, Vec<u8>) {
        self.option(option::GO, &go_data(name)).pop().expect("a final reply")
    }

    pub fn ready(mut self, name: &str) -> Client {
        assert_eq!(self.go(name).0, option_reply::ACK);
        self
    }

    /// Sends one request and returns its cookie.
    pub fn send(&mut self, command: u16, offset: u64, len: u32, payload: &[u8]) -> u64 {
        let (bytes, cookie) = self.encode(command, offset, len);
        self.stream.write_all(&bytes).expect("a request is sent");
        self.stream.write_all(payload).expect("a payload is sent");
        cookie
    }

    /// A request's header, for those who send it themselves; its reply is expected.
    pub fn encode(&mut self, command: u16, offset: u64, len: u32) -> (Vec<u8>, u64) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        if command == command::READ {
            self.reads.insert(cookie, (offset, len));
        }
        let mut bytes = Writer::default();
        bytes.u32_be(wire::REQUEST_MAGIC).u16_be(0).u16_be(command).u64_be(cookie).u64_be(offset).u32_be(len);
        (bytes.bytes, cookie)
    }

    /// The next reply, whichever request it is for.
    pub fn receive(&mut self) -> (u64, Answer) {
        let header = self.take(16);
        let mut reader = Reader::new(&header);
        if reader.u32_be() == Ok(wire::SIMPLE_REPLY_MAGIC) {
            let errno = reader.u32_be().expect("errno");
            let cookie = reader.u64_be().expect("cookie");
            let read = self.reads.remove(&cookie);
            if errno != 0 {
                return (cookie, Err(errno));
            }
            assert!(!(self.structured && read.is_some()), "a read needs a structured reply");
            let len = read.map_or(0, |(_, len)| len);
            return (cookie, Ok(self.take(len as usize)));
        }
        self.chunks(header)
    }

    fn chunks(&mut self, mut header: Vec<u8>) -> (u64, Answer) {
        let mut data: Option<Vec<u8>> = None;
        loop {
            let mut reader = Reader::new(&header);
            assert_eq!(reader.u32_be(), Ok(wire::STRUCTURED_REPLY_MAGIC));
            let (flags, kind) = (reader.u16_be().expect("flags"), reader.u16_be().expect("type"));
            let cookie = reader.u64_be().expect("cookie");
            let len = u32::from_be_bytes(self.take(4).try_into().expect("four bytes"));
            let payload = self.take(len as usize);
            let mut payload = Reader::new(&payload);
            let (start, read_len) = self.reads.get(&cookie).copied().unwrap_or_default();
            let data = data.get_or_insert_with(|| vec![0xee; read_len as usize]);
            match kind {
                chunk::OFFSET_DATA => {
                    let at = (payload.u64_be().expect("offset") - start) as usize;
                    data[at..at + payload.rest().len()].copy_from_slice(payload.rest());
                }
                chunk::OFFSET_HOLE => {
                    let at = (payload.u64_be().expect("offset") - start) as usize;
                    let len = payload.u32_be().expect("hole") as usize;
                    data[at..at + len].fill(0);
                }
                chunk::NONE => {}
                chunk::BLOCK_STATUS => data.extend_from_slice(payload.rest()),
                _ => {
                    self.reads.remove(&cookie);
                    return (cookie, Err(payload.u32_be().expect("errno")));
                }
            }
            if flags & chunk::FLAG_DONE != 0 {
                self.reads.remove(&cookie);
                return (cookie, Ok(std::mem::take(data)));
            }
            header = self.take(16);
        }
    }

    /// Sends one request and waits for its reply.
    pub fn ask(&mut self, command: u16, offset: u64, len: u32, payload: &[u8]) -> Answer {
        let cookie = self.send(command, offset, len, payload);
        let (answered, answer) = self.receive();
        assert_eq!(answered, cookie);
        answer
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Answer {
        self.ask(command::WRITE, offset, data.len() as u32, data)
    }

    pub fn read(&mut self, offset: u64, len: u32) -> Answer {
        self.ask(command::READ, offset, len, &[])
    }

    /// Whether the server has closed, with nothing sent before.
    pub fn is_closed(&mut self) -> bool {
        // A reset is an end too: the server had unread bytes of ours when it closed.
        !matches!(self.stream.read(&mut [0; 1]), Ok(1..))
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("the server answers");
        bytes
    }
}

/// Nothing in these tests takes that long.
const TIMEOUT: Duration = Duration::from_secs(20);

pub fn tcp(address: std::net::SocketAddr) -> std::net::TcpStream {
    let stream = std::net::TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
}

pub fn encode_option(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Writer::default();
    bytes.u64_be(wire::IHAVEOPT).u32_be(kind).u32_be(data.len() as u32).put(data);
    bytes.bytes
}

pub fn go_data(name: &str) -> Vec<u8> {
    let mut data = Writer::default();
    data.u32_be(name.len() as u32).put(name.as_bytes()).u16_be(0);
    data.bytes
}
