//! TLS clients that trust one authority.
//!
//! The tunnel adds TLS to plain-text clients, so that all clients of the suites can reach a TLS
//! listener.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use super::certificates::{Authority, Issued};

/// The same timeout as in `wire.rs`.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

impl Authority {
    /// A client that trusts only this authority and offers these TLS versions.
    pub(crate) fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        self.client_by(aws_lc_rs::default_provider(), versions)
    }

    /// A client with these groups for the key exchange, the preferred one first.
    pub(crate) fn client_with_groups(&self, groups: &[&'static dyn SupportedKxGroup]) -> Arc<ClientConfig> {
        let provider = CryptoProvider { kx_groups: groups.to_vec(), ..aws_lc_rs::default_provider() };
        self.client_by(provider, rustls::ALL_VERSIONS)
    }

    fn client_by(&self, provider: CryptoProvider, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        let mut client = builder.with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(client)
    }

    /// A client with all TLS versions.
    pub(crate) fn usual_client(&self) -> Arc<ClientConfig> {
        self.client(rustls::ALL_VERSIONS)
    }

    /// Opens a connection with `host` as server name. For an IP address, no server name is sent
    /// (RFC 6066, section 3).
    pub(crate) fn connect(&self, address: SocketAddr, host: &str) -> io::Result<TlsConnection> {
        TlsConnection::open(address, host, self.usual_client())
    }
}

impl Issued {
    /// The certificate and key files of a listener.
    pub(crate) fn files(&self) -> [(&str, &str); 2] {
        [("listener.crt", &self.certificate), ("listener.key", &self.key)]
    }

    /// Writes both files.
    pub(crate) fn write(&self, certificate: &Path, key: &Path) {
        std::fs::write(certificate, &self.certificate).unwrap();
        std::fs::write(key, &self.key).unwrap();
    }
}

/// A connection after its handshake.
pub(crate) struct TlsConnection {
    stream: StreamOwned<ClientConnection, TcpStream>,
}

impl TlsConnection {
    pub(crate) fn open(address: SocketAddr, host: &str, client: Arc<ClientConfig>) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        let mut session = ClientConnection::new(client, name).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Self { stream: StreamOwned::new(session, stream) })
    }

    /// The certificate of the server.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.stream.conn.peer_certificates().expect("a certificate")[0]
    }

    pub(crate) fn session(&self) -> &ClientConnection {
        &self.stream.conn
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).and_then(|()| self.stream.flush()).expect("sent");
    }

    /// Sends close_notify. The TCP connection stays open.
    pub(crate) fn finish_sending(&mut self) {
        self.stream.conn.send_close_notify();
        self.stream.flush().expect("close_notify is sent");
    }

    /// Reads until the close_notify of the gateway. A connection that ends without it is an error.
    pub(crate) fn read_to_end(&mut self) -> io::Result<String> {
        let mut all = String::new();
        self.stream.read_to_string(&mut all)?;
        Ok(all)
    }

    /// Reads until the gateway has sent this many session tickets of TLS 1.3.
    pub(crate) fn await_tickets(&mut self, count: u32) {
        while self.stream.conn.tls13_tickets_received() < count {
            let len = self.stream.conn.read_tls(&mut self.stream.sock).expect("tickets");
            assert!(len > 0, "the connection ended before {count} tickets");
            self.stream.conn.process_new_packets().unwrap();
        }
    }

    /// Reads some of the next bytes.
    pub(crate) fn read_some(&mut self) -> io::Result<Vec<u8>> {
        let mut some = vec![0; 64 * 1024];
        let len = self.stream.read(&mut some)?;
        some.truncate(len);
        Ok(some)
    }
}

/// The TLS error of a failed handshake. `None`: another error.
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// A local address that adds TLS: each connection to it opens a TLS connection to the gateway.
pub(crate) struct Tunnel {
    pub(crate) address: SocketAddr,
    unclean: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Tunnel {
    /// A tunnel to a listener, with `host` as server name, for HTTP/1.1.
    pub(crate) fn to(gateway: SocketAddr, host: &str, authority: &Authority) -> Self {
        Self::with_protocol("http/1.1", gateway, host, authority)
    }

    /// A tunnel for another protocol, which ALPN must select.
    pub(crate) fn with_protocol(
        protocol: &'static str,
        gateway: SocketAddr,
        host: &str,
        authority: &Authority,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = ClientConfig::clone(&authority.usual_client());
        client.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let connector = TlsConnector::from(Arc::new(client));
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        let unclean = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&unclean);
        runtime.spawn(async move {
            loop {
                let (mut plain, _) = listener.accept().await.expect("a connection");
                let (connector, name, counted) = (connector.clone(), name.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let stream = tokio::net::TcpStream::connect(gateway).await.expect("connect");
                    plain.set_nodelay(true).unwrap();
                    stream.set_nodelay(true).unwrap();
                    let mut secure = connector.connect(name, stream).await.expect("a handshake");
                    assert_eq!(secure.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
                    let ended = copy_bidirectional(&mut plain, &mut secure).await;
                    let is_unclean = ended.is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
                    counted.fetch_add(usize::from(is_unclean), SeqCst);
                });
            }
        });
        Self { address, unclean, _runtime: runtime }
    }

    /// The number of connections that the gateway ended without close_notify.
    pub(crate) fn unclean_ends(&self) -> usize {
        self.unclean.load(SeqCst)
    }
}
