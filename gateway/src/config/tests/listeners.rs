//! What the decoder says about listeners.

use super::*;

#[test]
fn a_listener_for_balancers_names_them() {
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
            "3:46 expected the PROXY protocol (keys and values), found true",
            "4:46 the PROXY protocol needs the key `from`",
            "5:54 nobody could connect; write the addresses of the balancers, such as 10.0.0.0/8",
            "6:55 `10.0.0.1/8` is not an address range; bits after the prefix are set; write 10.0.0.0/8",
            "6:68 the PROXY protocol has no key `optional`; its keys are `from`",
            "7:54 everybody may connect, and say who they are; write the addresses of the balancers alone",
            "8:54 everybody may connect, and say who they are; write the addresses of the balancers alone",
        ],
    );
    let found = main_file(text).found;
    let warnings = found.iter().filter(|one| one.severity == diagnostics::Severity::Warning);
    assert_eq!(warnings.map(|one| one.place.line).collect::<Vec<_>>(), [7, 8]);
}

#[test]
fn two_listeners_of_one_address_are_a_clash_in_every_spelling() {
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
fn a_listener_speaks_tls_with_certificates() {
    let text = |tls: &str| format!("version: 1\nlisteners: [{{ address: \"127.0.0.1:0\", tls: {tls} }}]\n");
    let good = main_file(&text("{ certificates: [{ certificate: a.crt, key: /b.key }], minVersion: Tls13 }"));
    assert!(good.found.is_empty(), "{}", good.found);
    let tls = good.value.settings.listeners[0].tls.as_ref().unwrap();
    let pair = tls.certificates.first().unwrap();
    assert_eq!((pair.certificate.value.as_path(), pair.key.value.as_path()), (Path::new("a.crt"), Path::new("/b.key")));
    assert_eq!(tls.min_version, model::TlsVersion::Tls13);
    for (tls, expected) in [
        ("true", "2:44 expected the TLS of a listener (keys and values), found true"),
        ("{}", "2:44 the TLS of a listener needs the key `certificates`"),
        (
            "{ certificates: [] }",
            "2:60 there is no certificate; write one such as { certificate: tls.crt, key: tls.key }",
        ),
        ("{ certificates: [{ certificate: a.crt }] }", "2:61 a certificate needs the key `key`"),
        ("{ certificates: [{ certificate: 1, key: b }] }", "2:76 expected a path, found the number 1"),
        ("{ certificates: [{ certificate: a, key: '' }] }", "2:84 the path is empty; write one, relative to this file"),
        (
            "{ certificates: [{ certificate: a, key: b, cert: c }] }",
            "2:87 a certificate has no key `cert`; its keys are `certificate`, `key`",
        ),
        (
            "{ certificates: [{ certificate: a, key: b }], minVersion: Tls11 }",
            "2:102 `Tls11` is not known here; write Tls12 or Tls13",
        ),
    ] {
        check(&text(tls), &[expected]);
    }
}

#[test]
fn an_admin_listener_on_loopback_needs_no_token() {
    for (address, count) in [("127.0.0.1:1", 0), ("[::1]:1", 0), ("[::ffff:127.0.0.1]:1", 0), ("[::]:1", 1)] {
        let text =
            format!("version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nadmin: {{ address: \"{address}\" }}\n");
        assert_eq!(findings(&text).len(), count, "{address}");
    }
}
