//! The same decisions by Crossgate's policy and by the `CorsLayer` of `tower-http`, from a
//! browser's request to the header map of the response.
//!
//! Both have the same exact origins, methods, header names, credentials and max-age. Both do the
//! same work: they answer a preflight, or add the CORS fields to the response of an inner service
//! that answers at once. They differ for unlisted origins: the layer forwards the request to the
//! service, and answers the preflight with all fields but the origin.

#![expect(clippy::panic, clippy::expect_used, reason = "a bench that has the wrong input must not go on")]

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use crossgate::judge::with_request;
use crossgate::request_head::RequestHead;
use crossgate_benches::{Numbered, compile};
use crossgate_message::forwarded::ConnectionPeer;
use crossgate_policy::{OwnOrigin, Policy, PolicySpec, RequestKind};
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, CONTENT_TYPE, ORIGIN, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tower::{Layer, Service, service_fn};
use tower_http::cors::{AllowOrigin, CorsLayer};

const OWN: OwnOrigin<'_> = OwnOrigin { host: "api.example.test", port: None, scheme: None };
const SHAPE: &str = "https://app-#.example.com";
const UNLISTED: &str = "https://app-0000000.example.org";
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_AGE_SECONDS: u32 = 600;

/// The fields that a browser sends with every request.
const BROWSER: [(&str, &str); 7] = [
    ("host", "api.example.test"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "*/*"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("sec-fetch-mode", "cors"),
    ("sec-fetch-site", "cross-site"),
];

/// The fields that a browser adds to a preflight.
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

fn request(kind: RequestKind, origin: &str) -> Request<()> {
    let (method, more) = match kind {
        RequestKind::Preflight => (Method::OPTIONS, &PREFLIGHT[..]),
        RequestKind::Actual | RequestKind::WebSocket | RequestKind::SameOrigin | RequestKind::NonCors => {
            (Method::GET, &[][..])
        }
    };
    let origin = ("origin", origin);
    let fields = BROWSER.iter().chain(more).chain([&origin]);
    let built = fields
        .fold(Request::builder().method(method).uri("/orders"), |built, (name, value)| built.header(*name, *value));
    built.body(()).expect("a request")
}

/// The work of the gateway without the lookup of tenant and policy.
fn crossgate(policy: &Policy, request: Request<()>) -> Response<()> {
    let peer = ConnectionPeer { address: None, is_trusted: false };
    let head = RequestHead::new(request.method().as_str().as_bytes(), b"/orders", request.headers().into(), peer);
    with_request(&head, OWN, |request| {
        let verdict = policy.decide(request).without_rule();
        let mut response = Response::new(());
        *response.status_mut() = match (verdict.is_allowed(), verdict.kind) {
            (false, _) => StatusCode::FORBIDDEN,
            (true, RequestKind::Preflight) => StatusCode::NO_CONTENT,
            (true, RequestKind::Actual | RequestKind::WebSocket | RequestKind::SameOrigin | RequestKind::NonCors) => {
                StatusCode::OK
            }
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
        Poll::Pending => panic!("neither the layer nor the service waits"),
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

fn compare(criterion: &mut Criterion) {
    for (name, kind) in [("preflight", RequestKind::Preflight), ("actual", RequestKind::Actual)] {
        let mut group = criterion.benchmark_group(format!("tower-http/{name}"));
        group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(50);
        for count in [1, 1_000, 10_000] {
            let (policy, mut service) = (policy(count), layer(count).layer(service_fn(inner as Inner)));
            for (outcome, origin, is_allowed) in
                [("hit", origin(count / 2), true), ("miss", UNLISTED.to_owned(), false)]
            {
                let request = request(kind, &origin);
                let id = |engine: &str| BenchmarkId::new(format!("{engine}, {outcome}"), count);
                bench(&mut group, id("crossgate"), &request, |request| crossgate(&policy, request), is_allowed);
                bench(&mut group, id("tower-http"), &request, |request| tower(&mut service, request), is_allowed);
            }
        }
    }
}

criterion_group!(benches, compare);
criterion_main!(benches);
