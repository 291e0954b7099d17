//! What is done for upstreams beside requests: their names are resolved, their servers checked.
//!
//! All of it happens on a thread of its own, begun where the first name or check is configured, so that it waits for no request and no
//! request for it. Whenever a configuration begins to serve, what is new in it is taken up and what has left it ends; what it shares with
//! the one before goes on undisturbed. New names get a moment to lead somewhere before requests come to them: never longer, whatever the
//! name servers do. Absent on purpose: anything for configurations that are only looked at (`check`, `explain`).

use std::future::Future;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ahash::AHashMap;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::servers::Servers;
use crate::snapshot::Snapshot;
use crate::tenant::Upstream;

mod checks;
mod lookups;

use self::checks::{Probe, Way};
use self::lookups::{Names, Source};

/// How long a start or a reload waits for what new names lead to. Without an answer it serves, and the upstream says 503 until there is
/// one.
const FIRST_ANSWERS: Duration = Duration::from_secs(1);
/// Checks under way at one time, each with an open file of the gateway's own share.
const CHECKS_MAX: usize = 64;

/// Tends the upstreams of whatever configuration serves.
pub(crate) struct Upkeep(Mutex<Inner>);

struct Inner {
    runtime: Option<Runtime>,
    names: Option<Arc<Names>>,
    checks: Arc<Semaphore>,
    /// By where their servers are in memory, which they hold.
    tended: AHashMap<usize, Tended>,
    is_over: bool,
}

/// Servers that are tended, and the tasks that do.
struct Tended {
    servers: Arc<Servers>,
    names: Vec<Task>,
    checks: Option<Checks>,
}

/// Checks, and over which way.
struct Checks {
    way: Way,
    _task: Task,
}

/// A task that ends when this is dropped.
struct Task(JoinHandle<()>);

impl Upkeep {
    pub(crate) fn new() -> Self {
        Upkeep(Mutex::new(Inner {
            runtime: None,
            names: None,
            checks: Arc::new(Semaphore::new(CHECKS_MAX)),
            tended: AHashMap::new(),
            is_over: false,
        }))
    }

    /// Tends the upstreams of this configuration, and no others, from now on. Blocks until each new name has led somewhere or failed to, a
    /// second at most.
    pub(crate) fn tend(&self, snapshot: &Snapshot) {
        snapshot.upstreams().for_each(|upstream| upstream.counters.set_serving(upstream));
        let (answered, answers) = mpsc::channel::<()>();
        let tended = self.inner().tend(snapshot, &answered);
        if let Err(error) = tended {
            tracing::error!(%error, "names of upstreams are not resolved and servers not checked");
        }
        drop(answered);
        // Nothing is ever sent: each task lets go of its end.
        if let Err(RecvTimeoutError::Timeout) = answers.recv_timeout(FIRST_ANSWERS) {
            tracing::warn!(waited = ?FIRST_ANSWERS, "not all names of upstreams are resolved yet");
        }
    }

