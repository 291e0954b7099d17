//! The keys of settings for the whole gateway: admin listener, threads, limits, stop, access log,
//! ledger.

use super::{BodyMax, Duration, LogField, Size, Threads, declare_keys};
use crate::model::{AlwaysLogged, LogLevel};

declare_keys! {
    /// The listener for operators.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct AdminKeys as "Admin" {
        /// An IP address and a port. An address that is not loopback needs a tokenFile.
        address: String,
        /// A file with the bearer token. Default: no token.
        token_file: Option<String>,
        /// A file with a second token, which permits everything that changes nothing. It needs a
        /// tokenFile. Default: none.
        read_token_file: Option<String>,
        /// Whether /metrics needs no token. Default: `false`.
        open_metrics: Option<bool>,
        /// Accepted host names, in addition to IP addresses and localhost. Default: `[]`.
        hosts: Option<Vec<String>>,
    }

    /// The worker threads of the listeners.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct RuntimeKeys as "Runtime" {
        /// The number of worker threads. `auto` is one for each core. Default: `auto`.
        threads: Option<Threads>,
    }

    /// Limits on what clients may send and how long they may take.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct LimitsKeys as "Limits" {
        /// Concurrent connections of all clients. Default: as many as the limit of open files
        /// allows.
        max_connections: Option<u32>,
        /// Concurrent connections of one client address, or of one IPv6 network of 64 bits.
        /// Default: unlimited. The limit does not apply to trusted proxies.
        max_connections_per_client: Option<u32>,
        /// The time for a TLS handshake, from the accept. Default: `10s`.
        tls_handshake: Option<Duration>,
        /// The time for a whole request head. Default: `10s`.
        head: Option<Duration>,
        /// Fields in a request head. Default: `100`.
        head_fields: Option<u32>,
        /// Size of one field, name and value. Default: `8KiB`.
        head_field_bytes: Option<Size>,
        /// Size of a request head. Default: `32KiB`.
        head_bytes: Option<Size>,
        /// The time between two requests of a connection. Default: `75s`, more than the 60s of
        /// cloud balancers.
        keep_alive_idle: Option<Duration>,
        /// Requests on one connection. Default: `1000`.
        keep_alive_requests: Option<u32>,
        /// Size of a request body. Default: `unlimited`, since bodies are streamed.
        max_request_body: Option<BodyMax>,
        /// Bytes per second that a client must send of a request body. Default: `1KiB`.
        min_body_rate: Option<Size>,
        /// How long a request body may be slower than minBodyRate. Default: `10s`.
        min_body_rate_after: Option<Duration>,
        /// How long a client may read nothing of its response. Default: `60s`.
        write_stall: Option<Duration>,
        /// How much of an unread body the gateway reads after its own response. Default: `64KiB`.
        drain_bytes: Option<Size>,
        /// How long the gateway reads such a body. Default: `5s`.
        drain_time: Option<Duration>,
        /// Concurrent requests on one HTTP/2 connection. Default: `100`.
        http2_streams: Option<u32>,
        /// How long an HTTP/2 connection may be without requests. Default: `60s`.
        http2_idle: Option<Duration>,
        /// Limits on rules.
        rules: Option<RuleLimitsKeys>,
    }

    /// Limits on rules.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct RuleLimitsKeys as "RuleLimits" {
        /// Operations of one run. Default: `5000`.
        operations: Option<u32>,
        /// Size of one string. Default: `4KiB`.
        string_bytes: Option<Size>,
        /// Elements of one array. Default: `256`.
        array_length: Option<u32>,
        /// Keys of one map. Default: `64`.
        map_length: Option<u32>,
        /// Nested function calls. Default: `16`.
        call_depth: Option<u32>,
        /// Size of one script. Default: `64KiB`.
        source_bytes: Option<Size>,
        /// Processor time of one run. Default: `5ms`.
        time: Option<Duration>,
        /// Time of all runs of one tenant, in each second. Default: `250ms`.
        time_per_second: Option<Duration>,
        /// Cached answers of all tenants. Default: `65536`.
        cache_entries: Option<u32>,
        /// Cached answers of one tenant. Default: `8192`.
        cache_entries_per_tenant: Option<u32>,
    }

    /// The delays of a stop.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct ShutdownKeys as "Shutdown" {
        /// The time between the failure of /readyz and the close of the listeners. Default: `0s`.
        drain_delay: Option<Duration>,
        /// The time for requests in progress. Default: `30s`.
        grace: Option<Duration>,
    }

    /// The log of requests.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct AccessLogKeys as "AccessLog" {
        /// The file. Default: standard output. SIGUSR1 reopens it.
        path: Option<String>,
        /// Rotation of the file by size. Default: off.
        rotate: Option<RotateKeys>,
        /// Which requests are logged. Default: `All`.
        level: Option<LogLevel>,
        /// The share of these requests that is logged. Default: `1`.
        #[schemars(range(min = 0, max = 1))]
        sample: Option<f64>,
        /// Which of these requests are logged regardless of the sample. Default: `[]`.
        always: Option<Vec<AlwaysLogged>>,
        /// The fields of a line. Default: all.
        fields: Option<Vec<LogField>>,
        /// Names of request headers to log in addition. Default: `[]`. Headers with credentials are
        /// refused.
        headers: Option<Vec<String>>,
    }

    /// Rotation of the access log.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct RotateKeys as "Rotate" {
        /// The maximum size of the file, such as 100MiB.
        size: Size,
        /// Rotated files to keep: FILE.1, the newest, and so on. Default: `10`.
        count: Option<u32>,
    }

    /// The bounded record of origins. A change empties it.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct LedgerKeys as "Ledger" {
        /// Whether origins and denials are recorded. Default: `true`.
        enabled: Option<bool>,
        /// Recorded origins of all tenants. Default: `65536`.
        origins: Option<u32>,
        /// Recorded origins of one tenant. Default: `256`.
        origins_per_tenant: Option<u32>,
    }
}
