//! The engine's answers against a browser in a function, which must conclude what the policy means; and broken engines,
//! each of which must be found out by that same property.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

#[path = "browsers/broken.rs"]
mod broken;
#[path = "oracle/browser.rs"]
mod browser;
#[path = "oracle/matcher.rs"]
mod matcher;

use std::sync::Arc;

use browser::{Asked, Fields, Wish};
use crossgate_policy::{Dangerously, Disclosure, Field, OwnOrigin, Policy, PolicySpec, Request, Template};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestError, TestRunner};

/// Policies that are generated, each with that many wishes.
const CASES: u32 = 256;
const WISHES: usize = 40;

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
    let origins = vec(select(&["*", "null", "https://a.test", "https://a.test", "https://*.b.test"][..]), 1..4);
    let names = (vec(select(&METHODS[..]), 0..4), vec(select(&HEADERS[..]), 0..4), vec(select(&EXPOSED[..]), 0..3));
    let rest = (any::<bool>(), select(&[Disclosure::Full, Disclosure::Minimal][..]));
    (origins, names, rest).prop_map(|(mut origins, (methods, headers, mut exposed), (credentials, disclosure))| {
        if credentials {
            origins
                .iter_mut()
                .filter(|origin| ["*", "null"].contains(*origin))
                .for_each(|origin| *origin = "https://a.test");
            exposed.retain(|name| *name != "*");
        }
        Meaning { origins, methods, headers, exposed, credentials, disclosure }
    })
}

fn wish() -> impl Strategy<Value = Wish> {
    let origins = [
        "https://a.test",
        "https://a.test",
        "https://x.b.test",
        "https://x.b.test",
        "https://b.test",
        "https://evilb.test",
        "https://a.test.evil.test",
        "http://a.test",
        "null",
    ];
    let origin = select(origins.to_vec());
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
            dangerously: Dangerously { allow_null: true, ..Dangerously::default() },
            ..PolicySpec::default()
        };
        let template = Template::compile(&spec).unwrap_or_else(|problems| panic!("{problems:?}"));
        Policy::extend(Arc::new(template.value), &[]).unwrap().value
    }

    fn lets_in(&self, wish: &Wish) -> bool {
        let is_origin = matcher::is_origin(wish.origin.as_bytes());
        let covers = |entry: &str| match entry {
            "*" => true,
            "null" => wish.origin == "null",
            entry => is_origin && matcher::covers(entry, &wish.origin),
        };
        let is_listed = self.origins.iter().any(|entry| covers(entry));
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

/// The status and what of the fields is about CORS.
#[derive(Debug)]
struct Answer {
    status: u16,
    fields: Fields,
}

/// What the engine answers, when it works.
fn answer(policy: &Policy, asked: &Asked) -> Answer {
    fn field(value: &Option<String>) -> Field<'_> {
        value.as_ref().map_or(Field::Absent, |value| Field::One(value.as_bytes()))
    }
    let lines: Vec<&[u8]> = asked.requested_headers.iter().map(String::as_bytes).collect();
    let request = Request {
        origin: field(&asked.origin),
        requested_method: field(&asked.requested_method),
        requested_headers: &lines,
        ..Request::new(asked.method.as_bytes(), OWN)
    };
    let verdict = policy.decide(&request).without_asking();
    let line = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let edits = policy.edits(&verdict, &request);
    let edits = edits.map(|edit| (edit.name.to_string(), line(edit.value.as_bytes())));
    let vary = policy.vary(verdict.kind).map(|token| ("vary".to_owned(), token.to_owned()));
    Answer { status: if verdict.is_allowed() { 204 } else { 403 }, fields: edits.chain(vary).collect() }
}

/// The property: whatever pages wish, a browser concludes from the engine's answers what the policy means.
fn check(engine: impl Fn(&Policy, &Asked) -> Answer, meaning: &Meaning, wishes: &[Wish]) -> Result<(), TestCaseError> {
    let policy = meaning.policy();
    let ask = |asked: &Asked| engine(&policy, asked);
    wishes.iter().try_for_each(|wish| check_wish(meaning, ask, wish))?;
    wishes.windows(2).try_for_each(|pair| {
        check_reuse(meaning, ask, &pair[0], &pair[1])?;
        check_preflight_cache(meaning, ask, &pair[0], &pair[1])
    })
}

