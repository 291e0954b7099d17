//! Counters that all workers increment all the time: bytes on clients' connections, requests in
//! flight, and requests that go to an upstream.
//!
//! Each worker has its own copy. Connections count their bytes in steps, see
//! [`AcceptedSocket`](crate::socket::AcceptedSocket).

use crossgate_telemetry::CounterCells;

use super::ExchangePath;

const RECEIVED: usize = 0;
const SENT: usize = 1;
const ACTIVE: usize = 2;
/// The first of the counters by path.
const EXCHANGES: usize = 3;

#[derive(Debug)]
pub struct TrafficCounters {
    cells: CounterCells,
}

impl Default for TrafficCounters {
    fn default() -> Self {
        TrafficCounters { cells: CounterCells::per_worker(EXCHANGES + ExchangePath::ALL.len()) }
    }
}

impl TrafficCounters {
    /// Counts bytes received from a client.
    pub fn count_received(&self, len: usize) {
        self.cells.add(RECEIVED, len as u64);
    }

    /// Counts bytes that the kernel accepted for a client.
    pub fn count_sent(&self, len: usize) {
        self.cells.add(SENT, len as u64);
    }

    /// Counts a request as in flight, until [`TrafficCounters::end_request`].
    pub fn begin_request(&self) {
        self.cells.add(ACTIVE, 1);
    }

    /// Ends a request in flight, which may have begun on another worker.
    pub fn end_request(&self) {
        self.cells.add(ACTIVE, 1_u64.wrapping_neg());
    }

    /// Counts a request that goes to an upstream.
    pub fn count_exchange(&self, path: ExchangePath) {
        self.cells.add(EXCHANGES + path as usize, 1);
    }

    /// The requests that went to an upstream, by path.
    pub fn exchanges(&self) -> impl Iterator<Item = (ExchangePath, u64)> + '_ {
        ExchangePath::ALL.into_iter().map(|path| (path, self.cells.read(EXCHANGES + path as usize)))
    }

    pub fn received(&self) -> u64 {
        self.cells.read(RECEIVED)
    }

    pub fn sent(&self) -> u64 {
        self.cells.read(SENT)
    }

    /// The number of requests in flight. The copies are read one after the other, so an end may be
    /// seen before its beginning.
    pub fn active(&self) -> u64 {
        u64::try_from(self.cells.read(ACTIVE).cast_signed()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_end_on_another_worker() {
        let traffic = TrafficCounters::default();
        traffic.begin_request();
        traffic.begin_request();
        std::thread::scope(|scope| {
            scope.spawn(|| traffic.end_request());
        });
        assert_eq!(traffic.active(), 1);
        traffic.end_request();
        traffic.end_request();
        assert_eq!(traffic.active(), 0, "never below zero");
    }
}
