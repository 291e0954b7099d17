//! Stops under load, in clear text and over TLS, as clients and a load balancer see them.
//!
//! After SIGTERM each request gets its whole answer, from this gateway or from the other one. After
//! SIGINT all connections are closed at once.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use h2::Reason;
use rustix::process::Signal;

use crate::support::{
    Authority, Connection, Gateway, HOST, Http2, ORIGIN, OpenRequest, PATIENCE, RecordingUpstream, Response, Then,
    Tunnel, config_with_tls, http2_request, request, tenant_config,
};

/// Clients that send requests continuously, for each transport.
const CLIENTS: usize = 3;
/// Answers that a gateway must give over each transport to count as loaded.
const ANSWERS: u64 = 50;
/// Interval of the load balancer's probe.
const PROBE: Duration = Duration::from_millis(50);
/// Requests that the upstream holds: before the answer, and in the middle of it.
const HELD: [&str; 2] = ["/held", "/half"];

/// Transport between client and gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Plain,
    Tls,
    Http2,
}

const TRANSPORTS: [Transport; 3] = [Transport::Plain, Transport::Tls, Transport::Http2];

/// A method, fields and a body.
type RequestParts = (&'static str, &'static [(&'static str, &'static str)], &'static [u8]);

/// The requests that each client repeats.
const REQUESTS: [RequestParts; 3] = [
    ("GET", &[("Origin", ORIGIN)], b""),
    ("OPTIONS", &[("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")], b""),
    ("POST", &[("Origin", ORIGIN)], &[b'x'; 1024]),
];

/// An upstream that holds some requests until they are released.
struct HoldingUpstream {
    upstream: RecordingUpstream,
    arrivals: Receiver<()>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl HoldingUpstream {
    fn start() -> Self {
        let (arrived, arrivals) = mpsc::channel();
        let (arrived, gate) = (Mutex::new(arrived), Arc::new((Mutex::new(false), Condvar::new())));
        let opened = Arc::clone(&gate);
        let upstream = RecordingUpstream::start(move |exchange| {
            exchange.read_body();
            let target = exchange.seen.target.clone();
            if !HELD.contains(&target.as_str()) {
                return exchange.answer(200, &[], b"hello");
            }
            if target == "/half" {
                exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
            }
            arrived.lock().unwrap().send(()).unwrap();
            let (is_open, opening) = &*opened;
            drop(opening.wait_while(is_open.lock().unwrap(), |is_open| !*is_open).unwrap());
            if target == "/half" {
                exchange.write(b" done");
                return Then::KeepAlive;
            }
            exchange.answer(200, &[], b"half done")
        });
        Self { upstream, arrivals, gate }
    }

    fn wait_arrived(&self, count: usize) {
        for _ in 0..count {
            self.arrivals.recv_timeout(PATIENCE).expect("a held request");
        }
    }

    fn release(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

impl Drop for HoldingUpstream {
    fn drop(&mut self) {
        self.release();
    }
}

/// One of the gateways behind the load balancer.
struct Member {
    gateway: Gateway,
    tunnels: [Tunnel; 2],
    addresses: [SocketAddr; 3],
}

impl Member {
    fn start(upstream: &RecordingUpstream, authority: &Authority, shutdown: &str) -> Self {
        let text = format!("{}shutdown: {shutdown}\naccessLog: {{ level: Off }}\n", tenant_config(upstream, ""));
        let gateway = Gateway::start(&config_with_tls(&text), &authority.issue(&[HOST]).files());
        let [plain, secure] = gateway.data_listeners()[..] else { panic!("two listeners") };
        let tunnels = ["http/1.1", "h2"].map(|protocol| Tunnel::with_protocol(protocol, secure, HOST, authority));
        let addresses = [plain, tunnels[0].address, tunnels[1].address];
        Self { gateway, tunnels, addresses }
    }
}

/// State shared by the clients.
struct Fleet {
    addresses: [[SocketAddr; 3]; 2],
    /// Readiness of the first gateway. The second one is always ready.
    is_ready: AtomicBool,
    is_over: AtomicBool,
    /// Answers by gateway and transport.
    answers: [[AtomicU64; 3]; 2],
    /// Answers that came from the upstream.
    forwarded: AtomicUsize,
}

impl Fleet {
    fn of(members: [&Member; 2]) -> Self {
        let addresses = members.map(|member| member.addresses);
        Self {
            addresses,
            is_ready: true.into(),
            is_over: false.into(),
            answers: Default::default(),
            forwarded: 0.into(),
        }
    }

    /// Chooses the gateway for the next connection.
    fn pick(&self) -> usize {
        usize::from(!self.is_ready.load(SeqCst))
    }

    fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }

    /// Checks that an answer is whole, and counts it.
    fn take(&self, which: usize, transport: Transport, answer: &Response) {
        let whole = (answer.status, answer.text());
        let is_forwarded = whole == (200, "hello".to_owned());
        assert!(is_forwarded || whole == (204, String::new()), "{transport:?} {which}: {answer:?}");
        assert_eq!(answer.headers.one("access-control-allow-origin"), ORIGIN);
        self.forwarded.fetch_add(usize::from(is_forwarded), SeqCst);
        self.answers[which][transport as usize].fetch_add(1, SeqCst);
    }

    /// Waits until a gateway has given `ANSWERS` more answers over each transport.
    fn wait_answers(&self, which: usize) {
        let wanted = self.answers[which].each_ref().map(|count| count.load(SeqCst) + ANSWERS);
        let deadline = Instant::now() + PATIENCE;
        while self.answers[which].iter().zip(wanted).any(|(count, wanted)| count.load(SeqCst) < wanted) {
            assert!(Instant::now() < deadline, "no load on {which}: {:?}", self.answers);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Probes the readiness of the first gateway until it is not ready.
    fn probe(&self, admin: SocketAddr) {
        let probe = request("GET", "/readyz", &admin.to_string(), &[("Connection", "close")], b"");
        while !self.is_over() {
            if Connection::ask(admin, &probe).expect("an answer to the probe").status != 200 {
                return self.is_ready.store(false, SeqCst);
            }
            thread::sleep(PROBE);
        }
    }

    /// Sends requests over one connection until an answer has `Connection: close`, then over the
    /// next.
    fn send_requests(&self, transport: Transport) {
        let requests = REQUESTS.map(|(method, fields, body)| request(method, "/", HOST, fields, body));
        let mut requests = requests.iter().cycle();
        while !self.is_over() {
            let which = self.pick();
            let mut connection = Connection::open(self.addresses[which][transport as usize]);
            for request in &mut requests {
                let answer =
                    connection.exchange(request).unwrap_or_else(|error| panic!("{transport:?} {which}: {error:?}"));
                self.take(which, transport, &answer);
                if is_last(&answer) {
                    assert!(connection.is_at_end(), "{transport:?} {which}: bytes after the last answer");
                    break;
                }
                if self.is_over() {
                    return;
                }
            }
        }
    }

    /// Sends concurrent requests over HTTP/2 until the connection accepts no more, then over the
    /// next.
    fn send_requests_http2(&self) {
        while !self.is_over() {
            let which = self.pick();
            let client = Http2::open(self.addresses[which][Transport::Http2 as usize]);
            while self.send_concurrently(&client, which) && !self.is_over() {}
        }
    }

    /// Sends concurrent requests. Returns false if the connection accepts no more.
    fn send_concurrently(&self, client: &Http2, which: usize) -> bool {
        let begun = REQUESTS.map(|(method, fields, body)| begin(client, method, "/", fields, body));
        let mut goes_on = true;
        for one in begun {
            match one.and_then(|begun| client.answer(begun.answer)) {
                Ok(answer) => self.take(which, Transport::Http2, &answer),
                // GOAWAY with NO_ERROR: the request was not processed, which the upstream's count
                // confirms.
                Err(error) if is_graceful_goaway(&error) => goes_on = false,
                Err(error) => panic!("HTTP/2 {which}: {error}"),
            }
        }
        goes_on
    }
}

fn begin(
    client: &Http2,
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
    body: &'static [u8],
) -> Result<OpenRequest, h2::Error> {
    let mut begun = client.begin(http2_request(method, target, HOST, fields), body.is_empty())?;
    if !body.is_empty() {
        begun.body.send_data(body.into(), true)?;
    }
    Ok(begun)
}

fn is_graceful_goaway(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}

fn is_last(answer: &Response) -> bool {
    answer.headers.all("connection").iter().any(|option| option.eq_ignore_ascii_case("close"))
}

/// Sends a held request over HTTP/1.1. It must get its whole answer, and the connection then ends.
fn expect_held_answer(address: SocketAddr, target: &str) {
    let get = request("GET", target, HOST, &[("Origin", ORIGIN)], b"");
    let mut connection = Connection::open(address);
    let answer = connection.exchange(&get).unwrap_or_else(|error| panic!("{target}: {error:?}"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "half done"), "{answer:?}");
    assert!(connection.is_at_end());
}

/// Sends the held requests on one HTTP/2 connection, and further requests until it accepts no more.
fn expect_held_answers_http2(fleet: &Fleet) {
    let mut client = Http2::open(fleet.addresses[0][Transport::Http2 as usize]);
    let held = HELD.map(|target| begin(&client, "GET", target, &[("Origin", ORIGIN)], b"").unwrap());
    while fleet.send_concurrently(&client, 0) {}
    for begun in held {
        let answer = client.answer(begun.answer).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "half done"), "{answer:?}");
    }
    client.wait_for_end().unwrap();
}

/// Ends the clients when the test ends or fails.
struct EndOnDrop<'a>(&'a Fleet);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, SeqCst);
    }
}

