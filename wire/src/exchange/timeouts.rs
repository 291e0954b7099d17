//! The timeouts of one exchange: how long its client and its upstream may wait for each other.
//!
//! Pingora has one read timeout for all waits. So the code that moves the client's bytes bounds the
//! waits for a response head, between pieces of a body, and for a slow client. Over HTTP/1.1 that
//! is the connection ([`conn`](crate::lane::conn)), over HTTP/2 the stream (`http2/stream.rs`). It
//! reports here what arrived and what it waits for; the hooks set in the [`ExchangeState`] which
//! wait it is. The clock is read at a wait, not with every piece that moves.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::state::{ExchangeEnd, ExchangePhase, ExchangeState};
use super::timer::Timer;

/// How long a body that the client sends before `100 Continue` is held back, for the server to ask
/// for it or to respond. Clients wait as long themselves (curl: 1 s).
const CONTINUE_TIME: Duration = Duration::from_secs(1);

/// The time after which a request that was not sent on its HTTP/2 connection waits for the server
/// to allow another stream.
pub(super) const OPENING_TIME: Duration = Duration::from_millis(500);

/// The time after which a server that accepts nothing of an upload is stalled, not just slow.
const STALLED_TIME: Duration = Duration::from_secs(1);

/// The timeouts of one exchange, and the waits that are running.
#[derive(Debug)]
pub struct ExchangeTimeouts {
    state: Arc<ExchangeState>,
    timer: Timer,
    /// The start of the current silence, once noticed.
    quiet_since: Option<Instant>,
    write_blocked: Option<Instant>,
    waiting: Option<ResponseWait>,
    /// Whether this attempt was checked for a request that was not sent.
    has_checked_unopened: bool,
    /// The bytes that the server had accepted when it stopped, and when that was.
    blocked: Option<(u64, Instant)>,
    /// The time that the client has kept a reader of its body waiting, and the bytes that it sent
    /// in that time.
    body_awaited: Option<Instant>,
    body_wait: Duration,
    body_read: u64,
}

/// A wait for a response head: its attempt and its start.
#[derive(Clone, Copy, Debug)]
struct ResponseWait {
    attempt: u32,
    since: Instant,
}

impl ExchangeTimeouts {
    /// Makes the timeouts of a new exchange, with the timer of its connection.
    pub fn new(state: Arc<ExchangeState>, timer: Timer) -> Self {
        ExchangeTimeouts {
            state,
            timer,
            quiet_since: None,
            write_blocked: None,
            waiting: None,
            has_checked_unopened: false,
            blocked: None,
            body_awaited: None,
            body_wait: Duration::ZERO,
            body_read: 0,
        }
    }

    /// The state that is shared with the hooks.
    pub fn state(&self) -> &Arc<ExchangeState> {
        &self.state
    }

    /// Takes the timer, for the next exchange on the connection.
    pub fn take_timer(&mut self) -> Timer {
        std::mem::take(&mut self.timer)
    }

    /// Counts bytes of the request body that were given to the proxy.
    pub fn note_given(&mut self, len: usize) {
        self.body_read = self.body_read.saturating_add(len as u64);
    }

    /// Records a piece of the request body, after [`note_given`](Self::note_given).
    ///
    /// # Errors
    /// Returns a timeout if the client is slower than the minimum rate.
    pub fn note_came(&mut self) -> io::Result<()> {
        self.quiet_since = None;
        if let Some(since) = self.body_awaited.take() {
            self.body_wait = self.body_wait.saturating_add(since.elapsed());
        }
        let is_slow = self.state.limits().is_too_slow(self.body_read, self.body_wait);
        if is_slow && self.state.phase() == ExchangePhase::Request {
            return Err(self.state.fail(ExchangeEnd::Body, io::ErrorKind::TimedOut));
        }
        Ok(())
    }

    /// Records that the client has read a part of its response.
    pub fn note_written(&mut self) {
        self.write_blocked = None;
        self.quiet_since = None;
    }

    /// Whether the client waits for `100 Continue`. The client is not slow then: the wait is one
    /// for the response of the server.
    pub fn is_continue_awaited(&mut self) -> bool {
        let is_awaited =
            self.state.phase() == ExchangePhase::Request && self.body_read == 0 && self.state.expects_continue();
        if is_awaited {
            self.body_awaited = None;
        }
        is_awaited
    }

