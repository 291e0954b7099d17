//! A server that follows a script, records every byte, and accepts only strictly valid requests.
//!
//! The script runs after the head of every request. What it leaves of the request is read as the
//! next one, as by a server that expects no body. Each connection has a thread. A panic in it, of
//! the script or of the parser, is a violation, which fails the test at its end.

use std::any::Any;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use socket2::{Domain, Socket, Type};

use crate::process::tests::http1::{Fields, head_len, parse_request_head, read_body, read_until};
use crate::process::tests::streams::{ByteStream, PATIENCE, Transport};

/// As over Ethernet: with the 64 KiB segments of loopback, the kernels would buffer megabytes.
const SEGMENT_LEN: u32 = 1_460;
const BUFFER_LEN: usize = 16 * 1024;

/// What becomes of a connection after a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next request is read.
    Request,
    /// It ends in order, over TLS with `close_notify`.
    End,
    /// It ends without `close_notify`.
    Cut,
    /// It is reset.
    Reset,
}

type Script = dyn Fn(&mut ServerExchange<'_>) -> Next + Send + Sync;

pub(super) struct StrictServer {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<RecordedRequest>>,
    violations: Mutex<Vec<String>>,
    /// The bytes of each connection.
    received: Mutex<Vec<Vec<u8>>>,
    sockets: Mutex<Vec<TcpStream>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Scripts that run.
    running: AtomicUsize,
    is_stopping: AtomicBool,
}

/// The head of a request.
#[derive(Clone, Debug)]
pub(super) struct RecordedRequest {
    pub(super) line: String,
    pub(super) fields: Fields,
    /// The number of requests before it on its connection.
    pub(super) nth: usize,
}

impl StrictServer {
    pub(super) fn start(
        transport: Transport,
        script: impl Fn(&mut ServerExchange<'_>) -> Next + Send + Sync + 'static,
    ) -> Self {
        Self::listening(TcpListener::bind("127.0.0.1:0").unwrap(), transport, script)
    }

    /// With connections that hold little of what the script does not read.
    pub(super) fn with_small_buffers(
        transport: Transport,
        script: impl Fn(&mut ServerExchange<'_>) -> Next + Send + Sync + 'static,
    ) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_tcp_mss(SEGMENT_LEN).unwrap();
        socket.set_recv_buffer_size(BUFFER_LEN).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(16).unwrap();
        Self::listening(socket.into(), transport, script)
    }

    fn listening(
        listener: TcpListener,
        transport: Transport,
        script: impl Fn(&mut ServerExchange<'_>) -> Next + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let (accepting, script) = (Arc::clone(&shared), Arc::new(script));
        thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                if accepting.is_stopping.load(SeqCst) {
                    return;
                }
                let (shared, script) = (Arc::clone(&accepting), Arc::clone(&script));
                let connection = shared.open(&tcp);
                let serving = thread::spawn(move || {
                    if let Some(stream) = transport.accept(tcp) {
                        serve(stream, connection, shared, &*script);
                    }
                });
                accepting.threads.lock().unwrap().push(serving);
            }
        });
        StrictServer { address, shared }
    }

    /// The requests so far, in order of arrival.
    pub(super) fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The number of requests before the last one on its connection.
    pub(super) fn last_nth(&self) -> usize {
        self.requests().last().expect("a request").nth
    }

    /// The bytes of all connections.
    pub(super) fn received(&self) -> Vec<Vec<u8>> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Waits until no script runs.
    #[track_caller]
    pub(super) fn wait_for_scripts(&self) {
        // Scripts have limits of their own for their waits.
        let deadline = Instant::now() + PATIENCE * 2;
        while self.shared.running.load(SeqCst) > 0 {
            assert!(Instant::now() < deadline, "a script of the server does not end");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Closes all connections. Returns what was wrong.
    pub(super) fn stop(&self) -> Vec<String> {
        self.shared.is_stopping.store(true, SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
        for socket in self.shared.sockets.lock().unwrap().drain(..) {
            let _closed_already = socket.shutdown(Shutdown::Both);
        }
        for serving in std::mem::take(&mut *self.shared.threads.lock().unwrap()) {
            serving.join().unwrap();
        }
        self.shared.violations.lock().unwrap().clone()
    }
}

impl Shared {
    /// Registers a connection. Returns its number.
    fn open(&self, tcp: &TcpStream) -> usize {
        self.sockets.lock().unwrap().push(tcp.try_clone().unwrap());
        let mut received = self.received.lock().unwrap();
        received.push(Vec::new());
        received.len() - 1
    }

    fn close(&self, peer: Option<SocketAddr>) {
        self.sockets.lock().unwrap().retain(|socket| socket.peer_addr().ok() != peer);
    }
}

fn serve(stream: ByteStream, number: usize, shared: Arc<Shared>, script: &Script) {
    let recorder = Recorder { stream, number, shared: Arc::clone(&shared) };
    let mut connection = ServerConnection { stream: recorder, received: Vec::new(), requests: 0 };
    let served = catch_unwind(AssertUnwindSafe(|| serve_requests(&mut connection, script)));
    let next = served.unwrap_or_else(|panic| {
        shared.violations.lock().unwrap().push(format!("connection {number}: {}", text_of(&*panic)));
        Next::Reset
    });
    let mut stream = connection.stream.stream;
    match next {
        Next::Request => {}
        Next::End => stream.end(),
        Next::Cut => stream.cut(),
        Next::Reset => {
            shared.close(stream.tcp().peer_addr().ok());
            return stream.reset();
        }
    }
    // What comes yet is of no concern. To close now could reset the connection.
    let _ended = stream.read_to_end(&mut Vec::new());
    shared.close(stream.tcp().peer_addr().ok());
}

fn serve_requests(connection: &mut ServerConnection, script: &Script) -> Next {
    let shared = Arc::clone(&connection.stream.shared);
    while let Some(head) = connection.next_head() {
        let (line, fields) = parse_request_head(&head);
        let request = RecordedRequest { line, fields, nth: connection.requests };
        connection.requests += 1;
        shared.running.fetch_add(1, SeqCst);
        let _running = Running(&shared.running);
        shared.requests.lock().unwrap().push(request.clone());
        match script(&mut ServerExchange { request, connection }) {
            Next::Request => {}
            next @ (Next::End | Next::Cut | Next::Reset) => return next,
        }
    }
    Next::Request
}

struct Running<'r>(&'r AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

struct ServerConnection {
    stream: Recorder,
    /// Read, and not used yet.
    received: Vec<u8>,
    requests: usize,
}

impl ServerConnection {
    /// The next head. `None` if the connection ends before.
    fn next_head(&mut self) -> Option<Vec<u8>> {
        match read_until(&mut self.stream, &mut self.received, head_len) {
            Some(len) => Some(self.received.drain(..len).collect()),
            None => {
                let left = self.received.escape_ascii();
                assert!(self.received.is_empty(), "bytes that are no request: {left}");
                None
            }
        }
    }

    /// Reads more.
    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 8192];
        let len = self.stream.read(&mut piece)?;
        self.received.extend_from_slice(&piece[..len]);
        Ok(len)
    }
}

/// Records what is read.
struct Recorder {
    stream: ByteStream,
    /// The number of the connection.
    number: usize,
    shared: Arc<Shared>,
}

impl Read for Recorder {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.stream.read(buf)?;
        self.shared.received.lock().unwrap()[self.number].extend_from_slice(&buf[..len]);
        Ok(len)
    }
}

