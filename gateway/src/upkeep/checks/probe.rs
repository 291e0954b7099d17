//! One check of one server: a connection of its own, made and trusted as those of requests are, one question, and the head of the answer.
//!
//! The configured time is for all of it: to connect, to shake hands, to be answered. Why a server did not pass is one of few reasons, beside
//! which the log has the words of whoever found it. Absent on purpose: kept connections, and what an answer says beyond its status.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::Reason;
use http::header::{ACCEPT, USER_AGENT};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Request, Uri};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::config::model::{HealthCheck, Protocol};
use crate::tenant::Upstream;
use crate::upstream::UpstreamTls;

/// Of an answer's head no more is read.
pub(super) const HEAD_LEN_MAX: usize = 16 << 10;
const HEAD_FIELDS_MAX: usize = 100;
/// What the log tells of one failure: a certificate may have a thousand names.
const WHAT_LEN_MAX: usize = 300;
/// What is not written where it is the port of `https`.
const HTTPS_PORT: u16 = 443;
/// Who asks.
const AGENT: &str = "crossgate-health-check";
const NO_ANSWER: &str = "no answer";

/// How requests come to an upstream's servers, and so checks.
#[derive(Clone, PartialEq)]
pub(in crate::upkeep) struct Way {
    protocol: Protocol,
    tls: Option<Arc<UpstreamTls>>,
}

impl Way {
    /// That to an upstream.
    pub(in crate::upkeep) fn to(upstream: &Upstream) -> Self {
        Way { protocol: upstream.protocol, tls: upstream.tls.clone() }
    }
}

/// What every server of an upstream is asked.
pub(in crate::upkeep) struct Probe {
    path: PathAndQuery,
    host: Option<HeaderValue>,
    protocol: Protocol,
    tls: Option<Tls>,
}

struct Tls {
    upstream: Arc<UpstreamTls>,
    config: Arc<ClientConfig>,
}

/// Why a server did not pass a check.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: Why,
    /// In the words of whoever found it.
    pub(super) what: String,
}

/// The reasons there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// No connection.
    Connect,
    /// No TLS with it.
    TlsHandshake,
    /// Its certificate is expired, of nobody who is trusted, or of another name.
    TlsCertificate,
    /// It speaks TLS, and not the HTTP that it is to be asked in.
    TlsAlpn,
    /// The connection ended before the answer did.
    Reset,
    /// The answer was not HTTP.
    Invalid,
    /// The answer has another status than those from 200 to 299.
    Status,
    /// The time was over.
    Timeout,
}

impl Why {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Why::Connect => "connect",
            Why::TlsHandshake => "tls_handshake",
            Why::TlsCertificate => "tls_certificate",
            Why::TlsAlpn => "tls_alpn",
            Why::Reset => "reset",
            Why::Invalid => "invalid",
            Why::Status => "status",
            Why::Timeout => "timeout",
        }
    }
}

impl Failure {
    fn new(why: Why, what: impl ToString) -> Self {
        Failure { why, what: what.to_string().chars().take(WHAT_LEN_MAX).collect() }
    }
}

impl Probe {
    pub(in crate::upkeep) fn new(check: &HealthCheck, Way { protocol, tls }: &Way) -> Self {
        let config = |tls: &UpstreamTls| Arc::new(tls.client(*protocol));
        let tls = tls.as_ref().map(|tls| Tls { upstream: Arc::clone(tls), config: config(tls) });
        Probe { path: check.path.clone(), host: check.host.clone(), protocol: *protocol, tls }
    }

    /// Asks a server, and is done when the time is over.
    pub(super) async fn ask(&self, server: SocketAddr, end: Instant) -> Result<(), Failure> {
        let connect = async { TcpStream::connect(server).await.map_err(|error| Failure::new(Why::Connect, error)) };
        let stream = by(end, "no connection", connect).await?;
        let asked = match &self.tls {
            None => by(end, NO_ANSWER, self.ask_over(stream, self.protocol == Protocol::Http2, server)).await,
            Some(tls) => {
                let stream = by(end, "no TLS", tls.shake_hands(stream, server.ip())).await?;
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                if self.protocol == Protocol::Http2 && !is_http2 {
                    return Err(Failure::new(Why::TlsAlpn, "the server speaks no HTTP/2"));
                }
                by(end, NO_ANSWER, self.ask_over(stream, is_http2, server)).await
            }
        };
        match asked? {
            200..=299 => Ok(()),
            status => Err(Failure::new(Why::Status, status)),
        }
    }

