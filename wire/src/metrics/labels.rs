//! The closed sets of label values of connections.
//!
//! Metrics, and log lines about connections, use these values; dashboards and alerts match on them.

use crossgate_telemetry::label_set;

label_set! {
    /// The result of a health check: one of a server, or one that a balancer sent to a listener.
    CheckResult {
        /// The server or this process accepts requests.
        Passed => "passed",
        /// The server or this process accepts no requests.
        Failed => "failed",
    }
}

label_set! {
    /// The reason why the gateway closed a client's connection itself.
    EarlyClose {
        /// The connection limit was reached, and too many 503 responses were in progress.
        Full => "full",
        /// No further request within the keep-alive time, or no first request: no client waited for
        /// a response.
        Idle => "idle",
        SlowBody => "slow_body",
        ExchangeIdle => "exchange_idle",
        /// The client did not read its response.
        WriteStall => "write_stall",
        /// The client sent too many HTTP/2 frames other than requests, or too many requests.
        Http2Flood => "http2_flood",
        /// The client sent invalid HTTP/2.
        Http2Error => "http2_error",
        /// The client disconnected before its response was complete.
        ClientGone => "client_gone",
    }
}

label_set! {
    /// The way of a request to its upstream.
    ExchangePath {
        /// The direct exchange.
        Direct => "direct",
        /// Pingora's proxy, since the server speaks HTTP/2.
        Http2Upstream => "http2_upstream",
        /// Pingora's proxy, for a WebSocket.
        Upgrade => "upgrade",
        /// Pingora's proxy, for a target in absolute form, or `Upgrade` in no WebSocket handshake.
        Other => "other",
    }
}

label_set! {
    /// The result of a TLS handshake.
    HandshakeEnd {
        Success => "success",
        /// The client named a host (SNI) that no certificate covers.
        UnknownName => "unknown_name",
        /// The client refused the certificate, or sent another alert.
        Rejected => "rejected",
        /// Client and listener have no version, suite or protocol in common.
        Incompatible => "incompatible",
        /// The client sent an HTTP request in plain text.
        PlainHttp => "plain_http",
        /// The client sent bytes that are not TLS.
        Malformed => "malformed",
        Timeout => "timeout",
        ClientGone => "client_gone",
        Failed => "failed",
    }
}

label_set! {
    /// The reason why a connection without a valid PROXY header was closed.
    ProxyHeaderFault {
        /// The peer is not one of the configured balancers.
        Stranger => "stranger",
        /// The connection does not begin with a PROXY header.
        Malformed => "malformed",
        /// The header is over the size limit.
        TooLarge => "too_large",
        Timeout => "timeout",
        /// The peer disconnected within the header.
        Truncated => "truncated",
    }
}

label_set! {
    /// The reason why a connection could not be accepted.
    AcceptError {
        /// The process or the system has no file descriptor left.
        Descriptors => "descriptors",
        Memory => "memory",
        /// Any other error, for example a client that disconnected before the accept.
        Other => "other",
    }
}

label_set! {
    /// The work that a panic ended.
    PanicPlace {
        /// A connection while the lane served it: an answered preflight, a refused head.
        Lane => "lane",
        /// A connection while the proxy served it: all other requests.
        Proxy => "proxy",
        /// A response of the admin listener.
        Admin => "admin",
        /// A reload of the configuration.
        Reload => "reload",
        /// The health checks of a server.
        Checks => "checks",
        /// The DNS lookups of a name.
        Lookups => "lookups",
        Ledger => "ledger",
        /// The thread of the access log.
        AccessLog => "access_log",
        /// An accept loop, that of the admin listener included.
        Accept => "accept",
    }
}
