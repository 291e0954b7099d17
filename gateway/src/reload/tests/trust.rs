//! Tests of TLS files of upstreams: each keeps its last good version and is reported once.

use super::certificates::issue;
use super::*;
use crate::upstream::Upstream;

/// Two upstreams that share one `ca` file and one client certificate.
const TRUSTING: &str = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
upstreams:
  a: { servers: ["127.0.0.1:9001"], tls: { ca: tls/ca.crt, clientCertificate: { certificate: tls/own.crt, key: tls/own.key } } }
  b: { servers: ["127.0.0.1:9002"], tls: { ca: tls/ca.crt, clientCertificate: { certificate: tls/own.crt, key: tls/own.key } } }
policies: { spa: { allowOrigins: ["https://app.example"] } }
tenants: [{ id: main, hosts: [a.example], upstream: a, policy: spa, routes: [{ pathPrefix: /b, upstream: b }] }]
"#;

fn write_files() -> Files {
    let files = Files::new(&[]);
    files.write("gateway.yaml", TRUSTING);
    // Without a name this is not the certificate of a server.
    issue(&files, "ca", &[], 2099);
    issue(&files, "own", &["own.example"], 2099);
    files
}

/// Lists the active upstreams by name.
fn upstreams(reloader: &Reloader) -> Vec<Arc<Upstream>> {
    let serving = reloader.current().latest();
    let mut all: Vec<_> = serving.upstreams().cloned().collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

#[test]
fn file_shared_by_upstreams_is_refused_once_and_changes_nothing() {
    let files = write_files();
    let reloader = files.start();
    let before = upstreams(&reloader);
    files.write("tls/ca.crt", "none");
    files.write("tls/own.key", "none");
    let report = reloader.reload_now().unwrap();
    assert_eq!(report.broken_files.len(), 2);
    assert_eq!(broken_names(&reloader), ["ca.crt", "own.key"]);
    let after = upstreams(&reloader);
    assert!(
        before.iter().zip(&after).all(|(before, after)| Arc::ptr_eq(before, after)),
        "an upstream was replaced and lost its connections"
    );
    // Every load reports them until they are valid.
    assert_eq!(reloader.reload_now().unwrap().broken_files.len(), 2);
    issue(&files, "ca", &[], 2002);
    issue(&files, "own", &["own.example"], 2099);
    let report = reloader.reload_now().unwrap();
    assert_eq!(report.broken_files, []);
    let warnings: Vec<_> = report.warnings.iter().map(|one| (one.place.line, &*one.message)).collect();
    let is_expired = |(line, message): &(u32, &str)| message.contains("ca.crt expired on") && [4, 5].contains(line);
    assert!(warnings.len() == 2 && warnings.iter().all(is_expired), "{warnings:?}");
    assert!(upstreams(&reloader).iter().zip(&after).all(|(new, old)| new.tls != old.tls));
}

#[test]
fn last_good_trust_is_kept_by_file_path() {
    let files = write_files();
    let reloader = files.start();
    files.write("tls/ca.crt", "none");
    // An upstream of another name with the same file.
    files.write("gateway.yaml", &TRUSTING.replace("  b:", "  c:").replace("upstream: b", "upstream: c"));
    assert_eq!(reloader.reload_now().unwrap().broken_files.len(), 1);
    // A copy is another file, and the certificate with another key file is another pair.
    files.write("tls/copy.crt", "none");
    files.write("tls/own.copy", "none");
    for (from, to) in [("tls/ca.crt", "tls/copy.crt"), ("tls/own.key", "tls/own.copy")] {
        files.write("gateway.yaml", &TRUSTING.replace(from, to));
        let found = reloader.reload_now().unwrap_err();
        let errors: Vec<_> = found.iter().filter(|one| one.code.is_none()).collect();
        assert!(!errors.is_empty() && errors.iter().all(|one| one.message.contains(to)), "{found}");
        assert!(!found.iter().any(|one| one.message.contains("ca.crt")), "ca.crt has a good version: {found}");
    }
    // A file that is no longer configured loses its last good version.
    files.write("gateway.yaml", &TRUSTING.replace("ca: tls/ca.crt", "ca: tls/own.crt"));
    reloader.reload_now().unwrap();
    files.write("gateway.yaml", TRUSTING);
    let found = reloader.reload_now().unwrap_err();
    assert!(found.iter().all(|one| one.message.contains("ca.crt has no readable")), "{found}");
}

#[test]
fn client_certificate_expiry_is_exported() {
    let files = write_files();
    let metrics = GatewayMetrics::new();
    let start = Reloader::start(&files.path("gateway.yaml"), BrokenTenants::Refuse, &metrics);
    let reloader = start.unwrap_or_else(|found| panic!("{found}"));
    let expires = |year_begins: u64| {
        let text = metrics.render();
        let wanted = format!("tls/own.crt\"}} {year_begins}");
        assert!(text.lines().any(|line| line.ends_with(&wanted)), "{text}");
    };
    expires(4_070_908_800);
    issue(&files, "own", &["own.example"], 2002);
    reloader.reload_now().unwrap();
    expires(1_009_843_200);
}
