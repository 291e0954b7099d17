//! What Pingora asks of any connection besides its bytes: handed on to the socket within.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, Ssl, TimingDigest, UniqueID, UniqueIDType,
};

use super::RequestConnection;

#[async_trait]
impl Shutdown for RequestConnection {
    async fn shutdown(&mut self) {
        if let Some(io) = &mut self.io {
            Shutdown::shutdown(io.as_mut()).await;
        }
    }
}

impl UniqueID for RequestConnection {
    fn id(&self) -> UniqueIDType {
        self.io.as_ref().map_or(-1, |io| io.id())
    }
}

impl Ssl for RequestConnection {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.io.as_ref().and_then(|io| io.get_ssl_digest())
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.io.as_ref().and_then(|io| io.selected_alpn_proto())
    }
}

#[async_trait]
impl Peek for RequestConnection {}

impl GetTimingDigest for RequestConnection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.io.as_ref().map_or_else(Vec::new, |io| io.get_timing_digest())
    }
}

impl GetProxyDigest for RequestConnection {
    fn get_proxy_digest(&self) -> Option<Arc<pingora::protocols::raw_connect::ProxyDigest>> {
        self.io.as_ref().and_then(|io| io.get_proxy_digest())
    }
}

impl GetSocketDigest for RequestConnection {
    fn get_socket_digest(&self) -> Option<Arc<pingora::protocols::SocketDigest>> {
        self.io.as_ref().and_then(|io| io.get_socket_digest())
    }
}
