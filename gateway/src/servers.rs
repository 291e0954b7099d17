//! The servers of an upstream: where its names lead, whose turn it is, and who is left out.
//!
//! Five failures in a row without a success between them, and a server is out for a second; each time it fails again on its return for
//! twice as long, half a minute at most. Never more than half of the servers are out for that, and never the only one: when most fail, it
//! is not they who are wrong. Who returns is asked by one request like any other, and is out again at its first failure. A server whose
//! health checks fail is out until they succeed. As long as nobody fails, a request writes nothing here, and looks at no clock.
//!
//! The servers outlive the upstream that was compiled: the next one that names them has the same, or at least the addresses of the same
//! names. Absent on purpose: lookups and checks themselves, which are `upkeep`'s.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::config::model::{HealthCheck, ServerAddress, ServerSpec, UpstreamSpec};
use crate::metrics::UpstreamCounters;

mod roster;
mod server;

pub(crate) use self::roster::{Listed, SERVERS_MAX};
pub(crate) use self::server::{Server, Standing, now_ms};

use self::roster::Roster;

/// The servers.
pub struct Servers {
    specs: Box<[ServerSpec]>,
    check: Option<HealthCheck>,
    roster: Rosters,
    /// What the names among `specs` lead to, each at the place of its name.
    found: Mutex<Box<[Found]>>,
    /// Told whenever the roster has become another.
    changed: watch::Sender<()>,
    /// One at a time, so that no two become more than half.
    ejecting: Mutex<()>,
    counters: Arc<UpstreamCounters>,
}

enum Rosters {
    /// Addresses alone: it never changes, and looking at it is free.
    Fixed(Roster),
    /// There are names.
    Changing(ArcSwap<Roster>),
}

/// What a name leads to; of an address nothing.
#[derive(Clone, Debug, Default)]
struct Found {
    /// In order, since answers come in another one each time.
    addresses: Vec<IpAddr>,
    /// The last lookup failed.
    is_lost: bool,
}

/// A server that was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Where it is.
    pub address: SocketAddr,
    place: usize,
}

impl Servers {
    /// The servers of an upstream. What `previous` has learnt of the same ones is kept.
    pub(crate) fn new(spec: &UpstreamSpec, counters: Arc<UpstreamCounters>, previous: Option<&Servers>) -> Self {
        let check = check_of(spec);
        let found: Box<[Found]> = spec.servers.iter().map(|spec| found_before(spec, previous)).collect();
        let same_check = previous.filter(|previous| previous.check == check);
        let before = same_check.map(Servers::listed).unwrap_or_default();
        let roster = Roster::new(addresses(&spec.servers, &found), &before);
        let has_names = spec.servers.iter().any(|spec| name_of(spec).is_some());
        Servers {
            specs: spec.servers.clone().into(),
            check,
            roster: if has_names { Rosters::Changing(ArcSwap::from_pointee(roster)) } else { Rosters::Fixed(roster) },
            found: Mutex::new(found),
            changed: watch::Sender::new(()),
            ejecting: Mutex::new(()),
            counters,
        }
    }

    /// Whether an upstream compiled from this has these very servers.
    pub(crate) fn are_of(&self, spec: &UpstreamSpec) -> bool {
        *self.specs == *spec.servers && self.check == check_of(spec)
    }

    /// The server whose turn it is, or another that is in; another than `last`, where there is one. `None` as long as no name has led
    /// anywhere.
    pub fn pick(&self, turn: usize, last: Option<Picked>) -> Option<Picked> {
        let last = last.map(|picked| picked.address);
        self.roster.with(|roster| {
            let (place, server) = roster.pick(turn, last, now_ms)?;
            Some(Picked { address: server.address, place })
        })
    }

    /// The server gave an answer of its own.
    pub fn succeeded(&self, picked: Picked) {
        self.roster.with(|roster| roster.find(picked.place, picked.address).map(Server::succeeded));
    }

    /// It gave none, or one that says that it cannot.
    pub fn failed(&self, picked: Picked) {
        self.roster.with(|roster| {
            if let Some(server) = roster.find(picked.place, picked.address).filter(|server| server.failed()) {
                self.eject(roster, server, now_ms());
            }
        });
    }

