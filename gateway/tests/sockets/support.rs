//! The harness of the socket suites: the built binary as a child process, a strict HTTP/1.1 client over a plain
//! `TcpStream`, and upstreams that record what they saw and fail on request.
//!
//! Everything is seen from outside: no suite calls into the crate. Nothing sleeps to wait: a child is ready when it
//! said so, and every read has a deadline. Ports are the operating system's choice.

mod address;
mod browser;
mod certificates;
mod crowd;
mod demo;
mod dns;
mod faulty;
mod flood;
mod frame_upstream;
mod gateway;
mod heir;
mod http2;
pub(crate) mod http2_frames;
mod http2_upstream;
mod process;
mod raw_http2;
mod requests;
mod sink;
mod site;
mod tls;
mod tls_front;
mod upstream;
mod websocket;
mod wire;

pub(crate) use address::{RefusedAddress, UnansweredAddress};
pub(crate) use browser::Browser;
pub(crate) use certificates::{Authority, Issued, Valid};
pub(crate) use crowd::{End, Reads, SlowClient, allow_open_files, crowd};
pub(crate) use demo::DemoUpstream;
pub(crate) use dns::{Answer, NameServer};
pub(crate) use faulty::{Fault, FaultyNetwork, Way};
pub(crate) use flood::counted_flood;
pub(crate) use frame_upstream::{FrameConnection, FrameUpstream};
pub(crate) use gateway::{Gateway, config, config_with_tls, listening, recorded};
pub(crate) use heir::{Heir, put_script};
pub(crate) use http2::{Begun, Http2, http2_request};
pub(crate) use http2_upstream::{Asked, Http2Upstream, send};
pub(crate) use process::{PATIENCE, Process};
pub(crate) use raw_http2::{Outcome, RawHttp2};
pub(crate) use requests::{WholeRequest, requests_in};
pub(crate) use sink::{LARGE_LEN, Sink};
pub(crate) use site::{
    HOST, ORIGIN, Site, assert_allowed, assert_denied, assert_edge_error, assert_never_readable, tenant_config,
    tenant_config_at,
};
pub(crate) use tls::{TlsConnection, Tunnel, tls_error};
pub(crate) use tls_front::{Handshake, TlsFront};
pub(crate) use upstream::{Exchange, RecordingUpstream, Seen, Then};
pub(crate) use websocket::{accept, handshake, websocket};
pub(crate) use wire::{Connection, Headers, Response, WireError, request};
