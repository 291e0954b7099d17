//! What is counted of clients' connections, and of requests refused before any tenant is known.
//!
//! A drain waits for the number of open connections, so they are counted from the accept until the socket is closed for
//! good.

use std::array;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dashmap::DashMap;
use dashmap::Entry;

use super::{AcceptError, BadIntroduction, EarlyClose, every};

/// The statuses of the gateway's own answers to requests it cannot charge a tenant with, ascending. 421 is not among
/// them: those requests are counted under tenant `none`.
const REFUSALS: [u16; 5] = [400, 405, 408, 431, 503];

/// How many clients may be told at one time that there is no room for them.
const TOLD_MAX: u64 = 32;

/// Counters of the data listeners' connections.
#[derive(Debug)]
pub struct Connections {
    opened: AtomicU64,
    active: AtomicU64,
    /// Requests over HTTP/2 that run beside others of their connection.
    extra: AtomicU64,
    told: AtomicU64,
    http2: AtomicU64,
    http2_requests: AtomicU64,
    /// Open connections of each client, where these are limited.
    by_client: DashMap<IpAddr, u32>,
    closed_early: [AtomicU64; EarlyClose::ALL.len()],
    bad_introductions: [AtomicU64; BadIntroduction::ALL.len()],
    accept_errors: [AtomicU64; AcceptError::ALL.len()],
    refusals: [AtomicU64; REFUSALS.len()],
}

