//! A client that sends one request after the other, over HTTP/1.0, HTTP/1.1 or HTTP/2, and sees
//! how each response ends.

use std::future::poll_fn;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::cells::{Cell, Version};
use crate::process::tests::http1::{Fields, announced_length, chunks, find, head_len, parse_head};
use crate::process::tests::streams::{ByteStream, PATIENCE};

const HOST: &str = "api.test";

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

/// Runs a future of a client, with a limit.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("in time") })
}

/// How the body of a request is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    NoBody,
    Length(usize),
    /// Chunks; over HTTP/2 no length.
    Chunked,
}

/// How a response or a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The response is whole.
    Whole,
    /// The connection ended in order, over TLS with `close_notify`.
    Closed,
    /// The connection ended without `close_notify`.
    Cut,
    /// The connection was reset.
    Reset,
    /// The stream was reset.
    StreamReset(Reason),
    /// The connection over HTTP/2 failed.
    Failed,
}

/// The head of a final response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResponseHead {
    /// The statuses of the 1xx before it.
    pub(super) interim: Vec<u16>,
    pub(super) status: u16,
    /// Of HTTP/1.x.
    pub(super) line: String,
    pub(super) fields: Fields,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) interim: Vec<u16>,
    pub(super) status: u16,
    pub(super) line: String,
    pub(super) fields: Fields,
    /// The data; of chunks that broke off, the bytes as they came.
    pub(super) body: Vec<u8>,
    pub(super) ending: Ending,
}

impl Answer {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The values of a field.
    pub(super) fn field(&self, name: &str) -> Vec<&str> {
        self.fields.get(name).map(|values| values.iter().map(String::as_str).collect()).unwrap_or_default()
    }
}

pub(super) enum Client {
    Http1(Http1),
    Http2(Http2),
}

pub(super) struct Http1 {
    pub(super) stream: ByteStream,
    version: &'static str,
    received: Vec<u8>,
    method: String,
    framing: Framing,
}

pub(super) struct Http2 {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
    /// The socket of the connection.
    pub(super) socket: TcpStream,
    scheme: &'static str,
    /// The last request.
    stream: Option<Http2Stream>,
}

struct Http2Stream {
    response: Option<ResponseFuture>,
    sends: SendStream<Bytes>,
    receives: Option<RecvStream>,
    interim: Vec<u16>,
    received: Vec<u8>,
    ending: Option<Ending>,
}

impl Client {
    pub(super) fn open(cell: Cell, address: SocketAddr) -> Self {
        match cell.version {
            Version::Http1 => Client::Http1(Http1::open(cell, address, "HTTP/1.1")),
            Version::Http2 => {
                let (tcp, scheme) = (TcpStream::connect(address).unwrap(), cell.transport.scheme());
                let socket = tcp.try_clone().unwrap();
                let (sender, connection) = block_on(cell.transport.handshake_http2(tcp));
                Client::Http2(Http2 { sender, connection, socket, scheme, stream: None })
            }
        }
    }

    /// A client of HTTP/1.0, whatever the cell says.
    pub(super) fn open_http1_0(cell: Cell, address: SocketAddr) -> Self {
        Client::Http1(Http1::open(cell, address, "HTTP/1.0"))
    }

    /// Sends one request with its body, and returns the response.
    #[track_caller]
    pub(super) fn ask(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        let framing = if body.is_empty() { Framing::NoBody } else { Framing::Length(body.len()) };
        self.begin(method, target, fields, framing, body);
        self.finish();
        self.answer()
    }

    /// Sends the head of a request and, in the same write, the beginning of its body.
    pub(super) fn begin(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        framing: Framing,
        first: &[u8],
    ) {
        match self {
            Client::Http1(client) => client.begin(method, target, fields, framing, first),
            Client::Http2(client) => {
                client.begin(method, target, fields, framing);
                if !first.is_empty() {
                    client.send(first);
                }
            }
        }
    }

    /// Sends a piece of the body. `false` if the gateway takes no more.
    pub(super) fn send(&mut self, data: &[u8]) -> bool {
        match self {
            Client::Http1(client) => {
                let bytes = client.framed(data);
                client.stream.write_all(&bytes).is_ok()
            }
            Client::Http2(client) => client.send(data),
        }
    }

