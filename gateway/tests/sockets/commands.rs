//! Commands for a running gateway and for files: their output, and the exit codes that scripts and
//! service managers evaluate.
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::{Gateway, ORIGIN, RecordingUpstream, config, tenant_config};
use serde_json::Value;
use tempfile::TempDir;

const TOKEN: &str = "0123456789abcdef";

fn crossgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crossgate")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Returns the exit code, standard output and standard error.
fn into_parts(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Starts a gateway with an admin token, and with a tenants file that the test may break.
fn gateway() -> Gateway {
    let upstream = RecordingUpstream::answering("hello");
    let text = config(&tenant_config(&upstream, "")).replace(
        "admin: { address: 127.0.0.1:0 }",
        "admin: { address: 127.0.0.1:0, tokenFile: token }\ntenantsDir: tenants",
    );
    let tenants = "tenants: [{ id: more, hosts: [more.test], upstream: api, policy: spa }]\n";
    let gateway = Gateway::start(&text, &[("token", TOKEN), ("tenants/more.yaml", tenants)]);
    std::fs::set_permissions(gateway.path("token"), Permissions::from_mode(0o600)).unwrap();
    gateway
}

#[test]
fn d7_reload_command_reports_the_result() {
    let gateway = gateway();
    let (main, admin) = (gateway.path("crossgate.yaml"), gateway.admin.to_string());
    let main = main.to_str().unwrap();
    // The system assigned the admin port, so it is not in the file.
    let reload = || into_parts(crossgate(&["reload", main, "--admin", &admin]));
    assert_eq!(reload(), (Some(0), "generation 2 serves\n".into(), String::new()));

    let text = std::fs::read_to_string(main).unwrap();
    std::fs::write(main, text.replace(ORIGIN, "https://App.example/")).unwrap();
    let (code, out, err) = reload();
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("error: `https://App.example/`") && err.contains("^^^^^"), "{err}");
    assert!(err.contains("error: the configuration is refused; generation 2 still serves"), "{err}");

    // A text that is not YAML is refused.
    std::fs::write(main, "version: [").unwrap();
    let (code, _, err) = reload();
    assert_eq!(code, Some(1), "{err}");
    let (code, _, err) = into_parts(crossgate(&["reload", "--config", main]));
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("crossgate.yaml:1:") && err.contains("the configuration is refused"), "{err}");

    // One tenants file is refused, and the rest goes live.
    std::fs::write(main, &text).unwrap();
    std::fs::write(gateway.path("tenants/more.yaml"), "tenants: [{ id: more }]\n").unwrap();
    let (code, out, err) = reload();
    assert_eq!(code, Some(1), "{err}");
    assert!(out.starts_with("generation ") && err.contains("more.yaml is refused; its last good version"), "{err}");
    let (code, out, _) = into_parts(crossgate(&["reload", main, "--admin", &admin, "--json"]));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, report["brokenFiles"].as_array().unwrap().len()), (Some(1), 1));
}

