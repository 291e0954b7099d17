//! Decodes the servers of an upstream, their health checks and limits, and the resolver.
//!
//! Names are only parsed here. The gateway resolves them when the configuration is live.

use std::net::SocketAddr;
use std::time::Duration;

use http::uri::PathAndQuery;

use super::decode::{Decoder, SectionFields};
use super::model::{
    CheckRequest, HealthCheck, Protocol, Resolver, SERVERS_MAX, ServerAddress, ServerSpec, UpstreamLimits,
};
use super::node::{YamlNode, YamlValue};
use super::scalars::ShownDuration;
use super::sections;
use super::settings::duration_range;
use super::warnings::WarningCode;
use crossgate_message::host;

/// Maximum weight of a server. It bounds the length of the precomputed order of turns.
const WEIGHT_MAX: u32 = 256;
/// Maximum number of consecutive checks.
const CHECKS_MAX: u32 = 100;
/// Maximum length of the path of a health check.
const CHECK_PATH_LEN_MAX: usize = 1_024;
/// Maximum length of the name of a gRPC service.
const SERVICE_LEN_MAX: usize = 256;
/// Maximum number of concurrent requests, in progress or in the queue.
const REQUESTS_MAX: u32 = 1_000_000;
/// Maximum number of name servers.
const NAME_SERVERS_MAX: usize = 8;

impl Decoder<'_> {
    pub(super) fn servers(&mut self, fields: &SectionFields<'_>) -> Vec<ServerSpec> {
        let Some(node) = self.required(fields, "servers") else {
            return Vec::new();
        };
        let before = self.found.len();
        let items = self.list(node, "a list of servers", SERVERS_MAX);
        let servers: Vec<_> = items.iter().filter_map(|item| self.server(item)).collect();
        if servers.is_empty() && self.found.len() == before {
            self.error(node.at, "empty list of servers; write one such as 127.0.0.1:9001 or orders.internal:9001");
        }
        if !servers.is_empty() && servers.iter().all(|server| server.is_backup) {
            self.error(node.at, "all servers are backups; remove `backup` from at least one");
        }
        servers
    }

    fn server(&mut self, node: &YamlNode) -> Option<ServerSpec> {
        if !matches!(node.value, YamlValue::Map(_)) {
            return Some(ServerSpec { address: self.server_address(node)?, weight: 1, is_backup: false });
        }
        let fields = self.fields(node, &sections::SERVER)?;
        let weight = self.count_or(&fields, "weight", 1..=WEIGHT_MAX, 1);
        let is_backup = fields.find("backup").and_then(|node| self.flag(node)) == Some(true);
        let node = self.required(&fields, "address")?;
        Some(ServerSpec { address: self.server_address(node)?, weight, is_backup })
    }

    fn server_address(&mut self, node: &YamlNode) -> Option<ServerAddress> {
        self.parse_host(node, "a server address", server_address)
    }

    pub(super) fn health_check(&mut self, node: &YamlNode, protocol: Protocol) -> Option<HealthCheck> {
        let fields = self.fields(node, &sections::HEALTH_CHECK)?;
        let interval = self.duration_or(&fields, "interval", duration_range(100, 3_600), Duration::from_secs(10));
        let timeout = self.duration_or(&fields, "timeout", duration_range(10, 300), Duration::from_secs(2));
        if timeout > interval {
            let (at, shown) = (fields.find("timeout").map_or(node.at, |node| node.at), ShownDuration(interval));
            let message =
                format!("timeout is longer than the interval of {shown} between checks; write at most {shown}");
            self.warn(WarningCode::CheckTimeout, at, message);
        }
        let healthy_after = self.count_or(&fields, "healthyAfter", 1..=CHECKS_MAX, 2);
        let unhealthy_after = self.count_or(&fields, "unhealthyAfter", 1..=CHECKS_MAX, 3);
        let host = fields.find("host").and_then(|node| self.upstream_host(node));
        let request = self.check_request(&fields, protocol)?;
        Some(HealthCheck { request, interval, timeout, healthy_after, unhealthy_after, host })
    }

    fn check_request(&mut self, fields: &SectionFields<'_>, protocol: Protocol) -> Option<CheckRequest> {
        let path = fields.find("path");
        let grpc = fields.find("grpc").filter(|node| !matches!(node.value, YamlValue::Bool(false)));
        match (path, grpc) {
            (Some(path), None) => self.parse_text(path, "a health check path", check_path).map(CheckRequest::Get),
            (None, Some(grpc)) => {
                // Over TLS, Auto negotiates HTTP/2, which gRPC needs.
                if protocol == Protocol::Http1 {
                    let message = "gRPC needs HTTP/2; set `protocol: Http2`, or `protocol: Auto` with tls";
                    self.error(grpc.at, message);
                }
                self.grpc_service(grpc).map(|service| CheckRequest::Grpc { service })
            }
            (Some(path), Some(grpc)) => {
                self.clash(grpc.at, "path and grpc exclude each other; keep one", path.at);
                None
            }
            (None, None) => {
                self.error(
                    fields.at(),
                    "missing key `path` in a health check; write it, or `grpc: true` for a gRPC server",
                );
                None
            }
        }
    }

    /// The service to check. The empty name stands for the server as a whole.
    fn grpc_service(&mut self, node: &YamlNode) -> Option<Box<str>> {
        if let YamlValue::Bool(true) = node.value {
            return Some(Box::default());
        }
        let fields = self.fields(node, &sections::GRPC_SERVICE)?;
        let node = self.required(&fields, "service")?;
        self.parse_text(node, "a gRPC service name", |text| {
            let is_name =
                (1..=SERVICE_LEN_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
            is_name.then(|| Box::from(text)).ok_or("write the name that the server registers, such as orders.v1.Orders")
        })
    }

    pub(super) fn upstream_limits(&mut self, node: &YamlNode) -> Option<UpstreamLimits> {
        let fields = self.fields(node, &sections::UPSTREAM_LIMITS)?;
        let pending_timeout =
            self.duration_or(&fields, "pendingTimeout", duration_range(1, 300), Duration::from_secs(1));
        let max_pending = fields.find("maxPending").map(|node| self.count(node, 0..=REQUESTS_MAX));
        let node = self.required(&fields, "maxRequests")?;
        let max_requests = self.count(node, 1..=REQUESTS_MAX)?;
        Some(UpstreamLimits { max_requests, max_pending: max_pending.unwrap_or(Some(max_requests))?, pending_timeout })
    }

    pub(super) fn resolver(&mut self, node: &YamlNode) -> Option<Resolver> {
        let fields = self.fields(node, &sections::RESOLVER)?;
        let timeout = fields.find("timeout").and_then(|node| self.duration(node, duration_range(10, 60)));
        let listed = fields.find("servers");
        let items = listed.map_or(&[][..], |node| self.list(node, "a list of name servers", NAME_SERVERS_MAX));
        if let (Some(node), true) = (listed, items.is_empty()) {
            self.error(
                node.at,
                "empty list of name servers; write one such as 10.0.0.2:53, or remove the key to use those of the system",
            );
        }
        let servers = items.iter().filter_map(|item| self.name_server(item)).collect();
        Some(Resolver { servers, timeout })
    }

    fn name_server(&mut self, node: &YamlNode) -> Option<SocketAddr> {
        self.parse_host(node, "a name server address", |text| match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(address),
            Ok(_) | Err(_) => Err("write an IP address and a port, such as 10.0.0.2:53 or [2001:db8::2]:53"),
        })
    }
}

