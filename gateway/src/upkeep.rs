//! Background tasks for upstreams: resolving names and checking servers.
//!
//! They run on their own thread, started with the first name or health check, so that they and
//! requests do not delay each other. When a configuration starts to serve, tasks for its new parts
//! start, those for removed parts end, and shared parts keep their tasks. Requests to a new name
//! wait until its first lookup, at most one second, regardless of the name servers. Absent on
//! purpose: tasks for configurations that do not serve (`check`, `explain`).

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::background::{self, BackgroundTask};
use crate::metrics::{PanicCounters, PanicPlace};
use crate::registry::GatewayMetrics;
use crate::servers::ServerPool;
use crate::snapshot::Snapshot;
use crate::upstream::Upstream;

mod checks;
mod lookups;

use self::checks::{CheckRunner, HealthProbe, ProbeTransport};
use self::lookups::{LookupSource, NameResolver};

/// The maximum time that a start or a reload waits for the first lookups of new names. After it the
/// gateway serves, and the upstream answers 503 until a lookup succeeds.
const FIRST_LOOKUPS_WAIT: Duration = Duration::from_secs(1);
/// The maximum number of concurrent checks. Each needs a file descriptor of the gateway's own
/// share.
const CHECKS_MAX: usize = 64;

/// The tasks for the upstreams of the configuration in force.
pub(crate) struct UpstreamTasks {
    inner: Mutex<UpstreamTasksInner>,
    metrics: Arc<GatewayMetrics>,
}

struct UpstreamTasksInner {
    panics: Arc<PanicCounters>,
    runtime: Option<Runtime>,
    names: Option<Arc<NameResolver>>,
    checks: Arc<Semaphore>,
    /// By the address of the `ServerPool`, which the tasks keep alive.
    tended: AHashMap<usize, ServerTasks>,
    has_ended: bool,
}

/// The tasks for the servers of one upstream.
struct ServerTasks {
    servers: Arc<ServerPool>,
    names: Vec<OwnedTask>,
    checks: Option<CheckPlan>,
}

/// The checks of an upstream, with their transport.
struct CheckPlan {
    transport: ProbeTransport,
    _task: OwnedTask,
}

/// A task that is aborted when this is dropped.
struct OwnedTask(JoinHandle<()>);

impl UpstreamTasks {
    pub(crate) fn new(metrics: Arc<GatewayMetrics>) -> Self {
        let inner = UpstreamTasksInner {
            panics: Arc::clone(&metrics.panics),
            runtime: None,
            names: None,
            checks: Arc::new(Semaphore::new(CHECKS_MAX)),
            tended: AHashMap::new(),
            has_ended: false,
        };
        UpstreamTasks { inner: Mutex::new(inner), metrics }
    }

    /// Runs the tasks for the upstreams of this configuration, and no others. Blocks until each new
    /// name was looked up once, at most one second.
    pub(crate) fn follow_snapshot(&self, snapshot: &Snapshot) {
        snapshot.upstreams().for_each(Upstream::report_as_serving);
        let (answered, answers) = mpsc::channel::<()>();
        let tended = self.inner().tend(snapshot, &answered);
        self.metrics.stopped.set(BackgroundTask::Upstreams, tended.is_err());
        if let Err(error) = tended {
            tracing::error!(%error, "cannot run upstream tasks: names are not resolved and servers not checked");
        }
        drop(answered);
        // Nothing is sent on the channel: each task drops its sender after its first lookup.
        if let Err(RecvTimeoutError::Timeout) = answers.recv_timeout(FIRST_LOOKUPS_WAIT) {
            tracing::warn!(waited = ?FIRST_LOOKUPS_WAIT, "not all names of upstreams are resolved yet");
        }
    }

    /// Ends all tasks permanently.
    pub(crate) fn end(&self) {
        let mut inner = self.inner();
        inner.has_ended = true;
        inner.tended.clear();
    }

    fn inner(&self) -> MutexGuard<'_, UpstreamTasksInner> {
        self.inner.lock()
    }
}

