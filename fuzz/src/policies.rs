//! Policies for the targets, and the reasons that the oracle expects.

use std::sync::Arc;

use crossgate_policy::{CorsRequest, OwnOrigin, Policy, PolicySpec, Reason, RequestField, Template, Verdict};

use crate::matcher;

/// An own origin that no bytes equal, because a fuzzer would find the bytes of a valid host.
pub(crate) const OWN: OwnOrigin<'_> = OwnOrigin { host: "(none)", port: None, scheme: None };

pub(crate) fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The policy, if `spec` is valid.
pub(crate) fn compile(spec: &PolicySpec) -> Option<Policy> {
    let template = Template::compile(spec).ok()?;
    Policy::extend(Arc::new(template.value), &[]).ok().map(|policy| policy.value)
}

/// A simple request of a page.
pub(crate) fn request(origin: &[u8]) -> CorsRequest<'_> {
    CorsRequest { origin: RequestField::One(origin), ..CorsRequest::new(b"GET", OWN) }
}

pub(crate) fn decide(policy: &Policy, origin: &[u8]) -> Verdict {
    policy.decide(&request(origin)).without_rule()
}

/// The reason by the oracle for this origin and these entries, without credentials.
pub(crate) fn expected(entries: &[&str], origin: &[u8]) -> Reason {
    let is_listed = |text: &str| entries.contains(&text);
    if is_listed("*") {
        return Reason::Any;
    }
    if origin == b"null" {
        return if is_listed("null") { Reason::Exact } else { Reason::NullOrigin };
    }
    match std::str::from_utf8(origin) {
        Ok(text) if matcher::is_origin(origin) => match text {
            _ if is_listed(text) => Reason::Exact,
            _ if entries.iter().any(|entry| *entry != "null" && matcher::covers(entry, text)) => Reason::Wildcard,
            _ => Reason::NoMatch,
        },
        Ok(_) | Err(_) => Reason::MalformedOrigin,
    }
}

/// Asserts that the verdict is the oracle's, and that the answer discloses only that verdict.
pub(crate) fn check(policy: &Policy, entries: &[&str], origin: &[u8]) {
    let (request, verdict) = (request(origin), decide(policy, origin));
    assert_eq!(verdict.reason, expected(entries, origin), "{} for {entries:?}", origin.escape_ascii());
    let edits: Vec<_> = policy.edits(&verdict, &request).collect();
    if !verdict.is_allowed() {
        assert!(edits.is_empty(), "{edits:?}");
        // Explanations must work for all bytes too.
        let explanation = policy.explain(verdict, &request);
        explanation.near_misses.iter().for_each(|miss| assert!(entries.contains(&miss.entry.as_str()), "{miss}"));
        return;
    }
    let allowed = edits.iter().filter(|edit| edit.name == "access-control-allow-origin");
    let allowed: Vec<&[u8]> = allowed.map(|edit| edit.value.as_bytes()).collect();
    assert_eq!(allowed, [if verdict.reason == Reason::Any { b"*" } else { origin }]);
    let entry = verdict.entry.map(|entry| policy.entry_text(entry)).unwrap_or_default();
    let text = std::str::from_utf8(origin).unwrap_or_default();
    assert!(verdict.reason == Reason::Any || matcher::covers(entry, text), "{entry} for {text}");
}
