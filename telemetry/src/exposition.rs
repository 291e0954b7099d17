//! The text of a scrape, built with the `prometheus` crate as the encoder.
//!
//! Callers build one family at a time, and each is encoded at once. The crate's registry and its
//! `Vec` types are unused on purpose. They find a label set by a 64-bit hash of its joined values
//! and never compare the values, so two tenants could share a counter.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::TextEncoder;
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};

use super::histogram::HistogramSnapshot;

/// The text of a scrape so far.
#[derive(Default)]
pub struct Exposition {
    text: String,
}

/// Collects the series of one family.
pub struct FamilyWriter {
    family: MetricFamily,
    metrics: Vec<Metric>,
}

pub(crate) type Labels<'a> = &'a [(&'static str, &'a str)];

impl Exposition {
    /// Adds a family. A family without any series is omitted.
    pub fn push(&mut self, family: FamilyWriter) {
        let FamilyWriter { mut family, metrics } = family;
        if metrics.is_empty() {
            return;
        }
        family.set_metric(metrics);
        self.encode(family);
    }

    /// Adds a family that other code has built.
    pub fn encode(&mut self, family: MetricFamily) {
        if let Err(error) = TextEncoder::new().encode_utf8(&[family], &mut self.text) {
            tracing::error!(%error, "metric family cannot be encoded");
        }
    }

    /// Adds a family of one counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        let mut family = FamilyWriter::counter(name, help);
        family.count(&[], value);
        self.push(family);
    }

    /// Adds a family of one gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        let mut family = FamilyWriter::gauge(name, help);
        family.add_gauge(&[], value);
        self.push(family);
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

impl FamilyWriter {
    pub fn counter(name: &str, help: &str) -> Self {
        FamilyWriter::new(name, help, MetricType::COUNTER)
    }

    pub fn gauge(name: &str, help: &str) -> Self {
        FamilyWriter::new(name, help, MetricType::GAUGE)
    }

    pub fn histogram(name: &str, help: &str) -> Self {
        FamilyWriter::new(name, help, MetricType::HISTOGRAM)
    }

    fn new(name: &str, help: &str, kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        FamilyWriter { family, metrics: Vec::new() }
    }

    pub fn count(&mut self, labels: Labels<'_>, value: u64) {
        let mut counter = proto::Counter::default();
        counter.set_value(value as f64);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_counter(counter);
        self.metrics.push(metric);
    }

    pub fn add_gauge(&mut self, labels: Labels<'_>, value: f64) {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_gauge(gauge);
        self.metrics.push(metric);
    }

    pub fn add_histogram(&mut self, labels: Labels<'_>, snapshot: &HistogramSnapshot) {
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(snapshot.buckets.iter().map(bucket).collect());
        histogram.set_sample_count(snapshot.count);
        histogram.set_sample_sum(snapshot.sum_seconds);
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

/// A Unix timestamp in seconds, as Prometheus writes times.
pub fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
