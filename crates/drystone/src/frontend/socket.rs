//! A TCP or unix stream: ready for a runtime, or parted from it on its way to another thread.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Asked for on unix sockets, whose default holds less than one 256 KiB reply; the kernel gives what its
/// `wmem_max` allows. TCP sizes its buffers by itself.
const UNIX_BUFFER_BYTES: usize = 1 << 20;
/// A peer that vanished is noticed after about two minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;

pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket that no runtime watches.
pub enum Parted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    pub fn tcp(stream: TcpStream) -> io::Result<Socket> {
        use rustix::net::sockopt;
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(stream.as_fd(), true)?;
        sockopt::set_tcp_keepidle(stream.as_fd(), KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(stream.as_fd(), KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(stream.as_fd(), KEEPALIVE_COUNT)?;
        Ok(Socket::Tcp(stream))
    }

    pub fn unix(stream: UnixStream) -> io::Result<Socket> {
        rustix::net::sockopt::set_socket_send_buffer_size(stream.as_fd(), UNIX_BUFFER_BYTES)?;
        rustix::net::sockopt::set_socket_recv_buffer_size(stream.as_fd(), UNIX_BUFFER_BYTES)?;
        Ok(Socket::Unix(stream))
    }

    /// Takes the socket out of this thread's runtime.
    pub fn part(self) -> io::Result<Parted> {
        Ok(match self {
            Socket::Tcp(stream) => Parted::Tcp(stream.into_std()?),
            Socket::Unix(stream) => Parted::Unix(stream.into_std()?),
        })
    }

    /// Reads what is there, at most one buffer; 0 is the end. A read that does not fill the buffer costs no second
    /// system call to find the socket empty.
    pub fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buffer);
        std::task::ready!(match self {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(context, &mut read),
            Socket::Unix(stream) => Pin::new(stream).poll_read(context, &mut read),
        })?;
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Reads into the room of `buffer`, at most `limit` bytes; 0 is the end.
    pub fn poll_read_into(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut bytes::BytesMut,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        use bytes::BufMut;
        loop {
            let mut limited = (&mut *buffer).limit(limit);
            let result = match self {
                Socket::Tcp(stream) => stream.try_read_buf(&mut limited),
                Socket::Unix(stream) => stream.try_read_buf(&mut limited),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::task::ready!(match self {
                    Socket::Tcp(stream) => stream.poll_read_ready(context),
                    Socket::Unix(stream) => stream.poll_read_ready(context),
                })?,
                result => return Poll::Ready(result),
            }
        }
    }

    pub fn poll_write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    /// No more bytes will be sent.
    pub fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl Parted {
    /// Puts the socket into this thread's runtime.
    pub fn join(self) -> io::Result<Socket> {
        Ok(match self {
            Parted::Tcp(stream) => Socket::Tcp(TcpStream::from_std(stream)?),
            Parted::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
        })
    }
}

/// Whether bytes to and from this address stay on the machine.
pub fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
