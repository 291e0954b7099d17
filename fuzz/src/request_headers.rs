//! `Access-Control-Request-Headers`: the first byte picks a policy, the rest are the field's lines.

use std::sync::LazyLock;

use crossgate_policy::{Disclosure, Field, Policy, PolicySpec, Reason, Request, Value};
use http::HeaderName;

use crate::browser::{self, Fields, Wish};
use crate::policies::{compile, owned, request};

const ORIGIN: &str = "https://a.test";

struct Case {
    policy: Policy,
    /// In lower case; `*` is any name but `authorization`.
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
    Case { policy: compile(&spec).expect("the lists are good"), allowed, credentials }
}

/// Allowed is a list of which every member is an allowed name, within the limits; and a browser concludes the same.
///
/// # Panics
/// If it is otherwise.
pub fn request_headers(bytes: &[u8]) {
    let Some((pick, rest)) = bytes.split_first() else { return };
    let case = CASES.get(usize::from(*pick) % CASES.len()).expect("a remainder is an index");
    let lines: Vec<&[u8]> = rest.split(|byte| *byte == b'\n').collect();
    check(case, &lines);
}

fn check(case: &Case, lines: &Vec<&[u8]>) {
    let preflight = Request {
        method: b"OPTIONS",
        requested_method: Field::One(b"PUT"),
        requested_headers: lines,
        ..request(ORIGIN.as_bytes())
    };
    let verdict = case.policy.decide(&preflight).without_asking();
    let names = names(lines).filter(|names| names.iter().all(|name| case.allows(name)));
    assert_eq!(verdict.reason, if names.is_some() { Reason::Exact } else { Reason::Header });
    let _for_a_person = case.policy.explain(verdict, &preflight);
    let fields: Fields =
        case.policy.edits(&verdict, &preflight).map(|edit| (edit.name.to_string(), text(&edit.value))).collect();
    assert_eq!(fields.is_empty(), names.is_none(), "{fields:?}");
    if let Some(names) = names {
        let wish = Wish {
            origin: ORIGIN.to_owned(),
            method: "PUT".to_owned(),
            headers: names.iter().map(HeaderName::to_string).collect(),
            with_credentials: case.credentials,
        };
        assert!(browser::goes_on(&wish, 204, &fields), "{wish:?} {fields:?}");
    }
}

impl Case {
    fn allows(&self, name: &HeaderName) -> bool {
        let is_wild = self.allowed.contains(&"*") && name != "authorization";
        is_wild || self.allowed.contains(&name.as_str())
    }
}

/// The names in a list, if it is one and not too long in any way.
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

/// What a response can carry: text without control characters.
fn text(value: &Value<'_>) -> String {
    let bytes = value.as_bytes();
    assert!(bytes.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')), "{}", bytes.escape_ascii());
    String::from_utf8_lossy(bytes).into_owned()
}
