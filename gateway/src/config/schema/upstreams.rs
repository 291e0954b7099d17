//! Where requests go, and who is asked for the addresses of its servers.

use schemars::JsonSchema;

use super::{Duration, described};

described! {
    /// Servers that answer the same requests, in turn.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Upstream {
        /// Addresses with ports, such as `10.1.0.11:9001` or `orders.internal:9001`, or with a weight.
        servers: Vec<ServerEntry>,
        /// How long to wait for it.
        timeouts: Option<Timeouts>,
        /// How often a request is tried, the first time included. Default 2.
        attempts: Option<u32>,
        /// The Host it gets instead of the client's.
        host: Option<String>,
        /// Which HTTP it is asked in. Default Http1.
        protocol: Option<Protocol>,
        /// Encrypts its connections; `{}` trusts the system's certificates, and wants the server's own name or address in its certificate.
        tls: Option<UpstreamTls>,
        /// How its servers are asked whether they are well. Default not at all.
        health_check: Option<HealthCheck>,
        /// How many requests it has at one time. Default as many as there are.
        limits: Option<UpstreamLimits>,
    }

    /// Which HTTP an upstream is asked in.
    enum Protocol {
        /// HTTP/1.1.
        Http1,
        /// HTTP/2 alone: negotiated over TLS, with prior knowledge in clear text. It takes no WebSockets.
        Http2,
        /// Over TLS, HTTP/2 where the server takes it, else HTTP/1.1, as for WebSockets.
        Auto,
    }

    /// How an upstream's connections are encrypted. Certificate and name are always verified. Files are read anew when they change.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct UpstreamTls {
        /// The name or IP address that the server's certificate must have, also asked for by SNI. Default: the server's own; where several of
        /// an upstream's servers have names of their own, it is needed.
        server_name: Option<String>,
        /// A PEM file of the certificates that are trusted instead of the system's.
        ca: Option<String>,
        /// What the gateway shows of itself, where the upstream asks.
        client_certificate: Option<ClientCertificate>,
    }

    /// A certificate and its key.
    #[schemars(deny_unknown_fields)]
    struct ClientCertificate {
        /// A PEM file: the certificate, then those between it and one that the upstream trusts.
        certificate: String,
        /// A PEM file: its private key, unencrypted.
        key: String,
    }

    /// A server of an upstream, or those that a name stands for.
    #[schemars(untagged)]
    enum ServerEntry {
        /// An IP address or a name, and a port.
        Address(String),
        /// The same with a weight.
        Weighted(Server),
    }

    /// A server with its weight.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Server {
        /// An IP address or a name, and a port. A name is looked up anew as its records expire, and stands for all its addresses.
        address: String,
        /// How many turns it has while one of weight 1 has one. Of a name's addresses each has as many. Default 1.
        #[schemars(range(min = 1, max = 256))]
        weight: Option<u32>,
    }

    /// A GET that each server has to answer with a status from 200 to 299, in the HTTP and over the TLS of requests.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct HealthCheck {
        /// What is asked for, such as `/healthz`.
        path: String,
        /// Between two checks of a server. Default 10s.
        interval: Option<Duration>,
        /// For a connection, its handshakes and the head of an answer. Default 2s.
        timeout: Option<Duration>,
        /// Good checks in a row that make an unhealthy server healthy. Default 2.
        healthy_after: Option<u32>,
        /// Bad checks in a row that make a healthy server unhealthy; of a new server the first one does. Default 3.
        unhealthy_after: Option<u32>,
        /// The Host that a check names, instead of the upstream's; without one, the name that the server's certificate must have, or the server's
        /// address.
        host: Option<String>,
    }

    /// How many requests an upstream has at one time. One too many is answered 503.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct UpstreamLimits {
        /// Under way; over HTTP/1.1 each has a connection.
        max_requests: u32,
        /// Waiting for one of those to end, first come, first served. Default as many as maxRequests; 0 refuses at once.
        max_pending: Option<u32>,
        /// How long one waits. Default 1s.
        pending_timeout: Option<Duration>,
    }

    /// Who is asked for the addresses of servers that have names.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Resolver {
        /// IP addresses and ports of name servers. Default what resolv.conf and the hosts file say.
        servers: Option<Vec<String>>,
        /// How long one try may take. Default what resolv.conf says, or 2s for servers named here.
        timeout: Option<Duration>,
    }

    /// How long to wait for an upstream.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Timeouts {
        /// For a connection. Default 3s.
        connect: Option<Duration>,
        /// For the head of an answer. Default 30s.
        head: Option<Duration>,
        /// Between two pieces of a body. Default 5m.
        idle: Option<Duration>,
        /// The same on upgraded connections and event streams. Default 1h.
        upgraded_idle: Option<Duration>,
    }
}
