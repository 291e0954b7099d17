//! Tests of certificate renewal while the main file is refused.

use super::certificates::issue;
use super::*;
use crate::snapshot::Snapshot;

const SECURE: &str = r#"version: 1
listeners:
  - { address: "127.0.0.1:0", tls: { certificates: [{ certificate: tls/a.crt, key: tls/a.key }] } }
upstreams: { a: { servers: ["127.0.0.1:9001"], tls: { ca: tls/ca.crt } } }
policies: { spa: { allowOrigins: ["https://app.example"] } }
tenants: [{ id: main, hosts: [main.example], upstream: a, policy: spa }]
tenantsDir: tenants.d
"#;

fn write_files() -> Files {
    let files = Files::new(&["b", "c"]);
    files.write("gateway.yaml", SECURE);
    issue(&files, "a", &["main.example"], 2099);
    issue(&files, "ca", &["ca.example"], 2099);
    files
}

fn certificate(reloader: &Reloader) -> Arc<crossgate_wire::tls::ServerCertificate> {
    let serving = reloader.current().latest();
    serving.terminator(0).and_then(|terminator| terminator.certificates().next().cloned()).unwrap()
}

#[test]
fn refused_main_file_changes_only_certificates() {
    let files = write_files();
    let reloader = files.start();
    // One tenants file is already broken. Both change while the main file is refused.
    files.write("tenants.d/c.yaml", "tenants: [");
    reloader.reload_now().unwrap();
    assert_eq!(broken_names(&reloader), ["c.yaml"]);
    let (before, seen) = (certificate(&reloader), generation(&reloader));
    files.write("gateway.yaml", "version: [");
    files.write("tenants.d/b.yaml", &tenant("b2", ""));
    files.write("tenants.d/c.yaml", &tenant("c2", ""));
    reloader.reload_now().unwrap_err();
    assert_eq!((generation(&reloader), reloader.status().last_result), (seen, LastResult::Failure));
    issue(&files, "a", &["main.example"], 2098);
    issue(&files, "ca", &["ca.example"], 2098);
    reloader.reload_now().unwrap_err();
    assert!(!Arc::ptr_eq(&before, &certificate(&reloader)));
    let serving = reloader.current().latest();
    let known = |id: &str| serving.tenant_by_id(id).is_some();
    assert_eq!(["main", "b", "c", "b2", "c2"].map(known), [true, true, true, false, false]);
    let tls = |snapshot: &Snapshot| snapshot.upstreams().next().unwrap().tls.clone();
    assert!(
        serving.tenant_by_id("b").unwrap().routes()[0].upstream().unwrap().tls == tls(&serving),
        "tenants do not use the renewed upstream"
    );
    let status = reloader.status();
    assert_eq!(
        (status.last_result, status.broken_files.len(), status.generation),
        (LastResult::Failure, 1, serving.generation)
    );
    assert_eq!(broken_names(&reloader), ["c.yaml"], "the refused tenants file is no longer reported");
    // A second request finds no change.
    reloader.reload_now().unwrap_err();
    assert_eq!(generation(&reloader), serving.generation);
    files.write("gateway.yaml", SECURE);
    assert_eq!(reloader.reload_now().unwrap().broken_files, []);
    let serving = reloader.current().latest();
    assert!(["b2", "c2"].iter().all(|id| serving.tenant_by_id(id).is_some()));
}

#[test]
fn hosts_of_a_never_valid_file_stay_broken_after_renewal() {
    let files = write_files();
    files.write("tenants.d/b.yaml", &tenant("b", ", pollicy: spa"));
    let reloader = files.start_with(BrokenTenants::Skip).unwrap();
    let is_broken = || matches!(reloader.current().latest().tenant("b.example"), Some(HostMatch::Broken));
    assert!(is_broken());
    let seen = generation(&reloader);
    files.write("gateway.yaml", "version: [");
    issue(&files, "a", &["main.example"], 2098);
    reloader.reload_now().unwrap_err();
    assert!(generation(&reloader) > seen);
    assert!(is_broken());
    assert_eq!(broken_names(&reloader), ["b.yaml"]);
}

#[test]
fn refused_script_stays_reported_after_renewal() {
    let files = write_files();
    let rule = SECURE.replace("https://app.example\"]", "https://app.example\"], rule: { script: a.rhai }");
    files.write("gateway.yaml", &format!("{rule}scriptsDir: scripts\n"));
    files.write("scripts/a.rhai", "fn decide(req) { allow() }");
    let reloader = files.start();
    files.write("scripts/a.rhai", "fn decide(req) {");
    reloader.reload_now().unwrap();
    assert_eq!(broken_names(&reloader), ["a.rhai"]);
    files.write("gateway.yaml", "version: [");
    issue(&files, "a", &["main.example"], 2098);
    let seen = generation(&reloader);
    reloader.reload_now().unwrap_err();
    assert!(generation(&reloader) > seen);
    assert_eq!(broken_names(&reloader), ["a.rhai"]);
}
