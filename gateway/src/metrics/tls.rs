//! What is counted of TLS: how handshakes ended, and until when certificates are valid.

use std::array;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::exposition::{Exposition, Family};
use super::{HandshakeEnd, every};

/// Counters of TLS on the data listeners.
#[derive(Debug)]
pub struct TlsCounters {
    handshakes: [AtomicU64; HandshakeEnd::ALL.len()],
    /// The configured file of each certificate that serves, and when it expires, in seconds since 1970.
    expiries: Mutex<BTreeMap<Box<str>, i64>>,
}

impl Default for TlsCounters {
    fn default() -> Self {
        TlsCounters { handshakes: array::from_fn(|_| AtomicU64::new(0)), expiries: Mutex::default() }
    }
}

impl TlsCounters {
    /// Counts a handshake that is over.
    pub fn count_handshake(&self, end: HandshakeEnd) {
        if let Some(cell) = self.handshakes.get(end as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Notes the certificates that serve from now on, each by its file.
    pub fn note_expiries(&self, expiries: BTreeMap<Box<str>, i64>) {
        *self.expiries.lock() = expiries;
    }

    pub(super) fn push(&self, exposition: &mut Exposition) {
        let mut handshakes = Family::counter("crossgate_tls_handshakes_total", "TLS handshakes of clients, by result.");
        for (end, count) in every(&HandshakeEnd::ALL, &self.handshakes) {
            handshakes.count(&[("result", end.as_str())], count);
        }
        exposition.push(handshakes);
        let mut expiries = Family::gauge(
            "crossgate_tls_certificate_expiry_timestamp_seconds",
            "When a certificate that the gateway shows, to clients or to upstreams, expires, in seconds since 1970, by its configured file.",
        );
        for (file, expires) in &*self.expiries.lock() {
            expiries.level(&[("certificate", file)], *expires as f64);
        }
        exposition.push(expiries);
    }
}
