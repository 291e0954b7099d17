//! Pingora's hooks, in the order of a request's life. The direct exchange calls the same functions
//! (`attempts`, `fields`).
//!
//! ```text
//! request_filter           pin the snapshot, judge; answer preflights, denials and errors here
//! upstream_peer            the server to ask, once per attempt
//! upstream_request_filter  forwarding fields for the upstream
//! request_body_filter      the size of an upload
//! response_filter          CORS fields of the final response head; those of the upstream are
//!                          removed, from 1xx too
//! fail_to_proxy            every error answer after judging
//! logging                  count once, log once
//! ```
//!
//! The verdict is made in `request_filter` alone; everything after reads it. Caching, compression
//! and subrequests are unused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use super::admission::{self, AdmissionOutcome};
use super::attempts::{
    FailedAttempt, NEGOTIATIONS_MAX, count_body, enter_response, error_answer, failure, negotiated, note_final,
    refuse_loop, retries, retries_connecting, upstream_of,
};
use super::context::RequestContext;
use super::edge::{answer_at_edge, body_may_be_drained, write_answer};
use super::fields::{self, UpstreamResponse};
use super::{Gateway, Salvage, head_view, internal, judged, until_close};
use crate::counters::SentResponse;
#[cfg(test)]
use crate::fault;
use crate::judge::RequestAction;
use crate::metrics::ExchangePath;
use crate::respond;
use crate::upstream::{self, Failure, Upstream, Wanted};
use crossgate_config::model::Protocol;
use crossgate_message::head_flaw::HeadFlaw;
use crossgate_message::hop_by_hop::{self, ClientFraming};
use crossgate_message::received_head::ReceivedHead;
use crossgate_message::rewrite;
use crossgate_wire::exchange::chunked::ChunkedDecoder;
use crossgate_wire::exchange::state::ExchangeState;
use crossgate_wire::exchange::{RequestFraming, RequestProgress, SentBytes};
use crossgate_wire::http2;
use crossgate_wire::lane::conn::RequestConnection;

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = RequestContext;

    fn new_ctx(&self) -> RequestContext {
        RequestContext::default()
    }

    /// None: Pingora's default module allocates for every request.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, context: &mut RequestContext) -> Result<bool> {
        // A small body is read to its end after an answer made here, and the connection kept; and
        // Pingora would take a `100 Continue` for the answer before which the upload should have
        // ended.
        session.set_close_on_response_before_downstream_finish(false);
        // RFC 9110, section 15.2: not to a client of HTTP/1.0.
        let is_old = session.req_header().version == Version::HTTP_10;
        session.set_ignore_info_resp(is_old);
        // Pingora reads the first line of `Connection` alone, and no list with `keep-alive`.
        let header = session.req_header();
        let keeps_connection = hop_by_hop::keeps_connection(header.version, (&header.headers).into());
        session.set_keepalive(keeps_connection.then_some(0));
        let watch = watch_of(session).ok_or_else(|| internal("no lane"))?;
        if let Some(declined) = watch.take_declined().and_then(|found| found.downcast::<RequestContext>().ok()) {
            *context = *declined;
            forget_spelling(session.req_header_mut());
            return Ok(false);
        }
        let peer = self.peer(watch.peer(), watch.listener());
        let received = ReceivedHead::from(session.req_header());
        let head = head_view(&received, peer, &watch);
        context.began = Some(Instant::now());
        let request = context.begin(self.judge(self.snapshot.pin(), Arc::clone(&watch), &head, peer));
        #[cfg(test)]
        fault::panic_at("request-filter", session.req_header().raw_path());
        if ReceivedHead::from(session.req_header()).expects_continue() {
            request.watch.expect_continue();
        }
        let answer = answer_at_edge(request.snapshot(), request.judgement(), &head, &request.request_id);
        let Some(answer) = answer else {
            forget_spelling(session.req_header_mut());
            return Ok(false);
        };
        let limits = request.snapshot().settings.limits;
        if !body_may_be_drained(&head.known, &limits) || self.is_draining() {
            session.set_keepalive(None);
        }
        let response = SentResponse::by_gateway(answer.status);
        write_answer(session, answer).await?;
        context.response = Some(response);
        Ok(true)
    }

    async fn upstream_peer(&self, session: &mut Session, context: &mut RequestContext) -> Result<Box<HttpPeer>> {
        refuse_loop(&session.req_header().into(), context)?;
        if let AdmissionOutcome::Later(queue) = admission::enter(context) {
            // Boxed, so that requests which need not wait are no larger for it.
            Box::pin(admission::wait(session, context, queue)).await?;
        }
        let target = self.next_server(context)?;
        let (request, judged) = judged(context).ok_or_else(|| internal("not judged"))?;
        let upstream = judged.upstream().ok_or_else(|| internal("no upstream"))?;
        let server = target.server;
        let transport = match protocol_for(session, upstream)? {
            Protocol::Http2 => Transport::Pingora,
            Protocol::Auto if upstream.servers.is_http2(server) => Transport::Pingora,
            protocol @ (Protocol::Http1 | Protocol::Auto) => {
                Transport::Own(Wanted { is_new: context.needs_new_connection, is_http1: protocol == Protocol::Http1 })
            }
        };
        request.watch.begin_attempt(upstream.timeouts.head, upstream.timeouts.idle);
        let path = match &transport {
            Transport::Pingora => ExchangePath::Http2Upstream,
            Transport::Own(_) if hop_by_hop::is_upgrade(session.req_header()) => ExchangePath::Upgrade,
            Transport::Own(_) => ExchangePath::Other,
        };
        let mut salvage = None;
        let peer = match transport {
            Transport::Pingora => {
                if !session.as_mut().is_body_empty() && context.salvage.is_none() {
                    salvage =
                        Some(Box::new(Salvage { head: session.req_header().clone(), log: Arc::clone(&self.log) }));
                }
                upstream::http2_peer(upstream, server.address, upstream.servers.is_pinned(server))
            }
            Transport::Own(wanted) => {
                let progress = Arc::new(RequestProgress::default());
                request.watch.set_progress(Arc::clone(&progress));
                upstream::http1_peer(upstream, server.address, wanted, progress)
            }
        };
        context.salvage = context.salvage.take().or(salvage);
        context.begin_attempt(target, Instant::now());
        context.count_path(path);
        Ok(peer)
    }

    /// Before the request is sent: what the connection has sent so far is noted, and a certificate
    /// that nothing has verified yet has to be one of those that are trusted.
    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        is_kept: bool,
        peer: &HttpPeer,
        descriptor: std::os::fd::RawFd,
        digest: Option<&Digest>,
        context: &mut RequestContext,
    ) -> Result<()> {
        let Some((upstream, server)) = upstream_of(context).zip(context.server) else { return Ok(()) };
        if let (true, Some((request, _)), Some(digest)) = (progress_of(context).is_none(), judged(context), digest) {
            let may_repeat = session.req_header().method.is_idempotent();
            request.watch.set_sent_before(SentBytes::now(digest, descriptor, is_kept, may_repeat));
        }
        let Some(tls) = upstream.tls.as_ref().filter(|_| !peer.options.verify_cert) else { return Ok(()) };
        let shown = digest.and_then(|digest| digest.ssl_digest.as_ref());
        if shown.is_some_and(|shown| tls.is_pinned(&shown.cert_digest, server.address.ip())) {
            return Ok(());
        }
        upstream.servers.set_pinned(server, false);
        let what = "tls connect error cause: invalid peer certificate: CaUsedAsEndEntity";
        Err(Error::explain(ErrorType::InvalidCert, what).into_up())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        sent: &mut RequestHeader,
        context: &mut RequestContext,
    ) -> Result<()> {
        #[cfg(test)]
        fault::panic_at("upstream-request-filter", session.req_header().raw_path());
        let (request, judged) = judged(context).ok_or_else(|| internal("not judged"))?;
        let is_http2 = sent.version == Version::HTTP_2;
        if request.watch.progress().is_none() && !is_http2 {
            return Err(Error::explain(upstream::NO_HTTP2, "the server does not offer HTTP/2").into_up());
        }
        let received = ReceivedHead::from(session.req_header());
        let upgrades = hop_by_hop::is_upgrade(session.req_header());
        rewrite::edit_request(sent, |fields| {
            fields::upstream_request(&received, request, judged).edit(fields);
            match is_http2 {
                true => hop_by_hop::strip_http2_request(session.req_header(), fields),
                false if upgrades => hop_by_hop::write_upgrade(fields),
                false => {}
            }
        });
        // Last: rewriting keeps targets in origin form alone.
        if let Some(target) = &judged.rewritten {
            sent.set_raw_path(target.as_bytes())?;
        }
        if let Some(progress) = request.watch.progress() {
            let framing = request_framing(sent, session.is_body_empty());
            progress.begin(framing, sent.headers.contains_key(EXPECT));
        }
        if is_http2 { before_http2(session, &request.watch).await } else { Ok(()) }
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut RequestContext,
    ) -> Result<()> {
        // Pingora writes an empty piece as a chunk of size zero, and then the terminator again: the
        // server would read the second one as the beginning of the next request
        // (cloudflare/pingora#935).
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        if end && let Some(progress) = progress_of(context) {
            progress.end_body();
        }
        count_body(context, body.as_ref().map_or(0, Bytes::len))
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        header: &mut ResponseHeader,
        context: &mut RequestContext,
    ) -> Result<()> {
        let (request, judged) = judged(context).ok_or_else(|| internal("not judged"))?;
        #[cfg(test)]
        fault::panic_at("response-filter", session.req_header().raw_path());
        let received = ReceivedHead::from(session.req_header());
        let head = head_view(&received, request.peer, &request.watch);
        let is_upgrade = header.status == StatusCode::SWITCHING_PROTOCOLS;
        if is_upgrade && !hop_by_hop::upgrades_to_websocket(session.req_header(), &header.headers) {
            // RFC 9110, section 7.8: the client did not request an upgrade. Forwarded, the 101
            // would turn the request into a tunnel.
            return Err(invalid_head(context, HeadFlaw::UnrequestedUpgrade));
        }
        let is_http2 = header.version == Version::HTTP_2;
        if is_http2 && let Err(flaw) = hop_by_hop::check_http2_response(&header.headers) {
            return Err(invalid_head(context, flaw));
        }
        let (status, client) = (header.status, session.req_header().version);
        if let Some(progress) = request.watch.progress() {
            note_response(&progress, &request.watch, header);
        }
        let is_final = !status.is_informational() || is_upgrade;
        let server = context.server.map(|server| server.address);
        let response = UpstreamResponse { status, head: &head, request, judged, server };
        let reframed = rewrite::edit_response(header, |fields| response.edit(fields, client));
        let reframed = match reframed {
            Ok(reframed) => reframed,
            Err(flaw) => return Err(invalid_head(context, flaw)),
        };
        header.set_version(Version::HTTP_11);
        if !is_final {
            // A client that receives `100 Continue` sends its body.
            if status == StatusCode::CONTINUE {
                request.watch.stop_expecting_continue();
            }
            return Ok(());
        }
        let lasts = enter_response(&request.watch, judged, status, content_type(header));
        note_final(context, status, lasts);
        let has_end = !is_http2 || client != Version::HTTP_10 || header.headers.contains_key(CONTENT_LENGTH);
        if reframed == ClientFraming::UntilClose || !has_end || self.is_draining() {
            session.set_keepalive(None);
        }
        // From here on an upload that goes on after the answer closes the connection.
        session.set_close_on_response_before_downstream_finish(true);
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        is_end: bool,
        context: &mut RequestContext,
    ) -> Result<Option<Duration>> {
        if is_end && let Some(progress) = progress_of(context) {
            progress.end_response();
        }
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        trailers: &mut HeaderMap,
        context: &mut RequestContext,
    ) -> Result<Option<Bytes>> {
        hop_by_hop::strip_trailers(trailers);
        if judged(context).is_some_and(|(_, judged)| judged.action != RequestAction::Report) {
            respond::strip_cors_trailers(trailers);
        }
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        context: &mut RequestContext,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if *error.etype() == upstream::CHOSE_HTTP2 {
            return negotiated(context, true, error);
        }
        // Connections of our own have accepted it, had it been one of those that are trusted.
        let is_uncompared = progress_of(context).is_none() && !is_pinned(context);
        let failure = failure(context, |watch| Failure::to_connect(&error, watch));
        if is_uncompared && failure.is_some_and(|failure| failure.has_authority_certificate()) {
            return compare_certificate(context, error);
        }
        let is_retried = retries_connecting(context, &error);
        error.set_retry(is_retried);
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut RequestContext,
        is_reused: bool,
    ) -> Box<Error> {
        let is_auto = upstream_of(context).is_some_and(|upstream| upstream.protocol == Protocol::Auto);
        if *error.etype() == upstream::NO_HTTP2 && is_auto {
            return negotiated(context, false, error);
        }
        let is_reused = is_reused || progress_of(context).is_some_and(|progress| progress.is_reused());
        let unanswered = session.response_written().is_none_or(|written| written.status.is_informational());
        let is_kept = !session.as_ref().retry_buffer_truncated();
        let attempt = FailedAttempt {
            is_reused,
            is_repeatable: unanswered && is_kept,
            is_idempotent: session.req_header().method.is_idempotent(),
        };
        let is_retried = retries(context, &error, attempt);
        error.set_retry(is_retried);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut RequestContext) -> FailToProxy {
        let answered = session.response_written().is_some_and(|written| !written.status.is_informational());
        let answer = error_answer(context, &session.req_header().into(), error).filter(|_| !answered);
        let Some(answer) = answer else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        let status = answer.status;
        session.set_keepalive(None);
        match write_answer(session, answer).await {
            Ok(()) => context.response = Some(SentResponse::by_gateway(status)),
            Err(error) => tracing::debug!(%error, "the error answer was not taken"),
        }
        FailToProxy { error_code: status.as_u16(), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut RequestContext) {
        #[cfg(test)]
        fault::panic_at("logging", session.req_header().raw_path());
        self.conclude(context, &session.req_header().into(), sent_status(session), error);
    }

    /// The access log has it, escaped; Pingora's own line would quote the client.
    fn suppress_error_log(&self, _: &Session, _: &RequestContext, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &RequestContext, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

/// The state that the client's side shares with the hooks: over HTTP/1 in its connection, over
/// HTTP/2 with the request. Every request comes through the lane, so it is always there.
fn watch_of(session: &Session) -> Option<Arc<ExchangeState>> {
    let watch = match session.stream() {
        Some(stream) => stream.as_any().downcast_ref::<RequestConnection>()?.watch(),
        None => http2::watch(session.req_header())?,
    };
    Some(Arc::clone(watch))
}

/// Lets go of how the client spelled its fields, before Pingora copies it for the upstream: see
/// [`rewrite`].
fn forget_spelling(header: &mut RequestHeader) {
    // In any other form the target is part of what would be dropped, and the log needs it.
    if matches!(header.raw_path().first(), Some(b'/' | b'*')) {
        rewrite::edit_request(header, |_| ());
    }
}

/// The status of the answer, if its head was sent.
fn sent_status(session: &Session) -> Option<StatusCode> {
    let is_final = |status: &StatusCode| !status.is_informational() || *status == StatusCode::SWITCHING_PROTOCOLS;
    session.response_written().map(|written| written.status).filter(is_final)
}

fn content_type(header: &ResponseHeader) -> Option<&[u8]> {
    header.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes)
}

/// The error for a response head that is refused here.
fn invalid_head(context: &mut RequestContext, flaw: HeadFlaw) -> Box<Error> {
    context.upstream_flaw = Some(flaw);
    Error::explain(ErrorType::InvalidHTTPHeader, "a response head that is refused").into_up()
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

/// Who connects to the server.
enum Transport {
    /// [`upstream::Connector`], over HTTP/1.1.
    Own(Wanted),
    /// Pingora's connector, over HTTP/2.
    Pingora,
}

/// How a body is delimited on its way to a server of HTTP/1.1. Pingora sends one without a length
/// in chunks.
fn request_framing(sent: &RequestHeader, is_empty: bool) -> RequestFraming {
    let length = sent.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    match length {
        Some(length) => RequestFraming::Length(length),
        None if sent.headers.contains_key(TRANSFER_ENCODING) || !is_empty => {
            RequestFraming::Chunked(ChunkedDecoder::new())
        }
        None => RequestFraming::Length(0),
    }
}

/// What the head of a response means for the connection that it came on.
fn note_response(progress: &RequestProgress, watch: &ExchangeState, header: &ResponseHeader) {
    match header.status {
        StatusCode::SWITCHING_PROTOCOLS => return progress.open_tunnel(),
        StatusCode::CONTINUE => return progress.note_continue(),
        status if status.is_informational() => return,
        _ => {}
    }
    if !progress.is_whole() {
        progress.retire();
        // Below 300 the server may answer while it reads, and goes on reading. From 300 on it has
        // seen enough, and one that has not asked for the body may never read it.
        if header.status >= StatusCode::MULTIPLE_CHOICES || watch.expects_continue() {
            progress.seal();
        }
        if header.status == StatusCode::NO_CONTENT
            || header.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0")
        {
            progress.end_response();
        }
    }
    if let Some(seconds) = hop_by_hop::keep_alive_seconds((&header.headers).into()) {
        progress.set_keep_alive(seconds);
    }
}

fn is_pinned(context: &RequestContext) -> bool {
    let server = upstream_of(context).zip(context.server);
    server.is_some_and(|(upstream, server)| upstream.servers.is_pinned(server))
}

/// The server has shown an authority's certificate: the next attempt leaves it unverified, and
/// compares it with those that are trusted before the request is sent. Such an attempt does not
/// count as failed.
fn compare_certificate(context: &mut RequestContext, mut error: Box<Error>) -> Box<Error> {
    context.negotiations += 1;
    if let (Some(upstream), Some(server)) = (upstream_of(context), context.server) {
        upstream.servers.set_pinned(server, true);
    }
    context.attempts = context.attempts.saturating_sub(1);
    context.server = None;
    error.set_retry(context.negotiations <= NEGOTIATIONS_MAX);
    error
}

fn progress_of(context: &RequestContext) -> Option<Arc<RequestProgress>> {
    context.request.as_ref().and_then(|request| request.watch.progress())
}

/// What Pingora leaves to do when a request goes out over HTTP/2.
async fn before_http2(session: &mut Session, watch: &ExchangeState) -> Result<()> {
    watch.set_http2();
    if !session.as_mut().is_body_empty()
        && let Some(probe) =
            session.stream().and_then(|io| io.as_any().downcast_ref::<RequestConnection>()?.client_probe())
    {
        watch.set_probe(probe);
    }
    if session.req_header().version == Version::HTTP_10 {
        session.downstream_modules_ctx = until_close::modules();
    }
    if watch.expects_continue() {
        // The upstream's own `100 Continue` gets lost in Pingora. RFC 9110, section 10.1.1: a proxy
        // may send it as well.
        session.downstream_session.write_continue_response().await.map_err(|error| error.into_down())?;
        watch.stop_expecting_continue();
    }
    Ok(())
}
