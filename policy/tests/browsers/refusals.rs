//! Generated preflights, malformed ones included, against generated policies: which refusals are
//! explained, that every browser blocks the request in every mode, and that a browser names what
//! was refused and nothing else.

use crossgate_policy::{CorsRequest, Policy, RequestField, Verdict};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::browser::{self, Fields, PageRequest, Star};
use super::{Meaning, OWN, config, meaning};

/// Preflights for each policy.
const PREFLIGHTS: usize = 40;

#[derive(Debug, Clone)]
struct Preflight {
    origin: &'static str,
    methods: Vec<&'static str>,
    lines: Vec<String>,
}

fn preflight() -> impl Strategy<Value = Preflight> {
    let origin = select(&["https://a.test", "https://a.test", "https://x.b.test", "https://evil.test", "null"][..]);
    let method =
        select(&["PUT", "put", "PATCH", "patch", "PURGE", "GET", "POST", "*", "", "P UT", "PUT,PATCH", "\u{e9}"][..]);
    let methods = prop_oneof![9 => vec(method.clone(), 1), 1 => vec(method, 2)];
    let element = select(
        &[
            "authorization",
            "Authorization",
            "x-a",
            "X-B",
            "x-c",
            "content-type",
            " x-a",
            "x-b\t",
            "*",
            "",
            " ",
            "x y",
            "\u{e9}",
            "x;a",
        ][..],
    );
    let line = prop_oneof![
        4 => vec(select(&["authorization", "x-a", "x-b", "x-c", "*", " X-A ", ""][..]), 0..6),
        1 => vec(element, 0..6),
        1 => vec(select(&["x-a", "x-a", "x-c"][..]), 60..70),
        1 => vec(Just(""), 14..20),
    ];
    let lines = vec(line.prop_map(|elements| elements.join(",")), 0..3);
    (origin, methods, lines).prop_map(|(origin, methods, lines)| Preflight { origin, methods, lines })
}

impl Preflight {
    fn judge<R>(&self, policy: &Policy, then: impl FnOnce(Verdict, &CorsRequest<'_>) -> R) -> R {
        let lines: Vec<&[u8]> = self.lines.iter().map(String::as_bytes).collect();
        let request = CorsRequest {
            origin: RequestField::One(self.origin.as_bytes()),
            requested_method: RequestField::from_lines(self.methods.iter().map(|method| method.as_bytes())),
            requested_headers: &lines,
            ..CorsRequest::new(b"OPTIONS", OWN)
        };
        then(policy.decide(&request).without_rule(), &request)
    }

    /// Returns the requested names, if the lines are lists within the limits.
    fn names(&self) -> Option<Vec<String>> {
        let elements: Vec<&str> = self.lines.iter().flat_map(|line| line.split(',')).collect();
        let trimmed = elements.iter().map(|element| element.trim_matches([' ', '\t']).to_owned());
        let (empty, names): (Vec<String>, Vec<String>) = trimmed.partition(String::is_empty);
        let is_good = empty.len() <= 16 && names.len() <= 64 && names.iter().all(|name| is_token(name));
        is_good.then_some(names)
    }

    /// Returns the request that follows the preflight, if the preflight is well-formed.
    fn page_request(&self) -> Option<PageRequest> {
        let [method] = self.methods.as_slice() else { return None };
        let headers = self.names().filter(|_| is_token(method))?;
        let (origin, method) = (self.origin.to_owned(), (*method).to_owned());
        Some(PageRequest { origin, method, headers, with_credentials: false, watches_upload: false })
    }
}

fn is_token(text: &str) -> bool {
    let is_token = |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char);
    !text.is_empty() && text.chars().all(is_token)
}

fn check(meaning: &Meaning, policy: &Policy, preflight: &Preflight) -> Result<(), TestCaseError> {
    let (verdict, is_explained, fields) = preflight.judge(policy, |verdict, request| {
        let line = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let edits = policy.refusal_edits(&verdict, request);
        let fields: Fields = edits.map(|edit| (edit.name.to_string(), line(edit.value.as_bytes()))).collect();
        (verdict, policy.is_explainable(&verdict, request), fields)
    });
    let page_request =
        preflight.page_request().filter(|page_request| meaning.lets_in(page_request) && !meaning.allows(page_request));
    prop_assert_eq!(is_explained, page_request.is_some(), "{:?}", verdict);
    let Some(page_request) = page_request else {
        prop_assert!(fields.is_empty(), "{:?}", fields);
        return Ok(());
    };
    prop_assert!(!verdict.is_allowed());
    check_refused(&page_request, &fields)?;
    check_named(meaning, &page_request, &fields)
}

/// Checks that the request is blocked in every mode of every browser, and that the answer is not
/// kept.
fn check_refused(page_request: &PageRequest, fields: &Fields) -> Result<(), TestCaseError> {
    for star in [Star::Standard, Star::Chromium] {
        for (with_credentials, watches_upload) in [(false, false), (false, true), (true, false), (true, true)] {
            let page_request = PageRequest { with_credentials, watches_upload, ..page_request.clone() };
            prop_assert!(
                !browser::proceeds_in(star, &page_request, 204, fields),
                "{:?} {:?} {:?}",
                star,
                page_request,
                fields
            );
        }
    }
    let max_age = ("access-control-max-age".to_owned(), "0".to_owned());
    prop_assert!(fields.contains(&max_age), "{:?}", fields);
    prop_assert!(!fields.iter().any(|(name, _)| name == "access-control-expose-headers"), "{:?}", fields);
    Ok(())
}

/// Checks that a browser objects neither to the origin nor to an allowed method or header.
fn check_named(meaning: &Meaning, page_request: &PageRequest, fields: &Fields) -> Result<(), TestCaseError> {
    let page_request = PageRequest { with_credentials: meaning.credentials, ..page_request.clone() };
    prop_assert!(browser::passes_check(&page_request, fields), "{:?} {:?}", page_request, fields);
    // A method or header named `*` is never listed, since in a list it is a wildcard.
    let alone = page_request.headers.iter().filter(|name| *name != "*").map(|name| PageRequest {
        method: "GET".to_owned(),
        headers: vec![name.clone()],
        ..page_request.clone()
    });
    let bare = PageRequest { headers: Vec::new(), ..page_request.clone() };
    for part in alone.chain((page_request.method != "*").then_some(bare)) {
        prop_assert_eq!(browser::proceeds(&part, 204, fields), meaning.allows(&part), "{:?} {:?}", part, fields);
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn explained_refusal_is_blocked_by_every_browser((meaning, preflights) in (meaning(), vec(preflight(), PREFLIGHTS))) {
        let policy = meaning.policy();
        for preflight in &preflights {
            check(&meaning, &policy, preflight)?;
        }
    }
}
