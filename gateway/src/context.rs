//! What one request carries from hook to hook, and how it is counted: once, however it ends.
//!
//! Pingora calls `logging` at the end of a request, but not of one that panicked or whose task was dropped; the context counts
//! those when it is dropped itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossgate_policy::Scheme;
use self_cell::self_cell;

use crate::forwarded::Peer;
use crate::judge::Judgement;
use crate::lane::watch::Watch;
use crate::metrics::{Metrics, UpstreamError};
use crate::servers::Picked;
use crate::snapshot::{Pinned, Snapshot};

/// One request's state.
#[derive(Default)]
pub struct Context {
    /// When its head was complete, if anybody will want to know.
    pub began: Option<Instant>,
    /// Set once the head is judged; a request without it was never seen by a hook.
    pub request: Option<Judging>,
    /// Attempts at the upstream so far.
    pub attempts: u32,
    /// Which server the first attempt goes to.
    pub turn: Option<usize>,
    /// The server that the present attempt goes to.
    pub server: Option<Picked>,
    /// Body bytes received so far.
    pub body_len: u64,
    /// When the first attempt at the upstream began.
    pub upstream_began: Option<Instant>,
    /// Until the upstream's response head.
    pub upstream_duration: Option<Duration>,
    /// Why the last attempt failed.
    pub upstream_error: Option<UpstreamError>,
    counted: bool,
}

self_cell! {
    /// A judgement, and the snapshot that it points into.
    pub struct PinnedJudgement {
        owner: Arc<Pinned>,
        #[covariant]
        dependent: Judgement,
    }
}

/// What judging a request found, and under what it was judged.
pub struct Judging {
    /// What to do, and the configuration that says so: the same from first byte to last.
    pub pinned: PinnedJudgement,
    /// Who sent it.
    pub peer: Peer,
    /// By which scheme, where that is known.
    pub scheme: Option<Scheme>,
    /// Its id.
    pub request_id: String,
    /// What the connection knows.
    pub watch: Arc<Watch>,
}

impl Judging {
    /// The configuration.
    pub fn snapshot(&self) -> &Snapshot {
        self.pinned.borrow_owner()
    }

    /// What to do.
    pub fn judgement(&self) -> &Judgement<'_> {
        self.pinned.borrow_dependent()
    }
}

impl Context {
    /// Counts the request. Later calls do nothing.
    pub fn count(&mut self) {
        if std::mem::replace(&mut self.counted, true) {
            return;
        }
        if let Some(request) = &self.request {
            count(request.pinned.borrow_owner().metrics(), request.judgement());
        }
    }
}

/// Counts one request that was judged.
pub fn count(metrics: &Metrics, judgement: &Judgement<'_>) {
    match judgement {
        Judgement::Refused(refusal) => count_refusal(metrics, refusal),
        Judgement::Judged(judged) => {
            let label = judged.label();
            let counters = &judged.tenant.counters;
            counters.count_request(judged.verdict.kind, label, judged.reason());
            if let Some(route) = judged.route
                && judges_origin(judged.verdict.kind)
            {
                counters.count_origin(&route.handles, &route.policy, judged.verdict.entry, label);
            }
        }
    }
}

fn count_refusal(metrics: &Metrics, refusal: &crate::judge::Refusal<'_>) {
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
