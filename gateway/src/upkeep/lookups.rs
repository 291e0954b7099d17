//! Periodic lookups of server names: when their records expire, and soon after a failure.
//!
//! By default the system's `resolv.conf` determines the name servers, as it is when a configuration
//! starts to serve. Names in the hosts file need no lookup. With configured name servers, no file
//! is read and search domains do not apply. Results are stored only with the servers: there is no
//! cache, so every lookup queries a name server, and a negative answer lasts only until the next
//! lookup.

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

use crate::servers::ServerPool;
use crossgate_config::model;

/// The bounds of a record's time to live.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(300);
/// The pause after a failed lookup. It doubles with each further failure, up to the maximum.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The maximum time of one lookup, with all search domains and name servers.
const LOOKUP_MAX: Duration = Duration::from_secs(30);
/// The defaults for configured name servers: the time of one attempt, and the attempts after the
/// first.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// The maximum number of concurrent lookups. Each needs two file descriptors of the gateway's own
/// share.
const LOOKUPS_MAX: usize = 32;
/// The maximum number of addresses of one name.
const ADDRESSES_MAX: usize = 256;

/// The sources of lookups.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LookupSource {
    configured: model::Resolver,
    /// The contents of `resolv.conf` and `hosts`, if they are used.
    files: Option<[Vec<u8>; 2]>,
}

impl LookupSource {
    /// The configured sources, with the current contents of the system's files.
    pub(super) fn now(configured: &model::Resolver) -> Self {
        let read = |path: &str| std::fs::read(path).unwrap_or_default();
        let files = configured.servers.is_empty().then(|| ["/etc/resolv.conf", "/etc/hosts"].map(read));
        LookupSource { configured: configured.clone(), files }
    }
}

pub(super) struct NameResolver {
    source: LookupSource,
    resolver: Result<TokioResolver, String>,
    hosts: Hosts,
    slots: Semaphore,
}

/// The addresses of a name, and how long they are valid.
struct ResolvedAddresses {
    addresses: Vec<IpAddr>,
    valid: Duration,
}

impl NameResolver {
    pub(super) fn new(source: LookupSource) -> Self {
        let (config, mut options) = match &source.files {
            Some([resolv_conf, _]) => system_config(resolv_conf),
            None => (servers_config(&source.configured.servers), ResolverOpts::default()),
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
        NameResolver { source, resolver, hosts, slots: Semaphore::new(LOOKUPS_MAX) }
    }

    pub(super) fn source(&self) -> &LookupSource {
        &self.source
    }

    async fn resolve(&self, name: &str) -> Result<ResolvedAddresses, String> {
        #[cfg(test)]
        crate::fault::panic_for_name("lookups", name);
        if let Some(addresses) = self.in_hosts(name) {
            return Ok(ResolvedAddresses { addresses, valid: TTL_MAX });
        }
        let resolver = self.resolver.as_ref()?;
        let _slot = self.slots.acquire().await;
        let looked_up = timeout(LOOKUP_MAX, resolver.lookup_ip(name)).await;
        let lookup = looked_up.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
        let mut addresses: Vec<IpAddr> = lookup.iter().collect();
        addresses.sort_unstable();
        addresses.truncate(ADDRESSES_MAX);
        if addresses.is_empty() {
            return Err("the name has no addresses".to_owned());
        }
        Ok(ResolvedAddresses { addresses, valid: lookup.valid_until().saturating_duration_since(Instant::now()) })
    }

    fn in_hosts(&self, name: &str) -> Option<Vec<IpAddr>> {
        let name = Name::from_ascii(name).ok()?;
        let of = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let lookups = [RecordType::A, RecordType::AAAA].map(of);
        let records = lookups.iter().flatten().flat_map(|lookup| lookup.answers());
        let addresses: Vec<_> = records.filter_map(|record| record.data.ip_addr()).collect();
        Some(addresses).filter(|addresses| !addresses.is_empty())
    }
}

/// The configuration from `resolv.conf`. Without a usable one, the name server is 127.0.0.1, as in
/// the C library (resolv.conf(5)).
fn system_config(resolv_conf: &[u8]) -> (ResolverConfig, ResolverOpts) {
    system_conf::parse_resolv_conf(resolv_conf).unwrap_or_else(|error| {
        tracing::debug!(%error, "no name server in resolv.conf");
        (servers_config(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 53))]), ResolverOpts::default())
    })
}

fn servers_config(servers: &[SocketAddr]) -> ResolverConfig {
    let config = |server: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        NameServerConfig::new(server.ip(), true, connections.into())
    };
    ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(config).collect())
}

/// Keeps the addresses of the name at `index` current. `answered` is dropped after the first
/// lookup.
pub(super) async fn follow(
    names: Arc<NameResolver>,
    servers: Arc<ServerPool>,
    index: usize,
    name: Arc<str>,
    mut answered: Option<Sender<()>>,
) {
    let mut failures = 0;
    loop {
        let wait = match names.resolve(&name).await {
            Ok(ResolvedAddresses { addresses, valid }) => {
                failures = 0;
                servers.set_addresses(index, addresses);
                valid.clamp(TTL_MIN, TTL_MAX)
            }
            Err(why) => {
                servers.mark_lost(index, &why);
                failures += 1;
                retry_after(failures)
            }
        };
        answered = answered.take().and(None);
        sleep(wait).await;
    }
}

/// The pause, shortened by up to 20 %, so that names that failed together are not looked up
/// together.
fn retry_after(failures: u32) -> Duration {
    let whole = RETRY_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(RETRY_MAX);
    whole.mul_f64(1.0 - 0.2 * fastrand::f64())
}
