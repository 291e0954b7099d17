//! `crossgate demo-upstream` on ports of the system's choice.

use std::net::SocketAddr;

use super::gateway::listening;
use super::process::Process;
use super::wire::{Connection, request};

/// The demo's API and page in a process of their own.
#[derive(Debug)]
pub(crate) struct DemoUpstream {
    pub(crate) api: SocketAddr,
    pub(crate) page: SocketAddr,
    _process: Process,
}

impl DemoUpstream {
    pub(crate) fn start() -> Self {
        Self::showing(&[])
    }

    /// The same with more command line arguments.
    pub(crate) fn showing(arguments: &[&str]) -> Self {
        let any = "127.0.0.1:0";
        let process = Process::crossgate(&[&["demo-upstream", "--listen", any, "--pages", any], arguments].concat());
        let api = process.stderr_line(|line| listening(line, "demo-api"));
        let page = process.stderr_line(|line| listening(line, "demo-page"));
        Self { api, page, _process: process }
    }

    /// How many requests of that method the API saw.
    pub(crate) fn count(&self, method: &str) -> u64 {
        let asked = request("GET", "/requests", "api", &[], b"");
        let counts = Connection::ask(self.api, &asked).unwrap().json();
        counts[method].as_u64().expect("a counter of that name")
    }
}
