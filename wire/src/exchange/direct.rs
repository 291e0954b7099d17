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

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use pingora::http::RequestHeader;
use pingora::{Error, ErrorSource, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::chunked::{ChunkedDecoder, MalformedChunk};
use super::state::ExchangeState;
use super::upload::{RequestBody, Upload};
use super::{EdgeAnswer, RequestProgress};
use crossgate_message::head_flaw::{HEAD_LEN_MAX, HeadFlaw};
use crossgate_message::hop_by_hop;
use crossgate_message::response_head::{self, BodyDelimiter, ResponseHead};

/// The length of a piece of a response.
const PIECE_LEN: usize = 16 * 1024;
/// The most interim responses (1xx) to one request; together, they are no longer than one head.
const INTERIMS_MAX: u32 = 8;

thread_local! {
    static PIECE: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE_LEN].into());
}

/// Calls `with` with a buffer of the worker, for one read whose bytes are used at once.
pub(crate) fn with_piece<R>(with: impl FnOnce(&mut [u8]) -> R) -> R {
    PIECE.with_borrow_mut(|piece| with(piece))
}

pub use super::upload::{BodyStep, UploadFraming};

/// The client of an exchange. Its errors have the source `Downstream`.
pub trait ExchangeClient: Send {
    /// Gives the data of the request's body that has come to `take`.
    fn poll_body(&mut self, cx: &mut Context<'_>, take: &mut dyn FnMut(&[u8])) -> Poll<Result<BodyStep>>;

    /// Ready when waiting for the server has no more use: the client has gone, or the server is
    /// overdue.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>>;

    /// Ready when the client has gone. The caller bounds the wait.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>>;

    /// Takes an interim response (1xx), unless the client does not know such.
    ///
    /// # Errors
    /// Returns an error if the client has gone.
    fn interim(&mut self, status: StatusCode, fields: HeaderMap) -> Result<()>;

    /// Takes the head of the final response.
    ///
    /// # Errors
    /// Returns an error if the client has gone.
    fn head(&mut self, status: StatusCode, fields: HeaderMap, delimiter: BodyDelimiter) -> Result<()>;

    /// Closes the connection after the response, where it serves one request at a time.
    fn close_after(&mut self);

    /// No more of the request's body is used. It may be dropped, so that the client's end is seen.
    fn abandon_body(&mut self);

    /// Takes a piece of the body. What is not sent at once is held until [`poll_sent`].
    ///
    /// [`poll_sent`]: Self::poll_sent
    fn piece(&mut self, cx: &mut Context<'_>, piece: &[u8]);

    /// Takes the end of the response.
    fn end(&mut self);

    /// Ready when all that was taken is sent, or the client has taken nothing for too long.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;

    /// Takes a whole response that the gateway made.
    ///
    /// # Errors
    /// Returns an error if the client has gone.
    fn answer(&mut self, answer: EdgeAnswer) -> Result<()>;

    /// The status of the final response, once its head was sent.
    fn sent_status(&self) -> Option<StatusCode>;
}

/// A connection to a server.
pub trait ServerStream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Whether it has served an earlier request.
    fn is_reused(&self) -> bool;

    /// Whether it may hold written bytes back until it is flushed.
    fn is_buffered(&self) -> bool;
}

/// The upstream of an exchange, as the gateway sees it.
pub trait UpstreamSide: Send {
    type Server: ServerStream;

    /// Picks a server and returns a connection to it. Only a request of which nothing was read
    /// `may_decline`.
    fn connect(
        &mut self,
        request: &RequestHeader,
        may_decline: bool,
    ) -> impl Future<Output = Result<Self::Server>> + Send;

    /// The head for the server, the same for every attempt.
    fn request_bytes(&self) -> Bytes;

    /// Counts data of the request's body.
    ///
    /// # Errors
    /// Returns an error if the body is larger than allowed.
    fn count_body(&mut self, len: usize) -> Result<()>;

    /// Whether a final response only says that the kept connection had timed out, so that the
    /// request is tried again.
    fn is_stale(&self, request: &RequestHeader, server: &Self::Server, head: &ResponseHead) -> bool;

    /// Edits the head of a response for the client.
    ///
    /// # Errors
    /// Returns the flaw of a head that is refused.
    fn respond(&mut self, request: &RequestHeader, head: &mut ResponseHead) -> Result<(), HeadFlaw>;

    /// Records a failed attempt, and decides what follows.
    fn failed(&mut self, request: &RequestHeader, failure: AttemptFailure) -> AfterFailure;

