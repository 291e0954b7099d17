//! Uploads over HTTP/2 in every framing, with an HTTP/1.1 upstream.
//!
//! The upstream receives exactly the requests that were sent, with one terminator each. Other
//! clients on the kept connections get their own answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::http2_frames::{DATA, END_STREAM, RST_STREAM, WINDOW_UPDATE, frame, head};
use crate::support::{
    Connection, Exchange, HOST, ORIGIN, Outcome, RawHttp2, Site, Then, WholeRequest, request, requests_in,
};

/// Few enough to stay below the limit of empty frames.
const UPLOADS_PER_CONNECTION: usize = 50;
/// Below the limit of requests per connection.
const REQUESTS_PER_CONNECTION: usize = 500;
const PADDED: u8 = 8;
/// The error code in RST_STREAM.
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// A DATA frame, with `padding` bytes after the data.
fn data(stream: u32, bytes: &[u8], padding: Option<u8>, flags: u8) -> Vec<u8> {
    match padding {
        None => frame(DATA, flags, stream, bytes),
        Some(length) => {
            let payload = [&[length][..], bytes, &vec![0; usize::from(length)]].concat();
            frame(DATA, flags | PADDED, stream, &payload)
        }
    }
}

fn fields<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let usual = [(":method", method), (":scheme", "http"), (":authority", HOST), (":path", path), ("origin", ORIGIN)];
    [&usual[..], more].concat()
}

/// Answers with the target, followed by the body.
fn echo(exchange: &mut Exchange) -> Then {
    let (_, body) = exchange.read_body();
    let answer = [exchange.seen.target.clone().into_bytes(), body].concat();
    exchange.answer(200, &[], &answer)
}

/// Asserts that the upstream has read exactly these requests, on any connections.
#[track_caller]
fn assert_upstream_read(site: &Site, mut wanted: Vec<WholeRequest>) {
    let raw = site.upstream.raw();
    let whole = raw.iter().map(|bytes| requests_in(bytes).unwrap_or_else(|| panic!("{}", bytes.escape_ascii())));
    let mut read: Vec<_> = whole.flatten().collect();
    read.sort();
    wanted.sort();
    assert_eq!(read, wanted);
}

#[test]
fn a1_every_framing_of_an_upload_ends_with_one_terminator() {
    let piece = |bytes: &'static [u8], padding, flags| move |stream| data(stream, bytes, padding, flags);
    type Framed = Vec<Box<dyn Fn(u32) -> Vec<u8>>>;
    let framings: Vec<(&str, Framed, &str)> = vec![
        ("one", vec![Box::new(piece(b"hello", None, END_STREAM))], "hello"),
        ("empty last", vec![Box::new(piece(b"hello", None, 0)), Box::new(piece(b"", None, END_STREAM))], "hello"),
        ("empty first", vec![Box::new(piece(b"", None, 0)), Box::new(piece(b"hello", None, END_STREAM))], "hello"),
        (
            "empty between",
            vec![
                Box::new(piece(b"he", None, 0)),
                Box::new(piece(b"", None, 0)),
                Box::new(piece(b"", Some(3), 0)),
                Box::new(piece(b"llo", None, END_STREAM)),
            ],
            "hello",
        ),
        ("padded", vec![Box::new(piece(b"hello", Some(200), END_STREAM))], "hello"),
        (
            "padded and empty last",
            vec![Box::new(piece(b"hello", Some(1), 0)), Box::new(piece(b"", Some(255), END_STREAM))],
            "hello",
        ),
        ("empty alone", vec![Box::new(piece(b"", None, END_STREAM))], ""),
        (
            "empties alone",
            vec![
                Box::new(piece(b"", None, 0)),
                Box::new(piece(b"", Some(9), 0)),
                Box::new(piece(b"", None, END_STREAM)),
            ],
            "",
        ),
        (
            "a body that looks like chunks",
            vec![Box::new(piece(b"0\r\n\r\n", None, 0)), Box::new(piece(b"", None, END_STREAM))],
            "0\r\n\r\n",
        ),
    ];
    let site = Site::scripted(echo);
    let mut wanted = Vec::new();
    let mut raw = RawHttp2::open(site.gateway.data, &[]);
    let mut stream = 1;
    for method in ["POST", "PUT", "PATCH", "DELETE", "GET", "QUERY", "OPTIONS"] {
        for (what, frames, body) in &framings {
            for length in [None, Some(body.len().to_string())] {
                let path = format!("/{}", wanted.len());
                let more: Vec<_> = length.iter().map(|length| ("content-length", &**length)).collect();
                let body_frames: Vec<u8> = frames.iter().flat_map(|frame| frame(stream)).collect();
                raw.send(&[head(stream, &fields(method, &path, &more), 0), body_frames].concat());
                assert_eq!(raw.outcome(stream), Outcome::Answered(200), "{method} {what} {length:?}");
                wanted.push(WholeRequest { target: path, method: method.to_owned(), body: (*body).to_owned() });
                stream += 2;
                // Another client, on the upstream connection that the upload used.
                let path = format!("/other/{}", wanted.len());
                let get = request("GET", &path, HOST, &[("Origin", ORIGIN)], b"");
                assert_eq!(
                    Connection::ask(site.gateway.data, &get).unwrap().text(),
                    path,
                    "{method} {what} {length:?}"
                );
                wanted.push(WholeRequest { target: path, method: "GET".to_owned(), body: String::new() });
            }
        }
    }
    assert_upstream_read(&site, wanted);
}

