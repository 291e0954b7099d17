//! An upstream that speaks HTTP/2 in clear text, by the library that most servers in Rust have it from.
//!
//! A script is called for every request, and says how it is answered. All of it ends when the upstream is dropped.

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

use super::upstream::Seen;
use super::wire::Headers;

/// One request being answered.
pub(crate) struct Asked {
    pub(crate) seen: Seen,
    /// As HTTP/2 has it: `:scheme`, `:authority` and `:path` in one.
    pub(crate) uri: http::Uri,
    pub(crate) body: RecvStream,
    pub(crate) respond: SendResponse<Bytes>,
}

type Answering = Pin<Box<dyn Future<Output = Option<()>> + Send>>;
type Script = dyn Fn(Asked) -> Answering + Send + Sync;

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    uris: Mutex<Vec<http::Uri>>,
    connections: AtomicUsize,
}

/// The upstream.
pub(crate) struct Http2Upstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

impl Http2Upstream {
    /// Answers every request as `script` does, which may give up halfway.
    pub(crate) fn start<A: Future<Output = Option<()>> + Send + 'static>(
        script: impl Fn(Asked) -> A + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(h2::server::Builder::new(), script)
    }

    /// The same by a server of the test's making.
    pub(crate) fn start_with<A: Future<Output = Option<()>> + Send + 'static>(
        builder: h2::server::Builder,
        script: impl Fn(Asked) -> A + Send + Sync + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        let script: Arc<Script> = Arc::new(move |asked| Box::pin(script(asked)) as Answering);
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
        Self::start(move |asked| asked.answer(200, &[], body.as_bytes()))
    }

    /// Every request so far, in order of arrival.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The targets of those, with scheme and authority.
    pub(crate) fn uris(&self) -> Vec<http::Uri> {
        self.shared.uris.lock().unwrap().clone()
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Asked {
    /// The whole body, and the fields after it.
    pub(crate) async fn read_body(&mut self) -> Option<(Vec<u8>, Option<HeaderMap>)> {
        let mut whole = Vec::new();
        while let Some(piece) = self.body.data().await {
            let piece = piece.ok()?;
            self.body.flow_control().release_capacity(piece.len()).ok()?;
            whole.extend_from_slice(&piece);
        }
        Some((whole, self.body.trailers().await.ok()?))
    }

    /// A head, after which a body comes.
    pub(crate) fn begin(&mut self, status: u16, headers: &[(&str, &str)]) -> Option<SendStream<Bytes>> {
        self.respond.send_response(head(status, headers), false).ok()
    }

    /// A whole answer; the body of the request is read first.
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

/// Sends as much as the other side takes, when it takes it.
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
        let asked = asked(request, respond, connection);
        shared.seen.lock().unwrap().push(asked.seen.clone());
        shared.uris.lock().unwrap().push(asked.uri.clone());
        tokio::spawn(script(asked));
    }
}

fn asked(request: Request<RecvStream>, respond: SendResponse<Bytes>, connection: usize) -> Asked {
    let (parts, body) = request.into_parts();
    let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), super::wire::text(value.as_bytes())));
    let seen = Seen {
        connection,
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map_or(String::new(), |target| target.to_string()),
        headers: Headers(headers.collect()),
    };
    Asked { seen, uri: parts.uri, body, respond }
}
