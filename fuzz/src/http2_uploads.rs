//! Whole HTTP/2 streams in any framing, in front of a strict HTTP/1.1 upstream.
//!
//! The input chooses the frames: DATA of any size, empty or padded, END_STREAM and RST_STREAM
//! anywhere, and interleaved streams. They go to a gateway in this process over loopback. Its
//! upstream must read only valid requests. Each stream that ended is one request with the body that
//! was sent. A stream that was reset is at most the beginning of a request.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use crossgate::process::{GatewayProcess, ProcessOptions};
use crossgate::reload::BrokenTenants;
use crossgate_wire::exchange::RequestEngine;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const ACK: u8 = 1;

const STREAMS_MAX: usize = 4;
/// Below the initial window of a stream, 65,535 bytes.
const BODY_LEN_MAX: usize = 60_000;
const PATIENCE: Duration = Duration::from_secs(20);

const METHODS: [&str; 5] = ["POST", "PUT", "PATCH", "DELETE", "GET"];

/// The request on one stream.
#[derive(Default)]
struct Upload {
    method: &'static str,
    path: String,
    body: Vec<u8>,
    is_ended: bool,
    is_reset: bool,
}

/// The whole requests that the upstream has read, by path, and its errors.
#[derive(Default)]
struct Seen {
    requests: BTreeMap<String, Vec<(String, Vec<u8>)>>,
    violations: Vec<String>,
}

static SEEN: Mutex<Option<Seen>> = Mutex::new(None);

/// Sends streams to a gateway.
///
/// # Panics
/// If the upstream reads anything but the requests that were sent.
pub fn http2_uploads(bytes: &[u8]) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let run = COUNT.fetch_add(1, Ordering::Relaxed);
    let (uploads, frames) = frames(bytes, run);
    let answered = send(gateway(), &frames, &uploads);
    let seen = seen();
    let seen = seen.as_ref().expect("a gateway");
    assert!(seen.violations.is_empty(), "{:?}", seen.violations);
    for (upload, is_answered) in uploads.iter().zip(answered) {
        let read = seen.requests.get(&upload.path).map_or(&[][..], Vec::as_slice);
        let is_whole = upload.is_ended && !upload.is_reset;
        match read {
            [] => assert!(!is_answered, "{} was answered without the upstream", upload.path),
            [(method, body)] => {
                assert!(upload.is_ended, "{} never ended", upload.path);
                assert_eq!((method.as_str(), body), (upload.method, &upload.body), "{}", upload.path);
            }
            more => panic!("{} was read {} times", upload.path, more.len()),
        }
        assert!(is_whole || !is_answered, "{} was answered", upload.path);
    }
}

/// The streams that the input chooses, and their frames in the order of sending.
fn frames(bytes: &[u8], run: u64) -> (Vec<Upload>, Vec<u8>) {
    let mut choices = bytes.iter().copied();
    let count = usize::from(choices.next().unwrap_or(0)) % STREAMS_MAX + 1;
    let mut frames = Vec::new();
    let mut uploads: Vec<Upload> = (0..count)
        .map(|nth| {
            let method =
                METHODS.get(usize::from(choices.next().unwrap_or(0)) % METHODS.len()).copied().unwrap_or("POST");
            Upload { method, path: format!("/{run}/{nth}"), ..Upload::default() }
        })
        .collect();
    for (nth, upload) in uploads.iter_mut().enumerate() {
        upload.is_ended = choices.next().unwrap_or(0) % 8 == 0;
        frames.extend(head(stream_of(nth), upload));
    }
    while let (Some(choice), Some(size)) = (choices.next(), choices.next()) {
        let nth = usize::from(choice) % count;
        let Some(upload) = uploads.get_mut(nth).filter(|upload| !upload.is_ended && !upload.is_reset) else { continue };
        push(upload, stream_of(nth), choice, size, &mut frames);
    }
    for (nth, upload) in uploads.iter_mut().enumerate() {
        if !upload.is_ended && !upload.is_reset {
            push(upload, stream_of(nth), 0xff, 0, &mut frames);
        }
    }
    (uploads, frames)
}

fn stream_of(nth: usize) -> u32 {
    u32::try_from(nth * 2 + 1).expect("few streams")
}

