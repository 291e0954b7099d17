//! Thousands of slow clients on the calling thread, each sending one byte a second.
//!
//! A client sends its burst at once, then single bytes until the gateway closes the connection. The
//! result has the time until the close and the bytes that the client received. A client closes its
//! connection only after its expected end.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tokio_rustls::TlsConnector;

use super::site::HOST;

/// The interval between two calls of the observer.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(50);
/// As over Ethernet: with the 64 KiB segments of loopback, the kernel would use buffers of
/// megabytes.
const SEGMENT_LEN: u32 = 1_460;
/// The receive buffer of a client, which fills when the client does not read.
const RECEIVE_LEN: u32 = 4 * 1024;

/// The behaviour of each client.
#[derive(Debug, Clone)]
pub(crate) struct SlowClient {
    /// A first request, answered with the body `hello` or with 204. Empty: no first request.
    pub(crate) answered: Vec<u8>,
    /// Bytes sent at once after all clients have received that answer.
    pub(crate) burst: Vec<u8>,
    /// Bytes sent after the burst, one a second, in a loop.
    pub(crate) dribble: &'static [u8],
    /// When the client reads.
    pub(crate) reads: ReadTiming,
    /// The expected time of the close, from the connect or, after a first answer, from the burst.
    pub(crate) ends: Range<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadTiming {
    AtOnce,
    /// After the latest expected close.
    TooLate,
}

/// How a client's connection ended.
#[derive(Debug)]
pub(crate) struct ConnectionEnd {
    pub(crate) after: Duration,
    pub(crate) received: Vec<u8>,
}

/// Runs `clients` clients of one kind until their connections have ended. With `tls` they shake
/// hands first. Calls `observe` at each interval with whether all of them are in their slow phase.
pub(crate) fn crowd(
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    clients: usize,
    kind: &SlowClient,
    mut observe: impl FnMut(bool),
) -> Vec<ConnectionEnd> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (kind, slow) = (Arc::new(kind.clone()), Arc::new(AtomicUsize::new(0)));
    let tls = tls.map(TlsConnector::from);
    runtime.block_on(async {
        let (mut running, all) = (JoinSet::new(), Arc::new(Barrier::new(clients)));
        for _ in 0..clients {
            let (kind, slow, all, tls) = (Arc::clone(&kind), Arc::clone(&slow), Arc::clone(&all), tls.clone());
            running.spawn(async move {
                let began = Instant::now();
                let stream = connect(address).await;
                let Some(tls) = tls else { return kind.run(stream, began, &all, &slow).await };
                let stream = tls.connect(ServerName::try_from(HOST).unwrap(), stream).await.expect("a handshake");
                kind.run(stream, began, &all, &slow).await
            });
        }
        let (mut ends, mut ticks) = (Vec::with_capacity(clients), interval(OBSERVE_INTERVAL));
        while ends.len() < clients {
            tokio::select! {
                Some(end) = running.join_next() => ends.push(end.expect("a client that does not panic")),
                _ = ticks.tick() => observe(ends.is_empty() && slow.load(SeqCst) == clients),
            }
        }
        ends
    })
}

/// A connection, with or without TLS.
trait ByteStream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> ByteStream for S {}

impl SlowClient {
    async fn run(
        &self,
        mut stream: impl ByteStream,
        mut began: Instant,
        all: &Barrier,
        slow: &AtomicUsize,
    ) -> ConnectionEnd {
        if !self.answered.is_empty() {
            await_first_answer(&mut stream, &self.answered).await;
            all.wait().await;
            began = Instant::now();
        }
        stream.write_all(&self.burst).await.expect("sent");
        stream.flush().await.expect("sent");
        slow.fetch_add(1, SeqCst);
        let received = self.dribble(&mut stream, began).await;
        ConnectionEnd { after: began.elapsed(), received }
    }

    /// Sends byte after byte until the connection ends. Returns the bytes received in that time.
    async fn dribble(&self, stream: &mut impl ByteStream, began: Instant) -> Vec<u8> {
        let mut received = Vec::new();
        let mut bytes = self.dribble.iter().cycle();
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut too_late = pin!(sleep_until((began + self.ends.end).into()));
        loop {
            tokio::select! {
                // A reset ends the connection too.
                read = stream.read_buf(&mut received), if self.reads == ReadTiming::AtOnce => {
                    if !matches!(read, Ok(1..)) {
                        return received;
                    }
                }
                _ = seconds.tick() => if let Some(byte) = bytes.next() {
                    try_write(stream, *byte).await;
                },
                () = &mut too_late => break,
            }
        }
        if self.reads == ReadTiming::TooLate {
            // After the close, the kernel still returns the bytes of its buffer.
            let mut patience = pin!(sleep(self.ends.end));
            loop {
                tokio::select! {
                    read = stream.read_buf(&mut received) => if !matches!(read, Ok(1..)) { break },
                    () = &mut patience => panic!("the connection did not end, after {} bytes", received.len()),
                }
            }
        }
        received
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    SockRef::from(&socket).set_tcp_mss(SEGMENT_LEN).unwrap();
    socket.set_recv_buffer_size(RECEIVE_LEN).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.connect(address).await.expect("connect")
}

/// Writes a byte if there is room. A read detects the end of the connection.
async fn try_write(stream: &mut impl ByteStream, byte: u8) {
    let _written_or_full = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_write(cx, &[byte]))).await;
}

async fn await_first_answer(stream: &mut impl ByteStream, request: &[u8]) {
    stream.write_all(request).await.expect("sent");
    stream.flush().await.expect("sent");
    let mut answer = Vec::new();
    let is_whole = |answer: &[u8]| {
        let is_bodiless = answer.starts_with(b"HTTP/1.1 204 ") && answer.ends_with(b"\r\n\r\n");
        is_bodiless || answer.ends_with(b"\r\n\r\nhello")
    };
    while !is_whole(&answer) {
        assert_ne!(stream.read_buf(&mut answer).await.expect("an answer"), 0, "no whole answer");
    }
}

/// Raises the limit of open files of this process to at least `count`.
pub(crate) fn allow_open_files(count: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    assert!(maximum.is_none_or(|maximum| maximum >= count), "`ulimit -Hn` is {maximum:?}, which is below {count}");
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a higher limit");
}
