//! One health check of one server: a new connection, with the TLS settings of requests, and one GET
//! or gRPC call.
//!
//! The configured timeout covers everything: connection, TLS handshake and answer. A failure has
//! one of few reasons, and a text of the library that detected it, for the log. Absent on purpose:
//! connection reuse, and the body of an answer to a GET.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::header::{ACCEPT, CONTENT_TYPE, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Request, Response, Uri};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::upstream::Upstream;
use crate::upstream::UpstreamTls;
use crossgate_config::model::{CheckRequest, HealthCheck, Protocol};

mod grpc;

/// The maximum length of the answer's head.
pub(super) const HEAD_LEN_MAX: usize = 16 << 10;
const HEAD_FIELDS_MAX: usize = 100;
/// The maximum length of a failure's text in the log: a certificate can have a thousand names.
const WHAT_LEN_MAX: usize = 300;
/// The default port of `https`, which `Host` omits.
const HTTPS_PORT: u16 = 443;
/// The `User-Agent` of checks.
const AGENT: &str = "crossgate-health-check";
const NO_ANSWER: &str = "no answer";

/// The protocol and TLS of requests to an upstream, which its checks use too.
#[derive(Clone, PartialEq)]
pub(in crate::upkeep) struct ProbeTransport {
    protocol: Protocol,
    tls: Option<Arc<UpstreamTls>>,
}

impl ProbeTransport {
    /// The transport of an upstream.
    pub(in crate::upkeep) fn to(upstream: &Upstream) -> Self {
        ProbeTransport { protocol: upstream.protocol, tls: upstream.tls.clone() }
    }
}

/// The health check of all servers of an upstream.
pub(in crate::upkeep) struct HealthProbe {
    request: CheckRequest,
    host: Option<HeaderValue>,
    protocol: Protocol,
    tls: Option<ProbeTls>,
}

struct ProbeTls {
    upstream: Arc<UpstreamTls>,
    config: Arc<ClientConfig>,
}

/// The failure of a check.
#[derive(Debug)]
pub(super) struct FailedProbe {
    pub(super) why: ProbeFailure,
    /// The text of the library that detected it.
    pub(super) what: String,
}

/// The reason of a failed check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeFailure {
    /// The connection failed.
    Connect,
    /// The TLS handshake failed.
    TlsHandshake,
    /// The certificate is expired, not trusted, or for another name.
    TlsCertificate,
    /// The server did not select the required protocol by ALPN.
    TlsAlpn,
    /// The connection ended before the answer did.
    Reset,
    /// The answer is not valid HTTP.
    Invalid,
    /// The status is not from 200 to 299.
    Status,
    /// The answer is HTTP, but not gRPC.
    NotGrpc,
    /// The gRPC call failed: `grpc-status` is not 0.
    GrpcStatus,
    /// The message of the gRPC answer is missing, compressed, too large or malformed.
    GrpcMessage,
    /// The gRPC service is not SERVING.
    NotServing,
    /// The timeout expired.
    Timeout,
}

impl ProbeFailure {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            ProbeFailure::Connect => "connect",
            ProbeFailure::TlsHandshake => "tls_handshake",
            ProbeFailure::TlsCertificate => "tls_certificate",
            ProbeFailure::TlsAlpn => "tls_alpn",
            ProbeFailure::Reset => "reset",
            ProbeFailure::Invalid => "invalid",
            ProbeFailure::Status => "status",
            ProbeFailure::NotGrpc => "not_grpc",
            ProbeFailure::GrpcStatus => "grpc_status",
            ProbeFailure::GrpcMessage => "grpc_message",
            ProbeFailure::NotServing => "not_serving",
            ProbeFailure::Timeout => "timeout",
        }
    }
}

impl FailedProbe {
    fn new(why: ProbeFailure, what: impl ToString) -> Self {
        FailedProbe { why, what: what.to_string().chars().take(WHAT_LEN_MAX).collect() }
    }
}

impl HealthProbe {
    pub(in crate::upkeep) fn new(check: &HealthCheck, ProbeTransport { protocol, tls }: &ProbeTransport) -> Self {
        let config = |tls: &UpstreamTls| Arc::new(tls.client(*protocol));
        let tls = tls.as_ref().map(|tls| ProbeTls { upstream: Arc::clone(tls), config: config(tls) });
        HealthProbe { request: check.request.clone(), host: check.host.clone(), protocol: *protocol, tls }
    }

