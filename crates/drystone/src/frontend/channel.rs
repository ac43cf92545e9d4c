//! A socket with or without TLS on it: plaintext in, plaintext out.

use super::socket::{Parted, Socket};
use super::tls::Tls;
use base::Output;
use bytes::BytesMut;
use rustls::ServerConfig;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Parts of one vectored write. 32 replies of a header and a payload each are 64; the kernel takes 1024.
const SLICES: usize = 128;
/// How long a peer may take to close its side after we have closed ours.
const LINGER: Duration = Duration::from_secs(1);

pub struct Channel {
    socket: Socket,
    tls: Option<Box<Tls>>,
}

/// A channel that no runtime watches, on its way to another thread.
pub struct PartedChannel {
    socket: Parted,
    tls: Option<Box<Tls>>,
}

impl Channel {
    pub fn new(socket: Socket) -> Channel {
        Channel { socket, tls: None }
    }

    pub fn part(self) -> io::Result<PartedChannel> {
        Ok(PartedChannel { socket: self.socket.part()?, tls: self.tls })
    }

    pub async fn start_tls(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        let tls = self.tls.insert(Box::new(Tls::new(config)?));
        poll_fn(|context| tls.poll_handshake(context, &mut self.socket)).await
    }

    /// What has arrived, at most one buffer; 0 is the end.
    pub fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut self.tls {
            None => self.socket.poll_read(context, buffer),
            Some(tls) => tls.poll_read(context, &mut self.socket, buffer),
        }
    }

    /// Whether [`Channel::poll_read_into`] can be used.
    pub fn reads_in_place(&self) -> bool {
        self.tls.is_none()
    }

    /// Reads into the room of `buffer` without a copy, at most `limit` bytes; 0 is the end. Not with TLS.
    pub fn poll_read_into(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        assert!(self.tls.is_none(), "ciphertext was about to be taken for a payload");
        self.socket.poll_read_into(context, buffer, limit)
    }

    /// Sends everything that is in `out`.
    pub fn poll_write(&mut self, context: &mut Context<'_>, out: &mut Output) -> Poll<io::Result<()>> {
        if let Some(tls) = &mut self.tls {
            return tls.poll_write(context, &mut self.socket, out);
        }
        while !out.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = out.slices(&mut slices);
            let sent = ready!(self.socket.poll_write(context, slices.get(..filled).unwrap_or_default()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            out.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| self.poll_read(context, buffer)).await
    }

    pub async fn write(&mut self, out: &mut Output) -> io::Result<()> {
        poll_fn(|context| self.poll_write(context, out)).await
    }

    /// Closes so that what was sent arrives: a socket that is closed with unread bytes in it resets the connection, and
    /// with that takes back replies that the peer has not read. Bounded in time; errors do not matter any more.
    pub async fn close(mut self) {
        let closing = async {
            if let Some(tls) = &mut self.tls {
                tls.close();
            }
            self.write(&mut Output::new()).await?;
            poll_fn(|context| self.socket.poll_shutdown(context)).await?;
            let mut dropped = [0; 4096];
            while poll_fn(|context| self.socket.poll_read(context, &mut dropped)).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(LINGER, closing).await;
    }
}

impl PartedChannel {
    pub fn join(self) -> io::Result<Channel> {
        Ok(Channel { socket: self.socket.join()?, tls: self.tls })
    }
}
