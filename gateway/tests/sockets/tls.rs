//! TLS on the data listeners: certificate selection, hosts that a connection may serve, failed
//! handshakes, and answers.
//!
//! Answers over TLS are equal to answers in plain text.
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use crate::support::{
    Authority, Connection, Gateway, HOST, Issued, RecordingUpstream, Response, TlsConnection, tenant_config, tls_error,
};

mod answers;
mod browser;
mod handshakes;
mod misdirected;
mod rotation;
mod secrets;

const HANDSHAKES: &str = "crossgate_tls_handshakes_total";

/// The usual tenant with two listeners: one for plain text and one for TLS.
struct Stage {
    authority: Authority,
    /// The certificates in `0.crt`, `0.key` and so on at the start.
    issued: Vec<Issued>,
    upstream: RecordingUpstream,
    gateway: Gateway,
    plain: SocketAddr,
    secure: SocketAddr,
}

impl Stage {
    fn start() -> Self {
        Self::with(&[&[HOST, "127.0.0.1"]], RecordingUpstream::answering("hello"), "", "")
    }

    /// Starts with certificates for these names, `more` in the listener's `tls` section, and `rest`
    /// at the end of the configuration.
    fn with(names: &[&[&str]], upstream: RecordingUpstream, more: &str, rest: &str) -> Self {
        let (authority, directory) = (Authority::new("ours"), TempDir::new().unwrap());
        let issued: Vec<Issued> = names.iter().map(|names| authority.issue(names)).collect();
        for (number, one) in issued.iter().enumerate() {
            one.write(&directory.path().join(format!("{number}.crt")), &directory.path().join(format!("{number}.key")));
        }
        let path = directory.path().join("crossgate.yaml");
        std::fs::write(&path, text(issued.len(), &upstream, more, rest)).unwrap();
        let gateway = Gateway::start_in(directory, &path, &[]);
        let [plain, secure] = gateway.data_listeners()[..] else { panic!("two listeners") };
        Self { authority, issued, upstream, gateway, plain, secure }
    }

    /// Opens a connection to the TLS listener.
    fn connect(&self, host: &str) -> io::Result<TlsConnection> {
        self.authority.connect(self.secure, host)
    }

    /// Sends one request on a connection with the server name `host`.
    fn ask(&self, host: &str, bytes: &[u8]) -> Response {
        let tunnel = crate::support::Tunnel::to(self.secure, host, &self.authority);
        Connection::ask(tunnel.address, bytes).unwrap_or_else(|error| panic!("{host}: {error:?}"))
    }

    /// The number of the served certificate for the server name `host`, or the error of the
    /// handshake.
    fn served_certificate(&self, host: &str) -> Result<usize, rustls::Error> {
        match self.connect(host) {
            Ok(connection) => Ok(self
                .issued
                .iter()
                .position(|one| one.der == *connection.certificate())
                .expect("a configured certificate")),
            Err(error) => Err(tls_error(&error).unwrap_or_else(|| panic!("{host}: {error}")).clone()),
        }
    }

    fn wait_handshakes(&self, result: &str, wanted: f64) {
        self.gateway.wait_metric(HANDSHAKES, &[("result", result)], wanted);
    }

    /// Replaces the files of a certificate by renames.
    fn replace(&self, number: usize, issued: &Issued) {
        for (name, text) in [("crt", &issued.certificate), ("key", &issued.key)] {
            replace_file(&self.gateway.path(&format!("{number}.{name}")), text);
        }
    }
}

fn replace_file(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn text(certificates: usize, upstream: &RecordingUpstream, more: &str, rest: &str) -> String {
    let pairs: Vec<String> =
        (0..certificates).map(|number| format!("{{ certificate: {number}.crt, key: {number}.key }}")).collect();
    format!(
        "version: 1\nlisteners:\n  - address: 127.0.0.1:0\n  - address: 127.0.0.1:0\n    tls: {{ certificates: [{}]{more} }}\n\
         admin: {{ address: 127.0.0.1:0 }}\n{}{rest}",
        pairs.join(", "),
        tenant_config(upstream, "")
    )
}

/// The parts of an answer that are equal for equal requests: all but `Date` and the request id.
fn comparable(answer: &Response) -> (u16, Vec<(String, String)>, String) {
    let id = answer.headers.all("x-request-id").first().copied().unwrap_or("none").to_owned();
    let mut fields: Vec<_> = answer.headers.0.clone();
    fields.retain(|(name, _)| !["date", "x-request-id"].contains(&name.to_ascii_lowercase().as_str()));
    fields.sort();
    (answer.status, fields, answer.text().replace(&id, "ID"))
}

/// The series of handshake results in `/metrics`.
fn handshake_results(gateway: &Gateway) -> BTreeMap<String, f64> {
    let series = gateway.metrics().into_iter();
    series.filter(|(name, _)| name.starts_with(HANDSHAKES)).collect()
}