const PORT_MISSING: &str = "add the port, as in 127.0.0.1:9001, [::1]:9001 or orders.internal:9001";

fn server_address(text: &str) -> Result<ServerAddress, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        let is_whole = address.port() != 0;
        return if is_whole { Ok(ServerAddress::Address(address)) } else { Err(host::HostError::Port.to_string()) };
    }
    let authority = host::parse_authority(text.as_bytes()).map_err(|error| error.to_string())?;
    let port = authority.port.ok_or(PORT_MISSING)?;
    // A host that ends with a number is an IPv4 address in the URL Standard (section 3.5) and a
    // name to some resolvers.
    if authority.host.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(
            "expected an IPv4 address of four numbers from 0 to 255, or a name that does not end with a number"
                .to_owned(),
        );
    }
    let is_absolute = text.split(':').next().is_some_and(|name| name.ends_with('.'));
    let name = format!("{}{}", authority.host, if is_absolute { "." } else { "" });
    Ok(ServerAddress::Name { name: name.into(), port })
}

fn check_path(text: &str) -> Result<PathAndQuery, &'static str> {
    let is_visible = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let is_path = text.starts_with('/') && is_visible && text.len() <= CHECK_PATH_LEN_MAX;
    match PathAndQuery::try_from(text) {
        Ok(path) if is_path => Ok(path),
        Ok(_) | Err(_) => Err("write a path that begins with a slash, such as /healthz"),
    }
}
