//! The direct exchange against Pingora's proxy: two gateways with one configuration, one of which
//! sends every request through the proxy.
//!
//! For any request, and any response of the server in any pieces, both give the client the same
//! status, fields and body, and the server the same request. Cases in which they differ on purpose
//! are left out; they are listed in `docs/design/direct-exchange.md`. Client and server speak clear
//! text, or both TLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, mpsc};
use std::thread;

use bytes::Bytes;
use proptest::prelude::*;

use super::harness::{Gateway, Sent};
use super::http1::{Fields, find, head_len, parse_head, parse_request_head, read_body, read_until};
use super::streams::{ByteStream, PATIENCE, Transport};
use crate::process::*;

const CONFIG: &str = r#"version: 1
listeners: [{ address: "127.0.0.1:0"LISTENER_KEYS }]
admin: { address: "127.0.0.1:0" }
limits: { keepAliveRequests: 1000, drainTime: 1s, maxRequestBody: 60000B }
upstreams: { a: { servers: ["UPSTREAM"], timeouts: { head: 5s }UPSTREAM_KEYS } }
policies:
  spa: { allowOrigins: ["https://app.test"], allowCredentials: true, exposeHeaders: [x-a], unmatchedRequests: Forward }
  strict: { allowOrigins: ["https://app.test"], unmatchedRequests: Reject }
  report: { allowOrigins: ["https://app.test"], mode: Report }
tenants:
  - id: spa
    hosts: [spa.test]
    upstream: a
    policy: spa
    routes: [{ pathPrefix: /report, policy: report }]
  - { id: strict, hosts: [strict.test], upstream: a, policy: strict }
"#;

/// What a server does with the next request.
#[derive(Clone, Debug)]
struct Script {
    /// Whether it answers an expectation with 100 before it reads the body.
    continues: bool,
    response: Sent,
    ends: ServerEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerEnd {
    Keep,
    Close,
    /// Closes without `close_notify`. In clear text that is no difference.
    Cut,
}

/// A request as the server got it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ReceivedRequest {
    line: String,
    fields: Fields,
    body: Vec<u8>,
}

struct ScriptedServer {
    address: SocketAddr,
    script: Arc<Mutex<Option<Script>>>,
    requests: mpsc::Receiver<ReceivedRequest>,
}

impl ScriptedServer {
    fn start(transport: Transport) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel();
        let script = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&script);
        thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (script, sender) = (Arc::clone(&shared), sender.clone());
                thread::spawn(move || {
                    if let Some(stream) = transport.accept(tcp) {
                        serve(stream, &script, &sender);
                    }
                });
            }
        });
        ScriptedServer { address, script, requests }
    }

    /// The requests since the last call. A repeated one is there once.
    fn take_requests(&self) -> Vec<ReceivedRequest> {
        let mut requests: Vec<_> = self.requests.try_iter().collect();
        requests.dedup();
        requests
    }
}

/// Serves one connection. What is no strictly valid request panics, and ends the connection.
fn serve(mut stream: ByteStream, script: &Mutex<Option<Script>>, requests: &mpsc::Sender<ReceivedRequest>) {
    let mut bytes = Vec::new();
    while let Some(head_len) = read_until(&mut stream, &mut bytes, head_len) {
        let Some(script) = script.lock().unwrap().clone() else { return };
        let (line, fields) = parse_request_head(&bytes.drain(..head_len).collect::<Vec<u8>>());
        if fields.contains_key("expect") && script.continues {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        }
        let Some(body) = read_body(&mut stream, &mut bytes, &fields) else { return };
        requests.send(ReceivedRequest { line, fields: comparable(fields), body }).unwrap();
        for (nth, piece) in script.response.pieces().enumerate() {
            if nth > 0 {
                thread::sleep(script.response.pause);
            }
            if stream.write_all(piece).is_err() {
                return;
            }
        }
        match script.ends {
            ServerEnd::Keep => continue,
            ServerEnd::Close => stream.end(),
            ServerEnd::Cut => stream.cut(),
        }
        let _read = stream.read_to_end(&mut Vec::new());
        return;
    }
}

/// Fields without what varies by time or chance, or by how the body is framed.
fn comparable(mut fields: Fields) -> Fields {
    for name in ["date", "x-request-id"] {
        if let Some(values) = fields.get_mut(name) {
            values.iter_mut().for_each(|value| "some".clone_into(value));
        }
    }
    for name in ["transfer-encoding", "connection", "content-length"] {
        fields.remove(name);
    }
    fields
}

