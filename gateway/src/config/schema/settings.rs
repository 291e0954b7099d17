//! What concerns the gateway as a whole: the admin listener, threads, bounds, the stop, the access log.

use schemars::JsonSchema;

use super::{BodyMax, Duration, Size, Threads, described};

described! {
    /// The listener for operators.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Admin {
        /// IP address and port. Off loopback a tokenFile is needed.
        address: String,
        /// A file with the bearer token.
        token_file: Option<String>,
        /// Whether /metrics needs no token.
        open_metrics: Option<bool>,
        /// Host names it answers to, besides IP addresses and localhost.
        hosts: Option<Vec<String>>,
    }

    /// Threads of the data listeners.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Runtime {
        /// Worker threads: a number, or auto for one a core.
        threads: Option<Threads>,
    }

    /// Bounds on what clients may send and how long they may take.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Limits {
        /// Clients' connections at one time. Default as many as the limit of open files has room for.
        max_connections: Option<u32>,
        /// Connections of one client address, or IPv6 network of 64 bits. Trusted proxies have no such limit. Default none.
        max_connections_per_client: Option<u32>,
        /// For a TLS handshake, from the accept. Default 10s.
        tls_handshake: Option<Duration>,
        /// For a whole request head. Default 10s.
        head: Option<Duration>,
        /// Fields in a head. Default 100.
        head_fields: Option<u32>,
        /// Size of one field. Default 8KiB.
        head_field_bytes: Option<Size>,
        /// Size of a head. Default 32KiB.
        head_bytes: Option<Size>,
        /// Between two requests of a connection. Default 75s, above the 60s of cloud balancers.
        keep_alive_idle: Option<Duration>,
        /// Requests of one connection. Default 1000.
        keep_alive_requests: Option<u32>,
        /// Size of a request body. Default unlimited: bodies are streamed.
        max_request_body: Option<BodyMax>,
        /// Bytes a second that a request body must come in. Default 1KiB.
        min_body_rate: Option<Size>,
        /// How long a request body may be slower. Default 10s.
        min_body_rate_after: Option<Duration>,
        /// How long a client may take none of its answer. Default 60s.
        write_stall: Option<Duration>,
        /// How much of an unread body is read after an answer made by the gateway. Default 64KiB.
        drain_bytes: Option<Size>,
        /// How long it is read. Default 5s.
        drain_time: Option<Duration>,
        /// Requests at one time on a connection over HTTP/2. Default 100.
        http2_streams: Option<u32>,
        /// How long such a connection may be without any. Default 60s.
        http2_idle: Option<Duration>,
        /// What rules may take.
        rules: Option<RuleLimits>,
    }

    /// What rules may take.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct RuleLimits {
        /// Operations of one run. Default 5000.
        operations: Option<u32>,
        /// Size of one string. Default 4KiB.
        string_bytes: Option<Size>,
        /// Elements of one array. Default 256.
        array_length: Option<u32>,
        /// Keys of one map. Default 64.
        map_length: Option<u32>,
        /// Calls within calls. Default 16.
        call_depth: Option<u32>,
        /// Size of one script. Default 64KiB.
        source_bytes: Option<Size>,
        /// Processor time of one run. Default 5ms.
        time: Option<Duration>,
        /// Time of all runs of one tenant, in each second. Default 250ms.
        time_per_second: Option<Duration>,
        /// Answers that are kept. Default 65536.
        cache_entries: Option<u32>,
        /// Answers that are kept for one tenant. Default 8192.
        cache_entries_per_tenant: Option<u32>,
    }

    /// How to stop.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Shutdown {
        /// Between failing /readyz and closing the listeners. Default 0s.
        drain_delay: Option<Duration>,
        /// For running requests. Default 30s.
        grace: Option<Duration>,
    }

    /// What is logged of requests.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct AccessLog {
        /// Which requests. Default All.
        level: Option<LogLevel>,
        /// The share of them, from 0 to 1. Default 1.
        #[schemars(range(min = 0, max = 1))]
        sample: Option<f64>,
    }

    /// Which requests are logged.
    enum LogLevel {
        /// Every one.
        All,
        /// Those that were denied.
        Denied,
        /// None.
        Off,
    }

    /// The bounded record of origins seen. A change of it begins it anew.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Ledger {
        /// Whether there is one. Default true.
        enabled: Option<bool>,
        /// Origins that are recorded. Default 65536.
        origins: Option<u32>,
        /// Origins that are recorded of one tenant. Default 256.
        origins_per_tenant: Option<u32>,
    }
}
