//! The corpus of the policy engine, over sockets against the built binary.
//!
//! `policy/tests/corpus.rs` runs the same files on the engine alone. Here every policy is the only
//! tenant of its own gateway, in front of an HTTP/1.1 and an HTTP/2 upstream, so `Host` and the
//! request's own origin are those of the case. Each case is sent in clear text and over TLS, over
//! HTTP/1.1 and, if HTTP/2 can express it, over HTTP/2. The test compares the whole set of
//! `Access-Control-*` and `Vary` fields, the number of requests at the upstream and the form of
//! every denial. The number of cases for each way is listed next to the file.
mod model;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::support::{
    Authority, Connection, Exchange, Gateway, Http2, Http2Exchange, Http2Upstream, ReceivedRequest, RecordingUpstream,
    Response, Then, Tunnel, WireError, assert_edge_error, assert_never_readable, config_with_tls,
};
use model::{Case, Expect, Lines, OneOrMany, Policies, UpstreamAnswer, corpus, read};

/// Request field that names the case for the upstream.
const CASE: &str = "x-corpus-case";
/// Names of the certificate: every host of a case, and the address for clients without SNI.
const HOSTS: [&str; 3] = ["api.example.test", "api.other.test", "127.0.0.1"];

/// The gateway of a policy, and its upstream.
struct Setup {
    answers: Arc<Answers>,
    fronts: [Front; 2],
    _gateway: Gateway,
    _upstream: Upstream,
}

/// One of the gateway's listeners.
struct Front {
    scheme: &'static str,
    http1: SocketAddr,
    /// The HTTP/1.1 connection, if the last case left it open.
    kept: Mutex<Option<Connection>>,
    http2: Http2,
    /// Numbers of checked cases, over HTTP/1.1 and over HTTP/2.
    held: [AtomicUsize; 2],
    _tunnels: Vec<Tunnel>,
}

/// An upstream of either HTTP version.
enum Upstream {
    Http1(RecordingUpstream),
    Http2(Http2Upstream),
}

/// Special answers of the upstream by case id, and the number of its requests by case id and
/// `X-Forwarded-Proto`.
#[derive(Default)]
struct Answers {
    own: BTreeMap<String, UpstreamAnswer>,
    asked: Mutex<BTreeMap<[String; 2], usize>>,
}

impl Answers {
    /// Counts a request and returns the status and fields of its answer.
    fn to(&self, seen: &ReceivedRequest) -> (u16, Lines) {
        let case = [CASE, "x-forwarded-proto"].map(|name| seen.headers.all(name).join(","));
        let special = self.own.get(&case[0]).cloned();
        *self.asked.lock().unwrap().entry(case).or_default() += 1;
        special.map_or((200, Lines::default()), |special| (special.status, special.headers))
    }
}

impl Upstream {
    fn address(&self) -> SocketAddr {
        match self {
            Upstream::Http1(upstream) => upstream.address,
            Upstream::Http2(upstream) => upstream.address,
        }
    }
}

impl Setup {
    fn start(policies: &Policies, policy: &str, protocol: &str, cases: &[Case], authority: &Authority) -> Self {
        let own = cases.iter().filter_map(|case| Some((case.id.clone(), case.upstream.clone()?))).collect();
        let answers = Arc::new(Answers { own, ..Answers::default() });
        let shared = Arc::clone(&answers);
        let upstream = match protocol {
            "Http2" => Upstream::Http2(Http2Upstream::start(move |asked| answer_http2(asked, Arc::clone(&shared)))),
            _ => Upstream::Http1(RecordingUpstream::start(move |exchange| answer(exchange, &shared))),
        };
        // JSON is valid YAML.
        let (template, own) = policies.of(policy);
        let own = serde_json::Value::from(own);
        let text = format!(
            "upstreams:\n  api: {{ servers: [{}], protocol: {protocol} }}\npolicies:\n  it: {template}\n\
             tenants:\n  - {{ id: it, hosts: [\"*\"], upstream: api, policy: it, allowOrigins: {own} }}\n\
             limits: {{ keepAliveRequests: 1000000 }}\n",
            upstream.address()
        );
        let gateway = Gateway::start(&config_with_tls(&text), &authority.issue(&HOSTS).files());
        let [plain, secure] = gateway.data_listeners()[..] else { panic!("two listeners") };
        let fronts = [Front::plain(plain), Front::secure(secure, authority)];
        Self { answers, fronts, _gateway: gateway, _upstream: upstream }
    }

