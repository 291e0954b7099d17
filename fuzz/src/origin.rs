//! The bytes of an `Origin` field, against one policy with an entry of each kind.

use std::sync::LazyLock;

use crossgate_policy::{Kind, OwnOrigin, Policy, PolicySpec, Request, Scheme};

use crate::policies::{check, compile, owned, request};

const ENTRIES: [&str; 14] = [
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
];

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    compile(&PolicySpec { allow_origins: owned(&ENTRIES), ..PolicySpec::default() }).expect("the entries are good")
});

/// Allowed is what is a configured entry byte for byte, or matches one by the oracle's matcher.
///
/// # Panics
/// If anything else is, or a same-origin request is told that is none.
pub fn origin(bytes: &[u8]) {
    check(&POLICY, &ENTRIES, bytes);
    check_own(bytes, None, None, &["http://own.test", "https://own.test"]);
    check_own(bytes, Some(8443), None, &["http://own.test:8443", "https://own.test:8443"]);
    check_own(bytes, Some(443), Some(Scheme::Https), &["https://own.test"]);
}

fn check_own(bytes: &[u8], port: Option<u16>, scheme: Option<Scheme>, same: &[&str]) {
    let request = Request { own: OwnOrigin { host: "own.test", port, scheme }, ..request(bytes) };
    let is_same = same.iter().any(|origin| origin.as_bytes() == bytes);
    let expected = if is_same { Kind::SameOrigin } else { Kind::Actual };
    assert_eq!(request.classify(), expected, "{}", bytes.escape_ascii());
}
