//! What one request carries from hook to hook, and how it is counted: once, however it ends.
//!
//! Pingora calls `logging` at the end of a request, but not of one that panicked or whose task was dropped; the context counts
//! those when it is dropped itself.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::forwarded::Peer;
use crate::judge::Judgement;
use crate::lane::watch::Watch;
use crate::metrics::{Metrics, UpstreamError};
use crate::snapshot::Snapshot;

/// One request's state.
pub struct Context {
    /// When its head was complete.
    pub began: Instant,
    /// The same by the calendar.
    pub time: SystemTime,
    /// Set once the head is judged; a request without it was never seen by a hook.
    pub request: Option<Judging>,
    /// Attempts at the upstream so far.
    pub attempts: u32,
    /// Which server the first attempt goes to.
    pub turn: Option<usize>,
    /// Body bytes received so far.
    pub body_len: u64,
    /// When the first attempt at the upstream began.
    pub upstream_began: Option<Instant>,
    /// Until the upstream's response head.
    pub upstream_duration: Option<Duration>,
    /// Why the last attempt failed.
    pub upstream_error: Option<UpstreamError>,
    metrics: Arc<Metrics>,
    counted: bool,
}

/// What judging a request found, and under what it was judged.
pub struct Judging {
    /// The configuration, the same from first byte to last.
    pub snapshot: Arc<Snapshot>,
    /// What to do.
    pub judgement: Judgement,
    /// Who sent it.
    pub peer: Peer,
    /// Its id.
    pub request_id: String,
    /// What the connection knows.
    pub watch: Arc<Watch>,
}

impl Context {
    /// Of a request whose head has just been read.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Context {
            began: Instant::now(),
            time: SystemTime::now(),
            request: None,
            attempts: 0,
            turn: None,
            body_len: 0,
            upstream_began: None,
            upstream_duration: None,
            upstream_error: None,
            metrics,
            counted: false,
        }
    }

    /// Counts the request. Later calls do nothing.
    pub fn count(&mut self) {
        if std::mem::replace(&mut self.counted, true) {
            return;
        }
        if let Some(request) = &self.request {
            count(&self.metrics, &request.judgement);
        }
    }
}

/// Counts one request that was judged.
pub fn count(metrics: &Metrics, judgement: &Judgement) {
    match judgement {
        Judgement::Refused(refusal) => count_refusal(metrics, refusal),
        Judgement::Judged(judged) => {
            let label = judged.label();
            let counters = &judged.tenant.counters;
            counters.count_request(judged.verdict.kind, label, judged.reason());
            if let Some(route) = &judged.route
                && judges_origin(judged.verdict.kind)
            {
                counters.count_origin(&route.handles, &route.policy, judged.verdict.entry, label);
            }
        }
    }
}

fn count_refusal(metrics: &Metrics, refusal: &crate::judge::Refusal) {
    use crate::metrics::VerdictLabel::Deny;
    use crossgate_policy::Reason;
    match refusal.status.as_u16() {
        400 => metrics.connections.count_refusal(400),
        _ => metrics.no_tenant().count_request(refusal.kind, Deny, Reason::UnknownHost),
    }
}

fn judges_origin(kind: crossgate_policy::Kind) -> bool {
    use crossgate_policy::Kind;
    match kind {
        Kind::Preflight | Kind::WebSocket | Kind::Actual => true,
        Kind::NonCors | Kind::SameOrigin => false,
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.count();
    }
}
