//! Counters of clients' connections, and of requests refused before any tenant is known.
//!
//! A drain waits for the number of open connections, so a connection counts from its accept until
//! its socket is closed. At the end of a drain, the open tunnels are closed from here.

use std::array;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dashmap::DashMap;
use dashmap::Entry;
use tokio::sync::watch;

use super::traffic::TrafficCounters;
use super::{AcceptError, CheckResult, EarlyClose, ProxyHeaderFault};
use crossgate_telemetry::all_counts;

/// The statuses of refusals before a tenant is known, ascending. 421 is absent: those requests
/// count under tenant `none`.
const REFUSALS: [u16; 5] = [400, 405, 408, 431, 503];

/// The most clients that can get a 503 response at one time because the connection limit is
/// reached.
const REFUSALS_MAX: u64 = 32;

#[derive(Debug)]
pub struct ConnectionCounters {
    /// Bytes of the connections, and requests in flight.
    pub traffic: TrafficCounters,
    opened: AtomicU64,
    active: AtomicU64,
    /// Requests over HTTP/2 that run next to others of their connection.
    extra: AtomicU64,
    refusing: AtomicU64,
    http2: AtomicU64,
    http2_requests: AtomicU64,
    /// The open connections of each client, if these are limited.
    by_client: DashMap<IpAddr, u32>,
    closed_early: [AtomicU64; EarlyClose::ALL.len()],
    proxy_header_faults: [AtomicU64; ProxyHeaderFault::ALL.len()],
    accept_errors: [AtomicU64; AcceptError::ALL.len()],
    refusals: [AtomicU64; REFUSALS.len()],
    health_checks: [AtomicU64; CheckResult::ALL.len()],
    /// True once tunnels are to close. Every tunnel holds a receiver.
    tunnels: watch::Sender<bool>,
}

impl Default for ConnectionCounters {
    fn default() -> Self {
        ConnectionCounters {
            traffic: TrafficCounters::default(),
            opened: AtomicU64::new(0),
            active: AtomicU64::new(0),
            extra: AtomicU64::new(0),
            refusing: AtomicU64::new(0),
            http2: AtomicU64::new(0),
            http2_requests: AtomicU64::new(0),
            by_client: DashMap::new(),
            closed_early: array::from_fn(|_| AtomicU64::new(0)),
            proxy_header_faults: array::from_fn(|_| AtomicU64::new(0)),
            accept_errors: array::from_fn(|_| AtomicU64::new(0)),
            refusals: array::from_fn(|_| AtomicU64::new(0)),
            health_checks: array::from_fn(|_| AtomicU64::new(0)),
            tunnels: watch::Sender::new(false),
        }
    }
}

/// One open connection. It counts as active until it is dropped.
#[derive(Debug)]
pub struct ActiveConnection {
    connections: Arc<ConnectionCounters>,
    client: Option<IpAddr>,
}

/// One running request over HTTP/2 that counts as a connection until it is dropped.
#[derive(Debug)]
pub struct ExtraRequest(Arc<ConnectionCounters>);

/// The limits of open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// The limit for all clients.
    pub all: u64,
    /// The limit for one client, `None` for no limit.
    pub of_client: Option<u32>,
}

/// The connection limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionsFull;

/// A 503 response in progress, until it is dropped.
#[derive(Debug)]
pub struct RefusalInProgress<'a>(&'a AtomicU64);

impl ConnectionCounters {
    /// Counts a connection from `client`, unless a limit is reached. A trusted proxy counts without
    /// an address, since many clients share it.
    ///
    /// # Errors
    /// Returns [`ConnectionsFull`] if a limit is reached.
    pub fn open(
        self: &Arc<Self>,
        client: Option<IpAddr>,
        limits: ConnectionLimits,
    ) -> Result<ActiveConnection, ConnectionsFull> {
        self.opened.fetch_add(1, Relaxed);
        let client = client.map(network).filter(|_| limits.of_client.is_some());
        let open = self.active.fetch_add(1, Relaxed) + self.extra.load(Relaxed);
        if open >= limits.all || !self.has_room(client, limits) {
            self.active.fetch_sub(1, Relaxed);
            return Err(ConnectionsFull);
        }
        Ok(ActiveConnection { connections: Arc::clone(self), client })
    }

    fn has_room(&self, client: Option<IpAddr>, limits: ConnectionLimits) -> bool {
        let (Some(client), Some(max)) = (client, limits.of_client) else { return true };
        let mut open = self.by_client.entry(client).or_insert(0);
        let has_room = *open < max;
        *open += u32::from(has_room);
        has_room
    }

