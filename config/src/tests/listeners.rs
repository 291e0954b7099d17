//! Findings and values of listeners.

use super::*;

#[test]
fn proxy_protocol_needs_the_ranges_of_balancers() {
    let text = r#"version: 1
listeners:
  - { address: "127.0.0.1:1", proxyProtocol: true }
  - { address: "127.0.0.1:2", proxyProtocol: {} }
  - { address: "127.0.0.1:3", proxyProtocol: { from: [] } }
  - { address: "127.0.0.1:4", proxyProtocol: { from: [10.0.0.1/8], optional: true } }
  - { address: "127.0.0.1:5", proxyProtocol: { from: ["10.0.0.0/8", "::/0"] } }
  - { address: "127.0.0.1:6", proxyProtocol: { from: [0.0.0.0/0] } }
"#;
    check(
        text,
        &[
            "3:46 expected the PROXY protocol (a mapping), found true",
            "4:46 missing key `from` in the PROXY protocol",
            "5:54 empty list of balancers; write their addresses, such as 10.0.0.0/8",
            "6:55 invalid address range `10.0.0.1/8`: bits after the prefix are set; write 10.0.0.0/8",
            "6:68 the PROXY protocol has no key `optional`; its keys are `from`",
            "7:69 any client can connect as a balancer and forge client addresses; list only the addresses of the balancers",
            "8:55 any client can connect as a balancer and forge client addresses; list only the addresses of the balancers",
        ],
    );
    let found = main_file(text).found;
    let warnings = found.iter().filter(|one| one.severity == diagnostics::Severity::Warning);
    assert_eq!(warnings.map(|one| one.place.line).collect::<Vec<_>>(), [7, 8]);
}

#[test]
fn overlapping_addresses_of_listeners_are_refused() {
    for (first, second, clash) in [
        ("127.0.0.1:80", "0.0.0.0:80", true),
        ("0.0.0.0:80", "127.0.0.1:80", true),
        ("[::1]:80", "[::]:80", true),
        ("0.0.0.0:80", "[::]:80", true),
        ("127.0.0.1:80", "[::]:80", true),
        ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true),
        ("127.0.0.1:80", "127.0.0.1:80", true),
        ("127.0.0.1:80", "127.0.0.1:81", false),
        ("127.0.0.1:80", "127.0.0.2:80", false),
        ("127.0.0.1:80", "[::1]:80", false),
        ("0.0.0.0:80", "[::1]:80", false),
        ("0.0.0.0:0", "0.0.0.0:0", false),
    ] {
        for other in [format!("listeners: [{{ address: \"{first}\" }}, {{ address: \"{second}\" }}]"), {
            format!("listeners: [{{ address: \"{first}\" }}]\nadmin: {{ address: \"{second}\", tokenFile: t }}")
        }] {
            let found = findings(&format!("version: 1\n{other}\n"));
            assert_eq!(found.len(), usize::from(clash), "{first} {second} {found:?}");
            assert!(!clash || found[0].contains("; give each its own"), "{found:?}");
        }
    }
}

#[test]
fn tls_of_a_listener_needs_certificates() {
    let text = |tls: &str| format!("version: 1\nlisteners: [{{ address: \"127.0.0.1:0\", tls: {tls} }}]\n");
    let good = main_file(&text("{ certificates: [{ certificate: a.crt, key: /b.key }], minVersion: Tls13 }"));
    assert!(good.found.is_empty(), "{}", good.found);
    let tls = good.value.settings.listeners[0].tls.as_ref().unwrap();
    let pair = tls.certificates.first().unwrap();
    assert_eq!((pair.certificate.value.as_path(), pair.key.value.as_path()), (Path::new("a.crt"), Path::new("/b.key")));
    assert_eq!(tls.min_version, model::TlsVersion::Tls13);
    for (tls, expected) in [
        ("true", "2:44 expected the TLS of a listener (a mapping), found true"),
        ("{}", "2:44 missing key `certificates` in the TLS of a listener"),
        (
            "{ certificates: [] }",
            "2:60 empty list of certificates; write one such as { certificate: tls.crt, key: tls.key }",
        ),
        ("{ certificates: [{ certificate: a.crt }] }", "2:61 missing key `key` in a certificate"),
        ("{ certificates: [{ certificate: 1, key: b }] }", "2:76 expected a path, found the number 1"),
        ("{ certificates: [{ certificate: a, key: '' }] }", "2:84 empty path; write one, relative to this file"),
        (
            "{ certificates: [{ certificate: a, key: b, cert: c }] }",
            "2:87 a certificate has no key `cert`; its keys are `certificate`, `key`",
        ),
        (
            "{ certificates: [{ certificate: a, key: b }], minVersion: Tls11 }",
            "2:102 unknown value `Tls11`; write Tls12 or Tls13",
        ),
    ] {
        check(&text(tls), &[expected]);
    }
}

#[test]
fn health_path_with_query_or_dot_segment_is_refused() {
    let text = |path: &str| format!("version: 1\nlisteners: [{{ address: \"127.0.0.1:0\", healthPath: {path} }}]\n");
    let good = main_file(&text("/gateway-health"));
    assert!(good.found.is_empty(), "{}", good.found);
    let path = good.value.settings.listeners[0].health_path.as_ref().unwrap();
    assert_eq!(path.value.as_str(), "/gateway-health");
    for (path, expected) in [
        ("/", "2:51 invalid health path `/`: the tenants need this path; write another such as /gateway-health"),
        ("health", "2:51 invalid health path `health`: write a path of letters, digits and `-._~/`"),
        ("/health?x", "2:51 invalid health path `/health?x`: write a path of letters"),
        ("/a/../b", "2:51 invalid health path `/a/../b`: not in canonical form; write /b"),
        ("/health/", "2:51 invalid health path `/health/`: remove the trailing slash; write /health"),
        ("true", "2:51 expected a health path, found true"),
    ] {
        check(&text(path), &[expected]);
    }
}

#[test]
fn read_token_without_token_is_refused() {
    let text = "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\nadmin: { address: \"127.0.0.1:0\", readTokenFile: t }\n";
    check(text, &["3:49 readTokenFile needs tokenFile; set both"]);
}

#[test]
fn admin_listener_needs_a_token_except_on_loopback() {
    for (address, count) in [("127.0.0.1:1", 0), ("[::1]:1", 0), ("[::ffff:127.0.0.1]:1", 0), ("[::]:1", 1)] {
        let text =
            format!("version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nadmin: {{ address: \"{address}\" }}\n");
        assert_eq!(findings(&text).len(), count, "{address}");
    }
}
