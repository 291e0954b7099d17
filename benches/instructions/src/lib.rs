//! The workloads of instruction counts: policies of any size, and requests that are decided one
//! after the other.
//!
//! Tables are hashed with a seed that differs in every run, so a lookup takes a few instructions
//! more or less in each run. A [`Workload`] therefore decides [`DECISIONS`] requests over several
//! tables, and the mean is compared. For the same reason, names consist of pseudo-random letters:
//! with counted names, the collisions in a table depend on the seed. Everything else is the same in
//! every run. The gateway is absent on purpose: counts need optimised code, and an optimised build
//! of Pingora would take longer than all other tests.

use std::sync::Arc;

use crossgate_policy::{CorsRequest, OwnOrigin, Policy, PolicySpec, Reason, RequestField, Template};

/// The number of requests in a workload. `check.py` divides by it.
pub const DECISIONS: u64 = 1024;

/// An exact origin, with `#` as placeholder of a name.
pub const EXACT: &str = "https://app-#.example.com";

/// A wildcard entry.
pub const WILD: &str = "https://*.zone-#.example.net";

/// An origin that the wildcard of the same name covers.
pub const UNDER_WILD: &str = "https://www.zone-#.example.net";

const OWN: OwnOrigin<'_> = OwnOrigin { host: "api.example.test", port: None, scheme: None };

/// The number of compilations of a policy, each with another seed, so that one table with many
/// collisions has little effect.
const SEEDS: usize = 8;

/// A policy with this many entries is compiled once, because collisions average out in its table.
const EVEN_LEN: usize = 10_000;

/// A policy, compiled with several seeds, and requests to decide.
pub struct Workload {
    policies: Vec<Policy>,
    requests: Vec<CorsRequest<'static>>,
}

impl Workload {
    /// Requests that differ from `base` only in their origin, which has `shape` and one of the
    /// first `count` names.
    ///
    /// The workload is leaked, so that no count includes its destruction.
    ///
    /// # Panics
    /// If the policy is invalid, or a verdict has another reason than `reason`, because the count
    /// would be of the wrong case.
    pub fn new(
        spec: &PolicySpec,
        base: CorsRequest<'static>,
        shape: &str,
        count: u64,
        reason: Reason,
    ) -> &'static Self {
        let numbers = (0..DECISIONS).map(|index| index * count / DECISIONS);
        let origins = numbers.map(|number| named(shape, number).into_bytes().leak());
        let requests = origins.map(|origin| CorsRequest { origin: RequestField::One(origin), ..base });
        Self::of(spec, requests.collect(), reason)
    }

    /// The same request for every decision.
    ///
    /// # Panics
    /// If the policy is invalid, or the verdict has another reason than `reason`.
    pub fn same(spec: &PolicySpec, request: CorsRequest<'static>, reason: Reason) -> &'static Self {
        let requests = (0..DECISIONS).map(|_| request);
        Self::of(spec, requests.collect(), reason)
    }

    fn of(spec: &PolicySpec, requests: Vec<CorsRequest<'static>>, reason: Reason) -> &'static Self {
        let grouped = spec.groups.iter().map(|group| group.allow_origins.len());
        let entries = spec.allow_origins.len() + grouped.sum::<usize>();
        let seeds = if entries < EVEN_LEN { SEEDS } else { 1 };
        let policies = (0..seeds).map(|_| compile(spec)).collect();
        let workload = Self { policies, requests };
        for (policy, requests) in workload.parts() {
            for request in requests {
                assert_eq!(policy.decide(request).without_rule().reason, reason);
            }
        }
        Box::leak(Box::new(workload))
    }

    /// Each policy with its requests.
    pub fn parts(&self) -> impl Iterator<Item = (&Policy, &[CorsRequest<'static>])> {
        self.policies.iter().zip(self.requests.chunks(self.requests.len() / self.policies.len()))
    }
}

/// The policy without origins.
pub fn spec() -> PolicySpec {
    PolicySpec {
        allow_methods: ["PUT", "DELETE"].map(str::to_owned).to_vec(),
        allow_headers: ["authorization", "content-type", "x-request-id"].map(str::to_owned).to_vec(),
        expose_headers: vec!["x-request-id".to_owned()],
        ..PolicySpec::default()
    }
}

/// `count` entries of one shape with distinct names.
pub fn entries(shape: &str, count: u64) -> impl Iterator<Item = String> {
    (0..count).map(move |number| named(shape, number))
}

fn named(shape: &str, number: u64) -> String {
    // SplitMix64 (https://prng.di.unimi.it/splitmix64.c) gives distinct results for distinct
    // numbers.
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    shape.replace('#', &letters(mixed ^ (mixed >> 31)))
}

/// The letters for 64 bits.
fn letters(mut bits: u64) -> String {
    let mut next = || {
        let letter = b'a' + (bits % 26) as u8;
        bits /= 26;
        char::from(letter)
    };
    (0..14).map(|_| next()).collect()
}

#[expect(clippy::panic, reason = "a bench that has the wrong input must not go on")]
fn compile(spec: &PolicySpec) -> Policy {
    let template = Template::compile(spec).unwrap_or_else(|problems| panic!("{problems:?}"));
    Policy::extend(Arc::new(template.value), &[]).unwrap_or_else(|problems| panic!("{problems:?}")).value
}

/// A cross-origin `GET` without its origin.
pub fn actual() -> CorsRequest<'static> {
    CorsRequest::new(b"GET", OWN)
}

/// A preflight for one method and one line of header names, without its origin.
pub fn preflight(method: &'static [u8], headers: &[u8]) -> CorsRequest<'static> {
    let line: &'static [u8] = headers.to_vec().leak();
    CorsRequest {
        requested_method: RequestField::One(method),
        requested_headers: Box::leak(Box::new([line])),
        ..CorsRequest::new(b"OPTIONS", OWN)
    }
}
