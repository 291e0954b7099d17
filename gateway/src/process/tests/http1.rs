//! Strict reading of HTTP/1.1 for tests: what a lenient parser would accept panics.

use std::collections::BTreeMap;
use std::io::Read;

/// Fields by name, sorted, names in lower case. Bytes of values are the characters up to U+00FF.
pub(super) type Fields = BTreeMap<String, Vec<String>>;

/// The length of one read.
const READ_LEN: usize = 8192;

pub(super) fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

/// The length of the head at the beginning of `bytes`, if it is whole.
pub(super) fn head_len(bytes: &[u8]) -> Option<usize> {
    find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// Reads until `len` finds a length, and returns it. `None` if the connection ends before.
pub(super) fn read_until(
    stream: &mut impl Read,
    bytes: &mut Vec<u8>,
    mut len: impl FnMut(&[u8]) -> Option<usize>,
) -> Option<usize> {
    loop {
        if let Some(len) = len(bytes) {
            return Some(len);
        }
        let mut chunk = [0; READ_LEN];
        match stream.read(&mut chunk) {
            Ok(read @ 1..) => bytes.extend_from_slice(&chunk[..read]),
            Ok(_) | Err(_) => return None,
        }
    }
}

/// The request line and the fields of a request's head.
pub(super) fn parse_request_head(head: &[u8]) -> (String, Fields) {
    let (line, fields) = parse_head(head);
    assert!(line.ends_with(" HTTP/1.1") && line.split(' ').count() == 3, "{line}");
    assert_eq!(fields.get("host").map(Vec::len), Some(1), "{fields:?}");
    assert!(!fields.contains_key("transfer-encoding") || !fields.contains_key("content-length"), "{fields:?}");
    (line, fields)
}

/// The first line and the fields of a whole head.
pub(super) fn parse_head(head: &[u8]) -> (String, Fields) {
    let head: String = head.iter().copied().map(char::from).collect();
    let mut lines = head.strip_suffix("\r\n\r\n").unwrap().split("\r\n");
    let line = lines.next().unwrap().to_owned();
    assert!(!line.contains(char::is_control), "{line:?}");
    let mut fields = Fields::new();
    for field in lines {
        let (name, value) = field.split_once(": ").unwrap_or_else(|| panic!("no field: {field:?}"));
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let is_text = |byte: char| byte == '\t' || (byte >= ' ' && byte != '\u{7f}');
        assert!(!name.is_empty() && name.bytes().all(is_token) && value.chars().all(is_text), "{field:?}");
        fields.entry(name.to_ascii_lowercase()).or_default().push(value.to_owned());
    }
    (line, fields)
}

/// Reads the body that the fields announce. `None` if the connection ends before.
pub(super) fn read_body(stream: &mut impl Read, bytes: &mut Vec<u8>, fields: &Fields) -> Option<Vec<u8>> {
    if let Some(codings) = fields.get("transfer-encoding") {
        assert!(codings.len() == 1 && codings[0].eq_ignore_ascii_case("chunked"), "{codings:?}");
        let len = read_until(stream, bytes, |bytes| chunks(bytes).map(|(len, _)| len))?;
        let body: Vec<u8> = bytes.drain(..len).collect();
        return chunks(&body).map(|(_, data)| data);
    }
    let length = announced_length(fields);
    read_until(stream, bytes, |bytes| (bytes.len() >= length).then_some(length))?;
    Some(bytes.drain(..length).collect())
}

/// The value of the only `Content-Length`, or 0.
pub(super) fn announced_length(fields: &Fields) -> usize {
    let Some(lengths) = fields.get("content-length") else { return 0 };
    let [length] = &lengths[..] else { panic!("several lengths: {lengths:?}") };
    assert!(length.bytes().all(|byte| byte.is_ascii_digit()), "{length}");
    length.parse().unwrap()
}

/// The length of a chunked body, and its data. `None` if it is not whole. There are neither
/// extensions nor trailers.
pub(super) fn chunks(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (mut at, mut data) = (0, Vec::new());
    loop {
        let line_len = find(&bytes[at..], b"\r\n")?;
        let size = &bytes[at..at + line_len];
        assert!((1..=8).contains(&size.len()) && size.iter().all(u8::is_ascii_hexdigit), "{}", size.escape_ascii());
        let size = usize::from_str_radix(std::str::from_utf8(size).unwrap(), 16).unwrap();
        at += line_len + 2;
        let end = bytes.get(at + size..at + size + 2)?;
        assert_eq!(end, b"\r\n", "the end of a chunk of {size} bytes");
        if size == 0 {
            return Some((at + 2, data));
        }
        data.extend_from_slice(&bytes[at..at + size]);
        at += size + 2;
    }
}
