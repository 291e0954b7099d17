//! Decodes the TLS of a listener. The gateway reads the files, which can change without the
//! configuration.

use std::path::PathBuf;

use super::decode::Decoder;
use super::model::{CertificateSpec, ListenerTls, Located, TlsVersion};
use super::node::{YamlNode, YamlValue};
use super::sections;

/// Maximum number of certificates of one listener. Their files are checked several times a second.
const CERTIFICATES_MAX: usize = 1_000;

impl Decoder<'_> {
    /// The TLS of a listener. With mistakes in it, the listener still counts as one with TLS, so
    /// that no warning about clear text follows.
    pub(super) fn listener_tls(&mut self, node: &YamlNode) -> ListenerTls {
        let Some(fields) = self.fields(node, &sections::LISTENER_TLS) else {
            return ListenerTls { certificates: Vec::new(), min_version: TlsVersion::default() };
        };
        let min_version = fields.find("minVersion").and_then(|node| self.variant(node)).unwrap_or_default();
        let certificates = self.required(&fields, "certificates").map_or_else(Vec::new, |node| self.certificates(node));
        ListenerTls { certificates, min_version }
    }

    fn certificates(&mut self, node: &YamlNode) -> Vec<CertificateSpec> {
        let items = self.list(node, "a list of certificates", CERTIFICATES_MAX);
        if let YamlValue::List(items) = &node.value
            && items.is_empty()
        {
            self.error(node.at, "empty list of certificates; write one such as { certificate: tls.crt, key: tls.key }");
        }
        items.iter().filter_map(|item| self.certificate(item)).collect()
    }

    fn certificate(&mut self, node: &YamlNode) -> Option<CertificateSpec> {
        let fields = self.fields(node, &sections::CERTIFICATE)?;
        let mut file = |key| {
            let node = self.required(&fields, key)?;
            self.located_path(node)
        };
        let (certificate, key) = (file("certificate"), file("key"));
        Some(CertificateSpec { certificate: certificate?, key: key? })
    }

    fn located_path(&mut self, node: &YamlNode) -> Option<Located<PathBuf>> {
        let value = self.path(node)?;
        Some(Located { value, at: node.at })
    }
}
