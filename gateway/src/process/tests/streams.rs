//! Byte streams between a test and a gateway, in clear text or over TLS.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// The limit of every wait for bytes.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// The name of servers, and the one that clients send as SNI.
const SERVER_NAME: &str = "upstream.test";
/// One read of a socket.
const READ_LEN: usize = 16 * 1024;

/// What clients and servers speak under HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Clear,
    Tls,
}

impl Transport {
    /// The keys of a listener after its address.
    pub(super) fn listener_keys(self) -> &'static str {
        match self {
            Transport::Clear => "",
            Transport::Tls => ", tls: { certificates: [{ certificate: test.crt, key: test.key }] }",
        }
    }

    /// The keys of an upstream after its servers.
    pub(super) fn upstream_keys(self) -> &'static str {
        match self {
            Transport::Clear => "",
            Transport::Tls => ", protocol: Http1, tls: { serverName: upstream.test, ca: test.crt }",
        }
    }

    /// The files that these keys name.
    pub(super) fn files(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Transport::Clear => Vec::new(),
            Transport::Tls => vec![("test.crt", &CERTIFICATE.certificate), ("test.key", &CERTIFICATE.key)],
        }
    }

    /// Connects to a gateway for HTTP/1.1.
    pub(super) fn connect(self, address: SocketAddr) -> ByteStream {
        self.connect_with(address, &CERTIFICATE.http1_client)
    }

    /// Connects to a gateway for frames of HTTP/2.
    pub(super) fn connect_for_frames(self, address: SocketAddr) -> ByteStream {
        self.connect_with(address, &CERTIFICATE.http2_client)
    }

    fn connect_with(self, address: SocketAddr, config: &Arc<ClientConfig>) -> ByteStream {
        let tcp = TcpStream::connect(address).unwrap();
        let session = match self {
            Transport::Clear => None,
            Transport::Tls => Some(ClientConnection::new(Arc::clone(config), server_name()).unwrap().into()),
        };
        ByteStream::new(tcp, session).expect("a handshake")
    }

    /// Takes a connection of a gateway. `None` if its handshake fails.
    pub(super) fn accept(self, tcp: TcpStream) -> Option<ByteStream> {
        let session = match self {
            Transport::Clear => None,
            Transport::Tls => Some(ServerConnection::new(Arc::clone(&CERTIFICATE.server)).unwrap().into()),
        };
        ByteStream::new(tcp, session).ok()
    }

    /// Begins HTTP/2 on a connection to a gateway.
    pub(super) async fn handshake_http2(
        self,
        tcp: TcpStream,
    ) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
        tcp.set_nodelay(true).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let tcp = tokio::net::TcpStream::from_std(tcp).unwrap();
        match self {
            Transport::Clear => handshake_http2(tcp).await,
            Transport::Tls => {
                let connector = TlsConnector::from(Arc::clone(&CERTIFICATE.http2_client));
                let tls = connector.connect(server_name(), tcp).await.expect("a handshake");
                assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                handshake_http2(tls).await
            }
        }
    }

    pub(super) fn scheme(self) -> &'static str {
        match self {
            Transport::Clear => "http",
            Transport::Tls => "https",
        }
    }
}

async fn handshake_http2(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let (client, connection) = h2::client::handshake(io).await.unwrap();
    (client, tokio::spawn(connection))
}

fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).unwrap()
}

/// A certificate for all hosts of the tests, and the configurations that use and trust it.
struct TestCertificate {
    certificate: String,
    key: String,
    server: Arc<ServerConfig>,
    http1_client: Arc<ClientConfig>,
    http2_client: Arc<ClientConfig>,
}