    fn eject(&self, roster: &Roster, server: &Server, now: u64) {
        let _one = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let would_be_out = roster.out(now).saturating_add(1);
        if server.is_plain() && would_be_out * 2 <= roster.servers().len() {
            server.put_out(now);
            self.counters.count_ejection();
        }
    }

    /// How the servers are checked.
    pub(crate) fn check(&self) -> Option<&HealthCheck> {
        self.check.as_ref()
    }

    /// Every server with its weight.
    pub(crate) fn listed(&self) -> Vec<Listed> {
        self.roster.with(|roster| roster.servers().to_vec())
    }

    /// Where each server stands, with its weight.
    pub(crate) fn standings(&self) -> Vec<(SocketAddr, u32, Standing)> {
        let now = now_ms();
        let of = |listed: &Listed| (listed.server.address, listed.weight, listed.server.standing(now));
        self.roster.with(|roster| roster.servers().iter().map(of).collect())
    }

    /// Told whenever there are other servers than before.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The names to look up, each with its place.
    pub(crate) fn names(&self) -> impl Iterator<Item = (usize, &str)> {
        self.specs.iter().enumerate().filter_map(|(place, spec)| Some((place, name_of(spec)?)))
    }

    /// The names whose last lookup failed.
    pub(crate) fn lost_names(&self) -> Vec<&str> {
        let found = self.found();
        let is_lost = |place: usize| found.get(place).is_some_and(|found| found.is_lost);
        self.names().filter(|(place, _)| is_lost(*place)).map(|(_, name)| name).collect()
    }

    /// The name at this place leads to these addresses.
    pub(crate) fn found_at(&self, place: usize, mut addresses: Vec<IpAddr>) {
        addresses.sort_unstable();
        addresses.dedup();
        let mut all = self.found();
        let Some(found) = all.get_mut(place) else { return };
        if std::mem::replace(&mut found.is_lost, false) {
            tracing::info!(upstream = self.counters.name(), name = self.name_at(place), "the name is resolved again");
        }
        if found.addresses != addresses {
            found.addresses = addresses;
            self.enlist(&all);
        }
    }

    /// The name at this place cannot be resolved now. What it led to last serves on.
    pub(crate) fn lost_at(&self, place: usize, why: &str) {
        self.counters.count_lookup_failure();
        let mut all = self.found();
        let Some(found) = all.get_mut(place) else { return };
        if !std::mem::replace(&mut found.is_lost, true) {
            let (upstream, name, kept) = (self.counters.name(), self.name_at(place), found.addresses.len());
            tracing::warn!(upstream, name, why, kept, "the name cannot be resolved; the addresses it had serve on");
        }
    }

    fn enlist(&self, found: &[Found]) {
        if let Rosters::Changing(current) = &self.roster {
            let roster = Roster::new(addresses(&self.specs, found), current.load().servers());
            current.store(Arc::new(roster));
            self.changed.send_replace(());
        }
    }

    fn name_at(&self, place: usize) -> &str {
        self.specs.get(place).and_then(name_of).unwrap_or_default()
    }

    fn found(&self) -> MutexGuard<'_, Box<[Found]>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rosters {
    fn with<R>(&self, then: impl FnOnce(&Roster) -> R) -> R {
        match self {
            Rosters::Fixed(roster) => then(roster),
            Rosters::Changing(current) => then(&current.load()),
        }
    }
}

/// How an upstream's servers are checked, once its own `Host` is filled in.
fn check_of(spec: &UpstreamSpec) -> Option<HealthCheck> {
    let check = spec.health_check.clone()?;
    Some(HealthCheck { host: check.host.or_else(|| spec.host.clone()), ..check })
}

fn name_of(spec: &ServerSpec) -> Option<&str> {
    match &spec.address {
        ServerAddress::Address(_) => None,
        ServerAddress::Name { name, .. } => Some(name),
    }
}

/// What the same name led to until now.
fn found_before(spec: &ServerSpec, previous: Option<&Servers>) -> Found {
    let found = || {
        let (previous, name) = (previous?, name_of(spec)?);
        let (place, _) = previous.names().find(|(_, known)| *known == name)?;
        previous.found().get(place).cloned()
    };
    found().unwrap_or_default()
}

