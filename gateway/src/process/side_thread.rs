//! The thread beside the data threads: the admin listener's, so that no load on those keeps an operator waiting.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::metrics::Metrics;

/// Threads for answers that take time: scrapes, reloads, explanations.
const BLOCKING_THREADS_MAX: usize = 4;

/// A runtime of one worker, and the word that ends what runs on it.
pub(super) struct SideThread {
    runtime: Runtime,
    stop: watch::Sender<bool>,
}

impl SideThread {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("side")
            .enable_all()
            .build()?;
        Ok(SideThread { runtime, stop: watch::channel(false).0 })
    }

    /// Runs `task`; its failure is logged.
    pub(super) fn spawn(&self, task: impl Future<Output = io::Result<()>> + Send + 'static) {
        self.runtime.spawn(async move {
            if let Err(error) = task.await {
                tracing::error!(%error, "the admin listener failed");
            }
        });
    }

    /// Looks after the ledger at every turn, as long as this lives.
    pub(super) fn tend_ledger(&self, turn: Duration, metrics: Arc<Metrics>) {
        self.runtime.spawn(async move {
            let mut turns = tokio::time::interval(turn);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                turns.tick().await;
                metrics.tend_ledger(SystemTime::now());
            }
        });
    }

    /// Turns true when what runs here is to end.
    pub(super) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    pub(super) fn block_on<T>(&self, task: impl Future<Output = T>) -> T {
        self.runtime.block_on(task)
    }

    /// Nothing more is begun here; what is being answered is.
    pub(super) fn end_tasks(&self) {
        self.stop.send_replace(true);
    }

    pub(super) fn stop(self, within: Duration) {
        self.stop.send_replace(true);
        self.runtime.shutdown_timeout(within);
    }
}
