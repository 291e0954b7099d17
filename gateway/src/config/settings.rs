//! Decodes what concerns the gateway as a whole: listeners, admin, runtime, limits, shutdown, access log, resolver.
//!
//! Every value has a range, with room on both sides of its default, so that no typing mistake switches a limit off.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use super::decode::{Decoder, Fields};
use super::diagnostics::Diagnostic;
use super::model::{
    AccessLog, Admin, At, Balancers, BodyMax, Limits, Listener, Located, LogLevel, Runtime, Settings, Shutdown, Threads,
};
use super::sections;
use super::tree::{Node, Value};
use crate::host;
use crate::http2::Http2;
use crate::ledger::LedgerLimits;

/// Data listeners: enough for every address family and port anybody has needed.
const LISTENERS_MAX: usize = 64;
/// Address ranges in one list of a listener. They are asked one after the other.
const ADDRESS_RANGES_MAX: usize = 256;
/// Names of the admin listener. They are asked one after the other.
const ADMIN_HOSTS_MAX: usize = 64;
/// Fields of a head: Pingora's own parser stops there.
const HEAD_FIELDS_MAX: u32 = 256;
/// Worker threads.
const THREADS_MAX: u32 = 1_024;
/// Requests at one time on a connection over HTTP/2: each may hold what one connection over HTTP/1.1 does.
const HTTP2_STREAMS_MAX: u32 = 10_000;
const CONNECTIONS_MAX: u32 = 100_000_000;
/// Origins of the ledger: half a gibibyte, should all be as long as they can be.
const LEDGER_ORIGINS_MAX: u32 = 1_000_000;
/// Of one tenant. They are looked through.
const LEDGER_ORIGINS_MAX_TENANT: u32 = 4_096;

/// From so many milliseconds to so many seconds.
pub(super) const fn span(low_ms: u64, high_s: u64) -> RangeInclusive<Duration> {
    Duration::from_millis(low_ms)..=Duration::from_secs(high_s)
}