#[test]
fn stop_under_load_fails_no_request() {
    let (holding, authority) = (HoldingUpstream::start(), Authority::new("ours"));
    let start = || Member::start(&holding.upstream, &authority, "{ drainDelay: 1s, grace: 30s }");
    let (mut first, second) = (start(), start());
    let fleet = Fleet::of([&first, &second]);
    let plain = fleet.addresses[0][0];
    thread::scope(|scope| {
        let fleet = &fleet;
        let _over = EndOnDrop(fleet);
        // Released on failure too, otherwise the scope would wait for the held requests.
        let _released = ReleaseOnDrop(&holding);
        for _ in 0..CLIENTS {
            scope.spawn(move || fleet.send_requests(Transport::Plain));
            scope.spawn(move || fleet.send_requests(Transport::Tls));
            scope.spawn(move || fleet.send_requests_http2());
        }
        for target in HELD {
            scope.spawn(move || expect_held_answer(fleet.addresses[0][Transport::Plain as usize], target));
            scope.spawn(move || expect_held_answer(fleet.addresses[0][Transport::Tls as usize], target));
        }
        scope.spawn(move || expect_held_answers_http2(fleet));
        let admin = first.gateway.admin;
        scope.spawn(move || fleet.probe(admin));
        holding.wait_arrived(TRANSPORTS.len() * HELD.len());
        fleet.wait_answers(0);

        let stopped = Instant::now();
        first.gateway.process.signal(Signal::TERM);
        while TcpStream::connect(plain).is_ok() {
            assert!(stopped.elapsed() < PATIENCE, "still accepting");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(stopped.elapsed() >= Duration::from_secs(1), "closed after {:?}", stopped.elapsed());
        assert!(!fleet.is_ready.load(SeqCst), "the listeners closed before the readiness probe failed");
        // Other clients use the second gateway now, and the held requests are finished here.
        fleet.wait_answers(1);
        assert!(first.gateway.process.is_running());
        holding.release();
        let status = first.gateway.process.wait_at_most(Duration::from_secs(10));
        assert_eq!(status.code(), Some(0), "{}", first.gateway.process.stderr());
        fleet.wait_answers(1);
    });
    let log = first.gateway.process.stderr();
    assert!(log.contains("left=0") && !log.contains("ERROR"), "{log}");
    assert_eq!(
        first.tunnels.each_ref().map(Tunnel::unclean_ends),
        [0, 0],
        "a connection ended without a TLS close_notify"
    );
    // The upstream got one request per answer: a request without an answer never arrived there.
    let held = TRANSPORTS.len() * HELD.len();
    assert_eq!(holding.upstream.total(), fleet.forwarded.load(SeqCst) + held);
    assert_eq!(holding.upstream.count("OPTIONS"), 0);
}

/// Releases the held requests on drop.
struct ReleaseOnDrop<'a>(&'a HoldingUpstream);