    /// Whether connections of clients end with their present response.
    fn is_draining(&self) -> bool;

    /// Keeps a connection whose response is complete.
    fn keep(&mut self, server: Self::Server, reuse: ConnectionReuse);

    /// Records the end of the exchange: the status that was sent, and the error that ended it.
    fn conclude(self, request: &RequestHeader, status: Option<StatusCode>, error: Option<&Error>);
}

/// What is known of a connection that is kept.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionReuse {
    /// How long the server keeps it, if it said so.
    pub keep_alive_s: Option<u64>,
    /// Its last response had no body. A server that sends one nevertheless may send it late.
    pub may_have_surplus: bool,
}

/// How an exchange begins, as the gateway has judged it.
pub enum ExchangeStart<U> {
    /// With a response that the gateway made. With `closes` an unread body is not worth reading, so
    /// that the connection closes after the response.
    Answered { answer: EdgeAnswer, closes: bool, upstream: U },
    /// With a server.
    Direct(U),
    /// Not here: the proxy serves the request.
    Declined,
}

/// A failed attempt.
pub struct AttemptFailure {
    pub error: Box<Error>,
    /// The flaw of the response head, where that is why.
    pub flaw: Option<HeadFlaw>,
    pub stage: AttemptStage,
}

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptStage {
    /// There was no connection.
    Connecting,
    /// There was a connection, and no final head was passed on. With `is_repeatable` the gateway
    /// still has the whole request.
    Waiting { is_reused: bool, is_repeatable: bool },
    /// A final head was passed on.
    Responding { is_reused: bool },
}

/// What follows a failed attempt.
pub enum AfterFailure {
    /// Another attempt.
    Retry,
    /// This response; then the connection closes.
    Answer(EdgeAnswer, Box<Error>),
    /// Nothing: the client has gone, or sees a response that broke off.
    End(Box<Error>),
    /// The proxy serves the request.
    Decline,
}

/// Who has served a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServedBy {
    /// This module.
    Exchange,
    /// No one yet: the proxy serves it.
    Proxy,
}

/// What an exchange is about.
pub struct ExchangeRequest<'r> {
    pub head: &'r RequestHeader,
    pub framing: UploadFraming,
    /// What the client's side and the gateway know of it.
    pub state: &'r ExchangeState,
}