/// A response as the client got it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ReceivedResponse {
    interim: Vec<u16>,
    /// `None` if there was none.
    status: Option<u16>,
    fields: Fields,
    /// Empty if the response broke off: how much of it came is a matter of time.
    body: Vec<u8>,
    is_whole: bool,
}

impl ReceivedResponse {
    fn missing(interim: Vec<u16>) -> Self {
        ReceivedResponse { interim, status: None, fields: Fields::new(), body: Vec::new(), is_whole: false }
    }
}

/// The method and the fields of a request, the pieces of its body, and how that is framed.
#[derive(Clone, Debug)]
struct SentRequest {
    method: &'static str,
    version: &'static str,
    host: &'static str,
    target: &'static str,
    fields: Vec<(&'static str, &'static str)>,
    body: Vec<Vec<u8>>,
    framing: SentFraming,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SentFraming {
    NoBody,
    Length,
    Chunked,
}

impl SentRequest {
    fn pieces(&self) -> Vec<Vec<u8>> {
        let SentRequest { method, version, host, target, .. } = self;
        let mut head = format!("{method} {target} {version}\r\nHost: {host}\r\n");
        for (name, value) in &self.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match self.framing {
            SentFraming::NoBody => {}
            SentFraming::Length => {
                let len: usize = self.body.iter().map(Vec::len).sum();
                head.push_str(&format!("Content-Length: {len}\r\n"));
            }
            SentFraming::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
        }
        head.push_str("\r\n");
        let mut pieces = vec![head.into_bytes()];
        match self.framing {
            SentFraming::NoBody => {}
            SentFraming::Length => pieces.extend(self.body.iter().cloned()),
            SentFraming::Chunked => {
                let chunk = |data: &Vec<u8>| [format!("{:X};a=b\r\n", data.len()).as_bytes(), data, b"\r\n"].concat();
                pieces.extend(self.body.iter().filter(|data| !data.is_empty()).map(chunk));
                pieces.push(b"0\r\nX-Sum: 1\r\n\r\n".to_vec());
            }
        }
        pieces
    }

    fn is_http2(&self) -> bool {
        self.version == "HTTP/2"
    }
}

fn ask(gateway: &Gateway, transport: Transport, request: &SentRequest) -> ReceivedResponse {
    let mut stream = transport.connect(gateway.data());
    let mut writer = stream.clone();
    let pieces = request.pieces();
    let writing = thread::spawn(move || {
        for piece in pieces {
            thread::sleep(Duration::from_micros(200));
            // A gateway that has answered need not read the rest.
            if writer.write_all(&piece).is_err() {
                return;
            }
        }
    });
    let response = read_response(&mut stream, request.method);
    drop(stream);
    writing.join().unwrap();
    response
}

fn read_response(stream: &mut ByteStream, method: &str) -> ReceivedResponse {
    let (mut bytes, mut interim) = (Vec::new(), Vec::new());
    loop {
        let Some(head_len) = read_until(stream, &mut bytes, head_len) else {
            return ReceivedResponse::missing(interim);
        };
        let (line, fields) = parse_head(&bytes.drain(..head_len).collect::<Vec<u8>>());
        let status: u16 = line.split(' ').nth(1).unwrap().parse().unwrap();
        if status < 200 {
            // Another attempt may bring them again; the exchange passes 100 on once.
            if !interim.contains(&status) {
                interim.push(status);
            }
            continue;
        }
        let has_body = method != "HEAD" && !matches!(status, 204 | 304);
        let body = if has_body { read_client_body(stream, bytes, &fields) } else { Some(Vec::new()) };
        let is_whole = body.is_some();
        return ReceivedResponse {
            interim,
            status: Some(status),
            body: without_id(body.unwrap_or_default()),
            fields: comparable(fields),
            is_whole,
        };
    }
}

/// A problem's body has the request's id.
fn without_id(body: Vec<u8>) -> Vec<u8> {
    match serde_json::from_slice::<serde_json::Value>(&body) {
        Ok(mut problem) if problem.get("requestId").is_some() => {
            problem.as_object_mut().unwrap().remove("requestId");
            problem.to_string().into_bytes()
        }
        _ => body,
    }
}

fn read_client_body(stream: &mut ByteStream, mut bytes: Vec<u8>, fields: &Fields) -> Option<Vec<u8>> {
    if fields.contains_key("transfer-encoding") || fields.contains_key("content-length") {
        return read_body(stream, &mut bytes, fields);
    }
    let mut chunk = [0; 8192];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Some(bytes),
            Ok(len) => bytes.extend_from_slice(&chunk[..len]),
            Err(_) => return None,
        }
    }
}

