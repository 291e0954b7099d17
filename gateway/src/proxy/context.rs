//! What one request carries from hook to hook, and how it is counted: once, however it ends.
//!
//! Pingora calls `logging` at the end of a request, but not of one that panicked or whose task was
//! dropped; the context counts those when it is dropped itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossgate_policy::{RequestField, Scheme};
use yoke::Yoke;

use super::Salvage;
use crate::counters::{CountedEntry, SentResponse};
use crate::denials::{DenialLabels, DenialVerdict};
use crate::judge::Judgement;
use crate::ledger::{self, GroupLabel, JudgedOrigin, RecordedOutcome};
use crate::metrics::{ExchangePath, VerdictLabel};
use crate::metrics::{UpstreamError, UpstreamRefusal};
use crate::proxy_status::UpstreamFault;
use crate::queue::QueuePermit;
use crate::registry::GatewayMetrics;
use crate::request_head::RequestHead;
use crate::servers::PickedServer;
use crate::snapshot::{PinnedSnapshot, Snapshot};
use crossgate_message::forwarded::{ConnectionPeer, RequestId};
use crossgate_message::head_flaw::HeadFlaw;
use crossgate_wire::exchange::state::ExchangeState;

/// One request's state.
#[derive(Default)]
pub struct RequestContext {
    /// When its head was complete.
    pub began: Option<Instant>,
    /// When all of its answer was sent, where that is known.
    pub ended: Option<Instant>,
    /// How long it took, where its answer lasts as long as the client wants: until the head of that
    /// answer.
    pub took_to_head: Option<Duration>,
    /// The final answer whose head was written, or passed on to be written.
    pub response: Option<SentResponse>,
    /// Set once the head is judged; a request without it was never seen by a hook.
    pub request: Option<RequestState>,
    /// Attempts at the upstream so far.
    pub attempts: u32,
    /// Which server the first attempt goes to.
    pub turn: Option<usize>,
    /// The server that the present attempt goes to.
    pub server: Option<PickedServer>,
    /// Body bytes received so far.
    pub body_len: u64,
    /// When the first attempt at the upstream began.
    pub upstream_began: Option<Instant>,
    /// Until the upstream's response head.
    pub upstream_duration: Option<Duration>,
    /// Why the last attempt failed.
    pub upstream_error: Option<UpstreamError>,
    /// What was wrong with its response head, where that is why.
    pub upstream_flaw: Option<HeadFlaw>,
    /// Why there was none.
    pub upstream_refusal: Option<UpstreamRefusal>,
    /// A kept connection has failed under it, so that the next attempt makes a new one.
    pub needs_new_connection: bool,
    /// How often a server spoke another HTTP than it was known to.
    pub negotiations: u32,
    /// Its place at an upstream whose requests are bounded.
    pub place: Option<QueuePermit>,
    /// For the end of an exchange that is dropped.
    pub(crate) salvage: Option<Box<Salvage>>,
    /// Whether it counts as in flight.
    is_active: bool,
    counted: bool,
    is_path_counted: bool,
}

/// The server of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct AttemptTarget {
    /// Which server the first attempt goes to.
    pub turn: usize,
    pub server: PickedServer,
}

/// A judgement, and the snapshot that it points into.
pub struct PinnedJudgement(Yoke<Judgement<'static>, Arc<PinnedSnapshot>>);

impl PinnedJudgement {
    pub fn new(snapshot: Arc<PinnedSnapshot>, judge: impl for<'s> FnOnce(&'s PinnedSnapshot) -> Judgement<'s>) -> Self {
        PinnedJudgement(Yoke::<Judgement<'static>, _>::attach_to_cart(snapshot, judge))
    }

    pub fn snapshot(&self) -> &Arc<PinnedSnapshot> {
        self.0.backing_cart()
    }

    pub fn judgement(&self) -> &Judgement<'_> {
        self.0.get()
    }
}

/// What judging a request found, and under what it was judged.
pub struct RequestState {
    /// What to do, and the configuration that says so: the same from first byte to last.
    pub pinned: PinnedJudgement,
    /// Who sent it.
    pub peer: ConnectionPeer,
    /// By which scheme, where that is known.
    pub scheme: Option<Scheme>,
    /// Its id.
    pub request_id: RequestId,
    /// Whether it belongs to a trace.
    pub is_traced: bool,
    /// What the connection knows.
    pub watch: Arc<ExchangeState>,
}

impl RequestState {
    /// The configuration.
    pub fn snapshot(&self) -> &Snapshot {
        self.pinned.snapshot()
    }

    /// What to do.
    pub fn judgement(&self) -> &Judgement<'_> {
        self.pinned.judgement()
    }
}

impl RequestContext {
    /// Sets what judging has found. From now on the request is in flight.
    pub fn begin(&mut self, request: RequestState) -> &RequestState {
        if !std::mem::replace(&mut self.is_active, true) {
            request.pinned.snapshot().metrics().connections.traffic.begin_request();
        }
        self.request.insert(request)
    }

