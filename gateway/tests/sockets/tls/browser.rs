//! A browser over HTTPS: pages may read the same responses as over plain HTTP.
use serde_json::json;

use super::Stage;
use crate::support::{Browser, RecordingUpstream};

const ALLOWED: &str = "https://app.a.test";

/// Calls `fetch` in the page. The result is the status and the body, or `blocked`.
fn call(browser: &Browser, url: &str, method: &str) -> serde_json::Value {
    browser.run(&format!(
        "return fetch('{url}', {{ method: '{method}', credentials: 'include', headers: {{ 'content-type': 'application/json' }} }})
             .then((answer) => answer.text().then((text) => [answer.status, text]), () => 'blocked')"
    ))
}

#[test]
fn browser_reads_over_https_only_from_the_allowed_origin() {
    let upstream =
        RecordingUpstream::start(|exchange| exchange.answer(200, &[("Content-Type", "text/html")], b"hello"));
    // Browsers resolve `*.localhost` to this machine. Pages and API share one listener and have
    // different certificates.
    let names: [&[&str]; 2] = [&["api.a.localhost"], &["app.a.localhost", "evil.a.localhost"]];
    let tenants = "  - { id: pages, hosts: [app.a.localhost, evil.a.localhost], upstream: api, policy: spa }\n";
    let stage = Stage::with(&names, upstream, "", tenants);
    let port = stage.secure.port();
    let config = stage.gateway.path("crossgate.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text
        .replace(ALLOWED, &format!("https://app.a.localhost:{port}"))
        .replace("hosts: [api.a.test]", "hosts: [api.a.localhost]");
    std::fs::write(&config, text).unwrap();
    assert_eq!(stage.gateway.admin("POST", "/reload").status, 200);

    let spki = stage.issued.iter().map(|one| one.spki.clone()).collect::<Vec<_>>();
    let browser = Browser::trusting(&spki);
    let api = format!("https://api.a.localhost:{port}/orders");
    for (page, outcome) in [("app", json!([200, "hello"])), ("evil", json!("blocked"))] {
        browser.open(&format!("https://{page}.a.localhost:{port}/"));
        assert_eq!(browser.run("return location.protocol"), "https:");
        for method in ["GET", "PUT"] {
            assert_eq!(call(&browser, &api, method), outcome, "{page} {method}");
        }
    }
    assert_eq!(stage.upstream.count("OPTIONS"), 0);
    // A page of the API itself makes a same-origin request.
    browser.open(&api);
    assert_eq!(call(&browser, "/orders", "PUT"), json!([200, "hello"]));
}
