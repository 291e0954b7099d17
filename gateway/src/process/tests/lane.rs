//! The lane and the listeners on real sockets, with a plain Pingora proxy behind them.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::http::RequestHeader;
use pingora::prelude::*;
use pingora::proxy::{HttpProxy, ProxyHttp, Session};
use pingora::server::configuration::ServerConf;

use crate::metrics::{
    CheckResult, ConnectionCounters, ConnectionLimits, EarlyClose, HandshakeEnd, PanicPlace, ProxyHeaderFault,
};
use crate::proxy::DirectUpstream;
use crate::registry::GatewayMetrics;
use crate::respond::{self, AnswerContext};
use crossgate_message::fields::KnownHeaders;
use crossgate_message::health_path::HealthPath;
use crossgate_wire::exchange::RequestEngine;
use crossgate_wire::exchange::direct::{ExchangeStart, UploadFraming};
use crossgate_wire::exchange::state::{ExchangeLimits, ExchangePhase, ExchangeState};
use crossgate_wire::exchange::{ClientIdentity, EdgeAnswer, ExchangeHost, HeadLimits, Http2Limits, LaneLimits};
use crossgate_wire::lane::preflight::Preflight;
use crossgate_wire::lane::{Answered, Lane, LaneHost, conn::RequestConnection};
use crossgate_wire::proxy_protocol::ConnectionStart;
use crossgate_wire::refusal::HeadRefusal;
use crossgate_wire::runner::{BoundListener, RunningListeners};
use crossgate_wire::tls::Http2;
use crossgate_wire::tls::Terminator;

/// A proxy that answers `/denied` with 403, panics for `/panic` before the upstream and for
/// `/panic-late` after its answer, and forwards everything else.
struct Plain(SocketAddr);

#[async_trait]
impl ProxyHttp for Plain {
    type CTX = ();
    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, (): &mut ()) -> Result<bool> {
        let conn = session.stream().and_then(|stream| stream.as_any().downcast_ref::<RequestConnection>());
        let watch = Arc::clone(conn.expect("served through the lane").watch());
        watch.mark_seen();
        watch.begin_attempt(Duration::from_secs(1), Duration::from_secs(1));
        assert_ne!(session.req_header().uri.path(), "/panic");
        if session.req_header().uri.path() != "/denied" {
            return Ok(false);
        }
        session.respond_error(403).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        _: &mut pingora::http::ResponseHeader,
        (): &mut (),
    ) -> Result<()> {
        let conn = session.stream().and_then(|stream| stream.as_any().downcast_ref::<RequestConnection>());
        conn.expect("served through the lane").watch().enter(ExchangePhase::Streaming);
        assert_ne!(session.req_header().uri.path(), "/panic-late");
        Ok(())
    }
}

struct Limits(LaneLimits, Arc<GatewayMetrics>);

/// A listener whose connections panic before any byte is read.
const PANICKING_LISTENER: usize = 1;

impl ExchangeHost for Limits {
    type Upstream = DirectUpstream;

    fn begin(
        self: &Arc<Self>,
        _: &crossgate_message::received_head::ReceivedHead<'_>,
        _: UploadFraming,
        _: &Arc<ExchangeState>,
    ) -> ExchangeStart<DirectUpstream> {
        ExchangeStart::Declined
    }

    fn limits(&self) -> LaneLimits {
        self.0
    }

    fn health_path(&self, _: usize) -> Option<&HealthPath> {
        None
    }

    fn answer_health_check(&self, method: &[u8]) -> EdgeAnswer {
        respond::health_check(CheckResult::Passed, method, AnswerContext::default())
    }

    fn refusal(&self, refusal: &HeadRefusal, _: Option<SocketAddr>) -> EdgeAnswer {
        respond::refusal(refusal, AnswerContext::default())
    }

    fn answer_preflight(&self, _: &RequestHeader, _: &KnownHeaders<'_>, _: &ClientIdentity) -> Option<EdgeAnswer> {
        None
    }

