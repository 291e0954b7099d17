//! Pingora's hooks, in the order of a request's life.
//!
//! ```text
//! request_filter           pin the snapshot, judge; answer preflights, denials and errors here
//! upstream_peer            the server to ask, once per attempt
//! upstream_request_filter  what the upstream is told of the client
//! request_body_filter      the size of an upload
//! response_filter          CORS fields, for every response head of the upstream, 1xx included
//! fail_to_proxy            every error answer after judging
//! logging                  count once, log once
//! ```
//!
//! The verdict is made in `request_filter` alone; everything after reads it. Caching, compression and subrequests are unused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use crossgate_policy::Kind;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, InvalidHeaderValue};
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use crate::access_log::AccessLog;
use crate::config::Mode;
use crate::config::model::{BodyMax, Listener, Protocol};
use crate::context::{Context, Judging, PinnedJudgement};
use crate::descriptors::Shares;
#[cfg(test)]
use crate::fault;
use crate::fields::Fields;
use crate::forwarded::{self, Peer};
use crate::hop_by_hop::Reframed;
use crate::judge::{self, Action, HeadView, Judged, Judgement};
use crate::lane::conn::Conn;
use crate::lane::watch::{Expired, Phase, Watch};
use crate::log_request::{self, Asked, Finished};
use crate::metrics::{EarlyClose, Metrics, UpstreamRefusal};
use crate::respond;
use crate::snapshot::{CurrentSnapshot, Pinned};
use crate::tenant::Upstream;
use crate::throttle::Throttle;
use crate::upstream::Failure;
use crate::verdicts::RuleSeat;
use crate::{context, hop_by_hop, http2, rewrite, trace_context, upstream};

mod admission;
mod backstage;
mod edge;
mod report;
mod until_close;

use admission::Entered;
pub(crate) use backstage::head_limits;
pub(crate) use edge::answer_at_edge;
use edge::{body_may_be_drained, write_answer};

/// What all requests share.
#[derive(Clone)]
pub struct Gateway {
    snapshot: Arc<CurrentSnapshot>,
    metrics: Arc<Metrics>,
    log: Arc<AccessLog>,
    listeners: Vec<Listener>,
    draining: Arc<AtomicBool>,
    descriptors: Shares,
    /// How often the log tells of handshakes that failed.
    complaints: Arc<Throttle>,
}

impl Gateway {
    /// A gateway that serves whatever snapshot is current when a request begins, on these listeners, and ends connections
    /// with their present answer once `draining` is set. Clients get no more open files than their share.
    pub fn new(
        snapshot: Arc<CurrentSnapshot>,
        metrics: Arc<Metrics>,
        log: Arc<AccessLog>,
        listeners: Vec<Listener>,
        draining: Arc<AtomicBool>,
        descriptors: Shares,
    ) -> Self {
        Gateway { snapshot, metrics, log, listeners, draining, descriptors, complaints: Arc::default() }
    }

    fn judge(&self, snapshot: Arc<Pinned>, watch: Arc<Watch>, head: &HeadView<'_>, peer: Peer) -> Judging {
        watch.mark_seen();
        let timer = &self.metrics.decisions;
        let pinned =
            PinnedJudgement::new(snapshot, |snapshot| timer.time(|| judge::judge(snapshot, head, RuleSeat::ask)));
        context::note_origin(&self.metrics, pinned.borrow_dependent(), head.noted.origin);
        let request_id = forwarded::request_id(&head.noted, peer);
        let is_traced = trace_context::trace_id(head.noted.traceparent).is_some();
        Judging { pinned, peer, scheme: head.scheme, request_id, is_traced, watch }
    }

