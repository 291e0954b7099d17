//! The servers of an upstream, of which those that fail are left out for a while.
//!
//! Five failures in a row without a success between them, and a server is out for a second; each time it fails again on its return for
//! twice as long, half a minute at most. Never more than half of the servers are out, and never the only one: when most fail, it is not
//! they who are wrong. Who returns is asked by one request like any other, and is out again at its first failure. As long as nobody fails,
//! a request writes nothing here. Absent on purpose: clocks on the way of a request while nobody is out.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::UpstreamCounters;

/// Failures in a row that put a server out.
const FAILURES_MAX: u32 = 5;
/// How long the first time, and how long at most.
const OUT_FIRST: Duration = Duration::from_secs(1);
const OUT_MAX: Duration = Duration::from_secs(30);

/// The servers.
pub struct Servers {
    all: Box<[Server]>,
    out: AtomicUsize,
    counters: Arc<UpstreamCounters>,
}

struct Server {
    address: SocketAddr,
    /// In a row.
    failures: AtomicU32,
    /// Milliseconds of [`now_ms`] at which it returns; 0 while it is in.
    returns_ms: AtomicU64,
    /// How often it was put out since its last success.
    times: AtomicU32,
}

/// A server that was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Where it is.
    pub address: SocketAddr,
    index: usize,
}

impl Servers {
    pub(crate) fn new(addresses: &[SocketAddr], counters: Arc<UpstreamCounters>) -> Self {
        let server = |address: &SocketAddr| Server {
            address: *address,
            failures: AtomicU32::new(0),
            returns_ms: AtomicU64::new(0),
            times: AtomicU32::new(0),
        };
        Servers { all: addresses.iter().map(server).collect(), out: AtomicUsize::new(0), counters }
    }

    /// The server whose turn it is, or the next one that is in. `None` where there are no servers.
    pub fn pick(&self, turn: usize) -> Option<Picked> {
        let mut order = (0..self.all.len()).filter_map(|step| {
            let index = turn.wrapping_add(step).checked_rem(self.all.len())?;
            self.all.get(index).map(|server| (index, server))
        });
        let picked = |(index, server): (usize, &Server)| Picked { address: server.address, index };
        if self.out.load(Relaxed) == 0 {
            return order.next().map(picked);
        }
        let now = now_ms();
        order.find(|(_, server)| self.is_in(server, now)).map(picked)
    }

    /// Whether a server is in, or back.
    fn is_in(&self, server: &Server, now: u64) -> bool {
        match server.returns_ms.load(Relaxed) {
            0 => true,
            returns if now < returns => false,
            returns => {
                // One of those who see it lets it in.
                if server.returns_ms.compare_exchange(returns, 0, Relaxed, Relaxed).is_ok() {
                    server.failures.store(FAILURES_MAX - 1, Relaxed);
                    self.out.fetch_sub(1, Relaxed);
                    self.counters.ejected.fetch_sub(1, Relaxed);
                }
                true
            }
        }
    }

    /// The server gave an answer of its own.
    pub fn succeeded(&self, picked: Picked) {
        if let Some(server) = self.all.get(picked.index).filter(|server| server.failures.load(Relaxed) > 0) {
            server.failures.store(0, Relaxed);
            server.times.store(0, Relaxed);
        }
    }

    /// It gave none, or one that says that it cannot.
    pub fn failed(&self, picked: Picked) {
        let Some(server) = self.all.get(picked.index) else { return };
        let failures = server.failures.fetch_add(1, Relaxed).saturating_add(1);
        if failures < FAILURES_MAX || server.returns_ms.load(Relaxed) != 0 {
            return;
        }
        let one_more = |out: usize| (out < self.all.len() / 2).then_some(out + 1);
        if self.out.fetch_update(Relaxed, Relaxed, one_more).is_err() {
            return;
        }
        let times = server.times.fetch_add(1, Relaxed);
        let time = OUT_FIRST.saturating_mul(1 << times.min(16)).min(OUT_MAX);
        let returns = now_ms().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        if server.returns_ms.compare_exchange(0, returns, Relaxed, Relaxed).is_ok() {
            self.counters.count_ejection();
            self.counters.ejected.fetch_add(1, Relaxed);
        } else {
            // Another request was quicker.
            self.out.fetch_sub(1, Relaxed);
        }
    }

    /// Where they are.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.all.iter().map(|server| server.address)
    }
}

/// How many requests to an upstream may be tried again: one in eight of the last ten to twenty seconds, and ten a second besides, for those
/// that are under way when a server dies. When all servers fail, a second attempt of everybody would only double what they fail under.
#[derive(Debug, Default)]
pub struct Retries(Mutex<Option<Window>>);

