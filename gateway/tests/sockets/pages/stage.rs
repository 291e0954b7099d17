//! A browser, the gateway, what is behind it, and the running of rows.

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

/// Longer than a value of a safelisted header may be.
const LONG: usize = 129;

/// By which pages and gateway are reached.
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

    /// What a browser speaks for it. WebSockets are opened over HTTP/1.1.
    fn protocol(self, is_websocket: bool) -> &'static str {
        if self == Self::Https && !is_websocket { "HTTP/2" } else { "HTTP/1.1" }
    }
}

/// What pages do, and what must come of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// What holds.
    row: String,
    /// Who asks, where a call says nothing else.
    #[serde(default)]
    page: String,
    /// Fields of the answers without which a page must fail: what shows that the row can.
    #[serde(default)]
    pub(super) needs: Vec<String>,
    calls: Vec<Call>,
    /// Method, status and perhaps kind of every request that came to the gateway, in order.
    gateway: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    page: Option<String>,
    /// What the page is told to do; see `page.html`.
    #[serde(rename = "do")]
    wish: Map<String, Value>,
    /// A part of what it must tell of the answer. Nothing stands for what is not there.
    sees: Value,
}

pub(super) struct Stage {
    scheme: Scheme,
    gateway: Gateway,
    upstream: RecordingUpstream,
    browser: Browser,
    /// Where the browser finds the gateway, and the pages.
    front: SocketAddr,
    pages: SocketAddr,
    /// The page that is open.
    open: RefCell<String>,
    behind: Behind,
}

/// What is to stay as long as the stage.
struct Behind {
    authority: Authority,
    issued: Issued,
    _pages: RecordingUpstream,
    fronts: Vec<TlsFront>,
    _down: RefusedAddress,
}

impl Stage {
    pub(super) fn start(scheme: Scheme) -> Self {
        let (upstream, server, down) =
            (RecordingUpstream::start(serve), RecordingUpstream::start(serve), RefusedAddress::new());
        let authority = Authority::new("pages");
        let issued = authority.issue(&["*.acme.localhost", "stranger.localhost"]);
        let fronts = Vec::from_iter((scheme == Scheme::Https).then(|| secured(&issued, server.address)));
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
        let behind = Behind { authority, issued, _pages: server, fronts, _down: down };
        Self { scheme, gateway, upstream, browser, front, pages, open: RefCell::default(), behind }
    }

    /// The same with a relay between browser and gateway, which speaks HTTP/1.1 alone.
    pub(super) fn behind_relay(scheme: Scheme) -> (Self, Relay) {
        let mut stage = Self::start(scheme);
        let Behind { authority, issued, fronts, .. } = &mut stage.behind;
        let tunnel = (scheme == Scheme::Https).then(|| Tunnel::to(stage.front, "api.acme.localhost", authority));
        let relay = Relay::before(tunnel.as_ref().map_or(stage.front, |tunnel| tunnel.address), tunnel);
        stage.front = relay.server.address;
        if scheme == Scheme::Https {
            let front = secured(issued, stage.front);
            stage.front = front.address;
            fronts.push(front);
        }
        (stage, relay)
    }

    /// The rows of a table.
    pub(super) fn rows(&self, table: &str) -> Vec<Row> {
        let mut text = table.replace("$LONG", &"a".repeat(LONG));
        for (name, page) in
            [("$APP", "app"), ("$SECOND", "second"), ("$EVIL", "evil"), ("$STRANGER", "stranger"), ("$OWN", "api")]
        {
            text = text.replace(name, &self.server(page));
        }
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Has the pages do what a row says; tells what they see otherwise. No two runs have an id in common, so that nothing a browser keeps
    /// of one tells in another.
    pub(super) fn run(&self, row: &Row, id: &str) -> Result<(), String> {
        for (nth, call) in row.calls.iter().enumerate() {
            self.visit(call.page.as_ref().unwrap_or(&row.page));
            let mut wish = call.wish.clone();
            let url = self.url(wish["to"].as_str().unwrap(), id);
            wish.insert("url".to_owned(), json!(url));
            let told = self.browser.run(&format!("return attempt({})", Value::Object(wish)));
            if !is_part(&call.sees, &told) {
                return Err(format!("{}: call {nth}\n  told {}\n  seen {told}", row.row, call.sees));
            }
        }
        Ok(())
    }

    /// Stops the gateway and compares its log with what rows say of it; tells where it differs.
    pub(super) fn finish<'r>(mut self, rows: impl Iterator<Item = (&'r Row, String)>) -> Vec<String> {
        drop(self.browser);
        self.gateway.process.signal(Signal::TERM);
        self.gateway.process.wait_at_most(PATIENCE);
        assert_eq!(self.upstream.count("OPTIONS"), 0, "no preflight reaches the upstream");
        let seen = logged(&self.gateway.process.stdout(), self.scheme);
        let compare = |(row, id): (&Row, String)| {
            let seen = seen.get(&id).map(Vec::as_slice).unwrap_or_default();
            let is_told = seen.len() == row.gateway.len()
                && seen
                    .iter()
                    .zip(&row.gateway)
                    .all(|(seen, told)| format!("{seen} ").starts_with(&format!("{told} ")));
            (!is_told).then(|| format!("{}: at the gateway\n  told {:?}\n  seen {seen:?}", row.row, row.gateway))
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

    /// The origin of a page's own server, or of a host of the gateway's.
    fn server(&self, host: &str) -> String {
        let (scheme, pages) = (self.scheme.name(), self.pages.port());
        match host {
            "app" | "second" | "evil" => format!("{scheme}://{host}.acme.localhost:{pages}"),
            "stranger" => format!("{scheme}://stranger.localhost:{pages}"),
            host => format!("{scheme}://{host}.acme.localhost:{}", self.front.port()),
        }
    }

    /// `HOST/BEHAVIOUR`, or `HOST/redirect/HOST/BEHAVIOUR` and so on, as a URL of that run.
    fn url(&self, to: &str, id: &str) -> String {
        let (host, path) = to.split_once('/').unwrap();
        match path.split_once('/') {
            None => format!("{}/{path}/{id}", self.server(host)),
            Some((path, then)) => format!("{}/{path}/{id}?then={}", self.server(host), self.url(then, id)),
        }
    }
}

/// What speaks TLS before a server that does not, and HTTP/1.1 within it.
fn secured(issued: &Issued, server: SocketAddr) -> TlsFront {
    TlsFront::start(issued.server(&["http/1.1"]), server)
}

/// By a run's id: the requests in the order in which they came.
fn logged(lines: &str, scheme: Scheme) -> BTreeMap<String, Vec<String>> {
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

/// Whether all that is told is so; of objects only what is named counts.
fn is_part(told: &Value, seen: &Value) -> bool {
    match (told, seen) {
        (Value::Object(told), Value::Object(seen)) => {
            told.iter().all(|(name, value)| is_part(value, seen.get(name).unwrap_or(&Value::Null)))
        }
        (told, seen) => told == seen,
    }
}