    /// Checks a server. Ends at `end` at the latest.
    pub(super) async fn run(&self, server: SocketAddr, end: Instant) -> Result<(), FailedProbe> {
        let connect =
            async { TcpStream::connect(server).await.map_err(|error| FailedProbe::new(ProbeFailure::Connect, error)) };
        let stream = with_deadline(end, "no connection", connect).await?;
        match &self.tls {
            None => {
                with_deadline(end, NO_ANSWER, self.probe_over(stream, self.protocol == Protocol::Http2, server)).await
            }
            Some(tls) => {
                let stream = with_deadline(end, "no TLS", tls.shake_hands(stream, server.ip())).await?;
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                if self.needs_http2() && !is_http2 {
                    return Err(FailedProbe::new(ProbeFailure::TlsAlpn, "the server does not offer HTTP/2"));
                }
                with_deadline(end, NO_ANSWER, self.probe_over(stream, is_http2, server)).await
            }
        }
    }

    fn needs_http2(&self) -> bool {
        match self.request {
            CheckRequest::Get(_) => self.protocol == Protocol::Http2,
            CheckRequest::Grpc { .. } => true,
        }
    }

    async fn probe_over(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        is_http2: bool,
        server: SocketAddr,
    ) -> Result<(), FailedProbe> {
        let invalid = |error| FailedProbe::new(ProbeFailure::Invalid, error);
        match &self.request {
            CheckRequest::Get(path) if is_http2 => {
                let request = self.get(path, server).map_err(invalid)?;
                probe_http2(stream, request, Bytes::new(), status_of).await
            }
            CheckRequest::Get(path) => {
                let status =
                    probe_http1(&mut stream, &self.head(path, server)).await.map_err(|error| io_failure(&error));
                let _closed = at_once(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await;
                check_status(status?)
            }
            CheckRequest::Grpc { service } => {
                let request = self.call(server).map_err(invalid)?;
                probe_http2(stream, request, grpc::request_body(service), grpc::read).await
            }
        }
    }

    /// The `Host` value of a check: the configured one, otherwise the TLS server name or the
    /// address. The certificate's name may have been configured as `serverName`.
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

    fn head(&self, path: &PathAndQuery, server: SocketAddr) -> Vec<u8> {
        let host = self.authority(server);
        format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: {AGENT}\r\naccept: */*\r\nconnection: close\r\n\r\n"
        )
        .into_bytes()
    }

    fn get(&self, path: &PathAndQuery, server: SocketAddr) -> Result<Request<()>, http::Error> {
        let uri = self.uri(path.clone(), server)?;
        Request::builder().uri(uri).header(USER_AGENT, AGENT).header(ACCEPT, "*/*").body(())
    }

    fn call(&self, server: SocketAddr) -> Result<Request<()>, http::Error> {
        let uri = self.uri(PathAndQuery::from_static(grpc::PATH), server)?;
        let request = Request::post(uri).header(USER_AGENT, AGENT).header(CONTENT_TYPE, grpc::GRPC);
        // gRPC over HTTP/2 requires `te: trailers`.
        request.header(TE, "trailers").header("grpc-accept-encoding", "identity").body(())
    }

    fn uri(&self, path: PathAndQuery, server: SocketAddr) -> Result<Uri, http::Error> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let authority = Authority::try_from(self.authority(server))?;
        Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build()
    }
}

