//! The short path before the proxy: Pingora's `ServerApp` of the data listeners.
//!
//! It reads one whole request head at a time ([`head`]), refuses what is not clean HTTP/1.1,
//! answers preflights that are written as browsers write them ([`preflight`]), and serves nearly
//! every other request by the direct exchange ([`direct`]). What that declines goes to Pingora's
//! `HttpProxy` as its head alone, on a connection that gives out no more than that request
//! ([`conn`]). No partial head leaves the lane. Since Pingora never reads a head from the socket
//! itself, its idle timers, its head buffer of 1 MiB and its pipelining are unused.

mod client;
pub mod conn;
pub mod head;
pub mod health;
pub mod preflight;
mod request;

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

use self::client::LaneClient;
use self::conn::{RequestConnection, peer_addr};
use self::head::{Head, NoHead, Turn, Wait};
use self::preflight::Preflight;
use self::request::ParsedRequest;
use crate::exchange::direct::{self, ExchangeRequest, ExchangeStart, UploadFraming};
use crate::exchange::state::ExchangeState;
use crate::exchange::timer::{StopSignal, Timer};
use crate::exchange::unattended::run_attended;
use crate::exchange::{
    ClientIdentity, ConnectionPersistence, ExchangeHost, LaneLimits, RequestEngine, ReusableConnection,
    count_abandoned, write_answer,
};
use crate::http2::{self};
use crate::metrics::{
    ActiveConnection, ConnectionCounters, ConnectionsFull, EarlyClose, HandshakeEnd, PanicPlace, PanicWatch,
    ProxyHeaderFault,
};
use crate::proxy_protocol::{self, ConnectionStart, ProxyHeaderError};
use crate::refusal::{HeadRefusal, NO_ROOM, PLAIN_HTTP};
use crate::socket::delay_flush;
use crate::tls::Http2;
use crate::tls::{self, FailedHandshake, ServedCertificate, Terminator};
use crossgate_message::fields::KnownHeaders;
use crossgate_message::received_head::ReceivedHead;

/// What the lane asks of the gateway behind it.
pub trait LaneHost: ExchangeHost {
    /// What a listener speaks TLS with, if it does.
    fn terminator(&self, listener: usize) -> Option<Arc<Terminator>>;
    /// The address of a client that is one by itself: no trusted proxy, behind which there are
    /// many.
    fn lone_client(&self, client: &ClientIdentity) -> Option<IpAddr>;
    /// How a connection of this peer begins.
    fn entry(&self, peer: &ClientIdentity) -> ConnectionStart;
    /// A connection that did not begin as it should, and was closed.
    fn count_proxy_header_fault(&self, reason: ProxyHeaderFault);
    /// Answers a preflight without the upstream, if the policy lets it: appends the whole answer to
    /// `out`, counts and logs it. If it does none of that, the proxy is to have the request.
    fn answer(&self, preflight: &Preflight<'_>, client: &ClientIdentity, out: &mut Vec<u8>) -> Answered;
    /// The whole answer to a head that the lane refuses, and its accounting.
    fn refuse(&self, refusal: &HeadRefusal, peer: Option<std::net::SocketAddr>) -> Vec<u8>;
    /// A TLS handshake that ended so, with a client that asked for this host, if it came to that.
    fn handshake_over(&self, end: HandshakeEnd, client: &ClientIdentity, host: Option<&str>);
}

/// Whether the lane answered a preflight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    Here,
    /// Not answered: the proxy serves the request.
    Not,
}

/// Serves the connections of one listener.
pub struct Lane<P, B> {
    proxy: Arc<P>,
    backstage: Arc<B>,
    connections: Arc<ConnectionCounters>,
    listener: usize,
    engine: RequestEngine,
    http2: Http2,
}

/// What is at the beginning of what a client has sent.
enum Taken {
    /// Not yet a whole head.
    Part,
    /// A preflight or a health check, whose answer is made.
    Answered(ConnectionPersistence),
    /// Another request, which was parsed.
    Request,
    /// A head that is refused.
    Refused(HeadRefusal),
}

/// What a connection uses again for every request.
#[derive(Default)]
struct Reused {
    /// Answers that are not written yet.
    answers: Vec<u8>,
    request: ParsedRequest,
    state: Option<Arc<ExchangeState>>,
}

