//! The direct exchange: one request to a server of HTTP/1.1, and its response back to the client.
//!
//! ```text
//! connect -> send the head -> 1xx*, final head -> body -> keep or close the server's connection
//!    ^                              |
//!    +------- another attempt <-----+  only before a final head was passed on
//! ```
//!
//! The client ([`ExchangeClient`]) bounds every wait and is watched in all of them. The gateway
//! ([`UpstreamSide`]) picks servers, edits heads and decides what follows a failure; this module
//! knows no tenant. A piece of the body is read when the client has taken the piece before, into a
//! buffer of the worker, so that an exchange that waits for its server holds no buffer. Request and
//! response are polled together: one that waits for the other could wait for ever, once both
//! kernels' buffers are full.
//! Absent on purpose: upgrades, which the proxy serves.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::StatusCode;
use pingora::{Error, ErrorSource, ErrorType, Result};
use tokio::time::Instant;

use super::buffers::{give_buffer, take_buffer, with_piece};
use super::response::{PartialHead, ResponseBody, flush_reply, poll_read};
use super::state::ExchangeState;
use super::upload::{RequestBody, Upload};
use super::{EdgeAnswer, RequestProgress};
use crossgate_message::head_flaw::{HEAD_LEN_MAX, HeadFlaw};
use crossgate_message::received_head::ReceivedHead;
use crossgate_message::response_head::{self, BodyDelimiter, ResponseHead};

pub use super::sides::{
    AfterFailure, AttemptFailure, AttemptStage, ConnectionReuse, ExchangeClient, ExchangeStart, ServedBy, ServerStream,
    UpstreamSide,
};
pub use super::upload::{BodyStep, UploadFraming};

/// The most interim responses (1xx) to one request; together, they are no longer than one head.
const INTERIMS_MAX: u32 = 8;

/// What an exchange is about.
pub struct ExchangeRequest<'r> {
    pub head: &'r ReceivedHead<'r>,
    pub framing: UploadFraming,
    /// What the client's side and the gateway know of it.
    pub state: &'r ExchangeState,
}

/// Runs an exchange to its end.
pub async fn run<C: ExchangeClient, U: UpstreamSide>(
    client: &mut C,
    request: &ExchangeRequest<'_>,
    upstream: &mut U,
    answer: Option<EdgeAnswer>,
) -> ServedBy {
    let ended = match answer {
        Some(answer) => send_answer(client, answer).await.err(),
        None => match ask(client, request, upstream).await {
            Asked::Ended(error) => error,
            Asked::Declined => return ServedBy::Proxy,
        },
    };
    upstream.conclude(request.head, client.sent_status(), ended.as_deref());
    ServedBy::Exchange
}

enum Asked {
    Ended(Option<Box<Error>>),
    Declined,
}

async fn ask<C: ExchangeClient, U: UpstreamSide>(
    client: &mut C,
    request: &ExchangeRequest<'_>,
    upstream: &mut U,
) -> Asked {
    let mut body = RequestBody::new(request.framing, request.head.method.is_idempotent());
    let mut head = take_buffer();
    let asked = loop {
        let Err(failure) = attempt(client, request, upstream, &mut head, &mut body).await else {
            break Asked::Ended(None);
        };
        match upstream.failed(request.head, failure) {
            AfterFailure::Retry => {}
            AfterFailure::Answer(answer, error) => {
                client.close_after();
                if let Err(error) = send_answer(client, answer).await {
                    tracing::debug!(%error, "the error answer was not taken");
                }
                break Asked::Ended(Some(error));
            }
            AfterFailure::End(error) => {
                if *error.esource() == ErrorSource::Upstream {
                    // The client gets what came before its response broke off.
                    let _sent_or_gone = poll_fn(|cx| client.poll_sent(cx)).await;
                }
                break Asked::Ended(Some(error));
            }
            AfterFailure::Decline => break Asked::Declined,
        }
    };
    give_buffer(head);
    asked
}

async fn send_answer<C: ExchangeClient>(client: &mut C, answer: EdgeAnswer) -> Result<()> {
    client.answer(answer)?;
    poll_fn(|cx| client.poll_sent(cx)).await
}