/// Every address, names resolved, with its weight.
fn addresses<'a>(specs: &'a [ServerSpec], found: &'a [Found]) -> impl Iterator<Item = (SocketAddr, u32)> + 'a {
    specs.iter().zip(found).flat_map(|(spec, found)| {
        let (fixed, port) = match &spec.address {
            ServerAddress::Address(address) => (Some(*address), 0),
            ServerAddress::Name { port, .. } => (None, *port),
        };
        let named = found.addresses.iter().map(move |ip| SocketAddr::new(*ip, port));
        fixed.into_iter().chain(named).map(|address| (address, spec.weight))
    })
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

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.specs.iter().map(|spec| &spec.address)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::server::{FAILURES_MAX, OUT_FIRST};
    use super::*;
    use crate::config::model::{At, Located, Protocol, Timeouts};
    use crate::metrics::Metrics;

    fn spec(servers: &[ServerAddress]) -> UpstreamSpec {
        let server = |address: &ServerAddress| ServerSpec { address: address.clone(), weight: 1 };
        UpstreamSpec {
            name: Located { value: "a".into(), at: At::START },
            servers: servers.iter().map(server).collect(),
            timeouts: Timeouts::default(),
            attempts: 2,
            host: None,
            protocol: Protocol::Http1,
            tls: None,
            health_check: None,
            limits: None,
        }
    }

    fn address(port: u16) -> ServerAddress {
        ServerAddress::Address(([127, 0, 0, 1], 9_000 + port).into())
    }

    fn name(name: &str) -> ServerAddress {
        ServerAddress::Name { name: name.into(), port: 80 }
    }

    fn made(spec: &UpstreamSpec, previous: Option<&Servers>) -> Servers {
        Servers::new(spec, Metrics::new().upstream("a"), previous)
    }

    fn servers(count: u16) -> Servers {
        made(&spec(&(0..count).map(address).collect::<Vec<_>>()), None)
    }

    /// Which servers are picked in turn, at that time.
    fn picked_at(servers: &Servers, now: u64) -> Vec<usize> {
        let pick = |turn| servers.roster.with(|roster| roster.pick(turn, None, || now).unwrap().0);
        (0..servers.listed().len()).map(pick).collect()
    }

    fn picked(servers: &Servers) -> Vec<usize> {
        picked_at(servers, now_ms())
    }

    fn fail(servers: &Servers, place: usize, times: u32) {
        let server = Picked { address: servers.listed()[place].server.address, place };
        (0..times).for_each(|_| servers.failed(server));
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn shown(servers: &Servers) -> Vec<String> {
        servers.listed().iter().map(|listed| listed.server.address.to_string()).collect()
    }

    #[test]
    fn five_failures_in_a_row_put_a_server_out_and_one_success_between_does_not() {
        let servers = servers(3);
        fail(&servers, 1, FAILURES_MAX - 1);
        servers.succeeded(servers.pick(1, None).unwrap());
        fail(&servers, 1, FAILURES_MAX - 1);
        assert_eq!(picked(&servers), [0, 1, 2]);
        fail(&servers, 1, 1);
        assert!(!picked(&servers).contains(&1));
        assert_eq!(servers.standings()[1].2, Standing::Ejected);
    }

    #[test]
    fn never_more_than_half_and_never_the_only_one() {
        for (count, left) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
            let servers = servers(count);
            for place in 0..usize::from(count) {
                fail(&servers, place, FAILURES_MAX * 2);
            }
            let mut seen = picked(&servers);
            seen.sort_unstable();
            seen.dedup();
            assert!(seen.len() <= left, "of {count}");
            let up = servers.standings().iter().filter(|(_, _, standing)| *standing == Standing::Up).count();
            assert_eq!(up, left, "of {count}");
        }
        assert!(servers(0).pick(0, None).is_none());
    }

    #[test]
    fn those_that_checks_leave_out_count_among_the_half() {
        let servers = servers(4);
        for place in [0, 1] {
            servers.listed()[place].server.set_unhealthy(true);
        }
        fail(&servers, 2, FAILURES_MAX * 2);
        assert_eq!(servers.standings()[2].2, Standing::Up);
    }

    #[test]
    fn a_server_returns_and_is_out_for_longer_if_it_fails_at_once() {
        let out_first = u64::try_from(OUT_FIRST.as_millis()).unwrap();
        let servers = servers(2);
        let before = now_ms();
        fail(&servers, 0, FAILURES_MAX);
        assert_eq!(picked_at(&servers, before + out_first - 1), [1, 1]);
        assert_eq!(picked_at(&servers, now_ms() + out_first), [0, 1]);
        let before = now_ms();
        fail(&servers, 0, 1);
        assert_eq!(picked_at(&servers, before), [1, 1], "one failure is enough now");
        assert_eq!(picked_at(&servers, before + 2 * out_first - 1), [1, 1], "and it lasts longer");
        assert_eq!(picked_at(&servers, now_ms() + 2 * out_first), [0, 1]);
        servers.succeeded(servers.pick(0, None).unwrap());
        fail(&servers, 0, FAILURES_MAX - 1);
        assert_eq!(picked(&servers), [0, 1], "a success makes it one like any other");
    }

    #[test]
    fn a_name_stands_for_all_its_addresses_and_keeps_them_when_it_is_lost() {
        let servers = made(&spec(&[address(1), name("a.test")]), None);
        assert_eq!(shown(&servers), ["127.0.0.1:9001"]);
        let mut changes = servers.changes();
        servers.found_at(1, ips(&["10.0.0.2", "::1", "10.0.0.1", "10.0.0.2"]));
        let all = ["127.0.0.1:9001", "10.0.0.1:80", "10.0.0.2:80", "[::1]:80"];
        assert_eq!(shown(&servers), all);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        servers.found_at(1, ips(&["::1", "10.0.0.2", "10.0.0.1"]));
        assert!(!changes.has_changed().unwrap(), "the same in another order");
        servers.lost_at(1, "refused");
        assert_eq!(shown(&servers), all);
        assert_eq!(servers.lost_names(), ["a.test"]);
        servers.found_at(1, ips(&["10.0.0.9"]));
        assert_eq!(shown(&servers), ["127.0.0.1:9001", "10.0.0.9:80"]);
        assert!(servers.lost_names().is_empty());
    }

    #[test]
    fn a_server_that_is_no_longer_there_is_no_matter() {
        let servers = made(&spec(&[name("a.test")]), None);
        assert_eq!(servers.pick(0, None), None);
        servers.found_at(0, ips(&["10.0.0.1", "10.0.0.2"]));
        let gone = servers.pick(0, None).unwrap();
        servers.found_at(0, ips(&["10.0.0.2", "10.0.0.3"]));
        (0..FAILURES_MAX).for_each(|_| servers.failed(gone));
        servers.succeeded(gone);
        assert!(servers.standings().iter().all(|(_, _, standing)| *standing == Standing::Up));
    }

    #[test]
    fn what_is_known_of_the_same_servers_outlives_a_changed_list() {
        let before = made(&spec(&[address(1), address(2), name("a.test"), name("b.test")]), None);
        before.found_at(2, ips(&["10.0.0.1"]));
        before.lost_at(3, "refused");
        fail(&before, 0, FAILURES_MAX);
        let changed = spec(&[name("b.test"), name("a.test"), address(1), address(3)]);
        assert!(!before.are_of(&changed));
        let after = made(&changed, Some(&before));
        assert_eq!(shown(&after), ["10.0.0.1:80", "127.0.0.1:9001", "127.0.0.1:9003"]);
        assert_eq!(after.standings()[1].2, Standing::Ejected);
        assert_eq!(after.lost_names(), ["b.test"]);
    }

    #[test]
    fn what_other_checks_said_is_forgotten() {
        let check = HealthCheck {
            path: http::uri::PathAndQuery::from_static("/"),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_after: 1,
            unhealthy_after: 1,
            host: None,
        };
        let plain = spec(&[address(1), address(2)]);
        let checked = UpstreamSpec { health_check: Some(check), ..plain.clone() };
        let before = made(&checked, None);
        before.listed()[0].server.set_unhealthy(true);
        assert!(before.are_of(&checked) && !before.are_of(&plain));
        assert_eq!(made(&checked, Some(&before)).standings()[0].2, Standing::Unhealthy);
        assert_eq!(made(&plain, Some(&before)).standings()[0].2, Standing::Up);
    }

    #[test]
    fn one_request_in_eight_may_be_tried_again() {
        let retries = Retries::default();
        let allowed = |requests: std::ops::Range<u64>| requests.filter(|count| retries.take(*count)).count();
        assert_eq!(allowed(0..100), 100);
        assert_eq!(allowed(100..801), 100);
    }
}
