//! Connections over HTTP/2 from clients: each stream becomes an exchange of its own, judged and
//! counted as over HTTP/1.1.
//!
//! The lane hands a connection over whole, by its first bytes or by ALPN, once it is counted. `h2`
//! frames and decodes; the rest of what the lane does for HTTP/1.1 is done here, since Pingora's
//! own loop answers what it refuses without a hook, waits without bounds and keeps a stream's waits
//! to itself. Heads are checked like those of the lane ([`head`]). The connection's task answers
//! preflights, health checks and refused heads. Every other stream has a task of its own, which
//! serves it by the direct exchange or gives it to Pingora as a session of ours ([`stream`]). What
//! a client sends that is no request is counted frame by frame ([`wire`]). WebSockets over HTTP/2
//! (RFC 8441) are not offered, and nothing is pushed.

mod allowance;
mod frames;
mod head;
mod stream;
mod traffic;
mod wire;

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use pingora::apps::HttpServerApp;
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use tokio::time::{Instant, timeout};

pub use self::head::watch;
use self::stream::Exchange;
use self::traffic::StreamTraffic;
use self::wire::Wire;
use crate::exchange::direct::{self, ExchangeRequest, ExchangeStart, ServedBy};
use crate::exchange::state::ExchangeState;
use crate::exchange::timer::{StopSignal, Timer};
use crate::exchange::unattended::run_attended;
use crate::exchange::{
    ClientIdentity, EdgeAnswer, ExchangeHost, LaneLimits, OpenConnection, RequestEngine, ReusableConnection,
    count_abandoned, with_date,
};
use crate::metrics::{ConnectionCounters, ConnectionsFull, EarlyClose, ExtraRequest, PanicPlace, PanicWatch};
use crate::refusal::{HeadRefusal, NO_ROOM};
use crossgate_message::fields::KnownHeaders;
use crossgate_message::received_head::ReceivedHead;

/// How a connection over HTTP/2 begins, RFC 9113, section 3.4: up to where it can be no HTTP/1.1.
const PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// The list of fields that `h2` takes in is this many times the head that is allowed, so that what
/// is a little too large gets an answer of ours. `h2` refuses what is larger by a bare 431, and
/// ends the connection of a client that sends four times that.
const LIST_PER_HEAD: usize = 2;
/// What may come of one request's body before the upstream takes it: enough for 5 MB a second over
/// 50 ms.
const STREAM_WINDOW_LEN: u32 = 256 * 1024;
/// The same of all requests on a connection: what a client can make the gateway hold by sending.
const CONNECTION_WINDOW_LEN: u32 = 1024 * 1024;
/// What is held of an answer that the client does not take: one piece.
const SEND_BUFFER_LEN: usize = 16 * 1024;
/// Streams that a client may cancel before they are looked at, which is whenever the connection is:
/// all that it may have at one time.
const UNSEEN_RESETS_MAX: usize = 100;
/// Streams that break the protocol, over the life of a connection: each has cost a request
/// ("MadeYouReset"). A client that does not wait for the settings may open as many too many as
/// there may be.
const BROKEN_STREAMS_MAX: usize = 100;

/// Answers that the connection's task makes before it writes them and other tasks run: a rule may
/// take some milliseconds for each.
const ANSWERS_PER_TURN: u32 = 32;

/// The time for a client that got GOAWAY and has nothing left to wait for to acknowledge it. It may
/// have sent a request before.
const FAREWELL_TIME: Duration = Duration::from_millis(500);

/// The bytes for a client over the connection limit: empty SETTINGS, and GOAWAY with
/// ENHANCE_YOUR_CALM. RFC 9113, sections 6.5 and 6.8.
pub const TURNED_AWAY: [u8; 26] = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb];

/// What is behind a connection.
pub struct H2Context<'a, P, B> {
    /// Serves requests.
    pub proxy: &'a Arc<P>,
    /// Answers what is refused, and knows the limits.
    pub backstage: &'a Arc<B>,
    /// Counts.
    pub connections: &'a Arc<ConnectionCounters>,
    /// The signal of the gateway's stop.
    pub shutdown: &'a ShutdownWatch,
    /// Whether preflights are answered without the proxy.
    pub engine: RequestEngine,
}

/// Whether a client begins with HTTP/2.
pub fn begins(sent: &[u8]) -> bool {
    sent.starts_with(PREFACE_LINE)
}