    /// Ends the body. `false` if the gateway takes no more.
    pub(super) fn finish(&mut self) -> bool {
        match self {
            Client::Http1(client) if client.framing == Framing::Chunked => {
                client.stream.write_all(b"0\r\n\r\n").is_ok()
            }
            Client::Http1(_) => true,
            Client::Http2(client) => client.finish(),
        }
    }

    /// The whole response.
    #[track_caller]
    pub(super) fn answer(&mut self) -> Answer {
        let head = self.head();
        self.rest(head)
    }

    /// How the response ends. Over HTTP/2 a reset overtakes what is not sent yet, even the head.
    pub(super) fn ending(&mut self) -> Ending {
        self.try_head().map_or_else(|ending| ending, |head| self.rest(head).ending)
    }

    /// The head of the response.
    #[track_caller]
    pub(super) fn head(&mut self) -> ResponseHead {
        self.try_head().unwrap_or_else(|ending| panic!("no response: {ending:?}"))
    }

    /// The head of the response, or how the exchange ended without one.
    pub(super) fn try_head(&mut self) -> Result<ResponseHead, Ending> {
        match self {
            Client::Http1(client) => client.head(),
            Client::Http2(client) => client.head(),
        }
    }

    /// Reads until this text of the body has come. It is still part of the [`rest`](Self::rest).
    pub(super) fn wait_for(&mut self, text: &[u8]) {
        match self {
            Client::Http1(client) => {
                while find(&client.received, text).is_none() {
                    client.fill().unwrap_or_else(|ending| panic!("{ending:?} before {}", text.escape_ascii()));
                }
            }
            Client::Http2(client) => client.wait_for(text),
        }
    }

    /// The body of a response whose head was read.
    pub(super) fn rest(&mut self, head: ResponseHead) -> Answer {
        let (body, ending) = match self {
            Client::Http1(client) => client.body(&head),
            Client::Http2(client) => client.body(&head),
        };
        let ResponseHead { interim, status, line, fields } = head;
        Answer { interim, status, line, fields, body, ending }
    }

    /// How the connection ends, before anything else comes.
    pub(super) fn connection_end(&mut self) -> Ending {
        match self {
            Client::Http1(client) => {
                let ending = client.fill().expect_err("the end of the connection");
                assert!(client.received.is_empty(), "more came: {}", client.received.escape_ascii());
                ending
            }
            Client::Http2(client) => {
                client.stream = None;
                let ended = block_on(&mut client.connection).expect("no panic");
                if ended.is_ok() { Ending::Closed } else { Ending::Failed }
            }
        }
    }

    /// Ends the connection at once.
    pub(super) fn close(self) {
        if let Client::Http2(mut client) = self {
            client.connection.abort();
            let _aborted = block_on(&mut client.connection);
        }
    }

    /// The client of HTTP/1.x.
    pub(super) fn http1(&mut self) -> &mut Http1 {
        match self {
            Client::Http1(client) => client,
            Client::Http2(_) => panic!("a client of HTTP/2"),
        }
    }

    /// The client of HTTP/2.
    pub(super) fn http2(&mut self) -> &mut Http2 {
        match self {
            Client::Http1(_) => panic!("a client of HTTP/1.x"),
            Client::Http2(client) => client,
        }
    }
}

impl Http1 {
    fn open(cell: Cell, address: SocketAddr, version: &'static str) -> Self {
        let stream = cell.transport.connect(address);
        Http1 { stream, version, received: Vec::new(), method: String::new(), framing: Framing::NoBody }
    }

    fn begin(&mut self, method: &str, target: &str, fields: &[(&str, &str)], framing: Framing, first: &[u8]) {
        (self.method, self.framing) = (method.to_owned(), framing);
        let mut head = format!("{method} {target} {}\r\nHost: {HOST}\r\n", self.version);
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match framing {
            Framing::NoBody => {}
            Framing::Length(len) => head.push_str(&format!("Content-Length: {len}\r\n")),
            Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
        }
        head.push_str("\r\n");
        let bytes = [head.into_bytes(), self.framed(first)].concat();
        self.stream.write_all(&bytes).expect("sent");
    }

