//! Warnings about valid but unwise configurations, with a code and a location: by `check`, in the
//! log and in `/status`.
use std::fs::{Permissions, set_permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::{Gateway, Issued, PATIENCE};
use serde_json::Value;
use tempfile::TempDir;

/// A configuration without warnings. Each case changes one line.
const GOOD: &str = r#"version: 1
listeners:
  - { address: "127.0.0.1:0", trustedProxies: [10.0.0.0/8] }
admin: { address: "127.0.0.1:0" }
upstreams:
  api: { servers: ["127.0.0.1:9"], healthCheck: { path: /healthz, interval: 5s, timeout: 5s } }
policies:
  spa: { allowOrigins: ["https://app.example", "https://partner.example"], allowMethods: [PUT], allowHeaders: [x-a], allowCredentials: true }
  open: { allowOrigins: ["*"] }
tenants:
  - { id: acme, hosts: [api.example], upstream: api, policy: spa, routes: [{ pathPrefix: /public, policy: open }] }
"#;

/// Runs `check`; returns the exit code, standard output and standard error.
fn check(main: &Path, options: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_crossgate")).arg("check").args(options).arg(main).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn write(text: &str) -> (TempDir, std::path::PathBuf) {
    let directory = TempDir::new().unwrap();
    let main = directory.path().join("crossgate.yaml");
    std::fs::write(&main, text).unwrap();
    (directory, main)
}

/// Lists the code and location of each warning.
fn warnings(found: &Value) -> Vec<String> {
    let one = |one: &Value| {
        assert_eq!(one["severity"], "warning", "{one}");
        assert!(one["sourceLine"].is_string(), "the source line is missing: {one}");
        format!("{} {}:{}", one["code"].as_str().unwrap(), one["line"], one["column"])
    };
    found.as_array().unwrap().iter().map(one).collect()
}

/// Returns `line:column` of a piece that occurs once in a text.
fn location_of(text: &str, piece: &str) -> String {
    let (before, after) = text.split_once(piece).unwrap_or_else(|| panic!("no {piece} in {text}"));
    assert!(!after.contains(piece), "{piece} occurs twice");
    let last = before.rsplit('\n').next().unwrap();
    format!("{}:{}", before.matches('\n').count() + 1, last.len() + 1)
}

/// Renders the valid configuration with one replaced text.
fn with_replaced(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    GOOD.replacen(old, new, 1)
}

#[test]
fn d4_unwise_configuration_warns_at_its_location() {
    let forward = "allowCredentials: true, unmatchedRequests: Forward";
    let policies = "policies:\n  strict: { allowOrigins: [\"https://app.example\"], allowCredentials: true }\n";
    let admin = "routes: [{ pathPrefix: /admin, policy: strict }, { pathPrefix: /public, policy: open }]";
    let no_tenants = GOOD.split_once("upstreams:").unwrap().0.to_owned();
    for (text, expected) in [
        (GOOD.to_owned(), None),
        (with_replaced("10.0.0.0/8", "0.0.0.0/0"), Some(("open-trusted-proxies", "0.0.0.0/0"))),
        (with_replaced("10.0.0.0/8", "10.0.0.0/8, \"::/0\""), Some(("open-trusted-proxies", "\"::/0\""))),
        (with_replaced("10.0.0.0/8", "2000::/4, 3000::/4"), Some(("open-trusted-proxies", "2000::/4"))),
        (with_replaced("10.0.0.0/8", "64.0.0.0/4, 80.0.0.0/4"), Some(("open-trusted-proxies", "[64.0.0.0/4"))),
        (
            with_replaced("trustedProxies: [10.0.0.0/8]", "proxyProtocol: { from: [\"::/1\"] }"),
            Some(("open-proxy-protocol", "\"::/1\"")),
        ),
        (
            with_replaced("127.0.0.1:0\", trusted", "127.0.0.1:443\", trusted"),
            Some(("clear-text-https-port", "\"127.0.0.1:443\"")),
        ),
        (with_replaced("allowCredentials: true", forward), Some(("forward-with-credentials", "Forward"))),
        (with_replaced("[PUT]", "[PUT, '*']"), Some(("star-with-credentials", "'*'"))),
        (with_replaced("[x-a]", "['*']"), Some(("star-with-credentials", "'*'"))),
        (with_replaced("timeout: 5s", "timeout: 6s"), Some(("check-timeout", "6s"))),
        (with_replaced("interval: 5s, timeout: 5s", "interval: 1s"), Some(("check-timeout", "{ path: /healthz"))),
        (with_replaced("[api.example]", "['*']"), Some(("catch-all-host", "'*'"))),
        (
            with_replaced("policy: open }", "policy: open, allowOrigins: [\"https://b.example\"] }"),
            Some(("doubtful-origin", "\"https://b.example\"")),
        ),
        (
            with_replaced("policy: spa, ", "policy: spa, allowOrigins: ['https://app.example'], "),
            Some(("doubtful-origin", "'https://app.example'")),
        ),
        (
            with_replaced("policies:\n", policies).replace("routes: [{ pathPrefix: /public, policy: open }]", admin),
            Some(("stricter-route", "/admin")),
        ),
        (no_tenants, Some(("no-tenants", "version"))),
    ] {
        let (_directory, main) = write(&text);
        let (code, out, _) = check(&main, &["--json"]);
        let found: Value = serde_json::from_str(&out).unwrap();
        let expected: Vec<String> =
            expected.iter().map(|(code, piece)| format!("{code} {}", location_of(&text, piece))).collect();
        assert_eq!((code, warnings(&found)), (Some(0), expected), "{text}\n{out}");
    }
}

#[test]
fn d4_each_dangerous_switch_and_an_http_expression_warn() {
    let keys = ["dangerouslyAllowInsecureOrigins", "dangerouslyAllowPublicSuffixes", "dangerouslyAllowAnyOrigin"];
    for (key, value, expected) in keys
        .map(|key| (key, "true", Some("dangerous-switch")))
        .into_iter()
        .chain(keys.map(|key| (key, "false", None)))
        .chain([
            ("allowOriginRegexes", r"['https?://[a-z]+\.app\.example']", Some("doubtful-regex")),
            ("allowOriginRegexes", r"['(http|https)://(localhost|app\.example)']", Some("doubtful-regex")),
            ("allowOriginRegexes", r"['https?://(a\.)?localhost(:\d+)?', 'http://127\.0\.0\.1:\d+']", None),
            ("allowOriginRegexes", r"['https?://[a-z]+\.localhost:3000']", None),
            ("allowOriginRegexes", r"['https://[a-z]+\.app\.example']", None),
        ])
    {
        let (_directory, main) =
            write(&with_replaced("allowCredentials: true }", &format!("allowCredentials: true, {key}: {value} }}")));
        let (_, out, _) = check(&main, &["--json"]);
        let found: Value = serde_json::from_str(&out).unwrap();
        let codes: Vec<&str> =
            found.as_array().unwrap().iter().map(|one| one["code"].as_str().unwrap_or("error")).collect();
        assert_eq!(codes, expected.into_iter().collect::<Vec<_>>(), "{key}: {value}\n{out}");
    }
}

#[test]
fn d4_secrets_that_others_can_read_warn() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mode = |name: &str, mode: u32| set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
    let issued = Issued::self_signed(&["api.example"]);
    std::fs::write(path("tls.crt"), issued.certificate).unwrap();
    std::fs::write(path("tls.key"), issued.key).unwrap();
    std::fs::write(path("token"), "0123456789abcdef").unwrap();
    let text = with_replaced(
        "trustedProxies: [10.0.0.0/8]",
        "tls: { certificates: [{ certificate: tls.crt, key: tls.key }] }",
    )
    .replacen("admin: { address: \"127.0.0.1:0\"", "admin: { address: \"127.0.0.1:0\", tokenFile: token", 1);
    std::fs::write(path("crossgate.yaml"), &text).unwrap();
    let warned = || {
        let (code, out, _) = check(&path("crossgate.yaml"), &["--json"]);
        assert_eq!(code, Some(0), "{out}");
        warnings(&serde_json::from_str(&out).unwrap())
    };
    let at = |piece: &str| format!("open-secret {}", location_of(&text, piece));
    let (key, token) = (&*at("tls.key"), &*at("token }"));
    for (directory_mode, key_mode, token_mode, expected) in [
        (0o755, 0o600, 0o640, &[][..]),
        (0o755, 0o644, 0o640, &[key]),
        (0o755, 0o640, 0o604, &[token]),
        (0o755, 0o602, 0o600, &[key]),
        (0o755, 0o660, 0o600, &[key]),
        // Others cannot enter the directory.
        (0o700, 0o644, 0o644, &[]),
    ] {
        mode("", directory_mode);
        mode("tls.key", key_mode);
        mode("token", token_mode);
        assert_eq!(warned(), expected, "{directory_mode:o} {key_mode:o} {token_mode:o}");
    }
}