fn check_wish(meaning: &Meaning, ask: impl Fn(&Asked) -> Answer, wish: &Wish) -> Result<(), TestCaseError> {
    let Answer { status, fields } = ask(&wish.preflight());
    check_shape(status, &fields)?;
    prop_assert_eq!(browser::goes_on(wish, status, &fields), meaning.allows(wish), "{:?} {:?}", wish, fields);
    let Answer { status, fields } = ask(&wish.actual());
    check_shape(status, &fields)?;
    prop_assert_eq!(browser::passes_check(wish, &fields), meaning.lets_in(wish), "{:?} {:?}", wish, fields);
    for name in ["x-a", "x-b", "x-c"] {
        let is_exposed = meaning.exposed.iter().any(|one| *one == "*" || one.eq_ignore_ascii_case(name));
        prop_assert_eq!(browser::can_read(wish, name, &fields), meaning.lets_in(wish) && is_exposed, "{:?}", fields);
    }
    Ok(())
}

/// What a cache gives to a page that it has kept for another, or for nobody's, is as good as the page's own answer.
fn check_reuse(
    meaning: &Meaning,
    ask: impl Fn(&Asked) -> Answer,
    first: &Wish,
    other: &Wish,
) -> Result<(), TestCaseError> {
    let get = |wish: &Wish| Asked { method: "GET".to_owned(), ..wish.actual() };
    for kept in [get(first), Asked::plain("GET")] {
        let Answer { fields, .. } = ask(&kept);
        if browser::may_be_reused(&fields, &kept, &get(other)) {
            let reads = browser::passes_check(other, &fields);
            prop_assert_eq!(reads, meaning.lets_in(other), "{:?} {:?} {:?}", kept, other, fields);
        }
    }
    let Answer { status, fields } = ask(&first.preflight());
    if browser::may_be_reused(&fields, &first.preflight(), &other.preflight()) {
        let goes_on = browser::goes_on(other, status, &fields);
        prop_assert_eq!(goes_on, meaning.allows(other), "{:?} {:?} {:?}", first, other, fields);
    }
    Ok(())
}

/// <https://fetch.spec.whatwg.org/#concept-cache>: what a preflight told lets the same page send no more than what is meant.
fn check_preflight_cache(
    meaning: &Meaning,
    ask: impl Fn(&Asked) -> Answer,
    first: &Wish,
    other: &Wish,
) -> Result<(), TestCaseError> {
    let Answer { status, fields } = ask(&first.preflight());
    let later = Wish { origin: first.origin.clone(), with_credentials: first.with_credentials, ..other.clone() };
    if browser::goes_on(first, status, &fields) {
        let goes_on = browser::goes_on(&later, status, &fields);
        prop_assert!(!goes_on || meaning.allows(&later), "{:?} {:?} {:?}", first, later, fields);
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
    let is_told = |(name, _): &(String, String)| name != "vary";
    prop_assert!(status == 204 || !fields.iter().any(is_told), "{:?}", fields);
    prop_assert!(credentials.is_empty() || credentials == ["true"], "{:?}", fields);
    prop_assert!(credentials.is_empty() || fields.iter().all(|(_, value)| value != "*"), "{:?}", fields);
    Ok(())
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn browsers_conclude_what_the_policy_means((meaning, wishes) in (meaning(), vec(wish(), WISHES))) {
        check(answer, &meaning, &wishes)?;
    }
}

#[test]
fn every_broken_engine_is_found_out() {
    for (mistake, engine) in broken::BROKEN {
        let mut runner = TestRunner::new(ProptestConfig { max_shrink_iters: 0, ..config() });
        let found = runner.run(&(meaning(), vec(wish(), WISHES)), |(meaning, wishes)| check(engine, &meaning, &wishes));
        assert!(matches!(found, Err(TestError::Fail(..))), "an engine that {mistake} passes");
    }
}