    /// Begins an attempt.
    pub fn begin_attempt(&mut self, target: AttemptTarget, now: Instant) {
        (self.turn, self.server) = (Some(target.turn), Some(target.server));
        self.attempts += 1;
        // What an earlier attempt has sent is sent again.
        (self.body_len, self.upstream_flaw) = (0, None);
        self.upstream_began.get_or_insert(now);
    }

    /// Counts the way of the request to its upstream, once for all attempts.
    pub fn count_path(&mut self, path: ExchangePath) {
        if let (false, Some(request)) = (self.is_path_counted, &self.request) {
            self.is_path_counted = true;
            request.pinned.snapshot().metrics().connections.traffic.count_exchange(path);
        }
    }

    /// How long the request has taken.
    pub fn took(&self) -> Duration {
        let ended = || self.ended.unwrap_or_else(Instant::now);
        self.began.map_or(Duration::ZERO, |began| ended().saturating_duration_since(began))
    }

    /// Why the upstream's answer cannot be passed on, as far as there is a reason.
    pub fn upstream_fault(&self) -> UpstreamFault<'_> {
        let (error, refusal) = (self.upstream_error, self.upstream_refusal);
        UpstreamFault { error, flaw: self.upstream_flaw.as_ref(), refusal }
    }

    /// Counts the request, which got this answer and took so long. Later calls do nothing.
    pub fn count(&mut self, response: Option<SentResponse>, took: Duration) {
        if std::mem::replace(&mut self.counted, true) {
            return;
        }
        if let Some(request) = &self.request {
            let took = self.took_to_head.unwrap_or(took);
            count(request.pinned.snapshot().metrics(), request.judgement(), response, took);
        }
    }
}

/// Counts one request that was judged, its answer, and how long it took.
pub fn count(metrics: &GatewayMetrics, judgement: &Judgement<'_>, response: Option<SentResponse>, took: Duration) {
    match judgement {
        Judgement::Refused(refusal) => {
            count_refusal(metrics, refusal);
            metrics.no_tenant().count_response(response, took);
        }
        Judgement::Judged(judged) => {
            let label = judged.label();
            let counters = &judged.tenant.counters;
            counters.count_request(judged.verdict.kind, label, judged.reason());
            counters.count_response(response, took);
            if let Some(route) = judged.route
                && judges_origin(judged.verdict.kind)
            {
                let group = judged.verdict.group;
                let entry = judged.verdict.entry.map(|entry| CountedEntry { entry, group });
                counters.count_origin(&route.handles, &route.policy, entry, label);
            }
        }
    }
}

/// Records a request that was judged, if it is denied, so that its id leads to the reason.
pub fn note_denial(
    metrics: &GatewayMetrics,
    generation: u64,
    judgement: &Judgement<'_>,
    head: &RequestHead<'_>,
    request_id: &str,
) {
    let judged = match judgement {
        Judgement::Judged(judged) => {
            let tenant = &judged.tenant.counters;
            DenialVerdict { tenant, verdict: judged.label(), reason: judged.reason().as_str() }
        }
        Judgement::Refused(refusal) => {
            DenialVerdict { tenant: metrics.no_tenant(), verdict: VerdictLabel::Deny, reason: refusal.reason }
        }
    };
    metrics.denials.record_judged(judged, head, DenialLabels { request_id, generation });
}

/// Records the origin of a request that was judged, where it was looked at.
pub fn note_origin(metrics: &GatewayMetrics, judgement: &Judgement<'_>, origin: RequestField<'_>) {
    match judgement {
        Judgement::Judged(judged) if judged.route.is_some() && judges_origin(judged.verdict.kind) => {
            if metrics.ledger.is_on() {
                let group =
                    judged.route.map_or(GroupLabel::NONE, |route| route.shared.group_label(judged.verdict.group));
                let outcome = RecordedOutcome { verdict: judged.label(), reason: judged.reason(), group };
                let seen = JudgedOrigin { origin, policy_reason: judged.verdict.reason, outcome };
                ledger::note(judged.tenant.counters.tenant_ledger(&metrics.ledger), seen);
            }
        }
        Judgement::Judged(_) | Judgement::Refused(_) => {}
    }
}

fn count_refusal(metrics: &GatewayMetrics, refusal: &crate::judge::RequestRefusal<'_>) {
    use crossgate_policy::Reason;
    match refusal.status.as_u16() {
        400 => metrics.connections.count_refusal(400),
        _ => metrics.no_tenant().count_request(refusal.kind, VerdictLabel::Deny, Reason::UnknownHost),
    }
}

fn judges_origin(kind: crossgate_policy::RequestKind) -> bool {
    use crossgate_policy::RequestKind;
    match kind {
        RequestKind::Preflight | RequestKind::WebSocket | RequestKind::Actual => true,
        RequestKind::NonCors | RequestKind::SameOrigin => false,
    }
}

