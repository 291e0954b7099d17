//! An honest client of HTTP/2 over cleartext, by the `h2` crate: whole answers in the same form as those of HTTP/1.1.

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

/// One connection; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Http2 {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    connection: Option<JoinHandle<Result<(), h2::Error>>>,
}

/// One request that was begun.
#[derive(Debug)]
pub(crate) struct Begun {
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

    /// Sends the head of a request, and with `end` the whole of it.
    pub(crate) fn begin(&self, request: Request<()>, end: bool) -> Result<Begun, h2::Error> {
        self.block_on(async {
            let mut sender = self.sender.clone().ready().await?;
            let (answer, body) = sender.send_request(request, end)?;
            Ok(Begun { answer, body })
        })
    }

    /// The whole answer.
    pub(crate) fn answer(&self, answer: ResponseFuture) -> Result<Response, h2::Error> {
        self.block_on(whole(answer))
    }

    /// The head of an answer, and its body for whoever wants it.
    pub(crate) fn head(&self, answer: ResponseFuture) -> Result<(Response, RecvStream), h2::Error> {
        let (parts, body) = self.block_on(answer)?.into_parts();
        let headers = lines(&parts.headers);
        Ok((Response { status: parts.status.as_u16(), headers, ..Response::default() }, body))
    }

    /// One request and its answer.
    pub(crate) fn ask(
        &self,
        method: &str,
        target: &str,
        host: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, h2::Error> {
        let mut begun = self.begin(http2_request(method, target, host, headers), body.is_empty())?;
        if !body.is_empty() {
            // What is over before its body is taken has its answer.
            let _sent = begun.body.send_data(Bytes::copy_from_slice(body), true);
        }
        self.answer(begun.answer)
    }

    /// Waits for the end of the connection.
    pub(crate) fn wait_for_end(&mut self) -> Result<(), h2::Error> {
        let connection = self.connection.take().expect("waited for once");
        self.block_on(connection).expect("no panic")
    }

    /// Runs what a test does with streams.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { timeout(PATIENCE, future).await.expect("in time") })
    }

    /// Whether something is still pending after that long.
    pub(crate) fn is_pending_for(&self, time: Duration, future: impl Future) -> bool {
        self.runtime.block_on(async { timeout(time, future).await.is_err() })
    }
}

/// A request with what it is told and nothing else.
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
