//! The direct exchange between a client and a server that do anything, in any order and pieces.
//!
//! The input chooses the request, how much either side takes or gives at a time, and the bytes of
//! the server. Both sides are in memory and always make progress, so an exchange that waits is one
//! that would wait for ever.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crossgate_message::field_sink::FieldSink;
use crossgate_message::fields::HeaderFields;
use crossgate_message::received_head::ReceivedHead;
use crossgate_message::response_head::{self, BodyDelimiter, ResponseHead};
use crossgate_wire::exchange::EdgeAnswer;
use crossgate_wire::exchange::chunked::ChunkedDecoder;
use crossgate_wire::exchange::direct::{
    AfterFailure, AttemptFailure, BodyStep, ConnectionReuse, ExchangeClient, ExchangeRequest, ServedBy, ServerStream,
    UploadFraming, UpstreamSide, run,
};
use crossgate_wire::exchange::state::{ExchangeLimits, ExchangeState};
use http::{HeaderMap, Method, StatusCode, Version};
use pingora::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const HEAD: &[u8] = b"PUT / HTTP/1.1\r\nhost: a.test\r\n\r\n";
/// More polls than any exchange of such an input needs.
const POLLS_MAX: usize = 100_000;
const LIMITS: ExchangeLimits = ExchangeLimits {
    body_grace: Duration::from_secs(60),
    body_rate_min: 0,
    write_stall: Duration::from_secs(60),
    drain_bytes: 0,
    drain_time: Duration::ZERO,
};

/// Runs an exchange to its end.
///
/// # Panics
/// If it does not end, if the server gets anything but the beginning of the request, or if the
/// client gets a body that looks whole and is not the one that the server sent.
pub fn exchange(bytes: &[u8]) {
    let Some(([kind, sizes, body_len, ends], sent)) = bytes.split_first_chunk() else { return };
    let framing = match kind % 3 {
        0 => UploadFraming::NoBody,
        1 => UploadFraming::Length,
        _ => UploadFraming::Chunked,
    };
    let body: Vec<u8> = match framing {
        UploadFraming::NoBody => Vec::new(),
        UploadFraming::Length | UploadFraming::Chunked => {
            b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n".iter().copied().cycle().take(usize::from(*body_len) * 64).collect()
        }
    };
    let method = if kind & 8 == 0 { Method::PUT } else { Method::HEAD };
    let head = ReceivedHead::new(&method, b"/", Version::HTTP_11, HeaderFields::Lines(&[]));
    let state = ExchangeState::new(LIMITS, None, 0);
    let written = Arc::new(Mutex::new(Vec::new()));
    let piece_len = usize::from(sizes % 16) * 7 + 1;
    let mut client = Client {
        body: body.clone(),
        given: 0,
        piece_len,
        breaks_off: ends & 1 == 1,
        turn: 0,
        head: None,
        received: Vec::new(),
        has_end: false,
    };
    let server = Server {
        sent: sent.to_vec(),
        read: 0,
        piece_len: usize::from(sizes / 16) * 31 + 1,
        written: Arc::clone(&written),
        turn: 0,
        breaks_off: ends & 2 == 2,
    };
    let request = ExchangeRequest { head: &head, framing, state: &state };
    let mut upstream = Upstream { server: Some(server), framing };
    {
        let mut exchange = pin!(run(&mut client, &request, &mut upstream, None));
        let mut cx = Context::from_waker(Waker::noop());
        let mut polls = 0;
        loop {
            match exchange.as_mut().poll(&mut cx) {
                Poll::Ready(served_by) => {
                    assert_eq!(served_by, ServedBy::Exchange);
                    break;
                }
                Poll::Pending => polls += 1,
            }
            assert!(polls < POLLS_MAX, "the exchange waits for ever");
        }
    }
    check_request(&written.lock().unwrap_or_else(PoisonError::into_inner), framing, &body, client.breaks_off);
    if let (true, Some((_, delimiter))) = (client.has_end, client.head) {
        check_response(sent, delimiter, &client.received);
    }
}