async fn attempt<C: ExchangeClient, U: UpstreamSide>(
    client: &mut C,
    request: &ExchangeRequest<'_>,
    upstream: &mut U,
    head: &mut Vec<u8>,
    body: &mut RequestBody,
) -> Result<(), AttemptFailure> {
    let server = {
        let mut connecting = pin!(upstream.connect(request.head, head, body.is_untouched()));
        poll_fn(|cx| match connecting.as_mut().poll(cx) {
            Poll::Ready(connected) => Poll::Ready(connected),
            Poll::Pending => client.poll_gone(cx).map(Err),
        })
        .await
        .map_err(|error| AttemptFailure { error, flaw: None, stage: AttemptStage::Connecting })?
    };
    let is_reused = server.is_reused();
    let progress = (request.framing != UploadFraming::NoBody).then(|| Arc::new(RequestProgress::default()));
    if let Some(progress) = &progress {
        request.state.set_progress(Arc::clone(progress));
    }
    let upload = Upload::new(head, body, progress);
    let mut exchange = RunningAttempt {
        client,
        request,
        upstream,
        upload,
        partial: PartialHead::default(),
        heads_len: 0,
        interims: 0,
        server,
        // The head has it in every attempt.
        awaits_continue: request.framing != UploadFraming::NoBody && request.head.expects_continue(),
        has_answered: false,
    };
    match exchange.run().await {
        Ok(Some(reuse)) => {
            let RunningAttempt { server, upstream, .. } = exchange;
            upstream.keep(server, reuse);
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(Failed { error, flaw }) => {
            let has_answered = exchange.has_answered;
            let is_repeatable = body.is_repeatable();
            let stage = match has_answered {
                true => AttemptStage::Responding { is_reused },
                false => AttemptStage::Waiting { is_reused, is_repeatable },
            };
            Err(AttemptFailure { error, flaw, stage })
        }
    }
}

struct Failed {
    error: Box<Error>,
    flaw: Option<HeadFlaw>,
}

impl From<Box<Error>> for Failed {
    fn from(error: Box<Error>) -> Self {
        Failed { error, flaw: None }
    }
}

impl From<HeadFlaw> for Failed {
    fn from(flaw: HeadFlaw) -> Self {
        let error = Error::explain(ErrorType::InvalidHTTPHeader, "a response head that is refused").into_up();
        Failed { error, flaw: Some(flaw) }
    }
}

/// One attempt, with a connection.
struct RunningAttempt<'e, 'r, C, U: UpstreamSide> {
    client: &'e mut C,
    request: &'e ExchangeRequest<'r>,
    upstream: &'e mut U,
    upload: Upload<'e>,
    partial: PartialHead,
    /// The length of the heads so far, and how many were interim.
    heads_len: usize,
    interims: u32,
    server: U::Server,
    /// The server was sent an expectation that it has not answered.
    awaits_continue: bool,
    /// A final head was passed on.
    has_answered: bool,
}

impl<C: ExchangeClient, U: UpstreamSide> RunningAttempt<'_, '_, C, U> {
    /// Returns what is known of the server's connection if it may carry another request.
    async fn run(&mut self) -> Result<Option<ConnectionReuse>, Failed> {
        let kept_len = self.upload.kept_len();
        if kept_len > 0 {
            self.upstream.count_body(kept_len)?;
        }
        let PassedHead { mut body, reuse } = loop {
            if let Some(passed) = poll_fn(|cx| self.poll_head(cx)).await? {
                break passed;
            }
        };
        while !body.is_done() {
            poll_fn(|cx| self.poll_both(cx, &mut body)).await?;
        }
        self.client.end();
        poll_fn(|cx| {
            self.poll_upload(cx)?;
            self.client.poll_sent(cx)
        })
        .await?;
        self.finish_upload().await;
        Ok(reuse.filter(|_| !body.has_surplus()))
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let RunningAttempt { upload, server, client, upstream, .. } = self;
        upload.poll(cx, server, *client, |len| upstream.count_body(len))
    }

    /// Receives more of the response's heads, and sends more of the request. In this order: what
    /// is sent in the meantime must not count as sent before the response. Returns the body once
    /// the final head was passed on.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<PassedHead>, Failed>> {
        let received = with_piece(C::PIECE_LEN_MAX, |piece| {
            let len = ready!(poll_read(&mut self.server, cx, piece))?;
            Poll::Ready(Ok((len, self.take(cx, piece.get(..len).unwrap_or_default()))))
        });
        match received {
            Poll::Ready(Ok((0, _))) => Poll::Ready(Err(closed(self.partial.len()).into())),
            Poll::Ready(Ok((_, taken))) => {
                flush_reply(&mut self.server, cx);
                Poll::Ready(taken)
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(unread(error, self.partial.len()).into())),
            Poll::Pending => {
                flush_reply(&mut self.server, cx);
                self.poll_upload(cx)?;
                if let Poll::Ready(sent) = self.client.poll_sent(cx) {
                    sent?;
                }
                // What the client sends is waited for, and bounded, with its body.
                if self.upload.is_reading() {
                    Poll::Pending
                } else {
                    self.client.poll_watch(cx).map(|error| Err(error.into()))
                }
            }
        }
    }

    /// Takes the next bytes of the server, up to the end of the final head and what has come of the
    /// body behind it.
    fn take(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<Option<PassedHead>, Failed> {
        if self.partial.is_empty() {
            return self.take_heads(cx, bytes);
        }
        match self.partial.push(bytes) {
            Some(bytes) => self.take_heads(cx, &bytes),
            None => Ok(None),
        }
    }

    fn take_heads(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> Result<Option<PassedHead>, Failed> {
        while !bytes.is_empty() {
            let taken = response_head::parse(bytes, |head, len| {
                let rest = bytes.get(len..).unwrap_or_default();
                self.heads_len += len;
                let passed = match head.status.is_informational() {
                    true => self.pass_interim(head).map(|()| None),
                    false => self.pass_final(cx, head, rest).map(Some),
                };
                (passed, rest)
            });
            match taken? {
                Some((passed, rest)) => match passed? {
                    Some(passed) => return Ok(Some(passed)),
                    None => bytes = rest,
                },
                None => {
                    self.partial.keep(bytes);
                    break;
                }
            }
        }
        Ok(None)
    }

    fn pass_interim(&mut self, head: &ResponseHead<'_>) -> Result<(), Failed> {
        self.interims += 1;
        match head.status {
            StatusCode::SWITCHING_PROTOCOLS => return Err(HeadFlaw::UnrequestedUpgrade.into()),
            _ if self.interims > INTERIMS_MAX || self.heads_len > HEAD_LEN_MAX => {
                return Err(HeadFlaw::Interims.into());
            }
            StatusCode::CONTINUE => {
                let is_expected = self.request.state.expects_continue();
                self.request.state.stop_expecting_continue();
                self.awaits_continue = false;
                if !is_expected {
                    return Ok(());
                }
            }
            _ => {}
        }
        // A flaw in its framing is one, although it has no body.
        let _no_body = head.framing(self.request.head.method)?;
        let RunningAttempt { client, upstream, request, .. } = self;
        Ok(client.interim(head.status, |sink| upstream.respond(request.head, head, sink))?)
    }

    fn pass_final(&mut self, cx: &mut Context<'_>, head: &ResponseHead<'_>, rest: &[u8]) -> Result<PassedHead, Failed> {
        if self.upload.is_repeatable() && self.upstream.is_stale(self.request.head, &self.server, head) {
            return Err(closed(0).into());
        }
        self.upload.forget_kept();
        let framing = head.framing(self.request.head.method)?;
        let is_whole = self.upload.is_whole();
        let may_keep = head.keeps_connection() && is_whole && !self.awaits_continue;
        if !self.upload.has_client_ended() || self.upstream.is_draining() {
            self.client.close_after();
        }
        // Below 300 the server may answer while it reads, and goes on reading. From 300 on it has
        // seen enough, and one that has not asked for the body may never read it.
        if !is_whole && (head.status >= StatusCode::MULTIPLE_CHOICES || self.awaits_continue) {
            self.upload.stop();
            self.client.abandon_body();
        }
        self.has_answered = true;
        let delimiter = framing.delimiter;
        let RunningAttempt { client, upstream, request, .. } = self;
        client.head(head.status, delimiter, |sink| {
            upstream.respond(request.head, head, sink);
            framing.write_length(sink);
        })?;
        let mut body = ResponseBody::new(delimiter);
        body.take(cx, rest, *client)?;
        let reuse = (may_keep && delimiter != BodyDelimiter::Close)
            .then(|| ConnectionReuse { keep_alive_s: head.keep_alive_seconds() });
        Ok(PassedHead { body, reuse })
    }

    /// Sends more of the request, and passes on a piece of the response.
    fn poll_both(&mut self, cx: &mut Context<'_>, body: &mut ResponseBody) -> Poll<Result<()>> {
        self.poll_upload(cx)?;
        ready!(self.client.poll_sent(cx))?;
        body.poll_piece(cx, &mut self.server, self.client)
    }

    /// After a complete response: a server that answers while it reads gets the rest of the
    /// request. Whatever ends it, the client has its response.
    async fn finish_upload(&mut self) {
        if !self.upload.is_active() {
            return;
        }
        let (began, read_before) = (Instant::now(), self.upload.read_len());
        let limits = self.request.state.limits();
        let finished = poll_fn(|cx| {
            self.poll_upload(cx)?;
            if !self.upload.is_active() {
                return Poll::Ready(Ok(()));
            }
            let is_slow = limits.is_too_slow(self.upload.read_len() - read_before, began.elapsed());
            match self.upload.is_reading() {
                true if is_slow => Poll::Ready(Err(overdue(io::ErrorKind::TimedOut.into()))),
                true => Poll::Pending,
                false => self.client.poll_watch(cx).map(Err),
            }
        });
        if let Err(error) = finished.await {
            tracing::debug!(%error, "the request was not sent to its end");
        }
    }
}

/// A final head that was passed on.
struct PassedHead {
    body: ResponseBody,
    /// What is known of the server's connection, if the head lets it carry another request.
    reuse: Option<ConnectionReuse>,
}

/// The server closed the connection before the head, or within it.
fn closed(received: usize) -> Box<Error> {
    let what = format!("while reading response headers, bytes already read: {received}");
    Error::explain(ErrorType::ConnectionClosed, what).into_up()
}

fn unread(error: io::Error, received: usize) -> Box<Error> {
    let what = format!("while reading response headers, bytes already read: {received}");
    Error::because(ErrorType::ReadError, what, error).into_up()
}

/// The error of a client's wait, which is recorded in the state of the exchange.
pub(crate) fn overdue(error: io::Error) -> Box<Error> {
    Error::because(ErrorType::ReadError, "while waiting", error).into_down()
}

/// The error of a client that has closed its connection.
pub(crate) fn client_gone() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, "the client closed the connection").into_down()
}

pub(crate) fn unwritten(error: io::Error) -> Box<Error> {
    Error::because(ErrorType::WriteError, "while writing", error).into_down()
}
