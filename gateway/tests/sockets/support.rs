//! The harness of the socket suites.
//!
//! It has the built binary as a child process, a strict HTTP/1.1 client over a plain `TcpStream`,
//! and upstreams that record requests and fail on request. The suites test from outside: none calls
//! into the crate. Tests poll instead of sleeping: a child is ready when its log reports its
//! addresses, and every read has a deadline. The operating system chooses the ports.

mod address;
mod broken_output;
mod browser;
mod certificates;
mod crowd;
mod demo;
mod dns;
mod faulty;
mod flood;
mod frame_upstream;
mod gateway;
mod grpc_health;
mod http2;
pub(crate) mod http2_frames;
mod http2_upstream;
mod process;
mod raw_http2;
mod requests;
mod sink;
mod site;
mod stalled;
mod successor;
mod tls;
mod tls_front;
mod upstream;
mod websocket;
mod wire;

pub(crate) use address::{RefusedAddress, UnansweredAddress};
pub(crate) use broken_output::{BrokenOutputGateway, Output};
pub(crate) use browser::Browser;
pub(crate) use certificates::{Authority, Issued, Validity};
pub(crate) use crowd::{ConnectionEnd, ReadTiming, SlowClient, allow_open_files, crowd};
pub(crate) use demo::DemoUpstream;
pub(crate) use dns::{Answer, NameServer};
pub(crate) use faulty::{Direction, Fault, FaultyNetwork};
pub(crate) use flood::counted_flood;
pub(crate) use frame_upstream::{FrameConnection, FrameUpstream};
pub(crate) use gateway::{Gateway, config, config_with_tls, listening, recorded};
pub(crate) use grpc_health::GrpcHealth;
pub(crate) use http2::{Http2, OpenRequest, http2_request};
pub(crate) use http2_upstream::{Http2Exchange, Http2Upstream, send};
pub(crate) use process::{PATIENCE, Process};
pub(crate) use raw_http2::{Outcome, RawHttp2};
pub(crate) use requests::{WholeRequest, requests_in};
pub(crate) use sink::{LARGE_LEN, Sink};
pub(crate) use site::{
    HOST, ORIGIN, Site, assert_allowed, assert_denied, assert_edge_error, assert_never_readable, tenant_config,
    tenant_config_at,
};
pub(crate) use stalled::{StalledUpstream, connect_with_small_buffers};
pub(crate) use successor::{Successor, put_script};
pub(crate) use tls::{TlsConnection, Tunnel, tls_error};
pub(crate) use tls_front::{Handshake, TlsFront};
pub(crate) use upstream::{Exchange, ReceivedRequest, RecordingUpstream, Then};
pub(crate) use websocket::{accept, handshake, websocket, websocket_sending};
pub(crate) use wire::{Connection, Headers, Response, WireError, request};
