//! The thread for the admin listener and the ledger. It is separate from the data threads, so that
//! load on those does not delay operators.
//!
//! Absent on purpose: any work of a client's request.

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::background;
use crate::metrics::PanicPlace;
use crate::registry::GatewayMetrics;

/// Threads for answers that take time: scrapes, reloads, explanations.
const BLOCKING_THREADS_MAX: usize = 4;

/// A runtime with one worker, and the signal that ends its tasks.
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

    /// Runs `task`, which does not end by itself.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Registers a listener with this runtime.
    pub(super) fn listener(&self, listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
        let _entered = self.runtime.enter();
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    }

    /// Runs the ledger's periodic work every `turn`.
    pub(super) fn tend_ledger(&self, turn: Duration, metrics: Arc<GatewayMetrics>) {
        let panics = Arc::clone(&metrics.panics);
        let tend = move || {
            let metrics = Arc::clone(&metrics);
            async move {
                let mut turns = tokio::time::interval(turn);
                turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    turns.tick().await;
                    metrics.tend_ledger(SystemTime::now());
                }
            }
        };
        self.runtime.spawn(background::supervise(PanicPlace::Ledger, panics, tend));
    }

    /// A receiver that becomes true when tasks must end.
    pub(super) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    pub(super) fn block_on<T>(&self, task: impl Future<Output = T>) -> T {
        self.runtime.block_on(task)
    }

    /// Ends tasks after their current answer.
    pub(super) fn end_tasks(&self) {
        self.stop.send_replace(true);
    }

    pub(super) fn stop(self, within: Duration) {
        self.stop.send_replace(true);
        self.runtime.shutdown_timeout(within);
    }
}
