//! The gateway: everything around the policy engine that touches sockets, files, clocks and Pingora.
//!
//! ARCHITECTURE.md walks one request and one configuration change through these modules. The binary is a thin command line
//! over them; the crate is a library so that tests can run the same code in process.

pub mod access_log;
pub mod admin;
pub mod breaker;
pub mod cli;
pub mod config;
pub mod context;
pub mod demo_upstream;
pub mod descriptors;
pub mod explain;
#[cfg(test)]
mod fault;
pub mod fields;
pub mod forwarded;
pub mod hop_by_hop;
pub mod host;
pub mod http2;
pub mod judge;
pub mod lane;
pub mod ledger;
pub mod log_request;
pub mod metrics;
pub mod process;
pub mod proxy;
pub mod proxy_protocol;
pub mod queue;
pub mod reload;
pub mod respond;
pub mod rewrite;
pub mod runner;
pub mod scripts;
pub mod servers;
mod service_manager;
pub mod snapshot;
mod socket;
pub mod target;
pub mod tenant;
mod thread_number;
pub mod throttle;
pub mod tls;
pub mod trace_context;
pub mod upgrade;
mod upkeep;
pub mod upstream;
pub mod verdicts;
