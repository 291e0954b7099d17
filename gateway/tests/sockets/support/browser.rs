//! A headless Chromium, driven through chromedriver over the WebDriver protocol.
//!
//! It has only the commands that the suites need. Both programs come from Debian, and `make test`
//! installs them. A missing browser fails the test, because only a browser can confirm these
//! results.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
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

/// Attempts to start the driver until it has a port.
const STARTS_MAX: usize = 5;

/// The time that a console message may take to reach the driver.
const CONSOLE_PATIENCE: Duration = Duration::from_secs(5);

/// A browser with its own profile.
#[derive(Debug)]
pub(crate) struct Browser {
    driver: SocketAddr,
    session: String,
    _process: Process,
    _profile: TempDir,
}

impl Browser {
    /// A browser that accepts certificates with these public keys from every issuer.
    pub(crate) fn trusting(keys: &[Vec<u8>]) -> Self {
        let (process, driver) = start_driver();
        let profile = TempDir::new().unwrap();
        let data_dir = format!("--user-data-dir={}", profile.path().display());
        let hashes: Vec<String> = keys.iter().map(|key| sha256(key)).collect();
        let trusted = format!("--ignore-certificate-errors-spki-list={}", hashes.join(","));
        let flags: Vec<&str> = FLAGS.into_iter().chain([data_dir.as_str(), trusted.as_str()]).collect();
        let options = json!({ "goog:chromeOptions": { "args": flags }, "goog:loggingPrefs": { "browser": "ALL" } });
        let wanted = json!({ "capabilities": { "alwaysMatch": options } });
        let session = command_at(driver, "POST", "/session", &wanted);
        let session = session["sessionId"].as_str().expect("a session").to_owned();
        Self { driver, session, _process: process, _profile: profile }
    }

    pub(crate) fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({ "url": url }));
    }

    /// Runs a script in the page and returns its result.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Runs a script until its result is not null.
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

    /// The messages in the console since the last call.
    pub(crate) fn console(&self) -> Vec<String> {
        let entries = self.command("POST", "/se/log", &json!({ "type": "browser" }));
        let message = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
        entries.as_array().into_iter().flatten().map(message).collect()
    }

    /// Waits until the console has a message that contains `part`.
    ///
    /// # Errors
    /// The messages that the console contains instead.
    pub(crate) fn wait_for_console(&self, part: &str) -> Result<(), Vec<String>> {
        let deadline = Instant::now() + CONSOLE_PATIENCE;
        let mut seen = Vec::new();
        loop {
            seen.extend(self.console());
            if seen.iter().any(|message| message.contains(part)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(seen);
            }
        }
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        command_at(self.driver, method, &format!("/session/{}{path}", self.session), body)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends Chromium. The driver is a child process and ends when `_process` is dropped.
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

/// The hash of a public key in the format of the browser's flag.
fn sha256(bytes: &[u8]) -> String {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("a suite of TLS 1.3");
    STANDARD.encode(suite.common.hash_provider.hash(bytes))
}

/// Starts chromedriver. It chooses a free IPv6 port, and exits if that port is in use over IPv4.
fn start_driver() -> (Process, SocketAddr) {
    for _ in 0..STARTS_MAX {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0");
        let process = Process::spawn(command);
        if let Some(driver) = process.stdout_line(driver_address) {
            return (process, driver);
        }
    }
    panic!("chromedriver found no free port in {STARTS_MAX} starts");
}

/// The address in `ChromeDriver was started successfully on port 1234.`, and `Some(None)` if the
/// line reports that the port is not available.
fn driver_address(line: &str) -> Option<Option<SocketAddr>> {
    if line.contains("port not available") {
        return Some(None);
    }
    let (_, port) = line.split_once("started successfully on port ")?;
    Some(Some(([127, 0, 0, 1], port.trim_end_matches('.').parse().ok()?).into()))
}
