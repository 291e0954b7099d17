//! Buffers of the worker that runs an exchange, so that exchanges that wait hold none.

use std::cell::RefCell;

/// The length of a piece of a response.
const PIECE_LEN: usize = 16 * 1024;
/// The most buffers that a worker keeps, and the longest of them.
const KEPT_MAX: usize = 16;
const KEPT_LEN_MAX: usize = 4 * 1024;

thread_local! {
    static PIECE: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE_LEN].into());
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `with` with a buffer for one read whose bytes are used at once.
pub(crate) fn with_piece<R>(with: impl FnOnce(&mut [u8]) -> R) -> R {
    PIECE.with_borrow_mut(|piece| with(piece))
}

/// Takes an empty buffer, with room for most heads if one was kept.
pub(crate) fn take_buffer() -> Vec<u8> {
    KEPT.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(512))
}

/// Keeps a buffer for another exchange, unless a long body has made it large.
pub(crate) fn give_buffer(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > KEPT_LEN_MAX {
        return;
    }
    buffer.clear();
    KEPT.with_borrow_mut(|kept| {
        if kept.len() < KEPT_MAX {
            kept.push(buffer);
        }
    });
}
