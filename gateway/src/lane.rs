//! The short path before the proxy: Pingora's `ServerApp` of the data listeners.
//!
//! It reads one whole request head at a time ([`head`]), refuses what is not clean HTTP/1.1, answers preflights that are written
//! as browsers write them ([`preflight`]), and hands every other request to Pingora's `HttpProxy` as its head alone, on a
//! connection that gives out no more than that request ([`conn`]). No partial head leaves it. Since Pingora never reads a head from
//! the socket itself, its idle timers, its head buffer of 1 MiB and its pipelining are unused.

pub mod chunked;
pub mod clock;
pub mod conn;
pub mod head;
pub mod preflight;
pub(crate) mod unattended;
pub mod waiting;
pub mod watch;

#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use self::conn::{Conn, Reclaimed, peer_addr};
use self::head::{Head, HeadLimits, NO_ROOM, NoHead, PLAIN_HTTP, Refusal, Turn, Wait};
use self::preflight::{Client, Persistence, Preflight};
use self::unattended::Unattended;
use self::waiting::{Alarm, Stop};
use self::watch::{ExchangeLimits, Watch};
use crate::fields::Noted;
use crate::http2::{self, Http2, Http2Limits};
use crate::metrics::{
    ActiveConnection, BadIntroduction, ConnectionLimits, Connections, EarlyClose, Full, HandshakeEnd, PanicPlace,
    PanicWatch,
};
use crate::proxy_protocol::{self, Entry, NoIntroduction};
use crate::respond::Answer;
use crate::tls::{self, Failure, Terminator};

/// Counts a connection as open until the last holder is gone: the lane, the exchange, a lingering close.
pub type OpenConnection = Arc<ActiveConnection>;

/// What the lane asks of the gateway behind it.
pub trait Backstage: Send + Sync + 'static {
    /// The limits in force now.
    fn limits(&self) -> LaneLimits;
    /// What a listener speaks TLS with, if it does.
    fn terminator(&self, listener: usize) -> Option<Arc<Terminator>>;
    /// The address of a client that is one by itself: no trusted proxy, behind which there are many.
    fn lone_client(&self, client: &Client) -> Option<IpAddr>;
    /// How a connection of this peer begins.
    fn entry(&self, peer: &Client) -> Entry;
    /// A connection that did not begin as it should, and was closed.
    fn not_introduced(&self, reason: BadIntroduction);
    /// Whether the gateway is about to stop, so that connections are to end with their present answer.
    fn is_draining(&self) -> bool;
    /// Answers a preflight without the upstream, if the policy lets it: appends the whole answer to `out`, counts and logs it. If it
    /// does none of that, the proxy is to have the request.
    fn answer(&self, preflight: &Preflight<'_>, client: &Client, out: &mut Vec<u8>) -> Answered;
    /// The whole answer to a head that the lane refuses, and its accounting.
    fn refuse(&self, refusal: &Refusal, peer: Option<std::net::SocketAddr>) -> Vec<u8>;
    /// The same over HTTP/2.
    fn refusal(&self, refusal: &Refusal, peer: Option<std::net::SocketAddr>) -> Answer;
    /// A connection that ended without an answer, for this reason.
    fn closed_early(&self, reason: EarlyClose);
    /// A TLS handshake that ended so, with a client that asked for this host, if it came to that.
    fn handshake_over(&self, end: HandshakeEnd, client: &Client, host: Option<&str>);
    /// A request that Pingora refused by itself, before any hook saw it.
    fn refused_unseen(&self);
    /// A connection that a panic ends.
    fn panicked(&self, place: PanicPlace);
}

/// All limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct LaneLimits {
    /// Of a TLS handshake, from the accept.
    pub tls_handshake: Duration,
    /// Of a request head.
    pub head: HeadLimits,
    /// Of the exchange after it.
    pub exchange: ExchangeLimits,
    /// Requests on one connection.
    pub requests: u64,
    /// Connections at one time.
    pub connections: ConnectionLimits,
    /// Of a connection over HTTP/2.
    pub http2: Http2Limits,
}

/// Whether the lane's answer was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It was.
    Here,
    /// It is the proxy's to make.
    Not,
}

/// Whether the lane makes answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answers {
    /// To preflights.
    #[default]
    Preflights,
    /// To none: every request goes through the proxy. For tests that compare.
    None,
}

/// Serves the connections of one listener.
pub struct Lane<P, B> {
    proxy: Arc<P>,
    backstage: Arc<B>,
    connections: Arc<Connections>,
    listener: usize,
    answers: Answers,
    http2: Http2,
}

/// What is at the beginning of what a client has sent.
enum Taken {
    /// Not yet a whole head.
    Part,
    /// A preflight, whose answer is made.
    Preflight(Persistence),
    /// A request for the proxy.
    Request(Head),
    /// A head that is refused.
    Refused(Refusal),
}

