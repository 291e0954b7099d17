//! What the lane asks of the gateway: the limits in force, the answer to a head that it refuses, and counting.

use http::StatusCode;

use super::Gateway;
use crate::config::Limits;
use crate::lane::head::{HeadLimits, Refusal};
use crate::lane::watch::ExchangeLimits;
use crate::lane::{Backstage, LaneLimits};
use crate::metrics::EarlyClose;
use crate::{forwarded, respond};

impl Backstage for Gateway {
    fn is_draining(&self) -> bool {
        self.is_draining()
    }

    fn limits(&self) -> LaneLimits {
        let snapshot = self.snapshots.load();
        let limits = &snapshot.settings.limits;
        LaneLimits {
            head: head_limits(limits),
            exchange: ExchangeLimits {
                body_grace: limits.min_body_rate_after,
                body_rate_min: limits.min_body_rate,
                write_stall: limits.write_stall,
                drain_bytes: limits.drain_bytes as u64,
                drain_time: limits.drain_time,
            },
            requests: u64::from(limits.keep_alive_requests),
        }
    }

    fn refuse(&self, refusal: &Refusal, _: Option<std::net::SocketAddr>) -> Vec<u8> {
        self.metrics.connections.count_refusal(refusal.status.as_u16());
        respond::refusal_bytes(refusal, &forwarded::new_request_id())
    }

    fn closed_early(&self, reason: EarlyClose) {
        self.metrics.connections.count_early_close(reason);
    }

    fn refused_unseen(&self) {
        self.metrics.connections.count_refusal(StatusCode::BAD_REQUEST.as_u16());
    }
}

/// The bounds on a request head that the configuration sets.
pub(crate) fn head_limits(limits: &Limits) -> HeadLimits {
    HeadLimits {
        time: limits.head,
        idle: limits.keep_alive_idle,
        bytes: limits.head_bytes,
        field_bytes: limits.head_field_bytes,
        fields: limits.head_fields as usize,
    }
}
