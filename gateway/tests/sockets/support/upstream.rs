//! An HTTP/1.1 upstream that records the received bytes and answers by a script, faults included.
//!
//! The script runs after the head of every request. It may read the body, writes any bytes, and
//! returns what happens to the connection. Each connection has a thread. All of them end when the
//! upstream is dropped.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::wire::{Headers, text};

/// The most bytes recorded of one connection. Longer bodies are counted but not recorded.
const RAW_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The head of a request as it arrived.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReceivedRequest {
    pub(crate) connection: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Headers,
}

/// The action on the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Reads the next request.
    KeepAlive,
    /// Closes it (FIN).
    Close,
    /// Resets it (RST).
    Reset,
    /// Keeps it open and sends nothing more.
    Stall,
}

/// One request and the connection to answer it on.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) seen: ReceivedRequest,
    stream: TcpStream,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
    body_read: bool,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Vec<ReceivedRequest>>,
    raw: Mutex<Vec<Vec<u8>>>,
    streams: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    stopping: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct RecordingUpstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl RecordingUpstream {
    /// Runs `script` for every request.
    pub(crate) fn start(script: impl Fn(&mut Exchange) -> Then + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), script)
    }

    /// Like [`RecordingUpstream::start`], at a given address, which must be free.
    pub(crate) fn start_at(
        address: SocketAddr,
        script: impl Fn(&mut Exchange) -> Then + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting, &Arc::new(script)));
        Self { address, shared }
    }

    /// Answers every request with 200 and `body`.
    pub(crate) fn answering(body: &'static str) -> Self {
        Self::start(move |exchange| exchange.answer(200, &[], body.as_bytes()))
    }

    /// Every request so far, in order of arrival.
    pub(crate) fn seen(&self) -> Vec<ReceivedRequest> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The number of requests with that method so far.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.shared.seen.lock().unwrap().iter().filter(|seen| seen.method == method).count()
    }

    /// The number of requests so far.
    pub(crate) fn total(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The received bytes of each connection.
    pub(crate) fn raw(&self) -> Vec<Vec<u8>> {
        self.shared.raw.lock().unwrap().clone()
    }
}

impl Drop for RecordingUpstream {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, so that it reads `stopping`.
        drop(TcpStream::connect(self.address));
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Exchange {
    /// Reads the whole body. Returns its length and its first bytes.
    pub(crate) fn read_body(&mut self) -> (u64, Vec<u8>) {
        self.body_read = true;
        let mut kept = Vec::new();
        let mut total = 0;
        while let Some(piece) = self.piece(total) {
            total += piece.len() as u64;
            kept.extend(piece.iter().take(RAW_BYTES_MAX.saturating_sub(kept.len())));
        }
        (total, kept)
    }

    /// Reads the next piece of the body. `None`: the body has ended.
    fn piece(&mut self, so_far: u64) -> Option<Vec<u8>> {
        if self.seen.headers.has("transfer-encoding") {
            return self.chunk();
        }
        let length: u64 = self.seen.headers.all("content-length").first().map_or(0, |length| length.parse().unwrap());
        let left = usize::try_from(length - so_far).unwrap();
        if left == 0 || (self.buffer.is_empty() && !self.fill()) {
            return None;
        }
        let rest = self.buffer.split_off(left.min(self.buffer.len()));
        Some(std::mem::replace(&mut self.buffer, rest))
    }

    fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = usize::from_str_radix(&self.line()?, 16).expect("a chunk size");
        while self.buffer.len() < size + 2 {
            if !self.fill() {
                return None;
            }
        }
        let mut rest = self.buffer.split_off(size);
        assert_eq!(&rest[..2], b"\r\n", "the end of a chunk");
        rest.drain(..2);
        let chunk = std::mem::replace(&mut self.buffer, rest);
        (size > 0).then_some(chunk)
    }

    fn line(&mut self) -> Option<String> {
        let end = loop {
            match self.buffer.windows(2).position(|window| window == b"\r\n") {
                Some(end) => break end,
                None if self.fill() => {}
                None => return None,
            }
        };
        let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
        Some(text(&line))
    }

