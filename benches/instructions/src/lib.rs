//! What is counted: policies of any size, and requests that are decided one after the other.
//!
//! Tables are hashed with a seed that differs in every run, so one look-up takes a few instructions more or less than the
//! same one in the next run. A [`Workload`] therefore decides [`DECISIONS`] requests, which spread over several tables, and
//! what is compared is the mean. For the same reason names are letters that look random: with names that count upwards, how
//! crowded a table is depends on the seed. Everything else is the same in every run. The gateway is absent on purpose:
//! counts are of optimised code, and an optimised Pingora would take longer to build than all the rest of the tests.

use std::sync::Arc;

use crossgate_policy::{Field, OwnOrigin, Policy, PolicySpec, Reason, Request, Template};

/// How many requests a workload decides; `check.py` divides by it.
pub const DECISIONS: u64 = 1024;

/// An exact origin, with `#` in the place of a name.
pub const EXACT: &str = "https://app-#.example.com";

/// A wildcard.
pub const WILD: &str = "https://*.zone-#.example.net";

/// An origin that the wildcard of the same name covers.
pub const UNDER_WILD: &str = "https://www.zone-#.example.net";

const OWN: OwnOrigin<'_> = OwnOrigin { host: "api.example.test", port: None, scheme: None };

/// How many times a policy is compiled, each time with another seed: then one crowded table does not show.
const SEEDS: usize = 8;

/// A policy with so many entries is compiled once: its table is large enough to be even.
const EVEN_LEN: usize = 10_000;

/// A policy with several seeds, and requests for it to decide.
pub struct Workload {
    policies: Vec<Policy>,
    requests: Vec<Request<'static>>,
}

impl Workload {
    /// Requests that differ from `base` in their origin alone, which has `shape` and names from the first `count`.
    ///
    /// It lives until the process ends, so that no count has its destruction in it.
    ///
    /// # Panics
    /// If the policy is wrong, or a request's verdict is not for `reason`: the wrong thing would be counted.
    pub fn new(spec: &PolicySpec, base: Request<'static>, shape: &str, count: u64, reason: Reason) -> &'static Self {
        let numbers = (0..DECISIONS).map(|index| index * count / DECISIONS);
        let origins = numbers.map(|number| named(shape, number).into_bytes().leak());
        let requests = origins.map(|origin| Request { origin: Field::One(origin), ..base });
        Self::of(spec, requests.collect(), reason)
    }

    /// The same request again and again.
    ///
    /// # Panics
    /// If the policy is wrong, or the request's verdict is not for `reason`.
    pub fn same(spec: &PolicySpec, request: Request<'static>, reason: Reason) -> &'static Self {
        let requests = (0..DECISIONS).map(|_| request);
        Self::of(spec, requests.collect(), reason)
    }

    fn of(spec: &PolicySpec, requests: Vec<Request<'static>>, reason: Reason) -> &'static Self {
        let seeds = if spec.allow_origins.len() < EVEN_LEN { SEEDS } else { 1 };
        let policies = (0..seeds).map(|_| compile(spec)).collect();
        let workload = Self { policies, requests };
        for (policy, requests) in workload.parts() {
            for request in requests {
                assert_eq!(policy.decide(request).without_asking().reason, reason);
            }
        }
        Box::leak(Box::new(workload))
    }

    /// What each policy is to decide.
    pub fn parts(&self) -> impl Iterator<Item = (&Policy, &[Request<'static>])> {
        self.policies.iter().zip(self.requests.chunks(self.requests.len() / self.policies.len()))
    }
}

/// What the policies have besides origins.
pub fn spec() -> PolicySpec {
    PolicySpec {
        allow_methods: ["PUT", "DELETE"].map(str::to_owned).to_vec(),
        allow_headers: ["authorization", "content-type", "x-request-id"].map(str::to_owned).to_vec(),
        expose_headers: vec!["x-request-id".to_owned()],
        ..PolicySpec::default()
    }
}

/// `count` entries of one shape, each with a name of its own.
pub fn entries(shape: &str, count: u64) -> impl Iterator<Item = String> {
    (0..count).map(move |number| named(shape, number))
}

fn named(shape: &str, number: u64) -> String {
    // SplitMix64: https://prng.di.unimi.it/splitmix64.c, distinct for distinct numbers.
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    shape.replace('#', &letters(mixed ^ (mixed >> 31)))
}

/// As many letters as 64 bits fill.
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

/// A cross-origin `GET`, still without its origin.
pub fn actual() -> Request<'static> {
    Request::new(b"GET", OWN)
}

/// A preflight for one method and one line of header names, still without its origin.
pub fn preflight(method: &'static [u8], headers: &[u8]) -> Request<'static> {
    let line: &'static [u8] = headers.to_vec().leak();
    Request {
        requested_method: Field::One(method),
        requested_headers: Box::leak(Box::new([line])),
        ..Request::new(b"OPTIONS", OWN)
    }
}
