//! One request and its answer on a stream, as the direct exchange and Pingora see it.
//!
//! Pingora's own session of HTTP/2 has no place for a state that the hooks share, and no bound on
//! any of its waits. Here they are those of HTTP/1.1, by the same [`ExchangeTimeouts`]: for the
//! next piece of the body, for the response while nothing else is to be read, and for the client to
//! take what it asked for. Trailers of an answer are passed on; those of a request are not, as
//! Pingora has no way to an upstream for them.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::response::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use parking_lot::Mutex;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::body_buffer::FixedBuffer;
use pingora::{Error, ErrorType, Result};

use super::traffic::StreamTraffic;
use crate::exchange::EdgeAnswer;
use crate::exchange::direct::{BodyStep, ExchangeClient, UploadFraming};
use crate::exchange::state::{ExchangeEnd, ExchangeState};
use crate::exchange::timeouts::ExchangeTimeouts;
use crate::exchange::timer::Timer;
use crossgate_message::field_sink::SharedFieldMap;
use crossgate_message::fields::X_REQUEST_ID;
use crossgate_message::response_head::BodyDelimiter;

mod session;

/// What of a request's body is kept for another attempt; as much as Pingora keeps of one over
/// HTTP/1.1.
const RETRY_LEN_MAX: usize = 64 * 1024;

/// A stream while it is served.
pub(super) struct Exchange {
    head: RequestHeader,
    is_head_request: bool,
    body: RecvStream,
    /// Shared with what looks whether the client is there while nothing is read of it.
    respond: Arc<Mutex<SendResponse<Bytes>>>,
    /// Once the answer's head is sent.
    answer: Option<SendStream<Bytes>>,
    /// What that head said, fields aside.
    status: Option<StatusCode>,
    /// The same for the proxy.
    written: Option<Box<ResponseHeader>>,
    clock: ExchangeTimeouts,
    traffic: Arc<StreamTraffic>,
    retry: Option<FixedBuffer>,
    drain_time: Option<std::time::Duration>,
    /// The client waits to be asked for its body.
    expects_continue: bool,
    /// The body has been read to its end.
    is_read: bool,
    /// The answer has been sent to its end, or given up.
    is_ended: bool,
    read_len: usize,
    /// What was read and does not count as received yet, for the client's flow control.
    unreleased_len: usize,
    sent_len: usize,
    /// Taken from a direct exchange, and not sent yet.
    held: BytesMut,
    /// Whether the response ends with what is held.
    ends: bool,
}

impl Exchange {
    /// Of a request whose head is accepted.
    pub(super) fn new(
        head: RequestHeader,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        watch: Arc<ExchangeState>,
        traffic: Arc<StreamTraffic>,
    ) -> Self {
        let expects_continue = head.headers.contains_key(header::EXPECT);
        let respond = Arc::new(Mutex::new(respond));
        Exchange {
            is_head_request: head.method == Method::HEAD,
            head,
            body,
            respond,
            answer: None,
            status: None,
            written: None,
            clock: ExchangeTimeouts::new(watch, Timer::default()),
            traffic,
            retry: None,
            drain_time: None,
            expects_continue,
            is_read: false,
            is_ended: false,
            read_len: 0,
            unreleased_len: 0,
            sent_len: 0,
            held: BytesMut::new(),
            ends: false,
        }
    }

    /// Takes the head out, for an exchange that needs it next to the client.
    pub(super) fn take_head(&mut self) -> RequestHeader {
        std::mem::replace(&mut self.head, Request::new(()).into_parts().0.into())
    }

    /// Puts the head back, for the proxy.
    pub(super) fn set_head(&mut self, head: RequestHeader) {
        self.head = head;
    }

    /// Lets the proxy, which does not always watch the client, see that it has gone.
    pub(super) fn set_probe(&self) {
        let probed = Arc::clone(&self.respond);
        self.clock.state().set_probe(Box::new(move |cx| probed.lock().poll_reset(cx).is_ready()));
    }

