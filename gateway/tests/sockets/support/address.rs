//! Addresses without a server. This process holds them, so that no other process can bind them.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

fn bind_socket() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// An address that refuses every connection: its socket is bound and never listens.
#[derive(Debug)]
pub(crate) struct RefusedAddress {
    _socket: Socket,
    pub(crate) address: SocketAddr,
}

impl RefusedAddress {
    pub(crate) fn new() -> Self {
        let (socket, address) = bind_socket();
        Self { _socket: socket, address }
    }
}

/// An address where connecting hangs: it listens with a full queue, so the kernel drops each SYN.
#[derive(Debug)]
pub(crate) struct UnansweredAddress {
    _socket: Socket,
    _queue: Vec<TcpStream>,
    pub(crate) address: SocketAddr,
}

impl UnansweredAddress {
    pub(crate) fn new() -> Self {
        let (socket, address) = bind_socket();
        socket.listen(0).unwrap();
        let mut queue = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            queue.push(stream);
            assert!(queue.len() < 64, "the accept queue of {address} does not fill");
        }
        Self { _socket: socket, _queue: queue, address }
    }
}