async fn ask_http2(gateway: &Gateway, transport: Transport, request: &SentRequest) -> ReceivedResponse {
    let (mut client, connection) = transport.handshake_http2(TcpStream::connect(gateway.data()).unwrap()).await;
    let uri = format!("{}://{}{}", transport.scheme(), request.host, request.target);
    let mut head = http::Request::builder().method(request.method).uri(uri);
    for (name, value) in request.fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("connection")) {
        head = head.header(*name, *value);
    }
    if request.framing == SentFraming::Length {
        head = head.header("content-length", request.body.iter().map(Vec::len).sum::<usize>());
    }
    let ends = request.framing == SentFraming::NoBody;
    client = client.ready().await.unwrap();
    let (response, mut body) = client.send_request(head.body(()).unwrap(), ends).unwrap();
    if !ends {
        for piece in &request.body {
            tokio::time::sleep(Duration::from_micros(200)).await;
            body.reserve_capacity(piece.len());
            // A gateway that has answered need not read the rest.
            if body.send_data(Bytes::from(piece.clone()), false).is_err() {
                break;
            }
        }
        let _ended_or_reset = body.send_data(Bytes::new(), true);
    }
    let received = match response.await {
        Err(_) => ReceivedResponse::missing(Vec::new()),
        Ok(response) => {
            let (parts, mut stream) = response.into_parts();
            let mut fields = Fields::new();
            for (name, value) in &parts.headers {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                fields.entry(name.to_string()).or_default().push(value);
            }
            let (mut body, mut is_whole) = (Vec::new(), true);
            while let Some(piece) = stream.data().await {
                let Ok(piece) = piece else {
                    (body, is_whole) = (Vec::new(), false);
                    break;
                };
                stream.flow_control().release_capacity(piece.len()).unwrap();
                body.extend_from_slice(&piece);
            }
            ReceivedResponse {
                interim: Vec::new(),
                status: Some(parts.status.as_u16()),
                body: without_id(body),
                fields: comparable(fields),
                is_whole,
            }
        }
    };
    connection.abort();
    // A reset overtakes what is not sent yet.
    if received.is_whole { received } else { ReceivedResponse::missing(Vec::new()) }
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|at| b'a' + (at % 23) as u8).collect()
}

fn lens() -> impl Strategy<Value = Vec<usize>> {
    let len = prop::sample::select(vec![0, 1, 5, 100, 1_000, 16_384, 16_385, 40_000]);
    prop::collection::vec(len, 0..4)
}