    /// Waits for more of the request body. Ready when the client has taken too long.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let since = *self.body_awaited.get_or_insert_with(Instant::now);
        let grace = self.state.limits().body_grace;
        match self.state.phase() {
            ExchangePhase::Request => self.poll_until(cx, since + grace, ExchangeEnd::Body),
            // An upload that stalls after the response began must not hold the upstream, unless the
            // response still flows.
            ExchangePhase::Streaming => {
                let quiet_since = self.quiet_since();
                self.poll_until(cx, quiet_since + grace, ExchangeEnd::Body)
            }
            ExchangePhase::Upgraded => self.poll_idle(cx),
        }
    }

    /// Ready when the server accepts more of the request body, or has accepted nothing for too
    /// long.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(progress) = self.state.progress() else { return Poll::Ready(Ok(())) };
        if progress.poll_room(cx).is_ready() {
            self.blocked = None;
            return Poll::Ready(Ok(()));
        }
        // A client whose body is not read is not slow.
        self.body_awaited = None;
        let taken = progress.taken();
        let since = match self.blocked {
            Some((before, since)) if before == taken => since,
            Some(_) | None => Instant::now(),
        };
        self.blocked = Some((taken, since));
        match self.state.phase() {
            ExchangePhase::Request => self.poll_until(cx, since + self.state.head(), ExchangeEnd::Head).map(Err),
            ExchangePhase::Streaming | ExchangePhase::Upgraded => {
                self.poll_until(cx, since + self.state.idle(), ExchangeEnd::Idle).map(Err)
            }
        }
    }

    /// Ready when the server has accepted nothing of the body for a while, as
    /// [`ExchangeTimeouts::poll_room`] has seen.
    pub fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((_, since)) = self.blocked else { return Poll::Pending };
        // The timer is set to the later deadline then. Moving it back to a deadline that has passed
        // would wake this task in a loop.
        if since.elapsed() >= STALLED_TIME {
            return Poll::Ready(());
        }
        self.timer.poll_until(cx, since + STALLED_TIME)
    }

    /// Ready when a client has waited long enough for `100 Continue`. RFC 9110, section 10.1.1: a
    /// server may not support it.
    pub fn poll_continue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.waiting_since() + CONTINUE_TIME;
        self.timer.poll_until(cx, deadline)
    }

    /// Ready when the response head or the next piece of its body is overdue.
    pub fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.state.phase() {
            ExchangePhase::Request => {
                let since = self.waiting_since();
                if self.state.is_over_http2() && !self.has_checked_unopened {
                    ready!(self.timer.poll_until(cx, since + OPENING_TIME.min(self.state.head())));
                    self.has_checked_unopened = true;
                    if self.state.is_unopened() {
                        return Poll::Ready(self.state.fail(ExchangeEnd::Unopened, io::ErrorKind::TimedOut));
                    }
                }
                self.poll_until(cx, since + self.state.head(), ExchangeEnd::Head)
            }
            ExchangePhase::Streaming | ExchangePhase::Upgraded => self.poll_idle(cx),
        }
    }

    /// Waits for the client to read its response. Ready when that takes too long.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let since = *self.write_blocked.get_or_insert_with(Instant::now);
        self.poll_until(cx, since + self.state.limits().write_stall, ExchangeEnd::Write)
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let quiet_since = self.quiet_since();
        self.poll_until(cx, quiet_since + self.state.idle(), ExchangeEnd::Idle)
    }

    fn quiet_since(&mut self) -> Instant {
        *self.quiet_since.get_or_insert_with(Instant::now)
    }

    fn waiting_since(&mut self) -> Instant {
        let attempt = self.state.attempt();
        match self.waiting {
            Some(waiting) if waiting.attempt == attempt => waiting.since,
            _ => {
                let since = Instant::now();
                self.waiting = Some(ResponseWait { attempt, since });
                self.has_checked_unopened = false;
                since
            }
        }
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant, end: ExchangeEnd) -> Poll<io::Error> {
        ready!(self.timer.poll_until(cx, deadline));
        Poll::Ready(self.state.fail(end, io::ErrorKind::TimedOut))
    }
}
