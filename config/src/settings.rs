//! Decodes the settings of the gateway as a whole: listeners, admin, runtime, limits, shutdown,
//! access log and ledger.
//!
//! Every value has a range around its default, so that a typing mistake cannot disable a limit.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::HeaderName;
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SET_COOKIE};
use ipnet::IpNet;

use super::address_ranges;
use super::decode::{ADDRESS, ADDRESS_FORM, Decoder, SectionFields};
use super::model::{
    AccessLogSettings, Admin, AlwaysLogged, BodyMax, Http2Support, LedgerLimits, Limits, Listener, Located, LogAlways,
    LogField, LogFieldSet, LogRotation, Position, ProxyStatus, Runtime, Settings, Shutdown, Threads, TrustedBalancers,
};
use super::node::{YamlNode, YamlValue};
use super::sections;
use super::warnings::WarningCode;
use crossgate_message::health_path::HealthPath;
use crossgate_message::host;

/// Maximum number of listeners.
const LISTENERS_MAX: usize = 64;
/// Maximum length of a list of address ranges, which is searched linearly.
const ADDRESS_RANGES_MAX: usize = 256;
/// Maximum number of host names of the admin listener, which are searched linearly.
const ADMIN_HOSTS_MAX: usize = 64;
/// Maximum number of fields in a head: the limit of Pingora's parser.
const HEAD_FIELDS_MAX: u32 = 256;
const THREADS_MAX: u32 = 1_024;
/// Maximum number of concurrent requests on one HTTP/2 connection. Each may use as much memory as a
/// connection over HTTP/1.1.
const HTTP2_STREAMS_MAX: u32 = 10_000;
/// The default port of https URLs.
const HTTPS_PORT: u16 = 443;
/// Maximum number of header fields in a line of the access log: each costs a lookup per request.
const LOG_HEADERS_MAX: usize = 16;
/// Header fields that hold credentials.
const SECRET_HEADERS: [HeaderName; 4] = [COOKIE, AUTHORIZATION, PROXY_AUTHORIZATION, SET_COOKIE];
/// Default number of rotated files of the access log.
const ROTATED_FILES: u32 = 10;
/// Maximum number of rotated files: each rotation renames them one by one.
const ROTATED_FILES_MAX: u32 = 1_000;
/// The size of one write.
const ROTATED_BYTES_MIN: u64 = 64 << 10;
const CONNECTIONS_MAX: u32 = 100_000_000;
/// Maximum number of origins in the ledger: half a gibibyte if all have the maximum length.
const LEDGER_ORIGINS_MAX: u32 = 1_000_000;
/// Maximum number of origins of one tenant, which are searched linearly.
const LEDGER_ORIGINS_MAX_TENANT: u32 = 4_096;

/// A range from milliseconds to seconds.
pub(super) const fn duration_range(low_ms: u64, high_s: u64) -> RangeInclusive<Duration> {
    Duration::from_millis(low_ms)..=Duration::from_secs(high_s)
}

