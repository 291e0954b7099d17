//! Decodes where an upstream's servers are, how they are checked and limited, and who resolves their names.
//!
//! A name is only looked at here, never looked up: that is `upkeep`'s, once the configuration serves.

use std::net::SocketAddr;
use std::time::Duration;

use http::uri::PathAndQuery;

use super::decode::{Decoder, Fields};
use super::model::{HealthCheck, Resolver, ServerAddress, ServerSpec, UpstreamLimits};
use super::sections;
use super::settings::span;
use super::tree::{Node, Value};
use crate::host;
use crate::servers::SERVERS_MAX;

/// Turns of one server: the order of an upstream's turns is written down, so its length is bounded.
const WEIGHT_MAX: u32 = 256;
/// Checks in a row.
const CHECKS_MAX: u32 = 100;
/// Enough for every path that anybody probes.
const CHECK_PATH_LEN_MAX: usize = 1_024;
/// Requests at one time, under way or waiting.
const REQUESTS_MAX: u32 = 1_000_000;
/// Name servers. They are asked two at a time.
const NAME_SERVERS_MAX: usize = 8;

impl Decoder<'_> {
    pub(super) fn servers(&mut self, fields: &Fields<'_>) -> Vec<ServerSpec> {
        let Some(node) = self.required(fields, "servers") else {
            return Vec::new();
        };
        let before = self.found.len();
        let items = self.list(node, "a list of servers", SERVERS_MAX);
        let servers: Vec<_> = items.iter().filter_map(|item| self.server(item)).collect();
        if servers.is_empty() && self.found.len() == before {
            self.error(node.at, "there is no server; write one such as 127.0.0.1:9001 or orders.internal:9001");
        }
        servers
    }

    fn server(&mut self, node: &Node) -> Option<ServerSpec> {
        if !matches!(node.value, Value::Map(_)) {
            return Some(ServerSpec { address: self.server_address(node)?, weight: 1 });
        }
        let fields = self.fields(node, &sections::SERVER)?;
        let weight = self.count_or(&fields, "weight", 1..=WEIGHT_MAX, 1);
        let node = self.required(&fields, "address")?;
        Some(ServerSpec { address: self.server_address(node)?, weight })
    }

    fn server_address(&mut self, node: &Node) -> Option<ServerAddress> {
        self.parsed(node, "the address of a server", server_address)
    }

    pub(super) fn health_check(&mut self, node: &Node) -> Option<HealthCheck> {
        let fields = self.fields(node, &sections::HEALTH_CHECK)?;
        let interval = self.duration_or(&fields, "interval", span(100, 3_600), Duration::from_secs(10));
        let timeout = self.duration_or(&fields, "timeout", span(10, 300), Duration::from_secs(2));
        let healthy_after = self.count_or(&fields, "healthyAfter", 1..=CHECKS_MAX, 2);
        let unhealthy_after = self.count_or(&fields, "unhealthyAfter", 1..=CHECKS_MAX, 3);
        let host = fields.find("host").and_then(|node| self.upstream_host(node));
        let path = self.required(&fields, "path")?;
        let path = self.parsed(path, "the path of a health check", check_path)?;
        Some(HealthCheck { path, interval, timeout, healthy_after, unhealthy_after, host })
    }

    pub(super) fn upstream_limits(&mut self, node: &Node) -> Option<UpstreamLimits> {
        let fields = self.fields(node, &sections::UPSTREAM_LIMITS)?;
        let pending_timeout = self.duration_or(&fields, "pendingTimeout", span(1, 300), Duration::from_secs(1));
        let max_pending = fields.find("maxPending").map(|node| self.count(node, 0..=REQUESTS_MAX));
        let node = self.required(&fields, "maxRequests")?;
        let max_requests = self.count(node, 1..=REQUESTS_MAX)?;
        Some(UpstreamLimits { max_requests, max_pending: max_pending.unwrap_or(Some(max_requests))?, pending_timeout })
    }

    pub(super) fn resolver(&mut self, node: &Node) -> Option<Resolver> {
        let fields = self.fields(node, &sections::RESOLVER)?;
        let timeout = fields.find("timeout").and_then(|node| self.duration(node, span(10, 60)));
        let listed = fields.find("servers");
        let items = listed.map_or(&[][..], |node| self.list(node, "a list of name servers", NAME_SERVERS_MAX));
        if let (Some(node), true) = (listed, items.is_empty()) {
            self.error(
                node.at,
                "there is no name server; write one such as 10.0.0.2:53, or leave the key out to ask the system's",
            );
        }
        let servers = items.iter().filter_map(|item| self.name_server(item)).collect();
        Some(Resolver { servers, timeout })
    }

    fn name_server(&mut self, node: &Node) -> Option<SocketAddr> {
        self.parsed(node, "the address of a name server", |text| match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(address),
            Ok(_) | Err(_) => Err("write an IP address and a port, such as 10.0.0.2:53 or [2001:db8::2]:53"),
        })
    }
}

const PORT_MISSING: &str = "write its port too, as in 127.0.0.1:9001, [::1]:9001 or orders.internal:9001";

fn server_address(text: &str) -> Result<ServerAddress, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        let is_whole = address.port() != 0;
        return if is_whole { Ok(ServerAddress::Address(address)) } else { Err(host::HostError::Port.to_string()) };
    }
    let authority = host::parse_authority(text.as_bytes()).map_err(|error| error.to_string())?;
    let port = authority.port.ok_or(PORT_MISSING)?;
    // What ends with a number is an address to some and a name to others (URL Standard, section 3.5).
    if authority.host.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("it is neither an IPv4 address of four numbers from 0 to 255 nor a name, which ends with a letter"
            .to_owned());
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
        Ok(_) | Err(_) => Err("write what is asked for, from the slash on, such as /healthz"),
    }
}