impl Drop for RequestContext {
    fn drop(&mut self) {
        if let Some(salvage) = self.salvage.take().filter(|_| !self.counted) {
            salvage.conclude(self);
        }
        if !self.counted {
            self.count(self.response, self.took());
        }
        if let (true, Some(request)) = (self.is_active, &self.request) {
            request.pinned.snapshot().metrics().connections.traffic.end_request();
        }
    }
}

/// Counts a request as lost if a panic ends the judging of it, when nothing else can count it yet.
pub struct LostIfPanicked<'m>(pub &'m GatewayMetrics);

impl Drop for LostIfPanicked<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.no_tenant().count_lost();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::judge::{self};
    use crate::reload::{BrokenTenants, Reloader};
    use crate::request_head::RequestHead;
    use crate::verdicts::TenantRule;
    use crossgate_message::fields::HeaderFields;
    use crossgate_wire::exchange::state::ExchangeLimits;

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
    fn start() -> (Arc<GatewayMetrics>, Reloader) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.yaml");
        std::fs::write(&path, CONFIG).unwrap();
        let metrics = GatewayMetrics::new();
        let reloader = Reloader::start(&path, BrokenTenants::Refuse, &metrics);
        (metrics, reloader.unwrap_or_else(|found| panic!("{found}")))
    }

    /// The context of a request that was judged, as the first hook leaves it.
    fn judged(reloader: &Reloader) -> RequestContext {
        let peer = ConnectionPeer { address: None, is_trusted: false };
        let lines = [
            httparse::Header { name: "Host", value: b"api.example" },
            httparse::Header { name: "Origin", value: b"https://app.example" },
        ];
        let head = RequestHead::new(b"GET", b"/", HeaderFields::Lines(&lines), peer);
        let snapshot = reloader.current().pin();
        let request = RequestState {
            pinned: PinnedJudgement::new(snapshot, |snapshot| judge::judge(snapshot, &head, TenantRule::decide)),
            peer,
            scheme: None,
            request_id: RequestId::default(),
            is_traced: false,
            watch: Arc::new(ExchangeState::new(LIMITS, None, 0)),
        };
        let mut context = RequestContext::default();
        context.begin(request);
        context
    }

    #[track_caller]
    fn check(metrics: &GatewayMetrics, count: u64) {
        check_line(
            metrics,
            &format!(
                "crossgate_requests_total{{tenant=\"acme\",kind=\"actual\",verdict=\"allow\",reason=\"exact\"}} {count}"
            ),
        );
        check_line(metrics, &format!("crossgate_request_duration_seconds_count{{tenant=\"acme\"}} {count}"));
    }

    #[track_caller]
    fn check_line(metrics: &GatewayMetrics, line: &str) {
        let text = metrics.render();
        assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
    }

    fn response_line(class: &str, by: &str, count: u64) -> String {
        format!("crossgate_responses_total{{tenant=\"acme\",class=\"{class}\",by=\"{by}\"}} {count}")
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
        check_line(&metrics, &response_line("none", "none", 1));
        check_line(&metrics, "crossgate_requests_active 0");
    }

    #[test]
    fn a_request_that_panics_after_its_answer_began_has_the_class_of_that() {
        let (metrics, reloader) = start();
        let mut context = judged(&reloader);
        context.response = Some(SentResponse::by_upstream(http::StatusCode::FOUND));
        check_line(&metrics, "crossgate_requests_active 1");
        drop(context);
        check_line(&metrics, &response_line("3xx", "upstream", 1));
    }

    #[test]
    fn an_answer_that_lasts_takes_until_its_head() {
        let (metrics, reloader) = start();
        let mut context = judged(&reloader);
        context.took_to_head = Some(Duration::from_millis(2));
        context.count(Some(SentResponse::by_upstream(http::StatusCode::OK)), Duration::from_secs(3_600));
        check_line(&metrics, "crossgate_request_duration_seconds_sum{tenant=\"acme\"} 0.002");
    }

    #[test]
    fn a_panic_while_judging_is_counted_under_no_tenant() {
        let (metrics, _) = start();
        drop(LostIfPanicked(&metrics));
        assert!(!metrics.render().contains("crossgate_responses_total"));
        let judging = AssertUnwindSafe(|| {
            let _lost = LostIfPanicked(&metrics);
            panic!("while judging");
        });
        assert!(catch_unwind(judging).is_err());
        check_line(&metrics, "crossgate_responses_total{tenant=\"none\",class=\"none\",by=\"none\"} 1");
    }

    #[test]
    fn a_request_is_counted_once() {
        let (metrics, reloader) = start();
        let mut context = judged(&reloader);
        let response = Some(SentResponse::by_gateway(http::StatusCode::FORBIDDEN));
        context.count(response, Duration::ZERO);
        context.count(None, Duration::ZERO);
        check(&metrics, 1);
        drop(context);
        check(&metrics, 1);
        check_line(&metrics, &response_line("4xx", "gateway", 1));
        drop(judged(&reloader));
        check(&metrics, 2);
    }
}
