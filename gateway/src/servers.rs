//! The servers of an upstream: addresses of its names, the choice for each request, and exclusion
//! of failing servers.
//!
//! Five failures in a row eject a server for one second. If it fails again on its return, the time
//! doubles, up to 30 seconds. Ejection never removes more than half of the servers, nor the only
//! one, unless a backup server is available: if most servers fail, the servers are probably not the
//! cause. A server returns with one regular request, and is ejected again if that fails. A server
//! with failing health checks is excluded until they succeed. While no server fails, a request
//! writes nothing here and reads no clock.
//!
//! State outlives a reload: servers that the next configuration names too are kept, and so are the
//! addresses of the same names. Absent on purpose: lookups and checks themselves, which are in
//! `upkeep`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::counters::UpstreamCounters;
use crossgate_config::model::{HealthCheck, ServerAddress, ServerSpec, UpstreamSpec};

mod endpoints;
mod server;

pub(crate) use self::endpoints::WeightedServer;
pub(crate) use self::server::{ServerState, UpstreamServer, now_ms};

use self::endpoints::{Endpoints, ServerEntry};

/// The servers of one upstream.
pub struct ServerPool {
    specs: Box<[ServerSpec]>,
    check: Option<HealthCheck>,
    endpoints: EndpointSets,
    /// The addresses of the names in `specs`, at the same index.
    resolved: Mutex<Box<[ResolvedName]>>,
    /// Notified when the set of endpoints changes.
    changed: watch::Sender<()>,
    /// Serializes ejections, so that concurrent ones cannot exceed half of the servers.
    ejecting: Mutex<()>,
    counters: Arc<UpstreamCounters>,
}

enum EndpointSets {
    /// The configuration contains addresses only: reads cost nothing.
    Fixed(Endpoints),
    /// The configuration contains names.
    Changing(ArcSwap<Endpoints>),
}

/// The addresses of a name; empty for a configured address.
#[derive(Clone, Debug, Default)]
struct ResolvedName {
    /// Sorted, since DNS answers vary in order.
    addresses: Vec<IpAddr>,
    /// Whether the last lookup failed.
    is_lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PickedServer {
    pub address: SocketAddr,
    index: usize,
}

impl ServerPool {
    /// Creates the servers of an upstream. State of the same servers in `previous` is kept.
    pub(crate) fn new(spec: &UpstreamSpec, counters: Arc<UpstreamCounters>, previous: Option<&ServerPool>) -> Self {
        let check = check_of(spec);
        let resolved: Box<[ResolvedName]> = spec.servers.iter().map(|spec| resolved_before(spec, previous)).collect();
        let same_check = previous.filter(|previous| previous.check == check);
        let before = same_check.map(ServerPool::weighted_servers).unwrap_or_default();
        let endpoints = Endpoints::new(addresses(&spec.servers, &resolved), &before);
        let has_names = spec.servers.iter().any(|spec| name_of(spec).is_some());
        ServerPool {
            specs: spec.servers.clone().into(),
            check,
            endpoints: if has_names {
                EndpointSets::Changing(ArcSwap::from_pointee(endpoints))
            } else {
                EndpointSets::Fixed(endpoints)
            },
            resolved: Mutex::new(resolved),
            changed: watch::Sender::new(()),
            ejecting: Mutex::new(()),
            counters,
        }
    }

    /// Returns whether an upstream compiled from this specification has the same servers.
    pub(crate) fn has_servers_of(&self, spec: &UpstreamSpec) -> bool {
        *self.specs == *spec.servers && self.check == check_of(spec)
    }

    /// Picks the server for this turn, or another available one, different from `last` if possible.
    /// `None` if no name has resolved yet.
    pub fn pick(&self, turn: usize, last: Option<PickedServer>) -> Option<PickedServer> {
        let last = last.map(|picked| picked.address);
        self.endpoints.with(|endpoints| {
            let (index, server) = endpoints.pick(turn, last, now_ms)?;
            Some(PickedServer { address: server.address, index })
        })
    }

    /// Records a response of the server itself.
    pub fn succeeded(&self, picked: PickedServer) {
        self.endpoints.with(|endpoints| endpoints.find(picked.index, picked.address).map(UpstreamServer::succeeded));
    }

