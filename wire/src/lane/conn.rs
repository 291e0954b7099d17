//! One request's connection, as the direct exchange and Pingora see it.
//!
//! The lane hands on a request as its head alone; everything after it is read through this wrapper,
//! which gives out exactly the bytes of that request's body and keeps whatever follows for the next
//! head. Without it Pingora 0.9.1 loses a second request that is already in its buffer, and turns
//! one that arrives mid-flight into an error of the running request.
//!
//! Every byte passes here, so this is also where the waits are bounded ([`ExchangeTimeouts`]). How
//! many bytes belong to the body is the head reader's finding ([`BodyFraming`]); a chunked one is
//! followed to its end by [`ChunkedDecoder`](crate::exchange::chunked::ChunkedDecoder). Absent on
//! purpose: any other parsing.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use pingora::protocols::Stream;
use pingora::protocols::l4::socket::SocketAddr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;

use super::linger;
use crate::exchange::chunked::MalformedChunk;
use crate::exchange::state::{ClientProbe, ExchangeEnd, ExchangePhase, ExchangeState};
use crate::exchange::timeouts::ExchangeTimeouts;
use crate::exchange::{BodyFraming, OpenConnection, ReusableConnection, answer_bytes};
use crate::socket;
use overflow::Overflow;
use tunnel::Tunnel;

mod overflow;
mod plumbing;
mod tunnel;

/// Whose turn it is when the body is asked for.
enum RequestTurn {
    /// The next piece is given out.
    Give,
    /// The client has gone.
    Gone,
}

/// A downstream connection while one request on it is served.
pub struct RequestConnection {
    /// `None` once taken back by the lane, or by the lingering close.
    io: Option<Stream>,
    /// Bytes read from the socket that Pingora has not been given: the body's beginning, then the
    /// next request.
    ahead: BytesMut,
    /// At most this many bytes are held for the next request while this one runs.
    ahead_len_max: usize,
    /// Room for more where the server takes nothing.
    overflow: Overflow,
    overflow_len: usize,
    framing: BodyFraming,
    eof: bool,
    wrote: bool,
    unflushed: bool,
    /// The connection ends with a reset.
    resets: bool,
    /// No more of the body is used, and so much of it may be dropped.
    droppable: Option<u64>,
    /// Once the connection is switched to a WebSocket.
    tunnel: Option<Box<Tunnel>>,
    clock: ExchangeTimeouts,
    /// Kept until the connection is closed for good: it is what a drain waits for.
    guard: OpenConnection,
}

impl RequestConnection {
    /// Wraps a socket whose next request has been split from `ahead` already.
    pub fn new(
        from: ReusableConnection,
        framing: BodyFraming,
        watch: Arc<ExchangeState>,
        ahead_len_max: usize,
    ) -> Self {
        RequestConnection {
            io: Some(from.io),
            ahead: from.ahead,
            ahead_len_max,
            overflow: Overflow::default(),
            overflow_len: 0,
            framing,
            eof: from.eof,
            wrote: false,
            unflushed: false,
            resets: false,
            droppable: None,
            tunnel: None,
            clock: ExchangeTimeouts::new(watch, from.timer),
            guard: from.guard,
        }
    }

    /// The probe for a client that has gone while nothing is read from it: the kernel sees an end
    /// behind unread bytes.
    pub fn client_probe(&self) -> Option<ClientProbe> {
        let socket = socket::descriptor(self.io.as_ref()?)?;
        Some(Box::new(move |_| {
            let mut asked = [PollFd::new(&socket, PollFlags::RDHUP)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut asked, Some(&now)).is_ok_and(|ended| ended > 0)
        }))
    }

    /// The shared state of this exchange, for the proxy's hooks.
    pub fn watch(&self) -> &Arc<ExchangeState> {
        self.clock.state()
    }

    /// The socket and the bytes read ahead; `None` if the request body was not read to its end, so
    /// that the start of the next request is unknown.
    pub fn reclaim(mut self) -> Option<ReusableConnection> {
        if self.has_body_left() {
            return None;
        }
        let mut ahead = std::mem::take(&mut self.ahead);
        if self.overflow_len > 0 {
            if ahead.len() > self.ahead_len_max {
                return None;
            }
            // The room of a stuck upload is given back, and what is left may be a small piece of
            // it.
            ahead = BytesMut::from(&*ahead);
        }
        Some(ReusableConnection {
            io: self.io.take()?,
            ahead,
            eof: self.eof,
            timer: self.clock.take_timer(),
            guard: self.guard.clone(),
        })
    }

