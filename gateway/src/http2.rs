//! Connections over HTTP/2 from clients: each stream becomes an exchange of its own, judged and counted as over HTTP/1.1.
//!
//! The lane hands a connection over whole, by its first bytes or by ALPN, once it is counted. `h2` frames and decodes; the rest of what
//! the lane does for HTTP/1.1 is done here, since Pingora's own loop answers what it refuses without a hook, waits without bounds and
//! keeps a stream's waits to itself. So each stream is given to Pingora as a session of ours ([`stream`]), its head checked like one of
//! the lane ([`head`]); what a client sends that is no request is counted frame by frame ([`wire`]). WebSockets over HTTP/2 (RFC 8441)
//! are not offered, and nothing is pushed.

mod allowance;
mod frames;
mod head;
mod stream;
mod traffic;
mod wire;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use pingora::apps::HttpServerApp;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::date::get_cached_date;
use pingora::server::ShutdownWatch;
use tokio::time::{Instant, timeout};

pub use self::head::watch;
use self::stream::Exchange;
use self::traffic::Traffic;
use self::wire::Wire;
use crate::lane::conn::Reclaimed;
use crate::lane::head::{NO_ROOM, Refusal};
use crate::lane::preflight::Client;
use crate::lane::unattended::bounded;
use crate::lane::waiting::{Alarm, Stop};
use crate::lane::watch::Watch;
use crate::lane::{Backstage, LaneLimits, OpenConnection};
use crate::metrics::{Connections, EarlyClose, ExtraRequest, Full, PanicPlace, PanicWatch};
use crate::respond::Answer;

/// How a connection over HTTP/2 begins, RFC 9113, section 3.4: up to where it can be no HTTP/1.1.
const PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// The list of fields that `h2` takes in is this many times the head that is allowed, so that what is a little too large gets an answer
/// of ours. `h2` refuses what is larger by a bare 431, and ends the connection of whoever sends four times that.
const LIST_PER_HEAD: usize = 2;
/// What may come of one request's body before the upstream takes it: enough for 5 MB a second over 50 ms.
const STREAM_WINDOW_LEN: u32 = 256 * 1024;
/// The same of all requests on a connection: what a client can make the gateway hold by sending.
const CONNECTION_WINDOW_LEN: u32 = 1024 * 1024;
/// What is held of an answer that the client does not take: a piece as Pingora reads them.
const SEND_BUFFER_LEN: usize = 64 * 1024;
/// Streams that a client may cancel before they are looked at, which is whenever the connection is: all that it may have at one time.
const UNSEEN_RESETS_MAX: usize = 100;
/// Streams that break the protocol, over the life of a connection: each has cost a request ("MadeYouReset"). A client that does not wait
/// for the settings may open as many too many as there may be.
const BROKEN_STREAMS_MAX: usize = 100;

/// For a client that was told to go, and has nothing left to wait for, to say that it knows. It may have sent a request meanwhile.
const FAREWELL_TIME: Duration = Duration::from_millis(500);

/// What a client too many is told: no settings, and to go away and be calm. RFC 9113, sections 6.5 and 6.8.
pub const TURNED_AWAY: [u8; 26] = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb];

/// Whether a listener speaks HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http2 {
    /// To clients that begin with it, or agree on it in a TLS handshake.
    #[default]
    Offered,
    /// HTTP/1.1 alone.
    Off,
}

/// Bounds of a connection that HTTP/1.1 has no counterpart of.
#[derive(Clone, Copy, Debug)]
pub struct Http2Limits {
    /// Streams at one time.
    pub streams: u32,
    /// Time without any.
    pub idle: Duration,
}

/// What is behind a connection.
pub struct Behind<'a, P, B> {
    /// Serves requests.
    pub proxy: &'a Arc<P>,
    /// Answers what is refused, and knows the limits.
    pub backstage: &'a Arc<B>,
    /// Counts.
    pub connections: &'a Arc<Connections>,
    /// Tells of the gateway's stop.
    pub shutdown: &'a ShutdownWatch,
}

/// Whether a client begins with HTTP/2.
pub fn begins(sent: &[u8]) -> bool {
    sent.starts_with(PREFACE_LINE)
}