#[derive(Debug)]
struct Window {
    began: Instant,
    /// The upstream's requests when it began, and when the one before it did.
    requests: u64,
    requests_before: u64,
    retries: u64,
}

const RETRIES_WINDOW: Duration = Duration::from_secs(10);
const RETRIES_ALWAYS: u64 = 100;
const REQUESTS_A_RETRY: u64 = 8;

impl Retries {
    /// One retry, if there may be one more, given how many requests the upstream has had.
    pub(crate) fn take(&self, requests: u64) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = match &mut *window {
            Some(window) if window.began.elapsed() < RETRIES_WINDOW => window,
            over => {
                let recent = over.take().filter(|window| window.began.elapsed() < RETRIES_WINDOW * 2);
                let requests_before = recent.map_or(requests, |window| window.requests);
                over.insert(Window { began: Instant::now(), requests, requests_before, retries: 0 })
            }
        };
        let most = RETRIES_ALWAYS + requests.saturating_sub(window.requests_before) / REQUESTS_A_RETRY;
        let may = window.retries < most;
        window.retries += u64::from(may);
        may
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let out = u64::try_from(self.out.load(Relaxed)).unwrap_or_default();
        self.counters.ejected.fetch_sub(out, Relaxed);
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.addresses()).finish()
    }
}

/// Milliseconds, counted from the first call; at least 1.
fn now_ms() -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    u64::try_from(BEGAN.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;
    use crate::metrics::Metrics;

    fn servers(count: u16) -> Servers {
        let addresses: Vec<SocketAddr> = (0..count).map(|port| ([127, 0, 0, 1], 9_000 + port).into()).collect();
        Servers::new(&addresses, Metrics::new().upstream("a"))
    }

    /// Which servers are picked in turn.
    fn picked(servers: &Servers) -> Vec<usize> {
        (0..servers.all.len()).map(|turn| servers.pick(turn).unwrap().index).collect()
    }

    fn fail(servers: &Servers, index: usize, times: u32) {
        let server = Picked { address: servers.all[index].address, index };
        (0..times).for_each(|_| servers.failed(server));
    }

    #[test]
    fn five_failures_in_a_row_put_a_server_out_and_one_success_between_does_not() {
        let servers = servers(3);
        fail(&servers, 1, FAILURES_MAX - 1);
        servers.succeeded(servers.pick(1).unwrap());
        fail(&servers, 1, FAILURES_MAX - 1);
        assert_eq!(picked(&servers), [0, 1, 2]);
        fail(&servers, 1, 1);
        assert_eq!(picked(&servers), [0, 2, 2]);
        assert_eq!(servers.counters.ejected.load(Relaxed), 1);
    }

    #[test]
    fn never_more_than_half_and_never_the_only_one() {
        for (count, left) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
            let servers = servers(count);
            for index in 0..usize::from(count) {
                fail(&servers, index, FAILURES_MAX * 2);
            }
            let mut seen = picked(&servers);
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), left, "of {count}");
        }
        assert!(servers(0).pick(0).is_none());
    }

    #[test]
    fn a_server_returns_and_is_out_for_longer_if_it_fails_at_once() {
        let servers = servers(2);
        fail(&servers, 0, FAILURES_MAX);
        assert_eq!(picked(&servers), [1, 1]);
        sleep(OUT_FIRST + Duration::from_millis(50));
        assert_eq!(picked(&servers), [0, 1]);
        assert_eq!(servers.counters.ejected.load(Relaxed), 0);
        fail(&servers, 0, 1);
        assert_eq!(picked(&servers), [1, 1], "one failure is enough now");
        sleep(OUT_FIRST + Duration::from_millis(50));
        assert_eq!(picked(&servers), [1, 1], "and it lasts longer");
        sleep(OUT_FIRST);
        assert_eq!(picked(&servers), [0, 1]);
        servers.succeeded(servers.pick(0).unwrap());
        fail(&servers, 0, FAILURES_MAX - 1);
        assert_eq!(picked(&servers), [0, 1], "a success makes it one like any other");
    }

    #[test]
    fn one_request_in_eight_may_be_tried_again() {
        let retries = Retries::default();
        let allowed = |requests: std::ops::Range<u64>| requests.filter(|count| retries.take(*count)).count();
        assert_eq!(allowed(0..100), 100);
        assert_eq!(allowed(100..801), 100);
    }

    #[test]
    fn what_is_out_when_all_go_counts_no_more() {
        let metrics = Metrics::new();
        let counters = metrics.upstream("a");
        let two = [9_001, 9_002].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let servers = Servers::new(&two, Arc::clone(&counters));
        fail(&servers, 0, FAILURES_MAX);
        assert_eq!(counters.ejected.load(Relaxed), 1);
        drop(servers);
        assert_eq!(counters.ejected.load(Relaxed), 0);
    }
}
