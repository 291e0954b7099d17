//! gRPC, from a client to a service that others have written: what it has to say at the end is in trailers.

use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Gateway, HOST, RecordingUpstream, config, tenant_config};

/// A health service at an address of its own.
fn service(runtime: &Runtime) -> std::net::SocketAddr {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (reporter, health) = tonic_health::server::health_reporter();
    runtime.spawn(async move {
        reporter.set_service_status("orders", tonic_health::ServingStatus::NotServing).await;
        while let Ok((stream, _)) = listener.accept().await {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(health.clone())));
        }
    });
    address
}

async fn client(gateway: &Gateway) -> HealthClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", gateway.data)).unwrap();
    let endpoint = endpoint.origin(format!("http://{HOST}").parse().unwrap()).timeout(Duration::from_secs(20));
    HealthClient::new(endpoint.connect().await.unwrap())
}

#[test]
fn a_status_arrives_in_trailers() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let service = service(&runtime);
    let nobody = RecordingUpstream::answering("");
    let text = tenant_config(&nobody, ", protocol: Http2").replace(&nobody.address.to_string(), &service.to_string());
    let gateway = Gateway::start(&config(&text), &[]);
    runtime.block_on(async {
        let mut client = client(&gateway).await;
        let check = |service: &str| HealthCheckRequest { service: service.to_owned() };
        // Whole, with a message; and an error, which is trailers alone.
        let served = client.check(check("orders")).await.unwrap().into_inner();
        assert_eq!(served.status(), tonic_health::pb::health_check_response::ServingStatus::NotServing);
        assert_eq!(client.check(check("nobody")).await.unwrap_err().code(), Code::NotFound);
        // A stream of messages whose end is not in sight.
        let mut watched = client.watch(check("orders")).await.unwrap().into_inner();
        assert!(watched.message().await.unwrap().is_some());
    });
}
