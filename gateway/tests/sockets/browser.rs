//! The demo page in a real browser, on an allowed origin and on another: what its script could read, row by row.
//!
//! The browser is the judge that the gateway is built for. The upstream counts its `OPTIONS`: there must be none.
use crate::support::{Browser, DemoUpstream, Gateway, RefusedAddress, config};
use serde_json::Value;

const CALLS: [&str; 6] = ["session", "get-omit", "get-include", "put-omit", "put-include", "down"];

struct Demo {
    upstream: DemoUpstream,
    gateway: Gateway,
    browser: Browser,
    _down: RefusedAddress,
}

/// The demo's configuration, with the ports of this run.
fn start() -> Demo {
    let (upstream, down) = (DemoUpstream::start(), RefusedAddress::new());
    let sample = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/config/demo.yaml")).unwrap();
    let (_, rest) = sample.split_once("\nupstreams:").unwrap();
    let rest = rest
        .replace("127.0.0.1:9001", &upstream.api.to_string())
        .replace("127.0.0.1:9]", &format!("{}]", down.address))
        .replace("app.acme.localhost:3000", &format!("app.acme.localhost:{}", upstream.page.port()));
    let gateway = Gateway::start(&config(&format!("upstreams:{rest}")), &[]);
    Demo { upstream, gateway, browser: Browser::start(), _down: down }
}

impl Demo {
    /// Opens the page as that host and waits until its script is done.
    fn visit(&self, host: &str) {
        let (page, api) = (self.upstream.page.port(), self.gateway.data.port());
        self.browser.open(&format!("http://{host}:{page}/?api=http://api.acme.localhost:{api}"));
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
}

#[test]
fn the_allowed_page_reads_everything_and_no_preflight_reaches_the_upstream() {
    let demo = start();
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
}

#[test]
fn the_other_page_reads_nothing_and_nothing_of_it_reaches_the_upstream() {
    let demo = start();
    demo.visit("evil.localhost");
    for call in CALLS {
        let (outcome, error) = demo.row(call, "error");
        assert_eq!(outcome, "blocked", "{call}");
        assert!(error.starts_with("TypeError"), "{call}: {error}");
    }
    assert_eq!(["OPTIONS", "GET", "POST", "PUT"].map(|method| demo.upstream.count(method)), [0; 4]);
    for (kind, times) in [("actual", 4.0), ("preflight", 2.0)] {
        demo.gateway.wait_metric("crossgate_requests_total", &[("kind", kind), ("reason", "no_match")], times);
    }
}

#[test]
fn a_page_of_the_api_itself_needs_no_permission() {
    let demo = start();
    demo.browser.open(&format!("http://api.acme.localhost:{}/orders", demo.gateway.data.port()));
    let read = "return fetch('/orders', { method: 'PUT', body: '{}' }).then((answer) => answer.status)";
    assert_eq!(demo.browser.run(read), 200);
}
