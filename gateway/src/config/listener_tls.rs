//! Decodes what a listener speaks TLS with. The files that it names are read by `reload`, as what they say may change without the
//! configuration.

use std::path::PathBuf;

use super::decode::Decoder;
use super::model::{CertificateSpec, ListenerTls, Located, TlsVersion};
use super::sections;
use super::tree::{Node, Value};

/// Certificates of one listener: each has its files looked at several times a second.
const CERTIFICATES_MAX: usize = 1_000;

impl Decoder<'_> {
    /// What `tls` says. A listener whose TLS has mistakes is one with TLS all the same.
    pub(super) fn listener_tls(&mut self, node: &Node) -> ListenerTls {
        const VERSIONS: &[(&str, TlsVersion)] = &[("Tls12", TlsVersion::Tls12), ("Tls13", TlsVersion::Tls13)];
        let Some(fields) = self.fields(node, &sections::LISTENER_TLS) else {
            return ListenerTls { certificates: Vec::new(), min_version: TlsVersion::default() };
        };
        let min_version = fields.find("minVersion").and_then(|node| self.choice(node, VERSIONS)).unwrap_or_default();
        let certificates = self.required(&fields, "certificates").map_or_else(Vec::new, |node| self.certificates(node));
        ListenerTls { certificates, min_version }
    }

    fn certificates(&mut self, node: &Node) -> Vec<CertificateSpec> {
        let items = self.list(node, "a list of certificates", CERTIFICATES_MAX);
        if let Value::List(items) = &node.value
            && items.is_empty()
        {
            self.error(node.at, "there is no certificate; write one such as { certificate: tls.crt, key: tls.key }");
        }
        items.iter().filter_map(|item| self.certificate(item)).collect()
    }

    fn certificate(&mut self, node: &Node) -> Option<CertificateSpec> {
        let fields = self.fields(node, &sections::CERTIFICATE)?;
        let mut file = |key| {
            let node = self.required(&fields, key)?;
            self.located_path(node)
        };
        let (certificate, key) = (file("certificate"), file("key"));
        Some(CertificateSpec { certificate: certificate?, key: key? })
    }

    fn located_path(&mut self, node: &Node) -> Option<Located<PathBuf>> {
        let value = self.path(node)?;
        Some(Located { value, at: node.at })
    }
}
