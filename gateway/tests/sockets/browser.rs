//! The demo page in a real browser, on an allowed and on a denied origin, over http and https.
//!
//! Each row of the page shows what its script could read. The upstream counts `OPTIONS` requests:
//! none may reach it.
use crate::support::{
    Authority, Browser, DemoUpstream, Gateway, PATIENCE, RefusedAddress, TlsFront, config, config_with_tls,
};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;
use tempfile::TempDir;

const CALLS: [&str; 6] = ["session", "get-omit", "get-include", "put-omit", "put-include", "down"];

/// Schemes of page and API.
const SCHEMES: [&str; 2] = ["http", "https"];

struct Demo {
    scheme: &'static str,
    upstream: DemoUpstream,
    gateway: Gateway,
    browser: Browser,
    /// Addresses of the page and the API for the browser.
    page: SocketAddr,
    api: SocketAddr,
    /// The rule script, which the page also shows.
    rule: PathBuf,
    _scripts: TempDir,
    _down: RefusedAddress,
    _front: Option<TlsFront>,
}

/// Starts the demo with the ports of this run. The page needs the gateway's admin listener and the
/// gateway needs the page's port, so the gateway starts first and reloads the upstream's ports.
fn start(scheme: &'static str) -> Demo {
    let scripts = TempDir::new().unwrap();
    let rule = scripts.path().join("demo.rhai");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/demo.rhai"), &rule).unwrap();
    let sample = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/config/demo.yaml")).unwrap();
    let (_, rest) = sample.split_once("\nupstreams:").unwrap();
    let down = RefusedAddress::new();
    let rest = format!("upstreams:{rest}")
        .replace("127.0.0.1:9]", &format!("{}]", down.address))
        .replace("../../scripts", scripts.path().to_str().unwrap());
    let issued = Authority::new("the demo").issue(&["*.acme.localhost", "evil.localhost"]);
    let text = if scheme == "https" { config_with_tls(&rest) } else { config(&rest) };
    let gateway = Gateway::start(&text, &issued.files());
    let (path, admin) = (gateway.path("crossgate.yaml"), gateway.admin.to_string());
    let upstream = DemoUpstream::with_arguments(&[
        "--rule",
        rule.to_str().unwrap(),
        "--config",
        path.to_str().unwrap(),
        "--admin",
        &admin,
    ]);
    let front = (scheme == "https").then(|| TlsFront::start(issued.server(&["http/1.1"]), upstream.page));
    let page = front.as_ref().map_or(upstream.page, |front| front.address);
    let text = text
        .replace("127.0.0.1:9001", &upstream.api.to_string())
        .replace("http://app.acme.localhost:3000", &format!("{scheme}://app.acme.localhost:{}", page.port()));
    std::fs::write(path, text).unwrap();
    gateway.wait_level("crossgate_config_generation", 2.0);
    let api = *gateway.data_listeners().last().unwrap();
    let browser = Browser::trusting(&[issued.spki]);
    Demo { scheme, upstream, gateway, browser, page, api, rule, _scripts: scripts, _down: down, _front: front }
}

impl Demo {
    /// Opens the page under that host and waits until its script is done.
    fn visit(&self, host: &str) {
        let (scheme, page, api) = (self.scheme, self.page.port(), self.api.port());
        self.browser.open(&format!("{scheme}://{host}:{page}/?api={scheme}://api.acme.localhost:{api}"));
        self.browser.wait_for("return document.body.dataset.done ?? null");
        assert_eq!(self.browser.run("return document.body.dataset.failed ?? null"), Value::Null);
    }

    /// Reads the outcome of a row and the text of one of its cells.
    fn row(&self, call: &str, cell: &str) -> (String, String) {
        let script = format!(
            "const row = document.getElementById('call-{call}');
             const cell = row.querySelector('[data-cell={cell}]');
             return [row.dataset.outcome, cell ? cell.textContent : ''];"
        );
        let shown = self.browser.run(&script);
        (shown[0].as_str().unwrap().to_owned(), shown[1].as_str().unwrap().to_owned())
    }

    fn body(&self, call: &str) -> Value {
        serde_json::from_str(&self.row(call, "body").1).unwrap()
    }

    /// Waits for a number of requests. Over https all of them use HTTP/2.
    fn wait_requests(&self, count: f64) {
        let over_http2 = if self.scheme == "https" { count } else { 0.0 };
        self.gateway.wait_metric("crossgate_requests_total", &[], count);
        assert_eq!(self.gateway.metric("crossgate_http2_requests_total", &[]), over_http2);
    }
}

#[test]
fn the_allowed_page_reads_everything_and_no_preflight_reaches_the_upstream() {
    SCHEMES.into_iter().for_each(check_allowed);
}

