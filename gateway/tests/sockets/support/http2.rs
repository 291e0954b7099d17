//! A well-behaved client of HTTP/2 in clear text, built on the `h2` crate. Its answers have the
//! same type as those over HTTP/1.1.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::process::PATIENCE;
use super::wire::{Headers, Response, latin1, text};

/// One connection. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Http2 {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    connection: Option<JoinHandle<Result<(), h2::Error>>>,
}

/// A request whose head was sent: its answer, and the stream for its body.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) answer: ResponseFuture,
    pub(crate) body: SendStream<Bytes>,
}

impl Http2 {
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &Builder::new())
    }

    pub(crate) fn open_with(address: SocketAddr, builder: &Builder) -> Self {
        Self::try_open(address, builder).expect("a connection over HTTP/2")
    }

    pub(crate) fn try_open(address: SocketAddr, builder: &Builder) -> Result<Self, h2::Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, connection) = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.expect("connect");
            stream.set_nodelay(true).unwrap();
            builder.handshake(stream).await
        })?;
        let connection = runtime.spawn(connection);
        Ok(Self { runtime, sender, connection: Some(connection) })
    }

    /// Sends the head of a request. With `end`, the request has no body.
    pub(crate) fn begin(&self, request: Request<()>, end: bool) -> Result<OpenRequest, h2::Error> {
        self.block_on(async {
            let mut sender = self.sender.clone().ready().await?;
            let (answer, body) = sender.send_request(request, end)?;
            Ok(OpenRequest { answer, body })
        })
    }

    /// Waits for the whole answer.
    pub(crate) fn answer(&self, answer: ResponseFuture) -> Result<Response, h2::Error> {
        self.block_on(whole(answer))
    }

    /// Waits for the head of an answer. The body is not read.
    pub(crate) fn head(&self, answer: ResponseFuture) -> Result<(Response, RecvStream), h2::Error> {
        let (parts, body) = self.block_on(answer)?.into_parts();
        let headers = lines(&parts.headers);
        Ok((Response { status: parts.status.as_u16(), headers, ..Response::default() }, body))
    }

    /// Sends one request and waits for its answer.
    pub(crate) fn ask(
        &self,
        method: &str,
        target: &str,
        host: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, h2::Error> {
        let mut open = self.begin(http2_request(method, target, host, headers), body.is_empty())?;
        if !body.is_empty() {
            // Fails if the gateway answered and closed the stream before the body.
            let _sent = open.body.send_data(Bytes::copy_from_slice(body), true);
        }
        self.answer(open.answer)
    }

    /// Waits until the connection ends.
    pub(crate) fn wait_for_end(&mut self) -> Result<(), h2::Error> {
        let connection = self.connection.take().expect("the first call of wait_for_end");
        self.block_on(connection).expect("no panic")
    }

    /// Runs a future of a test, with a timeout.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { timeout(PATIENCE, future).await.expect("in time") })
    }

    /// Whether the future is still pending after that time.
    pub(crate) fn is_pending_for(&self, time: Duration, future: impl Future) -> bool {
        self.runtime.block_on(async { timeout(time, future).await.is_err() })
    }
}

/// A request with exactly these fields.
pub(crate) fn http2_request(method: &str, target: &str, host: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("http://{host}{target}"));
    for (name, value) in headers {
        request = request.header(*name, HeaderValue::from_bytes(&latin1(value)).unwrap());
    }
    request.body(()).unwrap()
}

async fn whole(answer: ResponseFuture) -> Result<Response, h2::Error> {
    let (parts, mut stream) = answer.await?.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    let trailers = poll_fn(|cx| stream.poll_trailers(cx)).await?.unwrap_or_default();
    let (headers, trailers) = (lines(&parts.headers), lines(&trailers));
    Ok(Response { status: parts.status.as_u16(), headers, body, trailers, ..Response::default() })
}

fn lines(fields: &HeaderMap) -> Headers {
    Headers(fields.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect())
}