/// Runs an exchange to its end.
pub async fn run<C: ExchangeClient, U: UpstreamSide>(
    client: &mut C,
    request: &ExchangeRequest<'_>,
    mut upstream: U,
    answer: Option<EdgeAnswer>,
) -> ServedBy {
    let ended = match answer {
        Some(answer) => send_answer(client, answer).await.err(),
        None => match ask(client, request, &mut upstream).await {
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
    loop {
        let Err(failure) = attempt(client, request, upstream, &mut body).await else { return Asked::Ended(None) };
        match upstream.failed(request.head, failure) {
            AfterFailure::Retry => {}
            AfterFailure::Answer(answer, error) => {
                client.close_after();
                if let Err(error) = send_answer(client, answer).await {
                    tracing::debug!(%error, "the error answer was not taken");
                }
                return Asked::Ended(Some(error));
            }
            AfterFailure::End(error) => {
                if *error.esource() == ErrorSource::Upstream {
                    // The client gets what came before its response broke off.
                    let _sent_or_gone = poll_fn(|cx| client.poll_sent(cx)).await;
                }
                return Asked::Ended(Some(error));
            }
            AfterFailure::Decline => return Asked::Declined,
        }
    }
}

async fn send_answer<C: ExchangeClient>(client: &mut C, answer: EdgeAnswer) -> Result<()> {
    client.answer(answer)?;
    poll_fn(|cx| client.poll_sent(cx)).await
}

async fn attempt<C: ExchangeClient, U: UpstreamSide>(
    client: &mut C,
    request: &ExchangeRequest<'_>,
    upstream: &mut U,
    body: &mut RequestBody,
) -> Result<(), AttemptFailure> {
    let server = {
        let mut connecting = pin!(upstream.connect(request.head, body.is_untouched()));
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
    let upload = Upload::new(upstream.request_bytes(), body, progress);
    let mut exchange = RunningAttempt {
        client,
        request,
        upstream,
        upload,
        reader: HeadReader::default(),
        server,
        // The head has it in every attempt.
        awaits_continue: request.framing != UploadFraming::NoBody && hop_by_hop::expects_continue(request.head),
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
    reader: HeadReader,
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
        let mut head = self.final_head().await?;
        if self.upload.is_repeatable() && self.upstream.is_stale(self.request.head, &self.server, &head) {
            return Err(closed(0).into());
        }
        self.upload.forget_kept();
        let keep_alive_s = hop_by_hop::keep_alive_seconds(&head.fields);
        let is_whole = self.upload.is_whole();
        let may_keep = head.keeps_connection() && is_whole && !self.awaits_continue;
        let delimiter = head.delimit(&self.request.head.method)?;
        self.upstream.respond(self.request.head, &mut head)?;
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
        self.client.head(head.status, head.fields, delimiter)?;
        let mut body = ResponseBody::new(delimiter);
        let begun = self.reader.take_rest();
        poll_fn(|cx| Poll::Ready(body.take(cx, &begun, self.client))).await?;
        drop(begun);
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
        let is_clean = !body.has_surplus && delimiter != BodyDelimiter::Close;
        let may_have_surplus = delimiter == BodyDelimiter::NoBody;
        Ok((may_keep && is_clean).then_some(ConnectionReuse { keep_alive_s, may_have_surplus }))
    }

    /// Sends the request and receives heads, up to the final one.
    async fn final_head(&mut self) -> Result<ResponseHead, Failed> {
        let mut interims = 0;
        loop {
            let Some(mut head) = self.reader.take_head()? else {
                poll_fn(|cx| self.poll_head(cx)).await?;
                continue;
            };
            if !head.status.is_informational() {
                return Ok(head);
            }
            interims += 1;
            let status = head.status;
            match status {
                StatusCode::SWITCHING_PROTOCOLS => return Err(HeadFlaw::UnrequestedUpgrade.into()),
                _ if interims > INTERIMS_MAX || self.reader.taken_len > HEAD_LEN_MAX => {
                    return Err(HeadFlaw::Interims.into());
                }
                StatusCode::CONTINUE => {
                    let is_expected = self.request.state.expects_continue();
                    self.request.state.stop_expecting_continue();
                    self.awaits_continue = false;
                    if !is_expected {
                        continue;
                    }
                }
                _ => {}
            }
            self.upstream.respond(self.request.head, &mut head)?;
            self.client.interim(status, head.fields)?;
        }
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let RunningAttempt { upload, server, client, upstream, .. } = self;
        upload.poll(cx, server, *client, |len| upstream.count_body(len))
    }

    /// Receives more of the head, and sends more of the request. In this order: what is sent in the
    /// meantime must not count as sent before the response.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let received = with_piece(|piece| {
            let len = ready!(poll_read(&mut self.server, cx, piece))?;
            self.reader.push(piece.get(..len).unwrap_or_default());
            Poll::Ready(Ok(len))
        });
        match received {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(closed(self.reader.len()))),
            Poll::Ready(Ok(_)) => {
                flush_reply(&mut self.server, cx);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(unread(error, self.reader.len()))),
            Poll::Pending => {
                flush_reply(&mut self.server, cx);
                self.poll_upload(cx)?;
                if let Poll::Ready(sent) = self.client.poll_sent(cx) {
                    sent?;
                }
                // What the client sends is waited for, and bounded, with its body.
                if self.upload.is_reading() { Poll::Pending } else { self.client.poll_watch(cx).map(Err) }
            }
        }
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

/// Finds heads in what a server sends.
#[derive(Default)]
struct HeadReader {
    received: Bytes,
    /// Received bytes that are not a whole head.
    part: Vec<u8>,
    /// How long the part was when it was parsed last.
    parsed_len: usize,
    /// The length of all heads so far.
    taken_len: usize,
}

impl HeadReader {
    fn push(&mut self, bytes: &[u8]) {
        self.part.extend_from_slice(bytes);
    }

    /// The bytes of a head that is not whole.
    fn len(&self) -> usize {
        self.part.len()
    }

    /// What follows the last head.
    fn take_rest(&mut self) -> Bytes {
        std::mem::take(&mut self.received)
    }

    /// The next head, if it has been received.
    fn take_head(&mut self) -> Result<Option<ResponseHead>, HeadFlaw> {
        if !self.part.is_empty() {
            if !self.is_worth_parsing() {
                return Ok(None);
            }
            self.received = std::mem::take(&mut self.part).into();
        }
        match response_head::parse(&self.received)? {
            Some((head, len)) => {
                self.parsed_len = 0;
                self.taken_len += len;
                drop(self.received.split_to(len));
                Ok(Some(head))
            }
            None => {
                let received = std::mem::take(&mut self.received);
                self.parsed_len = received.len();
                self.part = received.into();
                Ok(None)
            }
        }
    }

    /// A head that comes byte by byte is not parsed for each: when it may be whole, too long, or
    /// is twice as long as before.
    fn is_worth_parsing(&self) -> bool {
        let new = self.part.get(self.parsed_len.saturating_sub(2)..).unwrap_or_default();
        let has_end = || memchr::memmem::find(new, b"\n\r\n").or(memchr::memmem::find(new, b"\n\n")).is_some();
        self.part.len() > HEAD_LEN_MAX || self.part.len() >= self.parsed_len * 2 || has_end()
    }
}

/// The body of a response while it is passed on.
struct ResponseBody {
    left: BodyLeft,
    /// The server has sent bytes after the end.
    has_surplus: bool,
}

enum BodyLeft {
    Length(u64),
    Chunked(ChunkedDecoder),
    UntilClose { is_closed: bool },
}

impl ResponseBody {
    fn new(delimiter: BodyDelimiter) -> Self {
        let left = match delimiter {
            BodyDelimiter::NoBody => BodyLeft::Length(0),
            BodyDelimiter::Length(length) => BodyLeft::Length(length),
            BodyDelimiter::Chunked => BodyLeft::Chunked(ChunkedDecoder::of_response()),
            BodyDelimiter::Close => BodyLeft::UntilClose { is_closed: false },
        };
        ResponseBody { left, has_surplus: false }
    }

    fn is_done(&self) -> bool {
        match &self.left {
            BodyLeft::Length(left) => *left == 0,
            BodyLeft::Chunked(decoder) => decoder.is_done(),
            BodyLeft::UntilClose { is_closed } => *is_closed,
        }
    }

    /// Receives the next piece and passes it on.
    fn poll_piece<S: ServerStream, C: ExchangeClient>(
        &mut self,
        cx: &mut Context<'_>,
        server: &mut S,
        client: &mut C,
    ) -> Poll<Result<()>> {
        let received = with_piece(|piece| {
            let received = ready!(poll_read(server, cx, piece));
            Poll::Ready(received.map(|len| (len, self.take(cx, piece.get(..len).unwrap_or_default(), client))))
        });
        match received {
            Poll::Pending => {
                flush_reply(server, cx);
                client.poll_watch(cx).map(Err)
            }
            Poll::Ready(Ok((0, _))) => match &mut self.left {
                BodyLeft::UntilClose { is_closed } => {
                    *is_closed = true;
                    Poll::Ready(Ok(()))
                }
                BodyLeft::Length(_) | BodyLeft::Chunked(_) => Poll::Ready(Err(cut_off())),
            },
            Poll::Ready(Ok((_, taken))) => {
                flush_reply(server, cx);
                Poll::Ready(taken)
            }
            Poll::Ready(Err(error)) => {
                Poll::Ready(Err(Error::because(ErrorType::ReadError, "while reading a body", error).into_up()))
            }
        }
    }

    /// Passes on what these bytes have of the body.
    fn take<C: ExchangeClient>(&mut self, cx: &mut Context<'_>, mut bytes: &[u8], client: &mut C) -> Result<()> {
        while !bytes.is_empty() && !self.is_done() {
            let (len, data) = match &mut self.left {
                BodyLeft::Length(left) => {
                    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= len as u64;
                    (len, bytes.get(..len).unwrap_or_default())
                }
                BodyLeft::Chunked(decoder) => decoder.next_data(bytes).map_err(|MalformedChunk| malformed())?,
                BodyLeft::UntilClose { .. } => (bytes.len(), bytes),
            };
            if !data.is_empty() {
                client.piece(cx, data);
            }
            bytes = bytes.get(len..).unwrap_or_default();
        }
        self.has_surplus |= !bytes.is_empty();
        Ok(())
    }
}

fn poll_read<S: ServerStream>(server: &mut S, cx: &mut Context<'_>, piece: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(piece);
    ready!(Pin::new(server).poll_read(cx, &mut buf))?;
    Poll::Ready(Ok(buf.filled().len()))
}

/// TLS may reply to what was read (RFC 8446, section 4.6.3).
fn flush_reply<S: ServerStream>(server: &mut S, cx: &mut Context<'_>) {
    if server.is_buffered() {
        let _flushed_or_later = Pin::new(server).poll_flush(cx);
    }
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

fn cut_off() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, "the response broke off").into_up()
}

fn malformed() -> Box<Error> {
    Error::explain(ErrorType::new("InvalidChunk"), "a response body that is not chunked as announced").into_up()
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
