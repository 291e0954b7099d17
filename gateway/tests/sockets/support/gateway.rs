//! A running gateway: a configuration in a directory of its own, the built binary, and the addresses it chose.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use super::process::{PATIENCE, Process};
use super::wire::{Connection, Response, request};

/// A gateway in a process of its own.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) data: SocketAddr,
    pub(crate) admin: SocketAddr,
    directory: TempDir,
}

/// A configuration with one data listener and the admin listener on ports of the system's choice, and `rest`.
pub(crate) fn config(rest: &str) -> String {
    format!("version: 1\nlisteners:\n  - address: 127.0.0.1:0\nadmin: {{ address: 127.0.0.1:0 }}\n{rest}")
}

/// The same with a second data listener, which speaks TLS with what [`Issued::files`](super::Issued::files) are.
pub(crate) fn config_with_tls(rest: &str) -> String {
    let listener =
        "  - { address: 127.0.0.1:0, tls: { certificates: [{ certificate: listener.crt, key: listener.key }] } }\n";
    config(rest).replacen("admin:", &format!("{listener}admin:"), 1)
}

impl Gateway {
    /// Writes `text` as `crossgate.yaml`, and `files` beside it, and starts the gateway; returns when it is ready.
    pub(crate) fn start(text: &str, files: &[(&str, &str)]) -> Self {
        Self::start_with(text, files, &[])
    }

    /// The same with more command line arguments.
    pub(crate) fn start_with(text: &str, files: &[(&str, &str)], arguments: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        for (name, content) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let path = directory.path().join("crossgate.yaml");
        fs::write(&path, text).unwrap();
        Self::start_in(directory, &path, arguments)
    }

    /// Starts the gateway with a file that is in `directory` already.
    pub(crate) fn start_in(directory: TempDir, config: &Path, arguments: &[&str]) -> Self {
        let config = config.to_str().unwrap();
        Self::of(Process::crossgate(&[&["run", "--config", config], arguments].concat()), directory)
    }

    /// The same by a command that is whole, with files that are in `directory` already.
    pub(crate) fn start_as(command: Command, directory: TempDir) -> Self {
        Self::of(Process::spawn(command), directory)
    }

    /// The same by a command of the test's making, which is given the arguments to run with `text`.
    pub(crate) fn start_by(mut command: Command, text: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("crossgate.yaml");
        fs::write(&path, text).unwrap();
        command.args(["run", "--config", path.to_str().unwrap()]);
        Self::of(Process::spawn(command), directory)
    }

    fn of(process: Process, directory: TempDir) -> Self {
        let data = process.stderr_line(|line| listening(line, "data"));
        let admin = process.stderr_line(|line| listening(line, "admin"));
        let gateway = Self { process, data, admin, directory };
        gateway.wait_ready();
        gateway
    }

    fn wait_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.admin("GET", "/readyz").status != 200 {
            assert!(Instant::now() < deadline, "never ready:\n{}", self.process.stderr());
        }
    }

    /// The path of a file of its configuration.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// One request to a data listener on a connection of its own.
    pub(crate) fn ask(&self, method: &str, target: &str, host: &str, headers: &[(&str, &str)]) -> Response {
        let bytes = request(method, target, host, headers, b"");
        Connection::ask(self.data, &bytes).unwrap_or_else(|error| panic!("{method} {target} {headers:?}: {error:?}"))
    }

    /// One request to the admin listener.
    pub(crate) fn admin(&self, method: &str, target: &str) -> Response {
        let bytes = request(method, target, &self.admin.to_string(), &[("Connection", "close")], b"");
        Connection::ask(self.admin, &bytes).unwrap_or_else(|error| panic!("admin {method} {target}: {error:?}"))
    }

    /// What `/origins` answers to a query.
    pub(crate) fn origins(&self, query: &str) -> Value {
        self.admin("GET", &format!("/origins?{query}")).json()
    }

    /// The samples of `/metrics`: a series as written there, and its value.
    pub(crate) fn metrics(&self) -> Vec<(String, f64)> {
        let text = self.admin("GET", "/metrics").text();
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let split = samples.map(|line| line.rsplit_once(' ').expect("a series and its value"));
        split.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
    }

    /// The value of one series, given its name and its labels in any order; 0 when it is not there.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let fits = |series: &str| {
            series.split('{').next() == Some(name) && wanted.iter().all(|label| series.contains(label.as_str()))
        };
        self.metrics().iter().filter(|(series, _)| fits(series)).map(|(_, value)| value).sum()
    }
}

impl Gateway {
    /// Waits until a series has that value: a request is counted after its answer is sent. More than that fails at once.
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

    /// Waits until a gauge stands there.
    pub(crate) fn wait_level(&self, name: &str, wanted: f64) {
        let deadline = Instant::now() + PATIENCE;
        while self.metric(name, &[]) != wanted {
            assert!(Instant::now() < deadline, "{name} is {}, not {wanted}", self.metric(name, &[]));
        }
    }

    /// Waits until a gauge is at 0.
    pub(crate) fn wait_gone(&self, name: &str, labels: &[(&str, &str)]) {
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

/// How many requests `/origins` tells of, one way or another.
pub(crate) fn recorded(told: &Value) -> u64 {
    let count = |from: &Value, name: &str| from[name].as_u64().expect("a number");
    assert_eq!(count(told, "leftOut"), 0, "{told}");
    let counts = ["allowed", "denied", "wouldAllow", "wouldDeny"];
    let origins = told["origins"].as_array().expect("a list").iter();
    let counted: u64 = origins.flat_map(|origin| counts.map(|name| count(origin, name))).sum();
    counted + count(told, "forgotten") + count(told, "dropped")
}

/// The address in a line that says `listening role=ROLE address=ADDRESS`.
pub(crate) fn listening(line: &str, role: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(&format!("listening role={role} address="))?;
    rest.split_whitespace().next()?.parse().ok()
}
