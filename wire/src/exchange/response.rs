//! What a server sends on a direct exchange: heads in pieces, and the body.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pingora::{Error, ErrorType, Result};
use tokio::io::ReadBuf;

use super::buffers::with_piece;
use super::chunked::{ChunkedDecoder, MalformedChunk};
use super::sides::{ExchangeClient, ServerStream};
use crossgate_message::head_flaw::HEAD_LEN_MAX;
use crossgate_message::response_head::BodyDelimiter;

/// Received bytes that are not a whole head. Most heads come whole, and are never here.
#[derive(Default)]
pub(super) struct PartialHead {
    bytes: Vec<u8>,
    /// How long the part was when it was parsed last.
    parsed_len: usize,
}

impl PartialHead {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends bytes. Returns all of them if they may be a whole head.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.bytes.extend_from_slice(bytes);
        self.is_worth_parsing().then(|| std::mem::take(&mut self.bytes))
    }

    /// Keeps bytes that were parsed, and are not a whole head.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.bytes = bytes.to_vec();
        self.parsed_len = bytes.len();
    }

    /// A head that comes byte by byte is not parsed for each: when it may be whole, too long, or
    /// is twice as long as before.
    fn is_worth_parsing(&self) -> bool {
        let new = self.bytes.get(self.parsed_len.saturating_sub(2)..).unwrap_or_default();
        let has_end = || memchr::memmem::find(new, b"\n\r\n").or(memchr::memmem::find(new, b"\n\n")).is_some();
        self.bytes.len() > HEAD_LEN_MAX || self.bytes.len() >= self.parsed_len * 2 || has_end()
    }
}

/// The body of a response while it is passed on.
pub(super) struct ResponseBody {
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
    pub(super) fn new(delimiter: BodyDelimiter) -> Self {
        let left = match delimiter {
            BodyDelimiter::NoBody => BodyLeft::Length(0),
            BodyDelimiter::Length(length) => BodyLeft::Length(length),
            BodyDelimiter::Chunked => BodyLeft::Chunked(ChunkedDecoder::of_response()),
            BodyDelimiter::Close => BodyLeft::UntilClose { is_closed: false },
        };
        ResponseBody { left, has_surplus: false }
    }

    pub(super) fn is_done(&self) -> bool {
        match &self.left {
            BodyLeft::Length(left) => *left == 0,
            BodyLeft::Chunked(decoder) => decoder.is_done(),
            BodyLeft::UntilClose { is_closed } => *is_closed,
        }
    }

    /// Whether the server has sent bytes after the end.
    pub(super) fn has_surplus(&self) -> bool {
        self.has_surplus
    }

    /// Receives the next piece and passes it on.
    pub(super) fn poll_piece<S: ServerStream, C: ExchangeClient>(
        &mut self,
        cx: &mut Context<'_>,
        server: &mut S,
        client: &mut C,
    ) -> Poll<Result<()>> {
        let received = with_piece(C::PIECE_LEN_MAX, |piece| {
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
    pub(super) fn take<C: ExchangeClient>(
        &mut self,
        cx: &mut Context<'_>,
        mut bytes: &[u8],
        client: &mut C,
    ) -> Result<()> {
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

/// Reads what has come of a response.
pub(super) fn poll_read<S: ServerStream>(
    server: &mut S,
    cx: &mut Context<'_>,
    piece: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(piece);
    ready!(Pin::new(server).poll_read(cx, &mut buf))?;
    Poll::Ready(Ok(buf.filled().len()))
}

/// TLS may reply to what was read (RFC 8446, section 4.6.3).
pub(super) fn flush_reply<S: ServerStream>(server: &mut S, cx: &mut Context<'_>) {
    if server.is_buffered() {
        let _flushed_or_later = Pin::new(server).poll_flush(cx);
    }
}

fn cut_off() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, "the response broke off").into_up()
}

fn malformed() -> Box<Error> {
    Error::explain(ErrorType::new("InvalidChunk"), "a response body that is not chunked as announced").into_up()
}