/// Serves a connection to its end. What was read of it already is `line.ahead`.
pub async fn serve<P: HttpServerApp + Send + Sync + 'static, B: Backstage>(
    line: Reclaimed,
    client: &Client,
    behind: Behind<'_, P, B>,
) {
    let Reclaimed { io, ahead, alarm, guard, .. } = line;
    let limits = behind.backstage.limits();
    behind.connections.count_http2_connection();
    let traffic = Arc::new(Traffic::new());
    // The preface has the time of a first head.
    let h2 = match timeout(limits.head.time, handshake(io, ahead, &limits, &traffic)).await {
        Ok(Ok(h2)) => h2,
        Ok(Err(error)) => return count_end(behind.backstage.as_ref(), &error),
        Err(_) => return behind.backstage.closed_early(EarlyClose::Idle),
    };
    let mut served = Served {
        h2,
        client,
        stop: Stop::new(behind.shutdown),
        behind,
        guard,
        traffic,
        requests: 0,
        limits,
        alarm,
        look_at: Instant::now() + limits.http2.idle,
        taken: 0,
        going: Going::No,
    };
    served.run().await;
}

async fn handshake(
    io: Stream,
    ahead: BytesMut,
    limits: &LaneLimits,
    traffic: &Arc<Traffic>,
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
struct Served<'a, P, B> {
    h2: Connection<Wire, Bytes>,
    client: &'a Client,
    behind: Behind<'a, P, B>,
    guard: OpenConnection,
    traffic: Arc<Traffic>,
    requests: u64,
    limits: LaneLimits,
    stop: Stop,
    alarm: Alarm,
    /// When to see whether the connection is idle.
    look_at: Instant,
    /// What the client had taken when that was seen last.
    taken: u64,
    going: Going,
}

/// Whether the client was told to send no more requests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Going {
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

