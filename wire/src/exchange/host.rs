//! The gateway's interface to the servers of HTTP/1.1 and HTTP/2.
//!
//! The servers call it for limits, health checks, preflights over HTTP/2, and the accounting of
//! connections that end early. Preflights over HTTP/1.1 have their own interface,
//! [`LaneHost`](crate::lane::LaneHost).

use std::sync::Arc;

use pingora::http::RequestHeader;

use super::answer::EdgeAnswer;
use super::client::ClientIdentity;
use super::direct::{ExchangeStart, UploadFraming, UpstreamSide};
use super::limits::LaneLimits;
use super::state::{AbandonCause, ExchangePhase, ExchangeState};
use crate::metrics::{EarlyClose, PanicPlace};
use crate::refusal::HeadRefusal;
use crossgate_message::fields::KnownHeaders;
use crossgate_message::health_path::HealthPath;
use crossgate_message::received_head::ReceivedHead;

/// The gateway behind a connection, for both HTTP versions.
pub trait ExchangeHost: Send + Sync + 'static {
    /// The upstream of a direct exchange.
    type Upstream: UpstreamSide;

    /// The limits in force now.
    fn limits(&self) -> LaneLimits;
    /// Whether the gateway is draining, so that connections close after their current response.
    fn is_draining(&self) -> bool;
    /// The path of health checks on a listener, `None` if it has none.
    fn health_path(&self, listener: usize) -> Option<&HealthPath>;
    /// Counts a health check and makes its response.
    fn answer_health_check(&self, method: &[u8]) -> EdgeAnswer;
    /// Makes the response over HTTP/2 to a preflight, counts and logs it. Returns `None` and does
    /// nothing if the proxy is to have the request.
    fn answer_preflight(
        &self,
        head: &RequestHeader,
        known: &KnownHeaders<'_>,
        client: &ClientIdentity,
    ) -> Option<EdgeAnswer>;
    /// Judges a request that the direct exchange may serve. A request that it declines is judged no
    /// second time: what was found is left in `state` for the proxy.
    fn begin(
        self: &Arc<Self>,
        request: &ReceivedHead<'_>,
        framing: UploadFraming,
        state: &Arc<ExchangeState>,
    ) -> ExchangeStart<Self::Upstream>;
    /// Makes the response over HTTP/2 to a refused head, counts and logs it.
    fn refusal(&self, refusal: &HeadRefusal, peer: Option<std::net::SocketAddr>) -> EdgeAnswer;
    /// Counts a connection that ended early, for this reason.
    fn count_early_close(&self, reason: EarlyClose);
    /// Counts a request that Pingora refused itself, before any hook saw it.
    fn count_unseen_refusal(&self);
    /// Counts a connection that a panic ended.
    fn count_panic(&self, place: PanicPlace);
}

/// Counts an exchange that was dropped, unless its response is counted instead.
pub fn count_abandoned<H: ExchangeHost>(host: &H, why: AbandonCause, state: &ExchangeState) {
    match why {
        AbandonCause::ClientGone => host.count_early_close(EarlyClose::ClientGone),
        AbandonCause::Unopened => {}
        AbandonCause::Overdue if state.phase() == ExchangePhase::Request => {}
        AbandonCause::Overdue => host.count_early_close(EarlyClose::ExchangeIdle),
    }
}
