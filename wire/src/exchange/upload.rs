//! A request on its way to a server: its head, and its body as the client sends it.
//!
//! The client's body is read when the server's kernel has taken the piece before. An error of a
//! write only stops the upload: the server may have answered before it closed, and is read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pingora::Result;

use super::RequestProgress;
use super::sides::{ExchangeClient, ServerStream};

/// The most of a body that is kept for another attempt.
const KEPT_LEN_MAX: usize = 64 * 1024;
/// A piece of a body is not read while so much waits to be written.
const OUTBOX_LEN_MAX: usize = 16 * 1024;

/// How the body of a request is delimited on its way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadFraming {
    NoBody,
    /// By `Content-Length`, which the client's side holds the body to.
    Length,
    Chunked,
}

/// Whether a piece of a body was the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyStep {
    Piece,
    End,
}

/// The body of a request, for all attempts.
pub(super) struct RequestBody {
    framing: UploadFraming,
    kept: Vec<u8>,
    is_truncated: bool,
    has_ended: bool,
    read_len: u64,
    /// Something of it was read, if only the size of a chunk.
    is_touched: bool,
}

impl RequestBody {
    /// The body of a request that may be sent again if it `is_repeatable`.
    pub(super) fn new(framing: UploadFraming, is_repeatable: bool) -> Self {
        let has_ended = framing == UploadFraming::NoBody;
        RequestBody {
            framing,
            kept: Vec::new(),
            is_truncated: !is_repeatable,
            has_ended,
            read_len: 0,
            is_touched: false,
        }
    }

    /// Whether nothing of the body was read.
    pub(super) fn is_untouched(&self) -> bool {
        !self.is_touched
    }

    /// Whether all that was read of it can be sent again.
    pub(super) fn is_repeatable(&self) -> bool {
        !self.is_truncated
    }

    /// Keeps nothing for another attempt.
    fn forget(&mut self) {
        (self.kept, self.is_truncated) = (Vec::new(), true);
    }

    fn keep(&mut self, data: &[u8]) {
        self.read_len += data.len() as u64;
        self.is_truncated |= self.kept.len() + data.len() > KEPT_LEN_MAX;
        if self.is_truncated {
            self.kept = Vec::new();
        } else {
            self.kept.extend_from_slice(data);
        }
    }
}

/// One attempt to send a request.
pub(super) struct Upload<'r> {
    head: &'r [u8],
    head_sent: usize,
    /// Framed, and not written yet from this index on.
    outbox: Vec<u8>,
    written: usize,
    needs_flush: bool,
    body: &'r mut RequestBody,
    progress: Option<Arc<RequestProgress>>,
    /// No more of the body is sent.
    is_stopped: bool,
}

impl<'r> Upload<'r> {
    /// With the progress that the client's side reads, for a request with a body.
    pub(super) fn new(head: &'r [u8], body: &'r mut RequestBody, progress: Option<Arc<RequestProgress>>) -> Self {
        let mut upload = Upload {
            head,
            head_sent: 0,
            outbox: Vec::new(),
            written: 0,
            needs_flush: false,
            progress,
            is_stopped: false,
            body,
        };
        // What an earlier attempt has sent is sent again.
        let kept = std::mem::take(&mut upload.body.kept);
        hold(&mut upload.outbox, upload.body.framing, &kept);
        upload.body.kept = kept;
        if upload.body.has_ended {
            upload.hold_end();
        }
        upload
    }

    /// The bytes of the body that were read by earlier attempts.
    pub(super) fn kept_len(&self) -> usize {
        self.body.kept.len()
    }

    /// Whether the server's kernel has the whole request.
    pub(super) fn is_whole(&self) -> bool {
        self.has_client_ended() && !self.has_unsent() && !self.is_stopped
    }

    /// Whether the client's body was read to its end.
    pub(super) fn has_client_ended(&self) -> bool {
        self.body.has_ended
    }

    /// Whether more of the request is to be sent.
    pub(super) fn is_active(&self) -> bool {
        !self.is_stopped && (!self.body.has_ended || self.has_unsent())
    }

    /// Whether the client's body is still read.
    pub(super) fn is_reading(&self) -> bool {
        !self.is_stopped && !self.body.has_ended
    }

    fn has_unsent(&self) -> bool {
        self.head_sent < self.head.len() || self.written < self.outbox.len() || self.needs_flush
    }

    /// Whether all that was read of the body can be sent again.
    pub(super) fn is_repeatable(&self) -> bool {
        self.body.is_repeatable()
    }

    /// There is no other attempt.
    pub(super) fn forget_kept(&mut self) {
        self.body.forget();
    }

