//! An accepted connection as a Pingora stream: TCP with small writes collected.
//!
//! Pingora's own stream does more: it reads the clock at every wait, and queries the socket when it
//! is dropped. Reads are not buffered here, since each reader brings its own buffer.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufWriter, ReadBuf};
use tokio::net::TcpStream;

use crate::metrics::ConnectionCounters;
use crate::tls;

/// The size of the write buffer: a whole response without a body fits.
const WRITE_BUFFER_LEN: usize = 1460;

pub struct AcceptedSocket {
    io: BufWriter<MeteredSocket>,
    digest: Arc<SocketDigest>,
    /// A flush waits until a read finds nothing.
    delays_flush: AtomicBool,
}

/// A connection that counts its bytes as the kernel transfers them. It counts in steps, so that a
/// short exchange costs nothing, and when it is dropped.
struct MeteredSocket {
    stream: TcpStream,
    connections: Arc<ConnectionCounters>,
    received: usize,
    sent: usize,
}

/// The bytes that are counted in one step.
const COUNT_STEP: usize = 16 * 1024;

impl AcceptedSocket {
    /// Wraps a connection from this address, whose bytes are counted in `connections`.
    ///
    /// # Errors
    /// Returns an error if the connection is already closed.
    pub fn new(stream: TcpStream, peer: SocketAddr, connections: &Arc<ConnectionCounters>) -> io::Result<Self> {
        // Nagle's algorithm is off, since this buffer collects small writes.
        stream.set_nodelay(true)?;
        let digest = digest(&stream, peer);
        let metered = MeteredSocket { stream, connections: Arc::clone(connections), received: 0, sent: 0 };
        Ok(AcceptedSocket {
            io: BufWriter::with_capacity(WRITE_BUFFER_LEN, metered),
            digest,
            delays_flush: AtomicBool::new(false),
        })
    }

    /// The TCP stream. Bytes read from it are never buffered here.
    pub fn tcp(&mut self) -> &mut TcpStream {
        &mut self.io.get_mut().stream
    }

    /// Sets the address of the client that a PROXY header names.
    pub fn rename(&mut self, peer: SocketAddr) {
        self.digest = digest(&self.io.get_ref().stream, peer);
    }
}

/// Duplicates the descriptor of a client's connection, with or without TLS. The duplicate stays
/// valid when the connection is dropped.
pub fn descriptor(io: &Stream) -> Option<OwnedFd> {
    accepted(io)?.io.get_ref().stream.as_fd().try_clone_to_owned().ok()
}

/// The socket of a client's connection, with or without TLS.
fn accepted(io: &Stream) -> Option<&AcceptedSocket> {
    io.as_any().downcast_ref().or_else(|| tls::beneath(io)?.as_any().downcast_ref())
}

/// Sets whether a flush of this connection waits until a read finds nothing. What is in the buffer
/// when this ends leaves with the next flush.
pub fn delay_flush(io: &Stream, delays: bool) {
    if let Some(socket) = accepted(io) {
        socket.delays_flush.store(delays, Relaxed);
    }
}

/// Ends a client's connection with a reset, and without `close_notify`.
pub fn reset(io: Stream) {
    tls::skip_close_notify(&io);
    if let Some(socket) = accepted(&io) {
        // A socket that is closed already needs no reset.
        let _set_or_closed = rustix::net::sockopt::set_socket_linger(&socket.io.get_ref().stream, Some(Duration::ZERO));
    }
    drop(io);
}

fn digest(stream: &TcpStream, peer: SocketAddr) -> Arc<SocketDigest> {
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    let _first = digest.peer_addr.set(Some(peer.into()));
    Arc::new(digest)
}

impl MeteredSocket {
    fn note_received(&mut self, len: usize) {
        self.received = self.received.saturating_add(len);
        if self.received >= COUNT_STEP {
            self.connections.traffic.count_received(std::mem::take(&mut self.received));
        }
    }

    fn note_sent(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(len)) = written {
            self.sent = self.sent.saturating_add(len);
            if self.sent >= COUNT_STEP {
                self.connections.traffic.count_sent(std::mem::take(&mut self.sent));
            }
        }
        written
    }
}

impl Drop for MeteredSocket {
    fn drop(&mut self) {
        self.connections.traffic.count_received(self.received);
        self.connections.traffic.count_sent(self.sent);
    }
}

impl AsyncRead for MeteredSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.note_received(buf.filled().len() - before);
        read
    }
}

impl AsyncWrite for MeteredSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.note_sent(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.note_sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl AsyncRead for AcceptedSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if read.is_pending() && *this.delays_flush.get_mut() {
            // A part that is not written yet waits for the next poll.
            let _flushed = Pin::new(&mut this.io).poll_flush(cx)?;
        }
        read
    }
}

impl AsyncWrite for AcceptedSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if *this.delays_flush.get_mut() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for AcceptedSocket {
    async fn shutdown(&mut self) {
        // The connection ends in any case, so an error does not matter.
        let _done = self.io.shutdown().await;
    }
}

impl UniqueID for AcceptedSocket {
    fn id(&self) -> UniqueIDType {
        self.io.get_ref().stream.as_raw_fd()
    }
}

impl Ssl for AcceptedSocket {}

#[async_trait]
impl Peek for AcceptedSocket {}

impl GetTimingDigest for AcceptedSocket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for AcceptedSocket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for AcceptedSocket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

impl fmt::Debug for AcceptedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptedSocket").field("peer", &self.digest.peer_addr()).finish_non_exhaustive()
    }
}
