//! What systemd is told of the process, where it is the one that started it (`Type=notify`).
//!
//! A few words to the socket that `NOTIFY_SOCKET` names; without it nothing is said. A word that cannot be said is logged and changes
//! nothing else. See <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::runtime::Handle;
use tokio::time::{MissedTickBehavior, interval};

/// Whether somebody listens.
pub(crate) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// It serves, from the start on or again after a reload.
pub(crate) fn ready(generation: u64) {
    say(&[NotifyState::Ready, NotifyState::Status(&format!("serving configuration {generation}"))]);
}

/// It loads its configuration anew; [`ready`] follows, however that ends. By the time systemd knows which of its requests this answers.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now, NotifyState::Status("reloading")]),
        Err(error) => tracing::warn!(%error, "the service manager is not told of a reload"),
    }
}

/// It ends.
pub(crate) fn stopping() {
    say(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Another process is the service from now on.
pub(crate) fn succeeded_by(pid: u32) {
    say(&[NotifyState::MainPid(pid), NotifyState::Status("handed over; the old process drains")]);
}

/// Says that it lives, for as long as `workers` do anything that they are asked to.
pub(crate) async fn watch(workers: Handle) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = interval((limit / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if workers.spawn(async {}).await.is_ok() {
            say(&[NotifyState::Watchdog]);
        }
    }
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
