//! A crowd of slow clients, all on the thread that calls: two thousand sockets, a byte a second on each.
//!
//! A client sends what it is to send at once, then dribbles until the gateway ends the connection, and tells how long that
//! took and what it was told. It hangs up by itself only when it is kept for longer than it should be.

use std::net::SocketAddr;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

/// How often a crowd is looked at from outside.
const GLANCE: Duration = Duration::from_millis(50);
/// As over Ethernet: by the 64 KiB segments of a loopback the kernel would reckon with buffers of megabytes.
const SEGMENT_LEN: u32 = 1_460;
/// What a client's kernel takes in for a client that does not read.
const RECEIVE_LEN: u32 = 4 * 1024;

/// What each client of a crowd does.
#[derive(Debug, Clone)]
pub(crate) struct SlowClient {
    /// Sent first, and answered with the body `hello` or with 204; nothing, if empty.
    pub(crate) answered: Vec<u8>,
    /// Sent at once, once all clients have had that answer.
    pub(crate) burst: Vec<u8>,
    /// Sent then, a byte a second, over and over.
    pub(crate) dribble: &'static [u8],
    /// Whether it takes what it is sent.
    pub(crate) reads: Reads,
    /// When its connection is to be ended, from its connecting or, after an answer, from its burst.
    pub(crate) ends: Range<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reads {
    /// At once.
    AtOnce,
    /// Not before its connection must have been ended.
    TooLate,
}

/// How a client's connection ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) after: Duration,
    pub(crate) told: Vec<u8>,
}

/// Runs `clients` of one kind to their ends; calls `glance` again and again, and tells it whether all of them are being slow.
pub(crate) fn crowd(address: SocketAddr, clients: usize, kind: &SlowClient, mut glance: impl FnMut(bool)) -> Vec<End> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (kind, slow) = (Arc::new(kind.clone()), Arc::new(AtomicUsize::new(0)));
    runtime.block_on(async {
        let (mut running, all) = (JoinSet::new(), Arc::new(Barrier::new(clients)));
        for _ in 0..clients {
            let (kind, slow, all) = (Arc::clone(&kind), Arc::clone(&slow), Arc::clone(&all));
            running.spawn(async move { kind.run(address, &all, &slow).await });
        }
        let (mut ends, mut glances) = (Vec::with_capacity(clients), interval(GLANCE));
        while ends.len() < clients {
            tokio::select! {
                Some(end) = running.join_next() => ends.push(end.expect("a client that does not panic")),
                _ = glances.tick() => glance(ends.is_empty() && slow.load(SeqCst) == clients),
            }
        }
        ends
    })
}

impl SlowClient {
    async fn run(&self, address: SocketAddr, all: &Barrier, slow: &AtomicUsize) -> End {
        let mut began = Instant::now();
        let mut stream = connect(address).await;
        if !self.answered.is_empty() {
            be_answered(&mut stream, &self.answered).await;
            all.wait().await;
            began = Instant::now();
        }
        stream.write_all(&self.burst).await.expect("sent");
        slow.fetch_add(1, SeqCst);
        let told = self.dribble(&mut stream, began).await;
        End { after: began.elapsed(), told }
    }

    /// Sends byte after byte until the connection ends; what came meanwhile.
    async fn dribble(&self, stream: &mut TcpStream, began: Instant) -> Vec<u8> {
        let mut told = Vec::new();
        let mut bytes = self.dribble.iter().cycle();
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut too_late = pin!(sleep_until((began + self.ends.end).into()));
        loop {
            tokio::select! {
                // A reset is an end like any other.
                read = stream.read_buf(&mut told), if self.reads == Reads::AtOnce => {
                    if !matches!(read, Ok(1..)) {
                        return told;
                    }
                }
                _ = seconds.tick() => if let Some(byte) = bytes.next() {
                    // That the connection has ended is seen by reading.
                    let _ = stream.try_write(&[*byte]);
                },
                () = &mut too_late => break,
            }
        }
        if self.reads == Reads::TooLate {
            // What has ended gives what it holds, and that is all.
            let mut patience = pin!(sleep(self.ends.end));
            loop {
                tokio::select! {
                    read = stream.read_buf(&mut told) => if !matches!(read, Ok(1..)) { break },
                    () = &mut patience => panic!("never ended, after {} bytes", told.len()),
                }
            }
        }
        told
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    SockRef::from(&socket).set_tcp_mss(SEGMENT_LEN).unwrap();
    socket.set_recv_buffer_size(RECEIVE_LEN).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.connect(address).await.expect("connect")
}

async fn be_answered(stream: &mut TcpStream, request: &[u8]) {
    stream.write_all(request).await.expect("sent");
    let mut answer = Vec::new();
    let is_whole = |answer: &[u8]| {
        let is_bodiless = answer.starts_with(b"HTTP/1.1 204 ") && answer.ends_with(b"\r\n\r\n");
        is_bodiless || answer.ends_with(b"\r\n\r\nhello")
    };
    while !is_whole(&answer) {
        assert_ne!(stream.read_buf(&mut answer).await.expect("an answer"), 0, "no whole answer");
    }
}

/// Lets this process have `count` files open.
pub(crate) fn allow_open_files(count: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    assert!(maximum.is_none_or(|maximum| maximum >= count), "`ulimit -Hn` is {maximum:?}, which is below {count}");
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a higher limit");
}