/// Appends one frame of a stream.
fn push(upload: &mut Upload, stream: u32, choice: u8, size: u8, frames: &mut Vec<u8>) {
    match choice >> 4 {
        0 => {
            upload.is_reset = true;
            frames.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        }
        kind => {
            // Data that looks like chunks and requests makes wrong framing visible.
            let chunky = b"0\r\n\r\n1\r\nx\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".iter().copied().cycle();
            let len = if kind & 1 == 0 { usize::from(size) * 16 } else { usize::from(size % 8) };
            let piece: Vec<u8> = chunky.take(len.min(BODY_LEN_MAX.saturating_sub(upload.body.len()))).collect();
            upload.is_ended = kind >= 12;
            let end = if upload.is_ended { END_STREAM } else { 0 };
            let padding = usize::from(size);
            if kind & 2 == 0 {
                frames.extend(frame(DATA, end, stream, &piece));
            } else {
                let payload = [&[size][..], &piece, &vec![0; padding]].concat();
                frames.extend(frame(DATA, end | PADDED, stream, &payload));
            }
            upload.body.extend(piece);
        }
    }
}

fn head(stream: u32, upload: &Upload) -> Vec<u8> {
    let fields =
        [(":method", upload.method), (":scheme", "http"), (":authority", "api.test"), (":path", upload.path.as_str())];
    let mut block = Vec::new();
    for (name, value) in fields {
        // Literals without indexing, RFC 7541, section 6.2.2; all are short.
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("a short text"));
            block.extend(text.bytes());
        }
    }
    frame(HEADERS, END_HEADERS | if upload.is_ended { END_STREAM } else { 0 }, stream, &block)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends all frames and waits until every stream is over. Returns which of them were answered with
/// 200.
fn send(gateway: SocketAddr, frames: &[u8], uploads: &[Upload]) -> Vec<bool> {
    let mut stream = TcpStream::connect(gateway).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let window = frame(WINDOW_UPDATE, 0, 0, &[0x40, 0, 0, 0]);
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &window].concat();
    stream.write_all(&begin).expect("the preface");
    // Sends the frames after the settings of the gateway, which enlarge the windows.
    let mut over = vec![false; uploads.len()];
    let mut answered = vec![false; uploads.len()];
    let mut is_sent = false;
    for (upload, over) in uploads.iter().zip(&mut over) {
        *over = upload.is_reset;
    }
    while !is_sent || over.contains(&false) {
        let Some((kind, flags, id, payload)) = read_frame(&mut stream) else { break };
        let nth = usize::try_from(id / 2).unwrap_or(usize::MAX);
        match kind {
            SETTINGS if flags & ACK == 0 => {
                let _sent_or_over = stream.write_all(&frame(SETTINGS, ACK, 0, &[]));
                if !std::mem::replace(&mut is_sent, true) {
                    let _sent_or_over = stream.write_all(frames);
                }
            }
            PING if flags & ACK == 0 => drop(stream.write_all(&frame(PING, ACK, 0, &payload))),
            // For example after too many empty frames. Requests without an answer may not have been
            // forwarded.
            GOAWAY => break,
            HEADERS => answered.get_mut(nth).into_iter().for_each(|answered| *answered = is_ok(&payload)),
            _ => {}
        }
        let is_end = kind == RST_STREAM || matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0;
        if let Some(over) = over.get_mut(nth).filter(|_| is_end && id > 0) {
            *over = true;
        }
    }
    answered
}

/// Whether a block begins with `:status: 200` of the static table (RFC 7541, appendix A), after
/// size updates of the dynamic table.
fn is_ok(block: &[u8]) -> bool {
    block.iter().find(|byte| **byte & 0xe0 != 0x20) == Some(&0x88)
}

fn read_frame(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let [a, b, c, kind, flags, id @ ..] = head;
    let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?];
    stream.read_exact(&mut payload).ok()?;
    Some((kind, flags, u32::from_be_bytes(id) & 0x7fff_ffff, payload))
}

