//! The two sides of a direct exchange, as [`direct`](super::direct) sees them.

use std::task::{Context, Poll};

use http::StatusCode;
use pingora::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};

use super::EdgeAnswer;
use super::upload::BodyStep;
use crossgate_message::field_sink::FieldSink;
use crossgate_message::head_flaw::HeadFlaw;
use crossgate_message::received_head::ReceivedHead;
use crossgate_message::response_head::{BodyDelimiter, ResponseHead};

/// The client of an exchange. Its errors have the source `Downstream`.
pub trait ExchangeClient: Send {
    /// Takes the fields of a head.
    type Sink: FieldSink;

    /// The longest piece of a response that it takes at once. It holds so much where its client
    /// takes nothing.
    const PIECE_LEN_MAX: usize;

    /// Gives the data of the request's body that has come to `take`.
    fn poll_body(&mut self, cx: &mut Context<'_>, take: &mut dyn FnMut(&[u8])) -> Poll<Result<BodyStep>>;

    /// Ready when waiting for the server has no more use: the client has gone, or the server is
    /// overdue.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>>;

    /// Ready when the client has gone. The caller bounds the wait.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>>;

    /// Takes an interim response (1xx) with the fields that `write` gives, unless the client does
    /// not know such.
    ///
    /// # Errors
    /// Returns an error if the client has gone.
    fn interim(&mut self, status: StatusCode, write: impl FnOnce(&mut Self::Sink)) -> Result<()>;

    /// Takes the head of the final response, with the fields that `write` gives and those of the
    /// client's connection.
    ///
    /// # Errors
    /// Returns an error if the client has gone.
    fn head(&mut self, status: StatusCode, delimiter: BodyDelimiter, write: impl FnOnce(&mut Self::Sink))
    -> Result<()>;

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

    /// Picks a server and returns a connection to it. The first call writes the head for the
    /// server, which is the same for every attempt. Only a request of which nothing was read
    /// `may_decline`.
    fn connect(
        &mut self,
        request: &ReceivedHead<'_>,
        head: &mut Vec<u8>,
        may_decline: bool,
    ) -> impl Future<Output = Result<Self::Server>> + Send;

    /// Counts data of the request's body.
    ///
    /// # Errors
    /// Returns an error if the body is larger than allowed.
    fn count_body(&mut self, len: usize) -> Result<()>;

    /// Whether a final response only says that the kept connection had timed out, so that the
    /// request is tried again.
    fn is_stale(&self, request: &ReceivedHead<'_>, server: &Self::Server, head: &ResponseHead<'_>) -> bool;

    /// Writes the fields of a response for the client, without those that frame the body.
    fn respond(&mut self, request: &ReceivedHead<'_>, head: &ResponseHead<'_>, sink: &mut impl FieldSink);

    /// Records a failed attempt, and decides what follows.
    fn failed(&mut self, request: &ReceivedHead<'_>, failure: AttemptFailure) -> AfterFailure;

    /// Whether connections of clients end with their present response.
    fn is_draining(&self) -> bool;

    /// Keeps a connection whose response is complete.
    fn keep(&mut self, server: Self::Server, reuse: ConnectionReuse);

    /// Records the end of the exchange: the status that was sent, and the error that ended it.
    fn conclude(&mut self, request: &ReceivedHead<'_>, status: Option<StatusCode>, error: Option<&Error>);
}

/// What is known of a connection that is kept.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionReuse {
    /// How long the server keeps it, if it said so.
    pub keep_alive_s: Option<u64>,
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
