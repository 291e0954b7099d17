//! What the proxy's hooks and the connection tell each other about one exchange.
//!
//! The hooks know which upstream answers and when its response head came; the connection knows when
//! bytes move. The connection asks here which wait it is in and how long that may last, and leaves
//! here which limit it hit, so that the error answer can say 408 or 504. Plain atomics: both sides
//! live in one task, the type only has to cross threads with it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::tls::Shown;

/// The limits of an exchange that no upstream changes. DESIGN, section Limits.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeLimits {
    /// A client that sends a body may be silent this long, and is held to the rate after it.
    pub body_grace: Duration,
    /// Bytes a second, averaged over the time spent waiting for the client.
    pub body_rate_min: u64,
    /// A client that takes none of its response this long is cut.
    pub write_stall: Duration,
    /// Unread request bytes read and dropped after an answer, before the connection closes.
    pub drain_bytes: u64,
    /// The time that may take.
    pub drain_time: Duration,
}

/// Where an exchange stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The request is being read, or its response head is awaited.
    Request,
    /// The response's body is on its way.
    Streaming,
    /// Switched to another protocol.
    Upgraded,
}

/// What ended an exchange: a limit that it hit, or a body that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// The client sent its body too slowly.
    Body,
    /// The upstream sent no response head in time.
    Head,
    /// Nothing moved for too long after the response head.
    Idle,
    /// The client did not take its response.
    Write,
    /// What the client sent as a body is none.
    Malformed,
}

impl Expired {
    /// The name of the limit, for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Expired::Body => "request body too slow",
            Expired::Head => "no response head in time",
            Expired::Idle => "exchange idle for too long",
            Expired::Write => "response not taken by the client",
            Expired::Malformed => "request body is not chunked as announced",
        }
    }
}

/// Shared state of one exchange.
#[derive(Debug)]
pub struct Watch {
    limits: ExchangeLimits,
    peer: Option<SocketAddr>,
    listener: usize,
    shown: Option<Arc<Shown>>,
    phase: AtomicU8,
    attempt: AtomicU32,
    head_ms: AtomicU64,
    idle_ms: AtomicU64,
    expired: AtomicU8,
    seen: AtomicBool,
    expects_continue: AtomicBool,
    over_http2: AtomicBool,
    attended: AtomicBool,
    is_held: AtomicBool,
}

impl Watch {
    /// A fresh exchange with the client at `peer`, on the listener of that index.
    pub fn new(limits: ExchangeLimits, peer: Option<SocketAddr>, listener: usize) -> Self {
        Watch {
            limits,
            peer,
            listener,
            shown: None,
            phase: AtomicU8::new(0),
            attempt: AtomicU32::new(0),
            head_ms: AtomicU64::new(0),
            idle_ms: AtomicU64::new(0),
            expired: AtomicU8::new(0),
            seen: AtomicBool::new(false),
            expects_continue: AtomicBool::new(false),
            over_http2: AtomicBool::new(false),
            attended: AtomicBool::new(false),
            is_held: AtomicBool::new(false),
        }
    }

    /// The same over TLS, to a client that was shown a certificate; nothing changes where it was shown none.
    #[must_use]
    pub fn over(self, shown: Option<Arc<Shown>>) -> Self {
        Watch { shown, ..self }
    }

    /// The limits that hold for it.
    pub fn limits(&self) -> &ExchangeLimits {
        &self.limits
    }

    /// The client's address.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The index of the listener that accepted it.
    pub fn listener(&self) -> usize {
        self.listener
    }

    /// The certificate that the client was shown, over TLS.
    pub fn shown(&self) -> Option<&Shown> {
        self.shown.as_deref()
    }

    /// The proxy's hooks have taken the request: its answer is theirs to count.
    pub fn mark_seen(&self) {
        self.seen.store(true, Relaxed);
    }

    /// Whether any hook saw the request. One that Pingora refuses while parsing is never seen.
    pub fn was_seen(&self) -> bool {
        self.seen.load(Relaxed)
    }

    /// An attempt at an upstream begins: how long its head, and then its silence, may last.
    pub fn begin_attempt(&self, head: Duration, idle: Duration) {
        self.head_ms.store(millis(head), Relaxed);
        self.set_idle(idle);
        self.over_http2.store(false, Relaxed);
        self.attempt.fetch_add(1, Relaxed);
    }

    /// The attempt goes out over HTTP/2.
    pub fn go_over_http2(&self) {
        self.over_http2.store(true, Relaxed);
    }

    /// Whether it does.
    pub fn is_over_http2(&self) -> bool {
        self.over_http2.load(Relaxed)
    }

    /// The client's connection is looked at.
    pub fn attend(&self) {
        self.attended.store(true, Relaxed);
    }

    /// Whether it was since it was last asked.
    pub fn was_attended(&self) -> bool {
        self.attended.swap(false, Relaxed)
    }

    /// How long it need not be looked at, where it is not always: while a piece of an upload is written, which has the time for the
    /// head, and once more until it is known that the upload has failed.
    pub fn unattended_max(&self) -> Option<Duration> {
        let max = || match self.phase() {
            Phase::Request => self.head() * 2,
            Phase::Streaming | Phase::Upgraded => self.idle(),
        };
        self.is_over_http2().then(max)
    }

    /// Number of attempts begun.
    pub fn attempt(&self) -> u32 {
        self.attempt.load(Relaxed)
    }

    /// Changes how long nothing may move after the response head.
    pub fn set_idle(&self, idle: Duration) {
        self.idle_ms.store(millis(idle), Relaxed);
    }

    /// The final response head has come.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// Where the exchange stands.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Request,
            1 => Phase::Streaming,
            _ => Phase::Upgraded,
        }
    }

    /// How long the response head may take.
    pub fn head(&self) -> Duration {
        Duration::from_millis(self.head_ms.load(Relaxed))
    }

    /// How long nothing may move after the response head.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms.load(Relaxed))
    }

    /// Leaves word of what ends the exchange, and makes the error that does.
    pub fn fail(&self, expired: Expired, kind: io::ErrorKind) -> io::Error {
        self.expired.store(expired as u8 + 1, Relaxed);
        io::Error::new(kind, expired.as_str())
    }

    /// The client waits for `100 Continue` before it sends its body.
    pub fn expect_continue(&self) {
        self.expects_continue.store(true, Relaxed);
    }

    /// It has been asked for its body.
    pub fn continued(&self) {
        self.expects_continue.store(false, Relaxed);
    }

    /// Whether it waits.
    pub fn expects_continue(&self) -> bool {
        self.expects_continue.load(Relaxed)
    }

    /// While the request waits for its upstream nothing of its body is given out: a read only tells that the client has gone.
    pub fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Relaxed);
    }

    /// Whether the request waits so.
    pub fn is_held(&self) -> bool {
        self.is_held.load(Relaxed)
    }

    /// The limit that was hit, if any.
    pub fn expired(&self) -> Option<Expired> {
        match self.expired.load(Relaxed) {
            0 => None,
            1 => Some(Expired::Body),
            2 => Some(Expired::Head),
            3 => Some(Expired::Idle),
            4 => Some(Expired::Write),
            _ => Some(Expired::Malformed),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