    /// Records a failed attempt, or a response that reports unavailability.
    pub fn failed(&self, picked: PickedServer) {
        self.endpoints.with(|endpoints| {
            if let Some(server) = endpoints.find(picked.index, picked.address).filter(|server| server.failed()) {
                self.eject(endpoints, server, now_ms());
            }
        });
    }

    /// Returns whether the server chose HTTP/2 by ALPN when it was offered both protocols.
    pub fn is_http2(&self, picked: PickedServer) -> bool {
        self.endpoints
            .with(|endpoints| endpoints.find(picked.index, picked.address).is_some_and(UpstreamServer::is_http2))
    }

    /// Returns whether the server presented a certificate that is trusted only by itself
    /// (configured as `ca`).
    pub fn is_pinned(&self, picked: PickedServer) -> bool {
        self.endpoints
            .with(|endpoints| endpoints.find(picked.index, picked.address).is_some_and(UpstreamServer::is_pinned))
    }

    /// Records whether the server presented such a certificate.
    pub fn set_pinned(&self, picked: PickedServer, is_pinned: bool) {
        self.endpoints
            .with(|endpoints| endpoints.find(picked.index, picked.address).map(|server| server.set_pinned(is_pinned)));
    }

    /// Records the result of a TLS handshake.
    pub fn note_handshake(&self, picked: PickedServer, is_good: bool) {
        self.endpoints.with(|endpoints| {
            endpoints.find(picked.index, picked.address).map(|server| match is_good {
                true => server.note_handshake(),
                false => server.note_handshake_failure(now_ms()),
            })
        });
    }

    /// Returns whether handshakes with the server failed so often that the next one has to wait.
    pub fn pauses_handshakes(&self, picked: PickedServer) -> bool {
        let pauses = |server: &UpstreamServer| server.pauses_handshakes(now_ms);
        self.endpoints.with(|endpoints| endpoints.find(picked.index, picked.address).is_some_and(pauses))
    }

    /// Forgets the results of handshakes, because the protocol or the TLS settings have changed.
    pub(crate) fn forget_handshakes(&self) {
        self.endpoints.with(|endpoints| endpoints.servers().iter().for_each(|entry| entry.server.forget_handshakes()));
    }

    /// Records whether the server chose HTTP/2.
    pub fn set_http2(&self, picked: PickedServer, is_http2: bool) {
        self.endpoints.with(|endpoints| {
            if let Some(server) = endpoints.find(picked.index, picked.address) {
                server.set_http2(is_http2);
            }
        });
    }

    fn eject(&self, endpoints: &Endpoints, server: &UpstreamServer, now: u64) {
        let _one = self.ejecting.lock();
        if server.has_no_faults() && endpoints.may_exclude(server, now) {
            server.eject(now);
            self.counters.count_ejection();
        }
    }

    /// The health check of the servers.
    pub(crate) fn check(&self) -> Option<&HealthCheck> {
        self.check.as_ref()
    }

    /// All servers with their weights.
    pub(crate) fn weighted_servers(&self) -> Vec<WeightedServer> {
        self.endpoints.with(|endpoints| endpoints.servers().to_vec())
    }

    /// All servers, each with its state.
    pub(crate) fn server_states(&self) -> Vec<(WeightedServer, ServerState)> {
        let now = now_ms();
        self.weighted_servers().into_iter().map(|entry| (entry.clone(), entry.server.state(now))).collect()
    }

    /// A receiver that is notified when the set of servers changes.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The names to look up, each with its index.
    pub(crate) fn names(&self) -> impl Iterator<Item = (usize, &str)> {
        self.specs.iter().enumerate().filter_map(|(index, spec)| Some((index, name_of(spec)?)))
    }

    /// The names whose last lookup failed.
    pub(crate) fn lost_names(&self) -> Vec<&str> {
        let resolved = self.resolved();
        let is_lost = |index: usize| resolved.get(index).is_some_and(|resolved| resolved.is_lost);
        self.names().filter(|(index, _)| is_lost(*index)).map(|(_, name)| name).collect()
    }

