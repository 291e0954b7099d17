//! A running gateway: its own configuration directory, the built binary, and the addresses it
//! listens on.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use super::process::{PATIENCE, Process};
use super::wire::{Connection, Response, request};

/// A gateway process.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) data: SocketAddr,
    pub(crate) admin: SocketAddr,
    directory: TempDir,
}

/// A configuration with one data listener and the admin listener on free ports, followed by `rest`.
pub(crate) fn config(rest: &str) -> String {
    format!("version: 1\nlisteners:\n  - address: 127.0.0.1:0\nadmin: {{ address: 127.0.0.1:0 }}\n{rest}")
}

/// A configuration with a second data listener for TLS, whose certificate is in
/// [`Issued::files`](super::Issued::files).
pub(crate) fn config_with_tls(rest: &str) -> String {
    let listener =
        "  - { address: 127.0.0.1:0, tls: { certificates: [{ certificate: listener.crt, key: listener.key }] } }\n";
    config(rest).replacen("admin:", &format!("{listener}admin:"), 1)
}

/// A directory with `text` as `crossgate.yaml` and `files` next to it, and the path of the former.
pub(super) fn config_directory(text: &str, files: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    for (name, content) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let path = directory.path().join("crossgate.yaml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

impl Gateway {
    /// Writes `text` as `crossgate.yaml` and `files` next to it, and starts the gateway. Returns
    /// when it is ready.
    pub(crate) fn start(text: &str, files: &[(&str, &str)]) -> Self {
        Self::start_with(text, files, &[])
    }

    /// Like [`Gateway::start`], with more command line arguments.
    pub(crate) fn start_with(text: &str, files: &[(&str, &str)], arguments: &[&str]) -> Self {
        let (directory, path) = config_directory(text, files);
        Self::start_in(directory, &path, arguments)
    }

    /// Starts the gateway with a configuration file that exists in `directory`.
    pub(crate) fn start_in(directory: TempDir, config: &Path, arguments: &[&str]) -> Self {
        let config = config.to_str().unwrap();
        Self::from_process(Process::crossgate(&[&["run", "--config", config], arguments].concat()), directory)
    }

    /// Starts the gateway with a complete command and files that exist in `directory`.
    pub(crate) fn start_as(command: Command, directory: TempDir) -> Self {
        Self::from_process(Process::spawn(command), directory)
    }

    /// Starts the gateway with the command of the test, to which the arguments for `text` are
    /// added.
    pub(crate) fn start_by(mut command: Command, text: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("crossgate.yaml");
        fs::write(&path, text).unwrap();
        command.args(["run", "--config", path.to_str().unwrap()]);
        Self::from_process(Process::spawn(command), directory)
    }

    fn from_process(process: Process, directory: TempDir) -> Self {
        let data = process.stderr_line(|line| listening(line, "data"));
        let admin = process.stderr_line(|line| listening(line, "admin"));
        let gateway = Self { process, data, admin, directory };
        gateway.wait_ready();
        gateway
    }

    fn wait_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.admin("GET", "/readyz").status != 200 {
            assert!(Instant::now() < deadline, "the gateway is not ready:\n{}", self.process.stderr());
        }
    }

    /// The path of a file in the configuration directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Sends one request to the first data listener on a new connection.
    pub(crate) fn ask(&self, method: &str, target: &str, host: &str, headers: &[(&str, &str)]) -> Response {
        let bytes = request(method, target, host, headers, b"");
        Connection::ask(self.data, &bytes).unwrap_or_else(|error| panic!("{method} {target} {headers:?}: {error:?}"))
    }

    /// Sends one request to the admin listener.
    pub(crate) fn admin(&self, method: &str, target: &str) -> Response {
        let bytes = request(method, target, &self.admin.to_string(), &[("Connection", "close")], b"");
        Connection::ask(self.admin, &bytes).unwrap_or_else(|error| panic!("admin {method} {target}: {error:?}"))
    }

    /// The response of `/origins` to a query.
    pub(crate) fn origins(&self, query: &str) -> Value {
        self.admin("GET", &format!("/origins?{query}")).json()
    }

    /// The samples of `/metrics`: each series as text, and its value.
    pub(crate) fn metrics(&self) -> Vec<(String, f64)> {
        let text = self.admin("GET", "/metrics").text();
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let split = samples.map(|line| line.rsplit_once(' ').expect("a series and its value"));
        split.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
    }

    /// The sum of the series with that name and these labels, in any order. 0 without such a
    /// series.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let matches = |series: &str| {
            series.split('{').next() == Some(name) && wanted.iter().all(|label| series.contains(label.as_str()))
        };
        self.metrics().iter().filter(|(series, _)| matches(series)).map(|(_, value)| value).sum()
    }
}

impl Gateway {
    /// Waits until a series has that value, because requests are counted after their answer is
    /// sent. A larger value fails at once.
    pub(crate) fn wait_metric(&self, name: &str, labels: &[(&str, &str)], wanted: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(name, labels);
            if value == wanted {
                return;
            }
            assert!(value < wanted && Instant::now() < deadline, "{name} {labels:?} is {value}, not {wanted}");
        }
    }

    /// Waits until a gauge has that value.
    pub(crate) fn wait_level(&self, name: &str, wanted: f64) {
        let deadline = Instant::now() + PATIENCE;
        while self.metric(name, &[]) != wanted {
            assert!(Instant::now() < deadline, "{name} is {}, not {wanted}", self.metric(name, &[]));
        }
    }

    /// Waits until a gauge is at 0.
    pub(crate) fn wait_zero(&self, name: &str, labels: &[(&str, &str)]) {
        let deadline = Instant::now() + PATIENCE;
        while self.metric(name, labels) > 0.0 {
            assert!(Instant::now() < deadline, "{name} {labels:?} is not 0");
        }
    }

    /// The addresses of all data listeners, in the order of the configuration.
    pub(crate) fn data_listeners(&self) -> Vec<SocketAddr> {
        self.process.stderr().lines().filter_map(|line| listening(line, "data")).collect()
    }
}

/// The number of requests in a response of `/origins`, under all its counts.
pub(crate) fn recorded(report: &Value) -> u64 {
    let count = |from: &Value, name: &str| from[name].as_u64().expect("a number");
    assert_eq!(count(report, "leftOut"), 0, "{report}");
    let counts = ["allowed", "denied", "wouldAllow", "wouldDeny"];
    let origins = report["origins"].as_array().expect("a list").iter();
    let counted: u64 = origins.flat_map(|origin| counts.map(|name| count(origin, name))).sum();
    counted + count(report, "forgotten") + count(report, "dropped")
}

/// The address in a log line `listening role=ROLE address=ADDRESS`.
pub(crate) fn listening(line: &str, role: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(&format!("listening role={role} address="))?;
    rest.split_whitespace().next()?.parse().ok()
}