    fn framed(&self, data: &[u8]) -> Vec<u8> {
        match self.framing {
            Framing::Chunked if !data.is_empty() => {
                [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
            }
            Framing::Chunked | Framing::NoBody | Framing::Length(_) => data.to_vec(),
        }
    }

    /// Reads more, or finds how the connection has ended.
    pub(super) fn fill(&mut self) -> Result<(), Ending> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(Ending::Closed),
            Ok(len) => {
                self.received.extend_from_slice(&piece[..len]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(Ending::Cut),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                Err(Ending::Reset)
            }
            Err(error) => panic!("{error}, after {}", self.received.escape_ascii()),
        }
    }

    /// Reads exactly this many bytes.
    pub(super) fn exactly(&mut self, len: usize) -> Vec<u8> {
        while self.received.len() < len {
            self.fill().unwrap_or_else(|ending| panic!("{ending:?} after {}", self.received.escape_ascii()));
        }
        self.received.drain(..len).collect()
    }

    /// Waits for a head. It is still to be read.
    pub(super) fn wait_for_head(&mut self) {
        while head_len(&self.received).is_none() {
            self.fill().unwrap_or_else(|ending| panic!("{ending:?} before a head"));
        }
    }

    fn head(&mut self) -> Result<ResponseHead, Ending> {
        let mut interim = Vec::new();
        loop {
            let len = loop {
                match head_len(&self.received) {
                    Some(len) => break len,
                    None => self.fill()?,
                }
            };
            let (line, fields) = parse_head(&self.received.drain(..len).collect::<Vec<u8>>());
            let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
            match status.unwrap_or_else(|| panic!("{line}")) {
                101 => return Ok(ResponseHead { interim, status: 101, line, fields }),
                status @ 100..=199 => interim.push(status),
                status => return Ok(ResponseHead { interim, status, line, fields }),
            }
        }
    }

    fn body(&mut self, head: &ResponseHead) -> (Vec<u8>, Ending) {
        let is_chunked = head.fields.contains_key("transfer-encoding");
        let has_length = head.fields.contains_key("content-length");
        if self.method == "HEAD" || matches!(head.status, 204 | 304) {
            return (Vec::new(), Ending::Whole);
        }
        assert!(!is_chunked || !has_length, "{head:?}");
        loop {
            if is_chunked {
                if let Some((len, data)) = chunks(&self.received) {
                    self.received.drain(..len);
                    return (data, Ending::Whole);
                }
            } else if has_length && self.received.len() >= announced_length(&head.fields) {
                return (self.received.drain(..announced_length(&head.fields)).collect(), Ending::Whole);
            }
            if let Err(ending) = self.fill() {
                let is_whole = !is_chunked && !has_length && ending == Ending::Closed;
                return (std::mem::take(&mut self.received), if is_whole { Ending::Whole } else { ending });
            }
        }
    }
}