    /// Reads more bytes. `false`: the connection has ended.
    fn fill(&mut self) -> bool {
        let mut piece = vec![0; 64 * 1024];
        let length = self.stream.read(&mut piece).unwrap_or(0);
        self.buffer.extend(&piece[..length]);
        let mut raw = self.shared.raw.lock().unwrap();
        let raw = &mut raw[self.seen.connection];
        raw.extend(piece[..length].iter().take(RAW_BYTES_MAX.saturating_sub(raw.len())));
        length > 0
    }

    /// Writes bytes as they are. `false`: the connection has ended, which is not a failure of the
    /// upstream.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends a whole, well-formed answer, after reading the body of the request.
    pub(crate) fn answer(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> Then {
        if !self.body_read {
            self.read_body();
        }
        let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !matches!(status, 204 | 304) {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.write(head.as_bytes());
        if self.seen.method != "HEAD" && !matches!(status, 204 | 304) {
            self.write(body);
        }
        Then::KeepAlive
    }

    /// Echoes all bytes until the other side closes, as on an upgraded connection.
    pub(crate) fn echo(&mut self) -> Then {
        loop {
            let piece = std::mem::take(&mut self.buffer);
            if !piece.is_empty() {
                self.write(&piece);
            }
            if !self.fill() {
                return Then::Close;
            }
        }
    }

    /// Closes the connection at once, before the end of the script.
    pub(crate) fn close(&mut self) {
        self.stream.shutdown(Shutdown::Both).unwrap();
    }

    /// Reads until the other side closes.
    pub(crate) fn wait_for_end(&mut self) {
        while self.fill() {}
    }

    /// Whether no bytes arrive for that time.
    pub(crate) fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let is_silent = self.buffer.is_empty() && self.stream.peek(&mut [0]).is_err();
        self.stream.set_read_timeout(None).unwrap();
        is_silent
    }

    /// Reads the next head on this connection. `None`: the connection has ended.
    fn next_head(&mut self) -> Option<ReceivedRequest> {
        let first = loop {
            let line = self.line()?;
            if !line.is_empty() {
                break line;
            }
        };
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next()?, words.next()?);
        let mut headers = Headers::default();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(ReceivedRequest { connection: self.seen.connection, method, target, headers });
            }
            let (name, value) = line.split_once(':').expect("a field");
            headers.0.push((name.to_owned(), value.trim().to_owned()));
        }
    }
}

type Script = dyn Fn(&mut Exchange) -> Then + Send + Sync;

fn accept(
    listener: &TcpListener,
    shared: &Arc<Shared>,
    script: &Arc<impl Fn(&mut Exchange) -> Then + Send + Sync + 'static>,
) {
    for stream in listener.incoming().map_while(Result::ok) {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let script: Arc<Script> = Arc::clone(script) as Arc<Script>;
        let exchange = open(stream, shared);
        thread::spawn(move || serve(exchange, &*script));
    }
}

fn open(stream: TcpStream, shared: &Arc<Shared>) -> Exchange {
    stream.set_nodelay(true).unwrap();
    shared.streams.lock().unwrap().push(stream.try_clone().unwrap());
    shared.raw.lock().unwrap().push(Vec::new());
    let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
    let seen = ReceivedRequest { connection, ..ReceivedRequest::default() };
    Exchange { seen, stream, buffer: Vec::new(), shared: Arc::clone(shared), body_read: false }
}

fn serve(mut exchange: Exchange, script: &Script) {
    while let Some(seen) = exchange.next_head() {
        exchange.shared.seen.lock().unwrap().push(seen.clone());
        exchange.seen = seen;
        exchange.body_read = false;
        match script(&mut exchange) {
            Then::KeepAlive => {}
            Then::Close => break,
            Then::Reset => return reset(&exchange),
            // Reads, so that the thread ends with the connection.
            Then::Stall => exchange.wait_for_end(),
        }
    }
    let _ = exchange.stream.shutdown(Shutdown::Both);
}

/// Resets the connection: with a linger time of zero, a close sends RST. The clone in `streams`
/// must be dropped first.
fn reset(exchange: &Exchange) {
    let peer = exchange.stream.peer_addr().ok();
    exchange.shared.streams.lock().unwrap().retain(|kept| kept.peer_addr().ok() != peer);
    SockRef::from(&exchange.stream).set_linger(Some(Duration::ZERO)).unwrap();
}
