//! The demo page in a real browser, on an allowed origin and on another, over http and https: what its script could read, row by row.
//!
//! The browser is the judge that the gateway is built for. The upstream counts its `OPTIONS`: there must be none.
use crate::support::{
    Authority, Browser, DemoUpstream, Gateway, PATIENCE, RefusedAddress, TlsFront, config, config_with_tls,
};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;
use tempfile::TempDir;

const CALLS: [&str; 6] = ["session", "get-omit", "get-include", "put-omit", "put-include", "down"];

/// Of page and API.
const SCHEMES: [&str; 2] = ["http", "https"];

struct Demo {
    scheme: &'static str,
    upstream: DemoUpstream,
    gateway: Gateway,
    browser: Browser,
    /// Where the browser finds the page and the API.
    page: SocketAddr,
    api: SocketAddr,
    /// The script that decides, and that the page shows.
    rule: PathBuf,
    _scripts: TempDir,
    _down: RefusedAddress,
    _front: Option<TlsFront>,
}

/// The demo's configuration, with the ports of this run.
fn start(scheme: &'static str) -> Demo {
    let scripts = TempDir::new().unwrap();
    let rule = scripts.path().join("demo.rhai");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/demo.rhai"), &rule).unwrap();
    let (upstream, down) = (DemoUpstream::showing(&["--rule", rule.to_str().unwrap()]), RefusedAddress::new());
    let sample = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/config/demo.yaml")).unwrap();
    let (_, rest) = sample.split_once("\nupstreams:").unwrap();
    let rest = rest
        .replace("127.0.0.1:9001", &upstream.api.to_string())
        .replace("127.0.0.1:9]", &format!("{}]", down.address))
        .replace("../../scripts", scripts.path().to_str().unwrap());
    let rest = format!("upstreams:{rest}");
    let issued = Authority::new("the demo").issue(&["*.acme.localhost", "evil.localhost"]);
    let (gateway, front) = match scheme {
        "https" => {
            let front = TlsFront::start(issued.server(&["http/1.1"]), upstream.page);
            (Gateway::start(&config_with_tls(&rest), &issued.files()), Some(front))
        }
        _ => (Gateway::start(&config(&rest), &[]), None),
    };
    let api = *gateway.data_listeners().last().unwrap();
    let page = front.as_ref().map_or(upstream.page, |front| front.address);
    let browser = Browser::trusting(&[issued.spki]);
    Demo { scheme, upstream, gateway, browser, page, api, rule, _scripts: scripts, _down: down, _front: front }
}

impl Demo {
    /// Opens the page as that host and waits until its script is done.
    fn visit(&self, host: &str) {
        let (scheme, page, api) = (self.scheme, self.page.port(), self.api.port());
        self.browser.open(&format!("{scheme}://{host}:{page}/?api={scheme}://api.acme.localhost:{api}"));
        self.browser.wait_for("return document.body.dataset.done ?? null");
        assert_eq!(self.browser.run("return document.body.dataset.failed ?? null"), Value::Null);
    }

    /// What a row shows: how it ended, and the text of one of its cells.
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

    /// How many requests came, all of them over HTTP/2 if over https.
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
    // A preflight without cookies says nothing of a request with them, so there are two.
    demo.wait_requests(8.0);
}

#[test]
fn the_other_page_reads_nothing_and_nothing_of_it_reaches_the_upstream() {
    SCHEMES.into_iter().for_each(check_other);
}

fn check_other(scheme: &'static str) {
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
fn a_page_of_the_api_itself_needs_no_permission() {
    for scheme in SCHEMES {
        let demo = start(scheme);
        demo.browser.open(&format!("{scheme}://api.acme.localhost:{}/orders", demo.api.port()));
        let read = "return fetch('/orders', { method: 'PUT', body: '{}' }).then((answer) => answer.status)";
        assert_eq!(demo.browser.run(read), 200, "{scheme}");
    }
}

#[test]
fn a_changed_line_of_the_rule_changes_what_the_page_reads() {
    let demo = start("http");
    demo.visit("app.acme.localhost");
    let shown = demo.browser.run("return document.getElementById('rule-source').textContent");
    let source = std::fs::read_to_string(&demo.rule).unwrap();
    assert_eq!(shown, source.as_str());
    assert_eq!(demo.row("put-include", "status").0, "readable");

    std::fs::write(&demo.rule, source.replace("\"app.acme.localhost\"", "\"evil.localhost\"")).unwrap();
    let saved = Instant::now();
    demo.wait_answer("app.acme.localhost", 403);
    assert!(saved.elapsed().as_secs() < 5, "live after {:?}", saved.elapsed());
    demo.press_again(2);
    assert_eq!(demo.row("put-include", "error").0, "blocked");

    // One with a mistake is not taken.
    std::fs::write(&demo.rule, source.replace("req.host", "req.hots")).unwrap();
    demo.gateway.wait_metric("crossgate_config_broken_files", &[], 1.0);
    demo.press_again(3);
    assert_eq!(demo.row("put-include", "error").0, "blocked");

    std::fs::write(&demo.rule, source).unwrap();
    demo.wait_answer("app.acme.localhost", 200);
    demo.press_again(4);
    assert_eq!(demo.row("put-include", "status"), ("readable".to_owned(), "Status 200".to_owned()));
}

impl Demo {
    fn press_again(&self, times: u32) {
        self.browser.run("document.getElementById('again').click()");
        self.browser.wait_for(&format!("return document.body.dataset.done === '{times}' ? true : null"));
    }

    /// Waits until a page of that host is answered so.
    fn wait_answer(&self, host: &str, status: u16) {
        let deadline = Instant::now() + PATIENCE;
        let origin = format!("http://{host}:{}", self.upstream.page.port());
        while self.gateway.ask("GET", "/orders", "api.acme.localhost", &[("Origin", &origin)]).status != status {
            assert!(Instant::now() < deadline, "never {status}");
        }
    }
}