    /// Ends everything for good.
    pub(crate) fn end(&self) {
        let mut inner = self.inner();
        inner.is_over = true;
        inner.tended.clear();
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tend(&mut self, snapshot: &Snapshot, answered: &Sender<()>) -> io::Result<()> {
        let needy: Vec<&Arc<Upstream>> =
            snapshot.upstreams().filter(|upstream| needs_upkeep(&upstream.servers)).collect();
        if self.is_over || needy.is_empty() {
            self.tended.clear();
            return Ok(());
        }
        let source = Source::now(&snapshot.settings.resolver);
        if self.names.as_ref().is_none_or(|names| *names.source() != source) {
            self.names = Some(Arc::new(Names::new(source)));
            self.tended.values_mut().for_each(|tended| tended.names.clear());
        }
        let mut before = std::mem::take(&mut self.tended);
        for upstream in needy {
            let key = Arc::as_ptr(&upstream.servers).addr();
            let tended = match before.remove(&key) {
                Some(Tended { servers, names, checks }) => {
                    Tended { servers, names, checks: self.check(upstream, checks)? }
                }
                None => {
                    let servers = Arc::clone(&upstream.servers);
                    Tended { servers, names: Vec::new(), checks: self.check(upstream, None)? }
                }
            };
            self.tended.insert(key, tended);
        }
        self.follow_names(answered)
    }

    /// Checks servers, with those checks that there are if requests go the same way as before. What is known of a server stays until the
    /// first check over the new way, which decides alone.
    fn check(&mut self, upstream: &Upstream, before: Option<Checks>) -> io::Result<Option<Checks>> {
        let way = Way::to(upstream);
        if before.as_ref().is_some_and(|before| before.way == way) {
            return Ok(before);
        }
        let Some(check) = upstream.servers.check() else { return Ok(None) };
        let (servers, counters, slots) = (&upstream.servers, &upstream.counters, &self.checks);
        let probe = Probe::new(check, &way);
        let keep = checks::keep(Arc::clone(servers), check.clone(), probe, Arc::clone(counters), Arc::clone(slots));
        Ok(Some(Checks { way, _task: self.spawn(keep)? }))
    }

    /// Begins to resolve the names that nobody resolves yet.
    fn follow_names(&mut self, answered: &Sender<()>) -> io::Result<()> {
        let Some(names) = self.names.clone() else { return Ok(()) };
        let mut tended = std::mem::take(&mut self.tended);
        let result = tended.values_mut().filter(|tended| tended.names.is_empty()).try_for_each(|tended| {
            let servers = &tended.servers;
            let follow = |(place, name): (usize, &str)| {
                lookups::follow(Arc::clone(&names), Arc::clone(servers), place, name.into(), answered.clone())
            };
            tended.names = servers.names().map(|named| self.spawn(follow(named))).collect::<io::Result<_>>()?;
            Ok(())
        });
        self.tended = tended;
        result
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> io::Result<Task> {
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => Builder::new_multi_thread().worker_threads(1).thread_name("upkeep").enable_all().build()?,
        };
        Ok(Task(self.runtime.insert(runtime).spawn(task)))
    }
}

fn needs_upkeep(servers: &Servers) -> bool {
    servers.check().is_some() || servers.names().next().is_some()
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tended.clear();
        // Without waiting, which a thread that serves requests may not.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::metrics::Metrics;
    use crate::reload::{BrokenTenants, Reloader};

    impl Upkeep {
        fn alive_tasks(&self) -> usize {
            self.inner().runtime.as_ref().map_or(0, |runtime| runtime.metrics().num_alive_tasks())
        }
    }

    /// A configuration with these upstreams, and what keeps it alive.
    fn snapshot(upstreams: &str) -> (Arc<Snapshot>, Reloader) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.yaml");
        let text = format!("version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nupstreams:\n{upstreams}");
        std::fs::write(&path, text).unwrap();
        let reloader = Reloader::start(&path, BrokenTenants::Refuse, &Metrics::new()).unwrap();
        (reloader.current().latest(), reloader)
    }

    fn wait_for_tasks(upkeep: &Upkeep, wanted: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while upkeep.alive_tasks() != wanted {
            assert!(Instant::now() < deadline, "{} tasks, not {wanted}", upkeep.alive_tasks());
            std::thread::yield_now();
        }
    }

    #[test]
    fn thousands_of_reloads_leave_no_task_behind() {
        // Names that are resolved without asking anybody, and checks that do not come to their first one.
        let check = "healthCheck: { path: /, interval: 1h }";
        let (one, _one) =
            snapshot(&format!("  a: {{ servers: [a.localhost:9], {check} }}\n  b: {{ servers: [b.localhost:9] }}\n"));
        let (other, _other) =
            snapshot(&format!("  a: {{ servers: [c.localhost:9] }}\n  b: {{ servers: [\"127.0.0.1:9\"], {check} }}\n"));
        let (none, _none) = snapshot("  a: { servers: [\"127.0.0.1:9\"] }\n");
        let upkeep = Upkeep::new();
        upkeep.tend(&none);
        assert!(upkeep.inner().runtime.is_none(), "nothing needs it");
        for _ in 0..1_500 {
            upkeep.tend(&one);
            upkeep.tend(&other);
        }
        // A name and an upstream with a checked server.
        wait_for_tasks(&upkeep, 3);
        upkeep.tend(&one);
        // Two names, and an upstream whose name leads to two checked servers.
        wait_for_tasks(&upkeep, 5);
        upkeep.tend(&none);
        wait_for_tasks(&upkeep, 0);
        upkeep.end();
        upkeep.tend(&one);
        assert_eq!(upkeep.alive_tasks(), 0, "it is over");
    }

    #[test]
    fn what_stays_is_left_alone() {
        let (one, _one) = snapshot("  a: { servers: [a.localhost:9] }\n");
        let upkeep = Upkeep::new();
        upkeep.tend(&one);
        let servers = Arc::clone(&one.upstreams().next().unwrap().servers);
        assert_eq!(servers.listed().len(), 2, "a name leads somewhere before requests come");
        let task = |upkeep: &Upkeep| upkeep.inner().tended.values().next().unwrap().names[0].0.id();
        let before = task(&upkeep);
        upkeep.tend(&one);
        assert_eq!(task(&upkeep), before);
    }
}
