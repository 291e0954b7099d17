//! The demo upstream: a small HTTP/1.1 API to put behind the gateway, and the page that calls it
//! from a browser.
//!
//! There are two listeners, because the port is part of a browser's origin. The API (`api`) does
//! not implement CORS: it sends no `Access-Control-*` header and counts every request by method,
//! which shows that no preflight reached it. The page (`pages`) is the same for every `Host`, so
//! one server serves both the allowed and the denied origin.
//!
//! Absent on purpose: TLS, HTTP/2, configuration, and any use by the gateway itself. The demo is
//! for a developer's machine, not for production.

mod api;
mod counts;
mod explanation;
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

use crate::demo_upstream::counts::MethodCounts;

type Body = BoxBody<Bytes, Infallible>;
type Response = http::Response<Body>;
type Request = http::Request<hyper::body::Incoming>;

/// The demo upstream with open sockets, not yet serving.
#[derive(Debug)]
pub struct DemoUpstream {
    api: TcpListener,
    pages: Vec<TcpListener>,
    shared: Arc<DemoState>,
}

/// The content of the page, and the gateway that explains verdicts to it.
#[derive(Debug, Clone, Default)]
pub struct PageSources {
    /// The URL of the API through the gateway, which the page calls.
    pub api: String,
    /// The gateway's configuration file, shown on the page.
    pub config: Option<PathBuf>,
    /// The rule's source file, shown on the page.
    pub rule: Option<PathBuf>,
    /// The gateway's admin listener. Without it the page shows no explanations.
    pub admin: Option<SocketAddr>,
    /// The program in the commands that the page shows.
    pub program: String,
}

/// The state that all connections share.
#[derive(Debug, Default)]
struct DemoState {
    counts: MethodCounts,
    sources: PageSources,
}

/// The site that a connection belongs to.
#[derive(Debug, Clone, Copy)]
enum DemoSite {
    Api,
    Pages,
}

impl DemoUpstream {
    /// Opens the API's socket on `api` and one socket for the page on every address of `pages`.
    ///
    /// # Errors
    /// An address cannot be listened on; the message contains it.
    pub async fn bind(api: SocketAddr, pages: &[SocketAddr]) -> io::Result<Self> {
        let api = listen(api).await?;
        let mut open = Vec::with_capacity(pages.len());
        for address in pages {
            open.push(listen(*address).await?);
        }
        Ok(Self { api, pages: open, shared: Arc::default() })
    }

    /// Opens one more socket for the page. The caller may continue without it: a machine without
    /// IPv6 has no `[::1]`.
    ///
    /// # Errors
    /// An address cannot be listened on; the message contains it.
    pub async fn add_pages(&mut self, address: SocketAddr) -> io::Result<()> {
        self.pages.push(listen(address).await?);
        Ok(())
    }

    /// Sets the content of the page.
    #[must_use]
    pub fn with_page_sources(self, sources: PageSources) -> Self {
        Self { shared: Arc::new(DemoState { sources, ..DemoState::default() }), ..self }
    }

    /// The API's address.
    ///
    /// # Errors
    /// The operating system returned an error.
    pub fn api_address(&self) -> io::Result<SocketAddr> {
        self.api.local_addr()
    }

    /// The page's addresses.
    ///
    /// # Errors
    /// The operating system returned an error.
    pub fn pages_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.pages.iter().map(TcpListener::local_addr).collect()
    }

    /// Serves until the process ends.
    pub async fn serve(self) {
        let mut sites = tokio::task::JoinSet::new();
        sites.spawn(accept(self.api, DemoSite::Api, Arc::clone(&self.shared)));
        for pages in self.pages {
            sites.spawn(accept(pages, DemoSite::Pages, Arc::clone(&self.shared)));
        }
        sites.join_all().await;
    }
}

async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
    TcpListener::bind(address).await.map_err(named)
}

async fn accept(listener: TcpListener, site: DemoSite, shared: Arc<DemoState>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, site, Arc::clone(&shared)))),
            // The likely cause is a lack of file descriptors: wait for some connections to end.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

/// Serves one connection; a client error ends only that connection.
async fn connection(stream: TcpStream, site: DemoSite, shared: Arc<DemoState>) {
    let answer = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(site.answer(request, &shared).await) }
    });
    let served = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer).await;
    if let Err(error) = served {
        tracing::debug!(%error, "demo connection ended early");
    }
}

impl DemoSite {
    async fn answer(self, request: Request, shared: &DemoState) -> Response {
        match self {
            Self::Api => api::answer(request, &shared.counts).await,
            Self::Pages => pages::answer(&request, &shared.counts, &shared.sources).await,
        }
    }
}

/// Makes a response with the whole body in memory.
fn full_response(status: http::StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

fn json(status: http::StatusCode, value: &serde_json::Value) -> Response {
    full_response(status, "application/json", format!("{value}\n"))
}
