//! A strict parser of the requests in the bytes of a connection. Anything that a lenient server
//! would accept is an error here.

use super::wire::{Headers, find, parse_field, split_lines, text};

/// One whole request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WholeRequest {
    pub(crate) target: String,
    pub(crate) method: String,
    pub(crate) body: String,
}

/// The requests in these bytes. `None`: the bytes are not exactly a sequence of whole requests.
pub(crate) fn requests_in(mut bytes: &[u8]) -> Option<Vec<WholeRequest>> {
    let mut requests = Vec::new();
    while !bytes.is_empty() {
        requests.push(take_request(&mut bytes)?);
    }
    Some(requests)
}

fn take_request(bytes: &mut &[u8]) -> Option<WholeRequest> {
    let end = find(bytes, b"\r\n\r\n")?;
    let head = take(bytes, end + 4)?;
    let mut lines = split_lines(&head[..end]).into_iter();
    let first = text(lines.next()?);
    let [method, target, "HTTP/1.1"] = first.split(' ').collect::<Vec<_>>()[..] else { return None };
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
    let headers = Headers(lines.map(|line| parse_field(line).ok()).collect::<Option<_>>()?);
    if !is_word(method) || !is_word(target) || headers.all("host").len() != 1 {
        return None;
    }
    let body = match (&headers.all("transfer-encoding")[..], &headers.all("content-length")[..]) {
        ([], []) => String::new(),
        ([], [length]) => text(take(bytes, number(length, 10)?)?),
        (["chunked"], []) => take_chunks(bytes)?,
        _ => return None,
    };
    Some(WholeRequest { target: target.to_owned(), method: method.to_owned(), body })
}

/// A chunked body without extensions and trailers, because the gateway sends neither.
fn take_chunks(bytes: &mut &[u8]) -> Option<String> {
    let mut body = String::new();
    loop {
        let end = find(bytes, b"\r\n")?;
        let size = number(&text(take(bytes, end)?), 16)?;
        take(bytes, 2)?;
        body += &text(take(bytes, size)?);
        if take(bytes, 2)? != b"\r\n" {
            return None;
        }
        if size == 0 {
            return Some(body);
        }
    }
}

/// Parses digits. `from_str_radix` alone would accept a sign too.
fn number(digits: &str, radix: u32) -> Option<usize> {
    let is_number = digits.chars().all(|digit| digit.is_digit(radix));
    usize::from_str_radix(digits, radix).ok().filter(|_| is_number)
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}
