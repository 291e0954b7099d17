//! The decoded configuration as plain values, each with its place where a later mistake may have to point at it.
//!
//! These are what the files say, names still unresolved; `snapshot` compiles them. Two of them are equal when they say the
//! same, wherever it stands: reuse across reloads hangs on that. Defaults are those of the documented limits. Policies keep
//! their texts as written, because origins, methods and header names are the policy engine's to judge.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;

pub use super::tree::At;
use crate::host::HostPattern;
use crate::http2::Http2;

/// A value and where it was written. Equal to another when the values are.
#[derive(Debug, Clone, Copy)]
pub struct Located<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub at: At,
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Located<T> {}

/// A piece of text and where it was written.
pub type Text = Located<Box<str>>;

/// The main file, tenants of `tenantsDir` aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Main {
    /// What concerns the gateway as a whole.
    pub settings: Arc<Settings>,
    /// Where requests go.
    pub upstreams: Vec<UpstreamSpec>,
    /// Named lists of origins.
    pub origin_sets: Vec<OriginSetSpec>,
    /// Named policies.
    pub policies: Vec<PolicySpec>,
    /// The tenants written in this file.
    pub tenants: Vec<Arc<TenantSpec>>,
    /// Where more tenants are.
    pub tenants_dir: Option<Located<PathBuf>>,
    /// Where the scripts of rules are.
    pub scripts_dir: Option<Located<PathBuf>>,
}

/// What concerns the gateway as a whole, and no tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// The second listener, if wanted.
    pub admin: Option<Admin>,
    /// Threads.
    pub runtime: Runtime,
    /// Bounds on what clients may send and how long they may take.
    pub limits: Limits,
    /// How to stop.
    pub shutdown: Shutdown,
    /// What is logged of requests.
    pub access_log: AccessLog,
    /// Who is asked for the addresses of servers that have names.
    pub resolver: Resolver,
    /// How many origins are recorded.
    pub ledger: crate::ledger::LedgerLimits,
}

/// A data listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Who may speak for a client in `Forwarded` and `X-Forwarded-*`.
    pub trusted_proxies: Vec<IpNet>,
    /// What it speaks TLS with; `None` for plain text.
    pub tls: Option<ListenerTls>,
    /// Whether connections begin with a PROXY header, and whose.
    pub proxy_protocol: Option<Balancers>,
    /// Whether it speaks HTTP/2.
    pub http2: Http2,
}

/// What a listener speaks TLS with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// At least one. The first is for clients that name no host.
    pub certificates: Vec<CertificateSpec>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
}

/// A certificate as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSpec {
    /// The file with it and its issuers.
    pub certificate: Located<PathBuf>,
    /// The file with its private key.
    pub key: Located<PathBuf>,
}

/// A version of TLS. Older ones are not spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl Listener {
    /// Whether a client may speak for others.
    pub fn trusts(&self, client: IpAddr) -> bool {
        is_in(&self.trusted_proxies, client)
    }
}

/// Who passes connections on, each with a PROXY header; nobody else may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancers {
    /// Their addresses.
    pub from: Vec<IpNet>,
}

impl Balancers {
    /// Whether a peer is one of them.
    pub fn include(&self, peer: IpAddr) -> bool {
        is_in(&self.from, peer)
    }
}

/// An IPv4 peer of a dual-stack socket counts as IPv4.
fn is_in(ranges: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    ranges.iter().any(|range| range.contains(&address))
}

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Its address. Off loopback there is a token file.
    pub address: SocketAddr,
    /// The file with the bearer token.
    pub token_file: Option<Located<PathBuf>>,
    /// Whether `/metrics` needs no token.
    pub open_metrics: bool,
    /// Names it answers to, besides IP literals and `localhost`; canonical.
    pub hosts: Vec<Box<str>>,
}

/// Threads of the data listeners.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Runtime {
    /// How many.
    pub threads: Threads,
}

/// A number of threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Threads {
    /// As many as the machine has cores.
    #[default]
    Auto,
    /// This many.
    Count(NonZeroUsize),
}

impl Threads {
    /// How many that is on this machine.
    pub fn count(self) -> usize {
        match self {
            Threads::Auto => std::thread::available_parallelism().map_or(1, usize::from),
            Threads::Count(count) => count.get(),
        }
    }
}

