//! Stops under load, in clear text and over TLS, as clients and a balancer see them: after SIGTERM each request has its whole answer, from
//! this gateway or from the one beside it; after SIGINT everybody is let go at once.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use h2::Reason;
use rustix::process::Signal;

use crate::support::{
    Authority, Begun, Connection, Gateway, HOST, Http2, ORIGIN, PATIENCE, RecordingUpstream, Response, Then, Tunnel,
    config_with_tls, http2_request, request, tenant_config,
};

/// Clients that keep asking, each way.
const CLIENTS: usize = 3;
/// Answers of a gateway each way, for there to be load.
const ANSWERS: u64 = 50;
/// How often a balancer looks.
const PROBE: Duration = Duration::from_millis(50);
/// Requests that wait at the upstream: before their answer, and in the middle of it.
const HELD: [&str; 2] = ["/held", "/half"];

/// How a gateway is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Tls,
    Http2,
}

const WAYS: [Way; 3] = [Way::Plain, Way::Tls, Way::Http2];

/// A method, fields and a body.
type Asked = (&'static str, &'static [(&'static str, &'static str)], &'static [u8]);

/// What each client asks for, over and over.
const REQUESTS: [Asked; 3] = [
    ("GET", &[("Origin", ORIGIN)], b""),
    ("OPTIONS", &[("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")], b""),
    ("POST", &[("Origin", ORIGIN)], &[b'x'; 1024]),
];

/// An upstream that holds some requests until they are released.
struct Holding {
    upstream: RecordingUpstream,
    arrivals: Receiver<()>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Holding {
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
            self.arrivals.recv_timeout(PATIENCE).expect("a request that is held");
        }
    }

    fn release(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.release();
    }
}

/// One of the gateways that a balancer has.
struct Member {
    gateway: Gateway,
    tunnels: [Tunnel; 2],
    ways: [SocketAddr; 3],
}

impl Member {
    fn start(upstream: &RecordingUpstream, authority: &Authority, shutdown: &str) -> Self {
        let text = format!("{}shutdown: {shutdown}\naccessLog: {{ level: Off }}\n", tenant_config(upstream, ""));
        let gateway = Gateway::start(&config_with_tls(&text), &authority.issue(&[HOST]).files());
        let [plain, secure] = gateway.data_listeners()[..] else { panic!("two listeners") };
        let tunnels = ["http/1.1", "h2"].map(|protocol| Tunnel::speaking(protocol, secure, HOST, authority));
        let ways = [plain, tunnels[0].address, tunnels[1].address];
        Self { gateway, tunnels, ways }
    }
}

/// What the clients know and tell.
struct Fleet {
    ways: [[SocketAddr; 3]; 2],
    /// Whether the first is; the other one always is.
    is_ready: AtomicBool,
    is_over: AtomicBool,
    /// By gateway and way.
    answers: [[AtomicU64; 3]; 2],
    /// Answers of the upstream's.
    forwarded: AtomicUsize,
}

impl Fleet {
    fn of(members: [&Member; 2]) -> Self {
        let ways = members.map(|member| member.ways);
        Self { ways, is_ready: true.into(), is_over: false.into(), answers: Default::default(), forwarded: 0.into() }
    }

    /// The gateway for the next connection.
    fn pick(&self) -> usize {
        usize::from(!self.is_ready.load(SeqCst))
    }

    fn is_over(&self) -> bool {
        self.is_over.load(SeqCst)
    }

    /// Takes an answer, which must be whole.
    fn take(&self, which: usize, way: Way, answer: &Response) {
        let whole = (answer.status, answer.text());
        let is_forwarded = whole == (200, "hello".to_owned());
        assert!(is_forwarded || whole == (204, String::new()), "{way:?} {which}: {answer:?}");
        assert_eq!(answer.headers.one("access-control-allow-origin"), ORIGIN);
        self.forwarded.fetch_add(usize::from(is_forwarded), SeqCst);
        self.answers[which][way as usize].fetch_add(1, SeqCst);
    }

