//! The thread beside the data threads: the admin listener's, so that no load on those keeps an operator waiting.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

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
