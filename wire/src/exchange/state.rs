//! The shared state of one exchange, between the proxy's hooks and the client's connection.
//!
//! The hooks set which upstream responds and when its response head arrived. The connection, which
//! moves the bytes, reads here which wait it is in and how long that may last. It records which
//! limit it hit, so that the error response can be 408 or 504. The fields are plain atomics: both
//! sides run in one task, and the type only has to move between threads with it.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::Context;
use std::time::Duration;

use parking_lot::Mutex;

use super::EdgeAnswer;
use super::{RequestProgress, SentBytes};
use crate::tls::ServedCertificate;

/// The limits of an exchange that do not depend on its upstream.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeLimits {
    /// The time that a client may be silent in its body. After it, the minimum rate applies.
    pub body_grace: Duration,
    /// The minimum rate in bytes per second, averaged over the time spent waiting for the client.
    pub body_rate_min: u64,
    /// The time after which a client that reads nothing of its response is disconnected.
    pub write_stall: Duration,
    /// The most request bytes that are read and dropped after a response, before the connection
    /// closes.
    pub drain_bytes: u64,
    /// The longest time for reading and dropping them.
    pub drain_time: Duration,
}

impl ExchangeLimits {
    /// Whether a client that sent so many bytes of its body, and was waited for so long, is slower
    /// than the minimum rate.
    pub fn is_too_slow(&self, read_len: u64, waited: Duration) -> bool {
        let owed = self.body_rate_min as f64 * waited.as_secs_f64();
        waited > self.body_grace && (read_len as f64) < owed
    }
}

/// The phase of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangePhase {
    /// The gateway reads the request or waits for the response head.
    Request,
    /// The response body is being sent.
    Streaming,
    /// The connection has switched to another protocol.
    Upgraded,
}

/// The limit or error that ended an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeEnd {
    Body,
    Head,
    Idle,
    Write,
    /// The request body is not valid chunked coding.
    Malformed,
    /// The gateway stopped, and closed the tunnel.
    GoingAway,
    /// The server allows no further stream on this connection.
    Unopened,
}

impl ExchangeEnd {
    /// The text of the error, for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            ExchangeEnd::Body => "request body too slow",
            ExchangeEnd::Head => "no response head in time",
            ExchangeEnd::Idle => "exchange idle for too long",
            ExchangeEnd::Write => "response not read by the client",
            ExchangeEnd::Malformed => "request body is not chunked as announced",
            ExchangeEnd::GoingAway => "tunnel closed by the stop of the gateway",
            ExchangeEnd::Unopened => "server allows no further stream",
        }
    }
}

/// Checks whether a client has gone, and registers the task to be woken when it goes, if possible.
pub type ClientProbe = Box<dyn FnMut(&mut Context<'_>) -> bool + Send>;

/// The cause for dropping an exchange before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbandonCause {
    ClientGone,
    /// The server has accepted or sent nothing for too long.
    Overdue,
    /// The server allows no further stream on this connection.
    Unopened,
}

#[derive(Debug)]
pub struct ExchangeState {
    limits: ExchangeLimits,
    peer: Option<SocketAddr>,
    listener: usize,
    shown: Option<Arc<ServedCertificate>>,
    phase: AtomicU8,
    attempt: AtomicU32,
    head_ms: AtomicU64,
    idle_ms: AtomicU64,
    end: AtomicU8,
    is_seen: AtomicBool,
    expects_continue: AtomicBool,
    over_http2: AtomicBool,
    attended: AtomicBool,
    is_held: AtomicBool,
    progress: Mutex<Option<Arc<RequestProgress>>>,
    sent_before: Mutex<Option<SentBytes>>,
    unattended: Mutex<UnattendedClient>,
    /// What the gateway found of a request that the direct exchange declined.
    declined: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The state of a client while its exchange does not watch it.
#[derive(Default)]
struct UnattendedClient {
    probe: Option<ClientProbe>,
    abandoned: Option<AbandonCause>,
    answer: Option<EdgeAnswer>,
}

impl fmt::Debug for UnattendedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnattendedClient").field("abandoned", &self.abandoned).finish_non_exhaustive()
    }
}