/// Serves a connection to its end. What was read of it already is `line.ahead`.
pub async fn serve<P: HttpServerApp + Send + Sync + 'static, B: ExchangeHost>(
    line: ReusableConnection,
    client: &ClientIdentity,
    behind: H2Context<'_, P, B>,
) {
    let ReusableConnection { io, ahead, timer, guard, .. } = line;
    let limits = behind.backstage.limits();
    behind.connections.count_http2_connection();
    let traffic = Arc::new(StreamTraffic::new());
    // The preface has the time of a first head.
    let h2 = match timeout(limits.head.time, handshake(io, ahead, &limits, &traffic)).await {
        Ok(Ok(h2)) => h2,
        Ok(Err(error)) => return count_end(behind.backstage.as_ref(), &error),
        Err(_) => return behind.backstage.count_early_close(EarlyClose::Idle),
    };
    let mut served = H2Connection {
        h2,
        client,
        stop: StopSignal::new(behind.shutdown),
        behind,
        guard,
        traffic,
        requests: 0,
        limits,
        timer,
        look_at: Instant::now() + limits.http2.idle,
        taken: 0,
        going: ShutdownState::No,
        turn: TaskTurn::Running,
        answered: 0,
    };
    served.run().await;
}

async fn handshake(
    io: Stream,
    ahead: BytesMut,
    limits: &LaneLimits,
    traffic: &Arc<StreamTraffic>,
) -> Result<Connection<Wire, Bytes>, h2::Error> {
    let list_len = limits.head.bytes.saturating_mul(LIST_PER_HEAD);
    let wire = Wire::new(io, ahead, limits.exchange, Arc::clone(traffic));
    let handshake = h2::server::Builder::new()
        .max_concurrent_streams(limits.http2.streams)
        .max_header_list_size(u32::try_from(list_len).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW_LEN)
        .initial_connection_window_size(CONNECTION_WINDOW_LEN)
        .max_send_buffer_size(SEND_BUFFER_LEN)
        .max_pending_accept_reset_streams(UNSEEN_RESETS_MAX)
        .max_local_error_reset_streams(Some(BROKEN_STREAMS_MAX))
        .handshake(wire);
    handshake.await
}

/// A connection that is served.
struct H2Connection<'a, P, B> {
    h2: Connection<Wire, Bytes>,
    client: &'a ClientIdentity,
    behind: H2Context<'a, P, B>,
    guard: OpenConnection,
    traffic: Arc<StreamTraffic>,
    requests: u64,
    limits: LaneLimits,
    stop: StopSignal,
    timer: Timer,
    /// When to see whether the connection is idle.
    look_at: Instant,
    /// What the client had taken when that was seen last.
    taken: u64,
    going: ShutdownState,
    turn: TaskTurn,
    /// The answers that the task has made in this turn.
    answered: u32,
}

/// The progress of the connection's task.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TaskTurn {
    /// It waits to be woken.
    Waiting,
    /// It was woken, and lets the tasks of streams run first.
    Yielding,
    /// It polls the connection.
    Running,
}

/// The progress of GOAWAY.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ShutdownState {
    /// Not yet.
    No,
    /// What it has sent is served.
    WithStreams,
    /// Nothing is left. Until then it may acknowledge that.
    At(Instant),
}

/// What happens to a connection.
#[expect(clippy::large_enum_variant, reason = "it is looked at where it is made, and never kept")]
enum Event {
    Request(Request<RecvStream>, SendResponse<Bytes>),
    /// The gateway stops.
    Stop,
    /// The client has not said that it knows the end.
    Farewell,
    /// Nothing has moved for as long as it may.
    Idle,
    /// There are too many frames that carry nothing.
    Flood,
    /// It is over.
    End(Result<(), h2::Error>),
}

impl<P: HttpServerApp + Send + Sync + 'static, B: ExchangeHost> H2Connection<'_, P, B> {
    async fn run(&mut self) {
        loop {
            match poll_fn(|cx| self.poll_event(cx)).await {
                Event::Request(request, respond) => {
                    self.requests += 1;
                    self.begin(request, respond);
                    // As over HTTP/1.1: what is asked is answered, and the connection ends with
                    // that.
                    if self.requests >= self.limits.requests || self.behind.backstage.is_draining() {
                        self.go_away();
                    }
                    // The client does not heed it, even after all that was on its way.
                    let on_their_way = u64::from(self.limits.http2.streams).saturating_mul(2);
                    if self.requests >= self.limits.requests.saturating_add(on_their_way) {
                        return self.end(Reason::ENHANCE_YOUR_CALM, Some(EarlyClose::Http2Flood)).await;
                    }
                }
                Event::Stop => self.go_away(),
                Event::Farewell => return self.end(Reason::NO_ERROR, None).await,
                Event::Flood => return self.end(Reason::ENHANCE_YOUR_CALM, Some(EarlyClose::Http2Flood)).await,
                Event::Idle => {
                    let stalled = self.has_unsent();
                    let reason = if stalled { EarlyClose::WriteStall } else { EarlyClose::Idle };
                    return self.end(Reason::NO_ERROR, Some(reason)).await;
                }
                Event::End(Ok(())) => return,
                Event::End(Err(error)) => return count_end(self.behind.backstage.as_ref(), &error),
            }
        }
    }

