//! A connection to a server of HTTP/1.1 while a direct exchange has it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::connector::Connector;
use super::io::Io;
use crossgate_wire::exchange::direct::{ConnectionReuse, ServerStream};

/// The connection. It closes when dropped, unless it is kept.
pub struct DirectConnection {
    /// `None` once it is kept for another request.
    io: Option<Io>,
    server: SocketAddr,
    connector: Arc<Connector>,
    is_reused: bool,
}

impl DirectConnection {
    pub(super) fn new(io: Io, server: SocketAddr, connector: Arc<Connector>, is_reused: bool) -> Self {
        DirectConnection { io: Some(io), server, connector, is_reused }
    }

    /// Keeps the connection for another request.
    pub(crate) fn keep(mut self, reuse: ConnectionReuse, now: Instant) {
        if let Some(io) = self.io.take() {
            self.connector.keep(self.server, io, reuse, now);
        }
    }

    fn io(&mut self) -> io::Result<Pin<&mut Io>> {
        self.io.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl ServerStream for DirectConnection {
    fn is_reused(&self) -> bool {
        self.is_reused
    }

    fn is_buffered(&self) -> bool {
        self.io.as_ref().is_some_and(Io::is_buffered)
    }
}

impl AsyncRead for DirectConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for DirectConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_shutdown(cx)
    }
}

impl fmt::Debug for DirectConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectConnection").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Drop for DirectConnection {
    fn drop(&mut self) {
        if let Some(io) = &mut self.io {
            // TLS says that it ends, if there is room for that.
            let _said_or_not = Pin::new(io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}