    fn log(&self, session: &Session, context: &Context, request: &Judging) {
        let is_answer = |status: &StatusCode| !status.is_informational() || *status == StatusCode::SWITCHING_PROTOCOLS;
        let status = session.response_written().map(|written| written.status).filter(is_answer);
        let (duration, error) = (context.upstream_duration, context.upstream_error);
        let finished = Finished {
            version: session.req_header().version,
            head: head_view(session.req_header(), request.peer, &request.watch),
            peer: request.peer,
            request_id: &request.request_id,
            snapshot: request.snapshot(),
            judgement: request.judgement(),
            took: context.began.map_or(Duration::ZERO, |began| began.elapsed()),
            status,
            is_abandoned: status.is_none() && request.watch.expired().is_none(),
            upstream: (context.attempts > 0).then_some(Asked { duration, error }),
            upstream_refusal: context.upstream_refusal,
        };
        log_request::write(&self.log, &finished);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Who speaks on a connection that this listener accepted.
    fn peer(&self, address: Option<SocketAddr>, listener: usize) -> Peer {
        let address = address.map(|peer| peer.ip());
        let listener = self.listeners.get(listener);
        let is_trusted = address.zip(listener).is_some_and(|(address, listener)| listener.trusts(address));
        Peer { address, is_trusted }
    }
}

/// The state that the client's side shares with the hooks: over HTTP/1 in its connection, over HTTP/2 with the request. Every request
/// comes through the lane, so it is always there.
fn watch_of(session: &Session) -> Option<Arc<Watch>> {
    let watch = match session.stream() {
        Some(stream) => stream.as_any().downcast_ref::<Conn>()?.watch(),
        None => http2::watch(session.req_header())?,
    };
    Some(Arc::clone(watch))
}

fn head_view<'a>(header: &'a RequestHeader, peer: Peer, watch: &'a Watch) -> HeadView<'a> {
    let method = header.method.as_str().as_bytes();
    HeadView::new(method, header.raw_path(), (&header.headers).into(), peer).over(watch.shown())
}

/// The policy's side of a request, once it is judged.
fn judged(context: &Context) -> Option<(&Judging, &Judged<'_>)> {
    let request = context.request.as_ref()?;
    match request.judgement() {
        Judgement::Judged(judged) => Some((request, judged)),
        Judgement::Refused(_) => None,
    }
}

/// Lets go of how the client spelled its fields, before Pingora copies it for the upstream: see [`rewrite`].
fn forget_spelling(header: &mut RequestHeader) {
    // In any other form the target is a part of what is forgotten, and the log tells of it.
    if matches!(header.raw_path().first(), Some(b'/' | b'*')) {
        rewrite::request(header, |_| ());
    }
}

fn internal(what: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InternalError, what)
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    /// None: Pingora's default module allocates for every request.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        // A small body is read to its end after an answer made here, and the connection kept; and Pingora would take a
        // `100 Continue` for the answer before which the upload should have ended.
        session.set_close_on_response_before_downstream_finish(false);
        // RFC 9110, section 15.2: not to a client of HTTP/1.0.
        let is_old = session.req_header().version == Version::HTTP_10;
        session.set_ignore_info_resp(is_old);
        let watch = watch_of(session).ok_or_else(|| internal("no lane"))?;
        let peer = self.peer(watch.peer(), watch.listener());
        let head = head_view(session.req_header(), peer, &watch);
        let snapshot = self.snapshot.pin();
        context.began = log_request::is_on(&snapshot).then(Instant::now);
        let request = context.request.insert(self.judge(snapshot, Arc::clone(&watch), &head, peer));
        #[cfg(test)]
        fault::strike("request-filter", session.req_header().raw_path());
        if hop_by_hop::expects_continue(session.req_header()) {
            request.watch.expect_continue();
        }
        let answer = answer_at_edge(request.snapshot(), request.judgement(), &head, &request.request_id);
        let Some(answer) = answer else {
            forget_spelling(session.req_header_mut());
            return Ok(false);
        };
        let limits = request.snapshot().settings.limits;
        if !body_may_be_drained(head.headers, &limits) || self.is_draining() {
            session.set_keepalive(None);
        }
        write_answer(session, answer).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        if let Entered::Later(queue) = admission::enter(context) {
            // Boxed, so that requests which need not wait are no larger for it.
            Box::pin(admission::wait(session, context, queue)).await?;
        }
        let (request, judged) = judged(context).ok_or_else(|| internal("not judged"))?;
        let route = judged.route.ok_or_else(|| internal("no route"))?;
        let turn = context.turn.unwrap_or_else(|| route.upstream.draw_turn());
        let Some(server) = route.upstream.server(turn, context.attempts, context.server) else {
            return Err(admission::refuse(context, UpstreamRefusal::NoAddress));
        };
        let peer = upstream::peer(&route.upstream, server.address, protocol_for(session, &route.upstream)?);
        request.watch.begin_attempt(route.upstream.timeouts.head, route.upstream.timeouts.idle);
        (context.turn, context.server) = (Some(turn), Some(server));
        context.attempts += 1;
        // What an earlier attempt has sent is sent again.
        context.body_len = 0;
        context.upstream_began.get_or_insert_with(Instant::now);
        Ok(peer)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        sent: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        #[cfg(test)]
        fault::strike("upstream-request-filter", session.req_header().raw_path());
        let (request, judged) = judged(context).ok_or_else(|| internal("not judged"))?;
        let Judging { peer, scheme, request_id, is_traced, .. } = request;
        let is_http2 = sent.version == Version::HTTP_2;
        if judged.route.is_some_and(|route| route.upstream.protocol == Protocol::Http2) && !is_http2 {
            return Err(Error::explain(upstream::NO_HTTP2, "the server speaks no HTTP/2").into_up());
        }
        let is_unwanted = |name: &str| forwarded::is_claim(name, *peer) || !is_traced && trace_context::is_part(name);
        rewrite::request(sent, |fields| {
            hop_by_hop::clean_request(session.req_header(), fields, is_unwanted);
            if is_http2 {
                hop_by_hop::clean_http2_request(session.req_header(), fields);
            }
            forwarded::write(fields, *peer, *scheme, request_id, &judged.tenant.id)?;
            if let Some(host) = judged.route.and_then(|route| route.upstream.host.clone()) {
                fields.insert(HOST, host);
            }
            Ok::<(), InvalidHeaderValue>(())
        })
        .map_err(|_| internal("a field that cannot be said"))?;
        // Last: rewriting keeps targets in origin form alone.
        if let Some(target) = &judged.rewritten {
            sent.set_raw_path(target.as_bytes())?;
        }
        if is_http2 { before_http2(session, &request.watch).await } else { Ok(()) }
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        context: &mut Context,
    ) -> Result<()> {
        context.body_len += body.as_ref().map_or(0, |piece| piece.len() as u64);
        let max = context.request.as_ref().map(|request| request.snapshot().settings.limits.max_request_body);
        match max {
            Some(BodyMax::Bytes(max)) if context.body_len > max => {
                Err(Error::explain(ErrorType::HTTPStatus(413), "request body too large").into_down())
            }
            Some(BodyMax::Bytes(_) | BodyMax::Unlimited) | None => Ok(()),
        }
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        header: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        let (request, judged) = judged(context).ok_or_else(|| internal("not judged"))?;
        #[cfg(test)]
        fault::strike("response-filter", session.req_header().raw_path());
        let head = head_view(session.req_header(), request.peer, &request.watch);
        let is_upgrade = header.status == StatusCode::SWITCHING_PROTOCOLS;
        if is_upgrade && !hop_by_hop::upgrades_to_websocket(session.req_header(), &header.headers) {
            // RFC 9110, section 7.8: nobody asked. Passed on, it would make a tunnel out of a request.
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "101 without an upgrade").into_up());
        }
        let is_http2 = header.version == Version::HTTP_2;
        if is_http2 {
            hop_by_hop::check_http2_response(&header.headers)
                .map_err(|what| Error::explain(ErrorType::InvalidHTTPHeader, what).into_up())?;
        }
        let (status, client) = (header.status, session.req_header().version);
        let is_final = !status.is_informational() || is_upgrade;
        let reframed = rewrite::response(header, |fields| {
            if is_final && judged.action == Action::Report {
                report::compare(judged, fields, &head.noted);
            }
            let reframed = hop_by_hop::clean_response(status, fields, client)?;
            if !is_final {
                respond::strip_cors(fields, judged);
                return Ok(reframed);
            }
            let completed = respond::complete(fields, judged, &head, &request.request_id);
            completed.map_err(|_| "a field that cannot be said")?;
            Ok(reframed)
        });
        let reframed = reframed.map_err(|what: &str| Error::explain(ErrorType::InvalidHTTPHeader, what).into_up())?;
        header.set_version(Version::HTTP_11);
        if !is_final {
            // Whoever was asked for its body is to send it.
            if status == StatusCode::CONTINUE {
                request.watch.continued();
            }
            return Ok(());
        }
        enter_response(&request.watch, judged, header);
        if let (Some(server), Some(route)) = (context.server, judged.route) {
            match upstream::is_failure(header.status) {
                true => route.upstream.servers.failed(server),
                false => route.upstream.servers.succeeded(server),
            }
        }
        if let Some(began) = context.upstream_began {
            let took = began.elapsed();
            if let Some(route) = judged.route {
                route.upstream.counters.duration.observe(took);
            }
            context.upstream_duration = Some(took);
        }
        let has_end = !is_http2 || client != Version::HTTP_10 || header.headers.contains_key(CONTENT_LENGTH);
        if reframed == Reframed::UntilClose || !has_end || self.is_draining() {
            session.set_keepalive(None);
        }
        // From here on an upload that goes on after the answer closes the connection.
        session.set_close_on_response_before_downstream_finish(true);
        Ok(())
    }

    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        trailers: &mut HeaderMap,
        context: &mut Context,
    ) -> Result<Option<Bytes>> {
        hop_by_hop::clean_trailers(trailers);
        if judged(context).is_some_and(|(_, judged)| judged.action != Action::Report) {
            respond::strip_cors_trailers(trailers);
        }
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        context: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let failure = failure(context, |watch| Failure::to_connect(&error, watch));
        let is_free = failure.is_some_and(|failure| failure.is_free());
        failure.into_iter().for_each(|failure| note(context, &failure));
        // Nothing was sent, so any request may be tried again.
        error.set_retry(has_attempts(context) && (is_free || has_budget(context)));
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut Context,
        is_reused: bool,
    ) -> Box<Error> {
        let failure = failure(context, |watch| Failure::of(&error, watch, is_reused));
        let is_free = failure.is_some_and(|failure| failure.is_free());
        let unbegun = failure.is_some_and(|failure| failure.is_unprocessed());
        let lasts = failure.is_some_and(|failure| failure.is_lasting());
        failure.into_iter().for_each(|failure| note(context, &failure));
        let unanswered = session.response_written().is_none_or(|written| written.status.is_informational());
        let harmless = unbegun || session.req_header().method.is_idempotent();
        let repeatable = harmless && !session.as_ref().retry_buffer_truncated();
        let failed_there = *error.esource() == pingora::ErrorSource::Upstream && !lasts;
        let may_retry = unanswered && repeatable && failed_there && has_attempts(context);
        // A kept connection that has ended meanwhile says nothing about the server.
        error.set_retry(may_retry && (is_free || has_budget(context)));
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut Context) -> FailToProxy {
        let status = match &context.request {
            Some(request) => upstream::status(error, &request.watch),
            None => Some(StatusCode::INTERNAL_SERVER_ERROR),
        };
        let answered = session.response_written().is_some_and(|written| !written.status.is_informational());
        let (Some(status), false, Some((request, judged))) = (status, answered, judged(context)) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        let head = head_view(session.req_header(), request.peer, &request.watch);
        let answer = respond::error(status, judged, &head, &request.request_id);
        session.set_keepalive(None);
        if let Err(error) = write_answer(session, answer).await {
            tracing::debug!(%error, "the error answer was not taken");
        }
        FailToProxy { error_code: status.as_u16(), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut Context) {
        #[cfg(test)]
        fault::strike("logging", session.req_header().raw_path());
        context.count();
        context.place = None;
        if let Some(request) = &context.request {
            let ended = match request.watch.expired() {
                Some(expired) => early_close(expired),
                None => error.filter(|error| upstream::is_client_gone(error)).map(|_| EarlyClose::ClientGone),
            };
            if let Some(reason) = ended {
                self.metrics.connections.count_early_close(reason);
            }
            if log_request::is_wanted(request.snapshot(), request.judgement()) {
                self.log(session, context, request);
            }
        }
    }

    /// The access log has it, escaped; Pingora's own line would quote the client.
    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Context, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

/// From here on silence is judged as a pause in a body, not as a missing head.
fn enter_response(watch: &Watch, judged: &Judged<'_>, header: &ResponseHeader) {
    let upgraded = header.status == StatusCode::SWITCHING_PROTOCOLS;
    let is_stream = |value: &HeaderValue| {
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    };
    let long = upgraded || header.headers.get(CONTENT_TYPE).is_some_and(is_stream);
    if let (true, Some(route)) = (long, judged.route) {
        watch.set_idle(route.upstream.timeouts.upgraded_idle);
    }
    watch.enter(if upgraded { Phase::Upgraded } else { Phase::Streaming });
}

/// The limit of the client's that an exchange hit, for the count of connections ended early; other ends are counted as what
/// they are answered with.
fn early_close(expired: Expired) -> Option<EarlyClose> {
    match expired {
        Expired::Body => Some(EarlyClose::SlowBody),
        Expired::Idle => Some(EarlyClose::ExchangeIdle),
        Expired::Write => Some(EarlyClose::WriteStall),
        Expired::Head | Expired::Malformed => None,
    }
}

/// What a failed attempt says, if it is about the upstream.
fn failure<'e>(context: &Context, of: impl FnOnce(&Watch) -> Option<Failure<'e>>) -> Option<Failure<'e>> {
    judged(context).and_then(|(request, _)| of(&request.watch))
}

