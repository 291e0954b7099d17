//! The session interface that Pingora requires of its proxy's requests.
//!
//! Absent on purpose: timeouts that Pingora would set
//! ([`ExchangeTimeouts`](crate::exchange::timeouts::ExchangeTimeouts) has its own), messages other
//! than the response, upgrades, and what concerns only the connection.

use std::future::poll_fn;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{ErrorType, Result};
use tokio::time::timeout;

use super::{Exchange, FixedBuffer, RETRY_LEN_MAX, down};

/// Custom messages next to a request, which HTTP/2 does not have.
type Messages = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

#[async_trait]
impl Session for Exchange {
    fn req_header(&self) -> &RequestHeader {
        &self.head
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.head
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_body(cx)).await
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if self.clock.state().is_held() {
            return Err(poll_fn(|cx| self.poll_gone(cx)).await);
        }
        if no_body_expected || self.is_body_done() {
            return Err(poll_fn(|cx| self.poll_response(cx)).await);
        }
        self.read_body_bytes().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        let drain = self.drain_time;
        let read = async {
            while !self.is_body_done() && self.read_body_bytes().await?.is_some() {}
            Ok(())
        };
        match drain {
            None => read.await,
            Some(time) => timeout(time, read).await.map_err(|_| down(ErrorType::ReadTimedout, "while draining"))?,
        }
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.write_head(*head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.write_head(head.clone(), end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.write_piece(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        Exchange::write_trailers(self, trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        self.write_tasks(tasks).await
    }

    async fn finish(&mut self) -> Result<()> {
        Exchange::finish(self)
    }

    async fn shutdown(&mut self, _: u32, _: &str) {
        self.give_up();
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    fn is_body_done(&mut self) -> bool {
        Exchange::is_body_done(self)
    }

    fn is_body_empty(&mut self) -> bool {
        Exchange::is_body_empty(self)
    }

    fn body_bytes_sent(&self) -> usize {
        self.sent_len
    }

    fn body_bytes_read(&self) -> usize {
        self.read_len
    }

    fn enable_retry_buffering(&mut self) {
        self.retry.get_or_insert_with(|| FixedBuffer::new(RETRY_LEN_MAX));
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.retry.as_ref().is_some_and(FixedBuffer::is_truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.retry.as_ref().filter(|retry| !retry.is_truncated()).and_then(FixedBuffer::get_buffer)
    }

    fn set_total_drain_timeout(&mut self, time: Option<Duration>) {
        self.drain_time = time;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain_time
    }

    fn set_read_timeout(&mut self, _: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, _: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn request_summary(&self) -> String {
        String::new()
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Messages> {
        None
    }

    fn restore_custom_message_reader(&mut self, _: Messages) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
