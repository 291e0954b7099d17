//! A tonic client and a tonic service: the gRPC status arrives in trailers.

use std::time::Duration;

use tokio::runtime::Builder;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Gateway, GrpcHealth, HOST, config, tenant_config_at};

async fn client(gateway: &Gateway) -> HealthClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", gateway.data)).unwrap();
    let endpoint = endpoint.origin(format!("http://{HOST}").parse().unwrap()).timeout(Duration::from_secs(20));
    HealthClient::new(endpoint.connect().await.unwrap())
}

#[test]
fn grpc_status_arrives_in_trailers() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let health = GrpcHealth::start();
    health.set("orders", tonic_health::ServingStatus::NotServing);
    let gateway = Gateway::start(&config(&tenant_config_at(health.address, ", protocol: Http2")), &[]);
    runtime.block_on(async {
        let mut client = client(&gateway).await;
        let check = |service: &str| HealthCheckRequest { service: service.to_owned() };
        // A response with a message, and an error, which has only trailers.
        let served = client.check(check("orders")).await.unwrap().into_inner();
        assert_eq!(served.status(), tonic_health::pb::health_check_response::ServingStatus::NotServing);
        assert_eq!(client.check(check("unknown")).await.unwrap_err().code(), Code::NotFound);
        // A stream of messages without end.
        let mut watched = client.watch(check("orders")).await.unwrap().into_inner();
        assert!(watched.message().await.unwrap().is_some());
    });
}
