//! Real clients over HTTP/2: curl and h2load.

use std::process::{Command, Output};

use crate::support::{HOST, ORIGIN, Site, requests_in};

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}, which `make test` installs: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    output
}

#[test]
fn curl_is_served_over_http2() {
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
    // With `Expect`.
    let body = "b".repeat(1_000_000);
    let file = site.gateway.path("body");
    std::fs::write(&file, &body).unwrap();
    let upload = ask(&["--data-binary", &format!("@{}", file.display()), "-H", "Expect: 100-continue"]);
    assert!(upload.contains("HTTP/2 200") && upload.ends_with(&body), "{}", &upload[..200]);
}

#[test]
fn a1_curl_uploads_without_a_length_end_with_one_terminator() {
    let site = Site::scripted(|exchange| {
        let (_, body) = exchange.read_body();
        exchange.answer(200, &[], &body)
    });
    let url = format!("http://{}/x", site.gateway.data);
    let (host, origin) = (format!("Host: {HOST}"), format!("Origin: {ORIGIN}"));
    for _ in 0..3 {
        // A pipe has no length, so curl ends the body with an empty DATA frame.
        let curl = "echo hello | curl --http2-prior-knowledge -sS --max-time 20 -T - -H \"$1\" -H \"$2\" \"$3\"";
        let output = run("sh", &["-c", curl, "sh", &host, &origin, &url]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n");
    }
    let raw = site.upstream.raw();
    let bodies: Vec<_> = raw.iter().flat_map(|bytes| requests_in(bytes).expect("whole requests")).collect();
    assert_eq!(bodies.len(), 3);
    assert!(bodies.iter().all(|request| request.body == "hello\n"), "{bodies:?}");
}

#[test]
fn h2load_is_served_under_load() {
    let site = Site::start();
    let url = format!("http://{}/", site.gateway.data);
    let (host, origin) = (format!(":authority: {HOST}"), format!("Origin: {ORIGIN}"));
    let output = run("h2load", &["-n", "2000", "-c", "4", "-m", "16", "-t", "1", "-H", &host, "-H", &origin, &url]);
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{output}");
    assert!(output.contains("2000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{output}");
    let labels = [("tenant", "a"), ("kind", "actual"), ("verdict", "allow"), ("reason", "exact")];
    site.gateway.wait_metric("crossgate_requests_total", &labels, 2000.0);
}
