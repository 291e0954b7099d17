//! The bytes of an `Origin` field, against one policy with an entry of each kind.

use std::sync::LazyLock;

use crossgate_policy::{CorsRequest, OwnOrigin, Policy, PolicySpec, RequestKind, Scheme};

use crate::policies::{check, compile, owned, request};

const ENTRIES: [&str; 18] = [
    "https://a.test",
    "https://app.example.com",
    "http://localhost:3000",
    "http://127.0.0.1:8080",
    "https://[2001:db8::1]",
    "capacitor://localhost",
    "https://*.example.com",
    "https://*.b.example.com:8443",
    "http://*.a.test:*",
    "https://pr-*.preview.test",
    "https://*-web.preview.test:*",
    "https://f*r.a.test",
    "https://c.test:*",
    "https://xn--bcher-kva.test",
    "file://",
    "app://.",
    "moz-extension://*",
    "vscode-webview://*",
];

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    compile(&PolicySpec { allow_origins: owned(&ENTRIES), ..PolicySpec::default() }).expect("valid entries")
});

/// The policy allows exactly the origins that are equal to an entry or that the oracle's matcher
/// accepts. It classifies exactly the own origins as same-origin.
///
/// # Panics
/// If this does not hold.
pub fn origin(bytes: &[u8]) {
    check(&POLICY, &ENTRIES, bytes);
    check_own(bytes, None, None, &["http://own.test", "https://own.test"]);
    check_own(bytes, Some(8443), None, &["http://own.test:8443", "https://own.test:8443"]);
    check_own(bytes, Some(443), Some(Scheme::Https), &["https://own.test"]);
}

fn check_own(bytes: &[u8], port: Option<u16>, scheme: Option<Scheme>, same: &[&str]) {
    let request = CorsRequest { own: OwnOrigin { host: "own.test", port, scheme }, ..request(bytes) };
    let is_same = same.iter().any(|origin| origin.as_bytes() == bytes);
    let expected = if is_same { RequestKind::SameOrigin } else { RequestKind::Actual };
    assert_eq!(request.classify(), expected, "{}", bytes.escape_ascii());
}
