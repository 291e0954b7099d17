//! The policy engine's own corpus, over a socket against the built binary: every case as a client would see it.
//!
//! The same files run on the engine alone in `policy/tests/corpus.rs`. Here every policy is the only tenant of a
//! gateway of its own, before an upstream of HTTP/1.1 and before one of HTTP/2, so that `Host`, and with it the request's own origin, is
//! what the case says. Each case is asked in clear text and over TLS, over HTTP/1.1 and, where that can say it, over HTTP/2. The whole set of
//! `Access-Control-*` and `Vary` fields is compared, the number of requests that reached the upstream, and the shape
//! of every denial. How many cases went each way is told with the file.
mod model;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::support::{
    Asked, Authority, Connection, Exchange, Gateway, Http2, Http2Upstream, RecordingUpstream, Response, Seen, Then,
    Tunnel, WireError, assert_edge_error, assert_never_readable, config_with_tls,
};
use model::{Case, Expect, Lines, OneOrMany, Policies, UpstreamAnswer, corpus, read};

/// Tells the upstream which case it answers.
const CASE: &str = "x-corpus-case";
/// What the certificate is for: every host that a case names, and the address of a client that asks for no host.
const HOSTS: [&str; 3] = ["api.example.test", "api.other.test", "127.0.0.1"];

/// A policy's gateway and the upstream behind it.
struct Stage {
    answers: Arc<Answers>,
    fronts: [Front; 2],
    _gateway: Gateway,
    _upstream: Upstream,
}

/// One of the gateway's listeners.
struct Front {
    scheme: &'static str,
    http1: SocketAddr,
    /// The connection over HTTP/1.1, if the last case has left one that goes on.
    kept: Mutex<Option<Connection>>,
    http2: Http2,
    /// How many cases were held, over HTTP/1.1 and over HTTP/2.
    held: [AtomicUsize; 2],
    _tunnels: Vec<Tunnel>,
}

/// Each in its HTTP.
enum Upstream {
    Http1(RecordingUpstream),
    Http2(Http2Upstream),
}

/// What an upstream says to each case that it says something of its own to, and how often it was asked for one: by the case's id, and the scheme
/// that the gateway tells.
#[derive(Default)]
struct Answers {
    own: BTreeMap<String, UpstreamAnswer>,
    asked: Mutex<BTreeMap<[String; 2], usize>>,
}

