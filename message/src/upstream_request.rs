//! The fields of a request as its upstream gets them: one list of rules for both engines.
//!
//! The direct exchange copies the received lines that stay and appends the gateway's own, as bytes.
//! Pingora's proxy has a map, from which the same lines are removed and to which the same are
//! appended.

use http::header::HOST;
use http::{HeaderMap, HeaderValue};

use crate::field_edits::FieldEdits;
use crate::field_sink::FieldSink;
use crate::fields::{RequestField, is_named};
use crate::forwarded::{self, Forwarding};
use crate::received_head::ReceivedHead;
use crate::{hop_by_hop, rewrite, trace_context};
use crossgate_policy::EditValue;

/// A request on its way to an upstream.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamRequest<'a> {
    pub received: &'a ReceivedHead<'a>,
    pub forwarding: Forwarding<'a>,
    /// Whether the request belongs to a trace.
    pub is_traced: bool,
    /// The `Host` of the upstream's configuration, in place of the client's.
    pub host: Option<&'a HeaderValue>,
    /// The changes that the configuration makes.
    pub edits: Option<&'a FieldEdits>,
}

impl UpstreamRequest<'_> {
    /// Writes the fields, without those that frame the body.
    pub fn write(&self, sink: &mut impl FieldSink) {
        if let Some(host) = self.host {
            sink.own(&HOST, EditValue::Rendered(host));
        }
        self.received.fields.for_each(|line| {
            if !self.drops(line.name()) {
                sink.received(line);
            }
        });
        self.append(sink);
    }

    /// Changes the fields of Pingora's copy, all but those that frame the body.
    pub fn edit(&self, sent: &mut HeaderMap) {
        rewrite::remove(sent, |name| {
            let name = name.as_str();
            name != "transfer-encoding" && self.drops(name.as_bytes())
        });
        if let Some(host) = self.host {
            sent.own(&HOST, EditValue::Rendered(host));
        }
        self.append(sent);
    }

    fn append(&self, sink: &mut impl FieldSink) {
        let ReceivedHead { fields, known, .. } = self.received;
        self.forwarding.write(*fields, known.host, sink);
        if let Some(edits) = self.edits {
            edits.write(sink);
        }
    }

    /// Whether a received field does not reach the upstream. The name may be in any case.
    fn drops(&self, name: &[u8]) -> bool {
        let ReceivedHead { fields, known, .. } = self.received;
        hop_by_hop::ends_request_hop(name)
            || forwarded::is_claim(name, self.forwarding.peer)
            || forwarded::is_replaced(name)
            || self.forwarding.stripped.is_some() && forwarded::is_prefix(name)
            || self.is_left_out(name)
            || hop_by_hop::is_confusable(name)
            || self.edits.is_some_and(|edits| edits.replaces_for_servers(name))
            || known.connection != RequestField::Absent && hop_by_hop::is_listed(*fields, name)
    }

    fn is_left_out(&self, name: &[u8]) -> bool {
        let is = |other: &str| is_named(name, other);
        match name.len() {
            4 => self.host.is_some() && is("host"),
            6 => is("expect") && !self.received.expects_continue(),
            _ => !self.is_traced && trace_context::is_part(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Version};

    use super::*;
    use crate::fields::{FieldSpans, HeaderFields};
    use crate::forwarded::ConnectionPeer;

    type Lines = [(&'static str, &'static str)];

    const FORWARDING: Forwarding<'static> = Forwarding {
        peer: ConnectionPeer { address: None, is_trusted: false },
        scheme: None,
        request_id: "id",
        tenant: "acme",
        stripped: None,
    };

    const OWN: [&str; 4] = ["cdn-loop", "x-crossgate-tenant", "x-forwarded-proto", "x-request-id"];

    /// The received fields that stay, sorted, as both engines have them.
    fn kept(version: Version, lines: &Lines, host: Option<&'static str>, is_traced: bool) -> Vec<String> {
        edited(version, lines, host, is_traced, None)
    }

    fn edited(
        version: Version,
        lines: &Lines,
        host: Option<&'static str>,
        is_traced: bool,
        edits: Option<&FieldEdits>,
    ) -> Vec<String> {
        let text: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("{text}\r\n");
        let mut parsed = [httparse::EMPTY_HEADER; 16];
        let (_, parsed) = httparse::parse_headers(head.as_bytes(), &mut parsed).unwrap().unwrap();
        let mut spans = FieldSpans::default();
        spans.set(head.as_bytes(), parsed);
        let received = ReceivedHead::new(&Method::GET, b"/", version, HeaderFields::Spans(head.as_bytes(), &spans));
        let host = host.map(HeaderValue::from_static);
        let request =
            UpstreamRequest { received: &received, forwarding: FORWARDING, is_traced, host: host.as_ref(), edits };
        let mut written = HeaderMap::new();
        request.write(&mut written);
        let mut edited: HeaderMap =
            lines.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect();
        edited.append("transfer-encoding", HeaderValue::from_static("chunked"));
        request.edit(&mut edited);
        assert!(edited.remove("transfer-encoding").is_some());
        assert_eq!(written, edited);
        let mut bytes = Vec::new();
        request.write(&mut bytes);
        assert_eq!(String::from_utf8(bytes).unwrap().lines().count(), written.len());
        let text = |(name, value): (&http::HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        let mut all: Vec<_> = written.iter().filter(|(name, _)| !OWN.contains(&name.as_str())).map(text).collect();
        all.sort();
        all
    }

    #[test]
    fn fields_of_the_connection_do_not_reach_the_upstream() {
        use Version as V;
        let upgrade = [("Connection", "keep-alive, Upgrade"), ("Upgrade", "h2c, WebSocket"), ("X-A", "1")];
        let hop = [("TE", "trailers"), ("Trailer", "x"), ("Keep-Alive", "5"), ("HTTP2-Settings", "x")];
        let proxy = [("Proxy-Connection", "x"), ("Proxy-Authenticate", "x"), ("Proxy-Authorization", "x")];
        let table: [(V, &Lines, &[&str]); 12] = [
            (V::HTTP_11, &[("Connection", "close"), ("X-A", "1")], &["x-a: 1"]),
            (V::HTTP_11, &[("Connection", "close, x-A"), ("X-A", "1"), ("x-ab", "2")], &["x-ab: 2"]),
            (V::HTTP_11, &upgrade, &["x-a: 1"]),
            (V::HTTP_10, &upgrade, &["x-a: 1"]),
            (V::HTTP_11, &hop, &[]),
            (V::HTTP_11, &proxy, &[]),
            (V::HTTP_11, &[("Expect", "100-continue")], &["expect: 100-continue"]),
            (V::HTTP_10, &[("Expect", "100-continue")], &[]),
            (V::HTTP_2, &[("expect", "100-continue")], &[]),
            (V::HTTP_11, &[("x_forwarded_for", "1"), ("x.request.id", "1"), ("sec.fetch-site", "1")], &[]),
            (V::HTTP_11, &[("x_app", "1"), ("Cookies", "1")], &["cookies: 1", "x_app: 1"]),
            (V::HTTP_11, &[("Content-Length", "3"), ("Host", "a.test")], &["content-length: 3", "host: a.test"]),
        ];
        for (version, lines, expected) in table {
            let kept = kept(version, lines, None, false);
            let without_host: Vec<_> =
                kept.iter().filter(|line| !line.starts_with("x-forwarded-host: ")).cloned().collect();
            assert_eq!(without_host, expected, "{version:?} {lines:?}");
        }
    }

    #[test]
    fn host_and_trace_context_follow_the_configuration_and_the_request() {
        let lines = [("Host", "a.test"), ("Traceparent", "x"), ("Tracestate", "y")];
        let traced = ["host: a.test", "traceparent: x", "tracestate: y", "x-forwarded-host: a.test"];
        assert_eq!(kept(Version::HTTP_11, &lines, None, true), traced);
        let replaced = ["host: b.test", "x-forwarded-host: a.test"];
        assert_eq!(kept(Version::HTTP_11, &lines, Some("b.test"), false), replaced);
    }

    #[test]
    fn edits_of_the_configuration_replace_and_add_fields() {
        let mut edits = FieldEdits::default();
        edits.set(http::HeaderName::from_static("x-edge"), HeaderValue::from_static("eu-1"));
        edits.add(http::HeaderName::from_static("x-b"), HeaderValue::from_static("2"));
        edits.remove(http::HeaderName::from_static("x-internal"));
        let lines = [("X-Edge", "forged"), ("X_Edge", "forged"), ("x-b", "1"), ("X-Internal", "1"), ("x-c", "1")];
        let expected = ["x-b: 1", "x-b: 2", "x-c: 1", "x-edge: eu-1"];
        assert_eq!(edited(Version::HTTP_11, &lines, None, false, Some(&edits)), expected);
    }
}
