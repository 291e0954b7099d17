//! What concerns the gateway as a whole: the admin listener, threads, bounds, the stop, the access log.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use super::Located;

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
