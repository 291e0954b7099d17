//! The gateway crate: everything around the policy engine that uses sockets, files, clocks or
//! Pingora.
//!
//! docs/design/architecture.md shows which module to open for which change;
//! docs/design/request-lifecycle.md and docs/design/configuration.md follow a request and a
//! configuration change through the files. The binary is a thin command line over the library, so
//! tests run the same code in process.

pub mod access_log;
pub mod admin;
pub mod background;
pub mod breaker;
pub mod cli;
mod cookies;
pub mod counters;
pub mod demo_upstream;
pub mod denials;
pub mod descriptors;
pub mod diagnostics_log;
pub mod explain;
#[cfg(test)]
mod fault;
mod html;
pub mod judge;
pub mod ledger;
pub mod log_request;
pub mod metrics;
pub mod probe;
pub mod process;
pub mod proxy;
pub mod proxy_status;
pub mod queue;
pub mod registry;
pub mod reload;
pub mod request_head;
pub mod respond;
pub mod route;
mod route_index;
pub mod scripts;
pub mod servers;
mod service_manager;
mod settings;
pub mod shared_policy;
pub mod snapshot;
pub mod tenant;
pub mod throttle;
pub mod upgrade;
mod upkeep;
pub mod upstream;
pub mod verdicts;
mod version;
