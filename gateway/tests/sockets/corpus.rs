//! The policy engine's own corpus, over a socket against the built binary: every case as a client would see it.
//!
//! The same files run on the engine alone in `policy/tests/corpus.rs`. Here every policy is the only tenant of a
//! gateway of its own, before an upstream of HTTP/1.1 and before one of HTTP/2, so that `Host`, and with it the request's own origin, is
//! what the case says. The whole set of
//! `Access-Control-*` and `Vary` fields is compared, the number of requests that reached the upstream, and the shape
//! of every denial.
mod model;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::support::{
    Asked, Connection, Exchange, Gateway, Http2, Http2Upstream, RecordingUpstream, Response, Seen, Then, WireError,
    assert_edge_error, assert_never_readable, config,
};
use model::{Case, Lines, OneOrMany, Policies, UpstreamAnswer, corpus, read};

/// Tells the upstream which case it answers.
const CASE: &str = "x-corpus-case";

/// A policy's gateway and the upstream behind it.
struct Stage {
    gateway: Gateway,
    upstream: Upstream,
    http2: Http2,
}

/// Each in its HTTP.
enum Upstream {
    Http1(RecordingUpstream),
    Http2(Http2Upstream),
}

/// What an upstream says to each case that it says something of its own to.
type Answers = BTreeMap<String, UpstreamAnswer>;

impl Upstream {
    fn address(&self) -> SocketAddr {
        match self {
            Upstream::Http1(upstream) => upstream.address,
            Upstream::Http2(upstream) => upstream.address,
        }
    }

    fn seen(&self) -> Vec<Seen> {
        match self {
            Upstream::Http1(upstream) => upstream.seen(),
            Upstream::Http2(upstream) => upstream.seen(),
        }
    }
}

impl Stage {
    fn start(policies: &Policies, policy: &str, protocol: &str, cases: &[Case]) -> Self {
        let answers: Answers =
            cases.iter().filter_map(|case| Some((case.id.clone(), case.upstream.clone()?))).collect();
        let upstream = match protocol {
            "Http2" => Upstream::Http2(Http2Upstream::start(move |asked| answer_http2(asked, answers.clone()))),
            _ => Upstream::Http1(RecordingUpstream::start(move |exchange| answer(exchange, &answers))),
        };
        // JSON is YAML too.
        let (template, allow_origins) = policies.of(policy);
        let text = format!(
            "upstreams:\n  api: {{ servers: [{}], protocol: {protocol} }}\npolicies:\n  it: {template}\n\
             tenants:\n  - {{ id: it, hosts: [\"*\"], upstream: api, policy: it, allowOrigins: {allow_origins:?} }}\n",
            upstream.address()
        );
        let gateway = Gateway::start(&config(&text), &[]);
        let http2 = Http2::open(gateway.data);
        Self { gateway, upstream, http2 }
    }

    /// The answer over HTTP/2 to a case that can be said in it.
    fn over_http2(&self, case: &Case) -> Option<Response> {
        let request = case.http2((CASE, &case.id))?;
        let begun = self.http2.begin(request, true).unwrap();
        Some(self.http2.answer(begun.answer).unwrap_or_else(|error| panic!("over HTTP/2: {error}")))
    }

    /// How many requests of that case reached the upstream.
    fn reached(&self, id: &str) -> usize {
        self.upstream.seen().iter().filter(|seen| seen.headers.all(CASE) == [id]).count()
    }
}

async fn answer_http2(asked: Asked, answers: Answers) -> Option<()> {
    let id = asked.seen.headers.all(CASE).join(",");
    let told = answers.get(&id).cloned();
    let (status, headers) = told.map_or((200, Lines::default()), |told| (told.status, told.headers));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    asked.answer(status, &headers, b"from the upstream").await
}

fn answer(exchange: &mut Exchange, answers: &Answers) -> Then {
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

/// The whole set that the case wants, in the form of [`crate::support::Headers::cors`].
fn wanted(case: &Case) -> BTreeMap<String, Vec<String>> {
    let lines = case.expect.headers.iter().map(|(name, value)| {
        let values = match value {
            OneOrMany::One(value) => vec![value.clone()],
            OneOrMany::Many(values) => values.clone(),
        };
        values.into_iter().map(|value| (name.clone(), value)).collect::<Lines>()
    });
    crate::support::Headers(lines.flatten().collect()).cors()
}

fn check(stage: &Stage, case: &Case) -> Result<(), String> {
    let outcome = std::panic::catch_unwind(|| {
        let plain = case.bytes("/", &[(CASE, &case.id)]);
        if ends_a_line(case) {
            return check_ended_line(&Connection::ask(stage.gateway.data, &plain));
        }
        if let Some(status) = refused(case) {
            check_refused(&Connection::ask(stage.gateway.data, &plain), status);
            return stage.over_http2(case).into_iter().for_each(|answer| check_refused(&Ok(answer), status));
        }
        // The lane answers no head with such a byte in it, so the proxy does.
        let through_proxy = case.bytes("/", &[(CASE, &case.id), ("x-filler", "\u{e9}")]);
        let asked = [&plain, &plain, &through_proxy];
        let answers = ask_all(stage, &asked);
        let over_http2 = stage.over_http2(case);
        let all = asked.len() + usize::from(over_http2.is_some());
        assert_eq!(stage.reached(&case.id), all * case.expect.upstream, "requests at the upstream");
        for answer in &answers {
            check_answer(case, answer);
            assert_eq!(steady(answer), steady(&answers[0]), "it is not always answered so");
        }
        if let Some(answer) = over_http2 {
            check_answer(case, &answer);
            let mut over_http1 = answers[0].clone();
            // What HTTP/1.1 alone has.
            over_http1
                .headers
                .0
                .retain(|(name, _)| !matches!(&*name.to_lowercase(), "connection" | "transfer-encoding"));
            assert_eq!(steady(&answer), steady(&over_http1), "it is answered otherwise over HTTP/2");
        }
    });
    outcome.map_err(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        format!("{}: {}", case.id, said.unwrap_or_else(|| "failed".to_owned()))
    })
}

