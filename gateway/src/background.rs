//! Supervision of background work, which must not end silently: a panic is counted, and the work
//! restarts.
//!
//! The panic hook reports the panic. A pause before each restart limits the cost of a bug that
//! panics every time. A task that cannot start at all is recorded in [`StoppedTasks`], which fails
//! readiness.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

pub(crate) use crossgate_wire::background::{attempt, supervise};

/// The background tasks that readiness depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackgroundTask {
    /// Loads changed files.
    Reload,
    /// Resolves names and checks servers.
    Upstreams,
}

impl BackgroundTask {
    pub const ALL: [BackgroundTask; 2] = [BackgroundTask::Reload, BackgroundTask::Upstreams];

    /// The task's name in the body of `/readyz`.
    pub fn as_str(self) -> &'static str {
        match self {
            BackgroundTask::Reload => "reload",
            BackgroundTask::Upstreams => "upstreams",
        }
    }
}

/// The background tasks that should run but have stopped.
#[derive(Debug, Default)]
pub struct StoppedTasks([AtomicBool; BackgroundTask::ALL.len()]);

impl StoppedTasks {
    /// Sets whether a task has stopped.
    pub fn set(&self, task: BackgroundTask, is_stopped: bool) {
        if let Some(flag) = self.0.get(task as usize) {
            flag.store(is_stopped, Relaxed);
        }
    }

    /// The first task that has stopped.
    pub fn first(&self) -> Option<BackgroundTask> {
        BackgroundTask::ALL.into_iter().zip(&self.0).find(|(_, flag)| flag.load(Relaxed)).map(|(task, _)| task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopped_task_is_reported_until_it_runs_again() {
        let stopped = StoppedTasks::default();
        assert_eq!(stopped.first(), None);
        stopped.set(BackgroundTask::Upstreams, true);
        assert_eq!(stopped.first(), Some(BackgroundTask::Upstreams));
        stopped.set(BackgroundTask::Upstreams, false);
        assert_eq!(stopped.first(), None);
    }
}
