//! The head of an upstream's response.

use bytes::Bytes;
use crossgate_message::response_head::parse;
use http::Method;

/// A head that is accepted is accepted at its last byte, and not before. Its fields have no byte
/// that ends a line, and its body has one delimiter.
///
/// # Panics
/// If this does not hold.
pub fn response_head(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    let Ok(Some((mut head, len))) = parse(&whole) else { return };
    // Cuts near the beginning, near the end, and some between.
    let cuts = (0..len.min(64)).chain((64..len).step_by(97)).chain(len.saturating_sub(8)..len);
    for cut in cuts {
        let part = parse(&whole.slice(..cut));
        assert!(matches!(part, Ok(None)), "cut at {cut}: {part:?}");
    }
    let again = parse(&whole.slice(..len)).ok().flatten().expect("a whole head");
    assert_eq!((again.0.status, &again.0.fields, again.1), (head.status, &head.fields, len));
    for (name, value) in &head.fields {
        assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{name}");
    }
    let _delimited_or_refused = head.delimit(&Method::GET);
    assert!(head.fields.get_all("content-length").iter().count() <= 1 || head.delimit(&Method::GET).is_err());
}
