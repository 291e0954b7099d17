//! An upstream that accepts connections and reads nothing from them.

use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use socket2::{Domain, SockRef, Socket, Type};

use super::process::PATIENCE;

/// As over Ethernet: with the 64 KiB segments of loopback, the kernels would buffer megabytes for a
/// peer that reads nothing.
const SEGMENT_LEN: u32 = 1_460;
/// The size of a socket buffer.
const BUFFER_LEN: usize = 16 * 1024;

/// The upstream. Its connections end when it is dropped.
#[derive(Debug)]
pub(crate) struct StalledUpstream {
    pub(crate) address: SocketAddr,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl StalledUpstream {
    pub(crate) fn start() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_tcp_mss(SEGMENT_LEN).unwrap();
        socket.set_recv_buffer_size(BUFFER_LEN).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(1024).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let accepted = Arc::clone(&connections);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                accepted.lock().unwrap().push(stream);
            }
        });
        Self { address, connections }
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    /// Waits until the gateway has closed all connections. It reads the buffered bytes, because the
    /// kernel reports the end only after them.
    pub(crate) fn wait_until_all_closed(&self) {
        let deadline = Instant::now() + PATIENCE;
        let connections = self.connections.lock().unwrap();
        while !connections.iter().all(has_ended) {
            assert!(Instant::now() < deadline, "a connection is still open");
        }
    }
}

fn has_ended(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut piece = [0; 64 * 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Opens a connection with a small send buffer.
pub(crate) fn connect_with_small_buffers(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_tcp_mss(SEGMENT_LEN).unwrap();
    socket.set_send_buffer_size(BUFFER_LEN).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    SockRef::from(&stream).set_tcp_nodelay(true).unwrap();
    stream
}
