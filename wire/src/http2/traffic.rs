//! The state that the tasks of one connection share: its wire, its loop, and its streams.
//!
//! Plain atomics; connections share nothing here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// What moves on one connection.
#[derive(Debug)]
pub(super) struct StreamTraffic {
    began: Instant,
    running: AtomicU32,
    /// When the last stream ended, since the beginning.
    quiet_since_ms: AtomicU64,
    /// Bytes that the client's kernel took.
    taken: AtomicU64,
    /// Frames that answers have earned.
    earned: AtomicU32,
    has_answered: AtomicBool,
    is_holding: AtomicBool,
    has_held: AtomicBool,
    is_flooded: AtomicBool,
    ends_at_once: AtomicBool,
}

/// A stream that is served, until this is dropped.
pub(super) struct RunningStream(Arc<StreamTraffic>);

/// What an answer earns its client, however short: acknowledgements of its pieces, for the stream
/// and for the connection, a PING that measures the line, and a cancellation.
const EARNED_PER_PIECE: u32 = 4;
/// A client may say that it has taken so many bytes, on the stream and on the connection, before it
/// has taken more.
const BYTES_PER_FRAME: u32 = 512;

impl StreamTraffic {
    pub(super) fn new() -> Self {
        StreamTraffic {
            began: Instant::now(),
            running: AtomicU32::new(0),
            quiet_since_ms: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            earned: AtomicU32::new(0),
            has_answered: AtomicBool::new(false),
            is_holding: AtomicBool::new(false),
            has_held: AtomicBool::new(false),
            is_flooded: AtomicBool::new(false),
            ends_at_once: AtomicBool::new(false),
        }
    }

    /// A stream begins.
    pub(super) fn begin(self: &Arc<Self>) -> RunningStream {
        self.running.fetch_add(1, Relaxed);
        RunningStream(Arc::clone(self))
    }

    /// Since when no stream is served; `None` while one is.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        let since = self.began + Duration::from_millis(self.quiet_since_ms.load(Relaxed));
        (self.running.load(Relaxed) == 0).then_some(since)
    }

    /// Sets whether the wire holds back what it is given.
    pub(super) fn set_holding(&self, is_holding: bool) {
        self.is_holding.store(is_holding, Relaxed);
    }

    pub(super) fn is_holding(&self) -> bool {
        self.is_holding.load(Relaxed)
    }

    /// Notes whether the wire has bytes that it held back.
    pub(super) fn note_held(&self, has_held: bool) {
        self.has_held.store(has_held, Relaxed);
    }

    pub(super) fn has_held(&self) -> bool {
        self.has_held.load(Relaxed)
    }

    /// The client took so many bytes.
    pub(super) fn note_taken(&self, len: usize) {
        self.taken.fetch_add(len as u64, Relaxed);
    }

    /// How many it has taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// A piece of an answer is sent.
    pub(super) fn earn(&self, len: usize) {
        let frames = u32::try_from(len).unwrap_or(u32::MAX) / BYTES_PER_FRAME;
        self.earned.fetch_add(frames.saturating_add(EARNED_PER_PIECE), Relaxed);
        self.has_answered.store(true, Relaxed);
    }

    /// Whether a piece of an answer was sent since the last call.
    pub(super) fn take_answered(&self) -> bool {
        self.has_answered.swap(false, Relaxed)
    }

    /// Takes what was earned.
    pub(super) fn take_earned(&self) -> u32 {
        self.earned.swap(0, Relaxed)
    }

    /// The client sends too much that is nothing.
    pub(super) fn set_flooded(&self) {
        self.is_flooded.store(true, Relaxed);
    }

    pub(super) fn is_flooded(&self) -> bool {
        self.is_flooded.load(Relaxed)
    }

    /// There is nothing that the client could lose by a reset.
    pub(super) fn end_at_once(&self) {
        self.ends_at_once.store(true, Relaxed);
    }

    pub(super) fn ends_at_once(&self) -> bool {
        self.ends_at_once.load(Relaxed)
    }
}

impl Drop for RunningStream {
    fn drop(&mut self) {
        let since = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.quiet_since_ms.store(since, Relaxed);
        self.0.running.fetch_sub(1, Relaxed);
    }
}