impl UpstreamTasksInner {
    fn tend(&mut self, snapshot: &Snapshot, answered: &Sender<()>) -> io::Result<()> {
        let needed: Vec<&Arc<Upstream>> =
            snapshot.upstreams().filter(|upstream| needs_tasks(&upstream.servers)).collect();
        if self.has_ended || needed.is_empty() {
            self.tended.clear();
            return Ok(());
        }
        let source = LookupSource::now(&snapshot.settings.resolver);
        if self.names.as_ref().is_none_or(|names| *names.source() != source) {
            self.names = Some(Arc::new(NameResolver::new(source)));
            self.tended.values_mut().for_each(|tended| tended.names.clear());
        }
        let mut before = std::mem::take(&mut self.tended);
        for upstream in needed {
            let key = Arc::as_ptr(&upstream.servers).addr();
            let tended = match before.remove(&key) {
                Some(ServerTasks { servers, names, checks }) => {
                    ServerTasks { servers, names, checks: self.check(upstream, checks)? }
                }
                None => {
                    let servers = Arc::clone(&upstream.servers);
                    ServerTasks { servers, names: Vec::new(), checks: self.check(upstream, None)? }
                }
            };
            self.tended.insert(key, tended);
        }
        self.follow_names(answered)
    }

    /// Starts checks, or keeps the running ones if the transport of requests is unchanged. The
    /// state of a server stays until the first check over the new transport, which alone decides.
    fn check(&mut self, upstream: &Upstream, before: Option<CheckPlan>) -> io::Result<Option<CheckPlan>> {
        let transport = ProbeTransport::to(upstream);
        if before.as_ref().is_some_and(|before| before.transport == transport) {
            return Ok(before);
        }
        let Some(check) = upstream.servers.check() else { return Ok(None) };
        let (servers, counters, slots) = (&upstream.servers, &upstream.counters, &self.checks);
        let probe = HealthProbe::new(check, &transport);
        let checker = CheckRunner::new(check.clone(), probe, Arc::clone(counters), Arc::clone(slots), &self.panics);
        let (checker, servers) = (Arc::new(checker), Arc::clone(servers));
        let run = move || checks::run(Arc::clone(&servers), Arc::clone(&checker));
        let run = background::supervise(PanicPlace::Checks, Arc::clone(&self.panics), run);
        Ok(Some(CheckPlan { transport, _task: self.spawn(run)? }))
    }

    /// Starts to resolve names that have no task.
    fn follow_names(&mut self, answered: &Sender<()>) -> io::Result<()> {
        let Some(names) = self.names.clone() else { return Ok(()) };
        let mut tended = std::mem::take(&mut self.tended);
        let panics = Arc::clone(&self.panics);
        let result = tended.values_mut().filter(|tended| tended.names.is_empty()).try_for_each(|tended| {
            let servers = &tended.servers;
            let follow = |(index, name): (usize, &str)| {
                let (names, servers, name) = (Arc::clone(&names), Arc::clone(servers), Arc::<str>::from(name));
                // After a panic the restarted task must not delay the start again.
                let mut answered = Some(answered.clone());
                let follow = move || {
                    let (names, servers) = (Arc::clone(&names), Arc::clone(&servers));
                    lookups::follow(names, servers, index, Arc::clone(&name), answered.take())
                };
                background::supervise(PanicPlace::Lookups, Arc::clone(&panics), follow)
            };
            tended.names = servers.names().map(|named| self.spawn(follow(named))).collect::<io::Result<_>>()?;
            Ok(())
        });
        self.tended = tended;
        result
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> io::Result<OwnedTask> {
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => Builder::new_multi_thread().worker_threads(1).thread_name("upkeep").enable_all().build()?,
        };
        Ok(OwnedTask(self.runtime.insert(runtime).spawn(task)))
    }
}

fn needs_tasks(servers: &ServerPool) -> bool {
    servers.check().is_some() || servers.names().next().is_some()
}