    async fn ask_over(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        is_http2: bool,
        server: SocketAddr,
    ) -> Result<u16, Failure> {
        if is_http2 {
            let request = self.request(server).map_err(|error| Failure::new(Why::Invalid, error))?;
            return ask_http2(stream, request).await.map_err(|error| of_http2(&error));
        }
        let status = ask_http1(&mut stream, &self.head(server)).await.map_err(|error| of_io(&error));
        let _said = at_once(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await;
        status
    }

    /// Whom a server is asked as: what is configured, or what it goes by. What its certificate is for may have come from a name.
    fn authority(&self, server: SocketAddr) -> String {
        let name = self.tls.as_ref().map(|tls| tls.upstream.server_name(server.ip()));
        match (&self.host, name) {
            (Some(host), _) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
            (None, None) => server.to_string(),
            (None, Some(name)) => match name.parse::<IpAddr>() {
                Ok(address) => SocketAddr::new(address, server.port()).to_string(),
                Err(_) if server.port() == HTTPS_PORT => name,
                Err(_) => format!("{name}:{}", server.port()),
            },
        }
    }

    fn head(&self, server: SocketAddr) -> Vec<u8> {
        let (path, host) = (&self.path, self.authority(server));
        format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {AGENT}\r\naccept: */*\r\nconnection: close\r\n\r\n"
        )
        .into_bytes()
    }

    fn request(&self, server: SocketAddr) -> Result<Request<()>, http::Error> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let authority = Authority::try_from(self.authority(server))?;
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(self.path.clone()).build()?;
        Request::builder().uri(uri).header(USER_AGENT, AGENT).header(ACCEPT, "*/*").body(())
    }
}

impl Tls {
    async fn shake_hands(
        &self,
        stream: TcpStream,
        server: IpAddr,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
        let name = ServerName::try_from(self.upstream.server_name(server));
        let name = name.map_err(|error| Failure::new(Why::TlsCertificate, error))?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(name, stream).await.map_err(|error| match of_io(&error) {
            Failure { why: Why::Reset, what } => Failure { why: Why::TlsHandshake, what },
            found => found,
        })
    }
}

/// Does it, or says that what was awaited had not come when the time was over.
async fn by<T>(
    end: Instant,
    missing: &'static str,
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    timeout_at(end, step).await.unwrap_or_else(|_| Err(Failure::new(Why::Timeout, format!("{missing} in time"))))
}

/// Goes as far with something as it goes without waiting for anybody.
async fn at_once<T>(mut step: impl FnMut(&mut std::task::Context<'_>) -> Poll<T>) -> Option<T> {
    poll_fn(|cx| match step(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// What went wrong with a connection: TLS says so within what it is to be.
fn of_io(error: &io::Error) -> Failure {
    let why = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => Why::TlsCertificate,
        Some(
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol),
        ) => Why::TlsAlpn,
        Some(_) => Why::TlsHandshake,
        // HTTP/2 passes on the words alone.
        None if error.to_string().starts_with("received fatal alert: ") => Why::TlsHandshake,
        None if error.kind() == io::ErrorKind::InvalidData => Why::Invalid,
        None => Why::Reset,
    };
    Failure::new(why, error)
}

fn of_http2(error: &h2::Error) -> Failure {
    match error.get_io() {
        Some(io) => of_io(io),
        // What was found wrong here, not there.
        None if error.is_library() => Failure::new(Why::Invalid, error),
        None => Failure::new(Why::Reset, error),
    }
}

/// The status of the answer.
async fn ask_http1(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), head: &[u8]) -> io::Result<u16> {
    stream.write_all(head).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    loop {
        while let Some((len, status)) = parse(&answer)? {
            if status >= 200 {
                return Ok(status);
            }
            // An interim one: another follows.
            answer.drain(..len);
        }
        let room = HEAD_LEN_MAX.saturating_sub(answer.len()) as u64;
        if room == 0 || (&mut *stream).take(room).read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The length and the status of a head, if it is whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(usize, u16)>> {
    let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => Ok(response.code.map(|status| (len, status))),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

/// The same over HTTP/2.
async fn ask_http2(stream: impl AsyncRead + AsyncWrite + Unpin, request: Request<()>) -> Result<u16, h2::Error> {
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(HEAD_LEN_MAX as u32);
    let (mut requests, mut connection) = builder.handshake::<_, Bytes>(stream).await?;
    let (mut answer, _) = requests.send_request(request, true)?;
    let mut has_ended = false;
    let status = poll_fn(|cx| {
        // What the connection reads makes the answer, or the reason why there is none; one that ends while it writes says so itself.
        let ended = Pin::new(&mut connection).poll(cx);
        has_ended = ended.is_ready();
        match (Pin::new(&mut answer).poll(cx), ended) {
            (Poll::Pending, Poll::Ready(ended)) => Poll::Ready(Err(ended.err().unwrap_or(Reason::NO_ERROR.into()))),
            (answered, _) => answered.map_ok(|answer| answer.status().as_u16()),
        }
    })
    .await;
    drop((answer, requests));
    if !has_ended {
        // With nothing left to do, it says goodbye.
        let _said = at_once(|cx| Pin::new(&mut connection).poll(cx)).await;
    }
    status
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::DuplexStream;

    use super::*;

    fn probe(host: Option<&'static str>, tls: Option<Tls>) -> Probe {
        let host = host.map(HeaderValue::from_static);
        Probe { path: PathAndQuery::from_static("/well?now"), host, protocol: Protocol::Http1, tls }
    }

    /// Trust in nobody, under this name.
    fn tls(server_name: Option<&str>) -> Tls {
        let upstream = Arc::new(UpstreamTls::of_nobody(server_name));
        Tls { config: Arc::new(upstream.client(Protocol::Auto)), upstream }
    }

    #[tokio::test]
    async fn an_answer_is_read_to_the_end_of_its_head() {
        let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(HEAD_LEN_MAX));
        for (answer, expected) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", Ok(204)),
            ("HTTP/1.0 503 Busy\r\nContent-Length: 99\r\n\r\nno", Ok(503)),
            ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Ok(200)),
            ("HTTP/1.1 103 Early Hints\r\n\r\n", Err(Why::Reset)),
            ("HTTP/1.1 200 OK\r\n", Err(Why::Reset)),
            ("SSH-2.0-OpenSSH_9.2\r\n", Err(Why::Invalid)),
            ("", Err(Why::Reset)),
            (&long, Err(Why::Reset)),
        ] {
            let (mut near, mut far) = tokio::io::duplex(64 << 10);
            far.write_all(answer.as_bytes()).await.unwrap();
            far.shutdown().await.unwrap();
            let status = ask_http1(&mut near, b"GET / HTTP/1.1\r\n\r\n").await;
            assert_eq!(status.map_err(|error| of_io(&error).why), expected, "{answer:.60}");
        }
    }

    /// Answers one request over HTTP/2 as told.
    async fn answer_http2(far: DuplexStream, statuses: &[u16]) {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        assert_eq!(
            (request.method().as_str(), request.uri().to_string()),
            ("GET", "http://10.0.0.1:80/well?now".into())
        );
        assert_eq!(request.headers()["user-agent"], AGENT);
        for status in statuses {
            let head = http::Response::builder().status(*status).body(()).unwrap();
            match status {
                100..=199 => respond.send_informational(head).unwrap(),
                _ => drop(respond.send_response(head, false).unwrap()),
            }
        }
        // Until the other side has ended it, as it should.
        while let Some(next) = connection.accept().await {
            next.unwrap();
        }
    }

    #[tokio::test]
    async fn over_http2_the_answer_is_the_first_that_is_whole() {
        for (statuses, expected) in [(&[204][..], 204), (&[503], 503), (&[103, 103, 200], 200)] {
            let (near, far) = tokio::io::duplex(64 << 10);
            let request = probe(None, None).request(([10, 0, 0, 1], 80).into()).unwrap();
            let (status, ()) = tokio::join!(ask_http2(near, request), answer_http2(far, statuses));
            assert_eq!(status.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn what_is_no_http2_is_no_answer() {
        for (answer, expected) in [
            ("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", Why::Invalid),
            ("", Why::Reset),
            ("\0\0\0\x04\0\0\0\0\0", Why::Reset),
        ] {
            let (near, mut far) = tokio::io::duplex(64 << 10);
            far.write_all(answer.as_bytes()).await.unwrap();
            far.shutdown().await.unwrap();
            let request = probe(None, None).request(([10, 0, 0, 1], 80).into()).unwrap();
            let asked = ask_http2(near, request).await;
            assert_eq!(asked.map_err(|error| of_http2(&error).why), Err(expected), "{answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_in_time_is_named() {
        let end = Instant::now() + Duration::from_secs(1);
        let failure = by(end, NO_ANSWER, std::future::pending::<Result<(), _>>()).await.unwrap_err();
        assert_eq!((failure.why, &*failure.what), (Why::Timeout, "no answer in time"));
    }

    #[track_caller]
    fn check_authority(host: Option<&'static str>, tls: Option<Tls>, server: &str, wanted: &str) {
        let (probe, server) = (probe(host, tls), server.parse().unwrap());
        let head = String::from_utf8(probe.head(server)).unwrap();
        assert!(head.starts_with(&format!("GET /well?now HTTP/1.1\r\nhost: {wanted}\r\n")), "{head}");
        let scheme = if probe.tls.is_some() { "https" } else { "http" };
        assert_eq!(probe.request(server).unwrap().uri().to_string(), format!("{scheme}://{wanted}/well?now"));
    }

    #[test]
    fn a_check_names_the_configured_host_or_what_the_server_goes_by() {
        check_authority(None, None, "10.0.0.1:80", "10.0.0.1:80");
        check_authority(None, None, "[2001:db8::1]:80", "[2001:db8::1]:80");
        check_authority(Some("a.test"), None, "10.0.0.1:80", "a.test");
        check_authority(Some("[2001:db8::1]:80"), Some(tls(Some("b.test"))), "10.0.0.1:80", "[2001:db8::1]:80");
        check_authority(None, Some(tls(Some("b.test"))), "10.0.0.1:443", "b.test");
        check_authority(None, Some(tls(Some("b.test"))), "10.0.0.1:8443", "b.test:8443");
        check_authority(None, Some(tls(None)), "[2001:db8::1]:443", "[2001:db8::1]:443");
        check_authority(None, Some(tls(Some("10.0.0.9"))), "10.0.0.1:8443", "10.0.0.9:8443");
    }
}
