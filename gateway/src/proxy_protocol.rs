//! The PROXY protocol, versions 1 and 2: a balancer that only passes bytes on says before them whose they are.
//!
//! Where a listener takes such headers, every connection has to begin with one, and only the balancers that it lists may connect:
//! nothing is guessed from what comes, as <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt> demands, so nobody else can
//! name an address. Nothing beyond the header is taken from the socket (it is looked at first), so whoever reads next, be it TLS or
//! the lane, finds its own first byte. A connection that a balancer opens for itself (`LOCAL`), or for a client without an address
//! (`UNKNOWN`, a Unix socket), stays the balancer's.
//!
//! Absent on purpose: what version 2 may add (its TLVs are passed over, a checksum among them), the address that the client
//! connected to, and any answer to a connection that begins with something else.

use std::net::SocketAddr;
use std::time::Duration;

use pingora::protocols::Stream;
use ppp::{v1, v2};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::lane::waiting::Stop;
use crate::metrics::BadIntroduction;
use crate::socket::Socket;

/// The longest header that is taken: an address and some certificate's names, at most. Its length field could say 64 KiB.
pub const HEADER_LEN_MAX: usize = 4096;

/// Version 1 is a line of at most so many bytes.
const LINE_LEN_MAX: usize = 107;
/// Version 2 begins with this, a byte of version and command, one of family and transport, and two of the length of what follows.
const SIGNATURE: &[u8] = v2::PROTOCOL_PREFIX;
const FIXED_LEN: usize = 16;
/// Version 2, and the command `LOCAL`, with which all that follows is meaningless.
const LOCAL: u8 = 0x20;
/// What is looked at at one time: most headers are shorter.
const GLANCE_LEN: usize = 256;

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// With the client's first byte.
    Client,
    /// With a balancer's header.
    Header,
    /// Not at all: its peer is no balancer, and this door is for those.
    Closed,
}

/// How much of what was looked at belongs to the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// So many bytes.
    pub len: usize,
    /// Whether they are all of it.
    pub is_whole: bool,
}

/// Why nobody is introduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoIntroduction {
    /// Nothing came, and nothing is missed: the peer looked whether anybody is there, or the gateway stops.
    Nothing,
    /// Something is wrong with the peer or with what it sent.
    Bad(BadIntroduction),
}

impl From<BadIntroduction> for NoIntroduction {
    fn from(bad: BadIntroduction) -> Self {
        NoIntroduction::Bad(bad)
    }
}

/// Reads the header of a connection. The connection is the client's from then on, where the header names one; whether it does.
///
/// # Errors
/// [`NoIntroduction`] where there is no good header; the connection is closed then.
pub(crate) async fn introduce(
    io: Stream,
    entry: Entry,
    time: Duration,
    stop: &mut Stop,
) -> Result<(Stream, Option<SocketAddr>), NoIntroduction> {
    if entry == Entry::Closed {
        return Err(BadIntroduction::Stranger.into());
    }
    // Whatever a runner accepts is one.
    let mut socket = io.into_any().downcast::<Socket>().map_err(|_| NoIntroduction::Nothing)?;
    let header = tokio::select! {
        header = timeout(time, take(socket.tcp())) => header,
        () = std::future::poll_fn(|cx| stop.poll_last_chance(cx)) => return Err(NoIntroduction::Nothing),
    };
    let client = client(&header.map_err(|_| BadIntroduction::Timeout)??)?;
    if let Some(client) = client {
        socket.rename(client);
    }
    let io: Stream = socket;
    Ok((io, client))
}

/// Takes the header, and no byte more, from a connection.
async fn take(tcp: &mut TcpStream) -> Result<Vec<u8>, NoIntroduction> {
    let mut header = Vec::with_capacity(GLANCE_LEN);
    loop {
        let before = header.len();
        header.resize(before + GLANCE_LEN, 0);
        let seen = tcp.peek(header.get_mut(before..).unwrap_or_default()).await.unwrap_or(0);
        if seen == 0 {
            return Err(if before == 0 { NoIntroduction::Nothing } else { BadIntroduction::Truncated.into() });
        }
        header.truncate(before + seen);
        let Extent { len, is_whole } = extent(&header)?;
        header.truncate(len);
        let own = header.get_mut(before..).unwrap_or_default();
        tcp.read_exact(own).await.map_err(|_| BadIntroduction::Truncated)?;
        if is_whole {
            return Ok(header);
        }
    }
}

/// How much of `bytes`, with which a connection begins, is its header. They are no more than was missing, and a glance.
///
/// # Errors
/// Where they do not begin one, or one that is too large.
pub fn extent(bytes: &[u8]) -> Result<Extent, BadIntroduction> {
    match bytes.first() {
        Some(b'P') => line_extent(bytes),
        Some(_) => block_extent(bytes),
        None => Ok(Extent { len: 0, is_whole: false }),
    }
}

fn line_extent(bytes: &[u8]) -> Result<Extent, BadIntroduction> {
    let line = bytes.get(..LINE_LEN_MAX).unwrap_or(bytes);
    let end = memchr::memchr(b'\n', line).map(|at| at + 1);
    let begins = |line: &[u8], with: &[u8]| line.iter().zip(with).all(|(byte, wanted)| byte == wanted);
    if !begins(line, b"PROXY ") || end.is_none() && line.len() == LINE_LEN_MAX {
        return Err(BadIntroduction::Malformed);
    }
    Ok(Extent { len: end.unwrap_or(line.len()), is_whole: end.is_some() })
}

fn block_extent(bytes: &[u8]) -> Result<Extent, BadIntroduction> {
    if !bytes.iter().zip(SIGNATURE).all(|(byte, wanted)| byte == wanted) {
        return Err(BadIntroduction::Malformed);
    }
    let Some(fixed) = bytes.first_chunk::<FIXED_LEN>() else {
        return Ok(Extent { len: bytes.len(), is_whole: false });
    };
    let [.., high, low] = *fixed;
    let len = FIXED_LEN + usize::from(u16::from_be_bytes([high, low]));
    if len > HEADER_LEN_MAX {
        return Err(BadIntroduction::TooLarge);
    }
    Ok(Extent { len: len.min(bytes.len()), is_whole: len <= bytes.len() })
}

/// Whom a whole header names; nobody, where the connection is the balancer's own or its client has no address.
///
/// # Errors
/// Where it is none.
pub fn client(header: &[u8]) -> Result<Option<SocketAddr>, BadIntroduction> {
    let client = if header.starts_with(b"P") { line_client(header) } else { block_client(header) };
    client.ok_or(BadIntroduction::Malformed)
}

/// The outer one is `None` for what is no header.
fn line_client(line: &[u8]) -> Option<Option<SocketAddr>> {
    // Whatever else such a line says is to be ignored.
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
        // No datagram came by TCP, and other pairs are to be refused.
        (
            v2::Addresses::IPv4(_) | v2::Addresses::IPv6(_) | v2::Addresses::Unix(_),
            v2::Protocol::Unspecified | v2::Protocol::Datagram,
        )
        | (v2::Addresses::Unspecified, v2::Protocol::Stream | v2::Protocol::Datagram) => None,
    }
}

#[cfg(test)]
mod tests;
