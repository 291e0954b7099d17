//! Requests per second through a real gateway: its command line, its allocator, its sockets.
//!
//! Three processes of this binary run: the gateway with one worker, its upstream, and the load,
//! which keeps [`client::CONNECTIONS`] requests pending. They share the machine's cores, so the
//! times are those of all three together. `peers/` measures the gateway alone and compares it with
//! other servers. Every answer is checked.

#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a load that goes wrong has nothing to measure"
)]

mod child;
mod client;
mod upstream;

use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use child::{Child, Role};
use client::{Answer, Client};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group};
use mimalloc::MiMalloc;
use tempfile::TempDir;

/// The same allocator as in the gateway.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const ALLOWED: &str = "https://app.example";
const UNLISTED: &str = "https://evil.example";

/// A request and its expected answer. Without a `body_len`, the first answer sets the expected
/// length.
struct Workload {
    name: &'static str,
    request: Vec<u8>,
    status: u16,
    body_len: Option<usize>,
}

fn workloads() -> [Workload; 6] {
    let small = Some(upstream::SMALL_LEN);
    let workload = |name, request, status, body_len| Workload { name, request, status, body_len };
    let posted = [b'x'; 1 << 10];
    [
        workload("allowed preflight", preflight(ALLOWED), 204, Some(0)),
        workload("denied preflight", preflight(UNLISTED), 403, None),
        workload("allowed GET", request("GET", "/", ALLOWED, "", b""), 200, small),
        workload("denied GET", request("GET", "/", UNLISTED, "", b""), 403, None),
        workload(
            "GET of 64 KiB",
            request("GET", upstream::LARGE_PATH, ALLOWED, "", b""),
            200,
            Some(upstream::LARGE_LEN),
        ),
        workload("POST of 1 KiB", request("POST", "/", ALLOWED, "Content-Length: 1024\r\n", &posted), 200, small),
    ]
}

fn preflight(origin: &str) -> Vec<u8> {
    let asks = "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: authorization,content-type\r\n";
    request("OPTIONS", "/", origin, asks, b"")
}

/// A request as a browser writes it.
fn request(method: &str, path: &str, origin: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: api.example\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
         Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
         Origin: {origin}\r\n{more}Connection: keep-alive\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// One worker, no access log, and long-lived connections.
fn config(upstream: SocketAddr) -> String {
    format!(
        "version: 1
listeners: [{{ address: \"127.0.0.1:0\" }}]
runtime: {{ threads: 1 }}
accessLog: {{ level: Off }}
limits: {{ keepAliveRequests: 1000000 }}
upstreams: {{ api: {{ servers: [\"{upstream}\"] }} }}
policies:
  spa:
    allowOrigins: [\"{ALLOWED}\"]
    allowMethods: [PUT]
    allowHeaders: [authorization, content-type]
    allowCredentials: true
tenants: [{{ id: acme, hosts: [api.example], upstream: api, policy: spa }}]
"
    )
}

/// A gateway and its upstream. Both end when this is dropped.
struct Setup {
    gateway: SocketAddr,
    _processes: [Child; 2],
    _directory: TempDir,
}

impl Setup {
    fn start() -> Self {
        let (upstream, at) = Child::start(Role::Upstream, &[]);
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("gateway.yaml");
        fs::write(&path, config(at)).expect("a file in it");
        let path = path.to_str().expect("a path of characters");
        let (process, gateway) = Child::start(Role::Gateway, &["run", "--config", path]);
        Self { gateway, _processes: [process, upstream], _directory: directory }
    }

    /// Connections after one request each, and the expected answer.
    fn client(&self, workload: &Workload) -> (Client, Answer) {
        let mut client = Client::connect(self.gateway);
        let answer = client.ask(&workload.request);
        assert_eq!(answer.status, workload.status, "{}", workload.name);
        assert_eq!(answer.body_len, workload.body_len.unwrap_or(answer.body_len), "{}", workload.name);
        (client, answer)
    }
}

fn load(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load");
    group.sampling_mode(SamplingMode::Flat).sample_size(20).throughput(Throughput::Elements(1));
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
    let mut started = None;
    for workload in workloads() {
        let mut connected = None;
        group.bench_function(workload.name, |bencher| {
            let setup = started.get_or_insert_with(Setup::start);
            let (client, answer) = connected.get_or_insert_with(|| setup.client(&workload));
            bencher.iter_custom(|count| client.time(&workload.request, *answer, count));
        });
    }
}

criterion_group!(benches, load);

fn main() -> ExitCode {
    match Role::mine() {
        Some(Role::Gateway) => crossgate::cli::main(),
        Some(Role::Upstream) => upstream::main(),
        None => {
            benches();
            Criterion::default().configure_from_args().final_summary();
            ExitCode::SUCCESS
        }
    }
}