    /// The bytes of the client's body that were read.
    pub(super) fn read_len(&self) -> u64 {
        self.body.read_len
    }

    /// Sends no more of the request.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
        (self.outbox, self.written, self.needs_flush) = (Vec::new(), 0, false);
        self.head_sent = self.head.len();
        if let Some(progress) = &self.progress {
            progress.seal();
        }
    }

    /// Reads the client's body and sends it on, as far as both sides are ready.
    ///
    /// # Errors
    /// Returns an error of the client, or of `count`, which gets the length of each piece.
    pub(super) fn poll<S: ServerStream, C: ExchangeClient>(
        &mut self,
        cx: &mut Context<'_>,
        server: &mut S,
        client: &mut C,
        mut count: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        while self.is_active() {
            let is_waiting = !self.is_reading() || self.poll_client(cx, client, &mut count)?.is_pending();
            // Head, size, data and end of a short body leave together.
            if !is_waiting && self.is_reading() && self.outbox.len() < OUTBOX_LEN_MAX {
                continue;
            }
            self.send(cx, server);
            // With no room at the server, the next look at the client is the one that watches it.
            if is_waiting {
                break;
            }
        }
        Ok(())
    }

    /// Reads a piece of the client's body, if the server has taken those before.
    fn poll_client<C: ExchangeClient>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        count: &mut impl FnMut(usize) -> Result<()>,
    ) -> Result<Poll<()>> {
        let (framing, mut len) = (self.body.framing, 0);
        let (outbox, body) = (&mut self.outbox, &mut *self.body);
        let polled = client.poll_body(cx, &mut |data: &[u8]| {
            len += data.len();
            hold(outbox, framing, data);
            body.keep(data);
        });
        self.body.is_touched |= polled.is_ready();
        if len > 0 {
            count(len)?;
        }
        match polled {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(BodyStep::Piece)) => Ok(Poll::Ready(())),
            Poll::Ready(Ok(BodyStep::End)) => {
                self.body.has_ended = true;
                self.hold_end();
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    /// The terminator is written here alone, once the client's body has ended: a body that broke
    /// off must not look complete.
    fn hold_end(&mut self) {
        if self.body.framing == UploadFraming::Chunked {
            self.outbox.extend_from_slice(b"0\r\n\r\n");
        }
    }

    fn send<S: ServerStream>(&mut self, cx: &mut Context<'_>, server: &mut S) {
        if let Err(error) = self.try_send(cx, server) {
            tracing::debug!(%error, "the server takes no more of a request");
            self.stop();
        }
        if let Some(progress) = &self.progress {
            let unsent = self.outbox.len() - self.written + self.head.len() - self.head_sent;
            progress.set_pending(unsent.max(usize::from(self.needs_flush)));
        }
    }

    fn try_send<S: ServerStream>(&mut self, cx: &mut Context<'_>, server: &mut S) -> io::Result<()> {
        while self.head_sent < self.head.len() || self.written < self.outbox.len() {
            let head = self.head.get(self.head_sent..).unwrap_or_default();
            let body = self.outbox.get(self.written..).unwrap_or_default();
            let server = Pin::new(&mut *server);
            let written = if head.is_empty() {
                server.poll_write(cx, body)
            } else if body.is_empty() {
                server.poll_write(cx, head)
            } else {
                server.poll_write_vectored(cx, &[io::IoSlice::new(head), io::IoSlice::new(body)])
            };
            let len = match written {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => written?,
            };
            let of_head = len.min(head.len());
            self.head_sent += of_head;
            self.written += len - of_head;
            self.needs_flush = true;
            if let Some(progress) = &self.progress {
                progress.note_taken(len);
            }
        }
        self.outbox.clear();
        self.written = 0;
        if self.body.has_ended {
            self.outbox = Vec::new();
        }
        if !server.is_buffered() {
            self.needs_flush = false;
        } else if self.needs_flush
            && let Poll::Ready(flushed) = Pin::new(server).poll_flush(cx)
        {
            flushed?;
            self.needs_flush = false;
        }
        Ok(())
    }
}

/// Appends data in its framing.
fn hold(outbox: &mut Vec<u8>, framing: UploadFraming, data: &[u8]) {
    use std::io::Write as _;
    match framing {
        // An empty chunk would be the end.
        UploadFraming::Chunked if !data.is_empty() => {
            // Writing to a vector does not fail.
            let _written = write!(outbox, "{:x}\r\n", data.len());
            outbox.extend_from_slice(data);
            outbox.extend_from_slice(b"\r\n");
        }
        UploadFraming::Chunked | UploadFraming::NoBody => {}
        UploadFraming::Length => outbox.extend_from_slice(data),
    }
}
