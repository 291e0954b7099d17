//! Clients' connections: sockets, the PROXY protocol, TLS, the servers of HTTP/1.1 and HTTP/2, and
//! the state of an exchange.
//!
//! The gateway behind a connection implements two traits, [`exchange::ExchangeHost`] and
//! [`lane::LaneHost`]. Absent on purpose: tenants, policies and files.

pub mod background;
pub mod exchange;
pub mod http2;
pub mod lane;
pub mod metrics;
pub mod proxy_protocol;
pub mod refusal;
pub mod runner;
pub mod socket;
pub mod tls;
