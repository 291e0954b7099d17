//! A chunked body and the bytes after it.

use crossgate_wire::exchange::chunked::{ChunkedDecoder, MalformedChunk};

/// The decoder finds the same end of the body in one piece and byte by byte, and the same as
/// `httparse`.
///
/// # Panics
/// If this does not hold.
pub fn chunked(bytes: &[u8]) {
    let mut whole = ChunkedDecoder::new();
    let taken = whole.take(bytes);
    assert_eq!(byte_by_byte(bytes), taken.map(|len| (len, whole.is_done())));
    if let (Ok(len), true) = (taken, whole.is_done()) {
        assert_eq!(end_of_data(bytes).and_then(end_of_trailers), bytes.get(len..));
    }
}

fn byte_by_byte(bytes: &[u8]) -> Result<(usize, bool), MalformedChunk> {
    let (mut pieces, mut len) = (ChunkedDecoder::new(), 0);
    for byte in bytes {
        len += pieces.take(&[*byte])?;
    }
    Ok((len, pieces.is_done()))
}

/// The bytes after the line of the last chunk.
fn end_of_data(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let Ok(httparse::Status::Complete((line_len, chunk_len))) = httparse::parse_chunk_size(rest) else {
            return None;
        };
        rest = rest.get(line_len..)?;
        if chunk_len == 0 {
            return Some(rest);
        }
        rest = rest.get(usize::try_from(chunk_len).ok()?..)?.strip_prefix(b"\r\n")?;
    }
}

/// The bytes after the empty line.
fn end_of_trailers(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        rest = rest.get(end + 2..)?;
        if end == 0 {
            return Some(rest);
        }
    }
}
