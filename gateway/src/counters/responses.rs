//! Responses of one tenant: counts by class and source, and request durations.
//!
//! Every request is counted once, also without a response. A histogram has 21 series, so only a
//! limited number of tenants have their own; all others share one. Heads refused before judgement
//! have a class and no duration, since the time when they were complete is unknown.
//!
//! A request costs two additions: one cell stands for its class and bucket, another is the sum.
//! Preflights take microseconds and are frequent, so the cells of the first bucket are next to the
//! sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;

use crate::metrics::{ResponseClass, ResponseSource};
use crossgate_telemetry::{CounterCells, Histogram, HistogramSnapshot};

/// From 0.1 ms, more than a preflight takes, to a minute, more than the default timeouts of
/// upstreams.
const BOUNDS_NS: [u64; 18] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// One series for each bound, one for larger values, the sum and the count.
const SERIES_PER_HISTOGRAM: usize = BOUNDS_NS.len() + 3;

/// The number of tenants with their own histogram: as many series in total as the limit on origin
/// series.
pub(crate) const HISTOGRAMS_MAX: usize = super::SERIES_MAX_TOTAL / SERIES_PER_HISTOGRAM;

/// The counted parts of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentResponse {
    pub status: StatusCode,
    pub source: ResponseSource,
}

/// The class and source of each cell index.
const KINDS: [(ResponseClass, ResponseSource); 11] = {
    use ResponseClass as C;
    use ResponseSource::{Gateway, Missing, Upstream};
    [
        (C::Informational, Gateway),
        (C::Informational, Upstream),
        (C::Successful, Gateway),
        (C::Successful, Upstream),
        (C::Redirection, Gateway),
        (C::Redirection, Upstream),
        (C::ClientError, Gateway),
        (C::ClientError, Upstream),
        (C::ServerError, Gateway),
        (C::ServerError, Upstream),
        (C::Missing, Missing),
    ]
};
const NO_RESPONSE: usize = KINDS.len() - 1;

/// The layout of a row: each kind in the first bucket, the sum, each kind without a duration, then
/// each kind in the other buckets.
const FAST: usize = 0;
const SUM: usize = FAST + KINDS.len();
const UNTIMED: usize = SUM + 1;
const SLOWER: usize = UNTIMED + KINDS.len();
const ROW_LEN: usize = SLOWER + BOUNDS_NS.len() * KINDS.len();

/// The state that all tenants share.
#[derive(Debug)]
pub(crate) struct SharedDurations {
    taken: AtomicUsize,
    other: Histogram,
}

/// The response counters of one tenant.
#[derive(Debug)]
pub(crate) struct ResponseCounters {
    cells: CounterCells,
    /// The shared histogram, if this tenant has no own one.
    other: Option<Arc<SharedDurations>>,
    shared: Arc<SharedDurations>,
}

impl SentResponse {
    /// A response made by the gateway.
    pub fn by_gateway(status: StatusCode) -> Self {
        SentResponse { status, source: ResponseSource::Gateway }
    }

    /// A response made by the upstream.
    pub fn by_upstream(status: StatusCode) -> Self {
        SentResponse { status, source: ResponseSource::Upstream }
    }

    fn index(self) -> usize {
        let class = match self.status.as_u16() {
            ..=199 => ResponseClass::Informational,
            200..=299 => ResponseClass::Successful,
            300..=399 => ResponseClass::Redirection,
            400..=499 => ResponseClass::ClientError,
            500.. => ResponseClass::ServerError,
        };
        let source = match self.source {
            ResponseSource::Gateway => 0,
            ResponseSource::Upstream => 1,
            ResponseSource::Missing => return NO_RESPONSE,
        };
        class as usize * 2 + source
    }
}

impl SharedDurations {
    pub(crate) fn new() -> Self {
        SharedDurations { taken: AtomicUsize::new(0), other: Histogram::new(&BOUNDS_NS) }
    }

    /// The durations of tenants without their own histogram; `None` if there is no such duration.
    pub(crate) fn other(&self) -> Option<HistogramSnapshot> {
        let reading = self.other.read();
        (reading.count > 0).then_some(reading)
    }

    fn take(&self) -> bool {
        let one_more = |taken| (taken < HISTOGRAMS_MAX).then_some(taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }
}

impl ResponseCounters {
    pub(crate) fn new(shared: &Arc<SharedDurations>) -> Self {
        let has_own = shared.take();
        ResponseCounters {
            cells: CounterCells::new(if has_own { ROW_LEN } else { SLOWER }),
            other: (!has_own).then(|| Arc::clone(shared)),
            shared: Arc::clone(shared),
        }
    }

    /// Counts a request that has ended, with its answer.
    pub(crate) fn count(&self, response: Option<SentResponse>, took: Duration) {
        if let Some(shared) = &self.other {
            self.count_class(response);
            shared.other.observe(took);
            return;
        }
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NS.partition_point(|bound| *bound < ns);
        self.cells.count(first_cell(bucket) + index(response));
        self.cells.add(SUM, ns);
    }

