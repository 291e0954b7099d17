//! The demo upstream: a small HTTP/1.1 API to put behind the gateway, and the page that calls it from a browser.
//!
//! Two listeners, because a browser tells origins apart by port too. The API (`api`) knows nothing of CORS: it adds no
//! `Access-Control-*` header and counts every request by method, so that anybody can see that no preflight reached it.
//! The page (`pages`) is the same for every `Host`, so that one server plays the allowed origin and the refused one.
//!
//! Absent on purpose: TLS, HTTP/2, configuration, and any use by the gateway itself. It is a toy for a desk.

mod api;
mod counts;
mod pages;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use tokio::net::{TcpListener, TcpStream};

use crate::demo_upstream::counts::Counts;

type Body = BoxBody<Bytes, Infallible>;
type Response = http::Response<Body>;
type Request = http::Request<hyper::body::Incoming>;

/// The demo upstream with its sockets open, not yet serving.
#[derive(Debug)]
pub struct DemoUpstream {
    api: TcpListener,
    pages: Vec<TcpListener>,
    shared: Arc<Shared>,
}

/// What all connections look at.
#[derive(Debug, Default)]
struct Shared {
    counts: Counts,
    /// The source that the page shows.
    rule: Option<PathBuf>,
}

/// Which of the two sites a connection belongs to.
#[derive(Debug, Clone, Copy)]
enum Site {
    Api,
    Pages,
}

impl DemoUpstream {
    /// Opens the API's socket on `api` and one socket for the page on every address of `pages`.
    ///
    /// # Errors
    /// An address that cannot be listened on, named in the message.
    pub async fn bind(api: SocketAddr, pages: &[SocketAddr]) -> io::Result<Self> {
        let api = listen(api).await?;
        let mut open = Vec::with_capacity(pages.len());
        for address in pages {
            open.push(listen(*address).await?);
        }
        Ok(Self { api, pages: open, shared: Arc::default() })
    }

    /// Opens one more socket for the page. The caller may live without it: a machine without IPv6 has no `[::1]`.
    ///
    /// # Errors
    /// An address that cannot be listened on, named in the message.
    pub async fn add_pages(&mut self, address: SocketAddr) -> io::Result<()> {
        self.pages.push(listen(address).await?);
        Ok(())
    }

    /// The same, with the rule's source for the page to show.
    #[must_use]
    pub fn showing(self, rule: Option<PathBuf>) -> Self {
        Self { shared: Arc::new(Shared { rule, ..Shared::default() }), ..self }
    }

    /// The address of the API.
    ///
    /// # Errors
    /// What the operating system says about the socket.
    pub fn api_address(&self) -> io::Result<SocketAddr> {
        self.api.local_addr()
    }

    /// The addresses of the page.
    ///
    /// # Errors
    /// What the operating system says about a socket.
    pub fn pages_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.pages.iter().map(TcpListener::local_addr).collect()
    }

    /// Serves until the process ends.
    pub async fn serve(self) {
        let mut sites = tokio::task::JoinSet::new();
        sites.spawn(accept(self.api, Site::Api, Arc::clone(&self.shared)));
        for pages in self.pages {
            sites.spawn(accept(pages, Site::Pages, Arc::clone(&self.shared)));
        }
        sites.join_all().await;
    }
}

async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
    TcpListener::bind(address).await.map_err(named)
}

async fn accept(listener: TcpListener, site: Site, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, site, Arc::clone(&shared)))),
            // Out of file descriptors, most likely: let some connections end first.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

/// Serves one connection; a client that breaks off or talks nonsense ends its own connection and nothing else.
async fn connection(stream: TcpStream, site: Site, shared: Arc<Shared>) {
    let answer = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(site.answer(request, &shared).await) }
    });
    let served = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer).await;
    if let Err(error) = served {
        tracing::debug!(%error, "demo connection ended early");
    }
}

impl Site {
    async fn answer(self, request: Request, shared: &Shared) -> Response {
        match self {
            Self::Api => api::answer(request, &shared.counts).await,
            Self::Pages => pages::answer(&request, &shared.counts, shared.rule.as_deref()),
        }
    }
}

/// A whole answer held in memory.
fn whole(status: http::StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

fn json(status: http::StatusCode, value: &serde_json::Value) -> Response {
    whole(status, "application/json", format!("{value}\n"))
}
