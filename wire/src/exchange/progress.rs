//! The progress of one request to its server, shared by the server's connection and the rest of the
//! exchange.
//!
//! The connection (`upstream/connection.rs` of the gateway) sees all bytes to and from the server.
//! The hooks interpret the response. The client's side decides when to read more of the body. All
//! three run in the task of the exchange, so the fields are plain cells. The types only have to
//! move between threads with the task.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::chunked::ChunkedDecoder;

/// How the body of a request is delimited on its way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFraming {
    /// This many bytes; 0 for no body.
    Length(u64),
    /// Chunked transfer coding.
    Chunked(ChunkedDecoder),
}

/// One attempt at a server over HTTP/1.1, from its connection to the end of the response.
#[derive(Debug, Default)]
pub struct RequestProgress {
    framing: Mutex<Option<RequestFraming>>,
    is_reused: AtomicBool,
    /// Bytes that the kernel has not accepted for the server yet.
    pending_len: AtomicUsize,
    /// Bytes that the kernel has accepted.
    taken: AtomicU64,
    has_body_end: AtomicBool,
    is_whole: AtomicBool,
    is_sealed: AtomicBool,
    is_retired: AtomicBool,
    is_answered: AtomicBool,
    is_tunnel: AtomicBool,
    awaits_continue: AtomicBool,
    /// The seconds that the server keeps an idle connection, plus one; 0 for unknown.
    keep_alive_s: AtomicU64,
    reader: Mutex<Option<Waker>>,
}

impl RequestProgress {
    /// Begins a request whose head announces this framing. With `awaits_continue` the client has
    /// sent `Expect: 100-continue`.
    pub fn begin(&self, framing: RequestFraming, awaits_continue: bool) {
        *self.framing.lock() = Some(framing);
        self.awaits_continue.store(awaits_continue, Relaxed);
    }

    pub fn framing(&self) -> Option<RequestFraming> {
        *self.framing.lock()
    }

    /// Whether the connection has served an earlier request.
    pub fn is_reused(&self) -> bool {
        self.is_reused.load(Relaxed)
    }

    pub fn set_reused(&self) {
        self.is_reused.store(true, Relaxed);
    }

    /// Records that the client's body has been read to its end. Until then the connection writes no
    /// terminator: a body that was cut off must not look complete to the server.
    pub fn end_body(&self) {
        self.has_body_end.store(true, Relaxed);
    }

    pub fn has_body_end(&self) -> bool {
        self.has_body_end.load(Relaxed)
    }

    /// Whether the kernel has accepted the whole request for the server.
    pub fn is_whole(&self) -> bool {
        self.is_whole.load(Relaxed)
    }

    pub fn set_whole(&self) {
        self.is_whole.store(true, Relaxed);
    }

    /// Stops writing the request to the server, and retires the connection.
    pub fn seal(&self) {
        self.is_sealed.store(true, Relaxed);
        self.retire();
        self.wake_reader();
    }

    pub fn is_sealed(&self) -> bool {
        self.is_sealed.load(Relaxed)
    }

    /// Excludes the connection from reuse.
    pub fn retire(&self) {
        self.is_retired.store(true, Relaxed);
    }

    /// Whether the connection is excluded from reuse.
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Relaxed)
    }

    /// Records the end of the response. The connection is no longer read then, so the rest of the
    /// request waits in its writes.
    pub fn end_response(&self) {
        if !self.is_whole() && !self.is_tunnel() {
            self.is_answered.store(true, Relaxed);
            self.wake_reader();
        }
    }

    pub fn is_answered(&self) -> bool {
        self.is_answered.load(Relaxed)
    }

    /// Records that the server has switched protocols: the bytes that follow are not HTTP.
    pub fn open_tunnel(&self) {
        self.is_tunnel.store(true, Relaxed);
        self.retire();
    }

    pub fn is_tunnel(&self) -> bool {
        self.is_tunnel.load(Relaxed)
    }

    /// Records that the server has sent `100 Continue`.
    pub fn note_continue(&self) {
        self.awaits_continue.store(false, Relaxed);
    }

    /// Whether the server has an `Expect: 100-continue` that it has not answered.
    pub fn awaits_continue(&self) -> bool {
        self.awaits_continue.load(Relaxed)
    }

    /// Records how many seconds the server keeps an idle connection.
    pub fn set_keep_alive(&self, seconds: u64) {
        self.keep_alive_s.store(seconds.saturating_add(1), Relaxed);
    }

    pub fn keep_alive_s(&self) -> Option<u64> {
        self.keep_alive_s.load(Relaxed).checked_sub(1)
    }

    /// The bytes that the kernel has accepted for the server so far.
    pub fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    pub fn note_taken(&self, len: usize) {
        self.taken.fetch_add(len as u64, Relaxed);
    }

    pub fn set_pending(&self, len: usize) {
        if self.pending_len.swap(len, Relaxed) > 0 && len == 0 {
            self.wake_reader();
        }
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.lock().take() {
            reader.wake();
        }
    }

    /// Ready when the server has accepted all bytes so far, so that the next piece of the body may
    /// be read.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.pending_len.load(Relaxed) == 0 || self.is_sealed() || self.is_answered() {
            return Poll::Ready(());
        }
        *self.reader.lock() = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_is_read_when_nothing_is_pending_or_sending_has_stopped() {
        let progress = RequestProgress::default();
        let context = Context::from_waker(Waker::noop());
        assert!(progress.poll_room(&context).is_ready());
        progress.set_pending(1);
        assert!(progress.poll_room(&context).is_pending());
        progress.set_pending(0);
        assert!(progress.poll_room(&context).is_ready());
        progress.set_pending(1);
        progress.seal();
        assert!(progress.poll_room(&context).is_ready());
        assert!(progress.is_retired());
    }

    #[test]
    fn keep_alive_of_zero_differs_from_none() {
        let progress = RequestProgress::default();
        assert_eq!(progress.keep_alive_s(), None);
        progress.set_keep_alive(0);
        assert_eq!(progress.keep_alive_s(), Some(0));
    }
}
