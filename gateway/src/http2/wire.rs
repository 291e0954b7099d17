//! A connection's bytes on their way to `h2` and from it: what the client sends is followed frame by frame, and an end waits for the
//! client to take in what it was told.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use pingora::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::allowance::{Allowance, Exhausted};
use super::frames::Frames;
use super::traffic::Traffic;
use crate::lane::waiting::Alarm;
use crate::lane::watch::ExchangeLimits;

/// One connection.
pub(super) struct Wire {
    io: Stream,
    /// Read before it was known to be HTTP/2.
    ahead: BytesMut,
    frames: Frames,
    allowance: Allowance,
    traffic: Arc<Traffic>,
    eof: bool,
    end: End,
}

/// The end of the sending side, and what is read and dropped after it.
struct End {
    limits: ExchangeLimits,
    /// Since when the client knows; `None` before.
    told_at: Option<Instant>,
    dropped: u64,
    alarm: Alarm,
}

impl Wire {
    pub(super) fn new(io: Stream, ahead: BytesMut, limits: ExchangeLimits, traffic: Arc<Traffic>) -> Self {
        let end = End { limits, told_at: None, dropped: 0, alarm: Alarm::default() };
        Wire { io, ahead, frames: Frames::new(), allowance: Allowance::new(), traffic, eof: false, end }
    }

    /// Follows what was just read. Whoever polls `h2` looks whether it was too much.
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

    /// Reads and drops what still comes, within limits: closing a socket with unread bytes makes the kernel send a reset, which can
    /// destroy what was said last before the client reads it.
    fn poll_linger(&mut self, cx: &mut Context<'_>, told_at: Instant) -> Poll<()> {
        let mut chunk = [MaybeUninit::<u8>::uninit(); 2048];
        while !self.eof && self.end.dropped <= self.end.limits.drain_bytes {
            let mut buf = ReadBuf::uninit(&mut chunk);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Pending => return self.end.alarm.poll_until(cx, told_at + self.end.limits.drain_time),
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => self.end.dropped += buf.filled().len() as u64,
                Poll::Ready(_) => self.eof = true,
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Nobody waits for this: the flood is seen as soon as `h2` returns.
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
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.poll_written(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.poll_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let told_at = match this.end.told_at {
            Some(told_at) => told_at,
            None => {
                ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
                *this.end.told_at.insert(Instant::now())
            }
        };
        if !this.traffic.ends_at_once() {
            ready!(this.poll_linger(cx, told_at));
        }
        Poll::Ready(Ok(()))
    }
}
