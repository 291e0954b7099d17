//! The closed sets of label values for tenants and upstreams, and the metrics of reloads. The
//! metrics of connections are in [`crossgate_wire::metrics`].

mod labels;
mod reloads;

pub use crossgate_wire::metrics::{
    AcceptError, ActiveConnection, CheckResult, ConnectionCounters, ConnectionLimits, ConnectionsFull, EarlyClose,
    ExchangePath, ExtraRequest, HandshakeEnd, PanicCounters, PanicPlace, PanicWatch, ProxyHeaderFault, TlsCounters,
    TrafficCounters,
};

pub use self::labels::{
    Change, ReloadResult, ResponseClass, ResponseSource, UpstreamError, UpstreamRefusal, VerdictLabel,
};
pub use self::reloads::ReloadMetrics;
