//! Building what a scrape gets, with the `prometheus` crate as the encoder.
//!
//! Families are put together here and encoded one at a time. The crate's registry and its `Vec` types are left out on
//! purpose: they find a label set by a 64-bit hash of its joined values and never compare the values themselves, so
//! two tenants could share a counter.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::TextEncoder;
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};

use super::histogram::Reading;

/// The text of a scrape, family by family.
#[derive(Default)]
pub(super) struct Exposition {
    text: String,
}

/// One family in the making.
pub(super) struct Family {
    family: MetricFamily,
    metrics: Vec<Metric>,
}

/// Label names and values of one series.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

impl Exposition {
    /// Adds a family; one without any series says nothing.
    pub(super) fn push(&mut self, family: Family) {
        let Family { mut family, metrics } = family;
        if metrics.is_empty() {
            return;
        }
        family.set_metric(metrics);
        self.encode(family);
    }

    /// Adds a family that was put together elsewhere.
    pub(super) fn encode(&mut self, family: MetricFamily) {
        if let Err(error) = TextEncoder::new().encode_utf8(&[family], &mut self.text) {
            tracing::error!(%error, "a metric family could not be encoded");
        }
    }

    /// Adds a family of one counter without labels.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) {
        let mut family = Family::counter(name, help);
        family.count(&[], value);
        self.push(family);
    }

    /// Adds a family of one gauge without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        let mut family = Family::gauge(name, help);
        family.level(&[], value);
        self.push(family);
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

impl Family {
    pub(super) fn counter(name: &str, help: &str) -> Self {
        Family::new(name, help, MetricType::COUNTER)
    }

    pub(super) fn gauge(name: &str, help: &str) -> Self {
        Family::new(name, help, MetricType::GAUGE)
    }

    pub(super) fn histogram(name: &str, help: &str) -> Self {
        Family::new(name, help, MetricType::HISTOGRAM)
    }

    fn new(name: &str, help: &str, kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Family { family, metrics: Vec::new() }
    }

    pub(super) fn count(&mut self, labels: Labels<'_>, value: u64) {
        let mut counter = proto::Counter::default();
        counter.set_value(value as f64);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_counter(counter);
        self.metrics.push(metric);
    }

    pub(super) fn level(&mut self, labels: Labels<'_>, value: f64) {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_gauge(gauge);
        self.metrics.push(metric);
    }

    pub(super) fn distribution(&mut self, labels: Labels<'_>, reading: &Reading) {
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(reading.buckets.iter().map(bucket).collect());
        histogram.set_sample_count(reading.count);
        histogram.set_sample_sum(reading.sum_seconds);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }
}

fn bucket((upper_bound, count): &(f64, u64)) -> proto::Bucket {
    let mut bucket = proto::Bucket::default();
    bucket.set_upper_bound(*upper_bound);
    bucket.set_cumulative_count(*count);
    bucket
}

fn pairs(labels: Labels<'_>) -> Vec<LabelPair> {
    labels.iter().map(|(name, value)| pair(name, value)).collect()
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// Seconds since 1970, as Prometheus writes moments.
pub(super) fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