/// Who has served a request.
enum LaneOutcome {
    /// The direct exchange, after which the connection may carry more or not.
    Exchange(ConnectionPersistence),
    /// No one yet: the proxy serves it.
    Proxy,
}

/// Answers to a run of preflights are written together, up to about this many bytes.
const ANSWERS_LEN_MAX: usize = 16 * 1024;
/// For a client to send its request and take 503.
const REFUSAL_TIME: Duration = Duration::from_millis(500);
/// Most requests are no longer.
const READ_WHEN_FULL_LEN: usize = 2048;
/// One answer, with room to spare.
const ANSWER_LEN_USUAL: usize = 1024;

impl<P: HttpServerApp + Send + Sync + 'static, B: LaneHost> Lane<P, B> {
    /// A lane before `proxy`.
    pub fn new(
        proxy: Arc<P>,
        backstage: Arc<B>,
        connections: Arc<ConnectionCounters>,
        listener: usize,
        engine: RequestEngine,
        http2: Http2,
    ) -> Self {
        Lane { proxy, backstage, connections, listener, engine, http2 }
    }

    async fn serve(
        &self,
        mut line: ReusableConnection,
        client: &ClientIdentity,
        shutdown: &ShutdownWatch,
        panics: &mut PanicWatch<impl Fn(PanicPlace) + Send + Sync>,
    ) {
        let mut stop = StopSignal::new(shutdown);
        let mut wait = Wait::new(Turn::First);
        let mut reused = Reused::default();
        let mut served = 0_u64;
        let mut limits = self.backstage.limits();
        loop {
            if served == 0 && self.http2 == Http2::Offered && http2::begins(&line.ahead) {
                return self.serve_http2(line, client, shutdown).await;
            }
            let last = served + 1 >= limits.requests || stop.is_stopping() || self.backstage.is_draining();
            let taken = self.take(&mut line.ahead, &mut wait, client, last, &limits, &mut reused);
            let goes_on = matches!(taken, Taken::Answered(ConnectionPersistence::KeepAlive))
                && reused.answers.len() < ANSWERS_LEN_MAX;
            // What is answered goes out before anything is waited for, and before any other answer.
            if !goes_on && !self.write(&mut line, &mut reused.answers, &limits).await {
                return;
            }
            let next = match taken {
                Taken::Part => {
                    let ReusableConnection { io, ahead, timer, .. } = &mut line;
                    match wait.more(io, ahead, &limits.head, timer, &mut stop).await {
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
                Taken::Answered(ConnectionPersistence::Close) => return close(line, &limits).await,
                Taken::Answered(ConnectionPersistence::KeepAlive) => Some(line),
                Taken::Request => {
                    panics.place = PanicPlace::Proxy;
                    let next = self.exchange(line, &mut reused, client, last, &limits, shutdown).await;
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

    /// Serves a whole connection over HTTP/2. Boxed, since most connections do not use it and
    /// should not be larger for it.
    async fn serve_http2(&self, line: ReusableConnection, client: &ClientIdentity, shutdown: &ShutdownWatch) {
        let Lane { proxy, backstage, connections, engine, .. } = self;
        let behind = http2::H2Context { proxy, backstage, connections, shutdown, engine: *engine };
        Box::pin(http2::serve(line, client, behind)).await;
    }

    /// Takes the next head, if it is whole, and answers it, if it is a preflight or a health check.
    /// Nothing is waited for.
    fn take(
        &self,
        ahead: &mut BytesMut,
        wait: &mut Wait,
        client: &ClientIdentity,
        last: bool,
        limits: &LaneLimits,
        Reused { answers, request: parsed, .. }: &mut Reused,
    ) -> Taken {
        if !wait.is_over(ahead, &limits.head) {
            return Taken::Part;
        }
        let mut answer = |head: &Head, request: &httparse::Request<'_, '_>, noted: &KnownHeaders<'_>| {
            if head.is_health_check {
                let asked = health::persistence(head.framing, request.version, noted);
                let persistence = if last { ConnectionPersistence::Close } else { asked };
                let method = request.method.unwrap_or_default().as_bytes();
                write_answer(&self.backstage.answer_health_check(method), persistence, answers);
                return Some(persistence);
            }
            let bytes = ahead.get(..head.len).filter(|_| self.engine == RequestEngine::Direct)?;
            let mut preflight = Preflight::of(bytes, head, request, noted)?;
            if last {
                preflight.persistence = ConnectionPersistence::Close;
            }
            let answered = self.backstage.answer(&preflight, client, answers);
            (answered == Answered::Here).then_some(preflight.persistence)
        };
        let health_path = self.backstage.health_path(client.listener);
        let taken = head::parse_with(ahead, &limits.head, health_path, |head, request, noted| {
            let answered = answer(&head, request, noted);
            if answered.is_none() {
                parsed.set(ahead, head, request);
            }
            answered.map(|persistence| (persistence, head.len))
        });
        match taken {
            Err(refusal) => Taken::Refused(refusal),
            Ok(None) => Taken::Request,
            Ok(Some((persistence, len))) => {
                ahead.advance(len);
                Taken::Answered(persistence)
            }
        }
    }

    /// Writes answers out and forgets them; whether that went well.
    async fn write(&self, line: &mut ReusableConnection, answers: &mut Vec<u8>, limits: &LaneLimits) -> bool {
        if answers.is_empty() {
            return true;
        }
        let ReusableConnection { io, timer, .. } = line;
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
                timer.poll_until(cx, until).map(|()| Some(EarlyClose::WriteStall))
            }
        });
        let early = early.await;
        if let Some(reason) = early {
            self.backstage.count_early_close(reason);
        }
        answers.clear();
        // An idle connection is not to hold the memory of its longest run.
        answers.shrink_to(ANSWER_LEN_USUAL);
        early.is_none()
    }

    /// One request, from its head to the end of its answer; the connection, if it may carry more.
    async fn exchange(
        &self,
        mut line: ReusableConnection,
        Reused { request: parsed, state, .. }: &mut Reused,
        client: &ClientIdentity,
        last: bool,
        limits: &LaneLimits,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusableConnection> {
        let watch =
            ExchangeState::new(limits.exchange, client.address, client.listener).with_certificate(client.shown.clone());
        let watch = renew(state, watch);
        let head = parsed.head();
        let bytes = line.ahead.split_to(head.len);
        let mut conn = RequestConnection::new(line, head.framing, Arc::clone(&watch), limits.head.bytes);
        if let (Some(framing), RequestEngine::Direct) = (request::upload_framing(head.framing), self.engine)
            && let Some(received) = parsed.received(&bytes)
        {
            match self.exchange_directly(&mut conn, &received, framing, &watch, last).await {
                LaneOutcome::Exchange(ConnectionPersistence::KeepAlive) => {
                    conn.drain_body().await;
                    return conn.reclaim();
                }
                LaneOutcome::Exchange(ConnectionPersistence::Close) => return None,
                LaneOutcome::Proxy => {}
            }
        }
        let mut session = ServerSession::new_http1(Box::new(conn));
        session.set_read_timeout(None);
        session.set_total_drain_timeout(Some(limits.exchange.drain_time));
        // Pingora sets its keep-alive from the request itself; the count is what ends it.
        session.set_keepalive_reuses_remaining(Some(u32::from(!last)));
        session.set_pipelined_prefix(bytes);
        let served = run_attended(self.proxy.process_new_http(session, shutdown), &watch).await;
        // What no hook took refers to the state that holds it.
        drop(watch.take_declined());
        if !watch.is_seen() {
            self.backstage.count_unseen_refusal();
        }
        let reused = served.unwrap_or_else(|why| {
            count_abandoned(self.backstage.as_ref(), why, &watch);
            None
        })?;
        let (stream, _) = reused.consume();
        let conn = stream.into_any().downcast::<RequestConnection>().ok()?;
        conn.reclaim()
    }

    /// Serves a request without the proxy, unless that is left to it. Returns whether the
    /// connection may carry more.
    async fn exchange_directly(
        &self,
        connection: &mut RequestConnection,
        head: &ReceivedHead<'_>,
        framing: UploadFraming,
        watch: &Arc<ExchangeState>,
        last: bool,
    ) -> LaneOutcome {
        let (answer, closes, mut upstream) = match self.backstage.begin(head, framing, watch) {
            ExchangeStart::Declined => return LaneOutcome::Proxy,
            ExchangeStart::Answered { answer, closes, upstream } => (Some(answer), closes, upstream),
            ExchangeStart::Direct(upstream) => (None, false, upstream),
        };
        let is_last = last || closes || self.backstage.is_draining();
        let mut client = LaneClient::new(connection, head, framing, is_last);
        let request = ExchangeRequest { head, framing, state: watch };
        match direct::run(&mut client, &request, &mut upstream, answer).await {
            direct::ServedBy::Proxy => LaneOutcome::Proxy,
            direct::ServedBy::Exchange => LaneOutcome::Exchange(client.persistence()),
        }
    }

    /// The client as far as it is known yet.
    fn peer(&self, io: &Stream) -> ClientIdentity {
        ClientIdentity { address: peer_addr(io), listener: self.listener, shown: None }
    }

    /// Reads the PROXY header of a balancer, and counts the connection for the client that it
    /// names; `None` if the connection ends here.
    async fn read_proxy_header(
        &self,
        io: Stream,
        entry: ConnectionStart,
        guard: &mut ActiveConnection,
        limits: &LaneLimits,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let introduced =
            proxy_protocol::read_proxy_header(io, entry, limits.head.time, &mut StopSignal::new(shutdown)).await;
        let (io, named) = match introduced {
            Ok(introduced) => introduced,
            Err(ProxyHeaderError::Nothing) => return None,
            Err(ProxyHeaderError::Bad(reason)) => {
                self.backstage.count_proxy_header_fault(reason);
                return None;
            }
        };
        let client = self.peer(&io);
        let lone = named.and_then(|_| self.backstage.lone_client(&client));
        match guard.count_client(lone, limits.connections) {
            Ok(()) => Some(io),
            Err(ConnectionsFull) => {
                self.turn_away(io, &client).await;
                None
            }
        }
    }

    /// Shakes hands with a client, where TLS is spoken; the stream of bytes within, unless that
    /// fails.
    async fn secure(
        &self,
        terminator: &Terminator,
        io: Stream,
        client: &mut ClientIdentity,
        limits: &LaneLimits,
        timer: &mut Timer,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let deadline = Instant::now() + limits.tls_handshake;
        let mut stop = StopSignal::new(shutdown);
        let mut handshake = pin!(shake_hands(io, terminator));
        let over = poll_fn(|cx| {
            if let Poll::Ready(over) = handshake.as_mut().poll(cx) {
                return Poll::Ready(Some(over));
            }
            if stop.poll_last_chance(cx).is_ready() {
                return Poll::Ready(None);
            }
            timer.poll_until(cx, deadline).map(|()| {
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
            Err(FailedHandshake { end, host, io }) => {
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

    /// Says 503 on a connection too many, and closes it. Over TLS nothing is said: that would take
    /// a handshake.
    async fn turn_away(&self, mut io: Stream, client: &ClientIdentity) {
        if self.backstage.terminator(client.listener).is_some() {
            return self.backstage.count_early_close(EarlyClose::Full);
        }
        let Some(_refusal) = self.connections.begin_refusal() else {
            return self.backstage.count_early_close(EarlyClose::Full);
        };
        let answer = self.backstage.refuse(&NO_ROOM, client.address);
        let refused = async {
            // Closing a socket with unread bytes makes the kernel send a reset, which can destroy
            // the answer.
            let mut request = [0; READ_WHEN_FULL_LEN];
            let len = io.read(&mut request).await?;
            match http2::begins(request.get(..len).unwrap_or_default()) {
                true => io.write_all(&http2::TURNED_AWAY).await?,
                false => io.write_all(&answer).await?,
            }
            AsyncWriteExt::shutdown(&mut io).await
        };
        let _done_or_gone = timeout(REFUSAL_TIME, refused).await;
    }

    async fn end(&self, mut io: Stream, end: NoHead, peer: Option<std::net::SocketAddr>, limits: &LaneLimits) {
        match end {
            NoHead::Closed | NoHead::Shutdown => {}
            NoHead::Idle => self.backstage.count_early_close(EarlyClose::Idle),
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
impl<P: HttpServerApp + Send + Sync + 'static, B: LaneHost> ServerApp for Lane<P, B> {
    async fn process_new(self: &Arc<Self>, io: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let mut panics = PanicWatch::new(PanicPlace::Lane, |place| self.backstage.count_panic(place));
        let peer = self.peer(&io);
        let limits = self.backstage.limits();
        let entry = self.backstage.entry(&peer);
        let client = match entry {
            ConnectionStart::Client => self.backstage.lone_client(&peer),
            // A balancer that forwards connections stands for many clients.
            ConnectionStart::Header | ConnectionStart::Closed => None,
        };
        let Ok(mut guard) = self.connections.open(client, limits.connections) else {
            self.turn_away(io, &peer).await;
            return None;
        };
        let io = match entry {
            ConnectionStart::Client => io,
            // In a box, since most listeners have no use for its room.
            ConnectionStart::Header | ConnectionStart::Closed => {
                Box::pin(self.read_proxy_header(io, entry, &mut guard, &limits, shutdown)).await?
            }
        };
        let mut client = self.peer(&io);
        let mut timer = Timer::default();
        let io = match self.backstage.terminator(self.listener) {
            // In a box, so that a connection in plain text, and one whose handshake is over, has no
            // room for one.
            Some(terminator) => {
                Box::pin(self.secure(&terminator, io, &mut client, &limits, &mut timer, shutdown)).await?
            }
            None => io,
        };
        let is_http2 = matches!(io.selected_alpn_proto(), Some(ALPN::H2));
        let line = ReusableConnection { io, ahead: BytesMut::new(), eof: false, timer, guard: Arc::new(guard) };
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

/// Runs the handshake with as few writes as there can be. Over HTTP/2 the session tickets, which no
/// client waits for, leave with the first flush of the connection.
async fn shake_hands(io: Stream, terminator: &Terminator) -> Result<(Stream, Arc<ServedCertificate>), FailedHandshake> {
    delay_flush(&io, true);
    match tls::shake_hands(io, terminator).await {
        Ok((mut io, shown)) => {
            delay_flush(&io, false);
            if io.selected_alpn_proto() != Some(ALPN::H2) {
                // If the client is gone, the first read returns that.
                let _flushed = io.flush().await;
            }
            Ok((io, shown))
        }
        Err(failed) => {
            delay_flush(&failed.io, false);
            Err(failed)
        }
    }
}

/// The state of the next exchange, in the place of the one before if nothing holds that any more.
fn renew(last: &mut Option<Arc<ExchangeState>>, next: ExchangeState) -> Arc<ExchangeState> {
    let renewed = match last.take() {
        Some(mut state) => match Arc::get_mut(&mut state) {
            Some(free) => {
                *free = next;
                state
            }
            None => Arc::new(next),
        },
        None => Arc::new(next),
    };
    Arc::clone(last.insert(renewed))
}

/// Closes a connection whose last answer is written. The client may be sending: what reaches a
/// closed socket makes the kernel send a reset, which can destroy the answer.
async fn close(line: ReusableConnection, limits: &LaneLimits) {
    if !line.eof {
        linger(line.io, limits.exchange.drain_bytes, limits.exchange.drain_time).await;
    }
}

/// A client that sends nothing for so long after its last answer has had time to read it.
const LINGER_QUIET: Duration = Duration::from_secs(1);

/// Ends the sending side and drops what still comes, until the client ends its side, is quiet for
/// [`LINGER_QUIET`], or a limit is hit.
pub async fn linger(mut io: Stream, bytes: u64, time: Duration) {
    let drain = async {
        io.flush().await?;
        AsyncWriteExt::shutdown(&mut io).await?;
        let (mut dropped, mut chunk) = (0, [0; 2048]);
        while dropped <= bytes {
            match timeout(LINGER_QUIET, io.read(&mut chunk)).await {
                Ok(Ok(len)) if len > 0 => dropped += len as u64,
                Ok(Ok(_) | Err(_)) | Err(_) => break,
            }
        }
        Ok::<(), std::io::Error>(())
    };
    let _ended_or_out_of_time = timeout(time, drain).await;
}