    /// Sets the addresses of the name at `index`.
    pub(crate) fn set_addresses(&self, index: usize, mut addresses: Vec<IpAddr>) {
        addresses.sort_unstable();
        addresses.dedup();
        let mut all = self.resolved();
        let Some(resolved) = all.get_mut(index) else { return };
        if std::mem::replace(&mut resolved.is_lost, false) {
            tracing::info!(upstream = self.counters.name(), name = self.name_at(index), "server name resolves again");
        }
        if resolved.addresses != addresses {
            resolved.addresses = addresses;
            self.rebuild_endpoints(&all);
        }
    }

    /// Records that the name at `index` does not resolve now. Its last addresses stay in use.
    pub(crate) fn mark_lost(&self, index: usize, why: &str) {
        self.counters.count_lookup_failure();
        let mut all = self.resolved();
        let Some(resolved) = all.get_mut(index) else { return };
        if !std::mem::replace(&mut resolved.is_lost, true) {
            let (upstream, name, kept) = (self.counters.name(), self.name_at(index), resolved.addresses.len());
            match kept {
                0 => tracing::warn!(upstream, name, why, "server name does not resolve; it has no addresses yet"),
                _ => tracing::warn!(
                    upstream,
                    name,
                    why,
                    kept,
                    "server name does not resolve; keeping its last addresses"
                ),
            }
        }
    }

    fn rebuild_endpoints(&self, resolved: &[ResolvedName]) {
        if let EndpointSets::Changing(current) = &self.endpoints {
            let endpoints = Endpoints::new(addresses(&self.specs, resolved), current.load().servers());
            current.store(Arc::new(endpoints));
            self.changed.send_replace(());
        }
    }

    fn name_at(&self, index: usize) -> &str {
        self.specs.get(index).and_then(name_of).unwrap_or_default()
    }

    fn resolved(&self) -> MutexGuard<'_, Box<[ResolvedName]>> {
        self.resolved.lock()
    }
}

impl EndpointSets {
    fn with<R>(&self, then: impl FnOnce(&Endpoints) -> R) -> R {
        match self {
            EndpointSets::Fixed(endpoints) => then(endpoints),
            EndpointSets::Changing(current) => then(&current.load()),
        }
    }
}

/// The health check of an upstream. Its `Host` defaults to that of the upstream.
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

/// The addresses of the same name in the previous configuration.
fn resolved_before(spec: &ServerSpec, previous: Option<&ServerPool>) -> ResolvedName {
    let resolved = || {
        let (previous, name) = (previous?, name_of(spec)?);
        let (index, _) = previous.names().find(|(_, known)| *known == name)?;
        previous.resolved().get(index).cloned()
    };
    resolved().unwrap_or_default()
}

/// All addresses, those of names included.
fn addresses<'a>(specs: &'a [ServerSpec], resolved: &'a [ResolvedName]) -> impl Iterator<Item = ServerEntry> + 'a {
    specs.iter().zip(resolved).flat_map(|(spec, resolved)| {
        let (fixed, port) = match &spec.address {
            ServerAddress::Address(address) => (Some(*address), 0),
            ServerAddress::Name { port, .. } => (None, *port),
        };
        let named = resolved.addresses.iter().map(move |ip| SocketAddr::new(*ip, port));
        let entry = |address| ServerEntry { address, weight: spec.weight, is_backup: spec.is_backup };
        fixed.into_iter().chain(named).map(entry)
    })
}

/// The retry budget of an upstream: one in eight requests of the last 10 to 20 seconds, and ten a
/// second for requests in flight when a server fails. If all servers fail, retries of every request
/// would double the load on them.
#[derive(Debug, Default)]
pub struct RetryBudget(Mutex<Option<RetryWindow>>);

#[derive(Debug)]
struct RetryWindow {
    began: Instant,
    /// The upstream's request count at the start of this window, and of the window before.
    requests: u64,
    requests_before: u64,
    retries: u64,
}

const RETRIES_WINDOW: Duration = Duration::from_secs(10);
const RETRIES_ALWAYS: u64 = 100;
const REQUESTS_A_RETRY: u64 = 8;

