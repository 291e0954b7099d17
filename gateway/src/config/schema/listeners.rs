//! Where clients connect.

use schemars::JsonSchema;

use super::described;

described! {
    /// A socket for clients.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Listener {
        /// IP address and port, such as `0.0.0.0:8080` or `[::]:8080`.
        address: String,
        /// Address ranges of proxies whose Forwarded and X-Forwarded-* fields are believed. None by default.
        trusted_proxies: Option<Vec<String>>,
        /// What it speaks TLS with. Without it, it speaks plain HTTP. Certificates are changed without a restart.
        tls: Option<ListenerTls>,
        /// Connections begin with a PROXY header, version 1 or 2, that names the client. Off by default.
        proxy_protocol: Option<ProxyProtocol>,
        /// Whether clients may speak HTTP/2: those that begin with it, and over TLS those that agree on it. Default true.
        http2: Option<bool>,
    }

    /// What a listener speaks TLS with.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct ListenerTls {
        /// Each serves the names in its subjectAltName. The first also serves clients that name no host.
        certificates: Vec<Certificate>,
        /// The oldest version that is spoken. Default Tls12.
        min_version: Option<TlsVersion>,
    }

    /// A certificate and its private key. Files that change are live within a second; a bad one keeps its last good version.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Certificate {
        /// A PEM file: the certificate first, then its issuers.
        certificate: String,
        /// A PEM file with the private key, not encrypted.
        key: String,
    }

    /// A version of TLS.
    enum TlsVersion {
        /// TLS 1.2 and later.
        Tls12,
        /// TLS 1.3 and later.
        Tls13,
    }

    /// Headers of balancers that pass connections on.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct ProxyProtocol {
        /// Address ranges of these balancers. Nobody else may connect, and they only with a header.
        from: Vec<String>,
    }
}
