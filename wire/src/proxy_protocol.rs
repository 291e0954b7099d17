//! The PROXY protocol, versions 1 and 2: a TCP balancer sends a header that names the client of the
//! connection.
//!
//! If a listener expects PROXY headers, every connection must begin with one, and only configured
//! balancers may connect. The gateway never detects headers by their content, as
//! <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt> demands. So no other peer can
//! claim an address. The header is peeked first, and no byte after it is read from the socket, so
//! TLS or the lane starts at its own first byte. A connection that a balancer opens for itself
//! (`LOCAL`), or for a client without an address (`UNKNOWN`, a Unix socket), keeps the balancer's
//! address.
//!
//! Absent on purpose: the TLVs of version 2 (skipped, a checksum among them), the destination
//! address, and any response to a connection without a valid header.

use std::net::SocketAddr;
use std::time::Duration;

use pingora::protocols::Stream;
use ppp::{v1, v2};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::exchange::timer::StopSignal;
use crate::metrics::ProxyHeaderFault;
use crate::socket::AcceptedSocket;

/// The longest header that is accepted: an address and some certificate names. Its length field
/// allows 64 KiB.
pub const HEADER_LEN_MAX: usize = 4096;

/// The longest header of version 1, a line.
const LINE_LEN_MAX: usize = 107;
/// The signature of version 2. A byte of version and command, one of family and transport, and two
/// of the remaining length follow.
const SIGNATURE: &[u8] = v2::PROTOCOL_PREFIX;
const FIXED_LEN: usize = 16;
/// Version 2 with the command `LOCAL`, after which the rest of the header is ignored.
const LOCAL: u8 = 0x20;
/// The bytes peeked at one time: most headers are shorter.
const PEEK_LEN: usize = 256;

/// The expected start of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionStart {
    /// The first byte of the client.
    Client,
    /// A PROXY header of a balancer.
    Header,
    /// None: the peer is not a balancer, and this listener accepts only balancers.
    Closed,
}

/// The part of the peeked bytes that belongs to the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderExtent {
    /// The length in bytes.
    pub len: usize,
    /// Whether the header is complete.
    pub is_whole: bool,
}

/// The error that ends a connection without a valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeaderError {
    /// The connection ended before its first byte (a balancer's TCP check does that), or the
    /// gateway stops.
    Nothing,
    /// The peer may not connect, or its header is invalid.
    Bad(ProxyHeaderFault),
}

impl From<ProxyHeaderFault> for ProxyHeaderError {
    fn from(bad: ProxyHeaderFault) -> Self {
        ProxyHeaderError::Bad(bad)
    }
}

/// Reads the header of a connection, and gives the connection the client's address if the header
/// names one.
///
/// # Errors
/// Returns [`ProxyHeaderError`] if there is no valid header. The connection is closed then.
pub async fn read_proxy_header(
    io: Stream,
    start: ConnectionStart,
    time: Duration,
    stop: &mut StopSignal,
) -> Result<(Stream, Option<SocketAddr>), ProxyHeaderError> {
    if start == ConnectionStart::Closed {
        return Err(ProxyHeaderFault::Stranger.into());
    }
    // All connections of a runner are of this type.
    let mut socket = io.into_any().downcast::<AcceptedSocket>().map_err(|_| ProxyHeaderError::Nothing)?;
    let header = tokio::select! {
        header = timeout(time, take(socket.tcp())) => header,
        () = std::future::poll_fn(|cx| stop.poll_last_chance(cx)) => return Err(ProxyHeaderError::Nothing),
    };
    let client = client(&header.map_err(|_| ProxyHeaderFault::Timeout)??)?;
    if let Some(client) = client {
        socket.rename(client);
    }
    let io: Stream = socket;
    Ok((io, client))
}

/// Reads the header from a connection, and no byte more.
async fn take(tcp: &mut TcpStream) -> Result<Vec<u8>, ProxyHeaderError> {
    let mut header = Vec::with_capacity(PEEK_LEN);
    loop {
        let before = header.len();
        header.resize(before + PEEK_LEN, 0);
        let peeked = tcp.peek(header.get_mut(before..).unwrap_or_default()).await.unwrap_or(0);
        // Zero bytes: the peer has closed its side, or the connection failed.
        if peeked == 0 {
            return Err(if before == 0 { ProxyHeaderError::Nothing } else { ProxyHeaderFault::Truncated.into() });
        }
        header.truncate(before + peeked);
        let HeaderExtent { len, is_whole } = extent(&header)?;
        header.truncate(len);
        let rest = header.get_mut(before..).unwrap_or_default();
        tcp.read_exact(rest).await.map_err(|_| ProxyHeaderFault::Truncated)?;
        if is_whole {
            return Ok(header);
        }
    }
}

