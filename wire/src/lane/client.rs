//! The client of a direct exchange over HTTP/1.1.
//!
//! Head, data and end of a response are collected and written together. A long piece of a body goes
//! to the socket as it is, in one write with what was collected before it.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{StatusCode, Version};
use pingora::Result;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conn::RequestConnection;
use crate::exchange::chunked::ChunkedDecoder;
use crate::exchange::direct::{BodyStep, ExchangeClient, UploadFraming, client_gone, overdue, unwritten};
use crate::exchange::{
    ConnectionPersistence, EdgeAnswer, begin_head, end_head, give_buffer, take_buffer, with_piece, write_answer,
};
use crossgate_message::hop_by_hop;
use crossgate_message::received_head::ReceivedHead;
use crossgate_message::response_head::BodyDelimiter;

/// A piece from this length on is written behind what is collected, and not copied.
const DIRECT_PIECE_LEN: usize = 4 * 1024;
/// The longest piece of an upload. A server that takes nothing leaves so much to be held.
const UPLOAD_PIECE_LEN_MAX: usize = 16 * 1024;

pub(super) struct LaneClient<'c> {
    connection: &'c mut RequestConnection,
    persistence: ConnectionPersistence,
    /// Collected, and not written yet from this index on; a buffer of the worker.
    out: Vec<u8>,
    written: usize,
    needs_flush: bool,
    is_chunked: bool,
    version: Version,
    /// Finds the data in a chunked request body.
    decoder: Option<ChunkedDecoder>,
    status: Option<StatusCode>,
    /// Bytes up to the end of the response's head that are not written yet.
    head_left: usize,
    /// The end of the response was taken.
    has_end: bool,
}

impl<'c> LaneClient<'c> {
    /// A client whose connection closes after this response if it asks for that, or with `is_last`.
    pub(super) fn new(
        connection: &'c mut RequestConnection,
        request: &ReceivedHead<'_>,
        framing: UploadFraming,
        is_last: bool,
    ) -> Self {
        let has_options = request.known.connection.is_present() || request.version == Version::HTTP_10;
        let closes = is_last || has_options && !hop_by_hop::keeps_connection(request.version, request.fields);
        LaneClient {
            connection,
            persistence: if closes { ConnectionPersistence::Close } else { ConnectionPersistence::KeepAlive },
            out: Vec::new(),
            written: 0,
            needs_flush: false,
            is_chunked: false,
            version: request.version,
            decoder: (framing == UploadFraming::Chunked).then(ChunkedDecoder::new),
            status: None,
            head_left: 0,
            has_end: false,
        }
    }

    /// Whether the connection may carry another request.
    pub(super) fn persistence(&self) -> ConnectionPersistence {
        let is_sent = self.has_end && self.out.is_empty() && !self.needs_flush;
        if is_sent { self.persistence } else { ConnectionPersistence::Close }
    }

    /// The buffer for what is collected.
    fn out(&mut self) -> &mut Vec<u8> {
        if self.out.capacity() == 0 {
            self.out = take_buffer();
        }
        &mut self.out
    }

    /// Writes what is collected and a piece behind it. Returns how much of the piece was written.
    fn try_write(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Poll<io::Result<usize>> {
        let collected = self.out.get(self.written..).unwrap_or_default();
        let connection = Pin::new(&mut *self.connection);
        let written = match collected.is_empty() {
            true => ready!(connection.poll_write(cx, piece))?,
            false => ready!(connection.poll_write_vectored(cx, &[IoSlice::new(collected), IoSlice::new(piece)]))?,
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_collected = written.min(collected.len());
        self.note_written(of_collected);
        Poll::Ready(Ok(written - of_collected))
    }

    fn note_written(&mut self, len: usize) {
        self.needs_flush = true;
        self.written += len;
        self.head_left = self.head_left.saturating_sub(len);
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
    }

    /// Writes a long piece at once, as far as it goes, and collects the rest.
    fn write_or_collect(&mut self, cx: &mut Context<'_>, mut piece: &[u8]) {
        if piece.len() >= DIRECT_PIECE_LEN
            // An error comes again with the next write.
            && let Poll::Ready(Ok(len)) = self.try_write(cx, piece)
        {
            piece = piece.get(len..).unwrap_or_default();
        }
        if !piece.is_empty() {
            self.out().extend_from_slice(piece);
        }
    }

    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let rest = self.out.get(self.written..).unwrap_or_default();
            let written = ready!(Pin::new(&mut *self.connection).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.note_written(written);
        }
        give_buffer(std::mem::take(&mut self.out));
        if self.needs_flush {
            ready!(Pin::new(&mut *self.connection).poll_flush(cx))?;
            self.needs_flush = false;
        }
        if self.has_end {
            self.connection.set_reset(false);
        }
        Poll::Ready(Ok(()))
    }
}

impl ExchangeClient for LaneClient<'_> {
    type Sink = Vec<u8>;

