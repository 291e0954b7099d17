//! Setup of browser, gateway and servers, and execution of rows.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::servers::{Relay, serve};
use crate::support::{
    Authority, Browser, Gateway, Issued, PATIENCE, RecordingUpstream, RefusedAddress, TlsFront, Tunnel, config,
    config_with_tls,
};

/// Longer than the limit for values of safelisted request headers (128 bytes, Fetch).
const LONG: usize = 129;

/// Scheme of pages and gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

pub(super) const SCHEMES: [Scheme; 2] = [Scheme::Http, Scheme::Https];

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The protocol that a browser uses. Browsers open WebSockets over HTTP/1.1.
    fn protocol(self, is_websocket: bool) -> &'static str {
        if self == Self::Https && !is_websocket { "HTTP/2" } else { "HTTP/1.1" }
    }
}

/// Requests of pages and their expected results.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// The name of the row.
    row: String,
    /// The page that sends the requests, unless a call names another.
    #[serde(default)]
    page: String,
    /// Fields without which the row must fail. This shows that the row can fail.
    #[serde(default)]
    pub(super) needs: Vec<String>,
    calls: Vec<Call>,
    /// Method, status and optionally kind of every request at the gateway, in order.
    gateway: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    page: Option<String>,
    /// Instructions for the page; see `page.html`.
    #[serde(rename = "do")]
    wish: Map<String, Value>,
    /// Expected part of the page's result. Null means that a value is absent.
    sees: Value,
    /// Part of a message that must appear in the browser's console.
    console: Option<String>,
}

pub(super) struct BrowserSetup {
    scheme: Scheme,
    gateway: Gateway,
    upstream: RecordingUpstream,
    browser: Browser,
    /// Addresses of the gateway and the pages for the browser.
    front: SocketAddr,
    pages: SocketAddr,
    /// The open page.
    open: RefCell<String>,
    backends: Backends,
}

/// Objects that live as long as the setup.
struct Backends {
    authority: Authority,
    issued: Issued,
    _pages: RecordingUpstream,
    fronts: Vec<TlsFront>,
    _down: RefusedAddress,
}

impl BrowserSetup {
    pub(super) fn start(scheme: Scheme) -> Self {
        let (upstream, server, down) =
            (RecordingUpstream::start(serve), RecordingUpstream::start(serve), RefusedAddress::new());
        let authority = Authority::new("pages");
        let issued = authority.issue(&["*.acme.localhost", "stranger.localhost"]);
        let fronts = Vec::from_iter((scheme == Scheme::Https).then(|| start_tls_front(&issued, server.address)));
        let pages = fronts.first().map_or(server.address, |front| front.address);
        let text = include_str!("gateway.yaml")
            .replace("$SCHEME", scheme.name())
            .replace("$UPSTREAM", &upstream.address.to_string())
            .replace("$DOWN", &down.address.to_string())
            .replace("$PAGES", &pages.port().to_string());
        let gateway = match scheme {
            Scheme::Http => Gateway::start(&config(&text), &[]),
            Scheme::Https => Gateway::start(&config_with_tls(&text), &issued.files()),
        };
        let front = *gateway.data_listeners().last().unwrap();
        let browser = Browser::trusting(std::slice::from_ref(&issued.spki));
        let backends = Backends { authority, issued, _pages: server, fronts, _down: down };
        Self { scheme, gateway, upstream, browser, front, pages, open: RefCell::default(), backends }
    }

    /// Starts the setup with a relay between browser and gateway, which uses HTTP/1.1 only.
    pub(super) fn behind_relay(scheme: Scheme) -> (Self, Relay) {
        let mut setup = Self::start(scheme);
        let Backends { authority, issued, fronts, .. } = &mut setup.backends;
        let tunnel = (scheme == Scheme::Https).then(|| Tunnel::to(setup.front, "api.acme.localhost", authority));
        let relay = Relay::before(tunnel.as_ref().map_or(setup.front, |tunnel| tunnel.address), tunnel);
        setup.front = relay.server.address;
        if scheme == Scheme::Https {
            let front = start_tls_front(issued, setup.front);
            setup.front = front.address;
            fronts.push(front);
        }
        (setup, relay)
    }

