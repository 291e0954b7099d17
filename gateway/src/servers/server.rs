//! The state of one server: available or not.
//!
//! Two causes make a server unavailable: failed requests (it is ejected for a while, then one
//! request tests it), and failed health checks (until they succeed again). Both are stored with the
//! address, and outlive the list that contains the server.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Failures in a row that eject a server.
pub(super) const FAILURES_MAX: u32 = 5;
/// The duration of the first ejection, and the maximum.
pub(super) const EJECTION_FIRST: Duration = Duration::from_secs(1);
const EJECTION_MAX: Duration = Duration::from_secs(30);
/// The pause between handshakes after the second failed one, and the maximum.
const HANDSHAKE_PAUSE: Duration = Duration::from_millis(100);
const HANDSHAKE_PAUSE_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct UpstreamServer {
    pub(crate) address: SocketAddr,
    /// Failures in a row.
    failures: AtomicU32,
    /// The end of the ejection, in milliseconds of [`now_ms`]; 0 if the server is not ejected.
    returns_ms: AtomicU64,
    /// Ejections since the last success.
    ejections: AtomicU32,
    /// The result of health checks.
    is_unhealthy: AtomicBool,
    /// Whether the server chose HTTP/2 by ALPN when it was offered both protocols.
    chose_http2: AtomicBool,
    /// Whether the server presented a certificate that is trusted only by itself.
    is_pinned: AtomicBool,
    /// TLS handshakes that failed in a row, and the earliest time of the next one, in milliseconds
    /// of [`now_ms`].
    handshake_failures: AtomicU32,
    handshake_at_ms: AtomicU64,
}

/// The state of a server in status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerState {
    /// The server gets requests.
    Up,
    /// Requests failed.
    Ejected,
    /// Health checks fail.
    Unhealthy,
}

impl ServerState {
    pub(crate) const ALL: [ServerState; 3] = [ServerState::Up, ServerState::Ejected, ServerState::Unhealthy];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ServerState::Up => "up",
            ServerState::Ejected => "ejected",
            ServerState::Unhealthy => "unhealthy",
        }
    }
}

impl UpstreamServer {
    pub(super) fn new(address: SocketAddr) -> Self {
        UpstreamServer {
            address,
            failures: AtomicU32::new(0),
            returns_ms: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            is_unhealthy: AtomicBool::new(false),
            chose_http2: AtomicBool::new(false),
            is_pinned: AtomicBool::new(false),
            handshake_failures: AtomicU32::new(0),
            handshake_at_ms: AtomicU64::new(0),
        }
    }

    /// Returns whether the server is neither ejected nor unhealthy. Costs two loads and no clock.
    pub(super) fn has_no_faults(&self) -> bool {
        self.returns_ms.load(Relaxed) == 0 && !self.is_unhealthy.load(Relaxed)
    }

    pub(crate) fn state(&self, now: u64) -> ServerState {
        if self.is_unhealthy.load(Relaxed) {
            return ServerState::Unhealthy;
        }
        match self.returns_ms.load(Relaxed) {
            0 => ServerState::Up,
            returns if now < returns => ServerState::Ejected,
            _ => ServerState::Up,
        }
    }

    pub(super) fn is_unavailable(&self, now: u64) -> bool {
        self.state(now) != ServerState::Up
    }

    /// Ends an ejection whose time is over. The next failure ejects the server again.
    pub(super) fn readmit(&self, now: u64) {
        let returns = self.returns_ms.load(Relaxed);
        // Only one of several concurrent requests resets the state.
        if returns != 0 && now >= returns && self.returns_ms.compare_exchange(returns, 0, Relaxed, Relaxed).is_ok() {
            self.failures.store(FAILURES_MAX - 1, Relaxed);
        }
    }

    pub(super) fn succeeded(&self) {
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
            self.ejections.store(0, Relaxed);
        }
    }

    /// Records a failure. Returns whether the server is to be ejected.
    pub(super) fn failed(&self) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        failures >= FAILURES_MAX && self.has_no_faults()
    }

    pub(super) fn eject(&self, now: u64) {
        let ejections = self.ejections.fetch_add(1, Relaxed);
        let time = EJECTION_FIRST.saturating_mul(1 << ejections.min(16)).min(EJECTION_MAX);
        let returns = now.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.returns_ms.store(returns, Relaxed);
    }

    pub(super) fn is_http2(&self) -> bool {
        self.chose_http2.load(Relaxed)
    }

    pub(super) fn set_http2(&self, chose_http2: bool) {
        self.chose_http2.store(chose_http2, Relaxed);
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.is_pinned.load(Relaxed)
    }

    pub(super) fn set_pinned(&self, is_pinned: bool) {
        self.is_pinned.store(is_pinned, Relaxed);
    }

    /// Records a failed TLS handshake. Repeated failures pause handshakes: each one costs both
    /// sides more than a request, and the next would fail too.
    pub(super) fn note_handshake_failure(&self, now: u64) {
        let repeated = self.handshake_failures.fetch_add(1, Relaxed);
        if repeated > 0 {
            let pause = HANDSHAKE_PAUSE.saturating_mul(1 << (repeated - 1).min(8)).min(HANDSHAKE_PAUSE_MAX);
            let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            self.handshake_at_ms.store(now.saturating_add(pause), Relaxed);
        }
    }

    /// Records a successful TLS handshake.
    pub(super) fn note_handshake(&self) {
        if self.handshake_failures.load(Relaxed) > 0 {
            self.handshake_failures.store(0, Relaxed);
            self.handshake_at_ms.store(0, Relaxed);
        }
    }

    pub(super) fn forget_handshakes(&self) {
        self.note_handshake();
        self.set_pinned(false);
        self.set_http2(false);
    }

    /// Returns whether a handshake has to wait. Costs one load unless handshakes have failed.
    pub(super) fn pauses_handshakes(&self, now: impl FnOnce() -> u64) -> bool {
        match self.handshake_at_ms.load(Relaxed) {
            0 => false,
            until => now() < until,
        }
    }

    /// Sets the result of health checks. Returns the previous one.
    pub(crate) fn set_unhealthy(&self, is_unhealthy: bool) -> bool {
        self.is_unhealthy.swap(is_unhealthy, Relaxed)
    }
}

/// Milliseconds since the first call; at least 1.
pub(crate) fn now_ms() -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    u64::try_from(BEGAN.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_handshake_failures_pause_handshakes_until_one_succeeds() {
        let server = UpstreamServer::new("127.0.0.1:1".parse().unwrap());
        let paused_until = |now: u64| (now..).find(|at| !server.pauses_handshakes(|| *at)).unwrap() - now;
        server.note_handshake_failure(1_000);
        assert_eq!(paused_until(1_000), 0, "one failure may be chance");
        for pause in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            server.note_handshake_failure(1_000);
            assert_eq!(paused_until(1_000), pause);
        }
        server.note_handshake();
        assert_eq!(paused_until(1_000), 0);
        server.note_handshake_failure(1_000);
        assert_eq!(paused_until(1_000), 0);
    }
}