impl Answers {
    /// Status and fields of the answer to a request.
    fn to(&self, seen: &Seen) -> (u16, Lines) {
        let case = [CASE, "x-forwarded-proto"].map(|name| seen.headers.all(name).join(","));
        let told = self.own.get(&case[0]).cloned();
        *self.asked.lock().unwrap().entry(case).or_default() += 1;
        told.map_or((200, Lines::default()), |told| (told.status, told.headers))
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

impl Stage {
    fn start(policies: &Policies, policy: &str, protocol: &str, cases: &[Case], authority: &Authority) -> Self {
        let own = cases.iter().filter_map(|case| Some((case.id.clone(), case.upstream.clone()?))).collect();
        let answers = Arc::new(Answers { own, ..Answers::default() });
        let shared = Arc::clone(&answers);
        let upstream = match protocol {
            "Http2" => Upstream::Http2(Http2Upstream::start(move |asked| answer_http2(asked, Arc::clone(&shared)))),
            _ => Upstream::Http1(RecordingUpstream::start(move |exchange| answer(exchange, &shared))),
        };
        // JSON is YAML too.
        let (template, allow_origins) = policies.of(policy);
        let text = format!(
            "upstreams:\n  api: {{ servers: [{}], protocol: {protocol} }}\npolicies:\n  it: {template}\n\
             tenants:\n  - {{ id: it, hosts: [\"*\"], upstream: api, policy: it, allowOrigins: {allow_origins:?} }}\n\
             limits: {{ keepAliveRequests: 1000000 }}\n",
            upstream.address()
        );
        let gateway = Gateway::start(&config_with_tls(&text), &authority.issue(&HOSTS).files());
        let [plain, secure] = gateway.data_listeners()[..] else { panic!("two listeners") };
        let fronts = [Front::plain(plain), Front::secure(secure, authority)];
        Self { answers, fronts, _gateway: gateway, _upstream: upstream }
    }

    /// How many requests of that case reached the upstream by a listener of that scheme.
    fn reached(&self, id: &str, scheme: &str) -> usize {
        let asked = self.answers.asked.lock().unwrap();
        asked.get(&[id, scheme].map(str::to_owned)).copied().unwrap_or_default()
    }
}

impl Front {
    fn plain(listener: SocketAddr) -> Self {
        Self::new("http", listener, Http2::open(listener), Vec::new())
    }

    /// No host is asked for in the handshake.
    fn secure(listener: SocketAddr, authority: &Authority) -> Self {
        let [http1, http2] =
            ["http/1.1", "h2"].map(|protocol| Tunnel::speaking(protocol, listener, "127.0.0.1", authority));
        Self::new("https", http1.address, Http2::open(http2.address), vec![http1, http2])
    }

    fn new(scheme: &'static str, http1: SocketAddr, http2: Http2, tunnels: Vec<Tunnel>) -> Self {
        Self { scheme, http1, kept: Mutex::default(), http2, held: Default::default(), _tunnels: tunnels }
    }

    /// The answer over HTTP/2 to a case that can be said in it.
    fn over_http2(&self, case: &Case) -> Option<Response> {
        let request = case.http2((CASE, &case.id), self.scheme)?;
        let begun = self.http2.begin(request, true).unwrap();
        Some(self.http2.answer(begun.answer).unwrap_or_else(|error| panic!("over HTTP/2: {error}")))
    }

    /// The answer over HTTP/1.1, on one connection or on as few as the gateway lets the cases have.
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

async fn answer_http2(asked: Asked, answers: Arc<Answers>) -> Option<()> {
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

/// The whole set that the case wants, in the form of [`crate::support::Headers::cors`].
fn wanted(expect: &Expect) -> BTreeMap<String, Vec<String>> {
    let lines = expect.headers.iter().map(|(name, value)| {
        let values = match value {
            OneOrMany::One(value) => vec![value.clone()],
            OneOrMany::Many(values) => values.clone(),
        };
        values.into_iter().map(|value| (name.clone(), value)).collect::<Lines>()
    });
    crate::support::Headers(lines.flatten().collect()).cors()
}

fn check(stage: &Stage, case: &Case) -> Result<(), String> {
    let scheme = AtomicUsize::new(0);
    let outcome = std::panic::catch_unwind(|| {
        let answers = stage.fronts.each_ref().map(|front| {
            let answer = check_front(stage, front, case);
            scheme.fetch_add(1, SeqCst);
            answer
        });
        if let ([Some(plain), Some(secure)], None) = (&answers, &case.expect_over_tls) {
            assert_eq!(steady(secure), steady(plain), "it is answered otherwise over TLS");
        }
    });
    outcome.map_err(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let way = ["in clear text", "over TLS", "either way"][scheme.load(SeqCst)];
        format!("{} {way}: {}", case.id, said.unwrap_or_else(|| "failed".to_owned()))
    })
}

/// Holds a case to what it tells; the answer to it, if HTTP itself does not refuse it.
fn check_front(stage: &Stage, front: &Front, case: &Case) -> Option<Response> {
    let expect = case.expect_over(front.scheme);
    let plain = case.bytes("/", &[(CASE, &case.id)]);
    if ends_a_line(case) {
        check_ended_line(&Connection::ask(front.http1, &plain));
        front.count(false);
        return None;
    }
    if let Some(status) = refused(case) {
        check_refused(&Connection::ask(front.http1, &plain), status);
        let over_http2 = front.over_http2(case);
        front.count(over_http2.is_some());
        over_http2.into_iter().for_each(|answer| check_refused(&Ok(answer), status));
        return None;
    }
    // The lane answers no head with such a byte in it, so the proxy does.
    let through_proxy = case.bytes("/", &[(CASE, &case.id), ("x-filler", "\u{e9}")]);
    let asked = [&plain, &plain, &through_proxy];
    let answers = asked.map(|bytes| front.over_http1(bytes));
    let over_http2 = front.over_http2(case);
    let all = asked.len() + usize::from(over_http2.is_some());
    assert_eq!(stage.reached(&case.id, front.scheme), all * expect.upstream, "requests at the upstream");
    for answer in &answers {
        check_answer(case, expect, answer);
        assert_eq!(steady(answer), steady(&answers[0]), "it is not always answered so");
    }
    front.count(over_http2.is_some());
    if let Some(answer) = over_http2 {
        check_answer(case, expect, &answer);
        let mut over_http1 = answers[0].clone();
        // What HTTP/1.1 alone has.
        over_http1.headers.0.retain(|(name, _)| !matches!(&*name.to_lowercase(), "connection" | "transfer-encoding"));
        assert_eq!(steady(&answer), steady(&over_http1), "it is answered otherwise over HTTP/2");
    }
    answers.into_iter().next()
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

fn check_answer(case: &Case, expect: &Expect, answer: &Response) {
    assert_eq!(answer.status, expect.status, "{answer:?}");
    assert_eq!(answer.headers.cors(), wanted(expect), "{answer:?}");
    if answer.status == 403 && expect.upstream == 0 {
        assert_edge_error(answer, 403);
        assert_never_readable(answer);
        assert_nothing_echoed(case, answer);
    }
    if answer.status == 204 && expect.upstream == 0 {
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

/// How many cases are held over HTTP/1.1 and over HTTP/2.
type Counts = [usize; 2];

/// Runs every case of a file, and reports all that fail together. `counts` are told of an upstream of HTTP/1.1 and of one of HTTP/2, and are
/// the same in clear text and over TLS.
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
            let stage = Stage::start(&policies, policy, protocol, cases, &authority);
            let takes = |case: &&Case| protocol == "Http1" || !is_websocket(case);
            let failed = cases.iter().filter(takes).filter_map(|case| check(&stage, case).err());
            failures.extend(failed.map(|told| format!("{protocol} {told}")));
            for (sum, front) in held.iter_mut().zip(&stage.fronts) {
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

/// One test a file, so that they run beside each other.
macro_rules! files {
    ($($test:ident => $file:literal $counts:expr),+ $(,)?) => {
        $(#[test]
        fn $test() {
            run($file, $counts);
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
    classify => "a_classify.yaml" [[49, 41], [46, 41]],
    origin => "b_origin.yaml" [[52, 52], [52, 52]],
    method => "c_method.yaml" [[41, 41], [41, 41]],
    headers => "d_headers.yaml" [[64, 61], [64, 61]],
    shape => "e_shape.yaml" [[10, 10], [10, 10]],
    vary => "f_vary.yaml" [[89, 89], [89, 89]],
    actual => "g_actual.yaml" [[19, 19], [19, 19]],
    private_network => "h_private_network.yaml" [[2, 2], [2, 2]],
    origins => "origins.yaml" [[238, 227], [238, 227]],
}
