//! A connection to a server of HTTP/1.1, as Pingora takes any stream: for upgrades, and for tests
//! that compare Pingora's proxy with the direct exchange.
//!
//! Pingora awaits each write before it reads on, and watches neither the answer nor the client
//! until then. Here no write waits: what the server's kernel does not take is held, sent on
//! whenever the answer is polled, and the client's side reads no more of the body until it is gone
//! ([`RequestProgress::poll_room`]). So answer, client and upload are always looked at together.
//!
//! Nothing is written that is not part of the request ([`Follower`]), and a connection whose
//! exchange did not end cleanly is closed. Pingora keeps no connection of this kind: it reads one
//! byte of a connection that it would keep, and this type reports the end of the stream. That is
//! the sign to keep it here ([`IdleConnections`]).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::follower::Follower;
use super::idle::IdleConnections;
use super::io::Io;
use crossgate_wire::exchange::RequestProgress;
use crossgate_wire::exchange::direct::ConnectionReuse;

/// Writes shorter than this are collected, so that a chunk's size, data and end leave together.
const DIRECT_WRITE_LEN: usize = 4 * 1024;
/// Collected writes are sent at once from this length on.
const COLLECTED_LEN_MAX: usize = 16 * 1024;

/// One connection while a request has it.
#[derive(Debug)]
pub(super) struct Connection {
    /// `None` once it is kept for another request.
    io: Option<Io>,
    server: SocketAddr,
    idle: Arc<IdleConnections>,
    keep: Duration,
    progress: Arc<RequestProgress>,
    follower: Follower,
    /// Written by Pingora, not taken by the server's kernel.
    outbox: BytesMut,
    /// TLS may hold records back.
    needs_flush: bool,
    write_error: Option<io::ErrorKind>,
    /// Pingora has asked whether it may keep the connection.
    is_released: bool,
    /// Pingora wants it closed.
    is_shut: bool,
}

impl Connection {
    pub(super) fn new(
        io: Io,
        server: SocketAddr,
        idle: Arc<IdleConnections>,
        keep: Duration,
        progress: Arc<RequestProgress>,
    ) -> Self {
        Connection {
            io: Some(io),
            server,
            idle,
            keep,
            progress,
            follower: Follower::Head,
            outbox: BytesMut::new(),
            needs_flush: false,
            write_error: None,
            is_released: false,
            is_shut: false,
        }
    }

    fn io(&mut self) -> io::Result<&mut Io> {
        self.io.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Sends what is held as far as the server's kernel takes it. An error is kept for the next
    /// write: the server may have answered before it closed, and that answer is read first.
    fn drain(&mut self, cx: &mut Context<'_>) {
        if self.progress.is_sealed() {
            self.outbox.clear();
            self.needs_flush = false;
        }
        if let Err(error) = self.try_drain(cx) {
            self.write_error = Some(error.kind());
            self.progress.seal();
            self.outbox.clear();
            self.needs_flush = false;
        }
        let pending = self.outbox.len().max(usize::from(self.needs_flush));
        if pending == 0 && self.follower == Follower::Done && self.write_error.is_none() {
            self.progress.set_whole();
        }
        self.progress.set_pending(pending);
    }

    fn try_drain(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(io) = &mut self.io else { return Ok(()) };
        while !self.outbox.is_empty() {
            match Pin::new(&mut *io).poll_write(cx, &self.outbox) {
                Poll::Pending => return Ok(()),
                Poll::Ready(written) => {
                    let len = some_written(written)?;
                    self.outbox.advance(len);
                    self.progress.note_taken(len);
                    self.needs_flush = io.is_buffered();
                }
            }
        }
        if self.needs_flush
            && let Poll::Ready(flushed) = Pin::new(io).poll_flush(cx)
        {
            flushed?;
            self.needs_flush = false;
        }
        Ok(())
    }

    /// Ready when all that is held was sent, as of a socket without an outbox.
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.drain(cx);
        match self.write_error {
            Some(kind) => Poll::Ready(Err(kind.into())),
            None if self.outbox.is_empty() && !self.needs_flush => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }

    /// Sends a long piece without copying it first, as far as the server's kernel takes it; how
    /// much that was.
    fn send_direct(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
        match Pin::new(self.io()?).poll_write(cx, bytes) {
            Poll::Pending => Ok(0),
            Poll::Ready(written) => {
                let len = some_written(written)?;
                self.progress.note_taken(len);
                self.needs_flush = self.io()?.is_buffered();
                Ok(len)
            }
        }
    }

    /// An answer that begins before the request is whole: the server may not read the rest of it,
    /// and would take it for the next request. A 1xx alone is no answer.
    fn note_answer(&self, bytes: &[u8]) {
        if !self.progress.is_whole() && !self.progress.is_tunnel() && !is_interim(bytes) {
            self.progress.retire();
        }
    }

    fn may_be_kept(&self) -> bool {
        self.is_released
            && !self.is_shut
            && self.write_error.is_none()
            && self.progress.is_whole()
            && !self.progress.is_retired()
    }
}

fn some_written(written: io::Result<usize>) -> io::Result<usize> {
    match written? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        len => Ok(len),
    }
}