impl Decoder<'_> {
    pub(super) fn settings(&mut self, main: &SectionFields<'_>) -> Settings {
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
            proxy_status: match main.find("proxyStatus").and_then(|node| self.flag(node)) {
                Some(false) => ProxyStatus::Off,
                Some(true) | None => ProxyStatus::Sent,
            },
        };
        let admin = admin.map(|(at, admin)| (at, admin.address));
        self.check_addresses(listeners.iter().map(|(at, listener)| (*at, listener.address)).chain(admin));
        settings
    }

    fn listeners(&mut self, main: &SectionFields<'_>) -> Vec<(Position, Listener)> {
        let Some(node) = self.required(main, "listeners") else {
            return Vec::new();
        };
        let items = self.section_list(node, "a list of listeners", LISTENERS_MAX, &sections::LISTENER);
        if let YamlValue::List(items) = &node.value
            && items.is_empty()
        {
            self.error(node.at, "empty list of listeners; write one such as { address: 127.0.0.1:8080 }");
        }
        items.iter().filter_map(|item| self.listener(item)).collect()
    }

    fn listener(&mut self, node: &YamlNode) -> Option<(Position, Listener)> {
        let fields = self.fields(node, &sections::LISTENER)?;
        let trusted_proxies = fields.find("trustedProxies").map_or(Vec::new(), |node| self.trusted_proxies(node));
        let tls = fields.find("tls").map(|node| self.listener_tls(node));
        let proxy_protocol = fields.find("proxyProtocol").and_then(|node| self.proxy_protocol(node));
        let http2 = match fields.find("http2").and_then(|node| self.flag(node)) {
            Some(false) => Http2Support::Off,
            Some(true) | None => Http2Support::Offered,
        };
        let health_path = fields.find("healthPath").and_then(|node| {
            let value = self.parse_text(node, "a health path", HealthPath::parse)?;
            Some(Located { value, at: node.at })
        });
        let node = self.required(&fields, "address")?;
        let address = self.address(node)?;
        if address.port() == HTTPS_PORT && tls.is_none() {
            let message = "port 443 is for https, but this listener has no TLS; add tls, or use another port";
            self.warn(WarningCode::ClearTextHttpsPort, node.at, message);
        }
        Some((node.at, Listener { address, trusted_proxies, tls, proxy_protocol, http2, health_path }))
    }

    fn trusted_proxies(&mut self, node: &YamlNode) -> Vec<IpNet> {
        let ranges = self.address_ranges(node);
        if address_ranges::are_open(&ranges) {
            let message =
                "any client can forge X-Forwarded-For and X-Forwarded-Proto; list only the addresses of the proxies";
            self.warn(WarningCode::OpenTrustedProxies, find_open_range(node), message);
        }
        ranges
    }

    fn proxy_protocol(&mut self, node: &YamlNode) -> Option<TrustedBalancers> {
        let fields = self.fields(node, &sections::PROXY_PROTOCOL)?;
        let node = self.required(&fields, "from")?;
        let from = self.address_ranges(node);
        if let YamlValue::List(items) = &node.value
            && items.is_empty()
        {
            self.error(node.at, "empty list of balancers; write their addresses, such as 10.0.0.0/8");
        }
        if address_ranges::are_open(&from) {
            let message = "any client can connect as a balancer and forge client addresses; list only the addresses of the balancers";
            self.warn(WarningCode::OpenProxyProtocol, find_open_range(node), message);
        }
        Some(TrustedBalancers { from })
    }

    fn address_ranges(&mut self, node: &YamlNode) -> Vec<IpNet> {
        let ranges = self.list(node, "a list of address ranges", ADDRESS_RANGES_MAX);
        ranges.iter().filter_map(|node| self.address_range(node)).collect()
    }

    /// Reports sockets that the system would refuse, since an earlier one has the address.
    fn check_addresses(&mut self, addresses: impl Iterator<Item = (Position, SocketAddr)>) {
        let mut seen: Vec<(Position, SocketAddr)> = Vec::new();
        for (at, address) in addresses {
            match seen.iter().find(|(_, earlier)| collide(*earlier, address)) {
                Some((first, earlier)) if *earlier == address => {
                    self.clash(at, format!("two listeners have the address {address}; give each its own"), *first)
                }
                Some((first, earlier)) => {
                    let what = format!("the addresses {address} and {earlier} overlap");
                    self.clash(at, format!("{what}; give each its own port, or keep one"), *first);
                }
                None => seen.push((at, address)),
            }
        }
    }

    /// An IP address with a port.
    pub(super) fn address(&mut self, node: &YamlNode) -> Option<SocketAddr> {
        self.parse_host(node, ADDRESS, |text| text.parse::<SocketAddr>().map_err(|_| ADDRESS_FORM))
    }

    fn address_range(&mut self, node: &YamlNode) -> Option<IpNet> {
        self.parse_text(node, "an address range", |text| {
            let range: IpNet = text.parse().map_err(|_| "write one such as 10.0.0.0/8 or 2001:db8::/32".to_owned())?;
            let whole = range.trunc();
            if whole == range { Ok(range) } else { Err(format!("bits after the prefix are set; write {whole}")) }
        })
    }

    fn admin(&mut self, node: &YamlNode) -> Option<(Position, Admin)> {
        let fields = self.fields(node, &sections::ADMIN)?;
        let mut file = |key| {
            let node = fields.find(key)?;
            let value = self.path(node)?;
            Some(Located { value, at: node.at })
        };
        let (token_file, read_token_file) = (file("tokenFile"), file("readTokenFile"));
        let open_metrics = fields.find("openMetrics").and_then(|node| self.flag(node)).unwrap_or(false);
        let hosts =
            fields.find("hosts").map_or(&[][..], |node| self.list(node, "a list of host names", ADMIN_HOSTS_MAX));
        let hosts = hosts.iter().filter_map(|node| self.plain_host(node)).collect();
        let node = self.required(&fields, "address")?;
        let address = self.address(node)?;
        // Other machines could reload the configuration and read origins without a token.
        if !address.ip().to_canonical().is_loopback() && fields.find("tokenFile").is_none() {
            let message = "other machines can reach the admin listener; set tokenFile, or a loopback address such as 127.0.0.1:9900";
            self.error(node.at, message);
        }
        if let Some(second) = fields.find("readTokenFile").filter(|_| fields.find("tokenFile").is_none()) {
            self.error(second.at, "readTokenFile needs tokenFile; set both");
        }
        Some((node.at, Admin { address, token_file, read_token_file, open_metrics, hosts }))
    }

    fn plain_host(&mut self, node: &YamlNode) -> Option<Box<str>> {
        self.parse_host(node, "a host name", |text| match host::parse_authority(text.as_bytes()) {
            Ok(authority) if authority.port.is_none() => Ok(Box::from(authority.host)),
            Ok(_) => Err("write it without the port".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    fn runtime(&mut self, node: &YamlNode) -> Option<Runtime> {
        let fields = self.fields(node, &sections::RUNTIME)?;
        Some(Runtime { threads: fields.find("threads").and_then(|node| self.threads(node)).unwrap_or_default() })
    }

    fn threads(&mut self, node: &YamlNode) -> Option<Threads> {
        if let YamlValue::Text(_) = &node.value {
            return self.choice(node, &[("auto", Threads::Auto)]);
        }
        let count = usize::try_from(self.count(node, 1..=THREADS_MAX)?).ok()?;
        NonZeroUsize::new(count).map(Threads::Count)
    }

    fn limits(&mut self, node: &YamlNode) -> Option<Limits> {
        let fields = self.fields(node, &sections::LIMITS)?;
        let old = Limits::default();
        let mut most = |key| fields.find(key).and_then(|node| self.count(node, 1..=CONNECTIONS_MAX));
        let (max_connections, max_connections_per_client) = (most("maxConnections"), most("maxConnectionsPerClient"));
        let limits = Limits {
            max_connections,
            max_connections_per_client,
            tls_handshake: self.duration_or(&fields, "tlsHandshake", duration_range(100, 300), old.tls_handshake),
            head: self.duration_or(&fields, "head", duration_range(100, 300), old.head),
            head_fields: self.count_or(&fields, "headFields", 1..=HEAD_FIELDS_MAX, old.head_fields),
            head_field_bytes: self.size_or(&fields, "headFieldBytes", 256..=256 << 10, old.head_field_bytes),
            head_bytes: self.size_or(&fields, "headBytes", 1 << 10..=1 << 20, old.head_bytes),
            keep_alive_idle: self.duration_or(
                &fields,
                "keepAliveIdle",
                duration_range(1_000, 3_600),
                old.keep_alive_idle,
            ),
            keep_alive_requests: self.count_or(&fields, "keepAliveRequests", 1..=1_000_000, old.keep_alive_requests),
            max_request_body: fields
                .find("maxRequestBody")
                .and_then(|node| self.body_max(node))
                .unwrap_or(old.max_request_body),
            min_body_rate: self.size_or(&fields, "minBodyRate", 0..=1 << 30, old.min_body_rate),
            min_body_rate_after: self.duration_or(
                &fields,
                "minBodyRateAfter",
                duration_range(1_000, 3_600),
                old.min_body_rate_after,
            ),
            write_stall: self.duration_or(&fields, "writeStall", duration_range(1_000, 3_600), old.write_stall),
            drain_bytes: self.size_or(&fields, "drainBytes", 0..=64 << 20, old.drain_bytes),
            drain_time: self.duration_or(&fields, "drainTime", duration_range(0, 300), old.drain_time),
            http2_streams: self.count_or(&fields, "http2Streams", 1..=HTTP2_STREAMS_MAX, old.http2_streams),
            http2_idle: self.duration_or(&fields, "http2Idle", duration_range(1_000, 3_600), old.http2_idle),
            rules: fields.find("rules").and_then(|node| self.rule_bounds(node)).unwrap_or_default(),
        };
        self.check_head_bytes(&fields, &limits);
        Some(limits)
    }

    fn check_head_bytes(&mut self, fields: &SectionFields<'_>, limits: &Limits) {
        if limits.head_field_bytes > limits.head_bytes {
            let node = fields.find("headFieldBytes").or_else(|| fields.find("headBytes"));
            let at = node.map_or(fields.at(), |node| node.at);
            self.error(at, "headFieldBytes is larger than headBytes; write at most headBytes");
        }
    }

    fn body_max(&mut self, node: &YamlNode) -> Option<BodyMax> {
        match &node.value {
            YamlValue::Text(text) if &**text == "unlimited" => Some(BodyMax::Unlimited),
            YamlValue::Text(_)
            | YamlValue::Int(_)
            | YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Float(_)
            | YamlValue::List(_)
            | YamlValue::Map(_) => self.size(node, 0..=1 << 50).map(BodyMax::Bytes),
        }
    }

    fn shutdown(&mut self, node: &YamlNode) -> Option<Shutdown> {
        let fields = self.fields(node, &sections::SHUTDOWN)?;
        let old = Shutdown::default();
        Some(Shutdown {
            drain_delay: self.duration_or(&fields, "drainDelay", duration_range(0, 3_600), old.drain_delay),
            grace: self.duration_or(&fields, "grace", duration_range(0, 86_400), old.grace),
        })
    }

    fn access_log(&mut self, node: &YamlNode) -> Option<AccessLogSettings> {
        let fields = self.fields(node, &sections::ACCESS_LOG)?;
        let old = AccessLogSettings::default();
        let path = fields.find("path").and_then(|node| Some(Located { value: self.path(node)?, at: node.at }));
        let rotation = fields.find("rotate").and_then(|node| {
            if fields.find("path").is_none() {
                self.error(node.at, "standard output cannot be rotated; set path, or remove rotate");
            }
            self.rotation(node)
        });
        Some(AccessLogSettings {
            path,
            rotation,
            always: fields.find("always").map_or(old.always, |node| self.always(node)),
            fields: fields.find("fields").map_or(old.fields, |node| self.log_fields(node)),
            headers: fields.find("headers").map_or_else(Vec::new, |node| self.log_headers(node)),
            level: fields.find("level").and_then(|node| self.variant(node)).unwrap_or(old.level),
            sample: fields.find("sample").and_then(|node| self.share(node)).unwrap_or(old.sample),
        })
    }

    fn rotation(&mut self, node: &YamlNode) -> Option<LogRotation> {
        let fields = self.fields(node, &sections::ROTATE)?;
        let count = self.count_or(&fields, "count", 1..=ROTATED_FILES_MAX, ROTATED_FILES);
        let node = self.required(&fields, "size")?;
        let size = self.size(node, ROTATED_BYTES_MIN..=1 << 40)?;
        Some(LogRotation { size, count })
    }

    fn always(&mut self, node: &YamlNode) -> LogAlways {
        let mut always = LogAlways::default();
        for node in self.list(node, "a list of deny and error", 2) {
            match self.variant(node) {
                Some(AlwaysLogged::Deny) => always.deny = true,
                Some(AlwaysLogged::Error) => always.error = true,
                None => {}
            }
        }
        always
    }

    fn log_fields(&mut self, node: &YamlNode) -> LogFieldSet {
        let choices = LogField::ALL.map(|field| (field.as_str(), field));
        let listed = self.list(node, "a list of fields", LogField::ALL.len());
        if let YamlValue::List(items) = &node.value
            && items.is_empty()
        {
            self.error(node.at, "empty list of fields; write at least one, or level: Off");
        }
        listed.iter().filter_map(|node| self.choice(node, &choices)).collect()
    }

    fn log_headers(&mut self, node: &YamlNode) -> Vec<HeaderName> {
        let mut names = Vec::new();
        for node in self.list(node, "a list of header names", LOG_HEADERS_MAX) {
            let hint = "write one such as user-agent or referer";
            let parse = |text: &str| HeaderName::from_bytes(text.as_bytes()).map_err(|_| hint);
            let Some(name) = self.parse_text(node, "a header name", parse) else { continue };
            // Readers of the log could use the credentials.
            if SECRET_HEADERS.contains(&name) {
                self.error(
                    node.at,
                    format!("the header `{name}` contains credentials and cannot be logged; remove it"),
                );
            } else if names.contains(&name) {
                self.error(node.at, format!("duplicate header `{name}`; keep one"));
            } else {
                names.push(name);
            }
        }
        names
    }

    fn ledger(&mut self, node: &YamlNode) -> Option<LedgerLimits> {
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

    pub(super) fn duration_or(
        &mut self,
        fields: &SectionFields<'_>,
        key: &str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        fields.find(key).and_then(|node| self.duration(node, range)).unwrap_or(default)
    }

    pub(super) fn count_or(
        &mut self,
        fields: &SectionFields<'_>,
        key: &str,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> u32 {
        fields.find(key).and_then(|node| self.count(node, range)).unwrap_or(default)
    }

    pub(super) fn size_or<T: TryFrom<u64>>(
        &mut self,
        fields: &SectionFields<'_>,
        key: &str,
        range: RangeInclusive<u64>,
        default: T,
    ) -> T {
        let size = fields.find(key).and_then(|node| self.size(node, range));
        size.and_then(|size| T::try_from(size).ok()).unwrap_or(default)
    }
}

/// The location of the range that alone is too wide, or of the list.
fn find_open_range(list: &YamlNode) -> Position {
    let YamlValue::List(items) = &list.value else { return list.at };
    let is_open = |item: &&YamlNode| match &item.value {
        YamlValue::Text(text) => text.parse().is_ok_and(|range| address_ranges::are_open(&[range])),
        YamlValue::Null
        | YamlValue::Bool(_)
        | YamlValue::Int(_)
        | YamlValue::Float(_)
        | YamlValue::List(_)
        | YamlValue::Map(_) => false,
    };
    items.iter().find(is_open).map_or(list.at, |item| item.at)
}

/// Whether the system would refuse the second of two sockets.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    // A dual-stack socket on `[::]` accepts IPv4 too. Port 0 is a different port for each socket.
    let takes_in = |wide: IpAddr, other: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || other.is_ipv4());
    let (x, y) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && a.port() != 0 && (x == y || takes_in(x, y) || takes_in(y, x))
}
