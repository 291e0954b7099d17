//! What must be told to nobody.

use std::process::Command;

use crate::support::{Gateway, HOST, ORIGIN, RecordingUpstream, config, tenant_config};

#[test]
fn nothing_secret_is_said_however_much_is_said() {
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
    let mut said = String::new();
    for (origin, path) in [(ORIGIN, "/"), ("https://evil.test", "/"), (ORIGIN, "/nowhere")] {
        let answer = gateway.ask("GET", path, HOST, &[&[("Origin", origin)], &fields[..]].concat());
        if answer.status != 200 {
            said += &answer.text();
        }
    }
    for path in ["/metrics", "/status", "/origins"] {
        said += &gateway.admin("GET", path).text();
    }
    gateway.process.stdout_line(|line| line.contains("evil.test").then_some(()));
    said += &gateway.process.stdout();
    said += &gateway.process.stderr();
    assert!(said.contains("INFO"), "nothing was said: {said}");
    assert!(!said.contains(secret), "{said}");
}
