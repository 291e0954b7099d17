//! An upstream for thousands of connections on one thread. It reads each request to its end and
//! then answers.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;

/// The body of the answer to `/large`. All other answers have the body `hello`.
static LARGE: [u8; LARGE_LEN] = [b'x'; LARGE_LEN];
/// More than the buffers of the kernels and the gateway hold.
pub(crate) const LARGE_LEN: usize = 8 * 1024 * 1024;

/// The upstream. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    _runtime: Runtime,
}

impl Sink {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(async {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            // Two thousand connections come at once, and no attempt to connect is to time out.
            socket.listen(4096).unwrap()
        });
        let address = listener.local_addr().unwrap();
        runtime.spawn(accept(listener));
        Self { address, _runtime: runtime }
    }
}

async fn accept(listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).unwrap();
        // A connection that the gateway aborts is not a failure of the upstream.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let body: &'static [u8] = if request.uri().path() == "/large" { &LARGE } else { b"hello" };
    request.into_body().collect().await?;
    Ok(Response::new(Full::new(Bytes::from_static(body))))
}