fn request() -> impl Strategy<Value = SentRequest> {
    let method = prop::sample::select(vec!["GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "M-SEARCH"]);
    let version = prop::sample::select(vec!["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2", "HTTP/2"]);
    let host = prop::sample::select(vec!["spa.test", "spa.test", "strict.test", "unknown.test"]);
    let target = prop::sample::select(vec!["/", "/a/../b?c=%2f", "/report/x", "/x%7e", "//y", "/?q=a|b"]);
    let field = prop::sample::select(vec![
        ("Origin", "https://app.test"),
        ("Origin", "https://evil.test"),
        ("Connection", "close"),
        ("Connection", "keep-alive, x-a"),
        ("X-A", "1"),
        ("X-A", "two"),
        ("X_Forwarded_For", "1.1.1.1"),
        ("X-Forwarded-For", "1.1.1.1"),
        ("X-Crossgate-Tenant", "other"),
        ("Cookie", "a=b"),
        ("Accept-Encoding", "gzip"),
        ("TE", "trailers"),
        ("Proxy-Authorization", "x"),
        ("CDN-Loop", "other"),
        ("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ]);
    let fields = prop::collection::vec(field, 0..5);
    let framing =
        prop::sample::select(vec![SentFraming::NoBody, SentFraming::NoBody, SentFraming::Length, SentFraming::Chunked]);
    (method, version, host, target, fields, lens(), framing, prop::bool::weighted(0.2)).prop_map(
        |(method, version, host, target, mut fields, lens, framing, expects)| {
            // Twice the same `Origin` is refused; over HTTP/2 a field of the connection is, too.
            fields.sort_unstable();
            fields.dedup_by_key(|(name, _)| *name);
            // RFC 9112, section 6.1: a request of HTTP/1.0 has no chunks.
            let framing = match framing {
                SentFraming::Chunked if version == "HTTP/1.0" => SentFraming::Length,
                framing @ (SentFraming::NoBody | SentFraming::Length | SentFraming::Chunked) => framing,
            };
            if version == "HTTP/2" {
                fields.retain(|(name, _)| *name != "Proxy-Authorization" || framing != SentFraming::NoBody);
            } else if expects && framing != SentFraming::NoBody && method != "HEAD" {
                fields.push(("Expect", "100-continue"));
            }
            let body = match framing {
                SentFraming::NoBody => Vec::new(),
                SentFraming::Length | SentFraming::Chunked => lens.into_iter().map(data).collect(),
            };
            SentRequest { method, version, host, target, fields, body, framing }
        },
    )
}

#[derive(Clone, Copy, Debug)]
enum ResponseFraming {
    Length,
    TooShort,
    Chunked,
    BrokenChunks,
    UntilClose,
    NoHead,
    InvalidHead,
    Surplus,
}

fn response() -> impl Strategy<Value = (Vec<u8>, ServerEnd)> {
    let interim = prop::sample::select(vec!["", "", "", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]);
    let status = prop::sample::select(vec![200, 200, 200, 201, 204, 206, 304, 302, 400, 404, 500, 502, 299]);
    let field = prop::sample::select(vec![
        "Access-Control-Allow-Origin: *",
        "Access-Control-Allow-Origin: https://app.test",
        "Vary: Accept",
        "Vary: accept, Origin",
        "Set-Cookie: a=b",
        "Set-Cookie: c=d",
        "Connection: keep-alive",
        "Connection: X-Named, close",
        "Connection: keep-alive, vary",
        "Connection: Proxy-Status",
        "X-Named: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Status: other",
        "X-A: caf\u{e9}",
        "Upgrade: h2c",
        "Trailer: X-Sum",
        "X-Request-Id: theirs",
        "Content-Type: text/event-stream",
    ]);
    let fields = prop::collection::vec(field, 0..6);
    let framing = prop::sample::select(vec![
        ResponseFraming::Length,
        ResponseFraming::Length,
        ResponseFraming::Length,
        ResponseFraming::Chunked,
        ResponseFraming::Chunked,
        ResponseFraming::UntilClose,
        ResponseFraming::TooShort,
        ResponseFraming::BrokenChunks,
        ResponseFraming::NoHead,
        ResponseFraming::InvalidHead,
        ResponseFraming::Surplus,
    ]);
    (interim, status, fields, framing, lens(), any::<bool>()).prop_map(
        |(interim, status, fields, framing, lens, keeps)| {
            let mut head = format!("{interim}HTTP/1.1 {status} Fine\r\n");
            fields.iter().for_each(|field| head.push_str(&format!("{field}\r\n")));
            let body: Vec<u8> = lens.iter().flat_map(|len| data(*len)).collect();
            let has_body = !matches!(status, 204 | 304);
            let chunk = |data: &[u8]| [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat();
            let chunks: Vec<u8> = lens.iter().filter(|len| **len > 0).flat_map(|len| chunk(&data(*len))).collect();
            let sent = if has_body { &*body } else { &[] };
            let (line, body, ends) = match framing {
                ResponseFraming::Length => (format!("Content-Length: {}", body.len()), sent.to_vec(), keeps),
                ResponseFraming::TooShort => (format!("Content-Length: {}", body.len() + 9), sent.to_vec(), false),
                ResponseFraming::Chunked if has_body => {
                    let end = b"0;x=y\r\nX-Sum: 1\r\n\r\n";
                    ("Transfer-Encoding: chunked".to_owned(), [&*chunks, end].concat(), keeps)
                }
                ResponseFraming::BrokenChunks if has_body => {
                    ("Transfer-Encoding: Chunked".to_owned(), [&*chunks, b"zz\r\n"].concat(), false)
                }
                ResponseFraming::Chunked | ResponseFraming::BrokenChunks => ("X-B: 1".to_owned(), Vec::new(), keeps),
                ResponseFraming::UntilClose => ("X-B: 1".to_owned(), sent.to_vec(), false),
                ResponseFraming::NoHead => return (head.into_bytes(), ServerEnd::Close),
                ResponseFraming::InvalidHead => ("X-\u{0}: 1".to_owned(), Vec::new(), false),
                ResponseFraming::Surplus => {
                    let more = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
                    (format!("Content-Length: {}", sent.len()), [sent, more].concat(), keeps)
                }
            };
            let ends = if ends { ServerEnd::Keep } else { ServerEnd::Close };
            ([format!("{head}{line}\r\n\r\n").as_bytes(), &body].concat(), ends)
        },
    )
}

fn script(transport: Transport) -> impl Strategy<Value = Script> {
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..5);
    let may_cut = transport == Transport::Tls;
    (response(), cuts, prop::bool::weighted(0.8), any::<bool>()).prop_map(
        move |((bytes, ends), cuts, continues, cut)| {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.sort_unstable();
            let ends = if ends == ServerEnd::Close && may_cut && cut { ServerEnd::Cut } else { ends };
            Script { continues, response: Sent { bytes, cuts, pause: Duration::from_micros(300) }, ends }
        },
    )
}

/// A gateway and its server.
struct Engine {
    transport: Transport,
    server: ScriptedServer,
    gateway: Gateway,
}

impl Engine {
    fn start(engine: RequestEngine, transport: Transport) -> Self {
        let server = ScriptedServer::start(transport);
        let text = CONFIG
            .replace("LISTENER_KEYS", transport.listener_keys())
            .replace("UPSTREAM_KEYS", transport.upstream_keys())
            .replace("UPSTREAM", &server.address.to_string());
        let gateway = Gateway::start(&text, &transport.files(), engine);
        Engine { transport, server, gateway }
    }

    fn run(
        &self,
        runtime: &tokio::runtime::Runtime,
        request: &SentRequest,
        script: &Script,
    ) -> (ReceivedResponse, Vec<ReceivedRequest>) {
        *self.server.script.lock().unwrap() = Some(script.clone());
        let response = match request.is_http2() {
            true => runtime.block_on(async {
                let asked = ask_http2(&self.gateway, self.transport, request);
                tokio::time::timeout(PATIENCE, asked).await.expect("an answer in time")
            }),
            false => ask(&self.gateway, self.transport, request),
        };
        (response, self.server.take_requests())
    }
}

/// Whether the body of this response lasts until the end of the connection to the client, and
/// breaks off. The exchange ends it with a reset, so that it does not look complete.
fn is_reset_by_the_exchange(request: &SentRequest, script: &Script) -> bool {
    let bytes = &script.response.bytes;
    let has_framing = ["Content-Length", "Transfer-Encoding"].iter().any(|name| find(bytes, name.as_bytes()).is_some());
    let breaks_off = bytes.ends_with(b"zz\r\n") || script.ends == ServerEnd::Cut && !has_framing;
    request.version == "HTTP/1.0" && breaks_off
}

/// Compares the engines by this many requests.
fn compare(transport: Transport, cases: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let [direct, proxy] =
        [RequestEngine::Direct, RequestEngine::Pingora].map(|engine| Engine::start(engine, transport));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    });
    let plain = SentRequest {
        method: "POST",
        version: "HTTP/1.1",
        host: "spa.test",
        target: "/plain",
        fields: Vec::new(),
        body: vec![data(5)],
        framing: SentFraming::Chunked,
    };
    let ok = Script {
        continues: true,
        response: Sent::at_once(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()),
        ends: ServerEnd::Keep,
    };
    let outcome = runner.run(&(request(), script(transport)), |(request, script)| {
        if is_reset_by_the_exchange(&request, &script) {
            return Ok(());
        }
        let what = format!("{request:?}\n{:?} {}", script.ends, script.response.bytes.escape_ascii());
        let [by_exchange, by_proxy] = [&direct, &proxy].map(|engine| engine.run(&runtime, &request, &script));
        prop_assert_eq!(by_exchange, by_proxy, "{}", what);
        // What is left of the connections serves another client well.
        for engine in [&direct, &proxy] {
            let (response, requests) = engine.run(&runtime, &plain, &ok);
            prop_assert_eq!((response.status, &*response.body), (Some(200), &b"ok"[..]), "{}", what);
            prop_assert_eq!((requests.len(), &*requests[0].body), (1, &*data(5)), "{}", what);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(direct.gateway.counts(), proxy.gateway.counts());
    let (mut direct, mut proxy) = (direct.gateway.logged(), proxy.gateway.logged());
    for lines in [&mut direct, &mut proxy] {
        lines.sort_by_cached_key(ToString::to_string);
    }
    assert_eq!(direct, proxy);
}

#[test]
fn exchange_and_proxy_give_equal_responses_and_requests() {
    compare(Transport::Clear, 400);
}

#[test]
fn exchange_and_proxy_give_equal_responses_and_requests_over_tls() {
    compare(Transport::Tls, 200);
}
