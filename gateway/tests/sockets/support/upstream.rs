//! An upstream that records the very bytes it was sent, and answers as its script says, faults included.
//!
//! A script is called at the head of every request. It reads the body if it wants to, writes any bytes, and says
//! what becomes of the connection. One thread a connection; all of them end when the upstream is dropped.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::wire::{Headers, text};

/// Recorded of one connection at most; a streamed body is counted whole but not kept.
const RAW_BYTES_MAX: usize = 1024 * 1024;

/// One request, as it arrived.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) connection: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Headers,
}

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next request may come.
    KeepAlive,
    /// It is closed (FIN).
    Close,
    /// It is reset (RST).
    Reset,
    /// It stays open, and nothing more is said.
    Stall,
}

/// One request being answered.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) seen: Seen,
    stream: TcpStream,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
    body_read: bool,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    raw: Mutex<Vec<Vec<u8>>>,
    streams: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    stopping: AtomicBool,
}

/// The upstream.
#[derive(Debug)]
pub(crate) struct RecordingUpstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl RecordingUpstream {
    /// Answers every request as `script` does.
    pub(crate) fn start(script: impl Fn(&mut Exchange) -> Then + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), script)
    }

    /// The same at a certain address, which must be free.
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
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many requests of that method came.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.shared.seen.lock().unwrap().iter().filter(|seen| seen.method == method).count()
    }

    /// How many requests came.
    pub(crate) fn total(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The bytes that came, by connection.
    pub(crate) fn raw(&self) -> Vec<Vec<u8>> {
        self.shared.raw.lock().unwrap().clone()
    }
}

impl Drop for RecordingUpstream {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees that it is over.
        drop(TcpStream::connect(self.address));
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Exchange {
    /// Reads the whole body and gives its length and its first bytes.
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

    /// The next piece of the body; `None` at its end.
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

    /// Reads on; `false` when the connection ended.
    fn fill(&mut self) -> bool {
        let mut piece = vec![0; 64 * 1024];
        let length = self.stream.read(&mut piece).unwrap_or(0);
        self.buffer.extend(&piece[..length]);
        let mut raw = self.shared.raw.lock().unwrap();
        let raw = &mut raw[self.seen.connection];
        raw.extend(piece[..length].iter().take(RAW_BYTES_MAX.saturating_sub(raw.len())));
        length > 0
    }

    /// Writes bytes as they are. A peer that is gone is no failure of the upstream.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// A whole, well-formed answer; the body of the request is read first.
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

    /// Sends back whatever comes, until the other side ends: what an upgraded connection does here.
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

    /// Reads on until the other side ends.
    pub(crate) fn wait_for_end(&mut self) {
        while self.fill() {}
    }

    /// Whether nothing more comes for that long.
    pub(crate) fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let is_silent = self.buffer.is_empty() && self.stream.peek(&mut [0]).is_err();
        self.stream.set_read_timeout(None).unwrap();
        is_silent
    }

    /// The next request on this connection; `None` when it ended.
    fn next_head(&mut self) -> Option<Seen> {
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
                return Some(Seen { connection: self.seen.connection, method, target, headers });
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
    let seen = Seen { connection, ..Seen::default() };
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
            // Reads on, so that it ends with the other side or with the upstream.
            Then::Stall => exchange.wait_for_end(),
        }
    }
    let _ = exchange.stream.shutdown(Shutdown::Both);
}

/// A close with data outstanding and no time to linger is a reset. The clone kept for stopping must go first.
fn reset(exchange: &Exchange) {
    let peer = exchange.stream.peer_addr().ok();
    exchange.shared.streams.lock().unwrap().retain(|kept| kept.peer_addr().ok() != peer);
    SockRef::from(&exchange.stream).set_linger(Some(Duration::ZERO)).unwrap();
}
