//! The keys of listeners.

use super::declare_keys;
use crate::model::TlsVersion;

declare_keys! {
    /// A socket for clients.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct ListenerKeys as "Listener" {
        /// An IP address and a port, such as `0.0.0.0:8080` or `[::]:8080`. Port 0 takes a free
        /// one.
        address: String,
        /// Address ranges of proxies whose `Forwarded` and `X-Forwarded-*` fields are trusted.
        /// Default: `[]`.
        trusted_proxies: Option<Vec<String>>,
        /// TLS for this listener. Default: plain HTTP. Certificates change without a restart.
        tls: Option<ListenerTlsKeys>,
        /// Requires a PROXY header, version 1 or 2, that names the client of each connection.
        /// Default: off.
        proxy_protocol: Option<ProxyProtocolKeys>,
        /// Whether clients may use HTTP/2: over TLS by negotiation, in clear text with prior
        /// knowledge. Default: `true`.
        http2: Option<bool>,
        /// A path for the health checks of load balancers, such as `/gateway-health`. GET and HEAD
        /// of exactly this path get 200 for any host, and 503 after SIGTERM. Default: off. No route
        /// except `/` may cover the path.
        health_path: Option<String>,
    }

    /// The certificates and versions of a listener with TLS.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct ListenerTlsKeys as "ListenerTls" {
        /// Each certificate serves the names in its subjectAltName. The first one also serves
        /// clients without SNI.
        certificates: Vec<CertificateKeys>,
        /// The oldest accepted version of TLS. Default: `Tls12`.
        min_version: Option<TlsVersion>,
    }

    /// A certificate and its private key. Changed files are live within a second. An invalid file
    /// keeps its last good version.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct CertificateKeys as "Certificate" {
        /// A PEM file: the certificate first, then its issuers.
        certificate: String,
        /// A PEM file with the private key, not encrypted.
        key: String,
    }

    /// The balancers that pass connections on with a PROXY header.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct ProxyProtocolKeys as "ProxyProtocol" {
        /// Address ranges of the balancers. Connections from other addresses, or without the
        /// header, are closed.
        from: Vec<String>,
    }
}