/// Answers to a run of preflights are written together, up to about this many bytes.
const ANSWERS_LEN_MAX: usize = 16 * 1024;
/// For a client to send its request and take 503.
const TELL_FULL_TIME: Duration = Duration::from_millis(500);
/// Most requests are no longer.
const READ_WHEN_FULL_LEN: usize = 2048;
/// One answer, with room to spare.
const ANSWER_LEN_USUAL: usize = 1024;

impl<P: HttpServerApp + Send + Sync + 'static, B: Backstage> Lane<P, B> {
    /// A lane before `proxy`.
    pub fn new(
        proxy: Arc<P>,
        backstage: Arc<B>,
        connections: Arc<Connections>,
        listener: usize,
        answers: Answers,
        http2: Http2,
    ) -> Self {
        Lane { proxy, backstage, connections, listener, answers, http2 }
    }

    async fn serve(
        &self,
        mut line: Reclaimed,
        client: &Client,
        shutdown: &ShutdownWatch,
        panics: &mut PanicWatch<impl Fn(PanicPlace) + Send + Sync>,
    ) {
        let mut stop = Stop::new(shutdown);
        let mut wait = Wait::new(Turn::First);
        let mut answers = Vec::new();
        let mut served = 0_u64;
        let mut limits = self.backstage.limits();
        loop {
            if served == 0 && self.http2 == Http2::Offered && http2::begins(&line.ahead) {
                return self.serve_http2(line, client, shutdown).await;
            }
            let last = served + 1 >= limits.requests || stop.is_told() || self.backstage.is_draining();
            let taken = self.take(&mut line.ahead, &mut wait, client, last, &limits, &mut answers);
            let goes_on = matches!(taken, Taken::Preflight(Persistence::KeepAlive)) && answers.len() < ANSWERS_LEN_MAX;
            // What is answered goes out before anything is waited for, and before any other answer.
            if !goes_on && !self.write(&mut line, &mut answers, &limits).await {
                return;
            }
            let next = match taken {
                Taken::Part => {
                    let Reclaimed { io, ahead, alarm, .. } = &mut line;
                    match wait.more(io, ahead, &limits.head, alarm, &mut stop).await {
                        Ok(()) => {
                            // What came may have been waited for a long time.
                            limits = self.backstage.limits();
                            continue;
                        }
                        Err(end) => return self.end(line.io, end, client.address, &limits).await,
                    }
                }
                Taken::Refused(refusal) => {
                    return self.end(line.io, NoHead::Refused(refusal), client.address, &limits).await;
                }
                Taken::Preflight(Persistence::Close) => return close(line, &limits).await,
                Taken::Preflight(Persistence::KeepAlive) => Some(line),
                Taken::Request(head) => {
                    panics.place = PanicPlace::Proxy;
                    let next = self.exchange(line, head, client, last, &limits, shutdown).await;
                    panics.place = PanicPlace::Lane;
                    next
                }
            };
            let Some(next) = next else { return };
            line = next;
            wait = Wait::new(Turn::Next);
            served += 1;
        }
    }

    /// A connection over HTTP/2 is another's, whole. Boxed, since most connections are none and are not to be larger for it.
    async fn serve_http2(&self, line: Reclaimed, client: &Client, shutdown: &ShutdownWatch) {
        let Lane { proxy, backstage, connections, .. } = self;
        let behind = http2::Behind { proxy, backstage, connections, shutdown };
        Box::pin(http2::serve(line, client, behind)).await;
    }

    /// Takes the next head, if it is whole, and answers it, if it is a preflight. Nothing is waited for.
    fn take(
        &self,
        ahead: &mut BytesMut,
        wait: &mut Wait,
        client: &Client,
        last: bool,
        limits: &LaneLimits,
        answers: &mut Vec<u8>,
    ) -> Taken {
        if !wait.is_over(ahead, &limits.head) {
            return Taken::Part;
        }
        let mut answer = |head: &Head, request: &httparse::Request<'_, '_>, noted: &Noted<'_>| {
            let bytes = ahead.get(..head.len).filter(|_| self.answers == Answers::Preflights)?;
            let mut preflight = Preflight::of(bytes, head.framing, request, noted)?;
            if last {
                preflight.persistence = Persistence::Close;
            }
            let answered = self.backstage.answer(&preflight, client, answers);
            (answered == Answered::Here).then_some(preflight.persistence)
        };
        match head::parse_then(ahead, &limits.head, |head, request, noted| (answer(&head, request, noted), head)) {
            Err(refusal) => Taken::Refused(refusal),
            Ok((None, head)) => Taken::Request(head),
            Ok((Some(persistence), head)) => {
                ahead.advance(head.len);
                Taken::Preflight(persistence)
            }
        }
    }

    /// Writes answers out and forgets them; whether that went well.
    async fn write(&self, line: &mut Reclaimed, answers: &mut Vec<u8>, limits: &LaneLimits) -> bool {
        if answers.is_empty() {
            return true;
        }
        let Reclaimed { io, alarm, .. } = line;
        let mut deadline = None;
        let mut written = pin!(async {
            io.write_all(answers).await?;
            io.flush().await
        });
        let early = poll_fn(|cx| match written.as_mut().poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(None),
            Poll::Ready(Err(_)) => Poll::Ready(Some(EarlyClose::ClientGone)),
            Poll::Pending => {
                let until = *deadline.get_or_insert_with(|| Instant::now() + limits.exchange.write_stall);
                alarm.poll_until(cx, until).map(|()| Some(EarlyClose::WriteStall))
            }
        });
        let early = early.await;
        if let Some(reason) = early {
            self.backstage.closed_early(reason);
        }
        answers.clear();
        // An idle connection is not to hold the memory of its longest run.
        answers.shrink_to(ANSWER_LEN_USUAL);
        early.is_none()
    }

    /// One request, from its head to the end of its answer; the connection, if it may carry more.
    async fn exchange(
        &self,
        mut line: Reclaimed,
        head: Head,
        client: &Client,
        last: bool,
        limits: &LaneLimits,
        shutdown: &ShutdownWatch,
    ) -> Option<Reclaimed> {
        let watch = Watch::new(limits.exchange, client.address, client.listener).over(client.shown.clone());
        let watch = Arc::new(watch);
        let bytes = line.ahead.split_to(head.len);
        let conn = Conn::new(line, head.framing, Arc::clone(&watch), limits.head.bytes);
        let mut session = ServerSession::new_http1(Box::new(conn));
        session.set_read_timeout(None);
        session.set_total_drain_timeout(Some(limits.exchange.drain_time));
        // Pingora sets its keep-alive from the request itself; the count is what ends it.
        session.set_keepalive_reuses_remaining(Some(u32::from(!last)));
        session.set_pipelined_prefix(bytes);
        let served = unattended::bounded(self.proxy.process_new_http(session, shutdown), &watch).await;
        if !watch.was_seen() {
            self.backstage.refused_unseen();
        }
        let reused = served.unwrap_or_else(|Unattended| {
            self.backstage.closed_early(EarlyClose::ExchangeIdle);
            None
        })?;
        let (stream, _) = reused.consume();
        let conn = stream.into_any().downcast::<Conn>().ok()?;
        conn.reclaim()
    }

    /// Who is at the other end, as far as is known.
    fn peer(&self, io: &Stream) -> Client {
        Client { address: peer_addr(io), listener: self.listener, shown: None }
    }

    /// Has the balancer at the other end say whose the connection is, and counts it as that client's; `None` where it ends here.
    async fn introduce(
        &self,
        io: Stream,
        entry: Entry,
        guard: &mut ActiveConnection,
        limits: &LaneLimits,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let introduced = proxy_protocol::introduce(io, entry, limits.head.time, &mut Stop::new(shutdown)).await;
        let (io, named) = match introduced {
            Ok(introduced) => introduced,
            Err(NoIntroduction::Nothing) => return None,
            Err(NoIntroduction::Bad(reason)) => {
                self.backstage.not_introduced(reason);
                return None;
            }
        };
        let client = self.peer(&io);
        let lone = named.and_then(|_| self.backstage.lone_client(&client));
        match guard.count_client(lone, limits.connections) {
            Ok(()) => Some(io),
            Err(Full) => {
                self.turn_away(io, &client).await;
                None
            }
        }
    }

    /// Shakes hands with a client, where TLS is spoken; the stream of bytes within, unless that fails.
    async fn secure(
        &self,
        terminator: &Terminator,
        io: Stream,
        client: &mut Client,
        limits: &LaneLimits,
        alarm: &mut Alarm,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let deadline = Instant::now() + limits.tls_handshake;
        let mut stop = Stop::new(shutdown);
        let mut handshake = pin!(tls::shake_hands(io, terminator));
        let over = poll_fn(|cx| {
            if let Poll::Ready(over) = handshake.as_mut().poll(cx) {
                return Poll::Ready(Some(over));
            }
            if stop.poll_last_chance(cx).is_ready() {
                return Poll::Ready(None);
            }
            alarm.poll_until(cx, deadline).map(|()| {
                self.backstage.handshake_over(HandshakeEnd::Timeout, client, None);
                None
            })
        });
        match over.await? {
            Ok((io, shown)) => {
                self.backstage.handshake_over(HandshakeEnd::Success, client, None);
                client.shown = Some(shown);
                Some(io)
            }
            Err(Failure { end, host, io }) => {
                self.backstage.handshake_over(end, client, host.as_deref());
                if end == HandshakeEnd::PlainHttp {
                    self.end(io, NoHead::Refused(PLAIN_HTTP), client.address, limits).await;
                } else {
                    // An alert may be on its way.
                    linger(io, limits.exchange.drain_bytes, limits.exchange.drain_time).await;
                }
                None
            }
        }
    }

    /// Says 503 on a connection too many, and closes it. Over TLS nothing is said: that would take a handshake.
    async fn turn_away(&self, mut io: Stream, client: &Client) {
        if self.backstage.terminator(client.listener).is_some() {
            return self.backstage.closed_early(EarlyClose::Full);
        }
        let Some(_told) = self.connections.tell_full() else {
            return self.backstage.closed_early(EarlyClose::Full);
        };
        let answer = self.backstage.refuse(&NO_ROOM, client.address);
        let told = async {
            // Closing a socket with unread bytes makes the kernel send a reset, which can destroy the answer.
            let mut request = [0; READ_WHEN_FULL_LEN];
            let len = io.read(&mut request).await?;
            match http2::begins(request.get(..len).unwrap_or_default()) {
                true => io.write_all(&http2::TURNED_AWAY).await?,
                false => io.write_all(&answer).await?,
            }
            AsyncWriteExt::shutdown(&mut io).await
        };
        let _done_or_gone = timeout(TELL_FULL_TIME, told).await;
    }

    async fn end(&self, mut io: Stream, end: NoHead, peer: Option<std::net::SocketAddr>, limits: &LaneLimits) {
        match end {
            NoHead::Closed | NoHead::Shutdown => {}
            NoHead::Idle => self.backstage.closed_early(EarlyClose::Idle),
            NoHead::Refused(refusal) => {
                let answer = self.backstage.refuse(&refusal, peer);
                let drain = limits.exchange;
                if matches!(timeout(drain.write_stall, io.write_all(&answer)).await, Ok(Ok(()))) {
                    linger(io, drain.drain_bytes, drain.drain_time).await;
                }
            }
        }
    }
}

