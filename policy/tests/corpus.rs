//! Runs the corpus on the engine: every case is classified, decided and answered as the gateway
//! does, and all CORS fields are compared. The oracles check the same cases: whether an entry
//! covers the origin, and whether a browser accepts the expected fields. Each case runs with an
//! unknown scheme and as a request over TLS. The gateway's tests run the same files over a socket.

#![expect(clippy::panic, clippy::indexing_slicing, clippy::string_slice, reason = "a test fails by panicking")]

#[path = "oracle/browser.rs"]
#[allow(dead_code, reason = "the corpus uses a part of the oracle")]
mod browser;
#[path = "oracle/groups.rs"]
mod groups;
#[path = "oracle/matcher.rs"]
mod matcher;
#[path = "corpus/model.rs"]
mod model;
#[path = "oracle/site.rs"]
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crossgate_policy::{
    CompileOutput, CorsRequest, CredentialFields, CrossSiteNavigations, CrossSiteProtection, CrossSiteReads, OwnOrigin,
    OwnOriginSpec, Policy, PolicySpec, Reason, RequestField, RequestKind, RequestedUpgrade, Scheme, SpecLocation,
    SpecProblem, Template, Verdict, is_cors_response_field, missing_vary,
};
use model::{Case, Expect, Headers, Lines, PatternCase, Policies, PolicyText, PreflightFailures, UnmatchedRequests};

const FILES: [&str; 12] = [
    "a_classify",
    "b_origin",
    "c_method",
    "d_headers",
    "e_shape",
    "f_vary",
    "g_actual",
    "h_private_network",
    "j_refused",
    "n_groups",
    "origins",
    "x_cross_site",
];

/// The response that the client receives, and the number of requests that the upstream receives.
#[derive(Debug, PartialEq)]
struct Observed {
    kind: &'static str,
    verdict: &'static str,
    reason: &'static str,
    group: Option<String>,
    status: u16,
    upstream: usize,
    headers: BTreeMap<String, Vec<String>>,
}

