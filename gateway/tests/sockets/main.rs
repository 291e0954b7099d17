//! The built binary from outside: over sockets, signals, files and a browser. One test binary, a module a subject.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

mod balance;
mod balancers;
mod browser;
mod cache;
mod check;
mod checks;
mod corpus;
mod demo;
mod explain;
mod faults;
mod gone;
mod harness;
mod hops;
mod http2;
mod lifecycle;
mod metrics;
mod names;
mod network;
mod origins;
mod overload;
mod pages;
mod probes;
mod queue;
mod reload;
mod requests;
mod routes;
mod rules;
mod secrets;
mod service_manager;
mod slow;
mod streaming;
mod support;
mod tls;
mod trace;
mod upgrade;
mod upstream_http2;
mod upstream_tls;
mod wire;
