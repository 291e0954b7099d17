//! An accepted connection, as Pingora takes any: a TCP stream whose small writes go out together.
//!
//! Pingora's own does more: it reads the clock whenever somebody waits, and asks the system about its socket when it is dropped.
//! Reads are not buffered here, since whoever reads brings a buffer of its own.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufWriter, ReadBuf};
use tokio::net::TcpStream;

/// Small writes are collected up to this; a whole answer without a body fits.
const WRITE_BUFFER_LEN: usize = 1460;

/// One accepted connection.
pub(crate) struct Socket {
    io: BufWriter<TcpStream>,
    digest: Arc<SocketDigest>,
}

impl Socket {
    /// Of a connection from this address.
    ///
    /// # Errors
    /// Where the connection is gone already.
    pub(crate) fn new(stream: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        // Writes are collected here, not in the kernel.
        stream.set_nodelay(true)?;
        let digest = digest(&stream, peer);
        Ok(Socket { io: BufWriter::with_capacity(WRITE_BUFFER_LEN, stream), digest })
    }

    /// The connection itself. Nothing that was read from it is held here.
    pub(crate) fn tcp(&mut self) -> &mut TcpStream {
        self.io.get_mut()
    }

    /// From now on it is a connection from this address: whoever passes it on has said so.
    pub(crate) fn rename(&mut self, peer: SocketAddr) {
        self.digest = digest(self.io.get_ref(), peer);
    }
}

fn digest(stream: &TcpStream, peer: SocketAddr) -> Arc<SocketDigest> {
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    let _first = digest.peer_addr.set(Some(peer.into()));
    Arc::new(digest)
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
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
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Socket {
    async fn shutdown(&mut self) {
        // Nobody is left to tell.
        let _done = self.io.shutdown().await;
    }
}

impl UniqueID for Socket {
    fn id(&self) -> UniqueIDType {
        self.io.get_ref().as_raw_fd()
    }
}

impl Ssl for Socket {}

#[async_trait]
impl Peek for Socket {}

impl GetTimingDigest for Socket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Socket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Socket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("peer", &self.digest.peer_addr()).finish_non_exhaustive()
    }
}