#[test]
fn d4_warnings_can_be_denied_and_a_good_file_is_counted() {
    let (_directory, main) = write(GOOD);
    let counted = "ok: 1 tenant, 2 policies, 2 routes, 3 origins\n".to_owned();
    assert_eq!(check(&main, &["--deny-warnings"]), (Some(0), counted.clone(), String::new()));

    let (_directory, main) = write(&with_replaced("10.0.0.0/8", "0.0.0.0/0"));
    let (code, out, err) = check(&main, &[]);
    assert_eq!((code, out), (Some(0), counted));
    assert!(err.starts_with("warning[open-trusted-proxies]: any client can forge X-Forwarded-For"), "{err}");
    assert!(err.contains(" ^^^^^^^^^\n"), "{err}");
    let (code, out, err) = check(&main, &["--deny-warnings"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert_eq!(check(&main, &["--deny-warnings", "--json"]).0, Some(1));

    // Secrets that are missing with `--offline` do not fail `--deny-warnings`.
    let (_directory, main) = write(&with_replaced("admin: {", "admin: { tokenFile: missing,"));
    let (code, _, err) = check(&main, &["--offline", "--deny-warnings"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("warning[missing-secret]"), "{err}");
}

#[test]
fn d4_warnings_are_logged_and_stay_in_the_status_over_reloads() {
    let text =
        with_replaced("10.0.0.0/8", "0.0.0.0/0").replace("[api.example]", "['*']").replace("[x-a]", "[x-a, X-A]");
    let gateway = Gateway::start(&text, &[]);
    let expected = |text: &str| {
        let pieces = [("open-trusted-proxies", "0.0.0.0/0"), ("doubtful-header", "X-A"), ("catch-all-host", "'*'")];
        pieces.map(|(code, piece)| format!("{code} {}", location_of(text, piece)))
    };
    let wanted = expected(&text);
    let status_warnings = || warnings(&gateway.admin("GET", "/status").json()["reload"]["warnings"]);
    assert_eq!(status_warnings(), wanted);
    let logged = |line: &str| line.contains("code=\"catch-all-host\"") && line.contains("crossgate.yaml:11:");
    gateway.process.stderr_line(|line| logged(line).then_some(()));

    // Nothing is compiled again, and all warnings stay.
    let report = gateway.admin("POST", "/reload");
    assert_eq!((report.status, warnings(&report.json()["warnings"])), (200, wanted.to_vec()));
    let deadline = Instant::now() + PATIENCE;
    while gateway.process.stderr().lines().filter(|line| logged(line)).count() < 2 {
        assert!(Instant::now() < deadline, "the reload does not log the warnings again");
    }

    // A comment moves the locations and changes nothing else.
    let moved = format!("# first\n{text}");
    std::fs::write(gateway.path("crossgate.yaml"), &moved).unwrap();
    let moved = expected(&moved);
    let deadline = Instant::now() + PATIENCE;
    while status_warnings() != moved {
        assert!(Instant::now() < deadline, "{:?}", status_warnings());
    }
}

#[test]
fn d7_check_reads_standard_input_and_detects_a_tenants_file() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_crossgate"))
        .args(["check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(with_replaced("[PUT]", "[\"*\"]").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(
        (output.status.code(), out.as_str()),
        (Some(0), "ok: 1 tenant, 2 policies, 2 routes, 3 origins\n"),
        "{err}"
    );
    assert!(err.contains("  --> -:8:91\n") && err.contains("8 | "), "{err}");

    let (_directory, main) = write("tenants: [{ id: acme, hosts: [api.example], upstream: api, policy: spa }]\n");
    let (code, _, err) = check(&main, &[]);
    assert_eq!(code, Some(1), "{err}");
    assert_eq!(err.matches("error").count(), 1, "{err}");
    assert!(err.contains("this is a tenants file") && err.contains("`crossgate check crossgate.yaml`"), "{err}");
    assert_eq!(check(Path::new("-"), &["-"]).0, Some(2));
}
