//! The clock of one exchange: how long its client and its upstream may keep each other waiting.
//!
//! Pingora has one read timeout for everything, so the waits for a response head, between pieces of a body and for a slow client are
//! bounded by whoever moves the client's bytes: over HTTP/1 its connection ([`conn`](super::conn)), over HTTP/2 its stream
//! (`http2/stream.rs`). They say here what came and what they wait for; the hooks say in the [`Watch`] which wait it is. The clock
//! is read when somebody waits, not with every piece that moves.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::waiting::Alarm;
use super::watch::{Expired, Phase, Watch};

/// The waits of one exchange.
#[derive(Debug)]
pub struct Clock {
    watch: Arc<Watch>,
    alarm: Alarm,
    /// When it was first seen that nothing moves any more.
    quiet_since: Option<Instant>,
    write_blocked: Option<Instant>,
    waiting: Option<Waiting>,
    /// Time the client has kept a reader of its body waiting, and the bytes it sent meanwhile.
    body_awaited: Option<Instant>,
    body_wait: Duration,
    body_read: u64,
}

/// A response that is being waited for: since when, and which attempt.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    attempt: u32,
    since: Instant,
}

impl Clock {
    /// Of an exchange that begins, with the timer of whoever serves it.
    pub fn new(watch: Arc<Watch>, alarm: Alarm) -> Self {
        Clock {
            watch,
            alarm,
            quiet_since: None,
            write_blocked: None,
            waiting: None,
            body_awaited: None,
            body_wait: Duration::ZERO,
            body_read: 0,
        }
    }

    /// What it shares with the hooks.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// The timer, for the next exchange.
    pub fn take_alarm(&mut self) -> Alarm {
        std::mem::take(&mut self.alarm)
    }

    /// So many bytes of the request's body were given out.
    pub fn note_given(&mut self, len: usize) {
        self.body_read = self.body_read.saturating_add(len as u64);
    }

    /// A piece of the request's body came from the client, and has been noted as given out.
    ///
    /// # Errors
    /// The client is too slow.
    pub fn note_came(&mut self) -> io::Result<()> {
        self.quiet_since = None;
        if let Some(since) = self.body_awaited.take() {
            self.body_wait = self.body_wait.saturating_add(since.elapsed());
        }
        let limits = self.watch.limits();
        let owed = limits.body_rate_min as f64 * self.body_wait.as_secs_f64();
        let is_slow = self.body_wait > limits.body_grace && (self.body_read as f64) < owed;
        if is_slow && self.watch.phase() == Phase::Request {
            return Err(self.watch.fail(Expired::Body, io::ErrorKind::TimedOut));
        }
        Ok(())
    }

    /// Something of the answer was taken by the client.
    pub fn note_written(&mut self) {
        self.write_blocked = None;
        self.quiet_since = None;
    }

    /// Whether the client waits for `100 Continue`: it is not slow then; whoever does not send it is, so that the wait is one for the
    /// response.
    pub fn is_continue_awaited(&mut self) -> bool {
        let is_awaited = self.watch.phase() == Phase::Request && self.body_read == 0 && self.watch.expects_continue();
        if is_awaited {
            self.body_awaited = None;
        }
        is_awaited
    }

    /// More of the request's body is waited for; ready when that has been too long.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let since = *self.body_awaited.get_or_insert_with(Instant::now);
        let grace = self.watch.limits().body_grace;
        match self.watch.phase() {
            Phase::Request => self.poll_until(cx, since + grace, Expired::Body),
            // An upload that stopped after the answer began must not hold the upstream, unless the answer still flows.
            Phase::Streaming => {
                let quiet_since = self.quiet_since();
                self.poll_until(cx, quiet_since + grace, Expired::Body)
            }
            Phase::Upgraded => self.poll_idle(cx),
        }
    }

    /// Ready when the response head, or the next piece of its body, is overdue.
    pub fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.watch.phase() {
            Phase::Request => {
                let deadline = self.waiting_since() + self.watch.head();
                self.poll_until(cx, deadline, Expired::Head)
            }
            Phase::Streaming | Phase::Upgraded => self.poll_idle(cx),
        }
    }

    /// The client takes nothing of its answer; ready when that has been too long.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let since = *self.write_blocked.get_or_insert_with(Instant::now);
        self.poll_until(cx, since + self.watch.limits().write_stall, Expired::Write)
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let quiet_since = self.quiet_since();
        self.poll_until(cx, quiet_since + self.watch.idle(), Expired::Idle)
    }

    fn quiet_since(&mut self) -> Instant {
        *self.quiet_since.get_or_insert_with(Instant::now)
    }

    fn waiting_since(&mut self) -> Instant {
        let attempt = self.watch.attempt();
        match self.waiting {
            Some(waiting) if waiting.attempt == attempt => waiting.since,
            _ => {
                let since = Instant::now();
                self.waiting = Some(Waiting { attempt, since });
                since
            }
        }
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant, expired: Expired) -> Poll<io::Error> {
        ready!(self.alarm.poll_until(cx, deadline));
        Poll::Ready(self.watch.fail(expired, io::ErrorKind::TimedOut))
    }
}