#[test]
fn d7_status_command_reports_health() {
    let gateway = gateway();
    let (main, admin) = (gateway.path("crossgate.yaml"), gateway.admin.to_string());
    let main = main.to_str().unwrap();
    let status =
        |more: &[&str]| into_parts(crossgate(&[&["status", "--config", main, "--admin", &admin], more].concat()));
    let (code, out, err) = status(&[]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    for row in
        ["ready        yes", "generation   1", "reload       success", "tenants      2", "upstream     api: 127.0.0.1:"]
    {
        assert!(out.contains(row), "no {row} in {out}");
    }
    let (code, out, _) = status(&["--json"]);
    assert_eq!((code, serde_json::from_str::<Value>(&out).unwrap()["generation"].as_u64()), (Some(0), Some(1)));

    std::fs::write(gateway.path("tenants/more.yaml"), "tenants: [{ id: more }]\n").unwrap();
    assert_eq!(into_parts(crossgate(&["reload", main, "--admin", &admin])).0, Some(1));
    let (code, out, err) = status(&[]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("reload       partial") && err.contains("more.yaml is refused"), "{out}{err}");
}

#[test]
fn d7_invalid_admin_options_are_usage_errors() {
    let gateway = gateway();
    let (main, admin) = (gateway.path("crossgate.yaml"), gateway.admin.to_string());
    let main = main.to_str().unwrap();
    let other = gateway.path("other-token");
    std::fs::write(&other, "fedcba9876543210").unwrap();
    let (other, token) = (other.to_str().unwrap(), gateway.path("token"));
    let token = token.to_str().unwrap();
    let bare = gateway.path("bare.yaml");
    std::fs::write(&bare, "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\n").unwrap();
    let gone = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string() };
    for (arguments, code, message) in [
        (&["--admin", &admin, "--token-file", token][..], Some(0), ""),
        (&["--admin", &format!("http://{admin}/"), "--token-file", token], Some(0), ""),
        (&["--admin", &admin], Some(2), "expected the token of admin.tokenFile"),
        (&["--admin", &admin, "--token-file", other], Some(2), "expected the token of admin.tokenFile"),
        (&["--admin", &admin, "--token-file", "/nowhere"], Some(2), "cannot read the admin token file"),
        (&["--admin", "nonsense"], Some(2), "expected one such as 127.0.0.1:9900"),
        (&[], Some(2), "--admin"),
        (&[main], Some(2), "has port 0"),
        (&[main, "--config", main], Some(2), "cannot be used with"),
        (&[bare.to_str().unwrap()], Some(2), "configures no admin listener"),
        (&["--admin", &gone], Some(1), "no gateway responds at"),
    ] {
        for command in ["reload", "status"] {
            let (found, _, err) = into_parts(crossgate(&[&[command], arguments].concat()));
            assert_eq!(found, code, "{command} {arguments:?}: {err}");
            assert!(err.contains(message), "{command} {arguments:?}: {err}");
        }
    }
}

#[test]
fn d7_commands_take_the_file_as_argument_and_as_option() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("crossgate.yaml");
    let file = file.to_str().unwrap();
    let (code, out, err) = into_parts(crossgate(&["init", file]));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert_eq!(into_parts(crossgate(&["init", "--config", file])).0, Some(1), "an existing file is overwritten");
    for arguments in [
        &["check", file][..],
        &["check", "--config", file],
        &["explain", file, "--host", "api.acme.example"],
        &["explain", "--config", file, "--host", "api.acme.example"],
    ] {
        let (code, out, err) = into_parts(crossgate(arguments));
        assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}: {out}");
    }
    // Port 0, so that the ports are free.
    let text = std::fs::read_to_string(file)
        .unwrap()
        .replace("0.0.0.0:8080", "127.0.0.1:0")
        .replace("127.0.0.1:9900", "127.0.0.1:0");
    std::fs::write(file, text).unwrap();
    for arguments in [&["run", file][..], &["run", "--config", file]] {
        let mut process = crate::support::Process::crossgate(arguments);
        process.stderr_line(|line| line.contains("role=data").then_some(()));
        process.signal(rustix::process::Signal::TERM);
        assert!(process.wait_at_most(Duration::from_secs(30)).success(), "{arguments:?}");
    }
}

#[test]
fn d7_closed_output_pipe_is_not_an_error() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("crossgate.yaml");
    let file = file.to_str().unwrap();
    assert_eq!(into_parts(crossgate(&["init", file])).0, Some(0));
    for arguments in [
        &["schema"][..],
        &["completions", "bash"],
        &["check", "--json", file],
        &["check", file],
        &["explain", file, "--host", "api.acme.example"],
        &["explain", file, "--host", "api.acme.example", "--json"],
        &["test", concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts")],
        &["--help"],
        &["--version"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_crossgate"));
        let output =
            command.args(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{arguments:?}");
    }
    // Another write error is reported.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_crossgate")).arg("schema").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot write the output: No space left"));
}

#[test]
fn d7_version_is_printed() {
    let (code, out, _) = into_parts(crossgate(&["--version"]));
    assert_eq!(code, Some(0));
    assert!(out.starts_with(concat!("crossgate ", env!("CARGO_PKG_VERSION"))), "{out}");
}
