//! `crossgate demo-upstream` on free ports.

use std::net::SocketAddr;

use super::gateway::listening;
use super::process::Process;
use super::wire::{Connection, request};

/// A process that serves the API and the page of the demo.
#[derive(Debug)]
pub(crate) struct DemoUpstream {
    pub(crate) api: SocketAddr,
    pub(crate) page: SocketAddr,
    _process: Process,
}

impl DemoUpstream {
    pub(crate) fn start() -> Self {
        Self::with_arguments(&[])
    }

    /// Starts the demo with more command line arguments.
    pub(crate) fn with_arguments(arguments: &[&str]) -> Self {
        let any = "127.0.0.1:0";
        let process = Process::crossgate(&[&["demo-upstream", "--listen", any, "--pages", any], arguments].concat());
        let api = process.stderr_line(|line| listening(line, "demo-api"));
        let page = process.stderr_line(|line| listening(line, "demo-page"));
        Self { api, page, _process: process }
    }

    /// The number of requests with that method at the API.
    pub(crate) fn count(&self, method: &str) -> u64 {
        let counts_request = request("GET", "/requests", "api", &[], b"");
        let counts = Connection::ask(self.api, &counts_request).unwrap().json();
        counts[method].as_u64().expect("a counter of that name")
    }
}
