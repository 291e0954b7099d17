//! TLS from outside: clients that trust one authority and nobody else, and a tunnel through which any other
//! client of the suites, which speaks plain text, reaches a listener that speaks TLS.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use super::certificates::{Authority, Issued};

/// As for a connection in plain text.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

impl Authority {
    /// A client that trusts it alone and speaks these versions.
    pub(crate) fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        let mut client = builder.with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(client)
    }

    /// The usual one.
    pub(crate) fn usual_client(&self) -> Arc<ClientConfig> {
        self.client(rustls::ALL_VERSIONS)
    }

    /// A connection that asks for `host`; an address asks for nobody.
    pub(crate) fn connect(&self, address: SocketAddr, host: &str) -> io::Result<TlsConnection> {
        TlsConnection::open(address, host, self.usual_client())
    }
}

impl Issued {
    /// What a listener is configured with.
    pub(crate) fn files(&self) -> [(&str, &str); 2] {
        [("listener.crt", &self.certificate), ("listener.key", &self.key)]
    }

    /// Writes both files.
    pub(crate) fn write(&self, certificate: &Path, key: &Path) {
        std::fs::write(certificate, &self.certificate).unwrap();
        std::fs::write(key, &self.key).unwrap();
    }
}

/// A connection whose handshake is done.
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

    /// What it was shown.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.stream.conn.peer_certificates().expect("a certificate")[0]
    }

    pub(crate) fn session(&self) -> &ClientConnection {
        &self.stream.conn
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).and_then(|()| self.stream.flush()).expect("sent");
    }

    /// Says that nothing more comes, and says it within TLS alone.
    pub(crate) fn finish_sending(&mut self) {
        self.stream.conn.send_close_notify();
        self.stream.flush().expect("said");
    }

    /// Everything that comes until the gateway says, within TLS, that nothing more does.
    pub(crate) fn read_to_end(&mut self) -> io::Result<String> {
        let mut all = String::new();
        self.stream.read_to_string(&mut all)?;
        Ok(all)
    }

    /// What comes next, some bytes of it.
    pub(crate) fn read_some(&mut self) -> io::Result<Vec<u8>> {
        let mut some = vec![0; 64 * 1024];
        let len = self.stream.read(&mut some)?;
        some.truncate(len);
        Ok(some)
    }
}

/// What failed of a handshake, where it was TLS that failed.
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Speaks TLS for clients that cannot. Every connection to its address becomes one to the gateway.
pub(crate) struct Tunnel {
    pub(crate) address: SocketAddr,
    unclean: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Tunnel {
    /// To a listener, where it asks for `host`.
    pub(crate) fn to(gateway: SocketAddr, host: &str, authority: &Authority) -> Self {
        Self::speaking("http/1.1", gateway, host, authority)
    }

    /// The same for clients of another protocol, which must be agreed on.
    pub(crate) fn speaking(protocol: &'static str, gateway: SocketAddr, host: &str, authority: &Authority) -> Self {
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

    /// How many connections the gateway ended without saying so within TLS.
    pub(crate) fn unclean_ends(&self) -> usize {
        self.unclean.load(SeqCst)
    }
}
