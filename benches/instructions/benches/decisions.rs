//! Instructions of one decision, by kind. `make instructions` counts them and compares them with
//! their budgets.
//!
//! Callgrind counts only the bench functions, without compiling policies and creating requests.

#![expect(clippy::allow_attributes_without_reason, reason = "gungraun's macros write such items")]

use std::hint::black_box;

use crossgate_instructions::{EXACT, UNDER_WILD, WILD, Workload, actual, entries, preflight, spec};
use crossgate_policy::{
    CorsRequest, CrossSiteNavigations, CrossSiteProtection, CrossSiteTerms, Disclosure, GROUPS_MAX, GroupSpec,
    PolicySpec, Reason, RequestField, RequestedUpgrade,
};
use gungraun::{Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};

/// The requested headers of a preflight that [`spec`] allows.
const HEADERS: &[u8] = b"authorization,content-type,x-request-id";

fn allowing(entries: impl IntoIterator<Item = String>) -> PolicySpec {
    PolicySpec { allow_origins: entries.into_iter().collect(), ..spec() }
}

fn thousand() -> PolicySpec {
    allowing(entries(EXACT, 1_000))
}

fn exact(count: u64) -> &'static Workload {
    Workload::new(&allowing(entries(EXACT, count)), actual(), EXACT, count, Reason::Exact)
}

fn wildcard(count: u64) -> &'static Workload {
    Workload::new(&allowing(entries(WILD, count)), actual(), UNDER_WILD, count, Reason::Wildcard)
}

fn any() -> &'static Workload {
    Workload::new(&allowing(["*".to_owned()]), actual(), EXACT, 1_000, Reason::Any)
}

/// An origin in neither table, of exact entries and of wildcards.
fn no_match() -> &'static Workload {
    let spec = allowing(entries(EXACT, 1_000).chain(entries(WILD, 1_000)));
    Workload::new(&spec, actual(), "https://www.zonex-#.example.net", 1_000, Reason::NoMatch)
}

/// The longest host, and an expression that takes exponential time in a backtracking engine
/// (ReDoS).
fn regex() -> &'static Workload {
    let spec = PolicySpec { allow_origin_regexes: vec![r"https://((a+)+\.)+(a+)+".to_owned()], ..spec() };
    let [label, half, last] = [63, 31, 61].map(|len| "a".repeat(len));
    let origin = format!("https://{label}.{half}b{half}.{label}.{last}").into_bytes().leak();
    Workload::same(&spec, CorsRequest { origin: RequestField::One(origin), ..actual() }, Reason::NoMatch)
}

fn null() -> &'static Workload {
    let null = CorsRequest { origin: RequestField::One(b"null"), ..actual() };
    Workload::same(&thousand(), null, Reason::NullOrigin)
}

fn malformed(shape: &str) -> &'static Workload {
    Workload::new(&thousand(), actual(), shape, 1_000, Reason::MalformedOrigin)
}

fn same_origin() -> &'static Workload {
    let origin = RequestField::One(b"https://api.example.test");
    Workload::same(&thousand(), CorsRequest { origin, ..actual() }, Reason::SameOrigin)
}

fn no_origin() -> &'static Workload {
    Workload::same(&thousand(), actual(), Reason::NonCors)
}

fn websocket() -> &'static Workload {
    let handshake = CorsRequest { upgrade: RequestedUpgrade::WebSocket, ..actual() };
    Workload::new(&thousand(), handshake, EXACT, 1_000, Reason::Exact)
}

fn asking(method: &'static [u8], headers: &[u8], reason: Reason) -> &'static Workload {
    Workload::new(&thousand(), preflight(method, headers), EXACT, 1_000, reason)
}

fn disclosing(disclosure: Disclosure) -> &'static Workload {
    let spec = PolicySpec { disclosure, ..thousand() };
    Workload::new(&spec, preflight(b"PUT", HEADERS), EXACT, 1_000, Reason::Exact)
}

#[library_benchmark]
#[bench::allowed_exact_1(exact(1))]
#[bench::allowed_exact_1000(exact(1_000))]
#[bench::allowed_exact_100000(exact(100_000))]
#[bench::allowed_wildcard_1(wildcard(1))]
#[bench::allowed_wildcard_1000(wildcard(1_000))]
#[bench::allowed_wildcard_100000(wildcard(100_000))]
#[bench::allowed_any(any())]
#[bench::denied_no_match(no_match())]
#[bench::denied_regex_longest(regex())]
#[bench::denied_null(null())]
#[bench::denied_malformed_short(malformed("https://app-#.example.com/"))]
#[bench::denied_malformed_longest(malformed(&format!("https://{}{{#", "a.".repeat(151))))]
#[bench::denied_malformed_64_kib(malformed(&"a.".repeat(32 << 10)))]
#[bench::same_origin(same_origin())]
#[bench::no_origin(no_origin())]
#[bench::websocket(websocket())]
#[bench::preflight_denied_method(asking(b"PATCH", HEADERS, Reason::Method))]
#[bench::preflight_denied_header(asking(b"PUT", b"authorization,content-type,x-secret", Reason::Header))]
#[bench::preflight_denied_header_65_names(asking(b"PUT", &b"x-request-id,".repeat(65), Reason::Header))]
#[bench::preflight_denied_header_64_kib(asking(b"PUT", &b"x-request-id,".repeat(5_042), Reason::Header))]
fn decide(workload: &'static Workload) {
    for (policy, requests) in workload.parts() {
        for request in requests {
            black_box(policy.decide(black_box(request)).without_rule());
        }
    }
}

