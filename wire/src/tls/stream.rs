//! A connection over TLS as a Pingora stream.
//!
//! Differences from plain text are hidden here. A client that closes without `close_notify` has
//! ended its connection, since requests have their own length. A connection that is dropped sends
//! `close_notify`, if there is room. Small writes go out together: the socket below collects
//! records.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::OFFERED;

pub(super) struct TlsSocket {
    io: TlsStream<Stream>,
    digest: Arc<SslDigest>,
    /// The client must see that the connection broke off.
    is_cut: AtomicBool,
    /// The sending side has ended, with `close_notify`.
    is_ended: bool,
}

/// The plain connection below a TLS stream.
pub fn beneath(io: &Stream) -> Option<&Stream> {
    io.as_any().downcast_ref::<TlsSocket>().map(TlsSocket::beneath)
}

/// Lets a connection end without `close_notify`, if it is one over TLS.
pub fn skip_close_notify(io: &Stream) {
    if let Some(socket) = io.as_any().downcast_ref::<TlsSocket>() {
        socket.is_cut.store(true, Relaxed);
    }
}

impl TlsSocket {
    pub(super) fn new(io: TlsStream<Stream>) -> Self {
        let (_, session) = io.get_ref();
        let cipher = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or_default();
        let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or_default();
        let digest = Arc::new(SslDigest::new(cipher, version, None, None, Vec::new()));
        TlsSocket { io, digest, is_cut: AtomicBool::new(false), is_ended: false }
    }

    fn beneath(&self) -> &Stream {
        self.io.get_ref().0
    }

    /// Sends `close_notify` without waiting. It is skipped if the socket has no room.
    fn send_close_notify(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let _sent_or_not = Pin::new(self).poll_shutdown(&mut context);
    }
}

impl Drop for TlsSocket {
    fn drop(&mut self) {
        if !*self.is_cut.get_mut() && !self.is_ended {
            self.send_close_notify();
        }
    }
}

impl AsyncRead for TlsSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.get_mut().io).poll_read(cx, buf) {
            // Many clients close without `close_notify`. HTTP framing detects a truncated request.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            read @ (Poll::Ready(_) | Poll::Pending) => read,
        }
    }
}

impl AsyncWrite for TlsSocket {
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
        let this = self.get_mut();
        let ended = Pin::new(&mut this.io).poll_shutdown(cx);
        this.is_ended |= ended.is_ready();
        ended
    }
}

#[async_trait]
impl Shutdown for TlsSocket {
    async fn shutdown(&mut self) {
        // Pingora sets no timeout here, and a client that reads nothing would block the task.
        self.send_close_notify();
    }
}

impl Ssl for TlsSocket {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        Some(Arc::clone(&self.digest))
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        let (_, session) = self.io.get_ref();
        let chosen = session.alpn_protocol()?;
        OFFERED.into_iter().find(|(name, _)| *name == chosen).map(|(_, protocol)| protocol)
    }
}

impl UniqueID for TlsSocket {
    fn id(&self) -> UniqueIDType {
        self.beneath().id()
    }
}

#[async_trait]
impl Peek for TlsSocket {}

impl GetTimingDigest for TlsSocket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.beneath().get_timing_digest()
    }
}

impl GetProxyDigest for TlsSocket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.beneath().get_proxy_digest()
    }
}

impl GetSocketDigest for TlsSocket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.beneath().get_socket_digest()
    }
}

impl fmt::Debug for TlsSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSocket").field("digest", &self.digest).field("beneath", self.beneath()).finish()
    }
}
