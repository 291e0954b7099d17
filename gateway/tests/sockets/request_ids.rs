//! Explanation of denials by request id, as shown in a browser's developer tools: over the admin
//! listener and on the command line.
use std::process::{Command, Stdio};

use crate::support::{
    Connection, Gateway, HOST, Http2, ORIGIN, RecordingUpstream, Response, config, http2_request, tenant_config,
};
use serde_json::Value;

const EVIL: &str = "https://evil.test";

fn gateway(more: &str) -> Gateway {
    let upstream = RecordingUpstream::answering("hello");
    Gateway::start(&config(&format!("{}{more}", tenant_config(&upstream, ""))), &[])
}

fn id_of(answer: &Response) -> String {
    answer.headers.one("x-request-id").to_owned()
}

fn explain(gateway: &Gateway, answer: &Response) -> Value {
    let explained = gateway.admin("GET", &format!("/explain?request-id={}", id_of(answer)));
    assert_eq!(explained.status, 200, "{explained:?}");
    explained.json()
}

/// Checks verdict, reason and status: recorded and current values must be equal.
#[track_caller]
fn check(gateway: &Gateway, answer: &Response, reason: &str) -> Value {
    let explanation = explain(gateway, answer);
    assert_eq!(
        (explanation["verdict"].as_str(), explanation["reason"].as_str(), explanation["response"]["status"].as_u64()),
        (Some("deny"), Some(reason), Some(answer.status.into())),
        "{explanation:#}"
    );
    assert_eq!(explanation["requestId"], id_of(answer));
    explanation
}

