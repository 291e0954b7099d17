//! The limits of a client's connection.
//!
//! The gateway builds them from `limits` of the configuration. A connection rereads them while it
//! waits for a request, so a reload applies to open connections too.

use std::time::Duration;

use super::state::ExchangeLimits;
use crate::metrics::ConnectionLimits;

#[derive(Clone, Copy, Debug)]
pub struct LaneLimits {
    /// The time for a TLS handshake, from the accept.
    pub tls_handshake: Duration,
    pub head: HeadLimits,
    pub exchange: ExchangeLimits,
    /// The most requests on one connection.
    pub requests: u64,
    pub connections: ConnectionLimits,
    pub http2: Http2Limits,
}

/// Limits of a request head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// The time from its first byte to its last.
    pub time: Duration,
    /// The time that a connection may be idle between two requests.
    pub idle: Duration,
    /// The size of the whole head.
    pub bytes: usize,
    /// The size of one field line, name and value.
    pub field_bytes: usize,
    /// The number of field lines; never more than [`FIELDS_MAX`].
    pub fields: usize,
}

/// The most field lines that a configuration can allow: Pingora's own parser stops at 256.
pub const FIELDS_MAX: usize = 256;

/// Limits of a connection that exist for HTTP/2 only.
#[derive(Clone, Copy, Debug)]
pub struct Http2Limits {
    /// The most concurrent streams.
    pub streams: u32,
    /// The time that a connection may have no stream.
    pub idle: Duration,
}