    /// Reads the rows of a table.
    pub(super) fn rows(&self, table: &str) -> Vec<Row> {
        let mut text = table.replace("$LONG", &"a".repeat(LONG));
        for (name, page) in
            [("$APP", "app"), ("$SECOND", "second"), ("$EVIL", "evil"), ("$STRANGER", "stranger"), ("$OWN", "api")]
        {
            text = text.replace(name, &self.server(page));
        }
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a row; an error describes a difference. Each run has its own id, so that the browser's
    /// caches cannot affect another run.
    pub(super) fn run(&self, row: &Row, id: &str) -> Result<(), String> {
        for (nth, call) in row.calls.iter().enumerate() {
            self.visit(call.page.as_ref().unwrap_or(&row.page));
            let mut wish = call.wish.clone();
            let url = self.url(wish["to"].as_str().unwrap(), id);
            wish.insert("url".to_owned(), json!(url));
            // Drop the messages of earlier calls.
            self.browser.console();
            let seen = self.browser.run(&format!("return attempt({})", Value::Object(wish)));
            if !contains_expected(&call.sees, &seen) {
                return Err(format!("{}: call {nth}\n  expected {}\n  seen {seen}", row.row, call.sees));
            }
            if let Some(part) = &call.console {
                self.browser.wait_for_console(part).map_err(|seen| {
                    format!("{}: call {nth} in the console\n  expected {part}\n  seen {seen:?}", row.row)
                })?;
            }
        }
        Ok(())
    }

    /// Stops the gateway, compares its log with the rows and returns the differences.
    pub(super) fn finish<'r>(mut self, rows: impl Iterator<Item = (&'r Row, String)>) -> Vec<String> {
        drop(self.browser);
        self.gateway.process.signal(Signal::TERM);
        self.gateway.process.wait_at_most(PATIENCE);
        assert_eq!(self.upstream.count("OPTIONS"), 0, "a preflight reached the upstream");
        let seen = group_by_run(&self.gateway.process.stdout(), self.scheme);
        let compare = |(row, id): (&Row, String)| {
            let seen = seen.get(&id).map(Vec::as_slice).unwrap_or_default();
            let is_equal = seen.len() == row.gateway.len()
                && seen
                    .iter()
                    .zip(&row.gateway)
                    .all(|(seen, expected)| format!("{seen} ").starts_with(&format!("{expected} ")));
            (!is_equal).then(|| format!("{}: at the gateway\n  expected {:?}\n  seen {seen:?}", row.row, row.gateway))
        };
        rows.filter_map(compare).collect()
    }

    fn visit(&self, page: &str) {
        if *self.open.borrow() == page {
            return;
        }
        let (path, of) = page.strip_prefix("quiet-").map_or(("page", page), |of| ("quiet-page", of));
        let server = self.server(if of == "own" { "api" } else { of });
        self.browser.open(&format!("{server}/{path}/"));
        page.clone_into(&mut self.open.borrow_mut());
    }

    /// Returns the origin of a page's server, or of a host of the gateway.
    fn server(&self, host: &str) -> String {
        let (scheme, pages) = (self.scheme.name(), self.pages.port());
        match host {
            "app" | "second" | "evil" => format!("{scheme}://{host}.acme.localhost:{pages}"),
            "stranger" => format!("{scheme}://stranger.localhost:{pages}"),
            host => format!("{scheme}://{host}.acme.localhost:{}", self.front.port()),
        }
    }

    /// Turns `HOST/BEHAVIOUR`, or `HOST/redirect/HOST/BEHAVIOUR` and so on, into a URL of the run.
    fn url(&self, to: &str, id: &str) -> String {
        let (host, path) = to.split_once('/').unwrap();
        match path.split_once('/') {
            None => format!("{}/{path}/{id}", self.server(host)),
            Some((path, then)) => format!("{}/{path}/{id}?then={}", self.server(host), self.url(then, id)),
        }
    }
}

/// Starts a TLS front for a plain-text server, with HTTP/1.1.
fn start_tls_front(issued: &Issued, server: SocketAddr) -> TlsFront {
    TlsFront::start(issued.server(&["http/1.1"]), server)
}

/// Groups the logged requests by run id, in the order of arrival.
fn group_by_run(lines: &str, scheme: Scheme) -> BTreeMap<String, Vec<String>> {
    let mut records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    records.sort_by_key(|record| record["time"].as_str().unwrap().to_owned());
    let mut by_run: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records {
        let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        let path = text("path");
        assert_eq!(text("protocol"), scheme.protocol(path.starts_with("/socket/")), "{record}");
        let id = path.rsplit('/').next().unwrap_or_default().to_owned();
        by_run.entry(id).or_default().push(format!("{} {} {}", text("method"), record["status"], text("kind")));
    }
    by_run
}

/// Checks that `seen` has all expected values. Further keys of objects are ignored.
fn contains_expected(expected: &Value, seen: &Value) -> bool {
    match (expected, seen) {
        (Value::Object(expected), Value::Object(seen)) => {
            expected.iter().all(|(name, value)| contains_expected(value, seen.get(name).unwrap_or(&Value::Null)))
        }
        (expected, seen) => expected == seen,
    }
}