    /// Number of requests of a case at the upstream that came through the listener of a scheme.
    fn reached(&self, id: &str, scheme: &str) -> usize {
        let asked = self.answers.asked.lock().unwrap();
        asked.get(&[id, scheme].map(str::to_owned)).copied().unwrap_or_default()
    }
}

impl Front {
    fn plain(listener: SocketAddr) -> Self {
        Self::new("http", listener, Http2::open(listener), Vec::new())
    }

    /// Connects without SNI.
    fn secure(listener: SocketAddr, authority: &Authority) -> Self {
        let [http1, http2] =
            ["http/1.1", "h2"].map(|protocol| Tunnel::with_protocol(protocol, listener, "127.0.0.1", authority));
        Self::new("https", http1.address, Http2::open(http2.address), vec![http1, http2])
    }

    fn new(scheme: &'static str, http1: SocketAddr, http2: Http2, tunnels: Vec<Tunnel>) -> Self {
        Self { scheme, http1, kept: Mutex::default(), http2, held: Default::default(), _tunnels: tunnels }
    }

    /// Sends a case over HTTP/2, if HTTP/2 can express it.
    fn over_http2(&self, case: &Case) -> Option<Response> {
        let request = case.http2((CASE, &case.id), self.scheme)?;
        let begun = self.http2.begin(request, true).unwrap();
        Some(self.http2.answer(begun.answer).unwrap_or_else(|error| panic!("over HTTP/2: {error}")))
    }

    /// Sends a case over HTTP/1.1, on the kept connection if it is still open.
    fn over_http1(&self, bytes: &[u8]) -> Response {
        let kept = self.kept.lock().unwrap().take();
        let mut connection = kept.unwrap_or_else(|| Connection::open(self.http1));
        let answer = connection.exchange(bytes).unwrap_or_else(|error| panic!("{error:?}"));
        let is_last = answer.headers.all("connection") == ["close"];
        *self.kept.lock().unwrap() = (!is_last).then_some(connection);
        answer
    }

    fn count(&self, is_over_http2: bool) {
        self.held[0].fetch_add(1, SeqCst);
        self.held[1].fetch_add(usize::from(is_over_http2), SeqCst);
    }
}

async fn answer_http2(asked: Http2Exchange, answers: Arc<Answers>) -> Option<()> {
    let (status, fields) = answers.to(&asked.seen);
    asked.answer(status, &borrowed(&fields), b"from the upstream").await
}

fn answer(exchange: &mut Exchange, answers: &Answers) -> Then {
    let (status, fields) = answers.to(&exchange.seen);
    exchange.answer(status, &borrowed(&fields), b"from the upstream")
}

fn borrowed(fields: &Lines) -> Vec<(&str, &str)> {
    fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// The whole expected set of fields, in the form of [`crate::support::Headers::cors`].
fn expected_fields(expect: &Expect) -> BTreeMap<String, Vec<String>> {
    let lines = expect.headers.iter().map(|(name, value)| {
        let values = match value {
            OneOrMany::One(value) => vec![value.clone()],
            OneOrMany::Many(values) => values.clone(),
        };
        values.into_iter().map(|value| (name.clone(), value)).collect::<Lines>()
    });
    crate::support::Headers(lines.flatten().collect()).cors()
}

fn check(setup: &Setup, case: &Case) -> Result<(), String> {
    let scheme = AtomicUsize::new(0);
    let outcome = std::panic::catch_unwind(|| {
        let answers = setup.fronts.each_ref().map(|front| {
            let answer = check_front(setup, front, case);
            scheme.fetch_add(1, SeqCst);
            answer
        });
        if let ([Some(plain), Some(secure)], None) = (&answers, &case.expect_over_tls) {
            assert_eq!(without_varying_parts(secure), without_varying_parts(plain), "the answer over TLS differs");
        }
    });
    outcome.map_err(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        let way = ["in clear text", "over TLS", "over both"][scheme.load(SeqCst)];
        format!("{} {way}: {}", case.name(), message.unwrap_or_else(|| "failed".to_owned()))
    })
}