/// One request, and the connection to answer it on.
pub(super) struct ServerExchange<'c> {
    request: RecordedRequest,
    connection: &'c mut ServerConnection,
}

impl ServerExchange<'_> {
    pub(super) fn method(&self) -> &str {
        self.request.line.split(' ').next().unwrap_or_default()
    }

    pub(super) fn target(&self) -> &str {
        self.request.line.split(' ').nth(1).unwrap_or_default()
    }

    pub(super) fn fields(&self) -> &Fields {
        &self.request.fields
    }

    /// The number of requests before this one on the connection.
    pub(super) fn nth(&self) -> usize {
        self.request.nth
    }

    /// Reads the whole body.
    pub(super) fn read_body(&mut self) -> Vec<u8> {
        let ServerConnection { stream, received, .. } = &mut *self.connection;
        read_body(stream, received, &self.request.fields).expect("a whole body")
    }

    /// Waits until this many bytes after the head have come, framing included. They are not used
    /// up.
    pub(super) fn wait_for_bytes(&mut self, len: usize) {
        while self.connection.received.len() < len {
            let read = self.connection.fill().expect("more of the body");
            assert_ne!(read, 0, "ended after {}", self.connection.received.escape_ascii());
        }
    }

    /// Reads until the gateway ends the connection. Returns what came after the head, framing
    /// included, and was not used.
    pub(super) fn read_to_end(&mut self) -> Vec<u8> {
        loop {
            match self.connection.fill() {
                Ok(1..) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("the gateway keeps the connection, after {}", self.connection.received.escape_ascii());
                }
                // A reset ends it as well.
                Ok(_) | Err(_) => return std::mem::take(&mut self.connection.received),
            }
        }
    }

    /// Whether bytes have come that were not used.
    pub(super) fn has_more(&mut self) -> bool {
        let peeked = recv(self.stream().tcp(), &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !self.connection.received.is_empty() || peeked.is_ok_and(|(_, len)| len > 0)
    }

    /// Asserts that nothing more comes, and that the gateway ends the connection.
    pub(super) fn assert_ends(&mut self) {
        let left = self.read_to_end();
        assert!(left.is_empty(), "more came: {}", left.escape_ascii());
    }

    /// Writes bytes as they are. The gateway may have ended the connection.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let _sent_or_gone = self.stream().write_all(bytes);
    }

    /// Answers with the target.
    pub(super) fn answer_target(&mut self) {
        let (target, is_head) = (self.target().to_owned(), self.method() == "HEAD");
        let body = if is_head { "" } else { &target };
        self.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", target.len()).as_bytes());
    }

    /// The connection itself.
    pub(super) fn stream(&mut self) -> &mut ByteStream {
        &mut self.connection.stream.stream
    }
}