    /// Waits until a gateway has answered so many more, each way.
    fn wait_answers(&self, which: usize) {
        let wanted = self.answers[which].each_ref().map(|count| count.load(SeqCst) + ANSWERS);
        let deadline = Instant::now() + PATIENCE;
        while self.answers[which].iter().zip(wanted).any(|(count, wanted)| count.load(SeqCst) < wanted) {
            assert!(Instant::now() < deadline, "no load on {which}: {:?}", self.answers);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks whether the first is ready, until it is not.
    fn probe(&self, admin: SocketAddr) {
        let probe = request("GET", "/readyz", &admin.to_string(), &[("Connection", "close")], b"");
        while !self.is_over() {
            if Connection::ask(admin, &probe).expect("an answer to the probe").status != 200 {
                return self.is_ready.store(false, SeqCst);
            }
            thread::sleep(PROBE);
        }
    }

    /// Asks over one connection until an answer says that it was the last, and then over the next.
    fn keep_asking(&self, way: Way) {
        let requests = REQUESTS.map(|(method, fields, body)| request(method, "/", HOST, fields, body));
        let mut requests = requests.iter().cycle();
        while !self.is_over() {
            let which = self.pick();
            let mut connection = Connection::open(self.ways[which][way as usize]);
            for request in &mut requests {
                let answer = connection.exchange(request).unwrap_or_else(|error| panic!("{way:?} {which}: {error:?}"));
                self.take(which, way, &answer);
                if is_last(&answer) {
                    assert!(connection.is_at_end(), "{way:?} {which}: more after the last answer");
                    break;
                }
                if self.is_over() {
                    return;
                }
            }
        }
    }

    /// The same over HTTP/2, some requests beside each other, until the connection takes no more.
    fn keep_asking_http2(&self) {
        while !self.is_over() {
            let which = self.pick();
            let client = Http2::open(self.ways[which][Way::Http2 as usize]);
            while self.ask_beside_each_other(&client, which) && !self.is_over() {}
        }
    }

    /// Whether more may be asked.
    fn ask_beside_each_other(&self, client: &Http2, which: usize) -> bool {
        let begun = REQUESTS.map(|(method, fields, body)| begin(client, method, "/", fields, body));
        let mut goes_on = true;
        for one in begun {
            match one.and_then(|begun| client.answer(begun.answer)) {
                Ok(answer) => self.take(which, Way::Http2, &answer),
                // It is certain never to have been served; the count of what the upstream saw holds that.
                Err(error) if is_told_to_go(&error) => goes_on = false,
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
) -> Result<Begun, h2::Error> {
    let mut begun = client.begin(http2_request(method, target, HOST, fields), body.is_empty())?;
    if !body.is_empty() {
        begun.body.send_data(body.into(), true)?;
    }
    Ok(begun)
}

fn is_told_to_go(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}

fn is_last(answer: &Response) -> bool {
    answer.headers.all("connection").iter().any(|option| option.eq_ignore_ascii_case("close"))
}

/// One request that is held, over HTTP/1.1. It has its whole answer, and the connection then ends.
fn be_held(address: SocketAddr, target: &str) {
    let get = request("GET", target, HOST, &[("Origin", ORIGIN)], b"");
    let mut connection = Connection::open(address);
    let answer = connection.exchange(&get).unwrap_or_else(|error| panic!("{target}: {error:?}"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "half done"), "{answer:?}");
    assert!(connection.is_at_end());
}

/// All of them on one connection, on which more is asked until it takes no more.
fn be_held_http2(fleet: &Fleet) {
    let mut client = Http2::open(fleet.ways[0][Way::Http2 as usize]);
    let held = HELD.map(|target| begin(&client, "GET", target, &[("Origin", ORIGIN)], b"").unwrap());
    while fleet.ask_beside_each_other(&client, 0) {}
    for begun in held {
        let answer = client.answer(begun.answer).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "half done"), "{answer:?}");
    }
    client.wait_for_end().unwrap();
}

/// Ends the clients when the test does, well or not.
struct EndsWith<'a>(&'a Fleet);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, SeqCst);
    }
}