#[async_trait]
impl<P: HttpServerApp + Send + Sync + 'static, B: Backstage> ServerApp for Lane<P, B> {
    async fn process_new(self: &Arc<Self>, io: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let mut panics = PanicWatch::new(PanicPlace::Lane, |place| self.backstage.panicked(place));
        let peer = self.peer(&io);
        let limits = self.backstage.limits();
        let entry = self.backstage.entry(&peer);
        let client = match entry {
            Entry::Client => self.backstage.lone_client(&peer),
            // Whoever passes connections on is many clients.
            Entry::Header | Entry::Closed => None,
        };
        let Ok(mut guard) = self.connections.open(client, limits.connections) else {
            self.turn_away(io, &peer).await;
            return None;
        };
        let io = match entry {
            Entry::Client => io,
            // In a box, since most listeners have no use for its room.
            Entry::Header | Entry::Closed => Box::pin(self.introduce(io, entry, &mut guard, &limits, shutdown)).await?,
        };
        let mut client = self.peer(&io);
        let mut alarm = Alarm::default();
        let io = match self.backstage.terminator(self.listener) {
            // In a box, so that a connection in plain text, and one whose handshake is over, has no room for one.
            Some(terminator) => {
                Box::pin(self.secure(&terminator, io, &mut client, &limits, &mut alarm, shutdown)).await?
            }
            None => io,
        };
        let is_http2 = matches!(io.selected_alpn_proto(), Some(ALPN::H2));
        let line = Reclaimed { io, ahead: BytesMut::new(), eof: false, alarm, guard: Arc::new(guard) };
        match is_http2 {
            true => self.serve_http2(line, &client, shutdown).await,
            false => self.serve(line, &client, shutdown, &mut panics).await,
        }
        None
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// Closes a connection whose last answer is written.
async fn close(line: Reclaimed, limits: &LaneLimits) {
    if !line.ahead.is_empty() && !line.eof {
        linger(line.io, limits.exchange.drain_bytes, limits.exchange.drain_time).await;
    }
}

/// Ends the sending side and drops what still comes, within limits: closing a socket with unread
/// bytes makes the kernel send a reset, which can destroy the answer before the client reads it.
pub(crate) async fn linger(mut io: Stream, bytes: u64, time: Duration) {
    let drain = async {
        io.flush().await?;
        AsyncWriteExt::shutdown(&mut io).await?;
        tokio::io::copy(&mut (&mut io).take(bytes), &mut tokio::io::sink()).await
    };
    let _ended_or_out_of_time = timeout(time, drain).await;
}