/// The answers to requests on one connection, or on as few as the gateway lets them have.
fn ask_all(stage: &Stage, all: &[&Vec<u8>]) -> Vec<Response> {
    let mut connection = Connection::open(stage.gateway.data);
    let mut ask = |bytes: &&Vec<u8>| {
        let answer = connection.exchange(bytes).unwrap_or_else(|error| panic!("{error:?}"));
        if answer.headers.all("connection") == ["close"] {
            connection = Connection::open(stage.gateway.data);
        }
        answer
    };
    all.iter().map(&mut ask).collect()
}

/// An answer without what differs each time.
fn steady(answer: &Response) -> (u16, Lines, String) {
    let ids = answer.headers.all("x-request-id");
    let id = ids.first().copied().unwrap_or("none");
    let is_steady =
        |(name, _): &&(String, String)| !["date", "x-request-id"].contains(&name.to_ascii_lowercase().as_str());
    let mut lines: Lines = answer.headers.0.iter().filter(is_steady).cloned().collect();
    lines.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
    lines.sort();
    (answer.status, lines, answer.text().replace(id, "ID"))
}

/// A handshake that goes through, for which an upstream of HTTP/2 is the wrong one.
fn is_websocket(case: &Case) -> bool {
    case.expect.upstream > 0 && case.request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("upgrade"))
}

/// The status by which HTTP itself refuses a case.
fn refused(case: &Case) -> Option<u16> {
    case.expect.http400.then_some(400).or(case.expect.http431.then_some(431))
}

/// A value that ends its own line says something else on the wire: the field is shorter and other bytes follow it.
fn ends_a_line(case: &Case) -> bool {
    case.request.headers.iter().any(|(_, value)| value.text().contains('\n'))
}

/// Whatever those bytes say there, nothing of them comes back.
fn check_ended_line(answer: &Result<Response, WireError>) {
    if let Ok(answer) = answer {
        assert!([200, 400, 403].contains(&answer.status), "{answer:?}");
        assert!(!answer.headers.has("set-cookie"), "{answer:?}");
    }
}

fn check_refused(answer: &Result<Response, WireError>, status: u16) {
    match answer {
        Ok(answer) => {
            assert_edge_error(answer, status);
            assert_never_readable(answer);
        }
        Err(error) => assert!(matches!(error, WireError::Closed | WireError::Reset), "{error:?}"),
    }
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
        let value = value.text();
        let decisive = name.eq_ignore_ascii_case("origin") && value.len() > 8;
        assert!(!decisive || !answer.text().contains(value.as_str()), "the origin is echoed: {answer:?}");
    }
}

/// Runs every case of a file, and reports all that fail together.
fn run(file: &str) {
    let policies: Policies = read("policies.yaml");
    let cases: Vec<Case> = read(file);
    assert!(!cases.is_empty(), "{file} has no cases");
    let over_http2 = cases.iter().filter(|case| case.http2((CASE, "")).is_some()).count();
    assert!(over_http2 * 2 > cases.len(), "{over_http2} of {} cases of {file} can be said over HTTP/2", cases.len());
    let mut by_policy: BTreeMap<&str, Vec<Case>> = BTreeMap::new();
    for case in &cases {
        by_policy.entry(&case.policy).or_default().push(case.clone());
    }
    let mut failures = Vec::new();
    for (policy, cases) in by_policy {
        for protocol in ["Http1", "Http2"] {
            let stage = Stage::start(&policies, policy, protocol, &cases);
            let takes = |case: &&Case| protocol == "Http1" || !is_websocket(case);
            let failed = cases.iter().filter(takes).filter_map(|case| check(&stage, case).err());
            failures.extend(failed.map(|told| format!("{protocol} {told}")));
        }
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
            // The configured texts are what `check.rs` is about.
            let mut known = vec!["policies.yaml", "patterns.yaml", $($file),+];
            known.sort_unstable();
            let files = std::fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut files: Vec<String> = files.filter(|name| name.ends_with(".yaml")).collect();
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
    private_network => "h_private_network.yaml",
    origins => "origins.yaml",
}