#[test]
fn engine_answers_every_case_as_expected() {
    let policies: Policies = model::load("policies");
    let mut failures = Vec::new();
    for file in FILES {
        let cases: Vec<Case> = model::load(file);
        assert!(!cases.is_empty(), "{file}");
        failures.extend(
            cases.iter().flat_map(|case| expectations(case).map(|expected| check(&policies, case, expected))).flatten(),
        );
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn configured_text_is_accepted_or_refused_as_expected() {
    let cases: Vec<PatternCase> = model::load("patterns");
    let failures: Vec<String> = cases.iter().filter_map(check_pattern).collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn oracles_agree_with_every_case() {
    let policies: Policies = model::load("policies");
    let cases: Vec<Case> = FILES.iter().flat_map(|file| model::load::<Vec<Case>>(file)).collect();
    let check = |case| expectations(case).map(|(_, expect)| check_by_oracles(&policies, case, expect));
    let failures: Vec<String> = cases.iter().flat_map(check).flatten().collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn case_ids_and_titles_are_unique() {
    let cases: Vec<Case> = FILES.iter().flat_map(|file| model::load::<Vec<Case>>(file)).collect();
    let patterns: Vec<PatternCase> = model::load("patterns");
    let cases = cases.iter().map(|case| (&case.id, &case.title));
    let patterns = patterns.iter().map(|case| (&case.id, &case.title));
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    for (id, title) in cases.chain(patterns) {
        assert!(ids.insert(id), "two cases with the id {id}");
        assert!(!title.is_empty() && titles.insert(title), "{id}: empty or repeated title {title:?}");
    }
}

/// Returns the expectation without a known scheme and the one over TLS.
fn expectations(case: &Case) -> [(Option<Scheme>, &Expect); 2] {
    let over_tls = case.expect_over_tls.as_ref().unwrap_or(&case.expect);
    [(None, &case.expect), (Some(Scheme::Https), over_tls)]
}

fn check_by_oracles(policies: &Policies, case: &Case, expect: &Expect) -> Option<String> {
    let (template, own) = policy_text(policies, &case.policy);
    let spec = template.spec();
    let expected = observed(expect);
    let headers = case.request.wire_headers();
    if let Some(fault) = check_by_site_table(template, &own, case, &headers, &expected) {
        return Some(fault);
    }
    // That page wants no response, and gets none that it could read.
    if matches!(expected.reason, "cross_site" | "navigation") {
        return None;
    }
    // A browser sends one origin, and makes no CORS check for a WebSocket.
    let origins = headers.all("origin");
    let ([origin], "preflight" | "actual") = (origins.as_slice(), expected.kind) else { return None };
    let is_covered = matches!(expected.reason, "exact" | "wildcard" | "regex" | "any" | "method" | "header");
    let entries = listed(&spec, &own);
    let deciding = groups::deciding(&entries, origin);
    // A regex that matches an origin is refused for other reasons too.
    let is_unclear = deciding.is_some_and(|entry| entry.is_regex);
    if !is_unclear
        && (deciding.is_some(), deciding.and_then(|entry| entry.group.clone())) != (is_covered, expected.group.clone())
    {
        return Some(format!("{}: the matcher returns {deciding:?}", case.name()));
    }
    let group = expected.group.as_ref().and_then(|name| spec.groups.iter().find(|group| group.name == *name));
    let allow_credentials = group.and_then(|group| group.allow_credentials).unwrap_or(spec.allow_credentials);
    let fields =
        expected.headers.iter().flat_map(|(name, lines)| lines.iter().map(|line| (name.clone(), line.clone())));
    let fields: browser::Fields = fields.collect();
    let is_wrong = |(with_credentials, watches_upload): &(bool, bool)| {
        let page_request = page_request(case, &headers, origin, *with_credentials, *watches_upload);
        let proceeds = |star| {
            browser::passes_check(&page_request, &fields)
                && (expected.kind == "actual" || browser::proceeds_in(star, &page_request, expected.status, &fields))
        };
        let is_allowed = expected.verdict == "allow" && (allow_credentials || !with_credentials);
        // Chromium may accept more than the standard, but must not accept a denial.
        proceeds(browser::Star::Standard) != is_allowed || (proceeds(browser::Star::Chromium) && !is_allowed)
    };
    let modes = [(false, false), (false, true), (true, false), (true, true)];
    let (with_credentials, watches_upload) = modes.into_iter().find(is_wrong)?;
    Some(format!(
        "{}: a browser disagrees, with credentials: {with_credentials}, watching: {watches_upload}",
        case.name()
    ))
}

/// Compares a case under protection with the table of cross-site protection.
fn check_by_site_table(
    template: &PolicyText,
    own: &[OwnOriginSpec],
    case: &Case,
    headers: &Headers,
    expected: &Observed,
) -> Option<String> {
    let spec = template.spec();
    if spec.cross_site.protection != CrossSiteProtection::Protect {
        return None;
    }
    let entries = listed(&spec, own);
    let listed = |origin: &[u8]| entries.iter().any(|entry| entry.text != "*" && groups::covers(entry, origin));
    let origins = headers.all("origin");
    let own_origin = b"https://api.example.test";
    let origin = match origins.as_slice() {
        [] => site::SiteOrigin::Absent,
        [origin] if listed(origin) => site::SiteOrigin::Listed,
        [origin] if origin == own_origin => site::SiteOrigin::Own,
        _ => site::SiteOrigin::Other,
    };
    let request = site::SiteRequest {
        method: &case.request.method,
        site: headers.all("sec-fetch-site"),
        mode: headers.all("sec-fetch-mode"),
        dest: headers.all("sec-fetch-dest"),
        has_cookie: headers.has("cookie"),
        authorization: headers.all("authorization"),
        origin,
        is_preflight_or_websocket: matches!(expected.kind, "preflight" | "websocket"),
    };
    let policy = site::SitePolicy {
        has_star: entries.iter().any(|entry| entry.text == "*"),
        reads: match spec.cross_site.reads {
            CrossSiteReads::Allow => "Allow",
            CrossSiteReads::NavigationsOnly => "NavigationsOnly",
            CrossSiteReads::Deny => "Deny",
        },
        allows_navigations: template.navigations() == CrossSiteNavigations::Allow,
    };
    let outcome = match expected.reason {
        "cross_site" => site::SiteOutcome::Refused,
        "navigation" => site::SiteOutcome::Navigation,
        _ => site::SiteOutcome::Passes,
    };
    let by_table = site::outcome(&request, &policy);
    (by_table != outcome).then(|| format!("{}: the table says {by_table:?}", case.name()))
}

/// Lists all entries of a policy and of a tenant.
fn listed(spec: &PolicySpec, own: &[OwnOriginSpec]) -> Vec<groups::ListedEntry> {
    let entry = |text: &String, group: Option<&String>, is_regex| groups::ListedEntry {
        text: text.clone(),
        group: group.cloned(),
        is_own: false,
        is_regex,
    };
    let base = (None, &spec.allow_origins, &spec.origin_sets, &spec.allow_origin_regexes);
    let in_groups = spec.groups.iter();
    let in_groups = in_groups
        .map(|group| (Some(&group.name), &group.allow_origins, &group.origin_sets, &group.allow_origin_regexes));
    let mut entries = Vec::new();
    for (group, origins, sets, regexes) in std::iter::once(base).chain(in_groups) {
        let origins = origins.iter().chain(sets.iter().flat_map(|set| &set.origins));
        entries.extend(origins.map(|text| entry(text, group, false)));
        entries.extend(regexes.iter().map(|text| entry(text, group, true)));
    }
    let own =
        own.iter().map(|own| groups::ListedEntry { is_own: true, ..entry(&own.origin, own.group.as_ref(), false) });
    entries.extend(own);
    entries
}

/// Returns the page's request that leads to the request of the case.
fn page_request(
    case: &Case,
    headers: &Headers,
    origin: &[u8],
    with_credentials: bool,
    watches_upload: bool,
) -> browser::PageRequest {
    let requested = headers.all("access-control-request-method").first().map(|method| model::latin1(method));
    let names = headers.all("access-control-request-headers").join(&b',');
    let names = model::latin1(&names);
    browser::PageRequest {
        origin: model::latin1(origin),
        method: requested.unwrap_or_else(|| case.request.method.clone()),
        headers: names.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect(),
        with_credentials,
        watches_upload,
    }
}

fn check(policies: &Policies, case: &Case, (scheme, expect): (Option<Scheme>, &Expect)) -> Option<String> {
    let (policy, template) = compile(policies, &case.policy);
    let request = case.request.wire_headers();
    let actual = answer(&policy, template, case, &request, scheme);
    let expected = observed(expect);
    (actual != expected).then(|| format!("{} {scheme:?}\n  expected {expected:?}\n  actual   {actual:?}", case.name()))
}

/// Returns the template and the tenant's own origins.
fn policy_text<'a>(policies: &'a Policies, name: &str) -> (&'a PolicyText, Vec<OwnOriginSpec>) {
    match policies.tenants.get(name) {
        Some(tenant) => (&policies.templates[&tenant.policy], tenant.own_origins()),
        None => (&policies.templates[name], Vec::new()),
    }
}

fn compile<'a>(policies: &'a Policies, name: &str) -> (Policy, &'a PolicyText) {
    let (template, own) = policy_text(policies, name);
    let compiled = Template::compile(&template.spec()).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
    let policy =
        Policy::extend_groups(Arc::new(compiled.value), &own).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
    (policy.value, template)
}

fn answer(policy: &Policy, template: &PolicyText, case: &Case, headers: &Headers, scheme: Option<Scheme>) -> Observed {
    let (host, port) = headers.host();
    let lines = headers.all("access-control-request-headers");
    let request = CorsRequest {
        method: case.request.method.as_bytes(),
        origin: RequestField::from_lines(headers.all("origin").into_iter()),
        requested_method: RequestField::from_lines(headers.all("access-control-request-method").into_iter()),
        requested_headers: &lines,
        sec_fetch_site: RequestField::from_lines(headers.all("sec-fetch-site").into_iter()),
        sec_fetch_mode: RequestField::from_lines(headers.all("sec-fetch-mode").into_iter()),
        sec_fetch_dest: RequestField::from_lines(headers.all("sec-fetch-dest").into_iter()),
        own: OwnOrigin { host: &host, port, scheme },
        upgrade: if headers.all("upgrade") == [b"websocket"] {
            RequestedUpgrade::WebSocket
        } else {
            RequestedUpgrade::None
        },
        credentials: credentials(headers),
    };
    let mut verdict = policy.decide(&request).without_rule();
    policy.check_cross_site(&request, &verdict, template.navigations()).apply(&mut verdict);
    let reaches = reaches_upstream(&verdict, template.unmatched_requests);
    let explains =
        template.preflight_failures == PreflightFailures::Explain && policy.is_explainable(&verdict, &request);
    let mut out = if reaches { case.upstream.kept_headers(|name| !is_cors_response_field(name)) } else { Vec::new() };
    let refusal = policy.refusal_edits(&verdict, &request).filter(|_| explains);
    for edit in policy.edits(&verdict, &request).chain(refusal) {
        out.push((edit.name.to_string(), edit.value.as_bytes().to_vec()));
    }
    let existing: Vec<Vec<u8>> =
        out.iter().filter(|(name, _)| name == "vary").map(|(_, value)| value.clone()).collect();
    let missing = missing_vary(existing.iter().map(Vec::as_slice), policy.vary(verdict.kind));
    out.extend(missing.map(|token| ("vary".to_owned(), token.as_bytes().to_vec())));
    Observed {
        kind: verdict.kind.as_str(),
        verdict: verdict.outcome.as_str(),
        reason: verdict.reason.as_str(),
        group: policy.group_name(verdict.group).map(str::to_owned),
        status: if explains { 204 } else { status(&verdict, reaches, case) },
        upstream: reaches.into(),
        headers: cors_fields(out),
    }
}

fn credentials(headers: &Headers) -> CredentialFields {
    let stored = headers.has("cookie").then_some(CredentialFields::Ambient);
    let named = headers.all("authorization").into_iter().map(CredentialFields::of_authorization);
    stored.into_iter().chain(named).max().unwrap_or(CredentialFields::Absent)
}

fn reaches_upstream(verdict: &Verdict, unmatched: UnmatchedRequests) -> bool {
    match (verdict.kind, verdict.is_allowed(), unmatched) {
        (RequestKind::Preflight, _, _) | (RequestKind::WebSocket, false, _) => false,
        (_, false, _) if verdict.reason == Reason::CrossSite => false,
        (_, true, _) | (RequestKind::Actual, false, UnmatchedRequests::Forward) => true,
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

/// Returns the fields that a case lists in full: the lines of CORS fields, and the tokens of
/// `Vary`.
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

fn observed(expect: &Expect) -> Observed {
    let lines = |lines: &Lines| match lines {
        Lines::One(line) => vec![line.clone()],
        Lines::Many(lines) => lines.clone(),
    };
    let headers =
        expect.headers.iter().flat_map(|(name, value)| lines(value).into_iter().map(|line| (name.clone(), line)));
    let pick =
        |all: &[&'static str], name: &str| *all.iter().find(|one| **one == name).unwrap_or_else(|| panic!("{name}"));
    Observed {
        kind: pick(&RequestKind::ALL.map(RequestKind::as_str), &expect.kind),
        verdict: pick(&crossgate_policy::Outcome::ALL.map(|outcome| outcome.as_str()), &expect.verdict),
        reason: pick(&crossgate_policy::Reason::ALL.map(|reason| reason.as_str()), &expect.reason),
        group: expect.group.clone(),
        status: expect.status,
        upstream: expect.upstream,
        headers: cors_fields(headers.map(|(name, line)| (name, line.into_bytes())).collect()),
    }
}

fn check_pattern(case: &PatternCase) -> Option<String> {
    let extend = |template: CompileOutput<Template>| {
        let policy = Policy::extend_groups(Arc::new(template.value), &model::own_origins(&case.own))?;
        Ok([template.warnings, policy.warnings].concat())
    };
    let (errors, warnings) = match Template::compile(&case.policy.spec()).and_then(extend) {
        Ok(warnings) => (Vec::new(), warnings),
        Err(errors) => (errors, Vec::new()),
    };
    let is_expected = agree(&case.refused, &errors) && agree(&case.warned, &warnings);
    (!is_expected).then(|| format!("{}\n  refused {errors:?}\n  warned {warnings:?}", case.name()))
}

/// Whether exactly the expected locations have problems, each with the expected part of its
/// message.
fn agree(expected: &BTreeMap<String, String>, problems: &[SpecProblem]) -> bool {
    let is_expected = |problem: &SpecProblem| {
        let group = problem.group.map(|group| format!("groups/{group}/")).unwrap_or_default();
        let place = format!("{group}{}", path(problem.location));
        expected.get(&place).is_some_and(|part| problem.message.contains(part.as_str()))
    };
    let shape = |message: &str| message.contains("expected") && !message.ends_with('.');
    expected.len() == problems.len() && problems.iter().all(|problem| is_expected(problem) && shape(&problem.message))
}

fn path(place: SpecLocation) -> String {
    match place {
        SpecLocation::Policy => "policy".to_owned(),
        SpecLocation::AllowOrigins(index) => format!("allowOrigins/{index}"),
        SpecLocation::OwnGroup(index) => format!("own/{index}/group"),
        SpecLocation::OriginSets(set) => format!("originSets/{set}"),
        SpecLocation::OriginSet { set, index } => format!("originSets/{set}/{index}"),
        SpecLocation::AllowOriginRegexes(index) => format!("allowOriginRegexes/{index}"),
        SpecLocation::AllowMethods(index) => format!("allowMethods/{index}"),
        SpecLocation::AllowHeaders(index) => format!("allowHeaders/{index}"),
        SpecLocation::ExposeHeaders(index) => format!("exposeHeaders/{index}"),
        SpecLocation::AllowCredentials => "allowCredentials".to_owned(),
        SpecLocation::MaxAge => "maxAge".to_owned(),
        SpecLocation::Rule => "rule".to_owned(),
        SpecLocation::RuleHeaders(index) => format!("rule/headers/{index}"),
        SpecLocation::RuleGroups(index) => format!("rule/groups/{index}"),
        SpecLocation::Group => "name".to_owned(),
    }
}