    const PIECE_LEN_MAX: usize = 40 * 1024;

    fn poll_body(&mut self, cx: &mut Context<'_>, take: &mut dyn FnMut(&[u8])) -> Poll<Result<BodyStep>> {
        if !self.connection.has_body_left() {
            return Poll::Ready(Ok(BodyStep::End));
        }
        let (connection, decoder) = (&mut *self.connection, &mut self.decoder);
        let len: Poll<Result<usize>> = with_piece(UPLOAD_PIECE_LEN_MAX, |piece| {
            let mut buf = ReadBuf::new(piece);
            ready!(Pin::new(connection).poll_read(cx, &mut buf)).map_err(overdue)?;
            give_data(decoder.as_mut(), buf.filled(), take);
            Poll::Ready(Ok(buf.filled().len()))
        });
        match ready!(len)? {
            0 => Poll::Ready(Err(client_gone())),
            _ if self.connection.has_body_left() => Poll::Ready(Ok(BodyStep::Piece)),
            _ => Poll::Ready(Ok(BodyStep::End)),
        }
    }

    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Box<pingora::Error>> {
        self.connection.poll_watch(cx).map(|watched| watched.map_or_else(overdue, |()| client_gone()))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Box<pingora::Error>> {
        self.connection.poll_gone(cx).map(|gone| gone.map_or_else(overdue, |()| client_gone()))
    }

    fn interim(&mut self, status: StatusCode, write: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        // RFC 9110, section 15.2.
        if self.version == Version::HTTP_10 {
            return Ok(());
        }
        let out = self.out();
        begin_head(status, out);
        write(out);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn head(&mut self, status: StatusCode, delimiter: BodyDelimiter, write: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        match delimiter {
            BodyDelimiter::NoBody | BodyDelimiter::Length(_) => {}
            // RFC 9112, section 6.1: a client of HTTP/1.0 knows no chunks.
            BodyDelimiter::Chunked | BodyDelimiter::Close if self.version == Version::HTTP_10 => {
                self.close_after();
                // If it breaks off, an orderly end would look like the end of the body.
                self.connection.set_reset(true);
            }
            BodyDelimiter::Chunked | BodyDelimiter::Close => self.is_chunked = true,
        }
        let (is_chunked, persistence) = (self.is_chunked, self.persistence);
        let out = self.out();
        begin_head(status, out);
        write(out);
        if is_chunked {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        end_head(persistence, out);
        (self.status, self.head_left) = (Some(status), self.out.len() - self.written);
        Ok(())
    }

    fn piece(&mut self, cx: &mut Context<'_>, piece: &[u8]) {
        if self.is_chunked {
            // Writing to a vector does not fail.
            let _written = write!(self.out(), "{:x}\r\n", piece.len());
        }
        self.write_or_collect(cx, piece);
        if self.is_chunked {
            self.out().extend_from_slice(b"\r\n");
        }
    }

    fn end(&mut self) {
        if self.is_chunked {
            self.out().extend_from_slice(b"0\r\n\r\n");
        }
        self.has_end = true;
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_written(cx).map_err(unwritten)
    }

    fn abandon_body(&mut self) {
        self.connection.abandon_body();
    }

    fn close_after(&mut self) {
        self.persistence = ConnectionPersistence::Close;
    }

    fn answer(&mut self, answer: EdgeAnswer) -> Result<()> {
        let persistence = self.persistence;
        write_answer(&answer, persistence, self.out());
        (self.status, self.head_left) = (Some(answer.status), self.out.len() - self.written - answer.body.len());
        self.has_end = true;
        Ok(())
    }

    fn sent_status(&self) -> Option<StatusCode> {
        self.status.filter(|_| self.head_left == 0)
    }
}

/// Gives the data in the next bytes of a request body, which the connection has found valid.
fn give_data(decoder: Option<&mut ChunkedDecoder>, mut bytes: &[u8], take: &mut dyn FnMut(&[u8])) {
    let Some(decoder) = decoder else { return take(bytes) };
    while let (Ok((len @ 1.., data)), false) = (decoder.next_data(bytes), bytes.is_empty()) {
        if !data.is_empty() {
            take(data);
        }
        bytes = bytes.get(len..).unwrap_or_default();
    }
}
