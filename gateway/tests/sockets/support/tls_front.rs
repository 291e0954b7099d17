//! A TLS terminator in front of a plain-text upstream: it does the handshake and forwards the plain
//! text.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::{HandshakeKind, ServerConfig};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// The parameters of a successful handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) server_name: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) has_certificate: bool,
    pub(crate) is_resumed: bool,
}

/// The terminator. It ends with all its connections when this is dropped.
#[derive(Debug)]
pub(crate) struct TlsFront {
    pub(crate) address: SocketAddr,
    handshakes: Arc<Mutex<Vec<Handshake>>>,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    _runtime: Runtime,
}

impl TlsFront {
    /// Starts a terminator in front of the upstream at `behind`, which does not depend on the ALPN
    /// protocol.
    pub(crate) fn start(config: ServerConfig, behind: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let handshakes = Arc::new(Mutex::new(Vec::new()));
        let config = Arc::new(Mutex::new(Arc::new(config)));
        let (seen, current) = (Arc::clone(&handshakes), Arc::clone(&config));
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let acceptor = TlsAcceptor::from(Arc::clone(&current.lock().unwrap()));
                tokio::spawn(carry(stream, acceptor, behind, Arc::clone(&seen)));
            }
        });
        Self { address, handshakes, config, _runtime: runtime }
    }

    /// Uses another configuration for new connections.
    pub(crate) fn renew(&self, config: ServerConfig) {
        *self.config.lock().unwrap() = Arc::new(config);
    }

    /// The successful handshakes so far.
    pub(crate) fn handshakes(&self) -> Vec<Handshake> {
        self.handshakes.lock().unwrap().clone()
    }
}

async fn carry(stream: TcpStream, acceptor: TlsAcceptor, behind: SocketAddr, seen: Arc<Mutex<Vec<Handshake>>>) {
    stream.set_nodelay(true).unwrap();
    let Ok(mut client) = acceptor.accept(stream).await else { return };
    let (_, session) = client.get_ref();
    seen.lock().unwrap().push(Handshake {
        server_name: session.server_name().map(str::to_owned),
        protocol: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        has_certificate: session.peer_certificates().is_some(),
        is_resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
    });
    let Ok(mut upstream) = TcpStream::connect(behind).await else { return };
    upstream.set_nodelay(true).unwrap();
    let _ended = copy_bidirectional(&mut client, &mut upstream).await;
}