#[test]
fn c3_a_request_id_leads_to_the_reason_of_every_kind_of_denial() {
    let gateway = gateway("");
    let ask = |method: &str, target: &str, headers: &[(&str, &str)]| gateway.ask(method, target, HOST, headers);
    let denied = ask("GET", "/orders?token=secret", &[("Origin", EVIL), ("Cookie", "a=secret")]);
    let explanation = check(&gateway, &denied, "no_match");
    assert_eq!(explanation["request"][0], "GET /orders");
    assert_eq!(explanation["tenant"], "a");
    assert!(!explanation.to_string().contains("secret"), "{explanation:#}");

    let preflight = |method, headers: &[(&str, &str)]| {
        ask("OPTIONS", "/", &[&[("Origin", ORIGIN), ("Access-Control-Request-Method", method)], headers].concat())
    };
    check(&gateway, &preflight("DELETE", &[]), "method");
    check(&gateway, &preflight("PUT", &[("Access-Control-Request-Headers", "x-no")]), "header");
    let two_lines = [("Access-Control-Request-Headers", "x-api"), ("Access-Control-Request-Headers", "x-no")];
    check(&gateway, &preflight("PUT", &two_lines), "header");
    check(&gateway, &ask("GET", "/", &[("Origin", ORIGIN), ("Origin", EVIL)]), "malformed_origin");

    let upgrade =
        [("Origin", EVIL), ("Connection", "upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")];
    let explanation = check(&gateway, &ask("GET", "/feed", &upgrade), "no_match");
    assert_eq!(explanation["kind"], "websocket");

    check(&gateway, &gateway.ask("GET", "/", "other.test", &[("Origin", EVIL)]), "unknown_host");
    check(&gateway, &ask("GET", "/", &[("Connection", "origin")]), "bad_request");
    // Refused before a policy applied: only the id is recorded.
    let refused = Connection::ask(gateway.data, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").unwrap();
    let explanation = check(&gateway, &refused, "host");
    assert_eq!(explanation["request"].as_array().map(Vec::len), Some(0));
}

#[test]
fn c3_denials_over_http2_are_recorded() {
    let gateway = gateway("");
    let connection = Http2::open(gateway.data);
    let begun = connection.begin(http2_request("GET", "/orders", HOST, &[("origin", EVIL)]), true).unwrap();
    let denied = connection.answer(begun.answer).unwrap();
    assert_eq!(denied.status, 403);
    let explanation = check(&gateway, &denied, "no_match");
    assert_eq!(explanation["request"][0], "GET /orders");
}

#[test]
fn c3_unknown_id_reports_the_number_of_kept_denials() {
    let gateway = gateway("");
    let allowed = gateway.ask("GET", "/nowhere", HOST, &[("Origin", ORIGIN)]);
    let id = id_of(&allowed);
    let unknown = gateway.admin("GET", &format!("/explain?request-id={id}"));
    assert_eq!(unknown.status, 404);
    let detail = unknown.json()["error"].as_str().unwrap().to_owned();
    for part in [
        &*id,
        "for 60 minutes",
        "the last 64 of each tenant, 32 of one origin if others need the room, and 8192 in total",
    ] {
        assert!(detail.contains(part), "no {part:?} in {detail}");
    }
    let off = self::gateway("ledger: { enabled: false }\n");
    let denied = off.ask("GET", "/", HOST, &[("Origin", EVIL)]);
    let unknown = off.admin("GET", &format!("/explain?request-id={}", id_of(&denied)));
    assert_eq!((unknown.status, unknown.text().contains("ledger.enabled")), (404, true), "{unknown:?}");
}

#[test]
fn c3_reload_that_allows_the_origin_is_reported() {
    let gateway = gateway("");
    let denied = gateway.ask("GET", "/", HOST, &[("Origin", EVIL)]);
    let main = gateway.path("crossgate.yaml");
    let text = std::fs::read_to_string(&main).unwrap();
    std::fs::write(&main, text.replace(ORIGIN, EVIL)).unwrap();
    assert_eq!(gateway.admin("POST", "/reload").status, 200);
    let explanation = explain(&gateway, &denied);
    assert_eq!(
        (&explanation["verdict"], &explanation["judgedByGeneration"], &explanation["generation"]),
        (&"allow".into(), &1.into(), &2.into())
    );
    let notes = explanation["notes"].to_string();
    assert!(notes.contains("the request got deny, no_match") && notes.contains("generation 1"), "{notes}");
}

#[test]
fn c3_explain_command_queries_the_running_gateway() {
    let gateway = gateway("");
    let denied = id_of(&gateway.ask("GET", "/orders", HOST, &[("Origin", EVIL)]));
    let (main, admin) = (gateway.path("crossgate.yaml"), gateway.admin.to_string());
    let explain = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crossgate"));
        let output = command.arg("explain").args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let by_id = ["--request-id", &denied, "--admin", &admin];
    for arguments in [&by_id[..], &[&by_id[..], &["--config", main.to_str().unwrap()]].concat()] {
        let (code, out, err) = explain(arguments);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
        for row in ["request    GET /orders", "verdict    deny", "reason     no_match", "tenant     a"] {
            assert!(out.lines().any(|line| line == row), "no {row:?} in\n{out}");
        }
    }
    let (code, out, _) = explain(&[&by_id[..], &["--json", "--expect", "deny"]].concat());
    let explanation: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &explanation["requestId"]), (Some(0), &Value::from(&*denied)));
    let (code, _, err) = explain(&[&by_id[..], &["--expect", "allow"]].concat());
    assert_eq!((code, err.as_str()), (Some(1), "error: expected allow, got deny (no_match)\n"));
    let (code, _, err) = explain(&["--request-id", "no/such id&x=1", "--admin", &admin]);
    assert!(
        code == Some(2) && err.contains("no denial is recorded under the request id `no/such id&x=1`"),
        "{code:?} {err}"
    );
    for wrong in [
        &["--request-id", &denied][..],
        &["--admin", &admin, "--host", "api.a.test"],
        &[&by_id[..], &["--host", "api.a.test"]].concat(),
    ] {
        assert_eq!(explain(wrong).0, Some(2), "{wrong:?}");
    }
}
