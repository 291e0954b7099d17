//! Looks up the names of servers, again and again: as their records expire, and after a failure soon.
//!
//! By default the system's files say who is asked, as they are when a configuration begins to serve; what the hosts file has is asked of
//! nobody. Configured name servers are asked about names as they stand, and no file is. Answers are kept nowhere but with the servers, so
//! that each lookup is a real one and a negative answer is not believed for longer than until the next.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::config::model;
use crate::servers::Servers;

/// Records are believed at least, and at most, for so long.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(300);
/// After a failure it is tried again this soon, then after twice the time each.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// One lookup, whatever the search domains and name servers.
const LOOKUP_MAX: Duration = Duration::from_secs(30);
/// Of a name server that is configured here: one try, of which there are three.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// Lookups under way at one time, each with two open files of the gateway's own share.
const LOOKUPS_MAX: usize = 32;
/// Addresses of one name.
const ADDRESSES_MAX: usize = 256;

/// Who is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    configured: model::Resolver,
    /// The system's files where those are asked: `resolv.conf` and `hosts`.
    files: Option<[Vec<u8>; 2]>,
}

impl Source {
    /// As configured, with the system's files as they are now.
    pub(super) fn now(configured: &model::Resolver) -> Self {
        let read = |path: &str| std::fs::read(path).unwrap_or_default();
        let files = configured.servers.is_empty().then(|| ["/etc/resolv.conf", "/etc/hosts"].map(read));
        Source { configured: configured.clone(), files }
    }
}

/// Resolves names.
pub(super) struct Names {
    source: Source,
    resolver: Result<TokioResolver, String>,
    hosts: Hosts,
    slots: Semaphore,
}

/// Where a name leads, and for how long.
struct Resolved {
    addresses: Vec<IpAddr>,
    valid: Duration,
}

impl Names {
    pub(super) fn new(source: Source) -> Self {
        let (config, mut options) = match &source.files {
            Some([resolv_conf, _]) => of_system(resolv_conf),
            None => (of_servers(&source.configured.servers), ResolverOpts::default()),
        };
        if source.files.is_none() {
            (options.timeout, options.attempts) = (TIMEOUT_DEFAULT, ATTEMPTS);
        }
        options.timeout = source.configured.timeout.unwrap_or(options.timeout);
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 0;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let resolver = builder.build().map_err(|error| error.to_string());
        let hosts = source.files.as_ref().and_then(|_| Hosts::from_system().ok()).unwrap_or_default();
        Names { source, resolver, hosts, slots: Semaphore::new(LOOKUPS_MAX) }
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    async fn resolve(&self, name: &str) -> Result<Resolved, String> {
        if let Some(addresses) = self.in_hosts(name) {
            return Ok(Resolved { addresses, valid: TTL_MAX });
        }
        let resolver = self.resolver.as_ref()?;
        let _slot = self.slots.acquire().await;
        let looked_up = timeout(LOOKUP_MAX, resolver.lookup_ip(name)).await;
        let found = looked_up.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
        let mut addresses: Vec<IpAddr> = found.iter().collect();
        addresses.sort_unstable();
        addresses.truncate(ADDRESSES_MAX);
        if addresses.is_empty() {
            return Err("it has no addresses".to_owned());
        }
        Ok(Resolved { addresses, valid: found.valid_until().saturating_duration_since(Instant::now()) })
    }

    fn in_hosts(&self, name: &str) -> Option<Vec<IpAddr>> {
        let name = Name::from_ascii(name).ok()?;
        let of = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let found = [RecordType::A, RecordType::AAAA].map(of);
        let records = found.iter().flatten().flat_map(|lookup| lookup.answers());
        let addresses: Vec<_> = records.filter_map(|record| record.data.ip_addr()).collect();
        Some(addresses).filter(|addresses| !addresses.is_empty())
    }
}

/// As `resolv.conf` says; without one that can be used this machine is asked, as by the C library.
fn of_system(resolv_conf: &[u8]) -> (ResolverConfig, ResolverOpts) {
    system_conf::parse_resolv_conf(resolv_conf).unwrap_or_else(|error| {
        tracing::debug!(%error, "no name server in resolv.conf");
        (of_servers(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 53))]), ResolverOpts::default())
    })
}

fn of_servers(servers: &[SocketAddr]) -> ResolverConfig {
    let config = |server: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        NameServerConfig::new(server.ip(), true, connections.into())
    };
    ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(config).collect())
}

/// Keeps the servers informed about where the name at `place` leads. `answered` is let go of after the first lookup.
pub(super) async fn follow(
    names: Arc<Names>,
    servers: Arc<Servers>,
    place: usize,
    name: Box<str>,
    answered: Sender<()>,
) {
    let mut answered = Some(answered);
    let mut failures = 0;
    loop {
        let wait = match names.resolve(&name).await {
            Ok(Resolved { addresses, valid }) => {
                failures = 0;
                servers.found_at(place, addresses);
                valid.clamp(TTL_MIN, TTL_MAX)
            }
            Err(why) => {
                servers.lost_at(place, &why);
                failures += 1;
                retry_after(failures)
            }
        };
        answered = answered.take().and(None);
        sleep(wait).await;
    }
}

/// Up to a fifth less, so that names which were lost together are not looked up together.
fn retry_after(failures: u32) -> Duration {
    let whole = RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(RETRY_MAX);
    whole.mul_f64(1.0 - 0.2 * fastrand::f64())
}
