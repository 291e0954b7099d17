//! The engine's answers against a browser in a function, which must conclude what the policy means.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

#[path = "oracle/browser.rs"]
mod browser;
#[path = "oracle/matcher.rs"]
mod matcher;

use std::sync::Arc;

use browser::{Fields, Wish};
use crossgate_policy::{Disclosure, Field, OwnOrigin, Policy, PolicySpec, Request, Template};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const OWN: OwnOrigin<'_> = OwnOrigin { host: "own.invalid", port: None, scheme: None };

#[derive(Debug, Clone)]
struct Meaning {
    origins: Vec<&'static str>,
    methods: Vec<&'static str>,
    headers: Vec<&'static str>,
    exposed: Vec<&'static str>,
    credentials: bool,
    disclosure: Disclosure,
}

const METHODS: [&str; 8] = ["*", "PUT", "put", "DELETE", "PATCH", "patch", "PURGE", "GET"];
const HEADERS: [&str; 6] = ["*", "authorization", "Authorization", "x-a", "X-B", "content-type"];
const EXPOSED: [&str; 3] = ["*", "x-a", "X-B"];

fn meaning() -> impl Strategy<Value = Meaning> {
    let origins = vec(select(&["*", "https://a.test", "https://*.b.test"][..]), 1..3);
    let names = (vec(select(&METHODS[..]), 0..4), vec(select(&HEADERS[..]), 0..4), vec(select(&EXPOSED[..]), 0..3));
    let rest = (any::<bool>(), select(&[Disclosure::Full, Disclosure::Minimal][..]));
    (origins, names, rest).prop_map(|(mut origins, (methods, headers, mut exposed), (credentials, disclosure))| {
        if credentials {
            origins.iter_mut().filter(|origin| **origin == "*").for_each(|origin| *origin = "https://a.test");
            exposed.retain(|name| *name != "*");
        }
        Meaning { origins, methods, headers, exposed, credentials, disclosure }
    })
}

fn wish() -> impl Strategy<Value = Wish> {
    let origin = select(&["https://a.test", "https://x.b.test", "https://b.test", "https://evil.test", "null"][..]);
    let method = select(&["PUT", "put", "DELETE", "PATCH", "patch", "PURGE", "GET", "POST", "X"][..]);
    let headers = vec(select(&["authorization", "X-A", "x-b", "Content-Type", "x-c"][..]), 0..4);
    (origin, method, headers, any::<bool>()).prop_map(|(origin, method, headers, with_credentials)| Wish {
        origin: origin.to_owned(),
        method: method.to_owned(),
        headers: headers.into_iter().map(str::to_owned).collect(),
        with_credentials,
    })
}

impl Meaning {
    fn policy(&self) -> Policy {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let spec = PolicySpec {
            allow_origins: owned(&self.origins),
            allow_methods: owned(&self.methods),
            allow_headers: owned(&self.headers),
            expose_headers: owned(&self.exposed),
            allow_credentials: self.credentials,
            disclosure: self.disclosure,
            ..PolicySpec::default()
        };
        let template = Template::compile(&spec).unwrap_or_else(|problems| panic!("{problems:?}"));
        Policy::extend(Arc::new(template.value), &[]).unwrap().value
    }

    fn lets_in(&self, wish: &Wish) -> bool {
        let is_origin = matcher::is_origin(wish.origin.as_bytes());
        let is_listed =
            self.origins.iter().any(|entry| *entry == "*" || (is_origin && matcher::covers(entry, &wish.origin)));
        is_listed && (self.credentials || !wish.with_credentials)
    }

    fn allows(&self, wish: &Wish) -> bool {
        let normal = |method: &str| match method {
            "put" => "PUT".to_owned(),
            method => method.to_owned(),
        };
        let is_safe = ["GET", "HEAD", "POST"].contains(&wish.method.as_str());
        let is_method = is_safe || self.methods.iter().any(|method| *method == "*" || normal(method) == wish.method);
        let is_wild = self.headers.contains(&"*");
        self.lets_in(wish) && is_method && wish.headers.iter().all(|name| self.allows_header(name, is_wild))
    }

    fn allows_header(&self, name: &str, is_wild: bool) -> bool {
        let is_listed = self.headers.iter().any(|header| header.eq_ignore_ascii_case(name));
        is_listed || (is_wild && (self.credentials || !name.eq_ignore_ascii_case("authorization")))
    }
}

/// The status and the CORS fields of the engine's answer.
fn answer(policy: &Policy, request: &Request<'_>) -> (u16, Fields) {
    let verdict = policy.decide(request).without_asking();
    let line = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let edits = policy.edits(&verdict, request);
    let fields = edits.map(|edit| (edit.name.to_string(), line(edit.value.as_bytes()))).collect();
    (if verdict.is_allowed() { 204 } else { 403 }, fields)
}

fn check_wish(meaning: &Meaning, policy: &Policy, wish: &Wish) -> Result<(), TestCaseError> {
    let names = wish.requested_headers();
    let lines: Vec<&[u8]> = names.iter().map(|names| names.as_bytes()).collect();
    let actual = Request { origin: Field::One(wish.origin.as_bytes()), ..Request::new(wish.method.as_bytes(), OWN) };
    let requested_method = Field::One(wish.method.as_bytes());
    let preflight = Request { method: b"OPTIONS", requested_method, requested_headers: &lines, ..actual };
    let (status, fields) = answer(policy, &preflight);
    check_shape(status, &fields)?;
    prop_assert_eq!(browser::goes_on(wish, status, &fields), meaning.allows(wish), "{:?}", fields);
    let (status, fields) = answer(policy, &actual);
    check_shape(status, &fields)?;
    prop_assert_eq!(browser::passes_check(wish, &fields), meaning.lets_in(wish), "{:?}", fields);
    for name in ["x-a", "x-b", "x-c"] {
        let is_exposed = meaning.exposed.iter().any(|one| *one == "*" || one.eq_ignore_ascii_case(name));
        prop_assert_eq!(browser::can_read(wish, name, &fields), meaning.lets_in(wish) && is_exposed, "{:?}", fields);
    }
    Ok(())
}

/// What holds of every answer: <https://fetch.spec.whatwg.org/#cors-protocol-and-credentials>.
fn check_shape(status: u16, fields: &Fields) -> Result<(), TestCaseError> {
    let values =
        |name: &str| fields.iter().filter(|(one, _)| one == name).map(|(_, value)| value.clone()).collect::<Vec<_>>();
    let origins = values("access-control-allow-origin");
    let credentials = values("access-control-allow-credentials");
    prop_assert_eq!(origins.len(), usize::from(status == 204), "{:?}", fields);
    prop_assert!(status == 204 || fields.is_empty(), "{:?}", fields);
    prop_assert!(credentials.is_empty() || credentials == ["true"], "{:?}", fields);
    prop_assert!(credentials.is_empty() || fields.iter().all(|(_, value)| value != "*"), "{:?}", fields);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn browsers_conclude_what_the_policy_means((meaning, wishes) in (meaning(), vec(wish(), 40))) {
        let policy = meaning.policy();
        for wish in wishes {
            check_wish(&meaning, &policy, &wish)?;
        }
    }
}