impl Default for Connections {
    fn default() -> Self {
        Connections {
            opened: AtomicU64::new(0),
            active: AtomicU64::new(0),
            extra: AtomicU64::new(0),
            told: AtomicU64::new(0),
            http2: AtomicU64::new(0),
            http2_requests: AtomicU64::new(0),
            by_client: DashMap::new(),
            closed_early: array::from_fn(|_| AtomicU64::new(0)),
            bad_introductions: array::from_fn(|_| AtomicU64::new(0)),
            accept_errors: array::from_fn(|_| AtomicU64::new(0)),
            refusals: array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// One open connection: it counts as active until this is dropped, however the connection ends.
#[derive(Debug)]
pub struct ActiveConnection {
    connections: Arc<Connections>,
    client: Option<IpAddr>,
}

/// One running request over HTTP/2 that is as good as a connection, until this is dropped.
#[derive(Debug)]
pub struct ExtraRequest(Arc<Connections>);

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In all.
    pub all: u64,
    /// Of one client; `None` for as many as it likes.
    pub of_client: Option<u32>,
}

/// There are as many connections as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Somebody is being told that there is no room, until this is dropped.
#[derive(Debug)]
pub struct Told<'a>(&'a AtomicU64);

impl Connections {
    /// Counts a connection that was accepted from `client`, if there may be one more. Whoever is no client of its own has no address.
    ///
    /// # Errors
    /// [`Full`].
    pub fn open(self: &Arc<Self>, client: Option<IpAddr>, limits: ConnectionLimits) -> Result<ActiveConnection, Full> {
        self.opened.fetch_add(1, Relaxed);
        let client = client.map(network).filter(|_| limits.of_client.is_some());
        let open = self.active.fetch_add(1, Relaxed) + self.extra.load(Relaxed);
        if open >= limits.all || !self.has_room(client, limits) {
            self.active.fetch_sub(1, Relaxed);
            return Err(Full);
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

    /// Counts a request over HTTP/2 that begins while others of its connection run, if there may be one more connection: it will have one
    /// to an upstream, as a connection over HTTP/1.1 has.
    ///
    /// # Errors
    /// [`Full`].
    pub fn begin_extra(self: &Arc<Self>, limits: ConnectionLimits) -> Result<ExtraRequest, Full> {
        let extra = ExtraRequest(Arc::clone(self));
        let open = self.extra.fetch_add(1, Relaxed) + self.active.load(Relaxed);
        if open < limits.all { Ok(extra) } else { Err(Full) }
    }

    /// Leave to tell one more client that there is no room. Not everybody can be told: who is told has a connection too.
    pub fn tell_full(&self) -> Option<Told<'_>> {
        let one_more = |told| (told < TOLD_MAX).then_some(told + 1);
        self.told.fetch_update(Relaxed, Relaxed, one_more).is_ok().then(|| Told(&self.told))
    }

    /// How many were accepted so far.
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// How many are open.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    /// Counts a connection that turned out to speak HTTP/2.
    pub fn count_http2_connection(&self) {
        self.http2.fetch_add(1, Relaxed);
    }

    /// How many did.
    pub fn http2_connections(&self) -> u64 {
        self.http2.load(Relaxed)
    }

    /// Counts a request over HTTP/2.
    pub fn count_http2_request(&self) {
        self.http2_requests.fetch_add(1, Relaxed);
    }

    /// How many there were.
    pub fn http2_requests(&self) -> u64 {
        self.http2_requests.load(Relaxed)
    }

    /// Counts a connection that the gateway ended by itself.
    pub fn count_early_close(&self, reason: EarlyClose) {
        if let Some(cell) = self.closed_early.get(reason as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Counts a connection that was closed for want of a good PROXY header.
    pub fn count_bad_introduction(&self, reason: BadIntroduction) {
        if let Some(cell) = self.bad_introductions.get(reason as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Counts a connection that could not be accepted, on any listener.
    pub fn count_accept_error(&self, reason: AcceptError) {
        if let Some(cell) = self.accept_errors.get(reason as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Counts a request refused with this status before its tenant was known. Only 400, 405, 408, 431 and 503 are such.
    pub fn count_refusal(&self, status: u16) {
        let cell = REFUSALS.binary_search(&status).ok().and_then(|index| self.refusals.get(index));
        if let Some(cell) = cell {
            cell.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn closed_early(&self) -> impl Iterator<Item = (EarlyClose, u64)> + '_ {
        every(&EarlyClose::ALL, &self.closed_early)
    }

    pub(super) fn bad_introductions(&self) -> impl Iterator<Item = (BadIntroduction, u64)> + '_ {
        every(&BadIntroduction::ALL, &self.bad_introductions)
    }

    pub(super) fn accept_errors(&self) -> impl Iterator<Item = (AcceptError, u64)> + '_ {
        every(&AcceptError::ALL, &self.accept_errors)
    }

    pub(super) fn refusals(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        every(&REFUSALS, &self.refusals)
    }
}

impl ActiveConnection {
    /// Counts it as one of `client` too, who was not known before, if there may be one more of those.
    ///
    /// # Errors
    /// [`Full`].
    pub fn count_client(&mut self, client: Option<IpAddr>, limits: ConnectionLimits) -> Result<(), Full> {
        debug_assert!(self.client.is_none(), "a connection has one client");
        let client = client.map(network).filter(|_| limits.of_client.is_some());
        if !self.connections.has_room(client, limits) {
            return Err(Full);
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

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What one client has: its IPv4 address, or the IPv6 network of 64 bits in which it may choose among addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
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
        let connections = Arc::new(Connections::default());
        let first = connections.open(None, LIMITS).unwrap();
        let second = connections.open(client("192.0.2.1"), LIMITS).unwrap();
        drop(first);
        assert_eq!((connections.active(), connections.opened()), (1, 2));
        drop(second);
        assert_eq!((connections.active(), connections.opened()), (0, 2));
        assert!(connections.by_client.is_empty());
    }

    #[test]
    fn beyond_the_limits_there_is_no_room_until_one_ends() {
        let connections = Arc::new(Connections::default());
        let open = |text| connections.open(client(text), LIMITS);
        let one = open("192.0.2.1").unwrap();
        let _two = open("::ffff:192.0.2.1").unwrap();
        assert_eq!(open("192.0.2.1").err(), Some(Full), "of one client");
        let _three = open("192.0.2.2").unwrap();
        assert_eq!(open("192.0.2.3").err(), Some(Full), "in all");
        assert_eq!(connections.active(), 3);
        drop(one);
        let _four = open("192.0.2.1").unwrap();
        assert_eq!(open("192.0.2.9").err(), Some(Full));
    }

    #[test]
    fn requests_beside_each_other_count_as_connections() {
        let connections = Arc::new(Connections::default());
        let _one = connections.open(None, LIMITS).unwrap();
        let two = connections.begin_extra(LIMITS).unwrap();
        let _three = connections.begin_extra(LIMITS).unwrap();
        assert_eq!(connections.begin_extra(LIMITS).err(), Some(Full));
        assert_eq!(connections.open(None, LIMITS).err(), Some(Full));
        assert_eq!(connections.active(), 1, "a drain waits for connections");
        drop(two);
        assert!(connections.open(None, LIMITS).is_ok());
    }

    #[test]
    fn an_ipv6_client_is_its_network() {
        let connections = Arc::new(Connections::default());
        let limits = ConnectionLimits { all: 100, of_client: Some(1) };
        let _one = connections.open(client("2001:db8::1"), limits).unwrap();
        assert!(connections.open(client("2001:db8::ffff:1"), limits).is_err());
        assert!(connections.open(client("2001:db8:0:1::1"), limits).is_ok());
        let _unlimited = connections.open(None, limits).unwrap();
        assert!(connections.open(None, limits).is_ok(), "nobody's");
    }

    #[test]
    fn so_many_are_told_at_one_time() {
        let connections = Connections::default();
        let told: Vec<_> = (0..TOLD_MAX).map_while(|_| connections.tell_full()).collect();
        assert_eq!(told.len() as u64, TOLD_MAX);
        assert!(connections.tell_full().is_none());
        drop(told);
        assert!(connections.tell_full().is_some());
    }

    #[test]
    fn only_statuses_of_the_closed_set_are_counted() {
        let connections = Connections::default();
        for status in [200, 400, 400, 431, 599] {
            connections.count_refusal(status);
        }
        let counts = [(400, 2), (405, 0), (408, 0), (431, 1), (503, 0)];
        assert_eq!(connections.refusals().collect::<Vec<_>>(), counts);
    }

    #[test]
    fn a_client_that_is_named_later_counts_from_then_on() {
        let connections = Arc::new(Connections::default());
        let open = |client_named: Option<IpAddr>| {
            let mut connection = connections.open(None, LIMITS).unwrap();
            connection.count_client(client_named, LIMITS).map(|()| connection)
        };
        let one = open(client("192.0.2.1")).unwrap();
        let _two = open(client("192.0.2.1")).unwrap();
        assert_eq!(open(client("192.0.2.1")).err(), Some(Full));
        assert_eq!(connections.active(), 2, "the one too many is gone");
        drop(one);
        assert!(open(client("192.0.2.1")).is_ok());
        assert!(open(None).is_ok(), "nobody's");
    }
}