#[test]
fn nobody_notices_a_stop_under_load() {
    let (holding, authority) = (Holding::start(), Authority::new("ours"));
    let start = || Member::start(&holding.upstream, &authority, "{ drainDelay: 1s, grace: 30s }");
    let (mut first, second) = (start(), start());
    let fleet = Fleet::of([&first, &second]);
    let plain = fleet.ways[0][0];
    thread::scope(|scope| {
        let fleet = &fleet;
        let _over = EndsWith(fleet);
        // Released whatever happens, or the scope would wait for those who wait.
        let _released = Released(&holding);
        for _ in 0..CLIENTS {
            scope.spawn(move || fleet.keep_asking(Way::Plain));
            scope.spawn(move || fleet.keep_asking(Way::Tls));
            scope.spawn(move || fleet.keep_asking_http2());
        }
        for target in HELD {
            scope.spawn(move || be_held(fleet.ways[0][Way::Plain as usize], target));
            scope.spawn(move || be_held(fleet.ways[0][Way::Tls as usize], target));
        }
        scope.spawn(move || be_held_http2(fleet));
        let admin = first.gateway.admin;
        scope.spawn(move || fleet.probe(admin));
        holding.wait_arrived(WAYS.len() * HELD.len());
        fleet.wait_answers(0);

        let told = Instant::now();
        first.gateway.process.signal(Signal::TERM);
        while TcpStream::connect(plain).is_ok() {
            assert!(told.elapsed() < PATIENCE, "still accepting");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(told.elapsed() >= Duration::from_secs(1), "closed after {:?}", told.elapsed());
        assert!(!fleet.is_ready.load(SeqCst), "closed before it said that it is not ready");
        // Everybody else has gone over to the other one, and what is held here is waited for.
        fleet.wait_answers(1);
        assert!(first.gateway.process.is_running());
        holding.release();
        let status = first.gateway.process.wait_at_most(Duration::from_secs(10));
        assert_eq!(status.code(), Some(0), "{}", first.gateway.process.stderr());
        fleet.wait_answers(1);
    });
    let said = first.gateway.process.stderr();
    assert!(said.contains("left=0") && !said.contains("ERROR"), "{said}");
    assert_eq!(first.tunnels.each_ref().map(Tunnel::unclean_ends), [0, 0], "ends that are not told within TLS");
    // The upstream was asked for each answer once, and for nothing else: what had no answer never came there.
    let held = WAYS.len() * HELD.len();
    assert_eq!(holding.upstream.total(), fleet.forwarded.load(SeqCst) + held);
    assert_eq!(holding.upstream.count("OPTIONS"), 0);
}

/// Lets go what is held.
struct Released<'a>(&'a Holding);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

#[test]
fn an_interrupt_lets_everybody_go_at_once() {
    let (holding, authority) = (Holding::start(), Authority::new("ours"));
    let mut member = Member::start(&holding.upstream, &authority, "{ drainDelay: 10s, grace: 30s }");
    let get = |target| request("GET", target, HOST, &[("Origin", ORIGIN)], b"");
    let mut held: Vec<Connection> = [Way::Plain, Way::Tls]
        .into_iter()
        .flat_map(|way| HELD.map(|target| (way, target)))
        .map(|(way, target)| {
            let mut connection = Connection::open(member.ways[way as usize]);
            connection.send(&get(target)).unwrap();
            connection
        })
        .collect();
    let client = Http2::open(member.ways[Way::Http2 as usize]);
    let streams = HELD.map(|target| begin(&client, "GET", target, &[("Origin", ORIGIN)], b"").unwrap());
    holding.wait_arrived(WAYS.len() * HELD.len());

    let told = Instant::now();
    member.gateway.process.signal(Signal::INT);
    let status = member.gateway.process.wait_at_most(Duration::from_secs(5));
    assert_eq!(status.code(), Some(0), "{}", member.gateway.process.stderr());
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
    for connection in &mut held {
        let answer = connection.answer_to(b"GET");
        assert!(answer.is_err(), "{answer:?}");
    }
    for begun in streams {
        let answer = client.answer(begun.answer);
        assert!(answer.is_err(), "{answer:?}");
    }
}
