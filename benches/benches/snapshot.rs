//! The time from files to a live snapshot, for few and for many tenants: a start, which reads and
//! compiles all files, and a reload after one tenant file has changed.
//!
//! Every tenant has ten own origins on a shared policy. The times include reading the files, which
//! compiling requires.

#![expect(clippy::panic, clippy::expect_used, reason = "a bench that has the wrong input must not go on")]

use crossgate::registry::GatewayMetrics;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use crossgate::reload::{BrokenTenants, Reloader};
use crossgate::snapshot::Snapshot;
use crossgate_benches::tenants::TenantFiles;
use tempfile::TempDir;

const TENANTS: [u64; 4] = [100, 1_000, 10_000, 100_000];
/// The number of the tenant that changes.
const CHANGED: u64 = 50;
/// After this time the gateway trusts the modification time of a file and does not read the
/// unchanged file again.
const SETTLED: Duration = Duration::from_millis(60);

/// A configuration on disk. It is deleted when dropped.
struct Configuration {
    files: TenantFiles,
    tenants: u64,
    _directory: TempDir,
}

impl Configuration {
    fn write(tenants: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let files = TenantFiles::write(directory.path(), tenants).expect("files in it");
        thread::sleep(SETTLED);
        Self { files, tenants, _directory: directory }
    }

    fn start(&self) -> Reloader {
        Reloader::start(&self.files.main(), BrokenTenants::Refuse, &GatewayMetrics::new())
            .unwrap_or_else(|found| panic!("{found}"))
    }

    fn time_start(&self) -> Duration {
        let began = Instant::now();
        let reloader = self.start();
        let took = began.elapsed();
        assert_eq!(reloader.current().latest().tenants().len() as u64, self.tenants);
        end(reloader);
        took
    }
}

/// Stops the reloader and waits until its thread has freed everything, so that this does not
/// disturb the next measurement.
fn end(reloader: Reloader) {
    let current = Arc::clone(reloader.current());
    drop(reloader);
    while Arc::strong_count(&current) > 1 {
        thread::sleep(Duration::from_millis(1));
    }
}

/// A live configuration that changes.
struct Live {
    reloader: Reloader,
    origin: u64,
    configuration: Configuration,
}

impl Live {
    fn start(tenants: u64) -> Self {
        let configuration = Configuration::write(tenants);
        Self { reloader: configuration.start(), origin: 0, configuration }
    }

    fn time_change(&mut self) -> Duration {
        // The reload thread finishes the work of the last change before the measurement.
        thread::sleep(SETTLED);
        self.reload();
        let before = self.snapshot();
        self.origin += 1;
        self.configuration.files.change(CHANGED, self.origin).expect("a changed file");
        let began = Instant::now();
        self.reload();
        let took = began.elapsed();
        self.check(&before);
        took
    }

    fn reload(&self) {
        let report = self.reloader.reload_now().unwrap_or_else(|found| panic!("{found}"));
        assert!(report.broken_files.is_empty(), "{:?}", report.broken_files);
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.reloader.current().latest()
    }

    /// Asserts that only the changed tenant was compiled again.
    fn check(&self, before: &Snapshot) {
        let now = self.snapshot();
        for (number, is_same) in [(CHANGED, false), (CHANGED + 1, true)] {
            let id = TenantFiles::id(number);
            let tenants = before.tenant_by_id(&id).zip(now.tenant_by_id(&id)).expect("both have the tenant");
            assert_eq!(Arc::ptr_eq(tenants.0, tenants.1), is_same, "{id}");
        }
    }

    fn end(self) {
        end(self.reloader);
    }
}

fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group
}

fn compile(criterion: &mut Criterion) {
    let mut group = group(criterion, "snapshot/compile");
    for tenants in TENANTS {
        group.throughput(Throughput::Elements(tenants));
        let mut written = None;
        group.bench_function(BenchmarkId::from_parameter(tenants), |bencher| {
            let configuration = written.get_or_insert_with(|| Configuration::write(tenants));
            bencher.iter_custom(|count| (0..count).map(|_| configuration.time_start()).sum());
        });
    }
}

fn reload(criterion: &mut Criterion) {
    let mut group = group(criterion, "snapshot/reload of one tenant among");
    for tenants in TENANTS {
        let mut started = None;
        group.bench_function(BenchmarkId::from_parameter(tenants), |bencher| {
            let live = started.get_or_insert_with(|| Live::start(tenants));
            bencher.iter_custom(|count| (0..count).map(|_| live.time_change()).sum());
        });
        if let Some(live) = started {
            live.end();
        }
    }
}

criterion_group!(benches, compile, reload);
criterion_main!(benches);
