//! The gateway, the servers of the pages, the browser, and the execution of cases.

use std::cell::Cell;
use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::support::{
    Authority, Browser, Exchange, Gateway, ReceivedRequest, RecordingUpstream, Then, TlsFront, config_with_tls,
};

const PAGE: &str = include_str!("page.html");
const IMAGE: &str = r#"<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>"#;

/// The service worker that passes on the request that it gets.
const WORKER_AS_IS: &str = "onfetch = (event) => event.respondWith(fetch(event.request));";

/// The service worker that makes a request of its own, with the same method, target and body.
const WORKER_AGAIN: &str = "onfetch = (event) => event.respondWith(event.request.text().then((body) =>
    fetch(event.request.url, { method: event.request.method, body: body || undefined })));";

/// The hosts of the pages, by the name that stands for their origin in a table.
const PAGES: [(&str, &str); 6] = [
    ("$OWN", "own"),
    ("$APP", "app"),
    ("$PARTNER", "partner"),
    ("$SIBLING", "sibling"),
    ("$EVIL", "evil"),
    ("$HOP", "hop"),
];

/// A request of a page and its expected result.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    case: String,
    /// The page, as `HOST/PATH`.
    page: String,
    /// Instructions for the page; see `page.html`.
    #[serde(rename = "do")]
    instructions: Map<String, Value>,
    /// The path at the API, to which the run adds a number.
    to: String,
    /// The received method, `Sec-Fetch-Site`, `Sec-Fetch-Mode`, `Sec-Fetch-Dest` and `Origin`, with
    /// `-` for an absent field.
    sent: String,
    /// Whether the request must have the cookie of the API. Otherwise the settings of the browser
    /// for third-party cookies decide.
    #[serde(default)]
    cookie: bool,
    /// Status and reason in the access log.
    answer: String,
    /// What the page sees of the answer, or the title of the page to which the browser navigated.
    /// Null if the page cannot tell.
    #[serde(default)]
    sees: Value,
}

pub(super) struct Setup {
    gateway: Gateway,
    upstream: RecordingUpstream,
    browser: Browser,
    /// The address of the API for the browser.
    api: SocketAddr,
    /// The server of all pages that are not the API's own.
    front: TlsFront,
    runs: Cell<usize>,
    _pages: RecordingUpstream,
}

impl Setup {
    /// Starts everything, and lets the API set a cookie that the browser also sends from other
    /// sites.
    pub(super) fn start() -> Self {
        let (upstream, pages) = (RecordingUpstream::start(serve), RecordingUpstream::start(serve));
        let hosts = ["*.acme.localhost", "partner.localhost", "evil.localhost", "hop.localhost"];
        let issued = Authority::new("cross-site").issue(&hosts);
        let front = TlsFront::start(issued.server(&["http/1.1"]), pages.address);
        let text = include_str!("gateway.yaml")
            .replace("$UPSTREAM", &upstream.address.to_string())
            .replace("$PAGES", &front.address.port().to_string());
        let gateway = Gateway::start(&config_with_tls(&text), &issued.files());
        let api = *gateway.data_listeners().last().unwrap();
        let browser = Browser::trusting(&[issued.spki]);
        let setup = Self { gateway, upstream, browser, api, front, runs: Cell::default(), _pages: pages };
        setup.visit("own/page");
        setup
    }