/// Finds the part of `bytes`, the start of a connection, that belongs to its header.
///
/// # Errors
/// Returns the reason if the bytes begin no header, or one that is too large.
pub fn extent(bytes: &[u8]) -> Result<HeaderExtent, ProxyHeaderFault> {
    match bytes.first() {
        Some(b'P') => line_extent(bytes),
        Some(_) => block_extent(bytes),
        None => Ok(HeaderExtent { len: 0, is_whole: false }),
    }
}

fn line_extent(bytes: &[u8]) -> Result<HeaderExtent, ProxyHeaderFault> {
    let line = bytes.get(..LINE_LEN_MAX).unwrap_or(bytes);
    let end = memchr::memchr(b'\n', line).map(|at| at + 1);
    let begins = |line: &[u8], with: &[u8]| line.iter().zip(with).all(|(byte, wanted)| byte == wanted);
    if !begins(line, b"PROXY ") || end.is_none() && line.len() == LINE_LEN_MAX {
        return Err(ProxyHeaderFault::Malformed);
    }
    Ok(HeaderExtent { len: end.unwrap_or(line.len()), is_whole: end.is_some() })
}

fn block_extent(bytes: &[u8]) -> Result<HeaderExtent, ProxyHeaderFault> {
    if !bytes.iter().zip(SIGNATURE).all(|(byte, wanted)| byte == wanted) {
        return Err(ProxyHeaderFault::Malformed);
    }
    let Some(fixed) = bytes.first_chunk::<FIXED_LEN>() else {
        return Ok(HeaderExtent { len: bytes.len(), is_whole: false });
    };
    let [.., high, low] = *fixed;
    let len = FIXED_LEN + usize::from(u16::from_be_bytes([high, low]));
    if len > HEADER_LEN_MAX {
        return Err(ProxyHeaderFault::TooLarge);
    }
    Ok(HeaderExtent { len: len.min(bytes.len()), is_whole: len <= bytes.len() })
}

/// The client that a whole header names. `None` if the connection is the balancer's own, or its
/// client has no address.
///
/// # Errors
/// Returns [`ProxyHeaderFault::Malformed`] if the header is invalid.
pub fn client(header: &[u8]) -> Result<Option<SocketAddr>, ProxyHeaderFault> {
    let client = if header.starts_with(b"P") { line_client(header) } else { block_client(header) };
    client.ok_or(ProxyHeaderFault::Malformed)
}

/// Parses a header of version 1. The outer `None` means that it is invalid.
fn line_client(line: &[u8]) -> Option<Option<SocketAddr>> {
    // PROXY protocol, section 2.1: the rest of an `UNKNOWN` line is ignored.
    let unknown = line.strip_suffix(b"\r\n")?.strip_prefix(b"PROXY UNKNOWN");
    if unknown.is_some_and(|rest| rest.is_empty() || rest.starts_with(b" ")) {
        return Some(None);
    }
    let header = v1::Header::try_from(line).ok().filter(|header| header.header.len() == line.len())?;
    match header.addresses {
        v1::Addresses::Tcp4(ip) => Some(Some(SocketAddr::from((ip.source_address, ip.source_port)))),
        v1::Addresses::Tcp6(ip) => Some(Some(SocketAddr::from((ip.source_address, ip.source_port)))),
        v1::Addresses::Unknown => Some(None),
    }
}

fn block_client(block: &[u8]) -> Option<Option<SocketAddr>> {
    if block.get(SIGNATURE.len()) == Some(&LOCAL) {
        return Some(None);
    }
    let header = v2::Header::try_from(block).ok().filter(|header| header.len() == block.len())?;
    match (header.addresses, header.protocol) {
        (v2::Addresses::IPv4(ip), v2::Protocol::Stream) => {
            Some(Some(SocketAddr::from((ip.source_address, ip.source_port))))
        }
        (v2::Addresses::IPv6(ip), v2::Protocol::Stream) => {
            Some(Some(SocketAddr::from((ip.source_address, ip.source_port))))
        }
        (v2::Addresses::Unix(_), v2::Protocol::Stream) | (v2::Addresses::Unspecified, v2::Protocol::Unspecified) => {
            Some(None)
        }
        // Datagrams do not arrive over TCP. Other combinations are invalid by the specification.
        (
            v2::Addresses::IPv4(_) | v2::Addresses::IPv6(_) | v2::Addresses::Unix(_),
            v2::Protocol::Unspecified | v2::Protocol::Datagram,
        )
        | (v2::Addresses::Unspecified, v2::Protocol::Stream | v2::Protocol::Datagram) => None,
    }
}

#[cfg(test)]
mod tests;
