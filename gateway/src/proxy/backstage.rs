//! What the lane asks of the gateway: the limits in force, the answers that it writes itself, and counting.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{StatusCode, Version};

use super::Gateway;
use crate::config::{Limits, Mode};
use crate::fields::Fields;
use crate::forwarded::Peer;
use crate::http2::Http2Limits;
use crate::judge::{self, Action, HeadView, Judgement};
use crate::lane::head::{HeadLimits, Refusal};
use crate::lane::preflight::{Client, Preflight};
use crate::lane::watch::ExchangeLimits;
use crate::lane::{Answered, Backstage, LaneLimits};
use crate::log_request::{self, Finished};
use crate::metrics::{BadIntroduction, ConnectionLimits, EarlyClose, HandshakeEnd, PanicPlace};
use crate::proxy_protocol::Entry;
use crate::respond::Answer;
use crate::tenant::Route;
use crate::tls::Terminator;
use crate::verdicts::RuleSeat;
use crate::{context, forwarded, respond};

impl Backstage for Gateway {
    fn terminator(&self, listener: usize) -> Option<Arc<Terminator>> {
        self.snapshot.load().terminator(listener).map(Arc::clone)
    }

    fn answer(&self, preflight: &Preflight<'_>, client: &Client, out: &mut Vec<u8>) -> Answered {
        answer_preflight(self, preflight, client, out).map_or(Answered::Not, |()| Answered::Here)
    }

    fn lone_client(&self, client: &Client) -> Option<IpAddr> {
        let Peer { address, is_trusted } = self.peer(client.address, client.listener);
        address.filter(|_| !is_trusted)
    }

    fn entry(&self, peer: &Client) -> Entry {
        let Some(balancers) = self.listeners.get(peer.listener).and_then(|listener| listener.proxy_protocol.as_ref())
        else {
            return Entry::Client;
        };
        let is_balancer = peer.address.is_some_and(|address| balancers.include(address.ip()));
        if is_balancer { Entry::Header } else { Entry::Closed }
    }

    fn not_introduced(&self, reason: BadIntroduction) {
        self.metrics.connections.count_bad_introduction(reason);
    }

    fn is_draining(&self) -> bool {
        self.is_draining()
    }

    fn limits(&self) -> LaneLimits {
        let snapshot = self.snapshot.load();
        let limits = &snapshot.settings.limits;
        LaneLimits {
            tls_handshake: limits.tls_handshake,
            head: head_limits(limits),
            exchange: ExchangeLimits {
                body_grace: limits.min_body_rate_after,
                body_rate_min: limits.min_body_rate,
                write_stall: limits.write_stall,
                drain_bytes: limits.drain_bytes as u64,
                drain_time: limits.drain_time,
            },
            requests: u64::from(limits.keep_alive_requests),
            http2: Http2Limits { streams: limits.http2_streams, idle: limits.http2_idle },
            connections: ConnectionLimits {
                all: limits.max_connections.map_or(u64::MAX, u64::from).min(self.descriptors.clients),
                of_client: limits.max_connections_per_client,
            },
        }
    }

    fn refuse(&self, refusal: &Refusal, peer: Option<SocketAddr>) -> Vec<u8> {
        respond::refusal_bytes(refusal, &self.note_refusal(refusal, peer, None))
    }

    fn refusal(&self, refusal: &Refusal, peer: Option<SocketAddr>) -> Answer {
        respond::refusal(refusal, &self.note_refusal(refusal, peer, Some(Version::HTTP_2)))
    }

    fn closed_early(&self, reason: EarlyClose) {
        self.metrics.connections.count_early_close(reason);
    }

