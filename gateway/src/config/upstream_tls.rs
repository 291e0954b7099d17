//! Decodes in which HTTP an upstream is asked, and how its connections are encrypted.
//!
//! Files are only named here; they are read when the snapshot is compiled.

use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::decode::{Decoder, Fields};
use super::model::{At, ClientCertificateSpec, Located, Protocol, ServerAddress, ServerSpec, TlsSpec};
use super::sections;
use super::tree::Node;

const PROTOCOLS: &[(&str, Protocol)] =
    &[("Http1", Protocol::Http1), ("Http2", Protocol::Http2), ("Auto", Protocol::Auto)];

impl Decoder<'_> {
    pub(super) fn protocol(&mut self, fields: &Fields<'_>) -> Protocol {
        let Some(node) = fields.find("protocol") else { return Protocol::Http1 };
        let protocol = self.choice(node, PROTOCOLS).unwrap_or(Protocol::Http1);
        if protocol == Protocol::Auto && fields.find("tls").is_none() {
            self.error(node.at, "only TLS lets a server choose; write Http1 or Http2, or add tls");
        }
        protocol
    }

    pub(super) fn upstream_tls(&mut self, node: &Node, servers: &[ServerSpec]) -> Option<Located<TlsSpec>> {
        let fields = self.fields(node, &sections::UPSTREAM_TLS)?;
        let value = TlsSpec {
            server_name: match fields.find("serverName") {
                Some(node) => self.server_name(node),
                None => self.name_of_all(servers, node.at),
            },
            ca: fields.find("ca").and_then(|node| self.certificate_file(node)),
            client_certificate: fields.find("clientCertificate").and_then(|node| self.client_certificate(node)),
        };
        Some(Located { value, at: node.at })
    }

    fn client_certificate(&mut self, node: &Node) -> Option<ClientCertificateSpec> {
        let fields = self.fields(node, &sections::CLIENT_CERTIFICATE)?;
        let certificate = self.required(&fields, "certificate").and_then(|node| self.certificate_file(node));
        let key = self.required(&fields, "key").and_then(|node| self.certificate_file(node));
        Some(ClientCertificateSpec { certificate: certificate?, key: key? })
    }

    fn certificate_file(&mut self, node: &Node) -> Option<Located<PathBuf>> {
        Some(Located { value: self.path(node)?, at: node.at })
    }

    /// A name as certificates have them. Pingora would ask for one with `_` by another name.
    fn server_name(&mut self, node: &Node) -> Option<Box<str>> {
        let hint = "write the host name or the IP address in the server's certificate, such as api.internal.example";
        self.parsed(node, "a server name", |text| match ServerName::try_from(text) {
            Ok(_) if !text.contains('_') && !text.ends_with('.') => Ok(Box::from(text)),
            Ok(_) | Err(_) => Err(hint),
        })
    }

    /// The name that all servers go by, if they do: once it is resolved, nothing tells which of several an address came from. Servers that
    /// are addresses have theirs in their certificates.
    fn name_of_all(&mut self, servers: &[ServerSpec], at: At) -> Option<Box<str>> {
        let name = servers.first().and_then(name_of);
        if servers.iter().any(|server| name_of(server) != name) {
            self.error(
                at,
                "these servers go by more than one name; write the serverName that the certificates of all have",
            );
        }
        let name = name?;
        if name.contains('_') {
            self.error(at, format!("no certificate is for {name}; write the serverName that the server's has"));
        }
        Some(Box::from(name))
    }
}

/// As certificates have it: without the dot at its end.
fn name_of(server: &ServerSpec) -> Option<&str> {
    match &server.address {
        ServerAddress::Address(_) => None,
        ServerAddress::Name { name, .. } => Some(name.trim_end_matches('.')),
    }
}
