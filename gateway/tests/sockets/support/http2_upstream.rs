//! An HTTP/2 upstream in clear text, built on the `h2` crate.
//!
//! The script of the test runs for every request and sends its answer. Everything ends when the
//! upstream is dropped.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::upstream::ReceivedRequest;
use super::wire::Headers;

/// One request and the means to answer it.
pub(crate) struct Http2Exchange {
    pub(crate) seen: ReceivedRequest,
    /// `:scheme`, `:authority` and `:path` as one URI.
    pub(crate) uri: http::Uri,
    pub(crate) body: RecvStream,
    pub(crate) respond: SendResponse<Bytes>,
}

type AnswerFuture = Pin<Box<dyn Future<Output = Option<()>> + Send>>;
type Script = dyn Fn(Http2Exchange) -> AnswerFuture + Send + Sync;

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<ReceivedRequest>>,
    uris: Mutex<Vec<http::Uri>>,
    connections: AtomicUsize,
}

pub(crate) struct Http2Upstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

impl Http2Upstream {
    /// Runs `script` for every request. A script may stop before its answer is complete.
    pub(crate) fn start<A: Future<Output = Option<()>> + Send + 'static>(
        script: impl Fn(Http2Exchange) -> A + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(h2::server::Builder::new(), script)
    }

    /// Like [`Http2Upstream::start`], with the server builder of the test.
    pub(crate) fn start_with<A: Future<Output = Option<()>> + Send + 'static>(
        builder: h2::server::Builder,
        script: impl Fn(Http2Exchange) -> A + Send + Sync + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        let script: Arc<Script> = Arc::new(move |exchange| Box::pin(script(exchange)) as AnswerFuture);
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, builder.clone(), Arc::clone(&script), Arc::clone(&accepting)));
            }
        });
        Self { address, shared, _runtime: runtime }
    }

    /// Answers every request with 200 and `body`.
    pub(crate) fn answering(body: &'static str) -> Self {
        Self::start(move |exchange| exchange.answer(200, &[], body.as_bytes()))
    }

    /// Every request so far, in order of arrival.
    pub(crate) fn seen(&self) -> Vec<ReceivedRequest> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The URIs of all requests so far, with scheme and authority.
    pub(crate) fn uris(&self) -> Vec<http::Uri> {
        self.shared.uris.lock().unwrap().clone()
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Http2Exchange {
    /// Reads the whole body and the trailers.
    pub(crate) async fn read_body(&mut self) -> Option<(Vec<u8>, Option<HeaderMap>)> {
        let mut whole = Vec::new();
        while let Some(piece) = self.body.data().await {
            let piece = piece.ok()?;
            self.body.flow_control().release_capacity(piece.len()).ok()?;
            whole.extend_from_slice(&piece);
        }
        Some((whole, self.body.trailers().await.ok()?))
    }

    /// Sends a head that a body follows.
    pub(crate) fn begin(&mut self, status: u16, headers: &[(&str, &str)]) -> Option<SendStream<Bytes>> {
        self.respond.send_response(head(status, headers), false).ok()
    }

    /// Reads the body of the request and sends a whole answer.
    pub(crate) async fn answer(mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> Option<()> {
        let head = head(status, headers);
        let body = Bytes::copy_from_slice(body);
        self.read_body().await?;
        if self.seen.method == "HEAD" || matches!(status, 204 | 304) || body.is_empty() {
            return self.respond.send_response(head, true).ok().map(drop);
        }
        let mut stream = self.respond.send_response(head, false).ok()?;
        send(&mut stream, body).await?;
        stream.send_data(Bytes::new(), true).ok()
    }
}

/// Sends all bytes, as far as the window of the peer allows.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Option<()> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        stream.send_data(bytes.split_to(room.min(bytes.len())), false).ok()?;
    }
    Some(())
}

fn head(status: u16, headers: &[(&str, &str)]) -> Response<()> {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, super::wire::latin1(value));
    }
    builder.body(()).unwrap()
}

async fn serve(stream: TcpStream, builder: h2::server::Builder, script: Arc<Script>, shared: Arc<Shared>) {
    let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
    let Ok(mut requests) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = requests.accept().await {
        let exchange = exchange(request, respond, connection);
        shared.seen.lock().unwrap().push(exchange.seen.clone());
        shared.uris.lock().unwrap().push(exchange.uri.clone());
        tokio::spawn(script(exchange));
    }
}

fn exchange(request: Request<RecvStream>, respond: SendResponse<Bytes>, connection: usize) -> Http2Exchange {
    let (parts, body) = request.into_parts();
    let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), super::wire::text(value.as_bytes())));
    let seen = ReceivedRequest {
        connection,
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map_or(String::new(), |target| target.to_string()),
        headers: Headers(headers.collect()),
    };
    Http2Exchange { seen, uri: parts.uri, body, respond }
}
