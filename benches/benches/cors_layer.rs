//! The same decisions by Crossgate's policy and by `tower-http`'s `CorsLayer`, each from a request with the fields of a browser to
//! the response's header map.
//!
//! Both have the same exact origins, methods, header names, credentials and max-age, and the same part of the work: the answer to a
//! preflight, or the response of an inner service that answers at once, with the CORS fields added. They differ where they
//! disagree: the layer lets a stranger's request through to the service and its preflight get every field but the origin.

#![expect(clippy::panic, clippy::expect_used, reason = "a bench that has the wrong input must not go on")]

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use crossgate::forwarded::Peer;
use crossgate::judge::{HeadView, with_request};
use crossgate_benches::{Numbered, compile};
use crossgate_policy::{Kind, OwnOrigin, Policy, PolicySpec};
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, CONTENT_TYPE, ORIGIN, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tower::{Layer, Service, service_fn};
use tower_http::cors::{AllowOrigin, CorsLayer};

const OWN: OwnOrigin<'_> = OwnOrigin { host: "api.example.test", port: None, scheme: None };
const SHAPE: &str = "https://app-#.example.com";
const STRANGER: &str = "https://app-0000000.example.org";
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_AGE_SECONDS: u32 = 600;

/// What a browser sends with every request.
const BROWSER: [(&str, &str); 7] = [
    ("host", "api.example.test"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "*/*"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("sec-fetch-mode", "cors"),
    ("sec-fetch-site", "cross-site"),
];

/// What it adds to a preflight.
const PREFLIGHT: [(&str, &str); 2] =
    [("access-control-request-method", "PUT"), ("access-control-request-headers", "authorization,content-type")];

fn origin(number: u64) -> String {
    String::from_utf8_lossy(Numbered::new(SHAPE).with(&[number])).into_owned()
}

fn policy(count: u64) -> Policy {
    compile(&PolicySpec {
        allow_origins: (0..count).map(origin).collect(),
        allow_methods: ["GET", "PUT", "DELETE"].map(str::to_owned).to_vec(),
        allow_headers: ["authorization", "content-type", "x-request-id"].map(str::to_owned).to_vec(),
        allow_credentials: true,
        max_age_seconds: MAX_AGE_SECONDS,
        ..PolicySpec::default()
    })
}

fn layer(count: u64) -> CorsLayer {
    let origins = (0..count).map(|number| HeaderValue::from_str(&origin(number)).expect("a field value"));
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::PUT, Method::DELETE])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE, X_REQUEST_ID])
        .allow_credentials(true)
        .max_age(Duration::from_secs(MAX_AGE_SECONDS.into()))
}

fn request(kind: Kind, origin: &str) -> Request<()> {
    let (method, more) = match kind {
        Kind::Preflight => (Method::OPTIONS, &PREFLIGHT[..]),
        Kind::Actual | Kind::WebSocket | Kind::SameOrigin | Kind::NonCors => (Method::GET, &[][..]),
    };
    let origin = ("origin", origin);
    let fields = BROWSER.iter().chain(more).chain([&origin]);
    let built = fields
        .fold(Request::builder().method(method).uri("/orders"), |built, (name, value)| built.header(*name, *value));
    built.body(()).expect("a request")
}

/// What the gateway does, but for finding out whose policy it is.
fn crossgate(policy: &Policy, request: Request<()>) -> Response<()> {
    let peer = Peer { address: None, is_trusted: false };
    let head = HeadView::new(request.method().as_str().as_bytes(), b"/orders", request.headers().into(), peer);
    with_request(&head, OWN, |request| {
        let verdict = policy.decide(request).without_asking();
        let mut response = Response::new(());
        *response.status_mut() = match (verdict.is_allowed(), verdict.kind) {
            (false, _) => StatusCode::FORBIDDEN,
            (true, Kind::Preflight) => StatusCode::NO_CONTENT,
            (true, Kind::Actual | Kind::WebSocket | Kind::SameOrigin | Kind::NonCors) => StatusCode::OK,
        };
        let mut fields = HeaderMap::with_capacity(8);
        for edit in policy.edits(&verdict, request) {
            fields.append(edit.name, copy(edit.value.as_bytes()));
        }
        fields.extend(policy.vary_value(verdict.kind).map(|value| (VARY, copy(value.as_bytes()))));
        *response.headers_mut() = fields;
        response
    })
}

fn copy(value: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(value).expect("a field value")
}

type Inner = fn(Request<()>) -> Ready<Result<Response<()>, Infallible>>;

fn inner(_: Request<()>) -> Ready<Result<Response<()>, Infallible>> {
    ready(Ok(Response::new(())))
}

fn tower(
    service: &mut impl Service<Request<()>, Response = Response<()>, Error = Infallible>,
    request: Request<()>,
) -> Response<()> {
    let future = pin!(service.call(request));
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(response)) => response,
        Poll::Pending => panic!("neither waits for anything"),
    }
}

fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    request: &Request<()>,
    mut answer: impl FnMut(Request<()>) -> Response<()>,
    is_allowed: bool,
) {
    let response = answer(request.clone());
    let allowed = response.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN);
    assert_eq!(allowed, request.headers().get(ORIGIN).filter(|_| is_allowed), "{response:?}");
    group.bench_function(id, |bencher| {
        bencher.iter_batched(|| request.clone(), &mut answer, BatchSize::SmallInput);
    });
}

fn beside(criterion: &mut Criterion) {
    for (name, kind) in [("preflight", Kind::Preflight), ("actual", Kind::Actual)] {
        let mut group = criterion.benchmark_group(format!("beside tower-http/{name}"));
        group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(50);
        for count in [1, 1_000, 10_000] {
            let (policy, mut service) = (policy(count), layer(count).layer(service_fn(inner as Inner)));
            for (outcome, origin, is_allowed) in
                [("hit", origin(count / 2), true), ("miss", STRANGER.to_owned(), false)]
            {
                let request = request(kind, &origin);
                let id = |engine: &str| BenchmarkId::new(format!("{engine}, {outcome}"), count);
                bench(&mut group, id("crossgate"), &request, |request| crossgate(&policy, request), is_allowed);
                bench(&mut group, id("tower-http"), &request, |request| tower(&mut service, request), is_allowed);
            }
        }
    }
}

criterion_group!(benches, beside);
criterion_main!(benches);
