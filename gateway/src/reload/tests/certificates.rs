//! What is wrong with a certificate is told where the configuration names it.

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

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

/// Writes a certificate for these names, that expires with that year's beginning, and its key.
pub(super) fn issue(files: &Files, name: &str, names: &[&str], year: i32) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(year, 1, 1));
    let key = KeyPair::generate().unwrap();
    files.write(&format!("tls/{name}.crt"), &params.self_signed(&key).unwrap().pem());
    files.write(&format!("tls/{name}.key"), &key.serialize_pem());
}

fn stage() -> Files {
    let files = Files::new(&[]);
    files.write("gateway.yaml", SECURE);
    issue(&files, "a", &["a.example", "*.a.example"], 2099);
    files
}

/// Every finding as `line:column severity: message`.
#[track_caller]
fn assert_found(files: &Files, expected: &[&str]) {
    let found = check(&files.path("gateway.yaml"));
    let told = found.iter().map(|one| {
        assert!(one.source_line.is_some(), "{one}");
        let kind = if found.has_errors() { "error" } else { "warning" };
        format!("{}:{} {kind}: {}", one.place.line, one.place.column, one.message)
    });
    let told: Vec<_> = told.collect();
    let fits = |(told, expected): (&String, &&str)| expected.split(" .. ").all(|part| told.contains(part));
    assert!(told.len() == expected.len() && told.iter().zip(expected).all(fits), "{told:#?} is not {expected:#?}");
}

#[test]
fn a_good_one_is_no_finding() {
    assert_found(&stage(), &[]);
}

#[test]
fn what_is_missing_or_of_another_kind_is_told_at_its_path() {
    let files = stage();
    let mistake = |name: &str, text: &str, expected: &str| {
        let path = files.path(name);
        let good = fs::read_to_string(&path).unwrap();
        fs::write(&path, text).unwrap();
        assert_found(&files, &[expected]);
        fs::remove_file(&path).unwrap();
        let missing = if name.ends_with("crt") { "6:26 error .. a.crt" } else { "6:42 error .. a.key" };
        assert_found(
            &files,
            &[&format!("{missing} cannot be used: No such file .. name a PEM file that the gateway may read")],
        );
        fs::write(&path, good).unwrap();
    };
    mistake("tls/a.crt", "none", "6:26 error .. there is no certificate in it; name a PEM file");
    mistake("tls/a.key", "none", "6:42 error .. there is no private key in it; name a PEM file");
    issue(&files, "b", &["b.example"], 2099);
    fs::rename(files.path("tls/b.key"), files.path("tls/a.key")).unwrap();
    assert_found(&files, &["6:42 error .. its private key belongs to another certificate; name the key"]);
    fs::remove_file(files.path("tls/a.key")).unwrap();
    fs::create_dir(files.path("tls/a.key")).unwrap();
    assert_found(&files, &["6:42 error .. it is not a regular file"]);
}

#[test]
fn what_clients_would_not_take_is_a_warning() {
    let files = stage();
    issue(&files, "a", &["a.example", "*.a.example"], 2002);
    assert_found(&files, &["6:26 warning .. this certificate has expired on 2002-01-01 00:00:00 UTC; renew it"]);
    issue(&files, "a", &["b.example"], 2099);
    let uncovered =
        |name: &str| format!("warning .. no certificate is for `{name}`, and all listeners speak TLS; add one");
    assert_found(&files, &[&uncovered("a.example"), &uncovered("*.a.example")]);
    // In plain text every host is reached.
    files.write("gateway.yaml", &SECURE.replace("listeners:\n", "listeners:\n  - address: \"127.0.0.1:0\"\n"));
    assert_found(&files, &[]);
}

#[test]
fn a_start_refuses_what_it_could_not_serve() {
    let files = stage();
    fs::remove_file(files.path("tls/a.key")).unwrap();
    assert!(files.start_with(BrokenTenants::Skip).is_err());
}

#[test]
fn one_pair_that_many_name_is_refused_once() {
    let files = stage();
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
    assert!(Arc::ptr_eq(&first(0).unwrap(), &first(1).unwrap()), "one certificate, once in memory");
}

#[test]
fn the_same_text_written_anew_is_no_news() {
    let files = stage();
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
    assert_eq!(generation(&reloader), seen + 1, "asked for, and nothing else brought one");
}
