//! The PROXY header at the beginning of a balancer's connection, and the client's bytes after it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crossgate::metrics::ProxyHeaderFault;
use crossgate_wire::proxy_protocol::{HEADER_LEN_MAX, HeaderExtent, client, extent};

/// The parser finds the same end of the header in one piece and byte by byte, and takes no byte
/// after it. The client address is the one that the plain parser here finds.
///
/// # Panics
/// If this does not hold.
pub fn proxy_header(bytes: &[u8]) {
    let whole = extent(bytes);
    assert_eq!(byte_by_byte(bytes), whole);
    let Ok(HeaderExtent { len, is_whole }) = whole else { return };
    assert!(len <= bytes.len() && len <= HEADER_LEN_MAX);
    if !is_whole {
        assert_eq!(len, bytes.len(), "a partial header has all bytes");
        return;
    }
    let header = bytes.get(..len).unwrap_or_default();
    let named = client(header);
    let plain = if header.starts_with(b"P") { line(header) } else { block(header) };
    match (named, plain) {
        (Ok(named), Some(plain)) => assert_eq!(named, plain),
        (Err(bad), None) => assert_eq!(bad, ProxyHeaderFault::Malformed),
        (named, plain) => panic!("{named:?}, expected {plain:?} by the plain parser"),
    }
}

/// The extent when each byte arrives separately.
fn byte_by_byte(bytes: &[u8]) -> Result<HeaderExtent, ProxyHeaderFault> {
    for end in 0..bytes.len() {
        let extent = extent(bytes.get(..end).unwrap_or_default())?;
        if extent.is_whole {
            return Ok(extent);
        }
        assert_eq!(extent.len, end);
    }
    extent(bytes)
}

/// The client in a header of version 1: section 2.1 of the PROXY protocol.
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
    // `u16::from_str` accepts a plus sign, which does not change the value.
    let port = |word: &[u8]| {
        let word = std::str::from_utf8(word).ok()?;
        let is_plain = !word.starts_with('0') || word == "0";
        word.parse::<u16>().ok().filter(|_| is_plain)
    };
    address(destination)?;
    port(destination_port)?;
    Some(Some(SocketAddr::new(address(source)?, port(source_port)?)))
}

/// The client in a header of version 2: section 2.2 of the PROXY protocol.
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
