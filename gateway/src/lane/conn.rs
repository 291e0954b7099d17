//! One request's connection, as Pingora sees it.
//!
//! The lane hands Pingora a request as its head alone; everything after it is read through this
//! wrapper, which gives out exactly the bytes of that request's body and keeps whatever follows for
//! the next head. Without it Pingora 0.9.1 loses a second request that is already in its buffer, and
//! turns one that arrives mid-flight into an error of the running request.
//!
//! Every byte passes here, so this is also where the waits are bounded ([`Clock`]). How many bytes belong to the body is the head
//! reader's finding ([`Framing`]); a chunked one is followed to its end by [`Chunked`]. Absent on purpose: any other parsing.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use pingora::protocols::Stream;
use pingora::protocols::l4::socket::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::OpenConnection;
use super::chunked::{Chunked, Malformed};
use super::clock::Clock;
use super::linger;
use super::waiting::Alarm;
use super::watch::{Expired, Phase, Watch};

mod plumbing;

/// How a request's body is delimited, RFC 9112 section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Exactly this many bytes follow the head; 0 where there is no body.
    Length(u64),
    /// In chunks, of which the last is empty.
    Chunked(Chunked),
    /// No body, but perhaps another protocol after the answer: the bytes are nobody's until then.
    Upgrade,
}

/// A downstream connection while one request on it is served.
pub struct Conn {
    /// `None` once taken back by the lane, or by the lingering close.
    io: Option<Stream>,
    /// Bytes read from the socket that Pingora has not been given: the body's beginning, then the
    /// next request.
    ahead: BytesMut,
    /// At most this many bytes are held for the next request while this one runs.
    ahead_len_max: usize,
    framing: Framing,
    eof: bool,
    wrote: bool,
    unflushed: bool,
    clock: Clock,
    /// Kept until the connection is closed for good: it is what a drain waits for.
    guard: OpenConnection,
}

/// What is left of a connection after a request on it was served and it may carry another.
pub struct Reclaimed {
    /// The socket.
    pub io: Stream,
    /// Bytes already read from it: the beginning of the next request.
    pub ahead: BytesMut,
    /// Whether the client has finished sending.
    pub eof: bool,
    /// The connection's timer.
    pub alarm: Alarm,
    /// Counts the connection as open.
    pub guard: OpenConnection,
}

impl Conn {
    /// Wraps a socket whose next request has been split from `ahead` already.
    pub fn new(from: Reclaimed, framing: Framing, watch: Arc<Watch>, ahead_len_max: usize) -> Self {
        Conn {
            io: Some(from.io),
            ahead: from.ahead,
            ahead_len_max,
            framing,
            eof: from.eof,
            wrote: false,
            unflushed: false,
            clock: Clock::new(watch, from.alarm),
            guard: from.guard,
        }
    }

    /// The shared state of this exchange, for the proxy's hooks.
    pub fn watch(&self) -> &Arc<Watch> {
        self.clock.watch()
    }

    /// The socket and what was read ahead of it; `None` where the request's body was not read to its
    /// end, so that nobody knows where the next request begins.
    pub fn reclaim(mut self) -> Option<Reclaimed> {
        if self.has_body_left() {
            return None;
        }
        Some(Reclaimed {
            io: self.io.take()?,
            ahead: std::mem::take(&mut self.ahead),
            eof: self.eof,
            alarm: self.clock.take_alarm(),
            guard: self.guard.clone(),
        })
    }

