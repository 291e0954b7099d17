//! The corpus run on the engine: every case is classified, decided, and answered as a gateway would answer it, and the whole
//! set of CORS fields is compared. The oracles are asked the same: whether the origin is covered, and what a browser
//! concludes from the fields that a case tells. Each is asked as one whose scheme nobody knows, and as one that came over TLS. The same files
//! run over a socket elsewhere.

#![expect(clippy::panic, clippy::indexing_slicing, clippy::string_slice, reason = "a test fails by panicking")]

#[path = "oracle/browser.rs"]
#[allow(dead_code, reason = "the corpus asks for less than the generated policies do")]
mod browser;
#[path = "oracle/matcher.rs"]
mod matcher;
#[path = "corpus/model.rs"]
mod model;

use std::collections::BTreeMap;
use std::sync::Arc;

use crossgate_policy::{
    Compiled, Credentials, Field, Kind, OwnOrigin, Place, Policy, Problem, Request, Scheme, Template, Upgrade, Verdict,
    is_cors_response_field, missing_vary,
};
use model::{Case, Expect, Headers, Lines, PatternCase, Policies, PolicyText, UnmatchedRequests};

const FILES: [&str; 9] = [
    "a_classify",
    "b_origin",
    "c_method",
    "d_headers",
    "e_shape",
    "f_vary",
    "g_actual",
    "h_private_network",
    "origins",
];

/// What a client sees of an answer, and what the upstream saw.
#[derive(Debug, PartialEq)]
struct Seen {
    kind: &'static str,
    verdict: &'static str,
    reason: &'static str,
    status: u16,
    upstream: usize,
    headers: BTreeMap<String, Vec<String>>,
}