    /// Whatever comes first. Polling the connection is what moves all of its streams.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        // A stream's answer wakes this task, and tokio would run it next, before the tasks of the
        // streams that the same events have woken: one write for each answer.
        if self.turn == TaskTurn::Waiting && self.traffic.take_answered() {
            self.turn = TaskTurn::Yielding;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.turn = TaskTurn::Running;
        // The poll that brought the last request has written the answers before.
        if self.answered > ANSWERS_PER_TURN {
            self.answered = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let event = self.poll_turn(cx);
        if event.is_pending() {
            (self.turn, self.answered) = (TaskTurn::Waiting, 0);
            // What the task itself has answered is written.
            self.traffic.take_answered();
        }
        event
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.traffic.set_holding(self.answered < ANSWERS_PER_TURN);
        let mut accepted = self.h2.poll_accept(cx);
        if accepted.is_pending() {
            // Nothing is left to read: what was held back is written.
            self.traffic.set_holding(false);
            accepted = self.h2.poll_accept(cx);
        }
        if self.traffic.is_flooded() {
            return Poll::Ready(Event::Flood);
        }
        match accepted {
            Poll::Ready(Some(Ok((request, respond)))) => return Poll::Ready(Event::Request(request, respond)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::End(Err(error))),
            Poll::Ready(None) => return Poll::Ready(Event::End(Ok(()))),
            Poll::Pending => {}
        }
        if self.going == ShutdownState::No && self.stop.poll_last_chance(cx).is_ready() {
            return Poll::Ready(Event::Stop);
        }
        if let Some(farewell) = self.farewell()
            && self.timer.poll_until(cx, farewell).is_ready()
        {
            return Poll::Ready(Event::Farewell);
        }
        while self.timer.poll_until(cx, self.look_at).is_ready() {
            if self.is_idle() {
                return Poll::Ready(Event::Idle);
            }
        }
        Poll::Pending
    }

    /// Whether no stream was served for the idle time. If not, sets when to check again.
    fn is_idle(&mut self) -> bool {
        let now = Instant::now();
        let taken = self.traffic.taken();
        // What was answered may still be on its way, to a client that takes it slowly.
        let is_taking = self.has_unsent() && taken != self.taken;
        self.taken = taken;
        let quiet_since = self.traffic.quiet_since().filter(|_| !is_taking).unwrap_or(now);
        self.look_at = quiet_since + self.limits.http2.idle;
        self.look_at <= now
    }

    /// Whether there is something that the client has not been sent.
    fn has_unsent(&self) -> bool {
        self.h2.has_streams() || self.traffic.has_held()
    }

    /// Sends GOAWAY. Requests that the client has sent are answered, and then the connection ends.
    fn go_away(&mut self) {
        if self.going == ShutdownState::No {
            self.going = ShutdownState::WithStreams;
            self.h2.graceful_shutdown();
        }
    }

    /// When a client that got GOAWAY is disconnected, if it has nothing to wait for.
    fn farewell(&mut self) -> Option<Instant> {
        self.going = match self.going {
            ShutdownState::WithStreams if !self.has_unsent() => ShutdownState::At(Instant::now() + FAREWELL_TIME),
            ShutdownState::At(_) if self.has_unsent() => ShutdownState::WithStreams,
            going @ (ShutdownState::No | ShutdownState::WithStreams | ShutdownState::At(_)) => going,
        };
        match self.going {
            ShutdownState::At(farewell) => Some(farewell),
            ShutdownState::No | ShutdownState::WithStreams => None,
        }
    }

    /// Ends the connection and all of its streams, and sends the client the reason, if it reads
    /// that in time.
    async fn end(&mut self, reason: Reason, counted: Option<EarlyClose>) {
        if let Some(counted) = counted {
            self.behind.backstage.count_early_close(counted);
        }
        if !self.has_unsent() && reason == Reason::NO_ERROR {
            self.traffic.end_at_once();
        }
        self.traffic.set_holding(false);
        self.h2.abrupt_shutdown(reason);
        let closed = poll_fn(|cx| self.h2.poll_closed(cx));
        let _sent_or_not = timeout(self.limits.exchange.drain_time, closed).await;
    }

    /// Room for one more request. The connection has its own for one at a time.
    fn room(&self) -> Result<Option<ExtraRequest>, HeadRefusal> {
        match self.traffic.quiet_since() {
            Some(_) => Ok(None),
            None => match self.behind.connections.begin_extra(self.limits.connections) {
                Ok(extra) => Ok(Some(extra)),
                Err(ConnectionsFull) => Err(NO_ROOM),
            },
        }
    }

    /// The answer to a health check of the listener, if the request is one.
    fn answer_health_check(&self, head: &RequestHeader) -> Option<EdgeAnswer> {
        let backstage = self.behind.backstage;
        let path = backstage.health_path(self.client.listener)?;
        let method = head.method.as_str().as_bytes();
        path.is_health_check(method, head.raw_path()).then(|| backstage.answer_health_check(method))
    }

    /// The answer to a preflight, if the request is one that is complete and has nothing unusual.
    fn answer_preflight(&self, head: &RequestHeader, body: &RecvStream) -> Option<EdgeAnswer> {
        let is_whole = head.method == Method::OPTIONS && body.is_end_stream() && head.raw_path().starts_with(b"/");
        if !is_whole || self.behind.engine == RequestEngine::Pingora {
            return None;
        }
        let known = KnownHeaders::of((&head.headers).into());
        let answer = || self.behind.backstage.answer_preflight(head, &known, self.client);
        if known.is_plain_preflight() { answer() } else { None }
    }

    /// Takes a request up: answers it, or serves it in a task of its own.
    fn begin(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        self.limits = self.behind.backstage.limits();
        self.behind.connections.count_http2_request();
        let (parts, body) = request.into_parts();
        // Rapid reset: a cancelled stream must not count as answered.
        let is_cancelled = respond.poll_reset(&mut Context::from_waker(Waker::noop())).is_ready();
        // A panic ends its own stream, and not the others of the connection.
        match catch_unwind(AssertUnwindSafe(|| self.take(parts, &body, is_cancelled))) {
            Ok(HeadOutcome::Request(head)) => match self.room() {
                Ok(room) => self.spawn(head, body, respond, room),
                Err(refusal) => {
                    let answer = self.behind.backstage.refusal(&refusal, self.client.address);
                    self.answer(respond, answer);
                }
            },
            Ok(HeadOutcome::Answered(answer)) => {
                // It counts as a request, for the idle time and the client's allowance of frames.
                drop(self.traffic.begin());
                self.traffic.earn(0);
                if !answer.body.is_empty() {
                    self.traffic.earn(answer.body.len());
                }
                self.answer(respond, answer);
            }
            Ok(HeadOutcome::Refused(answer)) => self.answer(respond, answer),
            Err(_) => {
                self.answered += 1;
                drop(self.traffic.begin());
                self.behind.backstage.count_panic(PanicPlace::Lane);
                respond.send_reset(Reason::INTERNAL_ERROR);
            }
        }
    }

    /// Checks a head, and answers it if the proxy is not needed.
    fn take(&self, parts: Parts, body: &RecvStream, is_cancelled: bool) -> HeadOutcome {
        let head = match head::accept(parts, &self.limits.head) {
            Ok(head) => head,
            Err(refusal) => return HeadOutcome::Refused(self.behind.backstage.refusal(&refusal, self.client.address)),
        };
        let answer = || self.answer_health_check(&head).or_else(|| self.answer_preflight(&head, body));
        match if is_cancelled { None } else { answer() } {
            Some(answer) => HeadOutcome::Answered(answer),
            None => HeadOutcome::Request(Box::new(head)),
        }
    }

    /// Sends an answer. A body for which the client has no room waits in a task of its own, as long
    /// as the client of any answer may take.
    fn answer(&mut self, mut respond: SendResponse<Bytes>, answer: EdgeAnswer) {
        self.answered += 1;
        let Some((mut stream, body)) = send_head(&mut respond, answer) else { return };
        stream.reserve_capacity(body.len());
        if stream.capacity() >= body.len() {
            let _sent_or_gone = stream.send_data(body, true);
            return;
        }
        let (running, guard) = (self.traffic.begin(), Arc::clone(&self.guard));
        let (backstage, stall) = (Arc::clone(self.behind.backstage), self.limits.exchange.write_stall);
        tokio::spawn(async move {
            if timeout(stall, send_body(&mut stream, body)).await.is_err() {
                backstage.count_early_close(EarlyClose::WriteStall);
                stream.send_reset(Reason::INTERNAL_ERROR);
            }
            drop((running, guard));
        });
    }

    /// Serves a request in a task of its own.
    fn spawn(
        &self,
        mut head: Box<RequestHeader>,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        room: Option<ExtraRequest>,
    ) {
        let ClientIdentity { address, listener, shown } = self.client;
        let watch =
            Arc::new(ExchangeState::new(self.limits.exchange, *address, *listener).with_certificate(shown.clone()));
        head::set_watch(&mut head, Arc::clone(&watch));
        let running = self.traffic.begin();
        let exchange = Exchange::new(*head, body, respond, Arc::clone(&watch), Arc::clone(&self.traffic));
        let (proxy, backstage) = (Arc::clone(self.behind.proxy), Arc::clone(self.behind.backstage));
        let (shutdown, guard) = (self.behind.shutdown.clone(), Arc::clone(&self.guard));
        let is_direct = self.behind.engine == RequestEngine::Direct;
        // In a box: the runtime copies the whole task three times.
        tokio::spawn(Box::pin(async move {
            let _panics = PanicWatch::new(PanicPlace::Proxy, |place| backstage.count_panic(place));
            let mut exchange = exchange;
            if is_direct && exchange_directly(&backstage, &mut exchange, &watch).await {
                return drop((running, room, guard));
            }
            exchange.set_probe();
            let session = ServerSession::new_custom(Box::new(exchange));
            if let Err(why) = run_attended(proxy.process_new_http(session, &shutdown), &watch).await {
                count_abandoned(backstage.as_ref(), why, &watch);
            }
            // What no hook took refers to the state that holds it.
            drop(watch.take_declined());
            if !watch.is_seen() {
                backstage.count_unseen_refusal();
            }
            drop((running, room, guard));
        }));
    }
}

/// Serves a request without the proxy. `false` if the request is left to the proxy.
async fn exchange_directly<B: ExchangeHost>(
    backstage: &Arc<B>,
    exchange: &mut Exchange,
    watch: &Arc<ExchangeState>,
) -> bool {
    let framing = exchange.upload_framing();
    let header = exchange.take_head();
    let head = ReceivedHead::from(&header);
    let request = ExchangeRequest { head: &head, framing, state: watch };
    let (mut upstream, answer) = match backstage.begin(&head, framing, watch) {
        ExchangeStart::Declined => {
            exchange.set_head(header);
            return false;
        }
        ExchangeStart::Answered { answer, upstream, .. } => (upstream, Some(answer)),
        ExchangeStart::Direct(upstream) => (upstream, None),
    };
    let served_by = direct::run(exchange, &request, &mut upstream, answer).await;
    exchange.set_head(header);
    served_by == ServedBy::Exchange
}

/// What becomes of a request.
enum HeadOutcome {
    /// The proxy serves it.
    Request(Box<RequestHeader>),
    /// It is answered.
    Answered(EdgeAnswer),
    /// Its head is refused.
    Refused(EdgeAnswer),
}

/// Answers a request that the proxy does not see. What does not fit is held by `h2`, and what fails
/// is the end of the stream.
fn answer_at_once(respond: &mut SendResponse<Bytes>, answer: EdgeAnswer) {
    if let Some((mut stream, body)) = send_head(respond, answer) {
        let _sent_or_gone = stream.send_data(body, true);
    }
}

/// Sends the head of an answer. Returns the body, if there is one and the stream is still there.
fn send_head(respond: &mut SendResponse<Bytes>, answer: EdgeAnswer) -> Option<(SendStream<Bytes>, Bytes)> {
    let EdgeAnswer { status, fields, body } = answer;
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.headers_mut() = fields;
    date(head.headers_mut());
    let stream = respond.send_response(head, body.is_empty()).ok()?;
    (!body.is_empty()).then_some((stream, body))
}

/// Sends a body as the client takes it; one that has gone ends it.
async fn send_body(stream: &mut SendStream<Bytes>, mut body: Bytes) {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(room)) => room,
            Some(Err(_)) | None => return,
        };
        let part = body.split_to(room.min(body.len()));
        if stream.send_data(part, body.is_empty()).is_err() {
            return;
        }
    }
}

/// RFC 9110, section 6.6.1.
fn date(fields: &mut HeaderMap<HeaderValue>) {
    with_date(|date| fields.insert(header::DATE, date.clone()));
}

/// Counts a connection that ended by an error that `h2` found. Streams count a connection that just
/// broke.
fn count_end<B: ExchangeHost>(backstage: &B, error: &h2::Error) {
    if !error.is_go_away() || !error.is_library() {
        return;
    }
    backstage.count_early_close(match error.reason() {
        Some(Reason::ENHANCE_YOUR_CALM) => EarlyClose::Http2Flood,
        Some(_) | None => EarlyClose::Http2Error,
    });
}
