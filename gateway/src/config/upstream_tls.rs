//! Decodes in which HTTP an upstream is asked, and how its connections are encrypted.
//!
//! Files are only named here; they are read when the snapshot is compiled.

use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::decode::{Decoder, Fields};
use super::model::{ClientCertificateSpec, Located, Protocol, TlsSpec};
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

    pub(super) fn upstream_tls(&mut self, node: &Node) -> Option<Located<TlsSpec>> {
        let fields = self.fields(node, &sections::UPSTREAM_TLS)?;
        let value = TlsSpec {
            server_name: fields.find("serverName").and_then(|node| self.server_name(node)),
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
}