impl Http2 {
    fn begin(&mut self, method: &str, target: &str, fields: &[(&str, &str)], framing: Framing) {
        let uri = format!("{}://{HOST}{target}", self.scheme);
        let mut head = http::Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            head = head.header(*name, *value);
        }
        if let Framing::Length(len) = framing {
            head = head.header("content-length", len);
        }
        let ends = framing == Framing::NoBody;
        block_on(poll_fn(|cx| self.sender.poll_ready(cx))).expect("a connection");
        let (response, sends) = self.sender.send_request(head.body(()).unwrap(), ends).expect("sent");
        self.stream = Some(Http2Stream {
            response: Some(response),
            sends,
            receives: None,
            interim: Vec::new(),
            received: Vec::new(),
            ending: None,
        });
    }

    fn stream(&mut self) -> &mut Http2Stream {
        self.stream.as_mut().expect("a request")
    }

    fn send(&mut self, data: &[u8]) -> bool {
        if data.is_empty() {
            return self.stream().sends.send_data(Bytes::new(), false).is_ok();
        }
        let mut data = Bytes::copy_from_slice(data);
        while !data.is_empty() {
            let Some(room) = block_on(self.room(data.len())) else { return false };
            if self.stream().sends.send_data(data.split_to(room.min(data.len())), false).is_err() {
                return false;
            }
        }
        true
    }

    /// How much of a body may be sent, once that is something. `None` if the stream has ended.
    async fn room(&mut self, wanted: usize) -> Option<usize> {
        let sends = &mut self.stream().sends;
        sends.reserve_capacity(wanted);
        loop {
            let room = sends.capacity();
            if room > 0 {
                return Some(room);
            }
            poll_fn(|cx| sends.poll_capacity(cx)).await?.ok()?;
        }
    }

    /// Sends as much as the windows allow. Returns how much that was, once they have been closed
    /// for `quiet`.
    pub(super) fn send_until_full(&mut self, data: &[u8], quiet: std::time::Duration) -> usize {
        let mut rest = Bytes::copy_from_slice(data);
        while !rest.is_empty() {
            let room = RUNTIME.block_on(async { tokio::time::timeout(quiet, self.room(rest.len())).await });
            let Ok(room) = room else { break };
            let part = rest.split_to(room.expect("an open stream").min(rest.len()));
            self.stream().sends.send_data(part, false).unwrap();
        }
        data.len() - rest.len()
    }

    fn finish(&mut self) -> bool {
        let stream = self.stream();
        stream.sends.send_data(Bytes::new(), true).is_ok()
    }

    fn head(&mut self) -> Result<ResponseHead, Ending> {
        let stream = self.stream();
        let mut response = stream.response.take().expect("one head a request");
        let mut interim = std::mem::take(&mut stream.interim);
        block_on(async {
            while let Some(head) = poll_fn(|cx| response.poll_informational(cx)).await {
                interim.push(head.map_err(|error| ending_of(&error))?.status().as_u16());
            }
            let (parts, receives) = response.await.map_err(|error| ending_of(&error))?.into_parts();
            self.stream().receives = Some(receives);
            let mut fields = Fields::new();
            for (name, value) in &parts.headers {
                let value = value.as_bytes().iter().copied().map(char::from).collect();
                fields.entry(name.to_string()).or_default().push(value);
            }
            for name in ["connection", "transfer-encoding", "keep-alive", "upgrade"] {
                assert!(!fields.contains_key(name), "RFC 9113, section 8.2.2: {fields:?}");
            }
            Ok(ResponseHead { interim, status: parts.status.as_u16(), line: String::new(), fields })
        })
    }

    /// Waits for an interim response. It is still part of the head.
    pub(super) fn wait_for_interim(&mut self) {
        let stream = self.stream();
        let response = stream.response.as_mut().expect("no head yet");
        let head = block_on(poll_fn(|cx| response.poll_informational(cx))).expect("an interim response");
        stream.interim.push(head.expect("an interim response").status().as_u16());
    }

    fn wait_for(&mut self, text: &[u8]) {
        while find(&self.stream().received, text).is_none() {
            let ending = block_on(self.stream().fill());
            assert_eq!(ending, None, "before {}", text.escape_ascii());
        }
    }

    fn body(&mut self, head: &ResponseHead) -> (Vec<u8>, Ending) {
        let stream = self.stream();
        let ending = block_on(async {
            loop {
                if let Some(ending) = stream.fill().await {
                    return ending;
                }
            }
        });
        let body = std::mem::take(&mut stream.received);
        // The library does not say whether END_STREAM came before such a reset.
        let is_whole = head.fields.contains_key("content-length") && body.len() == announced_length(&head.fields);
        let is_ended_early = ending == Ending::StreamReset(Reason::NO_ERROR);
        (body, if is_ended_early && is_whole { Ending::Whole } else { ending })
    }

    /// Resets the stream of the last request.
    pub(super) fn reset_stream(&mut self) {
        self.stream().sends.send_reset(Reason::CANCEL);
    }
}

impl Http2Stream {
    /// Reads more of the body, or finds how it has ended.
    async fn fill(&mut self) -> Option<Ending> {
        if self.ending.is_some() {
            return self.ending;
        }
        let receives = self.receives.as_mut().expect("a head");
        match receives.data().await {
            Some(Ok(piece)) => {
                // The stream may have ended.
                let _released = receives.flow_control().release_capacity(piece.len());
                self.received.extend_from_slice(&piece);
            }
            Some(Err(error)) => self.ending = Some(ending_of(&error)),
            None => self.ending = Some(Ending::Whole),
        }
        self.ending
    }
}

fn ending_of(error: &h2::Error) -> Ending {
    match error.reason() {
        Some(reason) if error.is_reset() => Ending::StreamReset(reason),
        Some(_) | None => Ending::Failed,
    }
}