/// Checks a case on one listener. Returns the answer, unless HTTP itself refuses the request.
fn check_front(setup: &Setup, front: &Front, case: &Case) -> Option<Response> {
    let expect = case.expect_over(front.scheme);
    let plain = case.bytes("/", &[(CASE, &case.id)]);
    if has_line_feed(case) {
        check_ended_line(&Connection::ask(front.http1, &plain));
        front.count(false);
        return None;
    }
    if let Some(status) = refused_by_http(case) {
        check_refused(&Connection::ask(front.http1, &plain), status);
        let over_http2 = front.over_http2(case);
        front.count(over_http2.is_some());
        over_http2.into_iter().for_each(|answer| check_refused(&Ok(answer), status));
        return None;
    }
    // A byte above ASCII makes the proxy answer instead of the lane.
    let through_proxy = case.bytes("/", &[(CASE, &case.id), ("x-filler", "\u{e9}")]);
    let asked = [&plain, &plain, &through_proxy];
    let answers = asked.map(|bytes| front.over_http1(bytes));
    let over_http2 = front.over_http2(case);
    let all = asked.len() + usize::from(over_http2.is_some());
    assert_eq!(setup.reached(&case.id, front.scheme), all * expect.upstream, "requests at the upstream");
    for answer in &answers {
        check_answer(case, expect, answer);
        assert_eq!(
            without_varying_parts(answer),
            without_varying_parts(&answers[0]),
            "the answers of lane and proxy differ"
        );
    }
    front.count(over_http2.is_some());
    if let Some(answer) = over_http2 {
        check_answer(case, expect, &answer);
        let mut over_http1 = answers[0].clone();
        // Fields that exist only in HTTP/1.1.
        over_http1.headers.0.retain(|(name, _)| !matches!(&*name.to_lowercase(), "connection" | "transfer-encoding"));
        assert_eq!(
            without_varying_parts(&answer),
            without_varying_parts(&over_http1),
            "the answer over HTTP/2 differs"
        );
    }
    answers.into_iter().next()
}

/// An answer without the parts that differ each time.
fn without_varying_parts(answer: &Response) -> (u16, Lines, String) {
    let ids = answer.headers.all("x-request-id");
    let id = ids.first().copied().unwrap_or("none");
    let is_steady =
        |(name, _): &&(String, String)| !["date", "x-request-id"].contains(&name.to_ascii_lowercase().as_str());
    let mut lines: Lines = answer.headers.0.iter().filter(is_steady).cloned().collect();
    lines.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
    lines.sort();
    (answer.status, lines, answer.text().replace(id, "ID"))
}

/// Checks for a forwarded WebSocket handshake, which an HTTP/2 upstream does not support.
fn is_websocket(case: &Case) -> bool {
    case.expect.upstream > 0 && case.request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("upgrade"))
}

/// The status with which HTTP itself refuses a case.
fn refused_by_http(case: &Case) -> Option<u16> {
    case.expect.http400.then_some(400).or(case.expect.http431.then_some(431))
}

/// Checks for a value with a line feed. On the wire the field is shorter and other bytes follow it.
fn has_line_feed(case: &Case) -> bool {
    case.request.headers.iter().any(|(_, value)| value.text().contains('\n'))
}

/// Checks that the bytes after a line feed have no effect on the answer.
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

fn check_answer(case: &Case, expect: &Expect, answer: &Response) {
    assert_eq!(answer.status, expect.status, "{answer:?}");
    assert_eq!(answer.headers.cors(), expected_fields(expect), "{answer:?}");
    if answer.status == 403 && expect.upstream == 0 {
        assert_edge_error(answer, 403);
        assert_never_readable(answer);
        assert_nothing_echoed(case, answer);
        assert_reason_named(answer);
    }
    if answer.status == 204 && expect.upstream == 0 {
        assert!(answer.body.is_empty() && !answer.headers.has("content-length"), "{answer:?}");
        // A refusal has `no-store` and the id that the log has. An allowed preflight has neither
        // field.
        let is_refusal = expect.verdict == "deny";
        match is_refusal {
            true => assert_reason_named(answer),
            false => assert_eq!(answer.headers.one("proxy-status"), "crossgate; error=proxy_internal_response"),
        }
        assert_eq!(answer.headers.has("x-request-id"), is_refusal, "{answer:?}");
        let stored = if is_refusal { &["no-store"][..] } else { &[] };
        assert_eq!(answer.headers.all("cache-control"), stored, "{answer:?}");
    }
}

