//! `Access-Control-Request-Headers`: the first byte selects a policy, the rest are the field lines.

use std::sync::LazyLock;

use crossgate_policy::{CorsRequest, Disclosure, EditValue, Policy, PolicySpec, Reason, RequestField};
use http::HeaderName;

use crate::browser::{self, Fields, PageRequest, Star};
use crate::policies::{compile, owned, request};

const ORIGIN: &str = "https://a.test";

struct Case {
    policy: Policy,
    /// In lower case. `*` is any name except `authorization`.
    allowed: &'static [&'static str],
    credentials: bool,
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let lists: [(&[&str], bool); 5] = [
        (&["x-a", "x-b", "content-type", "authorization"], false),
        (&["*"], false),
        (&["*", "authorization"], false),
        (&["*", "authorization"], true),
        (&[], true),
    ];
    let both = lists.into_iter().flat_map(|list| [(list, Disclosure::Full), (list, Disclosure::Minimal)]);
    both.map(|((allowed, credentials), disclosure)| case(allowed, credentials, disclosure)).collect()
});

fn case(allowed: &'static [&'static str], credentials: bool, disclosure: Disclosure) -> Case {
    let spec = PolicySpec {
        allow_origins: owned(&[ORIGIN]),
        allow_headers: owned(allowed),
        allow_methods: owned(&["PUT"]),
        allow_credentials: credentials,
        disclosure,
        ..PolicySpec::default()
    };
    Case { policy: compile(&spec).expect("valid lists"), allowed, credentials }
}

/// A list is allowed exactly if all its members are allowed names and it is within the limits. A
/// browser comes to the same result.
///
/// # Panics
/// If this does not hold.
pub fn request_headers(bytes: &[u8]) {
    let Some((pick, rest)) = bytes.split_first() else { return };
    let case = CASES.get(usize::from(*pick) % CASES.len()).expect("a remainder is an index");
    let lines: Vec<&[u8]> = rest.split(|byte| *byte == b'\n').collect();
    check(case, &lines);
}

fn check(case: &Case, lines: &Vec<&[u8]>) {
    let preflight = CorsRequest {
        method: b"OPTIONS",
        requested_method: RequestField::One(b"PUT"),
        requested_headers: lines,
        ..request(ORIGIN.as_bytes())
    };
    let verdict = case.policy.decide(&preflight).without_rule();
    let names = names(lines).filter(|names| names.iter().all(|name| case.allows(name)));
    assert_eq!(verdict.reason, if names.is_some() { Reason::Exact } else { Reason::Header });
    let _explanation = case.policy.explain(verdict, &preflight);
    let fields: Fields =
        case.policy.edits(&verdict, &preflight).map(|edit| (edit.name.to_string(), text(&edit.value))).collect();
    assert_eq!(fields.is_empty(), names.is_none(), "{fields:?}");
    if let Some(names) = names {
        let page_request = case.page_request(&names);
        assert!(browser::proceeds(&page_request, 204, &fields), "{page_request:?} {fields:?}");
    }
    check_refusal(case, lines, &preflight);
}

/// Asserts that a well-formed refused list gets fields that explain the refusal and that no browser
/// takes as permission.
fn check_refusal(case: &Case, lines: &[&[u8]], preflight: &CorsRequest<'_>) {
    let verdict = case.policy.decide(preflight).without_rule();
    let edits = case.policy.refusal_edits(&verdict, preflight);
    let fields: Fields = edits.map(|edit| (edit.name.to_string(), text(&edit.value))).collect();
    let refused = names(lines).filter(|_| !verdict.is_allowed());
    assert_eq!(fields.is_empty(), refused.is_none(), "{fields:?}");
    for page_request in refused.iter().map(|names| case.page_request(names)) {
        assert!(browser::passes_check(&page_request, &fields), "{page_request:?} {fields:?}");
        for (with_credentials, star) in [false, true]
            .into_iter()
            .flat_map(|credentials| [Star::Standard, Star::Chromium].map(|star| (credentials, star)))
        {
            let page_request = PageRequest { with_credentials, ..page_request.clone() };
            assert!(!browser::proceeds_in(star, &page_request, 204, &fields), "{star:?} {page_request:?} {fields:?}");
        }
    }
}

impl Case {
    /// The request of a page with these headers and an upload listener.
    fn page_request(&self, names: &[HeaderName]) -> PageRequest {
        PageRequest {
            origin: ORIGIN.to_owned(),
            method: "PUT".to_owned(),
            headers: names.iter().map(HeaderName::to_string).collect(),
            with_credentials: self.credentials,
            watches_upload: true,
        }
    }

    fn allows(&self, name: &HeaderName) -> bool {
        let is_wild = self.allowed.contains(&"*") && name != "authorization";
        is_wild || self.allowed.contains(&name.as_str())
    }
}

/// The names in a list. `None`: the list is malformed or over a limit.
fn names(lines: &[&[u8]]) -> Option<Vec<HeaderName>> {
    let elements: Vec<&[u8]> = lines.iter().flat_map(|line| line.split(|byte| *byte == b',')).collect();
    let is_space = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let spaces = |element: &&[u8]| {
        let before = element.iter().take_while(|byte| is_space(byte)).count();
        let after = element.iter().skip(before).rev().take_while(|byte| is_space(byte)).count();
        (before, after)
    };
    let all = elements.iter().map(|element| {
        let (before, after) = spaces(element);
        let name = element.iter().copied().skip(before).take(element.len() - before - after).collect::<Vec<u8>>();
        (before + after <= 8).then_some(name)
    });
    let (empty, named): (Vec<_>, Vec<_>) = all.collect::<Option<Vec<_>>>()?.into_iter().partition(Vec::is_empty);
    let bytes: usize = lines.iter().map(|line| line.len()).sum();
    let is_within = bytes <= 4096 && named.len() <= 64 && empty.len() <= 16;
    is_within.then(|| named.iter().map(|name| HeaderName::from_bytes(name).ok()).collect())?
}

/// The value as text. It must not contain control characters.
fn text(value: &EditValue<'_>) -> String {
    let bytes = value.as_bytes();
    assert!(bytes.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')), "{}", bytes.escape_ascii());
    String::from_utf8_lossy(bytes).into_owned()
}
