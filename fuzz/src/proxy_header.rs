//! The PROXY header with which a balancer begins a connection, and what the client sends behind it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crossgate::metrics::BadIntroduction;
use crossgate::proxy_protocol::{Extent, HEADER_LEN_MAX, client, extent};

/// The header's end is found alike in one piece and byte by byte, no byte behind it belongs to it, and it names whom a few lines
/// written here find in it.
///
/// # Panics
/// If not.
pub fn proxy_header(bytes: &[u8]) {
    let whole = extent(bytes);
    assert_eq!(byte_by_byte(bytes), whole);
    let Ok(Extent { len, is_whole }) = whole else { return };
    assert!(len <= bytes.len() && len <= HEADER_LEN_MAX);
    if !is_whole {
        assert_eq!(len, bytes.len(), "all of a part belongs");
        return;
    }
    let header = bytes.get(..len).unwrap_or_default();
    let named = client(header);
    let plain = if header.starts_with(b"P") { line(header) } else { block(header) };
    match (named, plain) {
        (Ok(named), Some(plain)) => assert_eq!(named, plain),
        (Err(bad), None) => assert_eq!(bad, BadIntroduction::Malformed),
        (named, plain) => panic!("{named:?}, and {plain:?} by the plain reading"),
    }
}

/// As it comes from a socket of which one byte at a time is looked at.
fn byte_by_byte(bytes: &[u8]) -> Result<Extent, BadIntroduction> {
    for end in 0..bytes.len() {
        let extent = extent(bytes.get(..end).unwrap_or_default())?;
        if extent.is_whole {
            return Ok(extent);
        }
        assert_eq!(extent.len, end);
    }
    extent(bytes)
}

/// Section 2.1 of the protocol.
fn line(header: &[u8]) -> Option<Option<SocketAddr>> {
    let text = header.strip_suffix(b"\r\n")?;
    let words: Vec<&[u8]> = text.split(|byte| *byte == b' ').collect();
    let (family, rest) = match words.as_slice() {
        [b"PROXY", b"UNKNOWN", ..] => return Some(None),
        [b"PROXY", family, rest @ ..] => (*family, rest),
        _ => return None,
    };
    let [source, destination, source_port, destination_port] = rest else { return None };
    let address = |word: &[u8]| {
        let address: IpAddr = std::str::from_utf8(word).ok()?.parse().ok()?;
        (address.is_ipv4() == (family == b"TCP4") && (family == b"TCP4" || family == b"TCP6")).then_some(address)
    };
    // The parser behind takes a plus sign, which says nothing else.
    let port = |word: &[u8]| {
        let word = std::str::from_utf8(word).ok()?;
        let is_plain = !word.starts_with('0') || word == "0";
        word.parse::<u16>().ok().filter(|_| is_plain)
    };
    address(destination)?;
    port(destination_port)?;
    Some(Some(SocketAddr::new(address(source)?, port(source_port)?)))
}

/// Section 2.2.
fn block(header: &[u8]) -> Option<Option<SocketAddr>> {
    let (command, family, rest) = (*header.get(12)?, *header.get(13)?, header.get(16..)?);
    let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    match (command, family) {
        (0x20, _) | (0x21, 0x00) => Some(None),
        (0x21, 0x11) => {
            let [a, b, c, d] = *rest.first_chunk::<4>()?;
            rest.get(..12)?;
            Some(Some(SocketAddr::from(([a, b, c, d], port(8)?))))
        }
        (0x21, 0x21) => {
            rest.get(..36)?;
            Some(Some(SocketAddr::from((Ipv6Addr::from(*rest.first_chunk::<16>()?), port(32)?))))
        }
        (0x21, 0x31) => rest.get(..216).map(|_| None),
        _ => None,
    }
}
