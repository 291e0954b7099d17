//! Decodes the protocol of an upstream and the TLS of its connections.
//!
//! The files are read later, when the snapshot is compiled.

use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::decode::{Decoder, SectionFields};
use super::model::{ClientCertificateSpec, Located, Position, Protocol, ServerAddress, ServerSpec, TlsSpec};
use super::node::YamlNode;
use super::sections;

impl Decoder<'_> {
    pub(super) fn protocol(&mut self, fields: &SectionFields<'_>) -> Protocol {
        let Some(node) = fields.find("protocol") else { return Protocol::default() };
        let protocol = self.variant(node).unwrap_or_default();
        if protocol == Protocol::Auto && fields.find("tls").is_none() {
            self.error(node.at, "Auto needs tls; write Http1 or Http2, or add tls");
        }
        protocol
    }

    pub(super) fn upstream_tls(&mut self, node: &YamlNode, servers: &[ServerSpec]) -> Option<Located<TlsSpec>> {
        let fields = self.fields(node, &sections::UPSTREAM_TLS)?;
        let value = TlsSpec {
            server_name: match fields.find("serverName") {
                Some(node) => self.server_name(node),
                None => self.common_name(servers, node.at),
            },
            ca: fields.find("ca").and_then(|node| self.certificate_file(node)),
            client_certificate: fields.find("clientCertificate").and_then(|node| self.client_certificate(node)),
        };
        Some(Located { value, at: node.at })
    }

    fn client_certificate(&mut self, node: &YamlNode) -> Option<ClientCertificateSpec> {
        let fields = self.fields(node, &sections::CLIENT_CERTIFICATE)?;
        let certificate = self.required(&fields, "certificate").and_then(|node| self.certificate_file(node));
        let key = self.required(&fields, "key").and_then(|node| self.certificate_file(node));
        Some(ClientCertificateSpec { certificate: certificate?, key: key? })
    }

    fn certificate_file(&mut self, node: &YamlNode) -> Option<Located<PathBuf>> {
        Some(Located { value: self.path(node)?, at: node.at })
    }

    /// A name as it stands in certificates.
    fn server_name(&mut self, node: &YamlNode) -> Option<Box<str>> {
        let hint = "write the host name or the IP address in the server's certificate, such as api.internal.example";
        // Pingora verifies a name with `_` under another name, so such names are refused.
        self.parse_text(node, "a server name", |text| match ServerName::try_from(text) {
            Ok(_) if !text.contains('_') && !text.ends_with('.') => Ok(Box::from(text)),
            Ok(_) | Err(_) => Err(hint),
        })
    }

    /// The common name of all servers. After resolution, the name that an address came from is not
    /// known, so there can be only one. For servers without a name, the certificate must contain
    /// the address.
    fn common_name(&mut self, servers: &[ServerSpec], at: Position) -> Option<Box<str>> {
        let name = servers.first().and_then(name_of);
        if servers.iter().any(|server| name_of(server) != name) {
            self.error(
                at,
                "the servers have different names; set serverName to a name that all their certificates contain",
            );
        }
        let name = name?;
        if name.contains('_') {
            self.error(
                at,
                format!("{name} cannot be in a certificate; set serverName to a name in the server's certificate"),
            );
        }
        Some(Box::from(name))
    }
}

/// The name of a server without a trailing dot, as it stands in certificates.
fn name_of(server: &ServerSpec) -> Option<&str> {
    match &server.address {
        ServerAddress::Address(_) => None,
        ServerAddress::Name { name, .. } => Some(name.trim_end_matches('.')),
    }
}