    fn is_draining(&self) -> bool {
        false
    }

    fn count_early_close(&self, _: EarlyClose) {}

    fn count_unseen_refusal(&self) {}

    fn count_panic(&self, place: PanicPlace) {
        self.1.panics.count(place);
    }
}

impl LaneHost for Limits {
    fn answer(&self, preflight: &Preflight<'_>, _: &ClientIdentity, _: &mut Vec<u8>) -> Answered {
        assert_ne!(preflight.target, b"/panic");
        Answered::Not
    }

    fn refuse(&self, refusal: &HeadRefusal, _: Option<SocketAddr>) -> Vec<u8> {
        format!("HTTP/1.1 {} -\r\nconnection: close\r\n\r\n", refusal.status.as_u16()).into_bytes()
    }

    fn lone_client(&self, client: &ClientIdentity) -> Option<IpAddr> {
        client.address.map(|address| address.ip())
    }

    fn entry(&self, _: &ClientIdentity) -> ConnectionStart {
        ConnectionStart::Client
    }

    fn count_proxy_header_fault(&self, _: ProxyHeaderFault) {}

    fn terminator(&self, listener: usize) -> Option<Arc<Terminator>> {
        assert_ne!(listener, PANICKING_LISTENER);
        None
    }

    fn handshake_over(&self, _: HandshakeEnd, _: &ClientIdentity, _: Option<&str>) {}
}

const LIMITS: LaneLimits = LaneLimits {
    tls_handshake: Duration::from_secs(1),
    head: HeadLimits {
        time: Duration::from_secs(1),
        idle: Duration::from_secs(5),
        bytes: 32 * 1024,
        field_bytes: 8 * 1024,
        fields: 100,
    },
    exchange: ExchangeLimits {
        body_grace: Duration::from_secs(1),
        body_rate_min: 1024,
        write_stall: Duration::from_secs(5),
        drain_bytes: 64 * 1024,
        drain_time: Duration::from_secs(5),
    },
    requests: 1000,
    connections: ConnectionLimits { all: 1000, of_client: None },
    http2: Http2Limits { streams: 100, idle: Duration::from_secs(5) },
};

/// An upstream that answers each request with its own request line, after reading its body. `/wait`
/// gets no answer.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("accepted");
            thread::spawn(move || answer_all(stream));
        }
    });
    address
}

fn answer_all(mut stream: TcpStream) {
    let mut seen = Vec::new();
    let mut chunk = [0_u8; 4096];
    while let Ok(len @ 1..) = stream.read(&mut chunk) {
        seen.extend_from_slice(&chunk[..len]);
        while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).into_owned();
            let body: usize = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or(0);
            if seen.len() < end + 4 + body || head.starts_with("GET /wait") {
                break;
            }
            seen.drain(..end + 4 + body);
            let line = head.lines().next().unwrap_or_default().to_owned();
            thread::sleep(Duration::from_millis(30));
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

struct TestLane {
    running: Option<RunningListeners>,
    address: SocketAddr,
    connections: Arc<ConnectionCounters>,
    metrics: Arc<GatewayMetrics>,
}

impl TestLane {
    fn start() -> Self {
        Self::with(LIMITS)
    }

    fn with(limits: LaneLimits) -> Self {
        Self::on(0, limits)
    }

    fn on(listener: usize, limits: LaneLimits) -> Self {
        let conf = Arc::new(ServerConf { threads: 2, ..ServerConf::default() });
        let mut proxy = HttpProxy::new(Plain(upstream()), conf);
        proxy.handle_init_modules();
        let metrics = GatewayMetrics::new();
        let connections = Arc::clone(&metrics.connections);
        let limits = Arc::new(Limits(limits, Arc::clone(&metrics)));
        let lane =
            Lane::new(Arc::new(proxy), limits, Arc::clone(&connections), listener, RequestEngine::Direct, Http2::Off);
        let bound = BoundListener::new("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = bound.address();
        let running =
            RunningListeners::start(vec![(bound, lane)], Arc::clone(&connections), Arc::default(), 2).expect("started");
        TestLane { running: Some(running), address, connections, metrics }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        stream
    }

    #[track_caller]
    fn wait_until(&self, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < Duration::from_secs(10), "timed out:\n{}", self.metrics.render());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until all connections are closed and this many panics are counted.
    #[track_caller]
    fn ends_with_panics(&self, lane: u32, proxy: u32) {
        let wanted = [("lane", lane), ("proxy", proxy)];
        let wanted = wanted.map(|(place, count)| format!("crossgate_panics_total{{place=\"{place}\"}} {count}"));
        self.wait_until(|| self.connections.active() == 0);
        self.wait_until(|| {
            let text = self.metrics.render();
            wanted.iter().all(|wanted| text.lines().any(|line| line == wanted))
        });
    }
}

fn status_lines(text: &str) -> Vec<&str> {
    text.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)).collect()
}

