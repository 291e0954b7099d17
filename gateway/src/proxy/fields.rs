//! The fields of requests and responses on their way through the gateway, by the same rules for
//! both engines: the direct exchange writes new heads, Pingora's proxy has its own changed.

use std::net::SocketAddr;

use crossgate_policy::{EditValue, RequestField, Scheme};
use http::header::{LOCATION, VARY};
use http::{HeaderMap, HeaderValue, StatusCode, Version};

use super::context::RequestState;
use super::report;
use crate::cookies;
use crate::judge::{PolicyMatch, RequestAction};
use crate::proxy_status::{self, PROXY_STATUS};
use crate::request_head::RequestHead;
use crate::respond;
use crate::route::Route;
use crossgate_config::model::{LocationFields, ProxyStatus};
use crossgate_message::field_sink::FieldSink;
use crossgate_message::fields::HeaderFields;
use crossgate_message::forwarded::Forwarding;
use crossgate_message::head_flaw::HeadFlaw;
use crossgate_message::hop_by_hop::{self, ClientFraming, ResponseHop};
use crossgate_message::location::LocationMap;
use crossgate_message::received_head::ReceivedHead;
use crossgate_message::response_head::{self, ResponseHead};
use crossgate_message::rewrite;
use crossgate_message::upstream_request::UpstreamRequest;

/// A request for the upstream of its route.
pub(super) fn upstream_request<'a>(
    received: &'a ReceivedHead<'a>,
    request: &'a RequestState,
    judged: &'a PolicyMatch<'a>,
) -> UpstreamRequest<'a> {
    let RequestState { peer, scheme, request_id, is_traced, .. } = request;
    UpstreamRequest {
        received,
        forwarding: Forwarding {
            peer: *peer,
            scheme: *scheme,
            request_id,
            tenant: &judged.tenant.id,
            stripped: judged.route.and_then(Route::rewrite).and_then(|rewrite| rewrite.path.as_ref()?.stripped()),
        },
        is_traced: *is_traced,
        host: judged.upstream().and_then(|upstream| upstream.host.as_ref()),
        edits: judged.route.and_then(|route| route.request_edits.as_deref()),
    }
}

/// A response of an upstream, and the request that it answers.
#[derive(Clone, Copy)]
pub(super) struct UpstreamResponse<'a> {
    pub(super) status: StatusCode,
    pub(super) head: &'a RequestHead<'a>,
    pub(super) request: &'a RequestState,
    pub(super) judged: &'a PolicyMatch<'a>,
    /// The server that sent it.
    pub(super) server: Option<SocketAddr>,
}

impl UpstreamResponse<'_> {
    /// Whether it is the last response to its request.
    fn is_final(&self) -> bool {
        !self.status.is_informational() || self.status == StatusCode::SWITCHING_PROTOCOLS
    }

    /// Writes the fields for the client, without those that frame the body and, of a final
    /// response, without `Date`.
    pub(super) fn write(&self, received: &ResponseHead<'_>, sink: &mut impl FieldSink) {
        let fields = received.fields;
        self.compare(fields);
        let hop = ResponseHop::new(self.status, fields, received.has_connection);
        let location = self.mapped_location(fields);
        fields.for_each(|line| {
            let name = line.name();
            let is_date = || self.is_final() && name.eq_ignore_ascii_case(b"date");
            let is_mapped = || location.is_some() && name.eq_ignore_ascii_case(LOCATION.as_str().as_bytes());
            let is_written_later = response_head::is_framing_field(name) || is_date() || is_mapped();
            if !is_written_later && !hop.drops(name) && !self.replaces(name) {
                sink.received(line);
            }
        });
        // One that `Connection` lists is not passed on.
        let present = PresentFields {
            vary: received.has_vary && !hop.drops(b"vary"),
            proxy_status: received.has_proxy_status && !hop.drops(b"proxy-status"),
        };
        if let Some(location) = location {
            sink.own(&LOCATION, EditValue::Request(location.as_bytes()));
        }
        self.append(fields, present, sink);
    }

    /// Changes the fields of a head that Pingora has received.
    ///
    /// # Errors
    /// Returns the flaw of a head that is refused.
    pub(super) fn edit(&self, fields: &mut HeaderMap, client: Version) -> Result<ClientFraming, HeadFlaw> {
        self.compare((&*fields).into());
        let reframed = hop_by_hop::strip_response(self.status, fields, client)?;
        rewrite::remove(fields, |name| self.replaces(name.as_str().as_bytes()));
        let mut own = HeaderMap::new();
        if let Some(location) = self.mapped_location((&*fields).into()) {
            rewrite::remove(fields, |name| *name == LOCATION);
            own.own(&LOCATION, EditValue::Request(location.as_bytes()));
        }
        let present =
            PresentFields { vary: fields.contains_key(VARY), proxy_status: fields.contains_key(PROXY_STATUS) };
        self.append((&*fields).into(), present, &mut own);
        for (name, value) in &own {
            fields.append(name, value.clone());
        }
        Ok(reframed)
    }

    /// Counts what the response says in contradiction to the policy.
    fn compare(&self, fields: HeaderFields<'_>) {
        if !self.is_final() {
            return;
        }
        cookies::watch(self.judged, self.head, fields);
        if self.judged.action == RequestAction::Report {
            report::compare(self.judged, fields, &self.head.known);
        }
    }

    /// The `Location` for the client, if the route rewrites paths and the upstream leads to itself.
    fn mapped_location(&self, fields: HeaderFields<'_>) -> Option<String> {
        let rewrite = self.judged.route?.rewrite()?;
        let edits = self.judged.response_edits();
        let is_set_here = edits.is_some_and(|edits| edits.replaces(LOCATION.as_str().as_bytes()));
        if rewrite.location == LocationFields::Keep || is_set_here || !self.is_final() {
            return None;
        }
        let mut lines = fields.lines(&LOCATION);
        let (Some(location), None) = (lines.next(), lines.next()) else { return None };
        let upstream = self.judged.upstream()?;
        let RequestField::One(client_host) = self.head.known.host else { return None };
        let map = LocationMap {
            change: rewrite.path.as_ref(),
            sent_host: upstream.host.as_ref().map_or(client_host, HeaderValue::as_bytes),
            server: self.server,
            sent_scheme: if upstream.tls.is_some() { Scheme::Https } else { Scheme::Http },
            client_host,
            client_scheme: self.head.scheme,
        };
        map.map(location)
    }

    fn replaces(&self, name: &[u8]) -> bool {
        let is_replaced_at_end = || {
            respond::replaces_id(name, self.judged)
                || self.judged.response_edits().is_some_and(|edits| edits.replaces(name))
        };
        respond::replaces(name, self.judged) || self.is_final() && is_replaced_at_end()
    }

    fn append(&self, received: HeaderFields<'_>, present: PresentFields, sink: &mut impl FieldSink) {
        if !self.is_final() {
            return;
        }
        // A policy that only reports has no part in these.
        respond::write_route_vary(self.judged, sink);
        if let Some(edits) = self.judged.response_edits() {
            edits.write(sink);
        }
        if self.judged.action == RequestAction::Report {
            return;
        }
        let vary = present.vary.then_some(received);
        respond::complete(vary, self.judged, self.head, &self.request.request_id, sink);
        if present.proxy_status && self.request.snapshot().settings.proxy_status == ProxyStatus::Sent {
            proxy_status::append_to_others(sink);
        }
    }
}

/// Which fields are in a response that the gateway adds to.
#[derive(Clone, Copy)]
struct PresentFields {
    vary: bool,
    proxy_status: bool,
}