impl Drop for ReleaseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

#[test]
fn sigint_under_load_closes_all_connections_at_once() {
    let (holding, authority) = (HoldingUpstream::start(), Authority::new("ours"));
    let mut member = Member::start(&holding.upstream, &authority, "{ drainDelay: 10s, grace: 30s }");
    let get = |target| request("GET", target, HOST, &[("Origin", ORIGIN)], b"");
    let mut held: Vec<Connection> = [Transport::Plain, Transport::Tls]
        .into_iter()
        .flat_map(|transport| HELD.map(|target| (transport, target)))
        .map(|(transport, target)| {
            let mut connection = Connection::open(member.addresses[transport as usize]);
            connection.send(&get(target)).unwrap();
            connection
        })
        .collect();
    let client = Http2::open(member.addresses[Transport::Http2 as usize]);
    let streams = HELD.map(|target| begin(&client, "GET", target, &[("Origin", ORIGIN)], b"").unwrap());
    holding.wait_arrived(TRANSPORTS.len() * HELD.len());

    let stopped = Instant::now();
    member.gateway.process.signal(Signal::INT);
    let status = member.gateway.process.wait_at_most(Duration::from_secs(5));
    assert_eq!(status.code(), Some(0), "{}", member.gateway.process.stderr());
    assert!(stopped.elapsed() < Duration::from_secs(3), "{:?}", stopped.elapsed());
    for connection in &mut held {
        let answer = connection.answer_to(b"GET");
        assert!(answer.is_err(), "{answer:?}");
    }
    for begun in streams {
        let answer = client.answer(begun.answer);
        assert!(answer.is_err(), "{answer:?}");
    }
}
