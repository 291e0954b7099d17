//! A strict HTTP/1.1 client: it sends raw bytes and reads whole answers with their header lines in
//! order.
//!
//! It is strict because tests rely on it: an answer that a lenient parser would accept is malformed
//! here. Bytes of header values become the characters U+0000 to U+00FF, so that all values can be
//! compared.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// Longer than all limits of the gateway that tests wait for, and shorter than the timeout of a
/// test runner.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// The reason why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WireError {
    /// The peer closed the connection between two answers.
    Closed,
    /// The peer closed the connection within an answer.
    Truncated,
    /// The peer reset the connection.
    Reset,
    /// No bytes arrived before the deadline.
    TimedOut,
    /// The bytes are not HTTP/1.1.
    Malformed(String),
}

/// Header lines in order, as sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    /// The values of all lines with that name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.0.iter().filter(|(have, _)| have.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// The value of the only line with that name.
    pub(crate) fn one(&self, name: &str) -> &str {
        let all = self.all(name);
        assert_eq!(all.len(), 1, "expected exactly one {name} in {self:?}");
        all[0]
    }

    /// All fields that matter for CORS: every `Access-Control-*` line as sent, and under `vary` the
    /// result of [`Headers::vary`].
    pub(crate) fn cors(&self) -> BTreeMap<String, Vec<String>> {
        let mut set: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &self.0 {
            let name = name.to_ascii_lowercase();
            if name.starts_with("access-control-") {
                set.entry(name).or_default().push(value.clone());
            }
        }
        if self.has("vary") {
            set.insert("vary".to_owned(), self.vary());
        }
        set
    }

    /// The members of all `Vary` lines, lower case and sorted, with repetitions.
    pub(crate) fn vary(&self) -> Vec<String> {
        let lines = self.all("vary").join(",");
        let members = lines.split(',').map(|member| member.trim().to_ascii_lowercase());
        let mut members: Vec<String> = members.filter(|member| !member.is_empty()).collect();
        members.sort();
        members
    }

    /// The names of the `Access-Control-*` lines.
    pub(crate) fn access_control(&self) -> Vec<String> {
        self.cors().into_keys().filter(|name| name != "vary").collect()
    }
}

/// One whole answer and the interim answers before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Headers,
    pub(crate) interim: Vec<(u16, Headers)>,
}

impl Response {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }
}

/// A request as bytes. It adds only `Host`, and `Content-Length` if the body is not empty.
pub(crate) fn request(method: &str, target: &str, host: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend(name.bytes().chain(*b": "));
        bytes.extend(latin1(value));
        bytes.extend(*b"\r\n");
    }
    if !body.is_empty() {
        bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
    }
    bytes.extend(*b"\r\n");
    bytes.extend(body);
    bytes
}

/// The bytes of characters up to U+00FF.
pub(crate) fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("a character up to U+00FF")).collect()
}

