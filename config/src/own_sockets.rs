//! Detects addresses that lead to a socket of this gateway.

use std::net::{IpAddr, SocketAddr};

/// Whether a connection to `server` reaches the socket that listens at `listener` on this machine.
/// The other addresses of this machine are not looked up, so `false` can be wrong for them.
pub fn reaches(listener: SocketAddr, server: SocketAddr) -> bool {
    let (bound, asked) = (listener.ip().to_canonical(), server.ip().to_canonical());
    let is_local = |address: IpAddr| address.is_loopback() || address.is_unspecified();
    listener.port() == server.port()
        && (bound == asked || is_local(asked) && (bound.is_unspecified() || is_same_host(bound, asked)))
}

/// Whether the unspecified address as a destination reaches a loopback socket.
fn is_same_host(bound: IpAddr, asked: IpAddr) -> bool {
    asked.is_unspecified() && bound.is_loopback() && bound.is_ipv4() == asked.is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_reach_an_own_socket_are_detected() {
        for (listener, server, wanted) in [
            ("127.0.0.1:8080", "127.0.0.1:8080", true),
            ("127.0.0.1:8080", "127.0.0.1:8081", false),
            ("0.0.0.0:8080", "127.0.0.1:8080", true),
            ("0.0.0.0:8080", "127.9.9.9:8080", true),
            ("[::]:8080", "127.0.0.1:8080", true),
            ("[::]:8080", "[::1]:8080", true),
            ("127.0.0.1:8080", "0.0.0.0:8080", true),
            ("127.0.0.1:8080", "[::ffff:127.0.0.1]:8080", true),
            ("127.0.0.1:8080", "[::1]:8080", false),
            ("127.0.0.1:8080", "127.0.0.2:8080", false),
            ("0.0.0.0:8080", "10.0.0.1:8080", false),
            ("10.0.0.1:8080", "10.0.0.1:8080", true),
            ("10.0.0.1:8080", "127.0.0.1:8080", false),
        ] {
            assert_eq!(reaches(listener.parse().unwrap(), server.parse().unwrap()), wanted, "{listener} {server}");
        }
    }
}
