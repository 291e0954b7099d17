//! Checks the engine's responses with a model of a browser, for generated policies and requests.
//! The same check must fail for each of several broken engines.

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
#[path = "browsers/refusals.rs"]
mod refusals;

use std::sync::Arc;

use browser::{Fields, PageRequest, SentRequest};
use crossgate_policy::{
    CorsRequest, DangerousSwitches, Disclosure, OwnOrigin, Policy, PolicySpec, RequestField, Template,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestError, TestRunner};

/// The number of generated policies, and of requests for each of them.
const CASES: u32 = 256;
const REQUESTS: usize = 40;

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

fn page_request() -> impl Strategy<Value = PageRequest> {
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
    (origin, method, headers, any::<bool>(), any::<bool>()).prop_map(
        |(origin, method, headers, with_credentials, watches_upload)| PageRequest {
            origin: origin.to_owned(),
            method: method.to_owned(),
            headers: headers.into_iter().map(str::to_owned).collect(),
            with_credentials,
            watches_upload,
        },
    )
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
            dangerously: DangerousSwitches { allow_null: true, ..DangerousSwitches::default() },
            ..PolicySpec::default()
        };
        let template = Template::compile(&spec).unwrap_or_else(|problems| panic!("{problems:?}"));
        Policy::extend(Arc::new(template.value), &[]).unwrap().value
    }

    fn lets_in(&self, page_request: &PageRequest) -> bool {
        let is_origin = matcher::is_origin(page_request.origin.as_bytes());
        let covers = |entry: &str| match entry {
            "*" => true,
            "null" => page_request.origin == "null",
            entry => is_origin && matcher::covers(entry, &page_request.origin),
        };
        let is_listed = self.origins.iter().any(|entry| covers(entry));
        is_listed && (self.credentials || !page_request.with_credentials)
    }

    fn allows(&self, page_request: &PageRequest) -> bool {
        let normal = |method: &str| match method {
            "put" => "PUT".to_owned(),
            method => method.to_owned(),
        };
        let is_safe = ["GET", "HEAD", "POST"].contains(&page_request.method.as_str());
        let is_method =
            is_safe || self.methods.iter().any(|method| *method == "*" || normal(method) == page_request.method);
        let is_wild = self.headers.contains(&"*");
        self.lets_in(page_request)
            && is_method
            && page_request.headers.iter().all(|name| self.allows_header(name, is_wild))
    }

    fn allows_header(&self, name: &str, is_wild: bool) -> bool {
        let is_listed = self.headers.iter().any(|header| header.eq_ignore_ascii_case(name));
        is_listed || (is_wild && (self.credentials || !name.eq_ignore_ascii_case("authorization")))
    }
}

/// The status and the CORS fields of a response.
#[derive(Debug)]
struct Answer {
    status: u16,
    fields: Fields,
}

/// Returns the response of the real engine.
fn answer(policy: &Policy, sent: &SentRequest) -> Answer {
    fn field(value: &Option<String>) -> RequestField<'_> {
        value.as_ref().map_or(RequestField::Absent, |value| RequestField::One(value.as_bytes()))
    }
    let lines: Vec<&[u8]> = sent.requested_headers.iter().map(String::as_bytes).collect();
    let request = CorsRequest {
        origin: field(&sent.origin),
        requested_method: field(&sent.requested_method),
        requested_headers: &lines,
        ..CorsRequest::new(sent.method.as_bytes(), OWN)
    };
    let verdict = policy.decide(&request).without_rule();
    let line = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let is_answered = verdict.is_allowed() || policy.is_explainable(&verdict, &request);
    let edits = policy.edits(&verdict, &request).chain(policy.refusal_edits(&verdict, &request));
    let edits = edits.map(|edit| (edit.name.to_string(), line(edit.value.as_bytes())));
    let vary = policy.vary(verdict.kind).map(|token| ("vary".to_owned(), token.to_owned()));
    Answer { status: if is_answered { 204 } else { 403 }, fields: edits.chain(vary).collect() }
}

/// Checks the property: from the engine's responses a browser derives exactly what the policy
/// allows.
fn check(
    engine: impl Fn(&Policy, &SentRequest) -> Answer,
    meaning: &Meaning,
    requests: &[PageRequest],
) -> Result<(), TestCaseError> {
    let policy = meaning.policy();
    let send = |sent: &SentRequest| engine(&policy, sent);
    requests.iter().try_for_each(|page_request| check_request(meaning, send, page_request))?;
    requests.windows(2).try_for_each(|pair| {
        check_reuse(meaning, send, &pair[0], &pair[1])?;
        check_preflight_cache(meaning, send, &pair[0], &pair[1])
    })
}

