//! Real clients: what people use to look at an API and to load it.

use std::process::{Command, Output};

use crate::support::{HOST, ORIGIN, Site};

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}, which `make test` installs: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    output
}

#[test]
fn curl_is_served() {
    let site = Site::scripted(|exchange| {
        let (_, body) = exchange.read_body();
        exchange.answer(200, &[], &body)
    });
    let url = format!("http://{}/x", site.gateway.data);
    let host = format!("Host: {HOST}");
    let origin = format!("Origin: {ORIGIN}");
    let usual = ["--http2-prior-knowledge", "-sS", "-i", "--max-time", "20", "-H", &host, "-H", &origin, &url];
    let ask = |more: &[&str]| {
        let output = run("curl", &[&usual[..], more].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    let preflight = ask(&["-X", "OPTIONS", "-H", "Access-Control-Request-Method: PUT"]);
    assert!(preflight.starts_with("HTTP/2 204"), "{preflight}");
    assert!(preflight.contains(&format!("access-control-allow-origin: {ORIGIN}\r\n")), "{preflight}");
    // With `Expect`, too.
    let body = "b".repeat(1_000_000);
    let file = site.gateway.path("body");
    std::fs::write(&file, &body).unwrap();
    let upload = ask(&["--data-binary", &format!("@{}", file.display()), "-H", "Expect: 100-continue"]);
    assert!(upload.contains("HTTP/2 200") && upload.ends_with(&body), "{}", &upload[..200]);
}

#[test]
fn h2load_is_served_under_load() {
    let site = Site::start();
    let url = format!("http://{}/", site.gateway.data);
    let (host, origin) = (format!(":authority: {HOST}"), format!("Origin: {ORIGIN}"));
    let output = run("h2load", &["-n", "2000", "-c", "4", "-m", "16", "-t", "1", "-H", &host, "-H", &origin, &url]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    assert!(said.contains("2000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{said}");
    let labels = [("tenant", "a"), ("kind", "actual"), ("verdict", "allow"), ("reason", "exact")];
    site.gateway.wait_metric("crossgate_requests_total", &labels, 2000.0);
}