impl ExchangeState {
    /// Makes the state of an exchange with the client at `peer`, on the listener of that index.
    pub fn new(limits: ExchangeLimits, peer: Option<SocketAddr>, listener: usize) -> Self {
        ExchangeState {
            limits,
            peer,
            listener,
            shown: None,
            phase: AtomicU8::new(0),
            attempt: AtomicU32::new(0),
            head_ms: AtomicU64::new(0),
            idle_ms: AtomicU64::new(0),
            end: AtomicU8::new(0),
            is_seen: AtomicBool::new(false),
            expects_continue: AtomicBool::new(false),
            over_http2: AtomicBool::new(false),
            attended: AtomicBool::new(false),
            is_held: AtomicBool::new(false),
            progress: Mutex::new(None),
            sent_before: Mutex::new(None),
            unattended: Mutex::default(),
            declined: Mutex::new(None),
        }
    }

    /// Adds the certificate that the client received over TLS; `None` without TLS.
    #[must_use]
    pub fn with_certificate(self, shown: Option<Arc<ServedCertificate>>) -> Self {
        ExchangeState { shown, ..self }
    }

    pub fn limits(&self) -> &ExchangeLimits {
        &self.limits
    }

    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The index of the listener that accepted the client.
    pub fn listener(&self) -> usize {
        self.listener
    }

    /// The certificate that the client received over TLS.
    pub fn certificate(&self) -> Option<&ServedCertificate> {
        self.shown.as_deref()
    }

    /// Records that the proxy's hooks have the request, and will count its response.
    pub fn mark_seen(&self) {
        self.is_seen.store(true, Relaxed);
    }

    /// Whether any hook saw the request. Requests that Pingora refuses while parsing are never
    /// seen.
    pub fn is_seen(&self) -> bool {
        self.is_seen.load(Relaxed)
    }

    /// Begins an attempt at an upstream, with the limits for its response head and for its silence
    /// after it.
    pub fn begin_attempt(&self, head: Duration, idle: Duration) {
        self.head_ms.store(millis(head), Relaxed);
        self.set_idle(idle);
        if self.attempt.fetch_add(1, Relaxed) > 0 {
            self.over_http2.store(false, Relaxed);
            *self.progress.lock() = None;
            *self.sent_before.lock() = None;
            self.end.store(0, Relaxed);
        }
    }

    /// Marks the attempt as one over HTTP/1.1.
    pub fn set_progress(&self, progress: Arc<RequestProgress>) {
        *self.progress.lock() = Some(progress);
    }

    /// The progress of the request to a server over HTTP/1.1.
    pub fn progress(&self) -> Option<Arc<RequestProgress>> {
        self.progress.lock().clone()
    }

    /// Marks the attempt as one over HTTP/2.
    pub fn set_http2(&self) {
        self.over_http2.store(true, Relaxed);
    }

    /// Whether the attempt is over HTTP/2.
    pub fn is_over_http2(&self) -> bool {
        self.over_http2.load(Relaxed)
    }

    /// Sets the bytes that the request's HTTP/2 connection had sent before it.
    pub fn set_sent_before(&self, sent: Option<SentBytes>) {
        *self.sent_before.lock() = sent;
    }

    /// Whether the request was not sent on its HTTP/2 connection and is given up there. Queries the
    /// kernel, and may end the connection.
    pub fn is_unopened(&self) -> bool {
        self.phase() == ExchangePhase::Request && self.sent_before.lock().as_ref().is_some_and(SentBytes::give_up)
    }

    /// Records that the client's connection is polled, so that its end and its timeout will be
    /// noticed.
    pub fn attend(&self) {
        self.attended.store(true, Relaxed);
    }

    /// Records that the client's connection is not polled: a piece of its body is to be forwarded
    /// first, or it was not read.
    pub fn leave_unattended(&self) {
        self.attended.store(false, Relaxed);
    }

    /// Whether the client's connection is polled.
    pub fn is_attended(&self) -> bool {
        self.attended.load(Relaxed)
    }

