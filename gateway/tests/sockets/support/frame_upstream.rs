//! An HTTP/2 upstream that reads and writes single frames.
//!
//! The script of the test runs once per connection, on its own thread.

use std::io::Read as _;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::http2_frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, block,
    frame,
};

/// One connection from the gateway.
#[derive(Debug)]
pub(crate) struct FrameConnection {
    /// The number of the connection, from 0.
    pub(crate) number: usize,
    frames: Frames,
}

#[derive(Debug, Default)]
struct Shared {
    streams: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    stopping: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct FrameUpstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl FrameUpstream {
    /// Runs `script` for every connection, after the settings of both sides.
    pub(crate) fn start(script: impl Fn(&mut FrameConnection) -> Option<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (shared, script) = (Arc::new(Shared::default()), Arc::new(script));
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.stopping.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_nodelay(true).unwrap();
                accepting.streams.lock().unwrap().push(stream.try_clone().unwrap());
                let number = accepting.connections.fetch_add(1, Ordering::SeqCst);
                let script = Arc::clone(&script);
                thread::spawn(move || {
                    let mut connection = FrameConnection { number, frames: Frames { stream } };
                    let _over = connection.greet().and_then(|()| script(&mut connection));
                    let _ = connection.frames.stream.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, shared }
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FrameUpstream {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl FrameConnection {
    fn greet(&mut self) -> Option<()> {
        let mut preface = [0; PREFACE.len()];
        self.frames.stream.read_exact(&mut preface).ok()?;
        assert_eq!(preface, PREFACE);
        self.send(SETTINGS, 0, 0, &[])
    }

    /// Reads the next frame. `None`: the connection has ended.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        self.frames.next()
    }

    /// Reads until a frame of that kind.
    pub(crate) fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Reads a whole request and returns its stream.
    pub(crate) fn next_request(&mut self) -> Option<u32> {
        loop {
            let frame = self.next()?;
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                return Some(frame.stream);
            }
        }
    }

    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Option<()> {
        self.frames.send(&frame(kind, flags, stream, payload))
    }

    /// Sends a head in as many frames as necessary.
    pub(crate) fn send_head(&mut self, flags: u8, stream: u32, status: &str, fields: &[(&str, &str)]) -> Option<()> {
        self.send_block(flags, stream, &block(&[&[(":status", status)], fields].concat()))
    }

    /// Sends trailers, which end the stream.
    pub(crate) fn send_trailers(&mut self, stream: u32, fields: &[(&str, &str)]) -> Option<()> {
        self.send_block(END_STREAM, stream, &block(fields))
    }

    fn send_block(&mut self, flags: u8, stream: u32, block: &[u8]) -> Option<()> {
        let mut pieces = block.chunks(16 * 1024).peekable();
        let mut kind = HEADERS;
        while let Some(piece) = pieces.next() {
            let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            let flags = if kind == HEADERS { flags | end } else { end };
            self.send(kind, flags, stream, piece)?;
            kind = CONTINUATION;
        }
        Some(())
    }

    /// Answers 200 with the body `hello`.
    pub(crate) fn send_hello(&mut self, stream: u32) -> Option<()> {
        self.send_head(0, stream, "200", &[("content-length", "5")])?;
        self.send(DATA, END_STREAM, stream, b"hello")
    }

    pub(crate) fn reset(&mut self, stream: u32, code: u32) -> Option<()> {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes())
    }

    /// Sends GOAWAY, which refuses all streams above `last`.
    pub(crate) fn go_away(&mut self, last: u32, code: u32) -> Option<()> {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
    }
}