/// The server got a part of exactly one request, and a terminator only if the client ended it.
fn check_request(written: &[u8], framing: UploadFraming, body: &[u8], breaks_off: bool) {
    let Some(sent) = written.strip_prefix(HEAD) else {
        return assert!(HEAD.starts_with(written), "{}", written.escape_ascii());
    };
    match framing {
        UploadFraming::NoBody => assert!(sent.is_empty(), "{}", sent.escape_ascii()),
        UploadFraming::Length => assert!(body.starts_with(sent), "{}", sent.escape_ascii()),
        UploadFraming::Chunked => {
            let (mut decoder, mut data, mut rest) = (ChunkedDecoder::new(), Vec::new(), sent);
            while !rest.is_empty() && !decoder.is_done() {
                let (len, piece) = decoder.next_data(rest).expect("chunks");
                data.extend_from_slice(piece);
                rest = rest.get(len..).unwrap_or_default();
            }
            assert!(rest.is_empty(), "bytes after the request: {}", rest.escape_ascii());
            assert!(body.starts_with(&data));
            assert!(!decoder.is_done() || data.len() == body.len() && !breaks_off, "a terminator too early");
        }
    }
}

/// The client got the body that follows the final head.
fn check_response(sent: &[u8], delimiter: BodyDelimiter, received: &[u8]) {
    let mut rest = sent;
    // The final head is the first that is no interim response.
    loop {
        let mut lines = [httparse::EMPTY_HEADER; 256];
        let mut head = httparse::Response::new(&mut lines);
        let Ok(httparse::Status::Complete(len)) = head.parse(rest) else { panic!("no head") };
        rest = rest.get(len..).unwrap_or_default();
        if head.code.is_some_and(|code| code >= 200) {
            break;
        }
    }
    match delimiter {
        BodyDelimiter::NoBody => assert!(received.is_empty()),
        BodyDelimiter::Length(length) => {
            assert_eq!(received.len() as u64, length);
            assert!(rest.starts_with(received));
        }
        BodyDelimiter::Close => assert_eq!(received, rest),
        BodyDelimiter::Chunked => {
            let mut data = Vec::new();
            loop {
                let Ok(httparse::Status::Complete((line_len, chunk_len))) = httparse::parse_chunk_size(rest) else {
                    panic!("no chunk: {}", rest.escape_ascii());
                };
                let chunk_len = usize::try_from(chunk_len).expect("a short chunk");
                rest = rest.get(line_len..).unwrap_or_default();
                if chunk_len == 0 {
                    break;
                }
                data.extend_from_slice(rest.get(..chunk_len).expect("a whole chunk"));
                rest = rest.get(chunk_len + 2..).expect("the end of a chunk");
            }
            assert_eq!(received, data);
        }
    }
}

struct Client {
    body: Vec<u8>,
    given: usize,
    piece_len: usize,
    /// It leaves within its body.
    breaks_off: bool,
    turn: usize,
    head: Option<(StatusCode, BodyDelimiter)>,
    received: Vec<u8>,
    has_end: bool,
}

impl Client {
    /// Every other time, there is nothing to do.
    fn is_ready(&mut self) -> bool {
        self.turn += 1;
        self.turn.is_multiple_of(2)
    }
}

impl ExchangeClient for Client {
    type Sink = HeaderMap;

    const PIECE_LEN_MAX: usize = 16 * 1024;

    fn poll_body(&mut self, _: &mut Context<'_>, take: &mut dyn FnMut(&[u8])) -> Poll<Result<BodyStep>> {
        if !self.is_ready() {
            return Poll::Pending;
        }
        let rest = self.body.get(self.given..).unwrap_or_default();
        if self.breaks_off && self.given * 2 >= self.body.len() {
            return Poll::Ready(Err(gone()));
        }
        let piece = rest.get(..self.piece_len.min(rest.len())).unwrap_or_default();
        take(piece);
        self.given += piece.len();
        Poll::Ready(Ok(if self.given == self.body.len() { BodyStep::End } else { BodyStep::Piece }))
    }