impl Drop for UpstreamTasksInner {
    fn drop(&mut self) {
        self.tended.clear();
        // A thread that serves requests must not block here.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::reload::{BrokenTenants, Reloader};

    impl UpstreamTasks {
        fn alive_tasks(&self) -> usize {
            self.inner().runtime.as_ref().map_or(0, |runtime| runtime.metrics().num_alive_tasks())
        }
    }

    /// A configuration with these upstreams, and its reloader, which keeps it alive.
    fn snapshot(upstreams: &str) -> (Arc<Snapshot>, Reloader) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.yaml");
        let text = format!("version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nupstreams:\n{upstreams}");
        std::fs::write(&path, text).unwrap();
        let reloader = Reloader::start(&path, BrokenTenants::Refuse, &GatewayMetrics::new()).unwrap();
        (reloader.current().latest(), reloader)
    }

    fn wait_for_tasks(upkeep: &UpstreamTasks, wanted: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while upkeep.alive_tasks() != wanted {
            assert!(Instant::now() < deadline, "{} tasks, not {wanted}", upkeep.alive_tasks());
            std::thread::yield_now();
        }
    }

    #[test]
    fn reloads_leave_no_upstream_task_behind() {
        // Names under `localhost` need no name server, and the checks are too rare to start.
        let check = "healthCheck: { path: /, interval: 1h }";
        let (one, _one) =
            snapshot(&format!("  a: {{ servers: [a.localhost:9], {check} }}\n  b: {{ servers: [b.localhost:9] }}\n"));
        let (other, _other) =
            snapshot(&format!("  a: {{ servers: [c.localhost:9] }}\n  b: {{ servers: [\"127.0.0.1:9\"], {check} }}\n"));
        let (none, _none) = snapshot("  a: { servers: [\"127.0.0.1:9\"] }\n");
        let upkeep = UpstreamTasks::new(GatewayMetrics::new());
        upkeep.follow_snapshot(&none);
        assert!(upkeep.inner().runtime.is_none(), "no upstream needs tasks");
        for _ in 0..1_500 {
            upkeep.follow_snapshot(&one);
            upkeep.follow_snapshot(&other);
        }
        // One name, and one upstream with a checked server.
        wait_for_tasks(&upkeep, 3);
        upkeep.follow_snapshot(&one);
        // Two names, and one upstream with a name of two checked servers.
        wait_for_tasks(&upkeep, 5);
        upkeep.follow_snapshot(&none);
        wait_for_tasks(&upkeep, 0);
        upkeep.end();
        upkeep.follow_snapshot(&one);
        assert_eq!(upkeep.alive_tasks(), 0, "no tasks after the end");
    }

    #[test]
    fn unchanged_upstreams_keep_their_tasks() {
        let (one, _one) = snapshot("  a: { servers: [a.localhost:9] }\n");
        let upkeep = UpstreamTasks::new(GatewayMetrics::new());
        upkeep.follow_snapshot(&one);
        let servers = Arc::clone(&one.upstreams().next().unwrap().servers);
        assert_eq!(servers.weighted_servers().len(), 2, "names are resolved before requests come");
        let task = |upkeep: &UpstreamTasks| upkeep.inner().tended.values().next().unwrap().names[0].0.id();
        let before = task(&upkeep);
        upkeep.follow_snapshot(&one);
        assert_eq!(task(&upkeep), before);
    }

    #[test]
    fn f1_panic_in_a_check_or_lookup_is_counted_and_the_task_restarts() {
        let check = "healthCheck: { path: /fault/checks, interval: 100ms, timeout: 100ms }";
        let (one, _one) =
            snapshot(&format!("  a: {{ servers: [fault-lookups.localhost:9, \"127.0.0.1:9\"], {check} }}\n"));
        let metrics = GatewayMetrics::new();
        let upkeep = UpstreamTasks::new(Arc::clone(&metrics));
        upkeep.follow_snapshot(&one);
        let count = |wanted| metrics.panics.read().find(|(place, _)| *place == wanted).unwrap().1;
        let deadline = Instant::now() + Duration::from_secs(20);
        // The second panic of each comes from a restarted task.
        while count(PanicPlace::Checks) < 2 || count(PanicPlace::Lookups) < 2 {
            assert!(Instant::now() < deadline, "{} {}", count(PanicPlace::Checks), count(PanicPlace::Lookups));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
