//! The load: one thread that writes a request to each of its connections and then reads the answers
//! in turn.
//!
//! While it reads one connection, all others have a pending request. So the gateway always has
//! work, and the load makes one system call at a time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The number of connections, and of pending requests.
pub(crate) const CONNECTIONS: u64 = 16;
/// The timeout of an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer, including its head.
const ANSWER_LEN_MAX: usize = 128 << 10;
const FIELDS_MAX: usize = 32;

/// The parts of an answer that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body_len: usize,
}

/// The kept connections.
pub(crate) struct Client {
    connections: Vec<TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(gateway: SocketAddr) -> Self {
        let connections = (0..CONNECTIONS).map(|_| connect(gateway)).collect();
        Self { connections, buffer: vec![0; ANSWER_LEN_MAX] }
    }

    /// Sends a request on all connections and returns their common answer.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Answer {
        let mut answers = Vec::new();
        self.round(request, CONNECTIONS, |answer| answers.push(answer));
        let first = *answers.first().expect("an answer");
        assert!(answers.iter().all(|answer| *answer == first), "{answers:?}");
        first
    }

    /// The time for `count` requests, which must all get the wanted answer.
    pub(crate) fn time(&mut self, request: &[u8], wanted: Answer, count: u64) -> Duration {
        let began = Instant::now();
        let mut left = count;
        while left > 0 {
            let now = left.min(CONNECTIONS);
            self.round(request, now, |answer| assert_eq!(answer, wanted));
            left -= now;
        }
        began.elapsed()
    }

    fn round(&mut self, request: &[u8], count: u64, mut on_answer: impl FnMut(Answer)) {
        let Self { connections, buffer } = self;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        for connection in connections.iter_mut().take(count) {
            connection.write_all(request).expect("a connection that takes the request");
        }
        for connection in connections.iter_mut().take(count) {
            on_answer(read_answer(connection, buffer));
        }
    }
}

fn connect(gateway: SocketAddr) -> TcpStream {
    let connection = TcpStream::connect(gateway).expect("a connection");
    connection.set_nodelay(true).expect("no delay");
    connection.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    connection
}

/// Reads a whole answer. Bytes after it are an error.
fn read_answer(connection: &mut TcpStream, buffer: &mut [u8]) -> Answer {
    let (mut len, mut head) = (0, None);
    loop {
        let read = connection.read(&mut buffer[len..]).expect("an answer in time");
        assert!(read > 0, "the connection closed after {:?}", String::from_utf8_lossy(&buffer[..len]));
        len += read;
        head = head.or_else(|| parse_head(&buffer[..len]));
        if let Some((head_len, answer)) = head
            && len >= head_len + answer.body_len
        {
            assert_eq!(len, head_len + answer.body_len, "more than one answer");
            return answer;
        }
    }
}

/// The length of a complete head, and its answer.
fn parse_head(bytes: &[u8]) -> Option<(usize, Answer)> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response.parse(bytes).unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(bytes)));
    let httparse::Status::Complete(len) = parsed else { return None };
    let value = |name: &str| response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
    assert!(value("transfer-encoding").is_none(), "an answer without a length");
    let body_len = value("content-length")
        .map_or(0, |field| str::from_utf8(field.value).ok().and_then(|digits| digits.parse().ok()).expect("a length"));
    Some((len, Answer { status: response.code.expect("a status"), body_len }))
}
