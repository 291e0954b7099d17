//! The direct exchange against Pingora's proxy: two gateways with one configuration, one of which
//! sends every request through the proxy.
//!
//! For any request, and any response of the server in any pieces, both give the client the same
//! status, fields and body, and the server the same request. Cases in which they differ on purpose
//! are left out; they are listed in `docs/design/direct-exchange.md`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, mpsc};
use std::thread;

use bytes::Bytes;
use crossgate_wire::exchange::chunked::ChunkedDecoder;
use proptest::prelude::*;

use super::harness::{Gateway, Sent};
use crate::process::*;

const CONFIG: &str = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
admin: { address: "127.0.0.1:0" }
limits: { keepAliveRequests: 1000, drainTime: 1s, maxRequestBody: 60000B }
upstreams: { a: { servers: ["UPSTREAM"], timeouts: { head: 5s } } }
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
}

/// Fields by name, sorted.
type Fields = BTreeMap<String, Vec<String>>;

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
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel();
        let script = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&script);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (script, sender) = (Arc::clone(&shared), sender.clone());
                thread::spawn(move || serve(stream, &script, &sender));
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
fn serve(mut stream: TcpStream, script: &Mutex<Option<Script>>, requests: &mpsc::Sender<ReceivedRequest>) {
    let mut bytes = Vec::new();
    while let Some(head_len) = read_until(&mut stream, &mut bytes, |bytes| find(bytes, b"\r\n\r\n").map(|at| at + 4)) {
        let Some(script) = script.lock().unwrap().clone() else { return };
        let head = String::from_utf8(bytes.drain(..head_len).collect()).unwrap();
        let (line, fields) = parse_head(&head);
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
        if script.ends == ServerEnd::Close {
            let _closed = stream.shutdown(Shutdown::Write);
            let _read = stream.read_to_end(&mut Vec::new());
            return;
        }
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

/// Reads until `len` finds a length, and returns it. `None` if the connection ends before.
fn read_until(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    mut len: impl FnMut(&[u8]) -> Option<usize>,
) -> Option<usize> {
    loop {
        if let Some(len) = len(bytes) {
            return Some(len);
        }
        let mut chunk = [0; 8192];
        match stream.read(&mut chunk) {
            Ok(read @ 1..) => bytes.extend_from_slice(&chunk[..read]),
            Ok(_) | Err(_) => return None,
        }
    }
}

fn parse_head(head: &str) -> (String, Fields) {
    let mut lines = head.strip_suffix("\r\n\r\n").unwrap().split("\r\n");
    let line = lines.next().unwrap().to_owned();
    assert!(line.ends_with(" HTTP/1.1") && line.split(' ').count() == 3, "{line}");
    let mut fields = Fields::new();
    for field in lines {
        let (name, value) = field.split_once(": ").unwrap();
        assert!(!name.contains([' ', '\n']) && !value.contains(['\n', '\r']), "{field}");
        fields.entry(name.to_ascii_lowercase()).or_default().push(value.to_owned());
    }
    (line, fields)
}

/// Reads the body that the fields announce. `None` if the connection ends before.
fn read_body(stream: &mut TcpStream, bytes: &mut Vec<u8>, fields: &Fields) -> Option<Vec<u8>> {
    if let Some(codings) = fields.get("transfer-encoding") {
        assert!(codings.len() == 1 && codings[0].eq_ignore_ascii_case("chunked"), "{codings:?}");
        assert!(!fields.contains_key("content-length"), "{fields:?}");
        let len = read_until(stream, bytes, |bytes| chunked_len(bytes).map(|(len, _)| len))?;
        let (_, data) = chunked_len(&bytes.drain(..len).collect::<Vec<u8>>()).unwrap();
        return Some(data);
    }
    let length = fields.get("content-length").map_or(0, |length| length[0].parse().unwrap());
    read_until(stream, bytes, |bytes| (bytes.len() >= length).then_some(length))?;
    Some(bytes.drain(..length).collect())
}

/// The length of a chunked body, and its data. `None` if it is not complete.
fn chunked_len(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (mut decoder, mut data, mut at) = (ChunkedDecoder::new(), Vec::new(), 0);
    while at < bytes.len() && !decoder.is_done() {
        let (len, piece) = decoder.next_data(&bytes[at..]).unwrap();
        data.extend_from_slice(piece);
        at += len;
    }
    decoder.is_done().then_some((at, data))
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

fn ask(gateway: &Gateway, request: &SentRequest) -> ReceivedResponse {
    let mut stream = TcpStream::connect(gateway.data()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut writer = stream.try_clone().unwrap();
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

fn read_response(stream: &mut TcpStream, method: &str) -> ReceivedResponse {
    let (mut bytes, mut interim) = (Vec::new(), Vec::new());
    loop {
        let end = |bytes: &[u8]| find(bytes, b"\r\n\r\n").map(|at| at + 4);
        let Some(head_len) = read_until(stream, &mut bytes, end) else { return ReceivedResponse::missing(interim) };
        let head = String::from_utf8_lossy(&bytes.drain(..head_len).collect::<Vec<u8>>()).into_owned();
        let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
        let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        if status < 200 {
            // Another attempt may bring them again; the exchange passes 100 on once.
            if !interim.contains(&status) {
                interim.push(status);
            }
            continue;
        }
        let mut fields = Fields::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            fields.entry(name.to_ascii_lowercase()).or_default().push(value.to_owned());
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

fn read_client_body(stream: &mut TcpStream, mut bytes: Vec<u8>, fields: &Fields) -> Option<Vec<u8>> {
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

async fn ask_http2(gateway: &Gateway, request: &SentRequest) -> ReceivedResponse {
    let socket = tokio::net::TcpStream::connect(gateway.data()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut head =
        http::Request::builder().method(request.method).uri(format!("http://{}{}", request.host, request.target));
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

fn script() -> impl Strategy<Value = Script> {
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..5);
    (response(), cuts, prop::bool::weighted(0.8)).prop_map(|((bytes, ends), cuts, continues)| {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.sort_unstable();
        Script { continues, response: Sent { bytes, cuts, pause: Duration::from_micros(300) }, ends }
    })
}

/// A gateway and its server.
struct Engine {
    server: ScriptedServer,
    gateway: Gateway,
}

impl Engine {
    fn start(engine: RequestEngine) -> Self {
        let server = ScriptedServer::start();
        let gateway = Gateway::start(&CONFIG.replace("UPSTREAM", &server.address.to_string()), &[], engine);
        Engine { server, gateway }
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
                let asked = tokio::time::timeout(Duration::from_secs(20), ask_http2(&self.gateway, request));
                asked.await.expect("an answer in time")
            }),
            false => ask(&self.gateway, request),
        };
        (response, self.server.take_requests())
    }
}

#[test]
fn exchange_and_proxy_give_equal_responses_and_requests() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (direct, proxy) = (Engine::start(RequestEngine::Direct), Engine::start(RequestEngine::Pingora));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 400,
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
    let outcome = runner.run(&(request(), script()), |(request, script)| {
        // The exchange ends what looks complete to such a client with a reset.
        if request.version == "HTTP/1.0" && script.response.bytes.ends_with(b"zz\r\n") {
            return Ok(());
        }
        let what = format!("{request:?}\n{}", script.response.bytes.escape_ascii());
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