    fn handshake_over(&self, end: HandshakeEnd, client: &Client, host: Option<&str>) {
        self.metrics.tls.count_handshake(end);
        // Of the others, scanners and lost clients make most, and nobody here can mend them.
        let is_a_matter_of_setup = match end {
            HandshakeEnd::UnknownName | HandshakeEnd::Rejected | HandshakeEnd::Incompatible | HandshakeEnd::Failed => {
                true
            }
            HandshakeEnd::Success
            | HandshakeEnd::PlainHttp
            | HandshakeEnd::Malformed
            | HandshakeEnd::Timeout
            | HandshakeEnd::ClientGone => false,
        };
        if is_a_matter_of_setup && self.complaints.passes() {
            let client = client.address.map(|address| tracing::field::display(address.ip()));
            tracing::info!(host, client, result = end.as_str(), "a TLS handshake failed");
        }
    }

    fn panicked(&self, place: PanicPlace) {
        self.metrics.panics.count(place);
    }

    fn refused_unseen(&self) {
        self.metrics.connections.count_refusal(StatusCode::BAD_REQUEST.as_u16());
    }
}

impl Gateway {
    /// Counts and logs a head that is refused; its id.
    fn note_refusal(&self, refusal: &Refusal, peer: Option<SocketAddr>, version: Option<Version>) -> String {
        self.metrics.connections.count_refusal(refusal.status.as_u16());
        let request_id = forwarded::new_request_id();
        let client = peer.map(|peer| peer.ip());
        log_request::write_refused(&self.log, &self.snapshot.load(), refusal, &request_id, client, version);
        request_id
    }
}

/// Judges a preflight, writes its answer, counts and logs it; all as for one that comes through the hooks. `None` where the
/// proxy is to have it.
fn answer_preflight(gateway: &Gateway, preflight: &Preflight<'_>, client: &Client, out: &mut Vec<u8>) -> Option<()> {
    let peer = gateway.peer(client.address, client.listener);
    let fields = Fields::Lines(preflight.fields);
    let head = HeadView::noted(b"OPTIONS", preflight.target, fields, preflight.noted, peer);
    let head = head.over(client.shown.as_deref());
    let snapshot = gateway.snapshot.load();
    // Reading the clock is a tenth of all that is done here.
    let began = log_request::is_on(&snapshot).then(Instant::now);
    let enforced = |route: &Route| match route.mode {
        Mode::Enforce => Ok(()),
        Mode::Report => Err(()),
    };
    let judge = || judge::judge_unless(&snapshot, &head, enforced, RuleSeat::ask);
    let judgement = gateway.metrics.decisions.time(judge).ok()?;
    #[cfg(test)]
    crate::fault::strike("answering", preflight.target);
    let is_logged = log_request::is_wanted(&snapshot, &judgement);
    let allowed = match &judgement {
        Judgement::Judged(judged) if judged.action == Action::AnswerPreflight => Some(judged),
        Judgement::Judged(_) | Judgement::Refused(_) => None,
    };
    // An allowed preflight's answer does not carry it.
    let needs_id = is_logged || allowed.is_none();
    let request_id = if needs_id { forwarded::request_id(&head.noted, peer) } else { String::new() };
    let status = match allowed {
        Some(judged) => {
            respond::write_preflight(judged, &head, preflight.persistence, out);
            StatusCode::NO_CONTENT
        }
        None => {
            let answer = respond::answer(&judgement, &head, &request_id)?;
            respond::write_answer(&answer, preflight.persistence, out);
            answer.status
        }
    };
    context::count(&gateway.metrics, &judgement);
    context::note_origin(&gateway.metrics, &judgement, head.noted.origin);
    if is_logged {
        let finished = Finished {
            version: Version::HTTP_11,
            head,
            peer,
            request_id: &request_id,
            snapshot: &snapshot,
            judgement: &judgement,
            took: began.map_or(Duration::ZERO, |began| began.elapsed()),
            status: Some(status),
            is_abandoned: false,
            upstream: None,
            upstream_refusal: None,
        };
        log_request::write(&gateway.log, &finished);
    }
    Some(())
}

/// The bounds on a request head that the configuration sets.
pub(crate) fn head_limits(limits: &Limits) -> HeadLimits {
    HeadLimits {
        time: limits.head,
        idle: limits.keep_alive_idle,
        bytes: limits.head_bytes,
        field_bytes: limits.head_field_bytes,
        fields: limits.head_fields as usize,
    }
}