/// Bounds on what clients may send and how long they may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Clients' connections at one time; where nothing is said, or more than that, what the limit of open files has room for.
    pub max_connections: Option<u32>,
    /// Of one client address, or IPv6 network of 64 bits; trusted proxies aside, which carry many clients.
    pub max_connections_per_client: Option<u32>,
    /// A TLS handshake, from the accept.
    pub tls_handshake: Duration,
    /// A whole request head, from its first byte.
    pub head: Duration,
    /// Fields in a head.
    pub head_fields: u32,
    /// Bytes of one field, name and value.
    pub head_field_bytes: usize,
    /// Bytes of a head.
    pub head_bytes: usize,
    /// Between two requests of a connection. Above the 60 s of cloud balancers, so that they close first.
    pub keep_alive_idle: Duration,
    /// Requests of one connection.
    pub keep_alive_requests: u32,
    /// Bytes of a request body.
    pub max_request_body: BodyMax,
    /// Bytes a second that a request body must come in, after the grace.
    pub min_body_rate: u64,
    /// How long a request body may be slower than that.
    pub min_body_rate_after: Duration,
    /// How long a client may take none of its answer.
    pub write_stall: Duration,
    /// Bytes of an unread body that are read after an answer made here.
    pub drain_bytes: usize,
    /// How long they are read.
    pub drain_time: Duration,
    /// Requests at one time on a connection over HTTP/2.
    pub http2_streams: u32,
    /// How long such a connection may be without any.
    pub http2_idle: Duration,
    /// What rules may take.
    pub rules: RuleBounds,
}

/// What rules may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuleBounds {
    /// What a script may use up.
    pub script: crossgate_policy::RuleLimits,
    /// How long rules may run.
    pub times: crate::verdicts::RuleTimes,
    /// How many answers are kept.
    pub cache: crate::verdicts::CacheLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: None,
            max_connections_per_client: None,
            tls_handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            head_fields: 100,
            head_field_bytes: 8 << 10,
            head_bytes: 32 << 10,
            keep_alive_idle: Duration::from_secs(75),
            keep_alive_requests: 1_000,
            max_request_body: BodyMax::Unlimited,
            min_body_rate: 1 << 10,
            min_body_rate_after: Duration::from_secs(10),
            write_stall: Duration::from_secs(60),
            drain_bytes: 64 << 10,
            drain_time: Duration::from_secs(5),
            http2_streams: 100,
            http2_idle: Duration::from_secs(60),
            rules: RuleBounds::default(),
        }
    }
}

/// How large a request body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyMax {
    /// As large as it likes: it is streamed, never held.
    Unlimited,
    /// This many bytes.
    Bytes(u64),
}

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// Between failing `/readyz` and closing the listeners.
    pub drain_delay: Duration,
    /// For running requests, after that.
    pub grace: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { drain_delay: Duration::ZERO, grace: Duration::from_secs(30) }
    }
}

/// What is logged of requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AccessLog {
    /// Which requests.
    pub level: LogLevel,
    /// The share of them, from 0 to 1.
    pub sample: f64,
}

// `sample` is checked to be a number between 0 and 1, so it equals itself.
impl Eq for AccessLog {}

impl Default for AccessLog {
    fn default() -> Self {
        AccessLog { level: LogLevel::All, sample: 1.0 }
    }
}

/// Which requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Every one.
    All,
    /// Those that were denied, or would have been.
    Denied,
    /// None.
    Off,
}

/// Who is asked for the addresses of servers that have names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers. None: what the system's `resolv.conf` and `hosts` say.
    pub servers: Vec<SocketAddr>,
    /// How long one try may take, instead of what the system says.
    pub timeout: Option<Duration>,
}

/// Servers that answer the same requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSpec {
    /// What tenants call it.
    pub name: Text,
    /// Its servers, in turn.
    pub servers: Vec<ServerSpec>,
    /// How long to wait for it.
    pub timeouts: Timeouts,
    /// How often a request is tried, the first time included.
    pub attempts: u32,
    /// The `Host` it gets instead of the client's.
    pub host: Option<HeaderValue>,
    /// Which HTTP it is asked in.
    pub protocol: Protocol,
    /// How its connections are encrypted; in clear text if there is nothing.
    pub tls: Option<Located<TlsSpec>>,
    /// How its servers are asked whether they are well; not at all if left out.
    pub health_check: Option<HealthCheck>,
    /// How many requests it has at one time; as many as there are if left out.
    pub limits: Option<UpstreamLimits>,
}

/// Which HTTP an upstream is asked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 alone: over TLS as negotiated, in clear text with prior knowledge.
    Http2,
    /// Over TLS, HTTP/2 where the server takes it, else HTTP/1.1.
    Auto,
}

/// How an upstream's connections are encrypted, its files still unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSpec {
    /// The name that its certificate must have, and that it is asked for by: the servers' own, where all go by one; each server's address if
    /// there is nothing.
    pub server_name: Option<Box<str>>,
    /// The certificates that are trusted instead of the system's.
    pub ca: Option<Located<PathBuf>>,
    /// What the gateway shows of itself.
    pub client_certificate: Option<ClientCertificateSpec>,
}

/// What the gateway shows of itself to an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificateSpec {
    /// The file with the certificate, and those between it and one that the upstream trusts.
    pub certificate: Located<PathBuf>,
    /// The file with its key.
    pub key: Located<PathBuf>,
}

impl TlsSpec {
    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let own = self.client_certificate.iter().flat_map(|own| [&own.certificate, &own.key]);
        self.ca.iter().chain(own).map(|file| &*file.value)
    }
}

