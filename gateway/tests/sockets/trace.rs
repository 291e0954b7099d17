//! The W3C trace context on its way to the upstream, and in the log.
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{HOST, Http2, ORIGIN, Response, Site, request};

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const STATE: &str = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7";

/// Sends a request over HTTP/1.1 and one over HTTP/2 and returns the trace fields at the upstream.
fn forwarded_trace(site: &Site, client: &Http2, fields: &[(&str, &str)]) -> [[Vec<String>; 2]; 2] {
    let over_http1 = || site.ask("GET", "/", fields);
    let over_http2 = || client.ask("GET", "/", HOST, fields, b"").unwrap();
    [&over_http1 as &dyn Fn() -> Response, &over_http2].map(|ask| {
        assert_eq!(ask().status, 200);
        let seen = site.upstream.seen();
        let headers = &seen.last().unwrap().headers;
        ["traceparent", "tracestate"].map(|name| headers.all(name).into_iter().map(str::to_owned).collect())
    })
}

#[test]
fn only_valid_trace_context_is_forwarded() {
    let site = Site::start();
    let client = Http2::open(site.gateway.data);
    let one = |value: &str| vec![value.to_owned()];
    let later = format!("01{}-more", &PARENT[2..]);
    for (fields, expected) in [
        (&[("traceparent", PARENT), ("tracestate", STATE)][..], [one(PARENT), one(STATE)]),
        (
            &[("Traceparent", PARENT), ("TraceState", "a=1"), ("tracestate", "b=2")],
            [one(PARENT), vec!["a=1".to_owned(), "b=2".to_owned()]],
        ),
        (&[("traceparent", &later)], [one(&later), vec![]]),
        (&[("traceparent", "00-1-2-3"), ("tracestate", STATE)], [vec![], vec![]]),
        (&[("traceparent", PARENT), ("traceparent", PARENT), ("tracestate", STATE)], [vec![], vec![]]),
        (&[("tracestate", STATE)], [vec![], vec![]]),
        (&[], [vec![], vec![]]),
    ] {
        assert_eq!(forwarded_trace(&site, &client, fields), [expected.clone(), expected], "{fields:?}");
    }
}

#[test]
fn log_line_has_the_trace_id_and_explain_accepts_it() {
    let site = Site::start();
    let logged = |path: &str, is: &dyn Fn(&Value) -> bool| {
        let line = site.gateway.process.stdout_line(|line| line.contains(path).then(|| line.to_owned()));
        let logged: Value = serde_json::from_str(&line).unwrap();
        assert!(is(&logged["trace_id"]), "{line}");
        line
    };
    site.ask("GET", "/good", &[("traceparent", PARENT)]);
    let line = logged("/good", &|id| id == ID);
    site.ask("GET", "/bad", &[("traceparent", "00-\"\\n-2-3")]);
    logged("/bad", &Value::is_null);
    let fields = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT"), ("traceparent", PARENT)];
    site.raw(&request("OPTIONS", "/preflight", HOST, &fields, b"")).unwrap();
    logged("/preflight", &|id| id == ID);
    let client = Http2::open(site.gateway.data);
    for (method, path) in [("GET", "/streamed"), ("OPTIONS", "/asked-for")] {
        client.ask(method, path, HOST, &fields, b"").unwrap();
        assert!(logged(path, &|id| id == ID).contains(r#""protocol":"HTTP/2""#), "{path}");
    }

    let mut explain = Command::new(env!("CARGO_BIN_EXE_crossgate"))
        .args(["explain", "--config", site.gateway.path("crossgate.yaml").to_str().unwrap(), "--log-line", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    explain.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    let output = explain.wait_with_output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains(ORIGIN), "{output:?}");
}
