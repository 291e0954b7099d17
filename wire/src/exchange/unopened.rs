//! Detects that a request on an HTTP/2 connection has not been sent.
//!
//! A server may lower SETTINGS_MAX_CONCURRENT_STREAMS at any time, to 0 as well (RFC 9113, section
//! 5.1.2). `h2` then holds a request back until the server allows another stream. Neither `h2` nor
//! Pingora 0.9.1 reports that, but the kernel counts the bytes that were sent on the connection.
//! Detection fails if anything else is sent in that time (other requests, replies to PING). It also
//! fails before Linux 6.2, whose `TCP_INFO` reply Pingora does not accept. The request then waits
//! for its response head.
//!
//! An unsent request can still be sent later: `h2` 0.4 sends a request that it held back once the
//! server allows it, even if its stream was dropped. So the connection is closed if no other
//! request is on it. Otherwise only a request that may be repeated is given up.

use std::os::fd::RawFd;
use std::sync::{Arc, LazyLock};

use dashmap::DashMap;
use nix::sys::socket::{Shutdown, shutdown};
use pingora::protocols::l4::ext::TCP_INFO;
use pingora::protocols::{Digest, SocketDigest};

/// The length of an acknowledgement of the server's SETTINGS, which may be sent in the same time. A
/// HEADERS frame is longer.
const SETTINGS_ACK_LEN: u64 = 9;
/// The overhead of a TLS 1.3 record. A record of TLS 1.2 adds more, so its acknowledgement counts
/// as a request.
const RECORD_OVERHEAD: u64 = 22;

/// The number of requests on each connection, by the address of the digest that all of them hold.
static REQUESTS: LazyLock<DashMap<usize, u32, ahash::RandomState>> = LazyLock::new(DashMap::default);

/// A request on an HTTP/2 connection, with the bytes that the connection had sent before it.
#[derive(Debug)]
pub struct SentBytes {
    socket: Arc<SocketDigest>,
    descriptor: RawFd,
    /// The bytes before the request, `None` if the kernel does not report them or the connection is
    /// new.
    sent: Option<u64>,
    other_max: u64,
    may_repeat: bool,
}

impl SentBytes {
    /// Records a request that is given to the connection with this descriptor. A new connection
    /// counts no bytes: the server has just announced its limit, or does so in reply to the first
    /// request.
    pub fn now(digest: &Digest, descriptor: RawFd, is_kept: bool, may_repeat: bool) -> Option<Self> {
        let socket = Arc::clone(digest.socket_digest.as_ref()?);
        let record_overhead = if digest.ssl_digest.is_some() { RECORD_OVERHEAD } else { 0 };
        let sent = if is_kept { socket.tcp_info().map(|info| sent(&info)) } else { None };
        *REQUESTS.entry(key(&socket)).or_default() += 1;
        Some(SentBytes { socket, descriptor, sent, other_max: SETTINGS_ACK_LEN + record_overhead, may_repeat })
    }

    /// Whether the request was not sent and may be given up: it will never be sent, or it may be
    /// repeated. Closes the connection if no other request is on it.
    pub fn give_up(&self) -> bool {
        // No written byte waits for the network, so `h2` was able to write.
        let is_idle = |info: &TCP_INFO| info.tcpi_notsent_bytes == 0 && info.tcpi_unacked == 0;
        let is_unsent = |info: &TCP_INFO| self.sent.is_some_and(|before| sent(info) <= before + self.other_max);
        let Some(info) = self.socket.tcp_info() else { return false };
        if !is_idle(&info) || !is_unsent(&info) {
            return false;
        }
        let is_alone = REQUESTS.get(&key(&self.socket)).is_some_and(|requests| *requests == 1);
        if !is_alone || shutdown(self.descriptor, Shutdown::Both).is_err() {
            return self.may_repeat;
        }
        // The server may have allowed a stream just now: the request may have been sent before the
        // shutdown.
        self.may_repeat || self.socket.tcp_info().is_some_and(|info| is_unsent(&info))
    }
}

impl Drop for SentBytes {
    fn drop(&mut self) {
        REQUESTS.remove_if_mut(&key(&self.socket), |_, requests| {
            *requests = requests.saturating_sub(1);
            *requests == 0
        });
    }
}

fn key(socket: &Arc<SocketDigest>) -> usize {
    Arc::as_ptr(socket).addr()
}

/// The bytes written to the socket. Retransmitted bytes count once.
fn sent(info: &TCP_INFO) -> u64 {
    info.tcpi_bytes_sent.saturating_sub(info.tcpi_bytes_retrans) + u64::from(info.tcpi_notsent_bytes)
}
