//! The head of an upstream's response.

use crossgate_message::response_head::parse;
use http::{HeaderMap, Method, StatusCode};

/// A head that is accepted is accepted at its last byte, and not before. Its fields have no byte
/// that ends a line, and its body has one delimiter and at most one length.
///
/// # Panics
/// If this does not hold.
pub fn response_head(bytes: &[u8]) {
    let Ok(Some((status, fields, len))) = parsed(bytes) else { return };
    // Cuts near the beginning, near the end, and some between.
    let cuts = (0..len.min(64)).chain((64..len).step_by(97)).chain(len.saturating_sub(8)..len);
    for cut in cuts {
        let part = parsed(bytes.get(..cut).unwrap_or_default());
        assert!(matches!(part, Ok(None)), "cut at {cut}: {part:?}");
    }
    let again = parsed(bytes.get(..len).unwrap_or_default()).ok().flatten().expect("a whole head");
    assert_eq!(again, (status, fields.clone(), len));
    for (name, value) in &fields {
        let ends_line = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
        assert!(!name.iter().any(ends_line) && !value.iter().any(ends_line), "{}", name.escape_ascii());
    }
    let mut sent = HeaderMap::new();
    let framing = parse(bytes, |head, _| head.framing(&Method::GET)).ok().flatten().expect("a whole head");
    if let Ok(framing) = framing {
        framing.write_length(&mut sent);
    }
    assert!(sent.len() <= 1);
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn parsed(bytes: &[u8]) -> Result<Option<(StatusCode, Fields, usize)>, crossgate_message::head_flaw::HeadFlaw> {
    parse(bytes, |head, len| {
        let mut fields = Fields::new();
        head.fields.for_each(|line| fields.push((line.name().to_vec(), line.value().to_vec())));
        (head.status, fields, len)
    })
}