    /// How the body goes to a server of HTTP/1.1.
    pub(super) fn upload_framing(&self) -> UploadFraming {
        match self.head.headers.get(header::CONTENT_LENGTH) {
            _ if self.is_body_empty() => UploadFraming::NoBody,
            Some(_) => UploadFraming::Length,
            None => UploadFraming::Chunked,
        }
    }

    /// The next piece of the body; `None` at its end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        self.clock.state().attend();
        match self.clock.poll_room(cx) {
            Poll::Ready(room) => room.map_err(overdue)?,
            Poll::Pending => return self.poll_gone(cx).map(Err),
        }
        // The server's kernel has taken the piece before. An error means that the stream is gone.
        let _released = self.body.flow_control().release_capacity(std::mem::take(&mut self.unreleased_len));
        match self.body.poll_data(cx) {
            Poll::Pending => {
                self.ask_for_body();
                self.clock.poll_body(cx).map(|error| Err(overdue(error)))
            }
            Poll::Ready(Some(Ok(piece))) => {
                self.clock.state().leave_unattended();
                Poll::Ready(self.take_piece(piece).map(Some))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(self.broken(error))),
            Poll::Ready(None) => {
                self.is_read = true;
                let _dropped = self.body.poll_trailers(cx);
                Poll::Ready(Ok(None))
            }
        }
    }

    fn take_piece(&mut self, piece: Bytes) -> Result<Bytes> {
        self.expects_continue = false;
        self.unreleased_len += piece.len();
        self.read_len += piece.len();
        if let Some(retry) = &mut self.retry {
            retry.write_to_buffer(&piece);
        }
        self.clock.note_given(piece.len());
        self.clock.note_came().map_err(overdue)?;
        Ok(piece)
    }

    /// RFC 9110, section 10.1.1: a client that waits with its body is asked for it. The upstream is
    /// not bothered with that.
    fn ask_for_body(&mut self) {
        if std::mem::take(&mut self.expects_continue) && self.status.is_none() {
            let mut head = Response::new(());
            *head.status_mut() = StatusCode::CONTINUE;
            let _asked_or_gone = self.respond.lock().send_informational(head);
        }
    }

    /// Ready when there is no more use in waiting for the response: the client has gone, or it is
    /// overdue.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        match self.poll_gone(cx) {
            Poll::Ready(error) => Poll::Ready(error),
            Poll::Pending => self.clock.poll_response(cx).map(overdue),
        }
    }

    /// Ready when the client has gone. Nothing else is read; the caller bounds the wait.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        self.clock.state().attend();
        let reset = match &mut self.answer {
            Some(answer) => answer.poll_reset(cx),
            None => self.respond.lock().poll_reset(cx),
        };
        reset.map(|reset| gone(reset.map_or_else(|error| error, h2::Error::from)))
    }

    /// An error of the client's body. Where `h2` found it wrong, by its length for instance, it has
    /// reset the stream.
    fn broken(&self, error: h2::Error) -> Box<Error> {
        if error.is_reset() && error.is_library() {
            return overdue(self.clock.state().fail(ExchangeEnd::Malformed, io::ErrorKind::InvalidData));
        }
        gone(error)
    }

    /// Whether no more of the body is to be read: all of it was, or the answer is complete without.
    fn is_body_done(&self) -> bool {
        self.is_read || self.is_ended || self.body.is_end_stream() || self.is_body_empty()
    }

    fn is_body_empty(&self) -> bool {
        let is_announced_empty =
            || self.head.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0");
        self.read_len == 0 && (self.body.is_end_stream() || is_announced_empty())
    }

    /// Sends the answer's head, or a 1xx before it.
    fn write_head(&mut self, head: ResponseHeader, end: bool) -> Result<()> {
        self.write_parts(head.into(), end)?;
        if let (None, Some(status)) = (&self.written, self.status) {
            self.written = Some(Box::new(ResponseHeader::build_no_case(status, None)?));
        }
        Ok(())
    }

    fn write_parts(&mut self, mut parts: Parts, end: bool) -> Result<()> {
        if self.is_ended || self.status.is_some() {
            return Ok(());
        }
        let status = parts.status;
        strip_hop(&mut parts.headers);
        if status.is_informational() {
            // The client has been asked for its body already, and there is no other protocol to
            // switch to.
            if !matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS) {
                self.respond.lock().send_informational(Response::from_parts(parts, ())).map_err(unwritten)?;
            }
            return Ok(());
        }
        super::date(&mut parts.headers);
        if let Some(id) = parts.headers.get_mut(&X_REQUEST_ID) {
            // It never comes again: in the table of the compression it would only take room.
            id.set_sensitive(true);
        }
        let end = end || self.has_no_body(status, &parts.headers);
        let answer = self.respond.lock().send_response(Response::from_parts(parts, ()), end).map_err(unwritten)?;
        self.traffic.earn(0);
        self.clock.note_written();
        self.answer = Some(answer);
        self.status = Some(status);
        self.is_ended = end;
        Ok(())
    }

    /// Whether nothing can follow an answer's head: its stream ends with it then.
    fn has_no_body(&self, status: StatusCode, fields: &HeaderMap) -> bool {
        self.is_head_request
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || fields.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0")
    }

    /// Sends a piece of the answer as the client takes it.
    async fn write_piece(&mut self, mut piece: Bytes, end: bool) -> Result<()> {
        if self.is_ended {
            return Ok(());
        }
        self.traffic.earn(piece.len());
        while !piece.is_empty() {
            let room = poll_fn(|cx| self.poll_room(cx, piece.len())).await?;
            let part = piece.split_to(room.min(piece.len()));
            self.sent_len += part.len();
            let is_last = end && piece.is_empty();
            self.answer()?.send_data(part, is_last).map_err(unwritten)?;
            self.is_ended = is_last;
        }
        if end { self.finish() } else { Ok(()) }
    }

    /// How much of the answer may be sent now.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize>> {
        self.clock.state().attend();
        let Some(answer) = &mut self.answer else { return Poll::Ready(Err(headless())) };
        answer.reserve_capacity(wanted);
        let mut room = answer.capacity();
        while room == 0 {
            match answer.poll_capacity(cx) {
                Poll::Ready(Some(Ok(more))) => room = more,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(unwritten(error))),
                Poll::Ready(None) => return Poll::Ready(Err(down(ErrorType::WriteError, "the stream is closed"))),
                Poll::Pending => return self.clock.poll_write(cx).map(|error| Err(overdue_write(error))),
            }
        }
        self.clock.note_written();
        Poll::Ready(Ok(room))
    }

    /// Sends what is held as the client takes it.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.held.is_empty() && !self.is_ended {
            let room = ready!(self.poll_room(cx, self.held.len()))?;
            let part = self.held.split_to(room.min(self.held.len())).freeze();
            self.sent_len += part.len();
            let is_last = self.ends && self.held.is_empty();
            self.answer()?.send_data(part, is_last).map_err(unwritten)?;
            self.is_ended = is_last;
        }
        Poll::Ready(if self.ends { self.finish() } else { Ok(()) })
    }

    /// Sends trailers, which are the end.
    fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        if !self.is_ended {
            self.answer()?.send_trailers(trailers).map_err(unwritten)?;
            self.is_ended = true;
        }
        Ok(())
    }

    /// Ends an answer that has begun, if it has not ended.
    fn finish(&mut self) -> Result<()> {
        if !self.is_ended
            && let Some(answer) = &mut self.answer
        {
            answer.send_data(Bytes::new(), true).map_err(unwritten)?;
            self.is_ended = true;
        }
        Ok(())
    }

    /// Takes what Pingora has of the answer; whether that was its end.
    async fn write_tasks(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut is_end = false;
        for task in tasks {
            is_end |= match task {
                HttpTask::Header(head, end) => {
                    self.write_head(*head, end)?;
                    end
                }
                HttpTask::Body(piece, end) => {
                    self.write_piece(piece.unwrap_or_default(), end).await?;
                    end
                }
                HttpTask::UpgradedBody(..) => return Err(down(ErrorType::InternalError, "an upgrade over HTTP/2")),
                HttpTask::Trailer(trailers) => {
                    trailers.map_or(Ok(()), |trailers| self.write_trailers(*trailers))?;
                    true
                }
                HttpTask::Done => true,
                HttpTask::Failed(error) => return Err(error),
            };
        }
        if is_end {
            self.finish()?;
        }
        Ok(is_end)
    }

    fn answer(&mut self) -> Result<&mut SendStream<Bytes>> {
        self.answer.as_mut().ok_or_else(headless)
    }

    /// Gives the stream up. Its client sees that the answer is not whole.
    fn give_up(&mut self) {
        if std::mem::replace(&mut self.is_ended, true) {
            return;
        }
        let mut respond = self.respond.lock();
        match self.clock.state().take_answer().filter(|_| self.status.is_none()) {
            Some(answer) => super::answer_at_once(&mut respond, answer),
            None => respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}

impl ExchangeClient for Exchange {
    type Sink = SharedFieldMap;

    const PIECE_LEN_MAX: usize = 16 * 1024;

    fn poll_body(&mut self, cx: &mut Context<'_>, take: &mut dyn FnMut(&[u8])) -> Poll<Result<BodyStep>> {
        Poll::Ready(match ready!(Exchange::poll_body(self, cx))? {
            Some(piece) => {
                take(&piece);
                Ok(BodyStep::Piece)
            }
            None => Ok(BodyStep::End),
        })
    }

    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        self.poll_response(cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        Exchange::poll_gone(self, cx)
    }

    fn interim(&mut self, status: StatusCode, write: impl FnOnce(&mut SharedFieldMap)) -> Result<()> {
        self.write_parts(response_parts(status, written_fields(write)), false)
    }

    fn head(
        &mut self,
        status: StatusCode,
        delimiter: BodyDelimiter,
        write: impl FnOnce(&mut SharedFieldMap),
    ) -> Result<()> {
        self.write_parts(response_parts(status, written_fields(write)), delimiter == BodyDelimiter::NoBody)
    }

    fn piece(&mut self, _: &mut Context<'_>, piece: &[u8]) {
        self.traffic.earn(piece.len());
        self.held.extend_from_slice(piece);
    }

    fn end(&mut self) {
        self.ends = true;
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_held(cx)
    }

    /// A reset is seen in any case.
    fn abandon_body(&mut self) {}

    /// Other requests of the connection go on.
    fn close_after(&mut self) {}

    fn answer(&mut self, answer: EdgeAnswer) -> Result<()> {
        let EdgeAnswer { status, fields, body } = answer;
        self.write_parts(response_parts(status, fields), body.is_empty())?;
        self.traffic.earn(body.len());
        self.held.extend_from_slice(&body);
        self.ends = true;
        Ok(())
    }

    fn sent_status(&self) -> Option<StatusCode> {
        self.status
    }
}

fn written_fields(write: impl FnOnce(&mut SharedFieldMap)) -> HeaderMap {
    let mut sink = SharedFieldMap::with_usual_capacity();
    write(&mut sink);
    sink.into_fields()
}

fn response_parts(status: StatusCode, fields: HeaderMap) -> Parts {
    let mut parts = Response::new(()).into_parts().0;
    (parts.status, parts.headers) = (status, fields);
    parts
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// RFC 9113, section 8.2.2.
fn strip_hop(fields: &mut HeaderMap) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        fields.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        fields.remove(name);
    }
}

fn headless() -> Box<Error> {
    down(ErrorType::InternalError, "a body before its head")
}

fn down(kind: ErrorType, what: &'static str) -> Box<Error> {
    Error::explain(kind, what).into_down()
}

/// The client, or its connection, is no longer there.
fn gone(error: h2::Error) -> Box<Error> {
    Error::because(ErrorType::ConnectionClosed, "the client closed the stream", error).into_down()
}

fn unwritten(error: h2::Error) -> Box<Error> {
    Error::because(ErrorType::WriteError, "the client does not take its answer", error).into_down()
}

/// A limit was hit, which is recorded in the [`ExchangeState`].
fn overdue(error: io::Error) -> Box<Error> {
    Error::because(ErrorType::ReadError, "while waiting", error).into_down()
}

fn overdue_write(error: io::Error) -> Box<Error> {
    Error::because(ErrorType::WriteError, "while writing", error).into_down()
}