fn check_allowed(scheme: &'static str) {
    let demo = start(scheme);
    demo.visit("app.acme.localhost");
    for call in CALLS {
        let status = if call == "down" { "Status 502" } else { "Status 200" };
        assert_eq!(demo.row(call, "status"), ("readable".to_owned(), status.to_owned()), "{call}");
        let headers = demo.row(call, "headers").1;
        assert!(headers.contains("x-request-id:"), "{call}: the exposed header is readable: {headers}");
        assert!(!headers.contains("access-control-"), "{call}: {headers}");
    }
    for (call, cookie, authorization) in [
        ("get-omit", false, false),
        ("get-include", true, false),
        ("put-omit", false, true),
        ("put-include", true, true),
    ] {
        let saw = &demo.body(call)["saw"];
        assert_eq!((&saw["cookie"], &saw["authorization"]), (&cookie.into(), &authorization.into()), "{call}");
    }
    assert_eq!(demo.body("put-include")["saw"]["body"], r#"{"item":"tea"}"#);
    assert_eq!(["OPTIONS", "GET", "POST", "PUT"].map(|method| demo.upstream.count(method)), [0, 2, 1, 2]);
    // Browsers cache preflights per credentials mode, so there are two.
    demo.wait_requests(8.0);
}

#[test]
fn denied_page_reads_nothing_and_reaches_no_upstream() {
    SCHEMES.into_iter().for_each(check_denied);
}

fn check_denied(scheme: &'static str) {
    let demo = start(scheme);
    demo.visit("evil.localhost");
    for call in CALLS {
        let (outcome, error) = demo.row(call, "error");
        assert_eq!(outcome, "blocked", "{call}");
        assert!(error.starts_with("TypeError"), "{call}: {error}");
    }
    assert_eq!(["OPTIONS", "GET", "POST", "PUT"].map(|method| demo.upstream.count(method)), [0; 4]);
    for (kind, times) in [("actual", 4.0), ("preflight", 2.0)] {
        demo.gateway.wait_metric("crossgate_requests_total", &[("kind", kind), ("reason", "rule_deny")], times);
    }
    demo.wait_requests(6.0);
}

#[test]
fn same_origin_page_needs_no_permission() {
    for scheme in SCHEMES {
        let demo = start(scheme);
        demo.browser.open(&format!("{scheme}://api.acme.localhost:{}/orders", demo.api.port()));
        let read = "return fetch('/orders', { method: 'PUT', body: '{}' }).then((answer) => answer.status)";
        assert_eq!(demo.browser.run(read), 200, "{scheme}");
    }
}

/// Access to the page's buttons, banner and console quotes.
impl Demo {
    fn text(&self, id: &str) -> String {
        let text = self.browser.run(&format!("return document.getElementById('{id}').textContent"));
        text.as_str().unwrap().to_owned()
    }

    fn verdict(&self) -> (Value, String) {
        let verdict = self.browser.run("return document.getElementById('verdict').dataset.verdict");
        (verdict, self.text("verdict-reason"))
    }

    /// Presses a button and waits until the page has finished `times` rounds.
    fn press(&self, id: &str, times: u32) {
        self.browser.run(&format!("document.getElementById('{id}').click()"));
        self.browser.wait_for(&format!("return document.body.dataset.done === '{times}' ? true : null"));
        assert_eq!(self.browser.run("return document.body.dataset.failed ?? null"), Value::Null);
    }

    /// Checks the console messages that the page quotes. A page cannot read the console, so each
    /// quote must also be found there.
    fn check_console(&self, calls: &[&str], expected: &str) {
        let mut missing = Vec::new();
        for call in calls {
            let (outcome, quoted) = self.row(call, "console");
            assert_eq!(outcome, "blocked", "{call}");
            assert!(quoted.ends_with(expected), "{call}: {quoted}");
            missing.push(quoted);
        }
        let (deadline, mut seen) = (Instant::now() + PATIENCE, Vec::new());
        while !missing.is_empty() {
            assert!(Instant::now() < deadline, "{missing:#?} are not in the console: {seen:#?}");
            seen.extend(self.browser.console());
            missing.retain(|quoted| !seen.iter().any(|message| message.contains(quoted.as_str())));
        }
    }
}

#[test]
fn d8_demo_page_shows_verdict_and_reason() {
    let demo = start("http");
    let port = demo.page.port();
    for (host, verdict, reason) in [
        (
            "app.acme.localhost",
            "allow",
            format!("the entry http://app.acme.localhost:{port} of allowOrigins covers this origin"),
        ),
        ("preview.acme.localhost", "allow", "the rule demo allows it".to_owned()),
        ("evil.localhost", "deny", "the rule demo denies it: “scripts/demo.rhai allows another host”".to_owned()),
    ] {
        demo.visit(host);
        let (shown, shown_reason) = demo.verdict();
        assert_eq!(shown, verdict, "{host}");
        assert!(shown_reason.contains(&reason), "{host}: {shown_reason}");
        let readable = if verdict == "allow" { "6 of 6" } else { "0 of 6" };
        assert!(demo.text("verdict-browser").contains(readable), "{host}");
        let marks = ["app.acme", "preview.acme", "evil"].iter().zip(["✓", "✓", "✗"]);
        let pages: String = marks.map(|(host, mark)| format!("http://{host}.localhost:{port} {mark}")).collect();
        assert_eq!(demo.text("pages"), pages);
        assert!(demo.row("put-omit", "explanation").1.contains("kind       preflight\n"), "{host}");
    }
    assert_eq!(demo.upstream.count("OPTIONS"), 0);
}

#[test]
fn d8_demo_page_names_refused_methods_and_headers() {
    for scheme in SCHEMES {
        let demo = start(scheme);
        demo.visit("app.acme.localhost");
        demo.press("try-method", 2);
        let method = "Method PATCH is not allowed by Access-Control-Allow-Methods in preflight response.";
        demo.check_console(&["method"], method);
        assert!(demo.row("method", "reason").1.contains("the method `PATCH` is not allowed"));
        assert!(demo.row("method", "explanation").1.contains("answer     204, made by the gateway"));
        demo.press("try-header", 3);
        let header =
            "Request header field x-debug is not allowed by Access-Control-Allow-Headers in preflight response.";
        demo.check_console(&["header"], header);
        assert_eq!(["OPTIONS", "PATCH"].map(|method| demo.upstream.count(method)), [0; 2]);
    }
}

#[test]
fn d8_demo_page_of_a_denied_origin_quotes_the_console() {
    for scheme in SCHEMES {
        let demo = start(scheme);
        demo.visit("evil.localhost");
        let absent = "No 'Access-Control-Allow-Origin' header is present on the requested resource.";
        demo.check_console(&CALLS, absent);
        demo.press("try-method", 2);
        demo.check_console(&["method"], absent);
    }
}

#[test]
fn d8_demo_page_without_gateway_shows_no_explanation() {
    let upstream =
        DemoUpstream::with_arguments(&["--admin", "127.0.0.1:9", "--gateway", "http://api.acme.localhost:9"]);
    let browser = Browser::trusting(&[]);
    browser.open(&format!("http://app.acme.localhost:{}/", upstream.page.port()));
    browser.wait_for("return document.body.dataset.done ?? null");
    assert_eq!(browser.run("return document.body.dataset.failed ?? null"), Value::Null);
    let reason = browser.run("return document.getElementById('verdict-reason').textContent");
    assert!(reason.as_str().unwrap().contains("admin listener 127.0.0.1:9: "), "{reason}");
    assert_eq!(browser.run("return document.getElementById('verdict').dataset.verdict"), "deny");
}

#[test]
fn edited_origin_list_changes_what_the_page_reads() {
    let demo = start("http");
    demo.visit("evil.localhost");
    assert_eq!(demo.row("put-include", "error").0, "blocked");
    assert!(demo.text("list-source").contains("allowOrigins: [\"http://app.acme.localhost:"));
    let path = demo.gateway.path("crossgate.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("http://app.acme.localhost", "http://evil.localhost")).unwrap();
    demo.wait_answer("evil.localhost", 200);
    demo.press("again", 2);
    assert_eq!(demo.verdict().0, "allow");
    assert_eq!(demo.row("put-include", "status").1, "Status 200");
}

#[test]
fn edited_rule_changes_what_the_page_reads() {
    let demo = start("http");
    demo.visit("preview.acme.localhost");
    let source = std::fs::read_to_string(&demo.rule).unwrap();
    assert_eq!(demo.text("rule-source"), source);
    assert_eq!(demo.row("put-include", "status").0, "readable");

    std::fs::write(&demo.rule, source.replace("\"preview.acme.localhost\"", "\"evil.localhost\"")).unwrap();
    let saved = Instant::now();
    demo.wait_answer("preview.acme.localhost", 403);
    assert!(saved.elapsed().as_secs() < 5, "live after {:?}", saved.elapsed());
    demo.press("again", 2);
    assert_eq!(demo.row("put-include", "error").0, "blocked");

    // A rule with a mistake is refused.
    std::fs::write(&demo.rule, source.replace("req.host", "req.hots")).unwrap();
    demo.gateway.wait_metric("crossgate_config_broken_files", &[], 1.0);
    demo.press("again", 3);
    assert_eq!(demo.row("put-include", "error").0, "blocked");

    std::fs::write(&demo.rule, source).unwrap();
    demo.wait_answer("preview.acme.localhost", 200);
    demo.press("again", 4);
    assert_eq!(demo.row("put-include", "status"), ("readable".to_owned(), "Status 200".to_owned()));
}

impl Demo {
    /// Waits until a page of that host gets this status.
    fn wait_answer(&self, host: &str, status: u16) {
        let deadline = Instant::now() + PATIENCE;
        let origin = format!("http://{host}:{}", self.upstream.page.port());
        while self.gateway.ask("GET", "/orders", "api.acme.localhost", &[("Origin", &origin)]).status != status {
            assert!(Instant::now() < deadline, "no answer with status {status}");
        }
    }
}