#[test]
fn a1_a_chunked_upload_over_http1_ends_with_one_terminator() {
    let site = Site::scripted(echo);
    let mut wanted = Vec::new();
    // Cut at every byte, so that the terminator arrives alone, in parts, and together with the
    // bytes before it.
    let body = b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nX: y\r\n\r\n";
    for cut in 0..body.len() {
        let path = format!("/{cut}");
        let chunked = [("Origin", ORIGIN), ("Transfer-Encoding", "chunked")];
        let mut connection = site.connect();
        connection.send(&[&request("POST", &path, HOST, &chunked, b""), &body[..cut]].concat()).unwrap();
        thread::sleep(Duration::from_millis(5));
        connection.send(&body[cut..]).unwrap();
        assert_eq!(connection.answer_to(b"POST").unwrap().text(), format!("{path}hello!"));
        wanted.push(WholeRequest { target: path, method: "POST".to_owned(), body: "hello!".to_owned() });
    }
    assert_upstream_read(&site, wanted);
}

/// A seeded random number generator, so that a failure can be reproduced.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// Sends uploads one after the other, each with random framing. Some are cancelled. Each complete
/// one must get its own body back.
fn upload_at_random(site: &Site, seed: u64, count: usize) {
    let mut random = Random(seed);
    let open = || {
        let mut raw = RawHttp2::open(site.gateway.data, &[]);
        raw.send(&frame(WINDOW_UPDATE, 0, 0, &[0x40, 0, 0, 0]));
        raw
    };
    let mut raw = open();
    for nth in 0..count {
        let stream = u32::try_from(nth % UPLOADS_PER_CONNECTION * 2 + 1).unwrap();
        if stream == 1 {
            raw = open();
        }
        let path = format!("/{seed}/{nth}");
        let method = ["POST", "PUT", "PATCH", "DELETE", "GET"][random.below(5)];
        let pieces: Vec<Vec<u8>> =
            (0..random.below(6)).map(|_| vec![b'0'; random.below(3) * random.below(40)]).collect();
        let length = pieces.iter().map(Vec::len).sum::<usize>().to_string();
        let more: &[(&str, &str)] = if random.below(2) == 0 { &[] } else { &[("content-length", &length)] };
        let mut sent = head(stream, &fields(method, &path, more), if pieces.is_empty() { END_STREAM } else { 0 });
        let is_cancelled = random.below(10) == 0 && !pieces.is_empty();
        let last = pieces.len().saturating_sub(1);
        for (at, piece) in pieces.iter().enumerate() {
            if is_cancelled && at == last {
                sent.extend(frame(RST_STREAM, 0, stream, &CANCEL));
                break;
            }
            let padding = (random.below(4) == 0).then(|| u8::try_from(random.below(256)).unwrap());
            sent.extend(data(stream, piece, padding, if at == last { END_STREAM } else { 0 }));
        }
        assert!(raw.send(&sent), "{path}");
        if !is_cancelled {
            assert_eq!(raw.outcome(stream), Outcome::Answered(200), "{path}");
            assert_eq!(raw.body(stream), [path.as_bytes(), &pieces.concat()].concat(), "{path}");
        }
    }
}

#[test]
fn a1_random_uploads_do_not_mix_up_answers_of_other_clients() {
    const UPLOADS: usize = 10_000;
    let site = Site::scripted(echo);
    struct Running<'a>(&'a AtomicUsize);
    impl Drop for Running<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let running = AtomicUsize::new(4);
    thread::scope(|scope| {
        for seed in 0..4 {
            let (site, running) = (&site, &running);
            scope.spawn(move || {
                let _running = Running(running);
                upload_at_random(site, seed, UPLOADS / 4);
            });
        }
        for client in 0..2 {
            let (site, running) = (&site, &running);
            scope.spawn(move || {
                let mut connection = site.connect();
                let mut count = 0;
                while running.load(Ordering::SeqCst) > 0 {
                    let path = format!("/get/{client}/{count}");
                    let get = request("GET", &path, HOST, &[("Origin", ORIGIN)], b"");
                    assert_eq!(connection.exchange(&get).unwrap().text(), path);
                    count += 1;
                    if count % REQUESTS_PER_CONNECTION == 0 {
                        connection = site.connect();
                    }
                }
            });
        }
    });
    for bytes in site.upstream.raw() {
        // The last request on a connection may have been cancelled.
        let whole = requests_in(&bytes).or_else(|| requests_before_incomplete(&bytes));
        assert!(whole.is_some(), "{}", bytes.escape_ascii());
    }
}

/// The requests before an incomplete last one.
fn requests_before_incomplete(bytes: &[u8]) -> Option<Vec<WholeRequest>> {
    let heads = [b"POST /".as_slice(), b"PUT /", b"PATCH /", b"DELETE /", b"GET /"];
    let last = heads.iter().filter_map(|head| bytes.windows(head.len()).rposition(|window| window == *head)).max()?;
    requests_in(&bytes[..last])
}