/// Counts a failed attempt. That a kept connection has ended meanwhile is no failure of its server.
fn note(context: &mut Context, failure: &Failure<'_>) {
    if let (Some(upstream), Some(server)) = (upstream_of(context), context.server) {
        upstream.counters.count_error(failure.kind);
        if failure.is_silence() && context.request.as_ref().is_some_and(|request| request.watch.is_over_http2()) {
            upstream.retire_connections();
        }
        if !failure.is_stale() {
            upstream.servers.failed(server);
        }
        if let Some(error) = failure.tls_complaint().filter(|_| upstream.complaints.passes()) {
            let (upstream, server) = (&*upstream.name, server.address);
            tracing::warn!(upstream, %server, error, "no connection over TLS to this server");
        }
    }
    context.upstream_error = Some(failure.kind);
}

/// Which HTTP a server is asked in. WebSockets need HTTP/1.1.
fn protocol_for(session: &Session, upstream: &Upstream) -> Result<Protocol> {
    match upstream.protocol {
        Protocol::Http1 => Ok(Protocol::Http1),
        may_be_http2 if !hop_by_hop::is_upgrade(session.req_header()) => Ok(may_be_http2),
        Protocol::Auto => Ok(Protocol::Http1),
        Protocol::Http2 => Err(Error::explain(ErrorType::HTTPStatus(501), "a WebSocket for an upstream of HTTP/2")),
    }
}

