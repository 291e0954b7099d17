//! Notifications to systemd, if it started the process with `Type=notify`.
//!
//! They are datagrams to the socket in `NOTIFY_SOCKET`; without that variable nothing is sent. A
//! failed notification is logged and changes nothing else. See
//! <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::runtime::Handle;
use tokio::time::{MissedTickBehavior, interval};

pub(crate) fn is_active() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Announces that the process serves, after its start or a reload.
pub(crate) fn ready(generation: u64) {
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("serving configuration {generation}"))]);
}

/// Announces a reload; [`ready`] follows in any case. systemd matches the answer to its
/// request by the time (`MONOTONIC_USEC`).
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now, NotifyState::Status("reloading")]),
        Err(error) => tracing::warn!(%error, "cannot notify the service manager of a reload"),
    }
}

/// Announces that the process ends.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Announces another process as the main process of the service.
pub(crate) fn succeeded_by(pid: u32) {
    notify(&[NotifyState::MainPid(pid), NotifyState::Status("handed over; the old process drains")]);
}

/// Sends watchdog notifications as long as `workers` run tasks.
pub(crate) async fn watch(workers: Handle) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    // sd_watchdog_enabled(3): notifications are due every half of the time.
    let mut ticks = interval((limit / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if workers.spawn(async {}).await.is_ok() {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
