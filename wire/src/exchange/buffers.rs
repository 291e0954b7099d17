//! Buffers of the worker that runs an exchange, so that exchanges that wait hold none.

use std::cell::RefCell;

/// The longest piece: a body of 64 KiB comes in two.
const PIECE_LEN_MAX: usize = 40 * 1024;
/// The most buffers that a worker keeps, and the longest of them.
const KEPT_MAX: usize = 16;
const KEPT_LEN_MAX: usize = 4 * 1024;

thread_local! {
    static PIECE: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE_LEN_MAX].into());
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `with` with a buffer for one read whose bytes are used at once. It is no longer than
/// `len_max`.
pub(crate) fn with_piece<R>(len_max: usize, with: impl FnOnce(&mut [u8]) -> R) -> R {
    PIECE.with_borrow_mut(|piece| with(piece.get_mut(..len_max.min(PIECE_LEN_MAX)).unwrap_or_default()))
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
