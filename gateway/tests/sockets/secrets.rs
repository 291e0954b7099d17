//! Secrets of clients must not appear in logs, admin output or error responses.

use std::process::Command;

use crate::support::{Gateway, HOST, ORIGIN, RecordingUpstream, config, tenant_config};

#[test]
fn logs_and_admin_output_contain_no_secrets() {
    let secret = "s3cr3t-0f-th3-cl13nt";
    let upstream = RecordingUpstream::start(move |exchange| {
        let cookie = format!("id={secret}");
        exchange.answer(200, &[("Set-Cookie", &cookie)], b"hello")
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_crossgate"));
    command.env("CROSSGATE_LOG", "trace");
    let gateway = Gateway::start_by(command, &config(&tenant_config(&upstream, "")));
    let (cookie, bearer) = (format!("id={secret}"), format!("Bearer {secret}"));
    let fields = [("Cookie", &*cookie), ("Authorization", &*bearer), ("Proxy-Authorization", &*bearer)];
    let mut output = String::new();
    for (origin, path) in [(ORIGIN, "/"), ("https://evil.test", "/"), (ORIGIN, "/nowhere")] {
        let answer = gateway.ask("GET", path, HOST, &[&[("Origin", origin)], &fields[..]].concat());
        if answer.status != 200 {
            output += &answer.text();
        }
    }
    for path in ["/metrics", "/status", "/origins"] {
        output += &gateway.admin("GET", path).text();
    }
    gateway.process.stdout_line(|line| line.contains("evil.test").then_some(()));
    output += &gateway.process.stdout();
    output += &gateway.process.stderr();
    assert!(output.contains("INFO"), "there is no log output: {output}");
    assert!(!output.contains(secret), "{output}");
}
