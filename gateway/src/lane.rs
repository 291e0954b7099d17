//! The short path before the proxy: Pingora's `ServerApp` of the data listeners.
//!
//! It reads one whole request head at a time ([`head`]), refuses what is not clean HTTP/1.1, and
//! hands each request to Pingora's `HttpProxy` as its head alone, on a connection that gives out no
//! more than that request ([`conn`]). No partial head leaves it. Since Pingora never reads a head
//! from the socket itself, its idle timers, its head buffer of 1 MiB and its pipelining are unused.

pub mod chunked;
pub mod conn;
pub mod head;
pub mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use self::conn::{Conn, Reclaimed, peer_addr};
use self::head::{Head, HeadLimits, NoHead, Refusal, Turn};
use self::watch::{ExchangeLimits, Watch};
use crate::metrics::{ActiveConnection, Connections, EarlyClose};

/// Counts a connection as open until the last holder is gone: the lane, the exchange, a lingering close.
pub type OpenConnection = Arc<ActiveConnection>;

/// What the lane asks of the gateway behind it.
pub trait Backstage: Send + Sync + 'static {
    /// The limits in force now.
    fn limits(&self) -> LaneLimits;
    /// Whether the gateway is about to stop, so that connections are to end with their present answer.
    fn is_draining(&self) -> bool;
    /// The whole answer to a head that the lane refuses, and its accounting.
    fn refuse(&self, refusal: &Refusal, peer: Option<std::net::SocketAddr>) -> Vec<u8>;
    /// A connection that ended without an answer, for this reason.
    fn closed_early(&self, reason: EarlyClose);
    /// A request that Pingora refused by itself, before any hook saw it.
    fn refused_unseen(&self);
}

/// All limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct LaneLimits {
    /// Of a request head.
    pub head: HeadLimits,
    /// Of the exchange after it.
    pub exchange: ExchangeLimits,
    /// Requests on one connection.
    pub requests: u64,
}

/// Serves the connections of one listener.
pub struct Lane<P, B> {
    proxy: Arc<P>,
    backstage: Arc<B>,
    connections: Arc<Connections>,
    listener: usize,
}

impl<P: HttpServerApp + Send + Sync + 'static, B: Backstage> Lane<P, B> {
    /// A lane before `proxy`.
    pub fn new(proxy: Arc<P>, backstage: Arc<B>, connections: Arc<Connections>, listener: usize) -> Self {
        Lane { proxy, backstage, connections, listener }
    }

    async fn serve(&self, mut line: Reclaimed, shutdown: &ShutdownWatch) {
        let peer = peer_addr(&line.io);
        let mut stop = shutdown.clone();
        let mut turn = Turn::First;
        for served in 1_u64.. {
            let limits = self.backstage.limits();
            let head = head::read(&mut line.io, &mut line.ahead, turn, &limits.head, &mut stop).await;
            let head = match head {
                Ok(head) => head,
                Err(end) => return self.end(line.io, end, peer, &limits).await,
            };
            let last = served >= limits.requests || *stop.borrow() || self.backstage.is_draining();
            let watch = Arc::new(Watch::new(limits.exchange, peer, self.listener));
            let reclaimed = self.exchange(line, head, &watch, last, &limits, shutdown).await;
            if !watch.was_seen() {
                self.backstage.refused_unseen();
            }
            match reclaimed {
                Some(next) => line = next,
                None => return,
            }
            turn = Turn::Next;
        }
    }

    /// One request, from its head to the end of its answer; the connection, if it may carry more.
    async fn exchange(
        &self,
        mut line: Reclaimed,
        head: Head,
        watch: &Arc<Watch>,
        last: bool,
        limits: &LaneLimits,
        shutdown: &ShutdownWatch,
    ) -> Option<Reclaimed> {
        let bytes = line.ahead.split_to(head.len);
        let conn = Conn::new(line, head.framing, Arc::clone(watch), limits.head.bytes);
        let mut session = ServerSession::new_http1(Box::new(conn));
        session.set_read_timeout(None);
        session.set_total_drain_timeout(Some(limits.exchange.drain_time));
        // Pingora sets its keep-alive from the request itself; the count is what ends it.
        session.set_keepalive_reuses_remaining(Some(u32::from(!last)));
        session.set_pipelined_prefix(bytes);
        let reused = self.proxy.process_new_http(session, shutdown).await?;
        let (stream, _) = reused.consume();
        let conn = stream.into_any().downcast::<Conn>().ok()?;
        conn.reclaim()
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
        let guard = Arc::new(self.connections.open());
        let line = Reclaimed { io, ahead: BytesMut::new(), eof: false, guard };
        self.serve(line, shutdown).await;
        None
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
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