/// Bytes as characters up to U+00FF.
pub(crate) fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// One connection to the gateway.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("connect"))
    }

    /// Opens a connection from a given address of this machine.
    pub(crate) fn open_from(source: IpAddr, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(source, 0).into()).expect("bind");
        socket.connect(&address.into()).expect("connect");
        Self::over(socket.into())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(READ_TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Opens a connection, sends one request and reads its answer.
    pub(crate) fn ask(address: SocketAddr, bytes: &[u8]) -> Result<Response, WireError> {
        let mut connection = Self::open(address);
        connection.send(bytes)?;
        connection.answer_to(bytes)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.stream.write_all(bytes).map_err(|error| io_error(&error))
    }

    pub(crate) fn finish_sending(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("shut the sending side down");
    }

    /// Sends one request and reads its answer on this connection.
    pub(crate) fn exchange(&mut self, bytes: &[u8]) -> Result<Response, WireError> {
        self.send(bytes)?;
        self.answer_to(bytes)
    }

    /// Reads the answer to a request. An answer to HEAD has no body.
    pub(crate) fn answer_to(&mut self, request: &[u8]) -> Result<Response, WireError> {
        self.answer(request.starts_with(b"HEAD "))
    }

    fn answer(&mut self, to_head: bool) -> Result<Response, WireError> {
        let mut response = self.head()?;
        let mut interim = Vec::new();
        while (100..200).contains(&response.status) && response.status != 101 {
            interim.push((response.status, response.headers));
            response = self.head().map_err(within)?;
        }
        response.interim = interim;
        if !(to_head || matches!(response.status, 101 | 204 | 304)) {
            self.body(&mut response)?;
        }
        Ok(response)
    }

    /// Reads the status line and the headers. The caller reads the body.
    pub(crate) fn head(&mut self) -> Result<Response, WireError> {
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                break std::mem::replace(&mut self.buffer, rest);
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(malformed("head without end", &self.buffer[..64]));
            }
            let begun = !self.buffer.is_empty();
            self.fill().map_err(|error| if begun { within(error) } else { error })?;
        };
        parse_head(&head[..head.len() - 4])
    }

    fn body(&mut self, response: &mut Response) -> Result<(), WireError> {
        let lengths = response.headers.all("content-length");
        match (response.headers.all("transfer-encoding").as_slice(), lengths.as_slice()) {
            (["chunked"], []) => self.chunked(response),
            ([], [length]) if length.bytes().all(|b| b.is_ascii_digit()) => {
                let length = length.parse().map_err(|_| malformed("content-length", length.as_bytes()))?;
                response.body = self.exactly(length)?;
                Ok(())
            }
            ([], []) => self.until_closed(response),
            _ => Err(WireError::Malformed(format!("framing of {:?}", response.headers))),
        }
    }

    fn chunked(&mut self, response: &mut Response) -> Result<(), WireError> {
        while let Some(chunk) = self.chunk()? {
            response.body.extend(chunk);
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(());
            }
            response.trailers.0.push(parse_field(&line)?);
        }
    }

    /// Reads the next chunk of a chunked body. `None`: the last chunk, before the trailers.
    pub(crate) fn chunk(&mut self) -> Result<Option<Vec<u8>>, WireError> {
        let size = self.line()?;
        let hex = size.iter().all(u8::is_ascii_hexdigit) && !size.is_empty();
        let length = usize::from_str_radix(&text(&size), 16).ok().filter(|_| hex);
        let length = length.ok_or_else(|| malformed("chunk size", &size))?;
        if length == 0 {
            return Ok(None);
        }
        let chunk = self.exactly(length)?;
        let end = self.exactly(2)?;
        if end == b"\r\n" { Ok(Some(chunk)) } else { Err(malformed("chunk end", &end)) }
    }

    /// Reads exactly that many bytes.
    pub(crate) fn exactly(&mut self, length: usize) -> Result<Vec<u8>, WireError> {
        while self.buffer.len() < length {
            self.fill().map_err(within)?;
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn line(&mut self) -> Result<Vec<u8>, WireError> {
        let end = loop {
            match find(&self.buffer, b"\r\n") {
                Some(end) => break end,
                None => self.fill().map_err(within)?,
            }
        };
        let mut line = self.exactly(end + 2)?;
        line.truncate(end);
        Ok(line)
    }

    fn until_closed(&mut self, response: &mut Response) -> Result<(), WireError> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(WireError::Closed) => break,
                Err(error) => return Err(error),
            }
        }
        response.body = std::mem::take(&mut self.buffer);
        Ok(())
    }

    /// Whether the peer closed the connection without further bytes.
    pub(crate) fn is_at_end(&mut self) -> bool {
        self.buffer.is_empty() && matches!(self.fill(), Err(WireError::Closed | WireError::Reset))
    }

    fn fill(&mut self) -> Result<(), WireError> {
        let mut piece = vec![0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(WireError::Closed),
            Ok(length) => {
                self.buffer.extend(&piece[..length]);
                Ok(())
            }
            Err(error) => Err(io_error(&error)),
        }
    }
}

fn parse_head(head: &[u8]) -> Result<Response, WireError> {
    let mut lines = split_lines(head).into_iter();
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix(b"HTTP/1.1 ").filter(|rest| rest.len() >= 4 && rest[3] == b' ');
    let status = status.and_then(|rest| text(&rest[..3]).parse().ok());
    let status = status.ok_or_else(|| malformed("status line", first))?;
    let fields: Result<Vec<_>, _> = lines.map(parse_field).collect();
    Ok(Response { status, headers: Headers(fields?), ..Response::default() })
}

pub(super) fn parse_field(line: &[u8]) -> Result<(String, String), WireError> {
    let colon = line.iter().position(|b| *b == b':').ok_or_else(|| malformed("field", line))?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let visible = |b: &u8| *b == b'\t' || (*b >= b' ' && *b != 0x7f);
    if name.is_empty() || !name.iter().all(token) || !value.iter().all(visible) {
        return Err(malformed("field", line));
    }
    Ok((text(name), text(value)))
}

/// Splits at CRLF only. A bare CR or LF stays in its line, where `parse_field` refuses it.
pub(super) fn split_lines(bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while let Some(end) = find(rest, b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    lines
}

pub(super) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn malformed(what: &str, bytes: &[u8]) -> WireError {
    WireError::Malformed(format!("{what}: {:?}", text(bytes)))
}

fn within(error: WireError) -> WireError {
    if error == WireError::Closed { WireError::Truncated } else { error }
}

fn io_error(error: &std::io::Error) -> WireError {
    let kind = error.kind();
    if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&kind) {
        WireError::TimedOut
    } else if [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&kind) {
        WireError::Reset
    } else {
        WireError::Malformed(error.to_string())
    }
}
