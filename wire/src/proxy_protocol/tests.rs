//! PROXY headers: valid ones, near misses, and headers cut at every byte.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::lane::conn::peer_addr;

/// Makes a header of version 2 from command, family, and the rest.
fn block(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &len, rest].concat()
}

const IPV4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0, 80];

fn ipv6() -> Vec<u8> {
    let source: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
    [&source.octets()[..], &[0; 16], &[0x30, 0x39, 0, 80]].concat()
}

fn named(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

/// The length of the header at the start of `bytes`, and the client that it names.
fn read(bytes: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, ProxyHeaderFault> {
    match extent(bytes)? {
        HeaderExtent { len, is_whole: true } => Ok(Some((len, client(&bytes[..len])?))),
        HeaderExtent { .. } => Ok(None),
    }
}

fn good() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
    let line = |text: &str| text.as_bytes().to_vec();
    let tlvs = [&IPV4[..], &[4, 0, 2, 1, 2], b"\x03\x00\x04crc!", b"not a tlv"].concat();
    vec![
        (line("PROXY TCP4 192.0.2.7 198.51.100.1 12345 80\r\n"), named("192.0.2.7:12345")),
        (line("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"), named("255.255.255.255:65535")),
        (line("PROXY TCP6 2001:db8::7 ::1 12345 80\r\n"), named("[2001:db8::7]:12345")),
        (line("PROXY TCP6 ::ffff:192.0.2.7 ::1 12345 80\r\n"), named("[::ffff:192.0.2.7]:12345")),
        (line("PROXY UNKNOWN\r\n"), None),
        (line("PROXY UNKNOWN a b c d e f g\r\n"), None),
        (line(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(91))), None),
        (block(0x21, 0x11, &IPV4), named("192.0.2.7:12345")),
        (block(0x21, 0x11, &tlvs), named("192.0.2.7:12345")),
        (block(0x21, 0x11, &[&IPV4[..], &[0; HEADER_LEN_MAX - FIXED_LEN - 12]].concat()), named("192.0.2.7:12345")),
        (block(0x21, 0x21, &ipv6()), named("[2001:db8::7]:12345")),
        // No client address: the balancer itself, no address family, a Unix socket.
        (block(0x20, 0x00, &[]), None),
        (block(0x20, 0x11, &IPV4), None),
        (block(0x20, 0xff, b"whatever"), None),
        (block(0x21, 0x00, b"whatever"), None),
        (block(0x21, 0x31, &[b'/'; 216]), None),
    ]
}

#[test]
fn proxy_header_gives_client_and_length() {
    for (header, client) in good() {
        assert_eq!(read(&header), Ok(Some((header.len(), client))), "{header:?}");
        let followed = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(read(&followed), Ok(Some((header.len(), client))), "{header:?}");
    }
}

#[test]
fn partial_proxy_header_is_incomplete() {
    for (header, _) in good() {
        for cut in 0..header.len() {
            let part = &header[..cut];
            assert_eq!(extent(part), Ok(HeaderExtent { len: cut, is_whole: false }), "{part:?}");
        }
    }
}

#[test]
fn malformed_proxy_header_is_refused() {
    let lines = [
        "GET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\n\r\n",
        "PROXYTCP4 192.0.2.7 198.51.100.1 12345 80\r\n",
        "proxy TCP4 192.0.2.7 198.51.100.1 12345 80\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 12345 80\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 12345\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 12345 80 \r\n",
        "PROXY TCP4  192.0.2.7 198.51.100.1 12345 80\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 12345 80\rGET\r\n",
        "PROXY TCP4 192.0.2.07 198.51.100.1 12345 80\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.1 12345 80\r\n",
        "PROXY TCP4 2001:db8::7 ::1 12345 80\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 12345 80\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 12345 80\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 65536 80\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 012345 80\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 -1 80\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 12345 80\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\n",
        "PROXY \r\n",
        "\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01",
    ];
    let blocks = [
        block(0x11, 0x11, &IPV4),
        block(0x22, 0x11, &IPV4),
        block(0x31, 0x11, &IPV4),
        block(0x21, 0x11, &IPV4[..11]),
        block(0x21, 0x21, &IPV4),
        block(0x21, 0x31, &[0; 215]),
        block(0x21, 0x41, &ipv6()),
        block(0x21, 0x10, &IPV4),
        block(0x21, 0x12, &IPV4),
        block(0x21, 0x22, &ipv6()),
        block(0x21, 0x32, &[0; 216]),
        block(0x21, 0x01, &[]),
        block(0x21, 0x13, &IPV4),
    ];
    for bytes in lines.iter().map(|line| line.as_bytes().to_vec()).chain(blocks) {
        assert_eq!(read(&bytes), Err(ProxyHeaderFault::Malformed), "{bytes:?}");
    }
}

#[test]
fn proxy_header_over_the_limit_is_refused() {
    let line = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(read(line.as_bytes()), Err(ProxyHeaderFault::Malformed));
    for len in [HEADER_LEN_MAX + 1 - FIXED_LEN, usize::from(u16::MAX)] {
        let hostile = block(0x21, 0x11, &vec![0; len]);
        assert_eq!(read(&hostile[..FIXED_LEN]), Err(ProxyHeaderFault::TooLarge), "before the rest is there");
    }
}

/// Runs a connection that sends `sent` in pieces of `piece` bytes and ends. Returns its client
/// twice, as read and as recorded, and the first byte after the header.
async fn introduced(
    start: ConnectionStart,
    sent: &[u8],
    piece: usize,
) -> Result<(Option<SocketAddr>, Option<SocketAddr>, u8), ProxyHeaderError> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut balancer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    let io: Stream = Box::new(AcceptedSocket::new(stream, peer, &Arc::default()).unwrap());
    let (_stop, shutdown) = tokio::sync::watch::channel(false);
    let mut stop = StopSignal::new(&shutdown);
    let send = async {
        for piece in sent.chunks(piece) {
            // A refused peer may find its connection closed.
            let _closed = balancer.write_all(piece).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let _closed = balancer.shutdown().await;
    };
    let (introduced, ()) = tokio::join!(read_proxy_header(io, start, Duration::from_secs(30), &mut stop), send);
    let (mut io, named) = introduced?;
    let next = io.read_u8().await.unwrap();
    Ok((named, peer_addr(&io).filter(|address| *address != peer), next))
}

#[tokio::test]
async fn only_the_proxy_header_is_read_from_the_connection() {
    // Pieces that end within the header, with it, and far after it.
    for (header, client) in good() {
        let followed = [&header[..], b"!and so on"].concat();
        for piece in [header.len().div_ceil(3), header.len(), followed.len()] {
            let found = introduced(ConnectionStart::Header, &followed, piece).await;
            assert_eq!(found, Ok((client, client, b'!')), "{header:?} in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn missing_and_malformed_proxy_headers_have_distinct_reasons() {
    let line = good().remove(0).0;
    let bad = |reason: ProxyHeaderFault| Err(ProxyHeaderError::Bad(reason));
    let start = ConnectionStart::Header;
    assert_eq!(introduced(ConnectionStart::Closed, &line, line.len()).await, bad(ProxyHeaderFault::Stranger));
    assert_eq!(introduced(start, b"", 1).await, Err(ProxyHeaderError::Nothing));
    assert_eq!(introduced(start, &line[..10], 10).await, bad(ProxyHeaderFault::Truncated));
    assert_eq!(introduced(start, &line[..10], 3).await, bad(ProxyHeaderFault::Truncated));
    assert_eq!(introduced(start, b"GET / HTTP/1.1\r\n\r\n", 99).await, bad(ProxyHeaderFault::Malformed));
}
