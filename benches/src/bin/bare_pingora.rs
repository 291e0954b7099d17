//! Bare Pingora: the cost of proxying without Crossgate.
//!
//! It implements only `upstream_peer`, with no modules, one thread, and the buffers and the
//! allocator of the gateway. Usage: `bare-pingora LISTEN UPSTREAM`, both as address and port.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use crossgate::metrics::ConnectionCounters;
use crossgate_wire::runner::{BoundListener, RunningListeners};
use mimalloc::MiMalloc;
use pingora::Result;
use pingora::modules::http::HttpModules;
use pingora::proxy::{HttpProxy, ProxyHttp, Session};
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

/// The same allocator as in the gateway.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

struct Bare(SocketAddr);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "--version") {
        println!("bare pingora 0.9.1");
        return ExitCode::SUCCESS;
    }
    let addresses: Option<Vec<SocketAddr>> = arguments.iter().map(|argument| argument.parse().ok()).collect();
    let Some([listen, upstream]) = addresses.as_deref() else {
        eprintln!("usage: bare-pingora LISTEN UPSTREAM");
        return ExitCode::from(2);
    };
    let mut proxy = HttpProxy::new(Bare(*upstream), Arc::new(ServerConf { threads: 1, ..ServerConf::default() }));
    proxy.handle_init_modules();
    let bound = match BoundListener::new(*listen) {
        Ok(bound) => bound,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let _running =
        RunningListeners::start(vec![(bound, proxy)], Arc::new(ConnectionCounters::default()), Arc::default(), 1);
    loop {
        std::thread::park();
    }
}