#[test]
fn every_case_is_answered_as_told() {
    let policies: Policies = model::load("policies");
    let mut failures = Vec::new();
    for file in FILES {
        let cases: Vec<Case> = model::load(file);
        assert!(!cases.is_empty(), "{file}");
        failures.extend(cases.iter().flat_map(|case| told(case).map(|told| check(&policies, case, told))).flatten());
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_configured_text_is_judged_as_told() {
    let cases: Vec<PatternCase> = model::load("patterns");
    let failures: Vec<String> = cases.iter().filter_map(check_pattern).collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_oracles_judge_every_case_as_told() {
    let policies: Policies = model::load("policies");
    let cases: Vec<Case> = FILES.iter().flat_map(|file| model::load::<Vec<Case>>(file)).collect();
    let told = |case| told(case).map(|(_, expect)| check_by_oracles(&policies, case, expect));
    let failures: Vec<String> = cases.iter().flat_map(told).flatten().collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// What a case tells of a request of either kind.
fn told(case: &Case) -> [(Option<Scheme>, &Expect); 2] {
    let over_tls = case.expect_over_tls.as_ref().unwrap_or(&case.expect);
    [(None, &case.expect), (Some(Scheme::Https), over_tls)]
}

fn check_by_oracles(policies: &Policies, case: &Case, expect: &Expect) -> Option<String> {
    let (template, own) = of(policies, &case.policy);
    let spec = template.spec();
    let told = expected(expect);
    let headers = case.request.wire_headers();
    // A browser sends one origin, and asks no leave for a WebSocket.
    let origins = headers.all("origin");
    let ([origin], "preflight" | "actual") = (origins.as_slice(), told.kind) else { return None };
    let is_let_in = matches!(told.reason, "exact" | "wildcard" | "regex" | "any" | "method" | "header");
    let entries = spec.allow_origins.iter().chain(spec.origin_sets.iter().flat_map(|set| &set.origins)).chain(own);
    if spec.allow_origin_regexes.is_empty() && covered(entries, origin) != is_let_in {
        return Some(format!("{}: the matcher says {}", case.id, !is_let_in));
    }
    let fields = told.headers.iter().flat_map(|(name, lines)| lines.iter().map(|line| (name.clone(), line.clone())));
    let fields: browser::Fields = fields.collect();
    let is_wrong = |with_credentials: &bool| {
        let wish = wish(case, &headers, origin, *with_credentials);
        let goes = browser::passes_check(&wish, &fields)
            && (told.kind == "actual" || browser::goes_on(&wish, told.status, &fields));
        goes != (told.verdict == "allow" && (spec.allow_credentials || !with_credentials))
    };
    let wrong = [false, true].into_iter().find(is_wrong)?;
    Some(format!("{}: a browser concludes otherwise, with credentials: {wrong}", case.id))
}

fn covered<'a>(mut entries: impl Iterator<Item = &'a String>, origin: &[u8]) -> bool {
    entries.any(|entry| match (entry.as_str(), std::str::from_utf8(origin)) {
        ("*", _) => true,
        ("null", _) => origin == b"null",
        (entry, Ok(text)) => matcher::is_origin(origin) && matcher::covers(entry, text),
        (_, Err(_)) => false,
    })
}

/// What a page must have wished for that request to be sent.
fn wish(case: &Case, headers: &Headers, origin: &[u8], with_credentials: bool) -> browser::Wish {
    let requested = headers.all("access-control-request-method").first().map(|method| model::latin1(method));
    let names = headers.all("access-control-request-headers").join(&b',');
    let names = model::latin1(&names);
    browser::Wish {
        origin: model::latin1(origin),
        method: requested.unwrap_or_else(|| case.request.method.clone()),
        headers: names.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect(),
        with_credentials,
    }
}

fn check(policies: &Policies, case: &Case, (scheme, expect): (Option<Scheme>, &Expect)) -> Option<String> {
    let (policy, unmatched) = compile(policies, &case.policy);
    let request = case.request.wire_headers();
    let seen = answer(&policy, unmatched, case, &request, scheme);
    let told = expected(expect);
    (seen != told).then(|| format!("{} {scheme:?}\n  told {told:?}\n  seen {seen:?}", case.id))
}

/// The template of that name and what a tenant adds to it.
fn of<'a>(policies: &'a Policies, name: &str) -> (&'a PolicyText, &'a [String]) {
    match policies.tenants.get(name) {
        Some(tenant) => (&policies.templates[&tenant.policy], tenant.allow_origins.as_slice()),
        None => (&policies.templates[name], &[][..]),
    }
}

fn compile(policies: &Policies, name: &str) -> (Policy, UnmatchedRequests) {
    let (template, own) = of(policies, name);
    let compiled = Template::compile(&template.spec()).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
    let policy =
        Policy::extend(Arc::new(compiled.value), own).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
    (policy.value, template.unmatched_requests)
}

fn answer(
    policy: &Policy,
    unmatched: UnmatchedRequests,
    case: &Case,
    headers: &Headers,
    scheme: Option<Scheme>,
) -> Seen {
    let (host, port) = headers.host();
    let lines = headers.all("access-control-request-headers");
    let request = Request {
        method: case.request.method.as_bytes(),
        origin: Field::from_lines(headers.all("origin").into_iter()),
        requested_method: Field::from_lines(headers.all("access-control-request-method").into_iter()),
        requested_headers: &lines,
        sec_fetch_site: Field::from_lines(headers.all("sec-fetch-site").into_iter()),
        own: OwnOrigin { host: &host, port, scheme },
        upgrade: if headers.all("upgrade") == [b"websocket"] { Upgrade::WebSocket } else { Upgrade::None },
        credentials: if headers.has("cookie") || headers.has("authorization") {
            Credentials::Present
        } else {
            Credentials::Absent
        },
    };
    let verdict = policy.decide(&request).without_asking();
    let reaches = reaches_upstream(&verdict, unmatched);
    let mut out = if reaches { case.upstream.kept_headers(|name| !is_cors_response_field(name)) } else { Vec::new() };
    for edit in policy.edits(&verdict, &request) {
        out.push((edit.name.to_string(), edit.value.as_bytes().to_vec()));
    }
    let existing: Vec<Vec<u8>> =
        out.iter().filter(|(name, _)| name == "vary").map(|(_, value)| value.clone()).collect();
    let missing = missing_vary(existing.iter().map(Vec::as_slice), policy.vary(verdict.kind));
    out.extend(missing.map(|token| ("vary".to_owned(), token.as_bytes().to_vec())));
    Seen {
        kind: verdict.kind.as_str(),
        verdict: verdict.outcome.as_str(),
        reason: verdict.reason.as_str(),
        status: status(&verdict, reaches, case),
        upstream: reaches.into(),
        headers: cors_fields(out),
    }
}

fn reaches_upstream(verdict: &Verdict, unmatched: UnmatchedRequests) -> bool {
    match (verdict.kind, verdict.is_allowed(), unmatched) {
        (Kind::Preflight, _, _) | (Kind::WebSocket, false, _) => false,
        (_, true, _) | (Kind::Actual, false, UnmatchedRequests::Forward) => true,
        (_, false, _) => false,
    }
}

fn status(verdict: &Verdict, reaches: bool, case: &Case) -> u16 {
    match (reaches, verdict.is_allowed()) {
        (true, _) => case.upstream.status,
        (false, true) => 204,
        (false, false) => 403,
    }
}

/// The fields a case tells all of: each line of CORS, and the tokens of `Vary`.
fn cors_fields(headers: Vec<(String, Vec<u8>)>) -> BTreeMap<String, Vec<String>> {
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        let value = model::latin1(&value);
        let lines = fields.entry(name.clone()).or_default();
        if name == "vary" {
            lines.extend(value.split(',').map(|token| token.trim().to_owned()));
        } else {
            lines.push(value);
        }
    }
    fields.retain(|name, _| name == "vary" || is_cors_response_field(name));
    fields
}

fn expected(told: &Expect) -> Seen {
    let lines = |lines: &Lines| match lines {
        Lines::One(line) => vec![line.clone()],
        Lines::Many(lines) => lines.clone(),
    };
    let headers =
        told.headers.iter().flat_map(|(name, value)| lines(value).into_iter().map(|line| (name.clone(), line)));
    let pick =
        |all: &[&'static str], name: &str| *all.iter().find(|one| **one == name).unwrap_or_else(|| panic!("{name}"));
    Seen {
        kind: pick(&Kind::ALL.map(Kind::as_str), &told.kind),
        verdict: pick(&crossgate_policy::Outcome::ALL.map(|outcome| outcome.as_str()), &told.verdict),
        reason: pick(&crossgate_policy::Reason::ALL.map(|reason| reason.as_str()), &told.reason),
        status: told.status,
        upstream: told.upstream,
        headers: cors_fields(headers.map(|(name, line)| (name, line.into_bytes())).collect()),
    }
}

fn check_pattern(case: &PatternCase) -> Option<String> {
    let extend = |template: Compiled<Template>| {
        let policy = Policy::extend(Arc::new(template.value), &[])?;
        Ok([template.warnings, policy.warnings].concat())
    };
    let (errors, warnings) = match Template::compile(&case.policy.spec()).and_then(extend) {
        Ok(warnings) => (Vec::new(), warnings),
        Err(errors) => (errors, Vec::new()),
    };
    let is_told = agree(&case.refused, &errors) && agree(&case.warned, &warnings);
    (!is_told).then(|| format!("{}\n  refused {errors:?}\n  warned {warnings:?}", case.id))
}

/// Whether exactly the told places have problems, each with the told words in it.
fn agree(told: &BTreeMap<String, String>, problems: &[Problem]) -> bool {
    let is_one_told =
        |problem: &Problem| told.get(&path(problem.place)).is_some_and(|part| problem.message.contains(part.as_str()));
    let shape = |message: &str| message.contains("expected") && !message.ends_with('.');
    told.len() == problems.len() && problems.iter().all(|problem| is_one_told(problem) && shape(&problem.message))
}

fn path(place: Place) -> String {
    match place {
        Place::Policy => "policy".to_owned(),
        Place::AllowOrigins(index) => format!("allowOrigins/{index}"),
        Place::OriginSet { set, index } => format!("originSets/{set}/{index}"),
        Place::AllowOriginRegexes(index) => format!("allowOriginRegexes/{index}"),
        Place::AllowMethods(index) => format!("allowMethods/{index}"),
        Place::AllowHeaders(index) => format!("allowHeaders/{index}"),
        Place::ExposeHeaders(index) => format!("exposeHeaders/{index}"),
        Place::AllowCredentials => "allowCredentials".to_owned(),
        Place::MaxAge => "maxAge".to_owned(),
        Place::Rule => "rule".to_owned(),
        Place::RuleHeaders(index) => format!("rule/headers/{index}"),
    }
}