    /// Counts the response to a request that was not judged.
    pub(crate) fn count_class(&self, response: Option<SentResponse>) {
        self.cells.count(UNTIMED + index(response));
    }

    /// Reads the first cell, to load it into the CPU cache.
    pub(crate) fn first(&self) -> u64 {
        self.cells.first()
    }

    /// Calls `visit` with every class and source that has a count.
    pub(crate) fn each(&self, mut visit: impl FnMut(ResponseClass, ResponseSource, u64)) {
        for (index, (class, source)) in KINDS.iter().enumerate() {
            let timed: u64 = (0..=BOUNDS_NS.len()).map(|bucket| self.cells.read(first_cell(bucket) + index)).sum();
            let count = timed + self.cells.read(UNTIMED + index);
            if count > 0 {
                visit(*class, *source, count);
            }
        }
    }

    /// The durations, if the tenant has its own histogram and it is not empty.
    pub(crate) fn durations(&self) -> Option<HistogramSnapshot> {
        if self.other.is_some() {
            return None;
        }
        let counted = |bucket| (0..KINDS.len()).map(|kind| self.cells.read(first_cell(bucket) + kind)).sum();
        let reading = HistogramSnapshot::new(&BOUNDS_NS, counted, self.cells.read(SUM));
        (reading.count > 0).then_some(reading)
    }
}

/// The index of the first cell of a bucket.
fn first_cell(bucket: usize) -> usize {
    bucket.checked_sub(1).map_or(FAST, |slower| SLOWER + slower * KINDS.len())
}

fn index(response: Option<SentResponse>) -> usize {
    response.map_or(NO_RESPONSE, SentResponse::index)
}

impl Drop for ResponseCounters {
    fn drop(&mut self) {
        if self.other.is_none() {
            self.shared.taken.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn responses(shared: &Arc<SharedDurations>) -> ResponseCounters {
        ResponseCounters::new(shared)
    }

    fn seen(responses: &ResponseCounters) -> Vec<(&'static str, &'static str, u64)> {
        let mut seen = Vec::new();
        responses.each(|class, source, count| seen.push((class.as_str(), source.as_str(), count)));
        seen
    }

    #[test]
    fn every_response_class_and_source_has_its_own_cell() {
        let responses = responses(&Arc::new(SharedDurations::new()));
        let mut expected = Vec::new();
        for status in [101, 200, 302, 404, 599] {
            for (source, times) in [(ResponseSource::Gateway, 1), (ResponseSource::Upstream, 2)] {
                let status = StatusCode::from_u16(status).unwrap();
                for _ in 0..times {
                    responses.count(Some(SentResponse { status, source }), Duration::ZERO);
                }
                let class = ["", "1xx", "2xx", "3xx", "4xx", "5xx"][usize::from(status.as_u16() / 100)];
                expected.push((class, source.as_str(), times));
            }
        }
        responses.count(None, Duration::ZERO);
        expected.push(("none", "none", 1));
        assert_eq!(seen(&responses), expected);
        assert_eq!(responses.durations().unwrap().count, 16);
    }

    #[test]
    fn response_classes_and_durations_do_not_mix() {
        let responses = responses(&Arc::new(SharedDurations::new()));
        assert!(responses.durations().is_none());
        responses.count_class(Some(SentResponse::by_gateway(StatusCode::BAD_REQUEST)));
        assert!(responses.durations().is_none(), "what is not judged has no duration");
        responses.count(None, Duration::from_micros(100));
        responses.count(None, Duration::from_secs(61));
        let reading = responses.durations().unwrap();
        assert_eq!((reading.buckets[0], reading.buckets[17], reading.count), ((1e-4, 1), (60.0, 1), 2));
        assert_eq!(reading.sum_seconds, 61.0001);
        responses.count(None, Duration::from_nanos(100_001));
        responses.count(None, Duration::from_secs(60));
        let reading = responses.durations().unwrap();
        let (second, last) = (reading.buckets[1], reading.buckets[17]);
        assert_eq!((reading.buckets[0].1, second, last, reading.count), (1, (2.5e-4, 2), (60.0, 3), 4));
        assert_eq!(seen(&responses), [("4xx", "gateway", 1), ("none", "none", 4)]);
    }

    #[test]
    fn tenants_over_the_limit_share_a_duration_histogram() {
        let shared = Arc::new(SharedDurations::new());
        let own: Vec<_> = (0..HISTOGRAMS_MAX).map(|_| responses(&shared)).collect();
        let late = responses(&shared);
        late.count(None, Duration::ZERO);
        assert!(late.durations().is_none());
        assert_eq!(seen(&late), [("none", "none", 1)], "the class is still the tenant's own");
        assert_eq!(shared.other().unwrap().count, 1);
        drop((own, late));
        let next = responses(&shared);
        next.count(None, Duration::ZERO);
        assert!(next.durations().is_some());
        assert_eq!(shared.other().unwrap().count, 1);
    }
}
