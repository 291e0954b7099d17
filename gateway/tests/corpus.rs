//! The policy engine's own corpus, over a socket against the built binary: every case as a client would see it.
//!
//! The same files run on the engine alone in `policy/tests/corpus.rs`. Here every policy is the only tenant of a
//! gateway of its own, so that `Host`, and with it the request's own origin, is what the case says. The whole set of
//! `Access-Control-*` and `Vary` fields is compared, the number of requests that reached the upstream, and the shape
//! of every denial.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use support::{
    Connection, Exchange, Gateway, RecordingUpstream, Response, Then, WireError, assert_edge_error,
    assert_never_readable, config, request,
};

const DEFAULT_HOST: &str = "api.example.test";
/// Tells the upstream which case it answers.
const CASE: &str = "x-corpus-case";

type Lines = Vec<(String, String)>;

#[derive(Debug, Clone, Deserialize)]
struct Case {
    id: String,
    policy: String,
    request: CaseRequest,
    upstream: Option<UpstreamAnswer>,
    expect: Expect,
}

#[derive(Debug, Clone, Deserialize)]
struct CaseRequest {
    method: String,
    #[serde(default)]
    headers: Lines,
}

#[derive(Debug, Clone, Deserialize)]
struct UpstreamAnswer {
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    headers: Lines,
}

#[derive(Debug, Clone, Deserialize)]
struct Expect {
    #[serde(default)]
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, OneOrMany>,
    #[serde(default)]
    upstream: usize,
    #[serde(default)]
    http400: bool,
}

/// A field that is there once, or on several lines.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn ok() -> u16 {
    200
}

fn corpus() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../policy/tests/corpus"))
}

fn read<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let path = corpus().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A policy's gateway and the upstream behind it.
struct Stage {
    gateway: Gateway,
    upstream: RecordingUpstream,
}

impl Stage {
    fn start(policy: &serde_json::Value, cases: &[Case]) -> Self {
        let answers: BTreeMap<String, UpstreamAnswer> =
            cases.iter().filter_map(|case| Some((case.id.clone(), case.upstream.clone()?))).collect();
        let answers = Arc::new(answers);
        let upstream = RecordingUpstream::start(move |exchange| answer(exchange, &answers));
        // JSON is YAML too.
        let text = format!(
            "upstreams:\n  api: {{ servers: [{}] }}\npolicies:\n  it: {policy}\n\
             tenants:\n  - {{ id: it, hosts: [\"*\"], upstream: api, policy: it }}\n",
            upstream.address
        );
        Self { gateway: Gateway::start(&config(&text), &[]), upstream }
    }

    /// How many requests of that case reached the upstream.
    fn reached(&self, id: &str) -> usize {
        self.upstream.seen().iter().filter(|seen| seen.headers.all(CASE) == [id]).count()
    }
}

fn answer(exchange: &mut Exchange, answers: &BTreeMap<String, UpstreamAnswer>) -> Then {
    let id = exchange.seen.headers.all(CASE).join(",");
    match answers.get(&id) {
        None => exchange.answer(200, &[], b"from the upstream"),
        Some(UpstreamAnswer { status, headers }) => {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            exchange.answer(*status, &headers, b"from the upstream")
        }
    }
}

fn bytes(case: &Case) -> Vec<u8> {
    let is_host = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("host");
    let host = case.request.headers.iter().find(is_host).map_or(DEFAULT_HOST, |(_, value)| value);
    let fields = case.request.headers.iter().filter(|line| !is_host(line));
    let mut fields: Vec<(&str, &str)> = fields.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    fields.push((CASE, &case.id));
    request(&case.request.method, "/", host, &fields, b"")
}

/// The whole set that the case wants, in the form of [`support::Headers::cors`].
fn wanted(case: &Case) -> BTreeMap<String, Vec<String>> {
    let lines = case.expect.headers.iter().map(|(name, value)| {
        let values = match value {
            OneOrMany::One(value) => vec![value.clone()],
            OneOrMany::Many(values) => values.clone(),
        };
        values.into_iter().map(|value| (name.clone(), value)).collect::<Lines>()
    });
    support::Headers(lines.flatten().collect()).cors()
}

fn check(stage: &Stage, case: &Case) -> Result<(), String> {
    let answer = Connection::ask(stage.gateway.data, &bytes(case));
    let reached = stage.reached(&case.id);
    let outcome = std::panic::catch_unwind(|| {
        assert_eq!(reached, case.expect.upstream, "requests at the upstream");
        match &answer {
            Ok(answer) if case.expect.http400 => assert_eq!(answer.status, 400, "{answer:?}"),
            Ok(answer) => check_answer(case, answer),
            Err(error) => assert!(case.expect.http400 && *error != WireError::TimedOut, "{error:?}"),
        }
    });
    outcome.map_err(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        format!("{}: {}", case.id, said.unwrap_or_else(|| "failed".to_owned()))
    })
}

fn check_answer(case: &Case, answer: &Response) {
    assert_eq!(answer.status, case.expect.status, "{answer:?}");
    assert_eq!(answer.headers.cors(), wanted(case), "{answer:?}");
    if answer.status == 403 && case.expect.upstream == 0 {
        assert_edge_error(answer, 403);
        assert_never_readable(answer);
        assert_nothing_echoed(case, answer);
    }
    if answer.status == 204 && case.expect.upstream == 0 {
        assert!(answer.body.is_empty() && !answer.headers.has("content-length"), "{answer:?}");
    }
}

/// A denial tells the asker nothing of what it asked with.
fn assert_nothing_echoed(case: &Case, answer: &Response) {
    for (name, value) in &case.request.headers {
        let decisive = name.eq_ignore_ascii_case("origin") && value.len() > 8;
        assert!(!decisive || !answer.text().contains(value.as_str()), "the origin is echoed: {answer:?}");
    }
}

/// Runs every case of a file, and reports all that fail together.
fn run(file: &str) {
    let policies: BTreeMap<String, serde_json::Value> = read("policies.yaml");
    let cases: Vec<Case> = read(file);
    assert!(cases.len() >= 5, "{file} has only {} cases", cases.len());
    let mut by_policy: BTreeMap<&str, Vec<Case>> = BTreeMap::new();
    for case in &cases {
        by_policy.entry(&case.policy).or_default().push(case.clone());
    }
    let mut failures = Vec::new();
    for (policy, cases) in by_policy {
        let stage = Stage::start(&policies[policy], &cases);
        failures.extend(cases.iter().filter_map(|case| check(&stage, case).err()));
    }
    assert!(
        failures.is_empty(),
        "{} of {} cases of {file} fail:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

/// One test a file, so that they run beside each other.
macro_rules! files {
    ($($test:ident => $file:literal),+ $(,)?) => {
        $(#[test]
        fn $test() {
            run($file);
        })+

        #[test]
        fn every_file_of_the_corpus_is_run() {
            let mut known = vec!["policies.yaml", "patterns.yaml", $($file),+];
            known.sort_unstable();
            let files = std::fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut files: Vec<String> = files.collect();
            files.sort_unstable();
            assert_eq!(files, known);
        }
    };
}

files! {
    classify => "a_classify.yaml",
    origin => "b_origin.yaml",
    method => "c_method.yaml",
    headers => "d_headers.yaml",
    shape => "e_shape.yaml",
    vary => "f_vary.yaml",
    actual => "g_actual.yaml",
    origins => "origins.yaml",
}
