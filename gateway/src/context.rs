//! What one request carries from hook to hook, and how it is counted: once, however it ends.
//!
//! Pingora calls `logging` at the end of a request, but not of one that panicked or whose task was dropped; the context counts
//! those when it is dropped itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossgate_policy::{Field, Scheme};
use self_cell::self_cell;

use crate::forwarded::Peer;
use crate::judge::Judgement;
use crate::lane::watch::Watch;
use crate::ledger;
use crate::metrics::{Metrics, UpstreamError, UpstreamRefusal};
use crate::queue::Place;
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
    /// Why there was none.
    pub upstream_refusal: Option<UpstreamRefusal>,
    /// Its place at an upstream whose requests are bounded.
    pub place: Option<Place>,
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
    /// Whether it belongs to a trace.
    pub is_traced: bool,
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

/// Records the origin of a request that was judged, where it was looked at.
pub fn note_origin(metrics: &Metrics, judgement: &Judgement<'_>, origin: Field<'_>) {
    match judgement {
        Judgement::Judged(judged) if judged.route.is_some() && judges_origin(judged.verdict.kind) => {
            ledger::note(&metrics.ledger, judged, origin);
        }
        Judgement::Judged(_) | Judgement::Refused(_) => {}
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

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::fields::Fields;
    use crate::judge::{self, HeadView};
    use crate::lane::watch::ExchangeLimits;
    use crate::reload::{BrokenTenants, Reloader};
    use crate::verdicts::RuleSeat;

    const CONFIG: &str = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
upstreams: { a: { servers: ["127.0.0.1:9"] } }
policies: { spa: { allowOrigins: ["https://app.example"] } }
tenants: [{ id: acme, hosts: [api.example], upstream: a, policy: spa }]
"#;

    const LIMITS: ExchangeLimits = ExchangeLimits {
        body_grace: Duration::from_secs(1),
        body_rate_min: 1,
        write_stall: Duration::from_secs(1),
        drain_bytes: 1,
        drain_time: Duration::from_secs(1),
    };

    /// What counts, and the configuration, with which the tenant's counters would go.
    fn start() -> (Arc<Metrics>, Reloader) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.yaml");
        std::fs::write(&path, CONFIG).unwrap();
        let metrics = Metrics::new();
        let reloader = Reloader::start(&path, BrokenTenants::Refuse, &metrics);
        (metrics, reloader.unwrap_or_else(|found| panic!("{found}")))
    }

    /// The context of a request that was judged, as the first hook leaves it.
    fn judged(reloader: &Reloader) -> Context {
        let peer = Peer { address: None, is_trusted: false };
        let lines = [
            httparse::Header { name: "Host", value: b"api.example" },
            httparse::Header { name: "Origin", value: b"https://app.example" },
        ];
        let head = HeadView::new(b"GET", b"/", Fields::Lines(&lines), peer);
        let snapshot = reloader.current().pin();
        let request = Judging {
            pinned: PinnedJudgement::new(snapshot, |snapshot| judge::judge(snapshot, &head, RuleSeat::ask)),
            peer,
            scheme: None,
            request_id: String::new(),
            is_traced: false,
            watch: Arc::new(Watch::new(LIMITS, None, 0)),
        };
        let mut context = Context::default();
        context.request = Some(request);
        context
    }

    #[track_caller]
    fn check(metrics: &Metrics, count: u64) {
        let text = metrics.render();
        let line = format!(
            "crossgate_requests_total{{tenant=\"acme\",kind=\"actual\",verdict=\"allow\",reason=\"exact\"}} {count}"
        );
        assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
    }

    #[test]
    fn a_request_that_panics_is_counted() {
        let (metrics, reloader) = start();
        let context = judged(&reloader);
        let hook = AssertUnwindSafe(move || {
            let _context = context;
            panic!("in a hook");
        });
        assert!(catch_unwind(hook).is_err());
        check(&metrics, 1);
    }

    #[test]
    fn a_request_is_counted_once() {
        let (metrics, reloader) = start();
        let mut context = judged(&reloader);
        context.count();
        context.count();
        check(&metrics, 1);
        drop(context);
        check(&metrics, 1);
        drop(judged(&reloader));
        check(&metrics, 2);
    }
}
