//! The bytes of a connection on their way to `h2` and from it. The client's bytes are followed
//! frame by frame, and an end waits for the client to read what was sent last.
//!
//! `h2` flushes whenever it finds nothing more to read, which is one write for each answer. So
//! frames are held back while the connection's task is at work, and written together at its end.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use pingora::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::allowance::{Exhausted, FloodAllowance};
use super::frames::Frames;
use super::traffic::StreamTraffic;
use crate::exchange::state::ExchangeLimits;
use crate::exchange::timer::Timer;

/// One connection.
pub(super) struct Wire {
    io: Stream,
    /// Read before it was known to be HTTP/2.
    ahead: BytesMut,
    frames: Frames,
    allowance: FloodAllowance,
    traffic: Arc<StreamTraffic>,
    held: HeldBytes,
    eof: bool,
    end: End,
}

/// Frames that are not written yet.
#[derive(Default)]
struct HeldBytes {
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
}

/// The most that is held back. A larger piece waits in `h2`, and is not copied.
const HELD_LEN_MAX: usize = 16 * 1024;
/// The capacity that an idle connection keeps: a few dozen answers to preflights.
const HELD_LEN_IDLE: usize = 2 * 1024;

/// The end of the sending side, and what is read and dropped after it.
struct End {
    limits: ExchangeLimits,
    /// When the sending side ended; `None` before.
    ended_at: Option<Instant>,
    dropped: u64,
    timer: Timer,
}

impl Wire {
    pub(super) fn new(io: Stream, ahead: BytesMut, limits: ExchangeLimits, traffic: Arc<StreamTraffic>) -> Self {
        let end = End { limits, ended_at: None, dropped: 0, timer: Timer::default() };
        Wire {
            io,
            ahead,
            frames: Frames::new(),
            allowance: FloodAllowance::new(),
            traffic,
            held: HeldBytes::default(),
            eof: false,
            end,
        }
    }

    /// Holds pieces back.
    fn poll_hold(&mut self, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let held = self.held.poll_hold(pieces);
        self.traffic.note_held(self.held.rest().is_some());
        held
    }

    /// Writes what was held back.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.rest().is_none() {
            return Poll::Ready(Ok(()));
        }
        while let Some(rest) = self.held.rest() {
            let written = Pin::new(&mut self.io).poll_write(cx, rest);
            match ready!(self.poll_written(written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.held.advance(len),
            }
        }
        self.traffic.note_held(false);
        Poll::Ready(Ok(()))
    }

    /// Follows bytes that were just read. The task that polls `h2` then checks for a flood.
    fn follow(&mut self, bytes: &[u8]) {
        let idle = self.frames.count_idle(bytes);
        if let Err(Exhausted) = self.allowance.spend(idle, || self.traffic.take_earned()) {
            self.traffic.set_flooded();
        }
    }

    fn poll_written(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(len)) = written {
            self.traffic.note_taken(len);
        }
        written
    }

    /// Reads and drops what still comes, within limits: closing a socket with unread bytes makes
    /// the kernel send a reset, which can destroy what was said last before the client reads it.
    fn poll_linger(&mut self, cx: &mut Context<'_>, ended_at: Instant) -> Poll<()> {
        let mut chunk = [MaybeUninit::<u8>::uninit(); 2048];
        while !self.eof && self.end.dropped <= self.end.limits.drain_bytes {
            let mut buf = ReadBuf::uninit(&mut chunk);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Pending => return self.end.timer.poll_until(cx, ended_at + self.end.limits.drain_time),
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => self.end.dropped += buf.filled().len() as u64,
                Poll::Ready(_) => self.eof = true,
            }
        }
        Poll::Ready(())
    }
}

impl HeldBytes {
    fn rest(&self) -> Option<&[u8]> {
        self.bytes.get(self.written..).filter(|rest| !rest.is_empty())
    }

    fn advance(&mut self, len: usize) {
        self.written += len;
        if self.rest().is_none() {
            self.bytes.clear();
            self.bytes.shrink_to(HELD_LEN_IDLE);
            self.written = 0;
        }
    }

    /// Keeps all pieces. If there is no room for them, they wait until the rest is written: the
    /// connection's task writes it at the end of its turn, so no waker is kept.
    fn poll_hold(&mut self, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.bytes.len().saturating_add(len) > HELD_LEN_MAX {
            return Poll::Pending;
        }
        pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
        Poll::Ready(Ok(len))
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // No task waits for this read: the flood is detected as soon as `h2` returns.
        if this.traffic.is_flooded() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if this.ahead.is_empty() {
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        } else {
            let len = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead.split_to(len));
        }
        let read = buf.filled().get(before..).unwrap_or_default();
        this.eof |= read.is_empty();
        this.follow(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.traffic.is_holding() {
            return this.poll_hold(&[io::IoSlice::new(buf)]);
        }
        ready!(this.poll_held(cx))?;
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.poll_written(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.traffic.is_holding() {
            return this.poll_hold(bufs);
        }
        ready!(this.poll_held(cx))?;
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.poll_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // What is held back is flushed by the next call after that.
        if this.traffic.is_holding() {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_held(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let ended_at = match this.end.ended_at {
            Some(ended_at) => ended_at,
            None => {
                ready!(this.poll_held(cx))?;
                ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
                *this.end.ended_at.insert(Instant::now())
            }
        };
        if !this.traffic.ends_at_once() {
            ready!(this.poll_linger(cx, ended_at));
        }
        Poll::Ready(Ok(()))
    }
}