fn read_all(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("closed cleanly");
    String::from_utf8(text).expect("text")
}

/// Reads until `wanted` was received.
fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut text = String::new();
    let mut chunk = [0_u8; 4096];
    while !text.contains(wanted) {
        let len = stream.read(&mut chunk).expect("read");
        assert_ne!(len, 0, "closed before {wanted:?}, after {text:?}");
        text.push_str(std::str::from_utf8(&chunk[..len]).expect("text"));
    }
    text
}

#[test]
fn buffered_requests_are_all_answered_in_order() {
    let served = TestLane::start();
    let mut stream = served.connect();
    let three = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
                 PUT /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /\
                 GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(three.as_bytes()).expect("sent");
    let text = read_all(stream);
    assert_eq!(status_lines(&text), ["200", "200", "200"], "{text}");
    let order: Vec<_> = ["GET /1", "PUT /2", "GET /3"].iter().map(|line| text.find(line)).collect();
    assert!(order.is_sorted() && order.iter().all(Option::is_some), "{text}");
}

/// A client cannot see whether its connection is accepted or still in the socket's queue, and it
/// has sent its request.
#[test]
fn clients_connected_before_a_stop_are_answered() {
    for _ in 0..5 {
        let mut served = TestLane::start();
        let mut clients: Vec<_> = (0..100).map(|_| served.connect()).collect();
        for client in &mut clients {
            client.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        }
        let running = served.running.take().expect("running");
        let stopping = thread::spawn(|| running.stop(Duration::from_secs(30)));
        for client in clients {
            assert_eq!(status_lines(&read_all(client)), ["200"]);
        }
        assert_eq!(stopping.join().expect("stopped"), 0);
    }
}

#[test]
fn request_that_arrives_during_another_is_answered_after_it() {
    let served = TestLane::start();
    let mut stream = served.connect();
    stream.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    thread::sleep(Duration::from_millis(10));
    for piece in ["GET /2 HT", "TP/1.1\r\nHost: a\r\nConnection: ", "close\r\n\r\n"] {
        stream.write_all(piece.as_bytes()).expect("sent");
        thread::sleep(Duration::from_millis(5));
    }
    let text = read_all(stream);
    assert_eq!(status_lines(&text), ["200", "200"], "{text}");
    assert!(text.contains("GET /1") && text.contains("GET /2"), "{text}");
}

#[test]
fn trickled_request_head_gets_408() {
    let served = TestLane::start();
    let mut stream = served.connect();
    let began = Instant::now();
    let mut writer = stream.try_clone().expect("cloned");
    thread::spawn(move || {
        for byte in b"GET / HTTP/1.1\r\nHost: a-rather-long-name\r\n\r\n" {
            if writer.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    });
    let text = read_until(&mut stream, "HTTP/1.1 408");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?} {text}");
}