impl Decoder<'_> {
    /// What the main file says of the gateway as a whole.
    pub(super) fn settings(&mut self, main: &Fields<'_>) -> Settings {
        let listeners = self.listeners(main);
        let admin = main.find("admin").and_then(|node| self.admin(node));
        let defaults = Settings::default();
        let settings = Settings {
            runtime: main.find("runtime").and_then(|node| self.runtime(node)).unwrap_or_default(),
            limits: main.find("limits").and_then(|node| self.limits(node)).unwrap_or(defaults.limits),
            shutdown: main.find("shutdown").and_then(|node| self.shutdown(node)).unwrap_or(defaults.shutdown),
            access_log: main.find("accessLog").and_then(|node| self.access_log(node)).unwrap_or(defaults.access_log),
            ledger: main.find("ledger").and_then(|node| self.ledger(node)).unwrap_or(defaults.ledger),
            listeners: listeners.iter().map(|(_, listener)| listener.clone()).collect(),
            admin: admin.as_ref().map(|(_, admin)| admin.clone()),
            resolver: main.find("resolver").and_then(|node| self.resolver(node)).unwrap_or_default(),
        };
        let admin = admin.map(|(at, admin)| (at, admin.address));
        self.check_addresses(listeners.iter().map(|(at, listener)| (*at, listener.address)).chain(admin));
        settings
    }

    fn listeners(&mut self, main: &Fields<'_>) -> Vec<(At, Listener)> {
        let Some(node) = self.required(main, "listeners") else {
            return Vec::new();
        };
        let items = self.list(node, "a list of listeners", LISTENERS_MAX);
        if let Value::List(items) = &node.value
            && items.is_empty()
        {
            self.error(node.at, "there is no listener; write one such as { address: 127.0.0.1:8080 }");
        }
        items.iter().filter_map(|item| self.listener(item)).collect()
    }

    fn listener(&mut self, node: &Node) -> Option<(At, Listener)> {
        let fields = self.fields(node, &sections::LISTENER)?;
        let trusted_proxies = fields.find("trustedProxies").map_or(Vec::new(), |node| self.address_ranges(node));
        let tls = fields.find("tls").map(|node| self.listener_tls(node));
        let proxy_protocol = fields.find("proxyProtocol").and_then(|node| self.proxy_protocol(node));
        let http2 = match fields.find("http2").and_then(|node| self.flag(node)) {
            Some(false) => Http2::Off,
            Some(true) | None => Http2::Offered,
        };
        let node = self.required(&fields, "address")?;
        let address = self.address(node)?;
        Some((node.at, Listener { address, trusted_proxies, tls, proxy_protocol, http2 }))
    }

    fn proxy_protocol(&mut self, node: &Node) -> Option<Balancers> {
        let fields = self.fields(node, &sections::PROXY_PROTOCOL)?;
        let node = self.required(&fields, "from")?;
        let from = self.address_ranges(node);
        if let Value::List(items) = &node.value
            && items.is_empty()
        {
            self.error(node.at, "nobody could connect; write the addresses of the balancers, such as 10.0.0.0/8");
        }
        if from.iter().any(|range| range.prefix_len() == 0) {
            let message = "everybody may connect, and say who they are; write the addresses of the balancers alone";
            self.found.push(Diagnostic::warning(self.file, node.at, message));
        }
        Some(Balancers { from })
    }

    fn address_ranges(&mut self, node: &Node) -> Vec<IpNet> {
        let ranges = self.list(node, "a list of address ranges", ADDRESS_RANGES_MAX);
        ranges.iter().filter_map(|node| self.address_range(node)).collect()
    }

    /// Two sockets cannot have one address.
    fn check_addresses(&mut self, addresses: impl Iterator<Item = (At, SocketAddr)>) {
        let mut seen: Vec<(At, SocketAddr)> = Vec::new();
        for (at, address) in addresses {
            match seen.iter().find(|(_, earlier)| collide(*earlier, address)) {
                Some((first, earlier)) if *earlier == address => {
                    self.clash(at, format!("two listeners have the address {address}; give each its own"), *first)
                }
                Some((first, earlier)) => {
                    let what = format!("of {address} and {earlier} one takes in the other");
                    self.clash(at, format!("{what}; give each its own port, or keep one"), *first);
                }
                None => seen.push((at, address)),
            }
        }
    }

    /// An address and port to listen on or to connect to.
    pub(super) fn address(&mut self, node: &Node) -> Option<SocketAddr> {
        let hint = "write an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080 (names are not looked up)";
        self.parsed(node, "an address", |text| text.parse::<SocketAddr>().map_err(|_| hint))
    }

    fn address_range(&mut self, node: &Node) -> Option<IpNet> {
        self.parsed(node, "an address range", |text| {
            let range: IpNet = text.parse().map_err(|_| "write one such as 10.0.0.0/8 or 2001:db8::/32".to_owned())?;
            let whole = range.trunc();
            if whole == range { Ok(range) } else { Err(format!("bits after the prefix are set; write {whole}")) }
        })
    }

    fn admin(&mut self, node: &Node) -> Option<(At, Admin)> {
        let fields = self.fields(node, &sections::ADMIN)?;
        let token_file = fields.find("tokenFile").and_then(|node| {
            let value = self.path(node)?;
            Some(Located { value, at: node.at })
        });
        let open_metrics = fields.find("openMetrics").and_then(|node| self.flag(node)).unwrap_or(false);
        let hosts =
            fields.find("hosts").map_or(&[][..], |node| self.list(node, "a list of host names", ADMIN_HOSTS_MAX));
        let hosts = hosts.iter().filter_map(|node| self.plain_host(node)).collect();
        let node = self.required(&fields, "address")?;
        let address = self.address(node)?;
        if !address.ip().to_canonical().is_loopback() && fields.find("tokenFile").is_none() {
            self.error(node.at, "the admin listener can be reached from other machines; give it a tokenFile, or an address such as 127.0.0.1:9900");
        }
        Some((node.at, Admin { address, token_file, open_metrics, hosts }))
    }

    fn plain_host(&mut self, node: &Node) -> Option<Box<str>> {
        self.parsed(node, "a host name", |text| match host::parse_authority(text.as_bytes()) {
            Ok(authority) if authority.port.is_none() => Ok(Box::from(authority.host)),
            Ok(_) => Err("write it without its port".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    fn runtime(&mut self, node: &Node) -> Option<Runtime> {
        let fields = self.fields(node, &sections::RUNTIME)?;
        Some(Runtime { threads: fields.find("threads").and_then(|node| self.threads(node)).unwrap_or_default() })
    }

    fn threads(&mut self, node: &Node) -> Option<Threads> {
        if let Value::Text(_) = &node.value {
            return self.choice(node, &[("auto", Threads::Auto)]);
        }
        let count = usize::try_from(self.count(node, 1..=THREADS_MAX)?).ok()?;
        NonZeroUsize::new(count).map(Threads::Count)
    }

    fn limits(&mut self, node: &Node) -> Option<Limits> {
        let fields = self.fields(node, &sections::LIMITS)?;
        let old = Limits::default();
        let mut most = |key| fields.find(key).and_then(|node| self.count(node, 1..=CONNECTIONS_MAX));
        let (max_connections, max_connections_per_client) = (most("maxConnections"), most("maxConnectionsPerClient"));
        let limits = Limits {
            max_connections,
            max_connections_per_client,
            tls_handshake: self.duration_or(&fields, "tlsHandshake", span(100, 300), old.tls_handshake),
            head: self.duration_or(&fields, "head", span(100, 300), old.head),
            head_fields: self.count_or(&fields, "headFields", 1..=HEAD_FIELDS_MAX, old.head_fields),
            head_field_bytes: self.size_or(&fields, "headFieldBytes", 256..=256 << 10, old.head_field_bytes),
            head_bytes: self.size_or(&fields, "headBytes", 1 << 10..=1 << 20, old.head_bytes),
            keep_alive_idle: self.duration_or(&fields, "keepAliveIdle", span(1_000, 3_600), old.keep_alive_idle),
            keep_alive_requests: self.count_or(&fields, "keepAliveRequests", 1..=1_000_000, old.keep_alive_requests),
            max_request_body: fields
                .find("maxRequestBody")
                .and_then(|node| self.body_max(node))
                .unwrap_or(old.max_request_body),
            min_body_rate: self.size_or(&fields, "minBodyRate", 0..=1 << 30, old.min_body_rate),
            min_body_rate_after: self.duration_or(
                &fields,
                "minBodyRateAfter",
                span(1_000, 3_600),
                old.min_body_rate_after,
            ),
            write_stall: self.duration_or(&fields, "writeStall", span(1_000, 3_600), old.write_stall),
            drain_bytes: self.size_or(&fields, "drainBytes", 0..=64 << 20, old.drain_bytes),
            drain_time: self.duration_or(&fields, "drainTime", span(0, 300), old.drain_time),
            http2_streams: self.count_or(&fields, "http2Streams", 1..=HTTP2_STREAMS_MAX, old.http2_streams),
            http2_idle: self.duration_or(&fields, "http2Idle", span(1_000, 3_600), old.http2_idle),
            rules: fields.find("rules").and_then(|node| self.rule_bounds(node)).unwrap_or_default(),
        };
        self.check_head_bytes(&fields, &limits);
        Some(limits)
    }

    fn check_head_bytes(&mut self, fields: &Fields<'_>, limits: &Limits) {
        if limits.head_field_bytes > limits.head_bytes {
            let node = fields.find("headFieldBytes").or_else(|| fields.find("headBytes"));
            let at = node.map_or(fields.at(), |node| node.at);
            self.error(at, "one field may be larger than a whole head; headFieldBytes is at most headBytes");
        }
    }

    fn body_max(&mut self, node: &Node) -> Option<BodyMax> {
        match &node.value {
            Value::Text(text) if &**text == "unlimited" => Some(BodyMax::Unlimited),
            Value::Text(_)
            | Value::Int(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Float(_)
            | Value::List(_)
            | Value::Map(_) => self.size(node, 0..=1 << 50).map(BodyMax::Bytes),
        }
    }

    fn shutdown(&mut self, node: &Node) -> Option<Shutdown> {
        let fields = self.fields(node, &sections::SHUTDOWN)?;
        let old = Shutdown::default();
        Some(Shutdown {
            drain_delay: self.duration_or(&fields, "drainDelay", span(0, 3_600), old.drain_delay),
            grace: self.duration_or(&fields, "grace", span(0, 86_400), old.grace),
        })
    }

    fn access_log(&mut self, node: &Node) -> Option<AccessLog> {
        const LEVELS: &[(&str, LogLevel)] =
            &[("All", LogLevel::All), ("Denied", LogLevel::Denied), ("Off", LogLevel::Off)];
        let fields = self.fields(node, &sections::ACCESS_LOG)?;
        let old = AccessLog::default();
        Some(AccessLog {
            level: fields.find("level").and_then(|node| self.choice(node, LEVELS)).unwrap_or(old.level),
            sample: fields.find("sample").and_then(|node| self.share(node)).unwrap_or(old.sample),
        })
    }

    fn ledger(&mut self, node: &Node) -> Option<LedgerLimits> {
        let fields = self.fields(node, &sections::LEDGER)?;
        let old = LedgerLimits::default();
        let mut most = |key, max, default| {
            let found = fields.find(key).and_then(|node| self.count(node, 1..=max));
            found.map_or(default, |count| count as usize)
        };
        let limits = LedgerLimits {
            origins: most("origins", LEDGER_ORIGINS_MAX, old.origins),
            origins_per_tenant: most("originsPerTenant", LEDGER_ORIGINS_MAX_TENANT, old.origins_per_tenant),
        };
        let is_enabled = fields.find("enabled").and_then(|node| self.flag(node)).unwrap_or(true);
        Some(if is_enabled { limits } else { LedgerLimits::OFF })
    }

    /// The duration under a key, or the default.
    pub(super) fn duration_or(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        fields.find(key).and_then(|node| self.duration(node, range)).unwrap_or(default)
    }

    /// The number under a key, or the default.
    pub(super) fn count_or(&mut self, fields: &Fields<'_>, key: &str, range: RangeInclusive<u32>, default: u32) -> u32 {
        fields.find(key).and_then(|node| self.count(node, range)).unwrap_or(default)
    }

    pub(super) fn size_or<T: TryFrom<u64>>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        range: RangeInclusive<u64>,
        default: T,
    ) -> T {
        let size = fields.find(key).and_then(|node| self.size(node, range));
        size.and_then(|size| T::try_from(size).ok()).unwrap_or(default)
    }
}

/// Whether the second of two sockets would be refused. `[::]` takes in IPv4 too, and port 0 is a different one every time.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let takes_in = |wide: IpAddr, other: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || other.is_ipv4());
    let (x, y) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && a.port() != 0 && (x == y || takes_in(x, y) || takes_in(y, x))
}