    fn poll_watch(&mut self, _: &mut Context<'_>) -> Poll<Box<Error>> {
        Poll::Pending
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<Box<Error>> {
        Poll::Pending
    }

    fn interim(&mut self, status: StatusCode, _: impl FnOnce(&mut HeaderMap)) -> Result<()> {
        assert!(status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS && self.head.is_none());
        Ok(())
    }

    fn head(&mut self, status: StatusCode, delimiter: BodyDelimiter, write: impl FnOnce(&mut HeaderMap)) -> Result<()> {
        assert!(!status.is_informational() && self.head.is_none());
        let mut fields = HeaderMap::new();
        write(&mut fields);
        assert!(fields.get_all("content-length").iter().count() <= 1 && !fields.contains_key("transfer-encoding"));
        if let BodyDelimiter::Length(length) = delimiter {
            assert!(
                fields.get("content-length").is_some_and(|value| value.as_bytes() == length.to_string().as_bytes())
            );
        }
        self.head = Some((status, delimiter));
        Ok(())
    }

    fn close_after(&mut self) {}

    fn abandon_body(&mut self) {}

    fn piece(&mut self, _: &mut Context<'_>, piece: &[u8]) {
        assert!(self.head.is_some() && !self.has_end && !piece.is_empty());
        self.received.extend_from_slice(piece);
    }

    fn end(&mut self) {
        assert!(self.head.is_some() && !self.has_end);
        self.has_end = true;
    }

    fn poll_sent(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        if self.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn answer(&mut self, _: EdgeAnswer) -> Result<()> {
        assert!(self.head.is_none(), "an answer after a response");
        Ok(())
    }

    fn sent_status(&self) -> Option<StatusCode> {
        self.head.map(|(status, _)| status)
    }
}

struct Server {
    sent: Vec<u8>,
    read: usize,
    piece_len: usize,
    written: Arc<Mutex<Vec<u8>>>,
    turn: usize,
    /// It resets the connection after what it sends, in place of closing it.
    breaks_off: bool,
}

impl Server {
    fn is_ready(&mut self) -> bool {
        self.turn += 1;
        self.turn.is_multiple_of(3)
    }
}

impl ServerStream for Server {
    fn is_reused(&self) -> bool {
        false
    }

    fn is_buffered(&self) -> bool {
        true
    }
}

impl AsyncRead for Server {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.is_ready() {
            return Poll::Pending;
        }
        let len = self.piece_len.min(self.sent.len() - self.read).min(buf.remaining());
        if len == 0 && self.breaks_off {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let read = self.read;
        buf.put_slice(self.sent.get(read..read + len).unwrap_or_default());
        self.read += len;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.is_ready() {
            return Poll::Pending;
        }
        let len = self.piece_len.min(bytes.len());
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.extend_from_slice(bytes.get(..len).unwrap_or_default());
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Upstream {
    server: Option<Server>,
    framing: UploadFraming,
}

impl UpstreamSide for Upstream {
    type Server = Server;

    async fn connect(&mut self, _: &ReceivedHead<'_>, head: &mut Vec<u8>, _: bool) -> Result<Server> {
        head.extend_from_slice(HEAD);
        self.server.take().ok_or_else(gone)
    }

    fn count_body(&mut self, _: usize) -> Result<()> {
        assert_ne!(self.framing, UploadFraming::NoBody);
        Ok(())
    }

    fn is_stale(&self, _: &ReceivedHead<'_>, _: &Server, _: &ResponseHead<'_>) -> bool {
        false
    }

    fn respond(&mut self, _: &ReceivedHead<'_>, head: &ResponseHead<'_>, sink: &mut impl FieldSink) {
        head.fields.for_each(|line| {
            if !response_head::is_framing_field(line.name()) {
                sink.received(line);
            }
        });
    }

    fn failed(&mut self, _: &ReceivedHead<'_>, failure: AttemptFailure) -> AfterFailure {
        AfterFailure::End(failure.error)
    }

    fn is_draining(&self) -> bool {
        false
    }

    fn keep(&mut self, server: Server, _: ConnectionReuse) {
        // No bytes of the response are left, as far as they were read.
        assert!(server.read <= server.sent.len());
    }

    fn conclude(&mut self, _: &ReceivedHead<'_>, _: Option<StatusCode>, _: Option<&Error>) {}
}

fn gone() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, "the other side has gone").into_down()
}
