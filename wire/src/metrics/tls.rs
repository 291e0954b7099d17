//! Metrics of TLS: results of handshakes, and expiry times of certificates.
//!
//! The lane counts handshakes; a reload sets the certificates.

use std::array;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::HandshakeEnd;
use crossgate_telemetry::all_counts;
use crossgate_telemetry::{Exposition, FamilyWriter};

#[derive(Debug)]
pub struct TlsCounters {
    handshakes: [AtomicU64; HandshakeEnd::ALL.len()],
    /// The expiry time of each served certificate as a Unix timestamp, by its configured file.
    expiries: Mutex<BTreeMap<Box<str>, i64>>,
}

impl Default for TlsCounters {
    fn default() -> Self {
        TlsCounters { handshakes: array::from_fn(|_| AtomicU64::new(0)), expiries: Mutex::default() }
    }
}

impl TlsCounters {
    pub fn count_handshake(&self, end: HandshakeEnd) {
        if let Some(cell) = self.handshakes.get(end as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Sets the certificates that are served from now on, by file.
    pub fn note_expiries(&self, expiries: BTreeMap<Box<str>, i64>) {
        *self.expiries.lock() = expiries;
    }

    pub fn push(&self, exposition: &mut Exposition) {
        let mut handshakes =
            FamilyWriter::counter("crossgate_tls_handshakes_total", "TLS handshakes with clients, by result.");
        for (end, count) in all_counts(&HandshakeEnd::ALL, &self.handshakes) {
            handshakes.count(&[("result", end.as_str())], count);
        }
        exposition.push(handshakes);
        let mut expiries = FamilyWriter::gauge(
            "crossgate_tls_certificate_expiry_timestamp_seconds",
            "Expiry time of a certificate that the gateway presents to clients or upstreams, in seconds since 1970, by its configured file.",
        );
        for (file, expires) in &*self.expiries.lock() {
            expiries.add_gauge(&[("certificate", file)], *expires as f64);
        }
        exposition.push(expiries);
    }
}
