//! The gRPC health service of the `tonic-health` crate, in clear text.

use std::net::SocketAddr;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// The server. It ends when this is dropped.
pub(crate) struct GrpcHealth {
    pub(crate) address: SocketAddr,
    reporter: HealthReporter,
    runtime: Runtime,
}

impl GrpcHealth {
    /// A server without services. The status of the whole server is SERVING.
    pub(crate) fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (reporter, health) = tonic_health::server::health_reporter();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(health.clone())));
            }
        });
        Self { address, reporter, runtime }
    }

    /// Sets the status of a service.
    pub(crate) fn set(&self, service: &str, status: ServingStatus) {
        self.runtime.block_on(self.reporter.set_service_status(service, status));
    }
}
