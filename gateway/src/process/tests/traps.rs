//! Exchanges in which a proxy easily goes wrong: a message with a wrong end, a connection that is
//! kept and should not be, or a failure that looks like success reaches another client.
//!
//! Every behaviour is tested for both engines, for clients of HTTP/1.1 and HTTP/2, and in clear
//! text and over TLS on both sides, as far as it concerns them ([`cells`]). The server follows a
//! script, records every byte and accepts only strictly valid requests ([`server`]). Where the
//! engines differ on purpose (`docs/design/direct-exchange.md`), the test says so.

mod bodies;
mod cells;
mod client;
mod early;
mod frames;
mod heads;
mod kept;
mod leaving;
mod phases;
mod server;
mod uploads;

use std::net::SocketAddr;
use std::thread;

use self::cells::Cell;
use self::client::Client;
use self::server::{Next, ServerExchange, StrictServer};
use super::harness::Gateway;
use super::streams::PATIENCE;
use crate::process::*;

const CONFIG: &str = r#"version: 1
listeners: [{ address: "127.0.0.1:0"LISTENER_KEYS }]
admin: { address: "127.0.0.1:0" }
upstreams: { a: { servers: ["SERVER"]UPSTREAM_KEYS } }
policies: { spa: POLICY }
tenants: [{ id: acme, hosts: [api.test], upstream: a, policy: spa }]
"#;

/// A gateway and its server.
struct Site {
    cell: Cell,
    gateway: Option<Gateway>,
    server: StrictServer,
}

/// What differs from [`CONFIG`].
#[derive(Clone, Copy, Default)]
struct Settings<'t> {
    /// More keys of the upstream.
    upstream: &'t str,
    /// The policy.
    policy: Option<&'t str>,
    /// More sections.
    sections: &'t str,
    /// A script in `scripts`.
    script: Option<(&'t str, &'t str)>,
}

impl Site {
    /// With a server that runs `script` for each request.
    fn start(cell: Cell, script: impl Fn(&mut ServerExchange<'_>) -> Next + Send + Sync + 'static) -> Self {
        Self::with_settings(cell, Settings::default(), script)
    }

    fn with_settings(
        cell: Cell,
        settings: Settings<'_>,
        script: impl Fn(&mut ServerExchange<'_>) -> Next + Send + Sync + 'static,
    ) -> Self {
        Self::with_server(cell, settings, StrictServer::start(cell.transport, script))
    }

    fn with_server(cell: Cell, settings: Settings<'_>, server: StrictServer) -> Self {
        let gateway = start_gateway(cell, settings, server.address);
        Site { cell, gateway: Some(gateway), server }
    }

    fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("not stopped")
    }

    /// A client with a new connection.
    fn client(&self) -> Client {
        Client::open(self.cell, self.gateway().data())
    }

    /// Asserts that a new client is served, by whichever connection to the server.
    #[track_caller]
    fn assert_serves(&self) {
        let answer = self.client().ask("GET", "/next", &[], b"");
        assert_eq!((answer.status, answer.text()), (200, "/next".to_owned()));
    }

    /// Sends requests to `target` until one is the second or a later one of its connection to the
    /// server. Over HTTP/2 a response can reach the client before the connection is kept.
    #[track_caller]
    fn assert_reuses(&self, client: &mut Client, target: &str) {
        for _ in 0..20 {
            let answer = client.ask("GET", target, &[], b"");
            assert_eq!(answer.status, 200);
            if self.server.last_nth() > 0 {
                return;
            }
        }
        panic!("no connection to the server is used again");
    }
}

fn start_gateway(cell: Cell, settings: Settings<'_>, server: SocketAddr) -> Gateway {
    let Settings { upstream, policy, sections, script } = settings;
    let text = CONFIG
        .replace("LISTENER_KEYS", cell.transport.listener_keys())
        .replace("UPSTREAM_KEYS", &format!("{}{upstream}", cell.transport.upstream_keys()))
        .replace("SERVER", &server.to_string())
        .replace("POLICY", policy.unwrap_or(r#"{ allowOrigins: ["https://app.test"] }"#));
    let mut files = cell.transport.files();
    files.extend(script);
    Gateway::start(&format!("{text}{sections}"), &files, cell.engine)
}

impl Drop for Site {
    /// Asserts that the server has received nothing but valid requests, and that its scripts came
    /// to their ends.
    fn drop(&mut self) {
        if !thread::panicking() {
            self.server.wait_for_scripts();
        }
        if let Some(gateway) = self.gateway.take() {
            gateway.stop(StopMode::AtOnce);
        }
        let violations = self.server.stop();
        if thread::panicking() {
            eprintln!("violations at the server: {violations:#?}");
        } else {
            assert!(violations.is_empty(), "violations at the server: {violations:#?}");
        }
    }
}

/// The script for a request that is like any other: answers with its target.
fn answer_target(exchange: &mut ServerExchange<'_>) -> Next {
    exchange.read_body();
    exchange.answer_target();
    Next::Request
}