impl ProbeTls {
    async fn shake_hands(
        &self,
        stream: TcpStream,
        server: IpAddr,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, FailedProbe> {
        let name = ServerName::try_from(self.upstream.server_name(server));
        let name = name.map_err(|error| FailedProbe::new(ProbeFailure::TlsCertificate, error))?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(name, stream).await.map_err(|error| match io_failure(&error) {
            FailedProbe { why: ProbeFailure::Reset, what } => FailedProbe { why: ProbeFailure::TlsHandshake, what },
            failure => failure,
        })
    }
}

/// Runs `step` until the deadline. The failure then names the missing step.
async fn with_deadline<T>(
    end: Instant,
    missing: &'static str,
    step: impl Future<Output = Result<T, FailedProbe>>,
) -> Result<T, FailedProbe> {
    timeout_at(end, step)
        .await
        .unwrap_or_else(|_| Err(FailedProbe::new(ProbeFailure::Timeout, format!("{missing} in time"))))
}

/// Polls `step` once, without waiting.
async fn at_once<T>(mut step: impl FnMut(&mut std::task::Context<'_>) -> Poll<T>) -> Option<T> {
    poll_fn(|cx| match step(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Classifies a connection error. `tokio-rustls` wraps TLS errors in I/O errors.
fn io_failure(error: &io::Error) -> FailedProbe {
    let why = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => ProbeFailure::TlsCertificate,
        Some(
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol),
        ) => ProbeFailure::TlsAlpn,
        Some(_) => ProbeFailure::TlsHandshake,
        // `h2` keeps only the text of a TLS error.
        None if error.to_string().starts_with("received fatal alert: ") => ProbeFailure::TlsHandshake,
        None if error.kind() == io::ErrorKind::InvalidData => ProbeFailure::Invalid,
        None => ProbeFailure::Reset,
    };
    FailedProbe::new(why, error)
}

fn http2_failure(error: &h2::Error) -> FailedProbe {
    match error.get_io() {
        Some(io) => io_failure(io),
        // A protocol error that `h2` detected here, not one that the server reported.
        None if error.is_library() => FailedProbe::new(ProbeFailure::Invalid, error),
        None => FailedProbe::new(ProbeFailure::Reset, error),
    }
}

/// Sends the request, and returns the status of the answer.
async fn probe_http1(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), head: &[u8]) -> io::Result<u16> {
    stream.write_all(head).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    loop {
        while let Some((len, status)) = parse(&answer)? {
            if status >= 200 {
                return Ok(status);
            }
            // An interim response (1xx): the final one follows (RFC 9110, section 15.2).
            answer.drain(..len);
        }
        let room = HEAD_LEN_MAX.saturating_sub(answer.len()) as u64;
        if room == 0 || (&mut *stream).take(room).read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The length and the status of a complete head; `None` if it is incomplete.
fn parse(bytes: &[u8]) -> io::Result<Option<(usize, u16)>> {
    let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => Ok(response.code.map(|status| (len, status))),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

fn check_status(status: u16) -> Result<(), FailedProbe> {
    match status {
        200..=299 => Ok(()),
        status => Err(FailedProbe::new(ProbeFailure::Status, status)),
    }
}

async fn status_of(answer: Response<RecvStream>) -> Result<(), FailedProbe> {
    check_status(answer.status().as_u16())
}

/// Makes the request over HTTP/2, and returns the result of `read`.
async fn probe_http2<T, R: Future<Output = Result<T, FailedProbe>>>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<()>,
    body: Bytes,
    read: impl FnOnce(Response<RecvStream>) -> R,
) -> Result<T, FailedProbe> {
    let failed = |error: h2::Error| http2_failure(&error);
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(HEAD_LEN_MAX as u32);
    let (mut requests, mut connection) = builder.handshake::<_, Bytes>(stream).await.map_err(failed)?;
    let (answer, mut sent) = requests.send_request(request, body.is_empty()).map_err(failed)?;
    if !body.is_empty() {
        sent.send_data(body, true).map_err(failed)?;
    }
    let mut has_ended = false;
    let result = {
        let mut exchange = pin!(async { read(answer.await.map_err(failed)?).await });
        poll_fn(|cx| {
            // Polling the connection delivers the answer, or the error that prevents it. If the
            // connection fails while it writes, its own result is the error.
            let ended = Pin::new(&mut connection).poll(cx);
            has_ended = ended.is_ready();
            match (exchange.as_mut().poll(cx), ended) {
                (Poll::Pending, Poll::Ready(ended)) => {
                    Poll::Ready(Err(failed(ended.err().unwrap_or(Reason::NO_ERROR.into()))))
                }
                (answered, _) => answered,
            }
        })
        .await
    };
    drop((sent, requests));
    if !has_ended {
        // An idle connection sends GOAWAY with its next poll.
        let _closed = at_once(|cx| Pin::new(&mut connection).poll(cx)).await;
    }
    result
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::DuplexStream;

    use super::*;

    const HEALTH_PATH: PathAndQuery = PathAndQuery::from_static("/well?now");

    fn probe(host: Option<&'static str>, tls: Option<ProbeTls>) -> HealthProbe {
        let host = host.map(HeaderValue::from_static);
        HealthProbe { request: CheckRequest::Get(HEALTH_PATH), host, protocol: Protocol::Http1, tls }
    }

    /// TLS settings without trust anchors, for this server name.
    fn tls(server_name: Option<&str>) -> ProbeTls {
        let upstream = Arc::new(UpstreamTls::trusting_no_certificate(server_name));
        ProbeTls { config: Arc::new(upstream.client(Protocol::Auto)), upstream }
    }

    #[tokio::test]
    async fn http1_check_reads_status_after_interim_heads() {
        let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(HEAD_LEN_MAX));
        for (answer, expected) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", Ok(204)),
            ("HTTP/1.0 503 Busy\r\nContent-Length: 99\r\n\r\nno", Ok(503)),
            ("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Ok(200)),
            ("HTTP/1.1 103 Early Hints\r\n\r\n", Err(ProbeFailure::Reset)),
            ("HTTP/1.1 200 OK\r\n", Err(ProbeFailure::Reset)),
            ("SSH-2.0-OpenSSH_9.2\r\n", Err(ProbeFailure::Invalid)),
            ("", Err(ProbeFailure::Reset)),
            (&long, Err(ProbeFailure::Reset)),
        ] {
            let (mut near, mut far) = tokio::io::duplex(64 << 10);
            far.write_all(answer.as_bytes()).await.unwrap();
            far.shutdown().await.unwrap();
            let status = probe_http1(&mut near, b"GET / HTTP/1.1\r\n\r\n").await;
            assert_eq!(status.map_err(|error| io_failure(&error).why), expected, "{answer:.60}");
        }
    }

    /// Answers one HTTP/2 request with these statuses.
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
        // The client must close the connection.
        while let Some(next) = connection.accept().await {
            next.unwrap();
        }
    }

    #[tokio::test]
    async fn http2_check_reads_status_after_interim_heads() {
        for (statuses, expected) in [(&[204][..], None), (&[503], Some("503")), (&[103, 103, 200], None)] {
            let (near, far) = tokio::io::duplex(64 << 10);
            let request = probe(None, None).get(&HEALTH_PATH, ([10, 0, 0, 1], 80).into()).unwrap();
            let exchange = probe_http2(near, request, Bytes::new(), status_of);
            let (exchange, ()) = tokio::join!(exchange, answer_http2(far, statuses));
            assert_eq!(exchange.err().map(|failure| failure.what).as_deref(), expected);
        }
    }

    #[tokio::test]
    async fn http2_check_fails_on_other_protocols() {
        for (answer, expected) in [
            ("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", ProbeFailure::Invalid),
            ("", ProbeFailure::Reset),
            ("\0\0\0\x04\0\0\0\0\0", ProbeFailure::Reset),
        ] {
            let (near, mut far) = tokio::io::duplex(64 << 10);
            far.write_all(answer.as_bytes()).await.unwrap();
            far.shutdown().await.unwrap();
            let request = probe(None, None).get(&HEALTH_PATH, ([10, 0, 0, 1], 80).into()).unwrap();
            let exchange = probe_http2(near, request, Bytes::new(), status_of).await;
            assert_eq!(exchange.map_err(|failure| failure.why), Err(expected), "{answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn expired_check_names_the_missing_step() {
        let end = Instant::now() + Duration::from_secs(1);
        let failure = with_deadline(end, NO_ANSWER, std::future::pending::<Result<(), _>>()).await.unwrap_err();
        assert_eq!((failure.why, &*failure.what), (ProbeFailure::Timeout, "no answer in time"));
    }

    #[track_caller]
    fn check_authority(host: Option<&'static str>, tls: Option<ProbeTls>, server: &str, wanted: &str) {
        let (probe, server) = (probe(host, tls), server.parse().unwrap());
        let head = String::from_utf8(probe.head(&HEALTH_PATH, server)).unwrap();
        assert!(head.starts_with(&format!("GET /well?now HTTP/1.1\r\nhost: {wanted}\r\n")), "{head}");
        let scheme = if probe.tls.is_some() { "https" } else { "http" };
        assert_eq!(probe.get(&HEALTH_PATH, server).unwrap().uri().to_string(), format!("{scheme}://{wanted}/well?now"));
        let call = probe.call(server).unwrap();
        assert_eq!(call.uri().to_string(), format!("{scheme}://{wanted}/grpc.health.v1.Health/Check"));
    }

    #[test]
    fn check_sends_configured_host_or_server_name() {
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