    fn io(&mut self) -> io::Result<&mut Stream> {
        self.io.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Whether a part of the request's body was not read.
    pub(super) fn has_body_left(&self) -> bool {
        match &self.framing {
            BodyFraming::Length(left) => *left > 0,
            BodyFraming::Chunked(chunked) => !chunked.is_done(),
            BodyFraming::Upgrade => false,
        }
    }

    /// How much a reader with `room` may be given now; 0 means that the request is over and the
    /// reader only wants to know whether the client is still there.
    fn allowance(&self, room: usize) -> usize {
        match &self.framing {
            BodyFraming::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(room),
            BodyFraming::Chunked(chunked) if chunked.is_done() => 0,
            BodyFraming::Upgrade if self.watch().phase() != ExchangePhase::Upgraded => 0,
            BodyFraming::Chunked(_) | BodyFraming::Upgrade => room,
        }
    }

    /// How many of these next bytes are the request's, which have been given out with that.
    fn consume(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = match &mut self.framing {
            BodyFraming::Length(left) => {
                *left = left.saturating_sub(bytes.len() as u64);
                bytes.len()
            }
            BodyFraming::Chunked(chunked) => chunked.take(bytes).map_err(|MalformedChunk| {
                self.clock.state().fail(ExchangeEnd::Malformed, io::ErrorKind::InvalidData)
            })?,
            BodyFraming::Upgrade => bytes.len(),
        };
        self.clock.note_given(len);
        Ok(len)
    }

    /// Whether the next piece of the body may be given out. It waits while the server takes none,
    /// and while a client that was to wait for `100 Continue` has sent it too early; the client is
    /// watched in that time.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<RequestTurn>> {
        if self.clock.is_continue_awaited() {
            self.read_ahead(cx, self.ahead_len_max)?;
            if self.ahead.is_empty() {
                return if self.eof { Poll::Ready(Ok(RequestTurn::Gone)) } else { Poll::Ready(Ok(RequestTurn::Give)) };
            }
            ready!(self.clock.poll_continue(cx));
            self.watch().stop_expecting_continue();
        }
        if let Poll::Ready(room) = self.clock.poll_room(cx) {
            return Poll::Ready(room.map(|()| RequestTurn::Give));
        }
        self.read_ahead(cx, self.ahead_len_max)?;
        if self.clock.poll_stalled(cx).is_ready() {
            self.read_overflow(cx)?;
        }
        if self.is_cut_off() { Poll::Ready(Ok(RequestTurn::Gone)) } else { Poll::Pending }
    }

    /// Whether the client has ended its connection within the body.
    fn is_cut_off(&self) -> bool {
        self.eof
            && match &self.framing {
                BodyFraming::Length(left) => (self.ahead.len() as u64) < *left,
                BodyFraming::Chunked(chunked) => {
                    let mut rest = *chunked;
                    rest.take(&self.ahead).is_ok() && !rest.is_done()
                }
                BodyFraming::Upgrade => self.ahead.is_empty(),
            }
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

    /// Reads and drops the rest of the body, as far as that comes in time.
    pub(super) async fn drain_body(&mut self) {
        if !self.has_body_left() {
            return;
        }
        let time = self.watch().limits().drain_time;
        let drain = async {
            let mut chunk = [0; 2048];
            while self.has_body_left() && matches!(self.read(&mut chunk).await, Ok(1..)) {}
        };
        let _drained_or_late = timeout(time, drain).await;
    }

    /// Sets whether the connection ends with a reset.
    pub(super) fn set_reset(&mut self, resets: bool) {
        self.resets = resets;
    }

    /// Drops what the client still sends of its body, up to a limit, so that its end is seen.
    pub(super) fn abandon_body(&mut self) {
        if self.has_body_left() {
            self.droppable.get_or_insert(self.watch().limits().drain_bytes);
        }
    }

    /// Ready when the client has gone, or the server is overdue: for an exchange whose request has
    /// been read to its end.
    pub(super) fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(gone) = self.poll_gone(cx) {
            return Poll::Ready(gone);
        }
        self.poll_response(cx)
    }