    /// The longest time without polling the client. `None` over HTTP/1.1, where the client is
    /// always polled.
    pub fn unattended_max(&self) -> Option<Duration> {
        let max = || match self.phase() {
            ExchangePhase::Request => self.head(),
            ExchangePhase::Streaming | ExchangePhase::Upgraded => self.idle(),
        };
        self.is_over_http2().then(max)
    }

    /// Sets the check for a client that is unattended.
    pub fn set_probe(&self, probe: ClientProbe) {
        self.unattended.lock().probe = Some(probe);
    }

    /// Whether the client has gone, as far as the probe can detect it.
    pub fn is_client_gone(&self, cx: &mut Context<'_>) -> bool {
        self.unattended.lock().probe.as_mut().is_some_and(|probe| probe(cx))
    }

    /// Records that the exchange is dropped, for this cause.
    pub fn abandon(&self, cause: AbandonCause) {
        self.unattended.lock().abandoned = Some(cause);
    }

    /// The cause for which the exchange is dropped, if it is.
    pub fn abandoned(&self) -> Option<AbandonCause> {
        self.unattended.lock().abandoned
    }

    /// Leaves a response to a dropped exchange, for the client's side to send.
    pub fn leave_answer(&self, answer: EdgeAnswer) {
        self.unattended.lock().answer = Some(answer);
    }

    /// Takes the response that was left.
    pub fn take_answer(&self) -> Option<EdgeAnswer> {
        self.unattended.lock().answer.take()
    }

    /// Leaves what was found of a request that the direct exchange declined, for the proxy's hooks.
    pub fn decline(&self, found: Box<dyn Any + Send>) {
        *self.declined.lock() = Some(found);
    }

    /// Takes what was found before the direct exchange declined the request.
    pub fn take_declined(&self) -> Option<Box<dyn Any + Send>> {
        self.declined.lock().take()
    }

    /// The number of attempts begun.
    pub fn attempt(&self) -> u32 {
        self.attempt.load(Relaxed)
    }

    /// Sets the idle timeout after the response head.
    pub fn set_idle(&self, idle: Duration) {
        self.idle_ms.store(millis(idle), Relaxed);
    }

    /// Enters a phase, when the final response head has come.
    pub fn enter(&self, phase: ExchangePhase) {
        self.phase.store(phase as u8, Relaxed);
    }

    pub fn phase(&self) -> ExchangePhase {
        match self.phase.load(Relaxed) {
            0 => ExchangePhase::Request,
            1 => ExchangePhase::Streaming,
            _ => ExchangePhase::Upgraded,
        }
    }

    /// The timeout for the response head.
    pub fn head(&self) -> Duration {
        Duration::from_millis(self.head_ms.load(Relaxed))
    }

    /// The idle timeout after the response head.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms.load(Relaxed))
    }

    /// Records what ends the exchange, and makes the error for it.
    pub fn fail(&self, end: ExchangeEnd, kind: io::ErrorKind) -> io::Error {
        self.end.store(end as u8 + 1, Relaxed);
        io::Error::new(kind, end.as_str())
    }

    /// Records that the client waits for `100 Continue` before it sends its body.
    pub fn expect_continue(&self) {
        self.expects_continue.store(true, Relaxed);
    }

    /// Records that the client waits no longer.
    pub fn stop_expecting_continue(&self) {
        self.expects_continue.store(false, Relaxed);
    }

    /// Whether the client waits for `100 Continue`.
    pub fn expects_continue(&self) -> bool {
        self.expects_continue.load(Relaxed)
    }

    /// Holds the request body while the request waits for its upstream. A read then only detects
    /// that the client has gone.
    pub fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Relaxed);
    }

    /// Whether the request body is held.
    pub fn is_held(&self) -> bool {
        self.is_held.load(Relaxed)
    }

    /// The limit or error that ended the attempt, if any.
    pub fn end(&self) -> Option<ExchangeEnd> {
        match self.end.load(Relaxed) {
            0 => None,
            1 => Some(ExchangeEnd::Body),
            2 => Some(ExchangeEnd::Head),
            3 => Some(ExchangeEnd::Idle),
            4 => Some(ExchangeEnd::Write),
            5 => Some(ExchangeEnd::Malformed),
            6 => Some(ExchangeEnd::GoingAway),
            _ => Some(ExchangeEnd::Unopened),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
