//! Follows the bytes of one request on its way to a server of HTTP/1.1, and lets nothing pass that
//! is not part of it.
//!
//! One request in is one request out: whatever the layers above write, the server reads one head, a
//! body framed as that head says, and nothing more until the next request has the connection.

use crossgate_wire::exchange::{RequestFraming, RequestProgress};

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follower {
    /// Nothing is written yet.
    Head,
    /// The body is on its way.
    Body(RequestFraming),
    /// The last byte is written.
    Done,
}

/// Bytes that are not part of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Surplus;

impl Follower {
    /// Takes the next bytes, of which a head is always written whole.
    ///
    /// # Errors
    /// [`Surplus`] where the bytes are beyond the request, are not framed as announced, or end a
    /// body that the client has not sent to its end.
    pub(super) fn take(&mut self, bytes: &[u8], progress: &RequestProgress) -> Result<(), Surplus> {
        *self = match self {
            Follower::Head => {
                let framing = progress.framing().filter(|_| bytes.ends_with(b"\r\n\r\n")).ok_or(Surplus)?;
                if framing == RequestFraming::Length(0) { Follower::Done } else { Follower::Body(framing) }
            }
            Follower::Body(RequestFraming::Length(left)) => {
                let left = left.checked_sub(bytes.len() as u64).ok_or(Surplus)?;
                if left == 0 { Follower::Done } else { Follower::Body(RequestFraming::Length(left)) }
            }
            Follower::Body(RequestFraming::Chunked(chunked)) => {
                let len = chunked.take(bytes).map_err(|_| Surplus)?;
                if len < bytes.len() || chunked.is_done() && !progress.has_body_end() {
                    return Err(Surplus);
                }
                if chunked.is_done() { Follower::Done } else { Follower::Body(RequestFraming::Chunked(*chunked)) }
            }
            Follower::Done if bytes.is_empty() => Follower::Done,
            Follower::Done => return Err(Surplus),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossgate_wire::exchange::chunked::ChunkedDecoder;

    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nhost: a.test\r\n\r\n";

    /// Whether each of these writes is let through, once the client's body has ended or not.
    #[track_caller]
    fn check(framing: RequestFraming, has_end: bool, writes: &[(&[u8], bool)]) {
        let (progress, mut follower) = (RequestProgress::default(), Follower::Head);
        progress.begin(framing, false);
        if has_end {
            progress.end_body();
        }
        for (bytes, passes) in writes {
            assert_eq!(follower.take(bytes, &progress).is_ok(), *passes, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn bytes_after_the_last_one_are_surplus() {
        let chunked = RequestFraming::Chunked(ChunkedDecoder::new());
        check(RequestFraming::Length(0), true, &[(HEAD, true), (b"", true), (b"x", false)]);
        check(RequestFraming::Length(0), true, &[(HEAD, true), (b"0\r\n\r\n", false)]);
        check(RequestFraming::Length(5), true, &[(HEAD, true), (b"hel", true), (b"lo", true), (b"!", false)]);
        check(RequestFraming::Length(5), true, &[(HEAD, true), (b"hello!", false)]);
        check(
            chunked,
            true,
            &[
                (HEAD, true),
                (b"5\r\n", true),
                (b"hello", true),
                (b"\r\n", true),
                (b"0\r\n\r\n", true),
                (b"0\r\n\r\n", false),
            ],
        );
        check(chunked, true, &[(HEAD, true), (b"0\r\n\r\n0\r\n\r\n", false)]);
    }

    #[test]
    fn a_body_that_broke_off_gets_no_terminator() {
        let chunked = RequestFraming::Chunked(ChunkedDecoder::new());
        check(chunked, false, &[(HEAD, true), (b"5\r\nhello\r\n", true), (b"0\r\n\r\n", false)]);
    }

    #[test]
    fn a_head_is_one_write_of_an_announced_request() {
        check(RequestFraming::Length(0), true, &[(b"POST / HTTP/1.1\r\n", false)]);
        let progress = RequestProgress::default();
        assert_eq!(Follower::Head.take(HEAD, &progress), Err(Surplus));
    }
}