    /// Ready when the client has gone and nothing that it sent is left.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.read_ahead(cx, self.ahead_len_max)?;
        while let Some(droppable) = self.droppable.filter(|left| *left > 0 && !self.ahead.is_empty()) {
            self.droppable = Some(droppable.saturating_sub(self.ahead.len() as u64));
            self.ahead.clear();
            self.read_ahead(cx, self.ahead_len_max)?;
        }
        if self.eof && self.ahead.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Reads ahead without giving anything out: the request's bytes are all there, a reader only
    /// waits for the client to go away.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(gone) = self.poll_gone(cx) {
            return Poll::Ready(gone);
        }
        // No server has the request yet; the code that holds it bounds the wait.
        if self.watch().is_held() { Poll::Pending } else { self.poll_response(cx) }
    }

    /// Reads what the client has sent, until so much is held.
    fn read_ahead(&mut self, cx: &mut Context<'_>, len_max: usize) -> io::Result<()> {
        while !self.eof && self.ahead.len() < len_max {
            let mut chunk = [MaybeUninit::<u8>::uninit(); 2048];
            let mut buf = ReadBuf::uninit(&mut chunk);
            match Pin::new(self.io()?).poll_read(cx, &mut buf) {
                Poll::Pending => break,
                Poll::Ready(read) => read?,
            }
            self.eof = buf.filled().is_empty();
            self.ahead.extend_from_slice(buf.filled());
        }
        Ok(())
    }

    /// Reads on beyond what is usually held, to see that the client has gone: the server has taken
    /// nothing for a while.
    fn read_overflow(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.eof {
            if self.ahead.len() >= self.ahead_len_max + self.overflow_len {
                let Some(more) = self.overflow.grow() else { return Ok(()) };
                self.overflow_len += more;
                self.ahead.reserve(more);
            }
            let io = self.io.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            match pin!(io.read_buf(&mut self.ahead)).poll(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(read) => self.eof = read? == 0,
            }
        }
        Ok(())
    }

    /// Pending until the response head, or the next piece of the body, is overdue. What has come of
    /// a response is not held back while more is awaited: Pingora flushes a response of known
    /// length only at its end.
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
        self.clock.state().attend();
        if let Poll::Ready(written) = result {
            self.wrote = true;
            self.unflushed = true;
            self.clock.note_written();
            return Poll::Ready(written);
        }
        self.clock.poll_write(cx).map(Err)
    }

    /// Nothing may be sent behind a Close frame.
    fn check_open(&self) -> io::Result<()> {
        match &self.tunnel {
            Some(tunnel) if tunnel.is_over() => Err(io::ErrorKind::BrokenPipe.into()),
            Some(_) | None => Ok(()),
        }
    }

    /// The state of a connection that is switched to a WebSocket.
    fn tunnel(&mut self) -> Option<&mut Tunnel> {
        if self.framing != BodyFraming::Upgrade || self.watch().phase() != ExchangePhase::Upgraded {
            return None;
        }
        let notice = || self.guard.tunnel_notice();
        Some(self.tunnel.get_or_insert_with(|| Box::new(Tunnel::new(notice()))))
    }

    /// Follows what the client was sent of a WebSocket.
    fn follow(&mut self, sent: &[u8]) {
        if let Some(tunnel) = self.tunnel() {
            tunnel.follow(sent);
        }
    }

    /// Ends a WebSocket with the gateway: with a Close frame, where the last frame of the server is
    /// whole.
    fn poll_going_away(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(tunnel) = self.tunnel() else { return Poll::Pending };
        ready!(tunnel.poll_end(cx));
        if let (Some(frame), Some(io)) = (tunnel.take_close_frame(), &mut self.io) {
            // Four bytes fit in at once, unless the client has taken nothing for long.
            let _sent_or_full = Pin::new(io).poll_write(cx, &frame);
        }
        Poll::Ready(self.watch().fail(ExchangeEnd::GoingAway, io::ErrorKind::ConnectionAborted))
    }

    /// Whether the client may be sending: what reaches a closed socket makes the kernel send a
    /// reset, which can destroy a response that is still on its way.
    fn may_be_sent_to(&self) -> bool {
        self.wrote && !self.eof
    }
}

impl Drop for RequestConnection {
    fn drop(&mut self) {
        if self.io.is_none() {
            return;
        }
        let answer = self.watch().take_answer().filter(|_| !self.wrote);
        if self.resets
            && let Some(io) = self.io.take()
        {
            socket::reset(io);
            return;
        }
        if !self.may_be_sent_to() && answer.is_none() {
            return;
        }
        if let (Some(mut io), Ok(runtime)) = (self.io.take(), tokio::runtime::Handle::try_current()) {
            let limits = *self.watch().limits();
            let (guard, tunnel) = (self.guard.clone(), self.tunnel.take());
            runtime.spawn(async move {
                if let Some(answer) = answer {
                    let _taken_or_gone = timeout(limits.write_stall, io.write_all(&answer_bytes(&answer))).await;
                }
                linger(io, limits.drain_bytes, limits.drain_time).await;
                drop((guard, tunnel));
            });
        }
    }
}

impl AsyncRead for RequestConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.clock.state().attend();
        if let Poll::Ready(error) = this.poll_going_away(cx) {
            return Poll::Ready(Err(error));
        }
        match this.allowance(buf.remaining()) {
            _ if this.watch().is_held() => this.poll_hold(cx),
            0 => this.poll_hold(cx),
            allowed => match this.poll_turn(cx) {
                Poll::Ready(Ok(RequestTurn::Give)) => {
                    let given = this.poll_body(cx, buf, allowed);
                    if given.is_ready() {
                        this.watch().leave_unattended();
                    }
                    given
                }
                Poll::Ready(Ok(RequestTurn::Gone)) => Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl AsyncWrite for RequestConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_open()?;
        let result = Pin::new(this.io()?).poll_write(cx, buf);
        if let Poll::Ready(Ok(len)) = result {
            this.follow(buf.get(..len).unwrap_or_default());
        }
        this.poll_written(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_open()?;
        let result = Pin::new(this.io()?).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut len)) = result {
            for buf in bufs {
                let sent = buf.get(..len.min(buf.len())).unwrap_or_default();
                this.follow(sent);
                len -= sent.len();
            }
        }
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

impl fmt::Debug for RequestConnection {
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
