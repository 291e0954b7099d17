//! The upstream of the gateway: two prepared answers on kept connections, with a thread for each
//! connection.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;

/// The length of the small answer's body.
pub(crate) const SMALL_LEN: usize = 128;
/// The path of the large answer.
pub(crate) const LARGE_PATH: &str = "/64k";
/// The length of the large answer's body.
pub(crate) const LARGE_LEN: usize = 64 << 10;

const REQUEST_LEN_MAX: usize = 16 << 10;
const FIELDS_MAX: usize = 64;

/// The bytes of the answers.
struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
}

/// Serves until it is killed. Prints its address to standard error, as the gateway does.
pub(crate) fn main() -> ExitCode {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    eprintln!("listening role=upstream address={}", listener.local_addr().expect("its address"));
    let answers = Answers { small: answer(SMALL_LEN), large: answer(LARGE_LEN) };
    thread::scope(|scope| {
        for connection in listener.incoming().flatten() {
            scope.spawn(|| serve(connection, &answers));
        }
    });
    ExitCode::FAILURE
}

fn answer(body_len: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {body_len}\r\n\r\n");
    [head.into_bytes(), vec![b'x'; body_len]].concat()
}

/// Answers the requests of a connection until the gateway closes it.
fn serve(mut connection: TcpStream, answers: &Answers) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let (mut buffer, mut len) = ([0; REQUEST_LEN_MAX], 0);
    loop {
        let read = connection.read(&mut buffer[len..])?;
        if read == 0 {
            return Ok(());
        }
        len += read;
        // The gateway sends a request only after the last one is answered.
        if let Some(is_large) = parse(&buffer[..len]) {
            connection.write_all(if is_large { &answers.large } else { &answers.small })?;
            len = 0;
        }
    }
}

/// Whether a complete request is for the large answer.
fn parse(bytes: &[u8]) -> Option<bool> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(head_len) = request.parse(bytes).expect("a request") else { return None };
    let length = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let body_len: usize = length
        .map_or(0, |field| str::from_utf8(field.value).ok().and_then(|digits| digits.parse().ok()).expect("a length"));
    (bytes.len() >= head_len + body_len).then(|| request.path == Some(LARGE_PATH))
}
