//! A headless Chromium, driven through chromedriver over the WebDriver protocol: the few commands the suites need.
//!
//! Both come from Debian (`make test` installs them). A missing browser fails the test: what no browser has judged
//! is not known to work.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{PATIENCE, Process};
use super::wire::{Connection, request};

const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
];

/// A browser with a profile of its own.
#[derive(Debug)]
pub(crate) struct Browser {
    driver: SocketAddr,
    session: String,
    _process: Process,
    _profile: TempDir,
}

impl Browser {
    /// One that takes certificates with these public keys from anybody.
    pub(crate) fn trusting(keys: &[Vec<u8>]) -> Self {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0");
        let process = Process::spawn(command);
        let driver = process.stdout_line(driver_address);
        let profile = TempDir::new().unwrap();
        let data_dir = format!("--user-data-dir={}", profile.path().display());
        let hashes: Vec<String> = keys.iter().map(|key| sha256(key)).collect();
        let trusted = format!("--ignore-certificate-errors-spki-list={}", hashes.join(","));
        let flags: Vec<&str> = FLAGS.into_iter().chain([data_dir.as_str(), trusted.as_str()]).collect();
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": { "args": flags } } } });
        let session = command_at(driver, "POST", "/session", &wanted);
        let session = session["sessionId"].as_str().expect("a session").to_owned();
        Self { driver, session, _process: process, _profile: profile }
    }

    pub(crate) fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({ "url": url }));
    }

    /// Runs a script in the page and gives what it returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Runs a script until it returns something that is not null.
    pub(crate) fn wait_for(&self, script: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.run(script);
            if !value.is_null() {
                return value;
            }
            assert!(Instant::now() < deadline, "still null: {script}");
        }
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        command_at(self.driver, method, &format!("/session/{}{path}", self.session), body)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends Chromium; the driver is a child of ours and ends with the process.
        let end = request("DELETE", &format!("/session/{}", self.session), "localhost", &[], b"");
        let _ = Connection::ask(self.driver, &end);
    }
}

fn command_at(driver: SocketAddr, method: &str, path: &str, body: &Value) -> Value {
    let headers = [("Content-Type", "application/json"), ("Connection", "close")];
    let bytes = request(method, path, "localhost", &headers, body.to_string().as_bytes());
    let answer = Connection::ask(driver, &bytes).expect("an answer of chromedriver").json();
    let value = answer["value"].clone();
    assert!(value.get("error").is_none(), "{method} {path}: {value:#}");
    value
}

/// The hash of a public key as the browser's flag wants it.
fn sha256(bytes: &[u8]) -> String {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("a suite of TLS 1.3");
    STANDARD.encode(suite.common.hash_provider.hash(bytes))
}

/// The address in `ChromeDriver was started successfully on port 1234.`
fn driver_address(line: &str) -> Option<SocketAddr> {
    let (_, port) = line.split_once("started successfully on port ")?;
    Some(([127, 0, 0, 1], port.trim_end_matches('.').parse().ok()?).into())
}
