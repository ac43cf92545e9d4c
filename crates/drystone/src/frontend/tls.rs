//! TLS over bytes: certificates from files, and a server connection that can move between threads.

use super::socket::Socket;
use crate::config::NbdTls;
use anyhow::{Context as _, Result, bail};
use base::Output;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{self, IoSlice, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Ciphertext that is read at once. A record is at most 16 KiB.
const CIPHER_BYTES: usize = 64 << 10;
/// Plaintext that is encrypted before it is offered to the socket.
const SEND_BYTES: usize = 256 << 10;

/// Reads the files; every error names the file and what is wrong with it.
pub fn load(files: &NbdTls) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context("the built-in TLS versions")?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).with_context(|| format!("{} holds no usable CA", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .with_context(|| format!("client CA {}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("cannot read a private key from {}", files.key.display()))?;
    let config = builder
        .with_single_cert(certificates(&files.cert)?, key)
        .with_context(|| format!("{} and {} do not fit together", files.cert.display(), files.key.display()))?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found = read().with_context(|| format!("cannot read certificates from {}", path.display()))?;
    if found.is_empty() {
        bail!("{} holds no certificate", path.display());
    }
    Ok(found)
}

/// The server's end of a TLS connection; the socket is lent to it call by call.
pub struct Tls {
    connection: ServerConnection,
    /// Ciphertext that was read: `start..end` is still to be fed.
    cipher: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Tls {
    pub fn new(config: Arc<ServerConfig>) -> io::Result<Tls> {
        let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
        connection.set_buffer_limit(Some(SEND_BYTES));
        Ok(Tls { connection, cipher: vec![0; CIPHER_BYTES].into(), start: 0, end: 0 })
    }

    pub fn poll_handshake(&mut self, context: &mut Context<'_>, socket: &mut Socket) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_flush(context, socket))?;
            if !self.connection.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_feed(context, socket))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Plaintext into `buffer`: as much as has arrived and fits; 0 is the end.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        socket: &mut Socket,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut filled = 0;
        loop {
            let room = buffer.get_mut(filled..).unwrap_or_default();
            if room.is_empty() {
                return Poll::Ready(Ok(filled));
            }
            match self.connection.reader().read(room) {
                Ok(0) => return Poll::Ready(Ok(filled)),
                Ok(count) => filled += count,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(if filled > 0 { Ok(filled) } else { Err(error) });
                }
                Err(_) if filled > 0 && self.start == self.end => return Poll::Ready(Ok(filled)),
                // The end is told by the reader in the next round, with or without its proper close.
                Err(_) => drop(ready!(self.poll_feed(context, socket))?),
            }
        }
    }

    /// Sends everything that is in `out`.
    pub fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        socket: &mut Socket,
        out: &mut Output,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_flush(context, socket))?;
            if out.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = out.slices(&mut slices);
            let sent = self.connection.writer().write_vectored(slices.get(..filled).unwrap_or_default())?;
            out.advance(sent);
        }
    }

    pub fn close(&mut self) {
        self.connection.send_close_notify();
    }

    fn poll_flush(&mut self, context: &mut Context<'_>, socket: &mut Socket) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Lent { context, socket }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Feeds ciphertext, from the socket if none is left; 0 is the end of it.
    fn poll_feed(&mut self, context: &mut Context<'_>, socket: &mut Socket) -> Poll<io::Result<usize>> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.end = ready!(socket.poll_read(context, &mut self.cipher))?;
        }
        let mut rest = self.cipher.get(self.start..self.end).unwrap_or_default();
        let fed = self.connection.read_tls(&mut rest)?;
        self.start += fed;
        if let Err(error) = self.connection.process_new_packets() {
            // The alert that tells the peer what it did wrong; if it cannot be sent now, it is not sent.
            let _ = self.poll_flush(context, socket);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        if self.connection.wants_write() && !self.connection.is_handshaking() {
            // Answers of the TLS layer itself (key updates); what does not go now goes with the next reply.
            let _ = self.poll_flush(context, socket)?;
        }
        Poll::Ready(Ok(fed))
    }
}

/// The socket as rustls wants to write to it.
struct Lent<'a, 'c> {
    context: &'a mut Context<'c>,
    socket: &'a mut Socket,
}

impl Write for Lent<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.socket.poll_write(self.context, slices) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
