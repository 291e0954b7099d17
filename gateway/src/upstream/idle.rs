//! Connections to the servers of one upstream that wait for their next request.
//!
//! Each worker puts connections into a slot of its own and looks there first, then into the others:
//! the runtime moves tasks between workers. No lock is waited for. While there are connections, a
//! task looks at them every second and closes those whose time is over or that the server has
//! ended. All upstreams together keep no more than [`DescriptorShares::idle_upstream`].

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::io::Io;
use crate::descriptors::DescriptorShares;
use crossgate_telemetry::thread_number;
use crossgate_wire::exchange::direct::ConnectionReuse;

/// More would only be more to look through: workers that share a slot are in each other's way
/// rarely.
const SLOTS_MAX: usize = 32;
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// A server that says how long it keeps a connection is believed up to this much less: its answer
/// was on its way for a while.
const SAFETY_MARGIN: Duration = Duration::from_secs(1);

/// Kept connections.
#[derive(Debug)]
pub(super) struct IdleConnections {
    slots: Box<[Mutex<Vec<IdleConnection>>]>,
    is_swept: AtomicBool,
}

#[derive(Debug)]
struct IdleConnection {
    server: SocketAddr,
    io: Io,
    expires_at: Instant,
    _counted: Counted,
}

/// One of the connections that all upstreams may keep, until dropped.
#[derive(Debug)]
struct Counted;

static KEPT: AtomicUsize = AtomicUsize::new(0);

impl Counted {
    fn new() -> Option<Self> {
        static KEPT_MAX: OnceLock<usize> = OnceLock::new();
        let max = *KEPT_MAX.get_or_init(|| DescriptorShares::from_current_limit().idle_upstream);
        let one_more = |kept| (kept < max).then_some(kept + 1);
        KEPT.fetch_update(Relaxed, Relaxed, one_more).ok().map(|_| Counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        KEPT.fetch_sub(1, Relaxed);
    }
}

impl IdleConnections {
    pub(super) fn new() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(SLOTS_MAX);
        IdleConnections { slots: (0..workers).map(|_| Mutex::default()).collect(), is_swept: AtomicBool::new(false) }
    }

    /// A connection to this server that was used last and is still good. The kernel is asked as
    /// well: the event loop may not know yet of an end, of a late `408`, or of bytes that a server
    /// has sent behind its last response, which would be the next response.
    pub(super) fn take(&self, server: SocketAddr, now: Instant) -> Option<Io> {
        let own = thread_number::worker_number() % self.slots.len().max(1);
        for slot in self.slots.iter().cycle().skip(own).take(self.slots.len()) {
            let Some(mut connections) = slot.try_lock() else { continue };
            while let Some(at) = connections.iter().rposition(|kept| kept.server == server) {
                let mut kept = connections.remove(at);
                if kept.expires_at > now && kept.io.is_quiet_in_kernel() {
                    return Some(kept.io);
                }
            }
        }
        None
    }

    /// Keeps a connection whose request is over, for `keep` or as long as the server keeps it. What
    /// the server sends on it is found when it is taken, or by the next sweep.
    pub(super) fn put(
        self: &Arc<Self>,
        server: SocketAddr,
        io: Io,
        keep: Duration,
        reuse: ConnectionReuse,
        now: Instant,
    ) {
        let said = reuse.keep_alive_s.map(Duration::from_secs);
        let keep = said.map_or(keep, |said| keep.min(said.saturating_sub(SAFETY_MARGIN)));
        if keep.is_zero() {
            return;
        }
        let own = thread_number::worker_number() % self.slots.len().max(1);
        let Some(mut connections) = self.slots.get(own).and_then(Mutex::try_lock) else { return };
        let counted = Counted::new().or_else(|| {
            // The one of its own that was used longest ago makes room.
            (!connections.is_empty()).then(|| connections.remove(0)).and_then(|oldest| {
                drop(oldest);
                Counted::new()
            })
        });
        let Some(counted) = counted else { return };
        connections.push(IdleConnection { server, io, expires_at: now + keep, _counted: counted });
        drop(connections);
        self.sweep_later();
    }

    fn sweep_later(self: &Arc<Self>) {
        if self.is_swept.swap(true, Relaxed) {
            return;
        }
        let weak = Arc::downgrade(self);
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(sweep(weak))),
            Err(_) => self.is_swept.store(false, Relaxed),
        }
    }

    /// Closes what is not to be kept any longer; whether something is left.
    fn close_expired(&self) -> bool {
        let now = Instant::now();
        let mut is_left = false;
        for slot in &self.slots {
            let mut connections = slot.lock();
            connections.retain_mut(|kept| kept.expires_at > now && kept.io.is_quiet());
            // A burst is not to hold its memory for good.
            connections.shrink_to(16);
            is_left |= !connections.is_empty();
        }
        is_left
    }
}

async fn sweep(connections: Weak<IdleConnections>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(connections) = connections.upgrade() else { return };
        if !connections.close_expired() {
            connections.is_swept.store(false, Relaxed);
            // One that came after the look has found the mark set.
            if !connections.close_expired() || connections.is_swept.swap(true, Relaxed) {
                return;
            }
        }
    }
}
