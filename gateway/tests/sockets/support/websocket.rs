//! A WebSocket's two ends, as far as a gateway can tell: a handshake, and an upstream that takes it up and sends back what comes.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

use super::site::HOST;
use super::upstream::{Exchange, Then};
use super::wire::request;

const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// As far away as a near neighbour. Pingora 0.9.1 ends an upgraded connection at once when the 101 is there before it
/// has looked at the end of its own, empty request body; on one busy machine that happens in one handshake of a hundred.
const DISTANCE: Duration = Duration::from_millis(20);

/// The script of an upstream that switches, and echoes.
pub(crate) fn websocket(exchange: &mut Exchange) -> Then {
    std::thread::sleep(DISTANCE);
    exchange.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAccess-Control-Allow-Origin: *\r\n\r\n");
    exchange.echo()
}

/// The client's request to switch.
pub(crate) fn handshake(origin: &str) -> Vec<u8> {
    request("GET", "/socket", HOST, &[&[("Origin", origin)], UPGRADE.as_slice()].concat(), b"")
}

/// The value of `Sec-WebSocket-Accept` for that of `Sec-WebSocket-Key`, for a client that looks at it: RFC 6455, section 4.2.2.
pub(crate) fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")))
}
