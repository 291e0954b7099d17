//! Files that upstreams name: each is served as it was last good, and reported once.

use super::certificates::issue;
use super::*;
use crate::tenant::Upstream;

/// Two upstreams that trust one file, and show one certificate.
const TRUSTING: &str = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
upstreams:
  a: { servers: ["127.0.0.1:9001"], tls: { ca: tls/ca.crt, clientCertificate: { certificate: tls/own.crt, key: tls/own.key } } }
  b: { servers: ["127.0.0.1:9002"], tls: { ca: tls/ca.crt, clientCertificate: { certificate: tls/own.crt, key: tls/own.key } } }
policies: { spa: { allowOrigins: ["https://app.example"] } }
tenants: [{ id: main, hosts: [a.example], upstream: a, policy: spa, routes: [{ pathPrefix: /b, upstream: b }] }]
"#;

fn stage() -> Files {
    let files = Files::new(&[]);
    files.write("gateway.yaml", TRUSTING);
    issue(&files, "ca", &["ca.example"], 2099);
    issue(&files, "own", &["own.example"], 2099);
    files
}

/// The upstreams that serve, by name.
fn upstreams(reloader: &Reloader) -> Vec<Arc<Upstream>> {
    let serving = reloader.current().latest();
    let mut all: Vec<_> = serving.upstreams().cloned().collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

#[test]
fn one_file_that_many_name_is_refused_once_and_changes_nothing() {
    let files = stage();
    let reloader = files.start();
    let before = upstreams(&reloader);
    files.write("tls/ca.crt", "none");
    files.write("tls/own.key", "none");
    let report = reloader.reload_now().unwrap();
    assert_eq!(report.broken_files.len(), 2);
    assert_eq!(broken_names(&reloader), ["ca.crt", "own.key"]);
    let after = upstreams(&reloader);
    assert!(before.iter().zip(&after).all(|(before, after)| Arc::ptr_eq(before, after)), "with their connections");
    // Every load says so, until they are good.
    assert_eq!(reloader.reload_now().unwrap().broken_files.len(), 2);
    issue(&files, "ca", &["ca.example"], 2002);
    issue(&files, "own", &["own.example"], 2099);
    let report = reloader.reload_now().unwrap();
    assert_eq!(report.broken_files, []);
    let told: Vec<_> = report.warnings.iter().map(|one| (one.place.line, &*one.message)).collect();
    let is_expired = |(line, message): &(u32, &str)| message.contains("ca.crt expired on") && [4, 5].contains(line);
    assert!(told.len() == 2 && told.iter().all(is_expired), "{told:?}");
    assert!(upstreams(&reloader).iter().zip(&after).all(|(new, old)| new.tls != old.tls));
}

#[test]
fn what_was_good_is_known_by_its_file() {
    let files = stage();
    let reloader = files.start();
    files.write("tls/ca.crt", "none");
    // An upstream of another name: the file is the same.
    files.write("gateway.yaml", &TRUSTING.replace("  b:", "  c:").replace("upstream: b", "upstream: c"));
    assert_eq!(reloader.reload_now().unwrap().broken_files.len(), 1);
    // A copy of it is another file, and the certificate with another key another pair.
    files.write("tls/copy.crt", "none");
    files.write("tls/own.copy", "none");
    for (from, to) in [("tls/ca.crt", "tls/copy.crt"), ("tls/own.key", "tls/own.copy")] {
        files.write("gateway.yaml", &TRUSTING.replace(from, to));
        let found = reloader.reload_now().unwrap_err();
        assert!(found.has_errors() && found.iter().all(|one| one.message.contains(to)), "{found}");
        assert!(!found.iter().any(|one| one.message.contains("ca.crt")), "that one is served as it was: {found}");
    }
    // Where nobody names it any more, it is forgotten.
    files.write("gateway.yaml", &TRUSTING.replace("ca: tls/ca.crt", "ca: tls/own.crt"));
    reloader.reload_now().unwrap();
    files.write("gateway.yaml", TRUSTING);
    assert!(reloader.reload_now().unwrap_err().iter().all(|one| one.message.contains("ca.crt has no readable")));
}

#[test]
fn the_gateways_own_certificate_tells_when_it_expires() {
    let files = stage();
    let metrics = Metrics::new();
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
