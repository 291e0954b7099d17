//! Health checks that a layer-7 balancer sends to a data listener (`healthPath`).
//!
//! Balancers name the gateway by its address, by a name of no tenant, or over HTTP/1.0 not at all,
//! so these requests are answered before any tenant is looked up. Only GET and HEAD of one exact
//! path are health checks; every other request to the path is served as usual. Absent on purpose:
//! the state of upstreams. A gateway whose upstreams are down must not be taken out for that.

use crossgate_message::fields::RequestField;

use crate::exchange::{BodyFraming, ConnectionPersistence};
use crossgate_message::fields::KnownHeaders;

/// Whether the connection stays open after the answer. A body is not read, and neither is what
/// follows an announced upgrade.
pub(super) fn persistence(
    framing: BodyFraming,
    version: Option<u8>,
    noted: &KnownHeaders<'_>,
) -> ConnectionPersistence {
    let is_kept = match noted.connection {
        RequestField::Absent => true,
        RequestField::One(option) => option.eq_ignore_ascii_case(b"keep-alive"),
        RequestField::Many => false,
    };
    match framing {
        BodyFraming::Length(0) if is_kept && version == Some(1) => ConnectionPersistence::KeepAlive,
        BodyFraming::Length(_) | BodyFraming::Chunked(_) | BodyFraming::Upgrade => ConnectionPersistence::Close,
    }
}