static CERTIFICATE: LazyLock<TestCertificate> = LazyLock::new(|| {
    let names = [SERVER_NAME, "spa.test", "strict.test", "unknown.test", "api.test"].map(str::to_owned);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let der: CertificateDer<'static> = certificate.der().clone();
    let provider = Arc::new(default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let server_key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let server = server.unwrap().with_no_client_auth().with_single_cert(vec![der.clone()], server_key).unwrap();
    let client = |protocol: &[u8]| {
        let mut roots = RootCertStore::empty();
        roots.add(der.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    };
    TestCertificate {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        server: Arc::new(server),
        http1_client: client(b"http/1.1"),
        http2_client: client(b"h2"),
    }
});

/// One side of a connection. Clones share it, so that a thread can read while another one writes.
#[derive(Clone)]
pub(super) struct ByteStream {
    tcp: Arc<TcpStream>,
    tls: Option<Arc<TlsState>>,
}

struct TlsState {
    session: Mutex<TlsSession>,
    /// Held while records are written, so that they leave in order.
    writing: Mutex<()>,
}

struct TlsSession {
    connection: Connection,
    /// Decrypted, and not read yet.
    received: Vec<u8>,
}

impl ByteStream {
    fn new(mut tcp: TcpStream, session: Option<Connection>) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let tls = match session {
            None => None,
            Some(mut session) => {
                while session.is_handshaking() {
                    session.complete_io(&mut tcp)?;
                }
                // A server sends its tickets now.
                while session.wants_write() {
                    session.write_tls(&mut tcp)?;
                }
                let session = TlsSession { connection: session, received: Vec::new() };
                Some(Arc::new(TlsState { session: Mutex::new(session), writing: Mutex::new(()) }))
            }
        };
        Ok(ByteStream { tcp: Arc::new(tcp), tls })
    }

    /// Ends the sending side in order: over TLS with `close_notify`.
    pub(super) fn end(&self) {
        self.close_notify();
        self.cut();
    }

    /// Sends `close_notify`. Does nothing in clear text.
    pub(super) fn close_notify(&self) {
        if let Some(tls) = &self.tls {
            let _sent_or_gone = tls.send(&self.tcp, |session| {
                session.send_close_notify();
                Ok(())
            });
        }
    }

    /// Ends the sending side without `close_notify`.
    pub(super) fn cut(&self) {
        let _ended_or_gone = self.tcp.shutdown(Shutdown::Write);
    }

    /// Asks the other side to change its keys: RFC 8446, section 4.6.3. Does nothing in clear
    /// text.
    pub(super) fn update_keys(&self) {
        if let Some(tls) = &self.tls {
            tls.send(&self.tcp, |session| session.refresh_traffic_keys().map_err(io::Error::other)).unwrap();
        }
    }

    /// Ends the connection with a reset. There must be no clone.
    pub(super) fn reset(self) {
        SockRef::from(&*self.tcp).set_linger(Some(Duration::ZERO)).unwrap();
        assert_eq!(Arc::strong_count(&self.tcp), 1, "a clone keeps the socket open");
    }

    /// The socket.
    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

impl TlsState {
    /// Changes the session, and sends the records that this makes.
    fn send(&self, mut tcp: &TcpStream, change: impl FnOnce(&mut Connection) -> io::Result<()>) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap();
        let mut records = Vec::new();
        {
            let connection = &mut self.session.lock().unwrap().connection;
            change(connection)?;
            while connection.wants_write() {
                connection.write_tls(&mut records)?;
            }
        }
        tcp.write_all(&records)
    }

    fn read(&self, mut tcp: &TcpStream, buf: &mut [u8]) -> io::Result<usize> {
        let mut records = [0; READ_LEN];
        loop {
            match self.session.lock().unwrap().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            let len = tcp.read(&mut records)?;
            self.session.lock().unwrap().decrypt(&records[..len])?;
        }
    }
}

impl TlsSession {
    /// Reads what is decrypted. `WouldBlock` if there is nothing, 0 after `close_notify`.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.received.is_empty() {
            return self.connection.reader().read(buf);
        }
        let len = self.received.len().min(buf.len());
        buf[..len].copy_from_slice(&self.received[..len]);
        self.received.drain(..len);
        Ok(len)
    }

    /// Takes records. None are the end of the connection.
    fn decrypt(&mut self, mut records: &[u8]) -> io::Result<()> {
        loop {
            self.connection.read_tls(&mut records)?;
            let state = self.connection.process_new_packets().map_err(io::Error::other)?;
            let begin = self.received.len();
            self.received.resize(begin + state.plaintext_bytes_to_read(), 0);
            self.connection.reader().read_exact(&mut self.received[begin..])?;
            if records.is_empty() {
                return Ok(());
            }
        }
    }
}

impl Read for ByteStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            None => (&*self.tcp).read(buf),
            Some(tls) => tls.read(&self.tcp, buf),
        }
    }
}

impl Write for ByteStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return (&*self.tcp).write(bytes) };
        let piece = &bytes[..bytes.len().min(READ_LEN)];
        tls.send(&self.tcp, |session| session.writer().write_all(piece))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