fn seen() -> MutexGuard<'static, Option<Seen>> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address of the gateway, which is started once and serves until the process ends.
fn gateway() -> SocketAddr {
    static GATEWAY: OnceLock<(GatewayProcess, SocketAddr)> = OnceLock::new();
    let (_, address) = GATEWAY.get_or_init(|| {
        *seen() = Some(Seen::default());
        let upstream = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let text = format!(
            "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\naccessLog: {{ level: Off }}\nruntime: {{ threads: 2 }}\n\
             upstreams: {{ api: {{ servers: [\"{}\"] }} }}\npolicies: {{ open: {{ allowOrigins: [\"*\"] }} }}\n\
             tenants: [{{ id: a, hosts: [api.test], upstream: api, policy: open }}]\n",
            upstream.local_addr().expect("an address")
        );
        thread::spawn(move || {
            for stream in upstream.incoming().map_while(Result::ok) {
                thread::spawn(move || serve(stream));
            }
        });
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join("crossgate.yaml");
        std::fs::write(&config, text).expect("a file");
        let options = ProcessOptions { config, broken_tenants: BrokenTenants::Refuse, engine: RequestEngine::Direct };
        let process = GatewayProcess::start(&options, std::io::sink()).unwrap_or_else(|error| panic!("{error}"));
        let address = *process.listening().data.first().expect("a listener");
        (process, address)
    });
    *address
}

/// Reads requests strictly and answers each.
fn serve(stream: TcpStream) {
    let mut writer = stream.try_clone().expect("a second handle");
    let mut reader = BufReader::new(stream);
    loop {
        match read_request(&mut reader) {
            // A request that the end of the connection cuts off was reset.
            Ok(None) => return,
            Ok(Some((path, method, body))) => {
                if let Some(seen) = seen().as_mut() {
                    seen.requests.entry(path).or_default().push((method, body));
                }
                let _sent_or_closed = writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
            Err(violation) => {
                if let Some(seen) = seen().as_mut() {
                    seen.violations.push(violation);
                }
                return;
            }
        }
    }
}

type Request = (String, String, Vec<u8>);

/// Reads the next request. `None`: the connection has ended. An error: the bytes are not a request.
fn read_request(reader: &mut impl BufRead) -> Result<Option<Request>, String> {
    let Some(first) = line(reader)? else { return Ok(None) };
    let words: Vec<&str> = first.split(' ').collect();
    let [method, path, "HTTP/1.1"] = words[..] else { return Err(format!("invalid request line: {first:?}")) };
    let (mut length, mut is_chunked) = (0, false);
    loop {
        let Some(field) = line(reader)? else { return Ok(None) };
        match field.split_once(':') {
            _ if field.is_empty() => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(|_| format!("invalid content-length: {field:?}"))?;
            }
            Some((name, value)) if name.eq_ignore_ascii_case("transfer-encoding") => {
                is_chunked = value.trim() == "chunked"
            }
            Some(_) => {}
            None => return Err(format!("invalid field: {field:?}")),
        }
    }
    let body = if is_chunked { chunks(reader)? } else { exactly(reader, length) };
    Ok(body.map(|body| (path.to_owned(), method.to_owned(), body)))
}

fn chunks(reader: &mut impl BufRead) -> Result<Option<Vec<u8>>, String> {
    let mut body = Vec::new();
    loop {
        let Some(size) = line(reader)? else { return Ok(None) };
        let len = usize::from_str_radix(&size, 16).map_err(|_| format!("invalid chunk size: {size:?}"))?;
        let Some(chunk) = exactly(reader, len) else { return Ok(None) };
        body.extend(chunk);
        match line(reader)? {
            None => return Ok(None),
            Some(end) if end.is_empty() => {}
            Some(more) => return Err(format!("bytes after a chunk: {more:?}")),
        }
        if len == 0 {
            return Ok(Some(body));
        }
    }
}

fn line(reader: &mut impl BufRead) -> Result<Option<String>, String> {
    let mut line = Vec::new();
    let _ended = reader.read_until(b'\n', &mut line);
    match line.strip_suffix(b"\r\n") {
        Some(line) => String::from_utf8(line.to_vec()).map(Some).map_err(|error| error.to_string()),
        None if line.ends_with(b"\n") => Err(format!("a line without CR: {}", line.escape_ascii())),
        None => Ok(None),
    }
}

fn exactly(reader: &mut impl BufRead, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    reader.read_exact(&mut bytes).ok()?;
    Some(bytes)
}