impl<P: HttpServerApp + Send + Sync + 'static, B: Backstage> Served<'_, P, B> {
    async fn run(&mut self) {
        loop {
            match poll_fn(|cx| self.poll_event(cx)).await {
                Event::Request(request, respond) => {
                    self.requests += 1;
                    self.begin(request, respond);
                    // As over HTTP/1.1: what is asked is answered, and the connection ends with that.
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
                    let stalled = self.h2.has_streams();
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
        let accepted = self.h2.poll_accept(cx);
        if self.traffic.is_flooded() {
            return Poll::Ready(Event::Flood);
        }
        match accepted {
            Poll::Ready(Some(Ok((request, respond)))) => return Poll::Ready(Event::Request(request, respond)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::End(Err(error))),
            Poll::Ready(None) => return Poll::Ready(Event::End(Ok(()))),
            Poll::Pending => {}
        }
        if self.going == Going::No && self.stop.poll_last_chance(cx).is_ready() {
            return Poll::Ready(Event::Stop);
        }
        if let Some(farewell) = self.farewell()
            && self.alarm.poll_until(cx, farewell).is_ready()
        {
            return Poll::Ready(Event::Farewell);
        }
        while self.alarm.poll_until(cx, self.look_at).is_ready() {
            if self.is_idle() {
                return Poll::Ready(Event::Idle);
            }
        }
        Poll::Pending
    }

    /// Whether nobody was served for as long as that may be. If not, it says when to look again.
    fn is_idle(&mut self) -> bool {
        let now = Instant::now();
        let taken = self.traffic.taken();
        // What was answered may still be on its way, to a client that takes it slowly.
        let is_taking = self.h2.has_streams() && taken != self.taken;
        self.taken = taken;
        let quiet_since = self.traffic.quiet_since().filter(|_| !is_taking).unwrap_or(now);
        self.look_at = quiet_since + self.limits.http2.idle;
        self.look_at <= now
    }

    /// Tells the client to send no more requests. What it has sent is answered, and then the connection ends.
    fn go_away(&mut self) {
        if self.going == Going::No {
            self.going = Going::WithStreams;
            self.h2.graceful_shutdown();
        }
    }

    /// When a client that was told to go is left, if it has nothing to wait for.
    fn farewell(&mut self) -> Option<Instant> {
        self.going = match self.going {
            Going::WithStreams if !self.h2.has_streams() => Going::At(Instant::now() + FAREWELL_TIME),
            Going::At(_) if self.h2.has_streams() => Going::WithStreams,
            going @ (Going::No | Going::WithStreams | Going::At(_)) => going,
        };
        match self.going {
            Going::At(farewell) => Some(farewell),
            Going::No | Going::WithStreams => None,
        }
    }

    /// Ends the connection and all of its streams, and tells the client why, if it takes that in time.
    async fn end(&mut self, reason: Reason, counted: Option<EarlyClose>) {
        if let Some(counted) = counted {
            self.behind.backstage.closed_early(counted);
        }
        if !self.h2.has_streams() && reason == Reason::NO_ERROR {
            self.traffic.end_at_once();
        }
        self.h2.abrupt_shutdown(reason);
        let closed = poll_fn(|cx| self.h2.poll_closed(cx));
        let _told_or_not = timeout(self.limits.exchange.drain_time, closed).await;
    }

    /// Room for one more request. The connection has its own for one at a time.
    fn room(&self) -> Result<Option<ExtraRequest>, Refusal> {
        match self.traffic.quiet_since() {
            Some(_) => Ok(None),
            None => match self.behind.connections.begin_extra(self.limits.connections) {
                Ok(extra) => Ok(Some(extra)),
                Err(Full) => Err(NO_ROOM),
            },
        }
    }

    /// Takes a request up: in a task of its own, if its head is one to be judged.
    fn begin(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        self.limits = self.behind.backstage.limits();
        self.behind.connections.count_http2_request();
        let (parts, body) = request.into_parts();
        let Client { address, listener, shown } = self.client;
        let watch = Arc::new(Watch::new(self.limits.exchange, *address, *listener).over(shown.clone()));
        let accepted = head::accept(parts, Arc::clone(&watch), &self.limits.head);
        match accepted.and_then(|head| Ok((head, self.room()?))) {
            Err(refusal) => {
                let answer = self.behind.backstage.refusal(&refusal, *address);
                refuse(&mut respond, answer);
            }
            Ok((head, room)) => {
                let running = self.traffic.begin();
                let exchange = Exchange::new(head, body, respond, Arc::clone(&watch), Arc::clone(&self.traffic));
                let (proxy, backstage) = (Arc::clone(self.behind.proxy), Arc::clone(self.behind.backstage));
                let (shutdown, guard) = (self.behind.shutdown.clone(), Arc::clone(&self.guard));
                tokio::spawn(async move {
                    let _panics = PanicWatch::new(PanicPlace::Proxy, |place| backstage.panicked(place));
                    let session = ServerSession::new_custom(Box::new(exchange));
                    if bounded(proxy.process_new_http(session, &shutdown), &watch).await.is_err() {
                        backstage.closed_early(EarlyClose::ExchangeIdle);
                    }
                    if !watch.was_seen() {
                        backstage.refused_unseen();
                    }
                    drop((running, room, guard));
                });
            }
        }
    }
}

/// Answers a request that is refused. What does not fit is held by `h2`, and what fails is the end of the stream.
fn refuse(respond: &mut SendResponse<Bytes>, answer: Answer) {
    let Answer { status, fields, body } = answer;
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.headers_mut() = fields;
    date(head.headers_mut());
    if let Ok(mut stream) = respond.send_response(head, body.is_empty())
        && !body.is_empty()
    {
        let _sent_or_gone = stream.send_data(body, true);
    }
}

/// RFC 9110, section 6.6.1.
fn date(fields: &mut HeaderMap<HeaderValue>) {
    fields.insert(header::DATE, get_cached_date());
}

/// Counts a connection that ended by an error that `h2` found. One that just broke is told of by its streams.
fn count_end<B: Backstage>(backstage: &B, error: &h2::Error) {
    if !error.is_go_away() || !error.is_library() {
        return;
    }
    backstage.closed_early(match error.reason() {
        Some(Reason::ENHANCE_YOUR_CALM) => EarlyClose::Http2Flood,
        Some(_) | None => EarlyClose::Http2Error,
    });
}