/// A server of an upstream, or those that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSpec {
    /// Where it is.
    pub address: ServerAddress,
    /// How many turns it has while one of weight 1 has one. Of a name's servers each has as many.
    pub weight: u32,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// There.
    Address(SocketAddr),
    /// Wherever the name leads.
    Name {
        /// In lower case. One that ends with a dot is looked up as it is, not in the search domains.
        name: Box<str>,
        /// On every address of it.
        port: u16,
    },
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerAddress::Address(address) => write!(f, "{address}"),
            ServerAddress::Name { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// How servers are asked whether they are well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked for, from the slash on.
    pub path: Box<str>,
    /// Between two checks of a server.
    pub interval: Duration,
    /// For a connection and the head of an answer.
    pub timeout: Duration,
    /// Good checks in a row that make an unhealthy server healthy.
    pub healthy_after: u32,
    /// Bad checks in a row that make a healthy one unhealthy.
    pub unhealthy_after: u32,
    /// The `Host` that a check names, instead of the upstream's or the server's address.
    pub host: Option<HeaderValue>,
}

/// How many requests an upstream has at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// Under way; over HTTP/1.1 each has a connection.
    pub max_requests: u32,
    /// Waiting to be.
    pub max_pending: u32,
    /// How long one waits.
    pub pending_timeout: Duration,
}

/// How long to wait for an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For the head of an answer.
    pub head: Duration,
    /// Between two pieces of a body.
    pub idle: Duration,
    /// The same on upgraded connections and event streams.
    pub upgraded_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(3),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(300),
            upgraded_idle: Duration::from_secs(3_600),
        }
    }
}

/// A named list of origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginSetSpec {
    /// What policies call it.
    pub name: Text,
    /// Its origins, as written.
    pub origins: Vec<Text>,
}

/// A policy as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySpec {
    /// What tenants call it.
    pub name: Text,
    /// Origin patterns.
    pub allow_origins: Vec<Text>,
    /// Names of origin sets.
    pub allow_origin_sets: Vec<Text>,
    /// Regular expressions for whole origins.
    pub allow_origin_regexes: Vec<Text>,
    /// Methods a preflight may ask for.
    pub allow_methods: Vec<Text>,
    /// Request headers a preflight may ask for.
    pub allow_headers: Vec<Text>,
    /// Response headers a page may read.
    pub expose_headers: Vec<Text>,
    /// Whether cookies and the like are allowed.
    pub allow_credentials: Located<bool>,
    /// How long browsers may remember a preflight, in seconds.
    pub max_age: Located<u32>,
    /// How much of the lists a preflight answer tells.
    pub disclosure: Disclosure,
    /// What happens to requests of origins that are not allowed.
    pub unmatched_requests: UnmatchedRequests,
    /// Whether it protects or only watches.
    pub mode: Located<Mode>,
    /// Who is asked where no entry matches.
    pub rule: Option<RuleSpec>,
    /// What weakens it.
    pub dangerously: Dangerously,
}

/// A policy's rule as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSpec {
    /// The script's file in the scripts directory.
    pub script: Text,
    /// Header fields it may read, in lower case.
    pub headers: Vec<Text>,
    /// Query keys it may read.
    pub query: Vec<Text>,
}

/// How much of its lists a policy tells in preflight answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disclosure {
    /// The whole lists.
    Full,
    /// What was asked for.
    Minimal,
}

/// What happens to an actual request of an origin that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnmatchedRequests {
    /// 403 at the edge.
    Reject,
    /// The upstream answers, without CORS headers: for single sign-on and payment returns.
    Forward,
}

/// Whether a policy protects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    Enforce,
    /// It judges and counts, and changes nothing.
    Report,
}

/// Overrides that weaken a policy, all off by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dangerously {
    /// `null` may be listed.
    pub allow_null: bool,
    /// http origins may be listed with credentials.
    pub allow_insecure_origins: bool,
    /// Wildcards over public suffixes may be listed with credentials.
    pub allow_public_suffixes: bool,
    /// Expressions that let in any origin may be listed with credentials.
    pub allow_any_origin: bool,
}

/// A tenant as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSpec {
    /// Its name in metrics, logs and headers.
    pub id: Located<Arc<str>>,
    /// Its hosts.
    pub hosts: Vec<Located<HostPattern>>,
    /// Where its requests go, unless a route says otherwise.
    pub upstream: Option<Text>,
    /// Its policy, unless a route says otherwise.
    pub policy: Option<Text>,
    /// Origins added to that policy.
    pub allow_origins: Vec<Text>,
    /// Paths that are treated differently.
    pub routes: Vec<RouteSpec>,
}

/// A route as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// Whole segments from the left: `/a` stands for `/a` and `/a/b`. Without a slash at the end, `/` aside.
    pub prefix: Text,
    /// The methods it is for; all if empty.
    pub methods: Vec<Text>,
    /// Its policy instead of the tenant's.
    pub policy: Option<Text>,
    /// Its upstream instead of the tenant's.
    pub upstream: Option<Text>,
    /// Origins added to its policy.
    pub allow_origins: Vec<Text>,
    /// What happens to requests of other origins, instead of what the policy says.
    pub unmatched_requests: Option<UnmatchedRequests>,
}