    /// Reads the cases of a table.
    pub(super) fn cases(&self, table: &str) -> Vec<Case> {
        let named = |text: String, (name, host): (&str, &str)| text.replace(name, &self.origin(host));
        let text = PAGES.into_iter().fold(table.to_owned(), named);
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a case; an error describes the differences.
    pub(super) fn run(&self, case: &Case) -> Result<(), String> {
        self.runs.set(self.runs.get() + 1);
        let path = format!("{}/{}", case.to, self.runs.get());
        self.visit(&case.page);
        let mut instructions = case.instructions.clone();
        instructions.insert("url".to_owned(), json!(self.origin("own") + &path));
        let seen = self.browser.run(&format!("return act({})", Value::Object(instructions)));
        let line = self.gateway.process.stdout_line(|line| logged(line, &path));
        let seen = if seen == "navigates" { self.title_at(&path) } else { seen };

        let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
        let sent = ["method", "sec_fetch_site", "sec_fetch_mode", "sec_fetch_dest", "origin"].map(text).join(" ");
        let is_forwarded = case.answer.starts_with("200 ");
        let comparisons = [
            ("sent", json!(case.sent), json!(sent)),
            ("answer", json!(case.answer), json!(format!("{} {}", line["status"], text("reason")))),
            ("at the upstream", json!(is_forwarded.then_some(&case.sent).as_slice()), json!(self.forwarded(&path))),
            ("cookie", json!(true), json!(!case.cookie || line["has_ambient_credentials"] == true)),
            ("sees", case.sees.clone(), if case.sees.is_null() { Value::Null } else { seen }),
        ];
        let differs = comparisons.iter().filter(|(_, expected, found)| expected != found);
        let differences: Vec<String> =
            differs.map(|(what, expected, found)| format!("\n  {what}: expected {expected}, found {found}")).collect();
        if differences.is_empty() { Ok(()) } else { Err(case.case.clone() + &differences.concat()) }
    }

    /// Registers the service worker of that path and waits until it is active.
    pub(super) fn register_worker(&self, scope: &str) {
        self.visit(&format!("own/{scope}/page"));
        assert_eq!(self.browser.run(&format!("return register('/{scope}/worker.js')")), "activated", "{scope}");
    }

    /// The requests with that path at the upstream, in the format of [`Case::sent`].
    fn forwarded(&self, path: &str) -> Vec<String> {
        let summary = |request: &ReceivedRequest| {
            let field = |name: &str| request.headers.all(name).join(", ");
            let fields = ["sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "origin"].map(field);
            let fields = fields.map(|value| if value.is_empty() { "-".to_owned() } else { value });
            format!("{} {}", request.method, fields.join(" "))
        };
        self.upstream.seen().iter().filter(|request| request.target == path).map(summary).collect()
    }

    fn visit(&self, page: &str) {
        let (host, path) = page.split_once('/').unwrap();
        self.browser.open(&format!("{}/{path}", self.origin(host)));
    }

    /// Waits until the browser shows the page with that path, and returns its title.
    fn title_at(&self, path: &str) -> Value {
        self.browser.wait_for(&format!(
            "return location.pathname === '{path}' && document.readyState === 'complete' ? document.title : null"
        ))
    }

    fn origin(&self, host: &str) -> String {
        let pages = self.front.address.port();
        match host {
            "own" => format!("https://api.acme.localhost:{}", self.api.port()),
            "app" | "sibling" => format!("https://{host}.acme.localhost:{pages}"),
            host => format!("https://{host}.localhost:{pages}"),
        }
    }
}

/// The access log line of the request with that path, which is not a preflight.
fn logged(line: &str, path: &str) -> Option<Value> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line["path"] == path && line["kind"] != "preflight").then_some(line)
}

/// Serves the pages, the service workers, redirects, and the answers of the API.
fn serve(exchange: &mut Exchange) -> Then {
    let target = exchange.seen.target.clone();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (html, script) = (("Content-Type", "text/html"), ("Content-Type", "text/javascript"));
    let cookie = ("Set-Cookie", "session=1; Path=/; Secure; SameSite=None");
    match path.rsplit('/').next().unwrap_or_default() {
        "page" => exchange.answer(200, &[html, cookie], PAGE.as_bytes()),
        "quiet-page" => exchange.answer(200, &[html, ("Referrer-Policy", "no-referrer")], PAGE.as_bytes()),
        "redirect" => exchange.answer(307, &[("Location", query)], b""),
        "worker.js" if path.contains("/as-is/") => exchange.answer(200, &[script], WORKER_AS_IS.as_bytes()),
        "worker.js" => exchange.answer(200, &[script], WORKER_AGAIN.as_bytes()),
        _ if exchange.seen.headers.all("sec-fetch-dest") == ["image"] => {
            exchange.answer(200, &[("Content-Type", "image/svg+xml")], IMAGE.as_bytes())
        }
        _ => exchange.answer(200, &[html], b"<!doctype html><title>The API</title>"),
    }
}
