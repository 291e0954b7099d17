//! Metrics of connections, independent of tenants.
//!
//! The sockets, the lane and the HTTP/2 server count here; the gateway renders the counts at a
//! scrape. The admin API reads some of them too. Absent on purpose: any label whose value a client
//! chooses.

mod connections;
mod labels;
mod panics;
mod tls;
mod traffic;

pub use self::connections::{ActiveConnection, ConnectionCounters, ConnectionLimits, ConnectionsFull, ExtraRequest};
pub use self::labels::{
    AcceptError, CheckResult, EarlyClose, ExchangePath, HandshakeEnd, PanicPlace, ProxyHeaderFault,
};
pub use self::panics::{PanicCounters, PanicWatch};
pub use self::tls::TlsCounters;
pub use self::traffic::TrafficCounters;
