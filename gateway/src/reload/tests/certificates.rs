//! Tests of certificate findings, which are reported where the configuration names the file.

use std::os::unix::fs::PermissionsExt as _;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

use super::*;

const SECURE: &str = r#"version: 1
listeners:
  - address: "127.0.0.1:0"
    tls:
      certificates:
        - { certificate: tls/a.crt, key: tls/a.key }
upstreams: { a: { servers: ["127.0.0.1:9001"] } }
policies: { spa: { allowOrigins: ["https://app.example"] } }
tenants: [{ id: main, hosts: [a.example, "*.a.example"], upstream: a, policy: spa }]
"#;

/// Writes a certificate for these names that expires at the beginning of `year`, and its key.
pub(super) fn issue(files: &Files, name: &str, names: &[&str], year: i32) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(year, 1, 1));
    let key = KeyPair::generate().unwrap();
    files.write(&format!("tls/{name}.crt"), &params.self_signed(&key).unwrap().pem());
    let path = format!("tls/{name}.key");
    files.write(&path, &key.serialize_pem());
    std::fs::set_permissions(files.path(&path), std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Writes the certificate of a certification authority.
pub(super) fn issue_authority(files: &Files, path: &str) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    files.write(path, &params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem());
}

fn write_files() -> Files {
    let files = Files::new(&[]);
    files.write("gateway.yaml", SECURE);
    issue(&files, "a", &["a.example", "*.a.example"], 2099);
    files
}

/// Compares the findings, written as `line:column severity: message`, with the expected parts.
#[track_caller]
fn assert_found(files: &Files, expected: &[&str]) {
    let found = check(&files.path("gateway.yaml"));
    let lines = found.iter().map(|one| {
        assert!(one.source_line.is_some(), "{one}");
        let kind = if found.has_errors() { "error" } else { "warning" };
        format!("{}:{} {kind}: {}", one.place.line, one.place.column, one.message)
    });
    let lines: Vec<_> = lines.collect();
    let fits = |(line, expected): (&String, &&str)| expected.split(" .. ").all(|part| line.contains(part));
    assert!(lines.len() == expected.len() && lines.iter().zip(expected).all(fits), "{lines:#?} is not {expected:#?}");
}

#[test]
fn valid_certificate_gives_no_finding() {
    assert_found(&write_files(), &[]);
}

#[test]
fn missing_or_invalid_certificate_is_reported_at_its_path() {
    let files = write_files();
    let mistake = |name: &str, text: &str, expected: &str| {
        let path = files.path(name);
        let good = fs::read_to_string(&path).unwrap();
        fs::write(&path, text).unwrap();
        assert_found(&files, &[expected]);
        fs::remove_file(&path).unwrap();
        let missing = if name.ends_with("crt") { "6:26 error .. a.crt" } else { "6:42 error .. a.key" };
        assert_found(
            &files,
            &[&format!("{missing} cannot be used: No such file .. expected a PEM file that the gateway may read")],
        );
        fs::write(&path, good).unwrap();
    };
    mistake("tls/a.crt", "none", "6:26 error .. no certificate found; expected a PEM file");
    mistake("tls/a.key", "none", "6:42 error .. no private key found; expected a PEM file");
    issue(&files, "b", &["b.example"], 2099);
    fs::rename(files.path("tls/b.key"), files.path("tls/a.key")).unwrap();
    assert_found(&files, &["6:42 error .. the private key belongs to another certificate; use the key"]);
    fs::remove_file(files.path("tls/a.key")).unwrap();
    fs::create_dir(files.path("tls/a.key")).unwrap();
    assert_found(&files, &["6:42 error .. not a regular file"]);
}

#[test]
fn expired_or_uncovering_certificate_is_a_warning() {
    let files = write_files();
    issue(&files, "a", &["a.example", "*.a.example"], 2002);
    assert_found(&files, &["6:26 warning .. this certificate expired on 2002-01-01 00:00:00 UTC; renew it"]);
    issue(&files, "a", &["b.example"], 2099);
    let uncovered =
        |name: &str| format!("warning .. no certificate covers `{name}`, and all listeners use TLS; add a certificate");
    assert_found(&files, &[&uncovered("a.example"), &uncovered("*.a.example")]);
    // A plain-text listener serves every host.
    files.write("gateway.yaml", &SECURE.replace("listeners:\n", "listeners:\n  - address: \"127.0.0.1:0\"\n"));
    assert_found(&files, &[]);
}

#[test]
fn start_with_a_missing_key_is_refused() {
    let files = write_files();
    fs::remove_file(files.path("tls/a.key")).unwrap();
    assert!(files.start_with(BrokenTenants::Skip).is_err());
}

#[test]
fn pair_of_two_listeners_is_refused_once() {
    let files = write_files();
    let listener =
        "  - { address: \"127.0.0.1:0\", tls: { certificates: [{ certificate: tls/a.crt, key: tls/a.key }] } }\n";
    files.write("gateway.yaml", &SECURE.replace("upstreams:", &format!("{listener}upstreams:")));
    let reloader = files.start();
    files.write("tls/a.key", "none");
    let report = reloader.reload_now().unwrap();
    assert_eq!(report.broken_files.len(), 1);
    assert_eq!(broken_names(&reloader), ["a.key"]);
    let serving = reloader.current().latest();
    let first =
        |listener| serving.terminator(listener).and_then(|terminator| terminator.certificates().next().cloned());
    assert!(Arc::ptr_eq(&first(0).unwrap(), &first(1).unwrap()), "the certificate is in memory twice");
}

#[test]
fn identical_rewrite_of_a_certificate_keeps_it() {
    let files = write_files();
    let reloader = files.start();
    let text = fs::read_to_string(files.path("tls/a.crt")).unwrap();
    files.replace("tls/a.crt", &text);
    let seen = generation(&reloader);
    issue(&files, "b", &["b.example"], 2099);
    let certificate = |reloader: &Reloader| {
        let serving = reloader.current().latest();
        serving.terminator(0).and_then(|terminator| terminator.certificates().next().cloned()).unwrap()
    };
    let before = certificate(&reloader);
    reloader.reload_now().unwrap();
    assert!(Arc::ptr_eq(&before, &certificate(&reloader)));
    assert_eq!(generation(&reloader), seen + 1, "only the requested reload makes a generation");
}
