//! The state of one exchange, shared by the servers of HTTP/1.1 and HTTP/2, the connections to
//! upstreams, and the proxy's hooks.
//!
//! The client's side bounds every wait ([`timeouts`]) and records for the hooks which limit was hit
//! ([`state`]). The upstream's side records how much of the request was sent (`progress`,
//! `unopened`). Absent on purpose: tenants and policies.

mod answer;
mod buffers;
pub mod chunked;
mod client;
mod date;
pub mod direct;
mod host;
mod limits;
mod progress;
mod response;
mod sides;
pub mod state;
pub mod timeouts;
pub mod timer;
pub mod unattended;
mod unopened;
mod upload;

pub use self::answer::{EdgeAnswer, RequestEngine, write_answer};
pub use self::answer::{answer_bytes, begin_head, begin_request_head, end_head};
pub(crate) use self::buffers::{give_buffer, take_buffer, with_piece};
pub use self::client::{BodyFraming, ClientIdentity, ConnectionPersistence, OpenConnection, ReusableConnection};
pub(crate) use self::date::with_date;
pub use self::host::ExchangeHost;
pub use self::host::count_abandoned;
pub use self::limits::{FIELDS_MAX, HeadLimits, Http2Limits, LaneLimits};
pub use self::progress::{RequestFraming, RequestProgress};
pub use self::unopened::SentBytes;