#[test]
fn denied_upload_receives_the_complete_response() {
    let served = TestLane::start();
    for _ in 0..20 {
        let mut stream = served.connect();
        let head = "POST /denied HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("sent");
        stream.write_all(&[b'x'; 65536]).expect("sent");
        let text = read_until(&mut stream, "\r\n\r\n");
        assert_eq!(status_lines(&text), ["403"], "{text}");
    }
}

#[test]
fn missing_response_head_ends_the_exchange() {
    let served = TestLane::start();
    let mut stream = served.connect();
    let began = Instant::now();
    stream.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    let _answer = read_all(stream);
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn connection_closes_at_its_request_limit() {
    let served = TestLane::with(LaneLimits { requests: 2, ..LIMITS });
    let mut stream = served.connect();
    stream.write_all("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3).as_bytes()).expect("sent");
    let text = read_all(stream);
    assert_eq!(status_lines(&text), ["200", "200"], "{text}");
    assert!(text.to_ascii_lowercase().contains("connection: close"), "{text}");
}

#[test]
fn connection_over_the_limit_gets_503_and_others_continue() {
    let served = TestLane::with(LaneLimits { connections: ConnectionLimits { all: 1, of_client: None }, ..LIMITS });
    let mut first = served.connect();
    first.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    read_until(&mut first, "GET /1");
    for _ in 0..3 {
        let mut second = served.connect();
        second.write_all(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        assert_eq!(status_lines(&read_all(second)), ["503"]);
    }
    first.write_all(b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    read_until(&mut first, "GET /3");
}

#[test]
fn stop_closes_idle_connections_and_finishes_requests() {
    let mut served = TestLane::start();
    let mut idle = served.connect();
    idle.write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    read_until(&mut idle, "GET /1");
    let mut busy = served.connect();
    busy.write_all(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    thread::sleep(Duration::from_millis(10));
    let began = Instant::now();
    let running = served.running.take().expect("running");
    let left = running.stop(Duration::from_secs(10));
    assert_eq!(left, 0);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(read_all(busy).contains("GET /2"));
    assert!(TcpStream::connect(served.address).is_err());
}

#[test]
fn taken_port_is_a_bind_error() {
    let served = TestLane::start();
    let error = BoundListener::new(served.address).expect_err("taken");
    assert!(error.to_string().contains(&served.address.to_string()), "{error}");
}

#[test]
fn half_close_while_awaiting_an_answer_counts_as_disconnect() {
    let served = TestLane::start();
    let mut stream = served.connect();
    stream.write_all("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes()).expect("sent");
    stream.shutdown(Shutdown::Write).expect("half closed");
    let text = read_all(stream);
    // The first answer was awaited with the second request still unread, the second with nothing
    // but the end of the stream.
    assert_eq!(status_lines(&text), ["200"], "{text}");
}

#[test]
fn panicking_hook_ends_only_its_own_connection() {
    let mut served = TestLane::start();
    let mut kept = served.connect();
    let panics = [
        "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /panic-late HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS /panic HTTP/1.1\r\nHost: a\r\nOrigin: https://a.test\r\nAccess-Control-Request-Method: PUT\r\n\r\n",
    ];
    for head in panics.repeat(20) {
        // A connection in the middle of its answer is not disturbed either.
        kept.write_all(b"GET /kept HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        let mut stream = served.connect();
        stream.write_all(head.as_bytes()).expect("sent");
        assert_eq!(read_all(stream), "", "{head}");
        read_until(&mut kept, "GET /kept");
    }
    drop(kept);
    served.ends_with_panics(20, 40);
    assert_eq!(served.connections.opened(), 61);
    assert_eq!(served.running.take().expect("running").stop(Duration::from_secs(10)), 0);
}

#[test]
fn panic_before_the_first_byte_is_counted() {
    let mut served = TestLane::on(PANICKING_LISTENER, LIMITS);
    for _ in 0..20 {
        assert_eq!(read_all(served.connect()), "");
    }
    served.ends_with_panics(20, 0);
    assert_eq!(served.running.take().expect("running").stop(Duration::from_secs(10)), 0);
}