impl RetryBudget {
    /// Takes one retry from the budget, given the upstream's request count. Returns `false` if none
    /// is left.
    pub(crate) fn take(&self, requests: u64) -> bool {
        let mut window = self.0.lock();
        let window = match &mut *window {
            Some(window) if window.began.elapsed() < RETRIES_WINDOW => window,
            over => {
                let recent = over.take().filter(|window| window.began.elapsed() < RETRIES_WINDOW * 2);
                let requests_before = recent.map_or(requests, |window| window.requests);
                over.insert(RetryWindow { began: Instant::now(), requests, requests_before, retries: 0 })
            }
        };
        let most = RETRIES_ALWAYS + requests.saturating_sub(window.requests_before) / REQUESTS_A_RETRY;
        let is_allowed = window.retries < most;
        window.retries += u64::from(is_allowed);
        is_allowed
    }
}

impl fmt::Debug for ServerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.specs.iter().map(|spec| &spec.address)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::server::{EJECTION_FIRST, FAILURES_MAX};
    use super::*;
    use crate::registry::GatewayMetrics;
    use crossgate_config::model::{Located, Position, Protocol, Timeouts};

    fn spec(servers: &[ServerAddress]) -> UpstreamSpec {
        let server = |address: &ServerAddress| ServerSpec { address: address.clone(), weight: 1, is_backup: false };
        UpstreamSpec {
            name: Located { value: "a".into(), at: Position::START },
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

    fn made(spec: &UpstreamSpec, previous: Option<&ServerPool>) -> ServerPool {
        ServerPool::new(spec, GatewayMetrics::new().upstream("a"), previous)
    }

    fn servers(count: u16) -> ServerPool {
        made(&spec(&(0..count).map(address).collect::<Vec<_>>()), None)
    }

    /// The servers picked in consecutive turns at this time.
    fn picked_at(servers: &ServerPool, now: u64) -> Vec<usize> {
        let pick = |turn| servers.endpoints.with(|endpoints| endpoints.pick(turn, None, || now).unwrap().0);
        (0..servers.weighted_servers().len()).map(pick).collect()
    }

    fn picked(servers: &ServerPool) -> Vec<usize> {
        picked_at(servers, now_ms())
    }

    fn fail(servers: &ServerPool, index: usize, times: u32) {
        let server = PickedServer { address: servers.weighted_servers()[index].server.address, index };
        (0..times).for_each(|_| servers.failed(server));
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn shown(servers: &ServerPool) -> Vec<String> {
        servers.weighted_servers().iter().map(|entry| entry.server.address.to_string()).collect()
    }

    #[test]
    fn five_failures_in_a_row_eject_a_server() {
        let servers = servers(3);
        fail(&servers, 1, FAILURES_MAX - 1);
        servers.succeeded(servers.pick(1, None).unwrap());
        fail(&servers, 1, FAILURES_MAX - 1);
        assert_eq!(picked(&servers), [0, 1, 2]);
        fail(&servers, 1, 1);
        assert!(!picked(&servers).contains(&1));
        assert_eq!(servers.server_states()[1].1, ServerState::Ejected);
    }

    #[test]
    fn ejection_never_removes_more_than_half_of_the_servers() {
        for (count, left) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
            let servers = servers(count);
            for index in 0..usize::from(count) {
                fail(&servers, index, FAILURES_MAX * 2);
            }
            let mut seen = picked(&servers);
            seen.sort_unstable();
            seen.dedup();
            assert!(seen.len() <= left, "of {count}");
            let up = servers.server_states().iter().filter(|(_, state)| *state == ServerState::Up).count();
            assert_eq!(up, left, "of {count}");
        }
        assert!(servers(0).pick(0, None).is_none());
    }

    #[test]
    fn servers_that_fail_checks_count_towards_the_ejection_limit() {
        let servers = servers(4);
        for index in [0, 1] {
            servers.weighted_servers()[index].server.set_unhealthy(true);
        }
        fail(&servers, 2, FAILURES_MAX * 2);
        assert_eq!(servers.server_states()[2].1, ServerState::Up);
    }

    #[test]
    fn server_that_fails_on_its_return_is_ejected_for_longer() {
        let ejection_first = u64::try_from(EJECTION_FIRST.as_millis()).unwrap();
        let servers = servers(2);
        let before = now_ms();
        fail(&servers, 0, FAILURES_MAX);
        assert_eq!(picked_at(&servers, before + ejection_first - 1), [1, 1]);
        assert_eq!(picked_at(&servers, now_ms() + ejection_first), [0, 1]);
        let before = now_ms();
        fail(&servers, 0, 1);
        assert_eq!(picked_at(&servers, before), [1, 1], "one failure ejects it again");
        assert_eq!(picked_at(&servers, before + 2 * ejection_first - 1), [1, 1], "the second ejection lasts longer");
        assert_eq!(picked_at(&servers, now_ms() + 2 * ejection_first), [0, 1]);
        servers.succeeded(servers.pick(0, None).unwrap());
        fail(&servers, 0, FAILURES_MAX - 1);
        assert_eq!(picked(&servers), [0, 1], "a success resets the failures");
    }

    #[test]
    fn name_gives_all_its_addresses_and_keeps_them_after_a_failed_lookup() {
        let servers = made(&spec(&[address(1), name("a.test")]), None);
        assert_eq!(shown(&servers), ["127.0.0.1:9001"]);
        let mut changes = servers.changes();
        servers.set_addresses(1, ips(&["10.0.0.2", "::1", "10.0.0.1", "10.0.0.2"]));
        let all = ["127.0.0.1:9001", "10.0.0.1:80", "10.0.0.2:80", "[::1]:80"];
        assert_eq!(shown(&servers), all);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        servers.set_addresses(1, ips(&["::1", "10.0.0.2", "10.0.0.1"]));
        assert!(!changes.has_changed().unwrap(), "same addresses in another order");
        servers.mark_lost(1, "refused");
        assert_eq!(shown(&servers), all);
        assert_eq!(servers.lost_names(), ["a.test"]);
        servers.set_addresses(1, ips(&["10.0.0.9"]));
        assert_eq!(shown(&servers), ["127.0.0.1:9001", "10.0.0.9:80"]);
        assert!(servers.lost_names().is_empty());
    }

    #[test]
    fn results_of_a_removed_server_are_ignored() {
        let servers = made(&spec(&[name("a.test")]), None);
        assert_eq!(servers.pick(0, None), None);
        servers.set_addresses(0, ips(&["10.0.0.1", "10.0.0.2"]));
        let gone = servers.pick(0, None).unwrap();
        servers.set_addresses(0, ips(&["10.0.0.2", "10.0.0.3"]));
        (0..FAILURES_MAX).for_each(|_| servers.failed(gone));
        servers.succeeded(gone);
        assert!(servers.server_states().iter().all(|(_, state)| *state == ServerState::Up));
    }

    #[test]
    fn server_state_survives_a_changed_list() {
        let before = made(&spec(&[address(1), address(2), name("a.test"), name("b.test")]), None);
        before.set_addresses(2, ips(&["10.0.0.1"]));
        before.mark_lost(3, "refused");
        fail(&before, 0, FAILURES_MAX);
        let changed = spec(&[name("b.test"), name("a.test"), address(1), address(3)]);
        assert!(!before.has_servers_of(&changed));
        let after = made(&changed, Some(&before));
        assert_eq!(shown(&after), ["10.0.0.1:80", "127.0.0.1:9001", "127.0.0.1:9003"]);
        assert_eq!(after.server_states()[1].1, ServerState::Ejected);
        assert_eq!(after.lost_names(), ["b.test"]);
    }

    #[test]
    fn changed_health_check_resets_server_health() {
        let check = HealthCheck {
            request: crossgate_config::model::CheckRequest::Get(http::uri::PathAndQuery::from_static("/")),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_after: 1,
            unhealthy_after: 1,
            host: None,
        };
        let plain = spec(&[address(1), address(2)]);
        let checked = UpstreamSpec { health_check: Some(check), ..plain.clone() };
        let before = made(&checked, None);
        before.weighted_servers()[0].server.set_unhealthy(true);
        assert!(before.has_servers_of(&checked) && !before.has_servers_of(&plain));
        assert_eq!(made(&checked, Some(&before)).server_states()[0].1, ServerState::Unhealthy);
        assert_eq!(made(&plain, Some(&before)).server_states()[0].1, ServerState::Up);
    }

    #[test]
    fn retry_budget_allows_one_request_in_eight() {
        let retries = RetryBudget::default();
        let allowed = |requests: std::ops::Range<u64>| requests.filter(|count| retries.take(*count)).count();
        assert_eq!(allowed(0..100), 100);
        assert_eq!(allowed(100..801), 100);
    }
}
