//! Settings of the gateway as a whole: admin listener, threads, limits, stop, access log and
//! ledger.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Located, LogFieldSet};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// An address that is not loopback has a token file.
    pub address: SocketAddr,
    /// The file with the bearer token for everything.
    pub token_file: Option<Located<PathBuf>>,
    /// The file with the bearer token for reading. It exists only with `token_file`.
    pub read_token_file: Option<Located<PathBuf>>,
    /// Whether `/metrics` needs no token.
    pub open_metrics: bool,
    /// Accepted host names in canonical form, in addition to IP literals and `localhost`.
    pub hosts: Vec<Box<str>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Runtime {
    pub threads: Threads,
}

/// The number of worker threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Threads {
    /// One thread per core.
    #[default]
    Auto,
    Count(NonZeroUsize),
}

impl Threads {
    /// The number of threads on this machine.
    pub fn count(self) -> usize {
        match self {
            Threads::Auto => std::thread::available_parallelism().map_or(1, usize::from),
            Threads::Count(count) => count.get(),
        }
    }
}

/// Limits on what clients may send and how long they may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Concurrent connections of all clients. The limit of open files is another maximum.
    pub max_connections: Option<u32>,
    /// Concurrent connections of one client address or IPv6 network of 64 bits. It does not apply
    /// to trusted proxies, which carry many clients.
    pub max_connections_per_client: Option<u32>,
    /// The time for a TLS handshake, from the accept.
    pub tls_handshake: Duration,
    /// The time for a whole request head, from its first byte.
    pub head: Duration,
    pub head_fields: u32,
    /// Maximum size of one field, name and value.
    pub head_field_bytes: usize,
    pub head_bytes: usize,
    /// The time between two requests of a connection.
    pub keep_alive_idle: Duration,
    /// Maximum number of requests on one connection.
    pub keep_alive_requests: u32,
    pub max_request_body: BodyMax,
    /// Bytes per second that a client must send of a request body.
    pub min_body_rate: u64,
    /// How long a request body may be slower than `min_body_rate`.
    pub min_body_rate_after: Duration,
    /// How long a client may read nothing of its response.
    pub write_stall: Duration,
    /// How much of an unread body the gateway reads after its own response.
    pub drain_bytes: usize,
    /// How long the gateway reads such a body.
    pub drain_time: Duration,
    /// Concurrent requests on one HTTP/2 connection.
    pub http2_streams: u32,
    /// How long an HTTP/2 connection may be without requests.
    pub http2_idle: Duration,
    pub rules: RuleBounds,
}

/// Limits on rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuleBounds {
    pub script: crossgate_policy::RuleLimits,
    pub times: RuleTimes,
    pub cache: CacheLimits,
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
            // Cloud balancers reuse a connection for up to 60 s, so they must close it first.
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

/// The maximum size of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyMax {
    /// Bodies are streamed and never buffered as a whole.
    Unlimited,
    Bytes(u64),
}

/// The delays of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// The time between the failure of `/readyz` and the close of the listeners.
    pub drain_delay: Duration,
    /// The time for requests in progress, after `drain_delay`.
    pub grace: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { drain_delay: Duration::ZERO, grace: Duration::from_secs(30) }
    }
}

/// The settings of the access log.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLogSettings {
    /// `None` for standard output.
    pub path: Option<Located<PathBuf>>,
    pub rotation: Option<LogRotation>,
    pub level: LogLevel,
    /// The share of requests, from 0 to 1.
    pub sample: f64,
    pub always: LogAlways,
    pub fields: LogFieldSet,
    /// Additional header fields of the request.
    pub headers: Vec<HeaderName>,
}

// The decoder accepts only numbers from 0 to 1 for `sample`, so it equals itself.
impl Eq for AccessLogSettings {}

impl Default for AccessLogSettings {
    fn default() -> Self {
        AccessLogSettings {
            path: None,
            rotation: None,
            level: LogLevel::All,
            sample: 1.0,
            always: LogAlways::default(),
            fields: LogFieldSet::ALL,
            headers: Vec::new(),
        }
    }
}

/// Which requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum LogLevel {
    /// All requests.
    All,
    /// Requests with a denying verdict, also in Report mode.
    Denied,
    /// No requests.
    Off,
}

/// Which requests are logged regardless of the sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Always")]
pub enum AlwaysLogged {
    /// Requests with a denying verdict, also in Report mode.
    Deny,
    /// Failed requests: a 5xx status, no response, or a failure of the upstream.
    Error,
}

/// The kinds of requests that are logged regardless of the sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogAlways {
    pub deny: bool,
    pub error: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRotation {
    /// Maximum size of a file, in bytes.
    pub size: u64,
    /// Number of rotated files to keep.
    pub count: u32,
}

/// Maximum numbers of origins in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerLimits {
    pub origins: usize,
    pub origins_per_tenant: usize,
}

impl LedgerLimits {
    /// Records nothing.
    pub const OFF: LedgerLimits = LedgerLimits { origins: 0, origins_per_tenant: 0 };
}

impl Default for LedgerLimits {
    fn default() -> Self {
        LedgerLimits { origins: 65_536, origins_per_tenant: 256 }
    }
}

/// Maximum numbers of cached answers of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    pub entries: usize,
    pub entries_per_tenant: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        CacheLimits { entries: 65_536, entries_per_tenant: 8_192 }
    }
}

/// Maximum times of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleTimes {
    /// The processor time of one run.
    pub run: Duration,
    /// The time of all runs of one tenant, in each second.
    pub per_second: Duration,
}

impl Default for RuleTimes {
    fn default() -> Self {
        RuleTimes { run: Duration::from_millis(5), per_second: Duration::from_millis(250) }
    }
}

/// Whether responses of the gateway have a `Proxy-Status` field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyStatus {
    #[default]
    Sent,
    Off,
}
