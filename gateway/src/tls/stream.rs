//! A connection over TLS, as Pingora takes any.
//!
//! What is different from plain text is hidden here: a client that ends its connection without saying so within TLS has ended it
//! all the same, since requests tell their own length; and a connection that is let go says so to its client, as far as there is
//! room to. Small writes go out together: the socket beneath collects records.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
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

/// A connection whose handshake is done.
pub(super) struct TlsSocket {
    io: TlsStream<Stream>,
    digest: Arc<SslDigest>,
}

impl TlsSocket {
    pub(super) fn new(io: TlsStream<Stream>) -> Self {
        let (_, session) = io.get_ref();
        let cipher = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or_default();
        let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or_default();
        let digest = Arc::new(SslDigest::new(cipher, version, None, None, Vec::new()));
        TlsSocket { io, digest }
    }

    fn beneath(&self) -> &Stream {
        self.io.get_ref().0
    }

    /// Says to the client that nothing more comes. Waits for nobody: what finds no room is not said.
    fn say_goodbye(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let _said_or_not = Pin::new(&mut self.io).poll_shutdown(&mut context);
    }
}

impl Drop for TlsSocket {
    fn drop(&mut self) {
        self.say_goodbye();
    }
}

impl AsyncRead for TlsSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.get_mut().io).poll_read(cx, buf) {
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
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for TlsSocket {
    async fn shutdown(&mut self) {
        // Pingora puts no limit to this, and a client that reads nothing would be waited for.
        self.say_goodbye();
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
