//! The two ends of a WebSocket as far as the gateway sees them: a handshake, and an upstream that
//! accepts it and echoes bytes.

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

/// A delay before the 101, as of a network. Pingora 0.9.1 ends an upgraded connection when the 101
/// arrives before it has handled the end of its own, empty request body. On one busy machine that
/// happened in one handshake of a hundred.
const SWITCH_DELAY: Duration = Duration::from_millis(20);

/// The script of an upstream that switches protocols and echoes.
pub(crate) fn websocket(exchange: &mut Exchange) -> Then {
    switch(exchange);
    exchange.echo()
}

/// The script of an upstream that switches protocols, sends these frames, and then waits until the
/// other side closes.
pub(crate) fn websocket_sending(frames: Vec<u8>) -> impl Fn(&mut Exchange) -> Then + Send + Sync + 'static {
    move |exchange| {
        switch(exchange);
        exchange.write(&frames);
        Then::Stall
    }
}

fn switch(exchange: &mut Exchange) {
    std::thread::sleep(SWITCH_DELAY);
    exchange.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAccess-Control-Allow-Origin: *\r\n\r\n");
}

/// The handshake of the client.
pub(crate) fn handshake(origin: &str) -> Vec<u8> {
    request("GET", "/socket", HOST, &[&[("Origin", origin)], UPGRADE.as_slice()].concat(), b"")
}

/// The value of `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`: RFC 6455, section 4.2.2.
pub(crate) fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")))
}