/// Checks that `Proxy-Status` has the reason of the problem and at most one refused token after it.
fn assert_reason_named(answer: &Response) {
    let field = answer.headers.one("proxy-status");
    let details = field.strip_prefix("crossgate; error=http_request_denied; details=\"");
    let details = details.and_then(|rest| rest.strip_suffix('"')).unwrap_or_else(|| panic!("{field}"));
    if !answer.body.is_empty() {
        let problem = answer.json();
        let (reason, token) = details.split_once(' ').map_or((details, None), |(reason, token)| (reason, Some(token)));
        assert_eq!(problem["reason"], reason, "{answer:?}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(token.is_none_or(|token| detail.ends_with(&format!(" {token}"))), "{answer:?}");
    }
}

/// Checks that a denial does not echo the request's origin.
fn assert_nothing_echoed(case: &Case, answer: &Response) {
    for (name, value) in &case.request.headers {
        let value = value.text();
        let decisive = name.eq_ignore_ascii_case("origin") && value.len() > 8;
        assert!(!decisive || !answer.text().contains(value.as_str()), "the origin is echoed: {answer:?}");
    }
}

/// Numbers of cases over HTTP/1.1 and over HTTP/2.
type Counts = [usize; 2];

/// Runs every case of a file and reports all failures together. `counts` are for an HTTP/1.1 and an
/// HTTP/2 upstream, and are equal in clear text and over TLS.
fn run(file: &str, counts: [Counts; 2]) {
    let policies: Policies = read("policies.yaml");
    let cases: Vec<Case> = read(file);
    let authority = Authority::new("the corpus");
    let mut by_policy: BTreeMap<&str, Vec<Case>> = BTreeMap::new();
    for case in &cases {
        by_policy.entry(&case.policy).or_default().push(case.clone());
    }
    let mut failures = Vec::new();
    let held = ["Http1", "Http2"].map(|protocol| {
        let mut held = [Counts::default(); 2];
        for (policy, cases) in &by_policy {
            let setup = Setup::start(&policies, policy, protocol, cases, &authority);
            let takes = |case: &&Case| protocol == "Http1" || !is_websocket(case);
            let failed = cases.iter().filter(takes).filter_map(|case| check(&setup, case).err());
            failures.extend(failed.map(|failure| format!("{protocol} {failure}")));
            for (sum, front) in held.iter_mut().zip(&setup.fronts) {
                *sum = [0, 1].map(|http| sum[http] + front.held[http].load(SeqCst));
            }
        }
        held
    });
    assert!(
        failures.is_empty(),
        "{} of {} cases of {file} fail:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
    assert_eq!(held, counts.map(|counts| [counts; 2]), "cases of {file}: by upstream, by scheme, by HTTP");
}

/// One test per file, so that they run in parallel.
macro_rules! files {
    ($($test:ident => $file:literal $counts:expr),+ $(,)?) => {
        $(#[test]
        fn $test() {
            run($file, $counts);
        })+

        #[test]
        fn every_corpus_file_has_a_test() {
            // `check.rs` tests the configured texts in `patterns.yaml`.
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
    classify => "a_classify.yaml" [[49, 41], [46, 41]],
    origin => "b_origin.yaml" [[52, 52], [52, 52]],
    method => "c_method.yaml" [[41, 41], [41, 41]],
    headers => "d_headers.yaml" [[64, 61], [64, 61]],
    shape => "e_shape.yaml" [[13, 13], [13, 13]],
    vary => "f_vary.yaml" [[89, 89], [89, 89]],
    actual => "g_actual.yaml" [[19, 19], [19, 19]],
    private_network => "h_private_network.yaml" [[2, 2], [2, 2]],
    refused_preflights => "j_refused.yaml" [[63, 63], [63, 63]],
    origins => "origins.yaml" [[270, 259], [270, 259]],
    groups => "n_groups.yaml" [[132, 123], [128, 123]],
    cross_site => "x_cross_site.yaml" [[71, 70], [71, 70]],
}