    fn io(&mut self) -> io::Result<&mut Stream> {
        self.io.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn has_body_left(&self) -> bool {
        match &self.framing {
            Framing::Length(left) => *left > 0,
            Framing::Chunked(chunked) => !chunked.is_done(),
            Framing::Upgrade => false,
        }
    }

    /// How much a reader with `room` may be given now; 0 means that the request is over and the
    /// reader only wants to know whether the client is still there.
    fn allowance(&self, room: usize) -> usize {
        match &self.framing {
            Framing::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(room),
            Framing::Chunked(chunked) if chunked.is_done() => 0,
            Framing::Upgrade if self.watch().phase() != Phase::Upgraded => 0,
            Framing::Chunked(_) | Framing::Upgrade => room,
        }
    }

    /// How many of these next bytes are the request's, which have been given out with that.
    fn consume(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = match &mut self.framing {
            Framing::Length(left) => {
                *left = left.saturating_sub(bytes.len() as u64);
                bytes.len()
            }
            Framing::Chunked(chunked) => chunked
                .take(bytes)
                .map_err(|Malformed| self.clock.watch().fail(Expired::Malformed, io::ErrorKind::InvalidData))?,
            Framing::Upgrade => bytes.len(),
        };
        self.clock.note_given(len);
        Ok(len)
    }

    /// Gives out body bytes: first those read ahead, then the socket's.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, allowed: usize) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let mut given = self.ahead.split_to(allowed.min(self.ahead.len()));
            let len = self.consume(&given)?;
            let rest = given.split_off(len);
            buf.put_slice(&given);
            if !rest.is_empty() {
                let ahead = std::mem::replace(&mut self.ahead, rest);
                self.ahead.unsplit(ahead);
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let mut limited = self.io()?.take(allowed as u64);
        match Pin::new(&mut limited).poll_read(cx, buf) {
            Poll::Pending => self.poll_slow_body(cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => self.note_body(buf, before),
        }
    }

    /// Accounts for body bytes that came from the socket, keeps what is beyond the body, and cuts a
    /// client that sends too slowly.
    fn note_body(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> Poll<io::Result<()>> {
        let read = buf.filled().get(before..).unwrap_or_default();
        let len = self.consume(read)?;
        self.ahead.extend_from_slice(read.get(len..).unwrap_or_default());
        buf.set_filled(before + len);
        Poll::Ready(self.clock.note_came())
    }

    fn poll_slow_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.clock.is_continue_awaited() {
            return self.poll_response(cx);
        }
        self.clock.poll_body(cx).map(Err)
    }

    /// Reads ahead without giving anything out: the request's bytes are all there, a reader only
    /// waits for the client to go away.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.eof && self.ahead.len() < self.ahead_len_max {
            let mut chunk = [MaybeUninit::<u8>::uninit(); 2048];
            let mut buf = ReadBuf::uninit(&mut chunk);
            match Pin::new(self.io()?).poll_read(cx, &mut buf) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => self.eof = true,
                Poll::Ready(Ok(())) => self.ahead.extend_from_slice(buf.filled()),
            }
        }
        if self.eof && self.ahead.is_empty() {
            return Poll::Ready(Ok(()));
        }
        // Nobody is asked yet; whoever holds the request bounds the wait.
        if self.watch().is_held() { Poll::Pending } else { self.poll_response(cx) }
    }

    /// Pending until the response head, or the next piece of the body, is overdue. What has come of a response is not held
    /// back while more is awaited: Pingora flushes a response of known length only at its end.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(self.io()?).poll_flush(cx)
        {
            flushed?;
            self.unflushed = false;
        }
        self.clock.poll_response(cx).map(Err)
    }

    /// Bounds a write that the client does not take.
    fn poll_written(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.clock.watch().attend();
        if let Poll::Ready(written) = result {
            self.wrote = true;
            self.unflushed = true;
            self.clock.note_written();
            return Poll::Ready(written);
        }
        self.clock.poll_write(cx).map(Err)
    }

    /// Whether closing now would make the kernel answer unread bytes with a reset, which can
    /// destroy a response that is still on its way.
    fn has_unread(&self) -> bool {
        self.wrote && !self.eof && (self.has_body_left() || !self.ahead.is_empty())
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if !self.has_unread() {
            return;
        }
        if let (Some(io), Ok(runtime)) = (self.io.take(), tokio::runtime::Handle::try_current()) {
            let limits = *self.watch().limits();
            let guard = self.guard.clone();
            runtime.spawn(async move {
                linger(io, limits.drain_bytes, limits.drain_time).await;
                drop(guard);
            });
        }
    }
}

impl AsyncRead for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.clock.watch().attend();
        match this.allowance(buf.remaining()) {
            _ if this.watch().is_held() => this.poll_hold(cx),
            0 => this.poll_hold(cx),
            allowed => this.poll_body(cx, buf, allowed),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(this.io()?).poll_write(cx, buf);
        this.poll_written(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(this.io()?).poll_write_vectored(cx, bufs);
        this.poll_written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(|io| io.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(this.io()?).poll_flush(cx) {
            Poll::Ready(result) => {
                this.unflushed = false;
                Poll::Ready(result)
            }
            Poll::Pending => this.poll_written(cx, Poll::Pending).map_ok(|_| ()),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = ready!(Pin::new(this.io()?).poll_shutdown(cx));
        Poll::Ready(result)
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("framing", &self.framing)
            .field("ahead_len", &self.ahead.remaining())
            .field("phase", &self.watch().phase())
            .finish_non_exhaustive()
    }
}

/// The address of the other end, where the socket has one.
pub fn peer_addr(io: &Stream) -> Option<std::net::SocketAddr> {
    match io.get_socket_digest()?.peer_addr()? {
        SocketAddr::Inet(address) => Some(*address),
        SocketAddr::Unix(_) => None,
    }
}
