//! One server: whether it takes requests.
//!
//! Two things leave a server out: requests that failed there (for a while, then one is let in to see), and health checks that did
//! (until they succeed again). Both are kept beside its address, and outlive the list that the server stands in.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Failures in a row that put a server out.
pub(super) const FAILURES_MAX: u32 = 5;
/// How long the first time, and how long at most.
pub(super) const OUT_FIRST: Duration = Duration::from_secs(1);
const OUT_MAX: Duration = Duration::from_secs(30);

/// A server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// In a row.
    failures: AtomicU32,
    /// When it returns, in milliseconds of [`now_ms`]; 0 while it is in.
    returns_ms: AtomicU64,
    /// How often it was put out since its last success.
    times: AtomicU32,
    /// What its checks say.
    is_unhealthy: AtomicBool,
}

/// Where a server stands, for those who look at it from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has its turns.
    Up,
    /// Requests failed there.
    Ejected,
    /// Checks fail there.
    Unhealthy,
}

impl Standing {
    pub(crate) const ALL: [Standing; 3] = [Standing::Up, Standing::Ejected, Standing::Unhealthy];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Standing::Up => "up",
            Standing::Ejected => "ejected",
            Standing::Unhealthy => "unhealthy",
        }
    }
}

impl Server {
    pub(super) fn new(address: SocketAddr) -> Self {
        Server {
            address,
            failures: AtomicU32::new(0),
            returns_ms: AtomicU64::new(0),
            times: AtomicU32::new(0),
            is_unhealthy: AtomicBool::new(false),
        }
    }

    /// Whether nothing was ever wrong with it, or all that was is over: two loads, no clock.
    pub(super) fn is_plain(&self) -> bool {
        self.returns_ms.load(Relaxed) == 0 && !self.is_unhealthy.load(Relaxed)
    }

    pub(crate) fn standing(&self, now: u64) -> Standing {
        if self.is_unhealthy.load(Relaxed) {
            return Standing::Unhealthy;
        }
        match self.returns_ms.load(Relaxed) {
            0 => Standing::Up,
            returns if now < returns => Standing::Ejected,
            _ => Standing::Up,
        }
    }

    pub(super) fn is_out(&self, now: u64) -> bool {
        self.standing(now) != Standing::Up
    }

    /// It is asked now. One whose time is over is in again, and out at its first failure.
    pub(super) fn let_in(&self, now: u64) {
        let returns = self.returns_ms.load(Relaxed);
        // One of those who see it does.
        if returns != 0 && now >= returns && self.returns_ms.compare_exchange(returns, 0, Relaxed, Relaxed).is_ok() {
            self.failures.store(FAILURES_MAX - 1, Relaxed);
        }
    }

    pub(super) fn succeeded(&self) {
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
            self.times.store(0, Relaxed);
        }
    }

    /// Whether it has failed often enough to be put out.
    pub(super) fn failed(&self) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        failures >= FAILURES_MAX && self.is_plain()
    }

    pub(super) fn put_out(&self, now: u64) {
        let times = self.times.fetch_add(1, Relaxed);
        let time = OUT_FIRST.saturating_mul(1 << times.min(16)).min(OUT_MAX);
        let returns = now.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.returns_ms.store(returns, Relaxed);
    }

    /// Whether its checks called it unhealthy before.
    pub(crate) fn set_unhealthy(&self, is_unhealthy: bool) -> bool {
        self.is_unhealthy.swap(is_unhealthy, Relaxed)
    }
}

/// Milliseconds, counted from the first call; at least 1.
pub(crate) fn now_ms() -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    u64::try_from(BEGAN.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}
