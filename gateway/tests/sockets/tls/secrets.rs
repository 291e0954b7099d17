//! A private key appears in no output, at any log level and after any error.
use std::process::Command;

use tempfile::TempDir;

use super::{replace_file, text};
use crate::support::{
    Authority, Connection, Gateway, HOST, RecordingUpstream, Tunnel, assert_allowed, listening, request,
};

/// The Base64 lines of a key.
fn key_lines(key: &str) -> Vec<&str> {
    let lines: Vec<&str> = key.lines().filter(|line| !line.starts_with("-----")).collect();
    assert!(!lines.is_empty());
    lines
}

#[test]
fn private_key_is_in_no_output() {
    let (authority, directory) = (Authority::new("ours"), TempDir::new().unwrap());
    let (issued, other) = (authority.issue(&[HOST, "127.0.0.1"]), authority.issue(&[HOST]));
    issued.write(&directory.path().join("0.crt"), &directory.path().join("0.key"));
    let path = directory.path().join("crossgate.yaml");
    let upstream = RecordingUpstream::answering("hello");
    std::fs::write(&path, text(1, &upstream, "", "")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_crossgate"));
    command.env("CROSSGATE_LOG", "trace").args(["run", "--config", path.to_str().unwrap()]);
    let gateway = Gateway::start_as(command, directory);
    let secure =
        gateway.process.stderr().lines().filter_map(|line| listening(line, "data")).nth(1).expect("two listeners");
    let tunnel = Tunnel::to(secure, HOST, &authority);
    assert_allowed(
        &Connection::ask(tunnel.address, &request("GET", "/", HOST, &[("Origin", crate::support::ORIGIN)], b""))
            .unwrap(),
    );
    assert!(authority.connect(secure, "unknown.test").is_err());

    let mut output = String::new();
    // Keys in the wrong file, of another certificate, and damaged.
    for (certificate, key) in [
        (&issued.certificate[..], &other.key[..]),
        (&issued.key, &issued.certificate),
        (&issued.certificate, &issued.key.replace("PRIVATE", "ENCRYPTED PRIVATE")),
        (&issued.certificate, &issued.key.replace("-----END", "----END")),
        (&issued.certificate, &issued.key.replacen('M', "?", 1)),
    ] {
        replace_file(&gateway.path("0.crt"), certificate);
        replace_file(&gateway.path("0.key"), key);
        for (method, path) in [("POST", "/reload"), ("GET", "/status"), ("GET", "/metrics")] {
            output += &gateway.admin(method, path).text();
        }
        assert_eq!(gateway.metric("crossgate_config_broken_files", &[]), 1.0, "{output}");
        let check = Command::new(env!("CARGO_BIN_EXE_crossgate"))
            .arg("check")
            .arg(gateway.path("crossgate.yaml"))
            .output()
            .unwrap();
        assert_eq!(check.status.code(), Some(1));
        output += &String::from_utf8_lossy(&[check.stdout, check.stderr].concat());
    }
    output += &gateway.process.stdout();
    output += &gateway.process.stderr();
    assert!(output.contains("INFO") && output.contains("is encrypted"), "{output}");
    for line in [key_lines(&issued.key), key_lines(&other.key)].concat() {
        assert!(!output.contains(line), "a key is in {output}");
    }
}