/// The policy of the plain benches, under protection. `check.py` compares the two.
fn protected(spec: PolicySpec) -> PolicySpec {
    let protection = CrossSiteProtection::Protect;
    PolicySpec { cross_site: CrossSiteTerms { protection, ..spec.cross_site }, ..spec }
}

/// A request of another site that writes.
fn foreign() -> CorsRequest<'static> {
    CorsRequest { method: b"POST", sec_fetch_site: RequestField::One(b"cross-site"), ..actual() }
}

fn protected_exact() -> &'static Workload {
    let spec = protected(allowing(entries(EXACT, 1_000)));
    Workload::new(&spec, foreign(), EXACT, 1_000, Reason::Exact)
}

fn protected_any() -> &'static Workload {
    Workload::new(&protected(allowing(["*".to_owned()])), foreign(), EXACT, 1_000, Reason::Any)
}

fn protected_no_origin() -> &'static Workload {
    let own = CorsRequest { sec_fetch_site: RequestField::One(b"same-origin"), ..foreign() };
    Workload::same(&protected(thousand()), own, Reason::NonCors)
}

/// A request that the check refuses.
fn refused_no_origin() -> &'static Workload {
    Workload::same(&protected(thousand()), foreign(), Reason::NonCors)
}

#[library_benchmark]
#[bench::allowed_exact_1000(protected_exact())]
#[bench::allowed_any(protected_any())]
#[bench::no_origin(protected_no_origin())]
#[bench::refused_no_origin(refused_no_origin())]
fn protect(workload: &'static Workload) {
    for (policy, requests) in workload.parts() {
        for request in requests {
            let request = black_box(request);
            let mut verdict = policy.decide(request).without_rule();
            policy.check_cross_site(request, &verdict, CrossSiteNavigations::Deny).apply(&mut verdict);
            black_box(verdict);
        }
    }
}

/// The entries of the plain benches in the most groups, each with terms of its own. `check.py`
/// compares the two.
fn grouped(shape: &str, count: u64) -> PolicySpec {
    let group = |number: usize| GroupSpec {
        name: format!("group-{number}"),
        allow_origins: entries(shape, count).skip(number).step_by(GROUPS_MAX).collect(),
        allow_methods: Some(vec!["PUT".to_owned(), format!("METHOD{number}")]),
        ..GroupSpec::default()
    };
    PolicySpec { groups: (0..GROUPS_MAX).map(group).collect(), ..spec() }
}

fn grouped_exact(count: u64) -> &'static Workload {
    Workload::new(&grouped(EXACT, count), actual(), EXACT, count, Reason::Exact)
}

fn grouped_wildcard(count: u64) -> &'static Workload {
    Workload::new(&grouped(WILD, count), actual(), UNDER_WILD, count, Reason::Wildcard)
}

fn grouped_no_match() -> &'static Workload {
    Workload::new(&grouped(EXACT, 1_000), actual(), "https://appx-#.example.com", 1_000, Reason::NoMatch)
}

fn ungrouped_no_match() -> &'static Workload {
    Workload::new(&thousand(), actual(), "https://appx-#.example.com", 1_000, Reason::NoMatch)
}

fn grouped_preflight() -> &'static Workload {
    Workload::new(&grouped(EXACT, 1_000), preflight(b"PUT", HEADERS), EXACT, 1_000, Reason::Exact)
}

#[library_benchmark]
#[bench::allowed_exact_1000(grouped_exact(1_000))]
#[bench::allowed_exact_100000(grouped_exact(100_000))]
#[bench::allowed_wildcard_1000(grouped_wildcard(1_000))]
#[bench::denied_no_match(grouped_no_match())]
#[bench::ungrouped_no_match(ungrouped_no_match())]
fn group(workload: &'static Workload) {
    for (policy, requests) in workload.parts() {
        for request in requests {
            black_box(policy.decide(black_box(request)).without_rule());
        }
    }
}

#[library_benchmark]
#[bench::actual(exact(1_000))]
#[bench::actual_in_group(grouped_exact(1_000))]
#[bench::preflight_in_group(grouped_preflight())]
#[bench::preflight_full(disclosing(Disclosure::Full))]
#[bench::preflight_minimal(disclosing(Disclosure::Minimal))]
fn answer(workload: &'static Workload) {
    for (policy, requests) in workload.parts() {
        for request in requests {
            let request = black_box(request);
            let verdict = policy.decide(request).without_rule();
            policy.edits(&verdict, request).for_each(|edit| drop(black_box(edit)));
        }
    }
}

library_benchmark_group!(name = decisions, benchmarks = [decide, protect, group, answer]);

// Bus events are atomic instructions: a lock, or a counter that cores share.
main!(
    config = LibraryBenchmarkConfig::default().tool(Callgrind::with_args(["--cache-sim=no", "--collect-bus=yes"])),
    library_benchmark_groups = decisions
);
