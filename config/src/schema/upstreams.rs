//! The keys of upstreams, of their servers and of the resolver.

use super::{Duration, declare_keys};
use crate::model::Protocol;

declare_keys! {
    /// A group of servers that answer the same requests, used in turn.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct UpstreamKeys as "Upstream" {
        /// Addresses with ports, such as `10.1.0.11:9001` or `orders.internal:9001`, each with an
        /// optional weight.
        servers: Vec<ServerEntry>,
        /// Timeouts of connections and requests.
        timeouts: Option<TimeoutsKeys>,
        /// How often a request is tried, including the first try. Default: `2`.
        attempts: Option<u32>,
        /// The Host that the servers receive. Default: the client's Host.
        host: Option<String>,
        /// The version of HTTP for requests. Default: `Http1`.
        protocol: Option<Protocol>,
        /// TLS for connections to the servers. Default: clear text. `{}` uses the trusted
        /// certificates of the system, and expects the name or the address of the server in its
        /// certificate.
        tls: Option<UpstreamTlsKeys>,
        /// Health checks of the servers. Default: off.
        health_check: Option<HealthCheckKeys>,
        /// Limits on concurrent requests. Default: unlimited.
        limits: Option<UpstreamLimitsKeys>,
    }

    /// TLS for connections to an upstream. The certificate and the name of a server are always
    /// verified. Changed files are read again.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct UpstreamTlsKeys as "UpstreamTls" {
        /// The name or IP address in the server's certificate, also sent as SNI. Default: the name
        /// or address of the server. Required where the servers of an upstream have different
        /// names.
        server_name: Option<String>,
        /// A PEM file with trusted certificates. Default: those of the system.
        ca: Option<String>,
        /// The certificate of the gateway, sent when the server requests one. Default: none.
        client_certificate: Option<ClientCertificateKeys>,
    }

    /// A client certificate and its private key.
    #[serde(deny_unknown_fields)]
    struct ClientCertificateKeys as "ClientCertificate" {
        /// A PEM file: the certificate, then the intermediate certificates.
        certificate: String,
        /// A PEM file with the private key, not encrypted.
        key: String,
    }

    /// A server, or all servers that a name resolves to.
    #[serde(untagged)]
    enum ServerEntry {
        /// An IP address or a name, and a port.
        Address(String),
        /// An address with a weight.
        Weighted(ServerKeys),
    }

    /// A server with a weight.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct ServerKeys as "Server" {
        /// An IP address or a name, and a port. A name stands for all its addresses and is resolved
        /// again when its records expire.
        address: String,
        /// The share of turns, relative to servers of weight 1. Default: `1`. Each address of a
        /// name has this weight.
        #[schemars(range(min = 1, max = 256))]
        weight: Option<u32>,
        /// Whether the server gets requests only while no other server of the upstream is
        /// available. Default: `false`.
        backup: Option<bool>,
    }

    /// A health check of each server, with the protocol and TLS of requests. It has either `path`
    /// or `grpc`.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct HealthCheckKeys as "HealthCheck" {
        /// The path of a GET request, such as `/healthz`. Statuses 200 to 299 pass.
        path: Option<String>,
        /// The gRPC health checking protocol (`grpc.health.v1.Health/Check`). The status SERVING
        /// passes. Default: `false`. It needs protocol Http2, or Auto with tls.
        grpc: Option<GrpcCheck>,
        /// The time between two checks of a server. Default: `10s`.
        interval: Option<Duration>,
        /// The time for connection, handshakes and response. Default: `2s`.
        timeout: Option<Duration>,
        /// Consecutive passed checks that make an unhealthy server healthy. Default: `2`.
        healthy_after: Option<u32>,
        /// Consecutive failed checks that make a healthy server unhealthy. Default: `3`. For a new
        /// server, one is enough.
        unhealthy_after: Option<u32>,
        /// The Host of a check. Default: the upstream's `host`, else the name in the server's
        /// certificate, else the server's address.
        host: Option<String>,
    }

    /// Whether servers are checked over gRPC, and for which service.
    #[serde(untagged)]
    enum GrpcCheck {
        /// `true` checks the server as a whole.
        Whole(bool),
        /// One service.
        Service(GrpcServiceKeys),
    }

    /// A service of a gRPC server.
    #[serde(deny_unknown_fields)]
    struct GrpcServiceKeys as "GrpcService" {
        /// The name that the server registers, such as `orders.v1.Orders`.
        service: String,
    }

    /// Limits on concurrent requests to an upstream. Requests over the limits get a 503 response.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct UpstreamLimitsKeys as "UpstreamLimits" {
        /// Requests in progress. Over HTTP/1.1, each has its own connection.
        max_requests: u32,
        /// Requests in the queue, first in first out. Default: the value of `maxRequests`. With 0
        /// there is no queue.
        max_pending: Option<u32>,
        /// The time that a request may wait in the queue. Default: `1s`.
        pending_timeout: Option<Duration>,
    }

    /// How the names of servers are resolved.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct ResolverKeys as "Resolver" {
        /// IP addresses and ports of name servers. Default: those of the system.
        servers: Option<Vec<String>>,
        /// The time for one try. Default: the value in `/etc/resolv.conf`, or 2s with `servers`.
        timeout: Option<Duration>,
    }

    /// Timeouts of connections and requests to an upstream.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct TimeoutsKeys as "Timeouts" {
        /// The time to connect. Default: `3s`.
        connect: Option<Duration>,
        /// The time until the head of a response. Default: `30s`.
        head: Option<Duration>,
        /// The time between two pieces of a body. Default: `5m`.
        idle: Option<Duration>,
        /// The time between two pieces on upgraded connections and event streams. Default: `1h`.
        upgraded_idle: Option<Duration>,
        /// How long an idle connection is kept for the next request. Default: `55s`. With 0s,
        /// connections are not reused. Write less than the keep-alive time of the servers: Node.js,
        /// uvicorn and Apache 5s, gunicorn 2s, nginx 75s. `Keep-Alive: timeout=5` in a response
        /// shortens it.
        keep_alive: Option<Duration>,
    }
}