/// Whether these bytes are one whole head of a 1xx, and nothing else.
fn is_interim(bytes: &[u8]) -> bool {
    let is_1xx = bytes.get(..10).is_some_and(|start| start.starts_with(b"HTTP/1.") && start.ends_with(b" 1"));
    is_1xx && memchr::memmem::find(bytes, b"\r\n\r\n").is_some_and(|end| end + 4 == bytes.len())
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Bodies and heads are read into large buffers; this is the question whether the connection
        // may be kept.
        if buf.remaining() == 1 && !this.progress.is_tunnel() {
            this.is_released = true;
            return Poll::Ready(Ok(()));
        }
        this.drain(cx);
        let before = buf.filled().len();
        ready!(Pin::new(this.io()?).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        if !read.is_empty() {
            this.note_answer(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    /// Takes all of `bytes`. They are dropped where they are not part of the request, or no more of
    /// it is to be sent.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(kind) = this.write_error {
            return Poll::Ready(Err(kind.into()));
        }
        if this.progress.is_sealed() {
            return Poll::Ready(Ok(bytes.len()));
        }
        if this.progress.is_answered() {
            ready!(this.poll_drained(cx))?;
        }
        if !this.progress.is_tunnel() {
            let is_body = this.follower != Follower::Head;
            // RFC 9110, section 10.1.1: a server that was not waited for may answer without reading
            // the body.
            if is_body && this.progress.awaits_continue() {
                this.progress.retire();
            }
            if this.follower.take(bytes, &this.progress).is_err() {
                this.progress.seal();
                return Poll::Ready(Ok(bytes.len()));
            }
        }
        let mut sent = 0;
        if this.outbox.is_empty() && bytes.len() >= DIRECT_WRITE_LEN {
            match this.send_direct(cx, bytes) {
                Ok(len) => sent = len,
                Err(error) => {
                    this.write_error = Some(error.kind());
                    this.progress.seal();
                    return Poll::Ready(Err(error));
                }
            }
        }
        this.outbox.extend_from_slice(bytes.get(sent..).unwrap_or_default());
        // After an answer has started, Pingora may poll no more of it.
        let is_short = sent == 0 && this.outbox.len() < COLLECTED_LEN_MAX && !this.progress.is_retired();
        if is_short && this.follower != Follower::Done {
            // Sent with what follows, or when the answer is polled.
            this.progress.set_pending(this.outbox.len());
        } else {
            this.drain(cx);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// Does not wait while the answer is polled, which sends what is left.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.progress.is_answered() {
            return this.poll_drained(cx);
        }
        this.drain(cx);
        Poll::Ready(this.write_error.map_or(Ok(()), |kind| Err(kind.into())))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.is_shut = true;
        if this.outbox.is_empty()
            && let Some(io) = &mut this.io
        {
            // What finds no room is not said.
            let _said_or_not = Pin::new(io).poll_shutdown(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl VirtualSocket for Connection {
    /// The socket has its options from the connector.
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let is_kept = self.may_be_kept();
        let Some(mut io) = self.io.take() else { return };
        if is_kept {
            let reuse = ConnectionReuse { keep_alive_s: self.progress.keep_alive_s() };
            self.idle.put(self.server, io, self.keep, reuse, Instant::now());
        } else if !self.is_shut && self.outbox.is_empty() {
            let _said_or_not = Pin::new(&mut io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_whole_interim_head_is_no_answer() {
        for interim in [&b"HTTP/1.1 100 Continue\r\n\r\n"[..], b"HTTP/1.0 103 Early Hints\r\nLink: </a>\r\n\r\n"] {
            assert!(is_interim(interim));
        }
        for answer in [
            &b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"[..],
            b"HTTP/1.1 100 Continue\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 ",
            b"1",
        ] {
            assert!(!is_interim(answer), "{}", answer.escape_ascii());
        }
    }
}