    /// Counts a request over HTTP/2 that begins while others of its connection run, unless the
    /// limit is reached. Such a request uses a connection to an upstream, as a connection over
    /// HTTP/1.1 does.
    ///
    /// # Errors
    /// Returns [`ConnectionsFull`] if the limit is reached.
    pub fn begin_extra(self: &Arc<Self>, limits: ConnectionLimits) -> Result<ExtraRequest, ConnectionsFull> {
        let extra = ExtraRequest(Arc::clone(self));
        let open = self.extra.fetch_add(1, Relaxed) + self.active.load(Relaxed);
        if open < limits.all { Ok(extra) } else { Err(ConnectionsFull) }
    }

    /// Begins a 503 response to a client over the limit. `None` if too many are in progress: each
    /// of them holds a connection too.
    pub fn begin_refusal(&self) -> Option<RefusalInProgress<'_>> {
        let one_more = |refusing| (refusing < REFUSALS_MAX).then_some(refusing + 1);
        self.refusing.fetch_update(Relaxed, Relaxed, one_more).is_ok().then(|| RefusalInProgress(&self.refusing))
    }

    /// The number of connections accepted so far.
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// The number of open connections.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    /// Closes all open tunnels, because the gateway stops.
    pub fn end_tunnels(&self) {
        self.tunnels.send_replace(true);
    }

    /// Whether tunnels are still open or closing.
    pub fn has_tunnels(&self) -> bool {
        self.tunnels.receiver_count() > 0
    }

    /// Counts a connection over HTTP/2.
    pub fn count_http2_connection(&self) {
        self.http2.fetch_add(1, Relaxed);
    }

    /// The number of connections over HTTP/2 so far.
    pub fn http2_connections(&self) -> u64 {
        self.http2.load(Relaxed)
    }

    pub fn count_http2_request(&self) {
        self.http2_requests.fetch_add(1, Relaxed);
    }

    /// The number of requests over HTTP/2 so far.
    pub fn http2_requests(&self) -> u64 {
        self.http2_requests.load(Relaxed)
    }

    /// Counts a connection that the gateway ended itself.
    pub fn count_early_close(&self, reason: EarlyClose) {
        if let Some(cell) = self.closed_early.get(reason as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Counts a connection that was closed for lack of a valid PROXY header.
    pub fn count_proxy_header_fault(&self, reason: ProxyHeaderFault) {
        if let Some(cell) = self.proxy_header_faults.get(reason as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Counts a failed accept, on any listener.
    pub fn count_accept_error(&self, reason: AcceptError) {
        if let Some(cell) = self.accept_errors.get(reason as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Counts a request that was refused with this status before its tenant was known. Statuses
    /// other than 400, 405, 408, 431 and 503 are ignored.
    pub fn count_refusal(&self, status: u16) {
        let cell = REFUSALS.binary_search(&status).ok().and_then(|index| self.refusals.get(index));
        if let Some(cell) = cell {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Counts a balancer's health check that a data listener answered. It does not count as a
    /// request or a refusal.
    pub fn count_health_check(&self, result: CheckResult) {
        if let Some(cell) = self.health_checks.get(result as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    pub fn health_checks(&self) -> impl Iterator<Item = (CheckResult, u64)> + '_ {
        all_counts(&CheckResult::ALL, &self.health_checks)
    }

    pub fn closed_early(&self) -> impl Iterator<Item = (EarlyClose, u64)> + '_ {
        all_counts(&EarlyClose::ALL, &self.closed_early)
    }

    pub fn proxy_header_faults(&self) -> impl Iterator<Item = (ProxyHeaderFault, u64)> + '_ {
        all_counts(&ProxyHeaderFault::ALL, &self.proxy_header_faults)
    }

    pub fn accept_errors(&self) -> impl Iterator<Item = (AcceptError, u64)> + '_ {
        all_counts(&AcceptError::ALL, &self.accept_errors)
    }

    pub fn refusals(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        all_counts(&REFUSALS, &self.refusals)
    }
}

impl ActiveConnection {
    /// The signal to close the connection as a tunnel. The tunnel counts as open until the receiver
    /// is dropped.
    pub fn tunnel_notice(&self) -> watch::Receiver<bool> {
        self.connections.tunnels.subscribe()
    }

    /// Counts the connection for `client`, who is known only after the PROXY header, unless the
    /// limit is reached.
    ///
    /// # Errors
    /// Returns [`ConnectionsFull`] if the limit is reached.
    pub fn count_client(&mut self, client: Option<IpAddr>, limits: ConnectionLimits) -> Result<(), ConnectionsFull> {
        debug_assert!(self.client.is_none(), "a connection has one client");
        let client = client.map(network).filter(|_| limits.of_client.is_some());
        if !self.connections.has_room(client, limits) {
            return Err(ConnectionsFull);
        }
        self.client = client;
        Ok(())
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        self.connections.active.fetch_sub(1, Relaxed);
        if let Some(client) = self.client
            && let Entry::Occupied(mut open) = self.connections.by_client.entry(client)
        {
            match open.get().checked_sub(1) {
                Some(left @ 1..) => drop(open.insert(left)),
                Some(0) | None => drop(open.remove()),
            }
        }
    }
}

impl Drop for ExtraRequest {
    fn drop(&mut self) {
        self.0.extra.fetch_sub(1, Relaxed);
    }
}

impl Drop for RefusalInProgress<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The network of one client: its IPv4 address, or the 64-bit IPv6 network in which it may choose
/// addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        // RFC 4291, section 2.5.4: an interface identifier has 64 bits, so a client may use all of
        // them.
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits { all: 3, of_client: Some(2) };

    fn client(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_connection_is_active_until_dropped() {
        let connections = Arc::new(ConnectionCounters::default());
        let first = connections.open(None, LIMITS).unwrap();
        let second = connections.open(client("192.0.2.1"), LIMITS).unwrap();
        drop(first);
        assert_eq!((connections.active(), connections.opened()), (1, 2));
        drop(second);
        assert_eq!((connections.active(), connections.opened()), (0, 2));
        assert!(connections.by_client.is_empty());
    }

    #[test]
    fn connection_over_a_limit_is_refused_until_one_ends() {
        let connections = Arc::new(ConnectionCounters::default());
        let open = |text| connections.open(client(text), LIMITS);
        let one = open("192.0.2.1").unwrap();
        let _two = open("::ffff:192.0.2.1").unwrap();
        assert_eq!(open("192.0.2.1").err(), Some(ConnectionsFull), "limit of one client");
        let _three = open("192.0.2.2").unwrap();
        assert_eq!(open("192.0.2.3").err(), Some(ConnectionsFull), "limit of all clients");
        assert_eq!(connections.active(), 3);
        drop(one);
        let _four = open("192.0.2.1").unwrap();
        assert_eq!(open("192.0.2.9").err(), Some(ConnectionsFull));
    }

    #[test]
    fn concurrent_http2_requests_count_as_connections() {
        let connections = Arc::new(ConnectionCounters::default());
        let _one = connections.open(None, LIMITS).unwrap();
        let two = connections.begin_extra(LIMITS).unwrap();
        let _three = connections.begin_extra(LIMITS).unwrap();
        assert_eq!(connections.begin_extra(LIMITS).err(), Some(ConnectionsFull));
        assert_eq!(connections.open(None, LIMITS).err(), Some(ConnectionsFull));
        assert_eq!(connections.active(), 1, "a drain waits for connections");
        drop(two);
        assert!(connections.open(None, LIMITS).is_ok());
    }

    #[test]
    fn ipv6_client_is_its_64_bit_network() {
        let connections = Arc::new(ConnectionCounters::default());
        let limits = ConnectionLimits { all: 100, of_client: Some(1) };
        let _one = connections.open(client("2001:db8::1"), limits).unwrap();
        assert!(connections.open(client("2001:db8::ffff:1"), limits).is_err());
        assert!(connections.open(client("2001:db8:0:1::1"), limits).is_ok());
        let _unlimited = connections.open(None, limits).unwrap();
        assert!(connections.open(None, limits).is_ok(), "without a client address");
    }

    #[test]
    fn concurrent_503_responses_are_limited() {
        let connections = ConnectionCounters::default();
        let refusals: Vec<_> = (0..REFUSALS_MAX).map_while(|_| connections.begin_refusal()).collect();
        assert_eq!(refusals.len() as u64, REFUSALS_MAX);
        assert!(connections.begin_refusal().is_none());
        drop(refusals);
        assert!(connections.begin_refusal().is_some());
    }

    #[test]
    fn only_statuses_of_the_closed_set_are_counted() {
        let connections = ConnectionCounters::default();
        for status in [200, 400, 400, 431, 599] {
            connections.count_refusal(status);
        }
        let counts = [(400, 2), (405, 0), (408, 0), (431, 1), (503, 0)];
        assert_eq!(connections.refusals().collect::<Vec<_>>(), counts);
    }

    #[test]
    fn client_named_by_a_proxy_header_counts_towards_its_limit() {
        let connections = Arc::new(ConnectionCounters::default());
        let open = |client_named: Option<IpAddr>| {
            let mut connection = connections.open(None, LIMITS).unwrap();
            connection.count_client(client_named, LIMITS).map(|()| connection)
        };
        let one = open(client("192.0.2.1")).unwrap();
        let _two = open(client("192.0.2.1")).unwrap();
        assert_eq!(open(client("192.0.2.1")).err(), Some(ConnectionsFull));
        assert_eq!(connections.active(), 2, "the refused one is dropped");
        drop(one);
        assert!(open(client("192.0.2.1")).is_ok());
        assert!(open(None).is_ok(), "without a client address");
    }
}