fn check_request(
    meaning: &Meaning,
    send: impl Fn(&SentRequest) -> Answer,
    page_request: &PageRequest,
) -> Result<(), TestCaseError> {
    let Answer { status, fields } = send(&page_request.preflight());
    check_shape(status, &fields)?;
    prop_assert_eq!(
        browser::proceeds(page_request, status, &fields),
        meaning.allows(page_request),
        "{:?} {:?}",
        page_request,
        fields
    );
    let proceeds_in_chromium = browser::proceeds_in(browser::Star::Chromium, page_request, status, &fields);
    prop_assert!(meaning.allows(page_request) || !proceeds_in_chromium, "{:?} {:?}", page_request, fields);
    let Answer { status, fields } = send(&page_request.actual());
    check_shape(status, &fields)?;
    prop_assert_eq!(
        browser::passes_check(page_request, &fields),
        meaning.lets_in(page_request),
        "{:?} {:?}",
        page_request,
        fields
    );
    for name in ["x-a", "x-b", "x-c"] {
        let is_exposed = meaning.exposed.iter().any(|one| *one == "*" || one.eq_ignore_ascii_case(name));
        prop_assert_eq!(
            browser::can_read(page_request, name, &fields),
            meaning.lets_in(page_request) && is_exposed,
            "{:?}",
            fields
        );
    }
    Ok(())
}

/// Checks that a response which a cache may reuse for another page has the same effect as that
/// page's own response. The first request may also be one without an origin.
fn check_reuse(
    meaning: &Meaning,
    send: impl Fn(&SentRequest) -> Answer,
    first: &PageRequest,
    other: &PageRequest,
) -> Result<(), TestCaseError> {
    let get = |page_request: &PageRequest| SentRequest { method: "GET".to_owned(), ..page_request.actual() };
    for kept in [get(first), SentRequest::plain("GET")] {
        let Answer { fields, .. } = send(&kept);
        if browser::may_be_reused(&fields, &kept, &get(other)) {
            let reads = browser::passes_check(other, &fields);
            prop_assert_eq!(reads, meaning.lets_in(other), "{:?} {:?} {:?}", kept, other, fields);
        }
    }
    let Answer { status, fields } = send(&first.preflight());
    if browser::may_be_reused(&fields, &first.preflight(), &other.preflight()) {
        let proceeds = browser::proceeds(other, status, &fields);
        prop_assert_eq!(proceeds, meaning.allows(other), "{:?} {:?} {:?}", first, other, fields);
    }
    Ok(())
}

/// Checks that the browser's preflight cache, <https://fetch.spec.whatwg.org/#concept-cache>,
/// allows a page no more than the policy.
fn check_preflight_cache(
    meaning: &Meaning,
    send: impl Fn(&SentRequest) -> Answer,
    first: &PageRequest,
    other: &PageRequest,
) -> Result<(), TestCaseError> {
    let Answer { status, fields } = send(&first.preflight());
    let later = PageRequest {
        origin: first.origin.clone(),
        with_credentials: first.with_credentials,
        watches_upload: false,
        ..other.clone()
    };
    if browser::proceeds(first, status, &fields) {
        let proceeds = browser::proceeds(&later, status, &fields);
        prop_assert!(!proceeds || meaning.allows(&later), "{:?} {:?} {:?}", first, later, fields);
    }
    Ok(())
}

/// Checks the rules for every response:
/// <https://fetch.spec.whatwg.org/#cors-protocol-and-credentials>.
fn check_shape(status: u16, fields: &Fields) -> Result<(), TestCaseError> {
    let values =
        |name: &str| fields.iter().filter(|(one, _)| one == name).map(|(_, value)| value.clone()).collect::<Vec<_>>();
    let origins = values("access-control-allow-origin");
    let credentials = values("access-control-allow-credentials");
    prop_assert_eq!(origins.len(), usize::from(status == 204), "{:?}", fields);
    let is_cors = |(name, _): &(String, String)| name != "vary";
    prop_assert!(status == 204 || !fields.iter().any(is_cors), "{:?}", fields);
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
    fn browser_conclusions_match_the_policy((meaning, requests) in (meaning(), vec(page_request(), REQUESTS))) {
        check(answer, &meaning, &requests)?;
    }
}

#[test]
fn every_broken_engine_fails_the_browser_check() {
    for (mistake, engine) in broken::BROKEN {
        let mut runner = TestRunner::new(ProptestConfig { max_shrink_iters: 0, ..config() });
        let found = runner
            .run(&(meaning(), vec(page_request(), REQUESTS)), |(meaning, requests)| check(engine, &meaning, &requests));
        assert!(matches!(found, Err(TestError::Fail(..))), "an engine that {mistake} passes");
    }
}