/// What Pingora leaves to do when a request goes out over HTTP/2.
async fn before_http2(session: &mut Session, watch: &Watch) -> Result<()> {
    watch.go_over_http2();
    if session.req_header().version == Version::HTTP_10 {
        session.downstream_modules_ctx = until_close::modules();
    }
    if watch.expects_continue() {
        // The upstream's own `100 Continue` gets lost in Pingora. RFC 9110, section 10.1.1: whoever forwards may say it as well.
        session.downstream_session.write_continue_response().await.map_err(|error| error.into_down())?;
        watch.continued();
    }
    Ok(())
}

fn has_attempts(context: &Context) -> bool {
    upstream_of(context).is_some_and(|upstream| context.attempts < upstream.attempts)
}

fn has_budget(context: &Context) -> bool {
    upstream_of(context).is_some_and(Upstream::may_retry)
}

fn upstream_of(context: &Context) -> Option<&Upstream> {
    judged(context).and_then(|(_, judged)| judged.route.map(|route| &*route.upstream))
}

/// Whether a denial is of a request that somebody makes by following a link or submitting a form, which `Forward` is for.
pub fn is_denied_navigation(judged: &Judged<'_>, headers: Fields<'_>) -> bool {
    let navigates = judged.verdict.kind == Kind::Actual && judge::is_navigation(headers);
    let enforces = judged.route.is_some_and(|route| route.mode == Mode::Enforce);
    navigates && enforces && judged.action == Action::Deny
}
