//! The settings that apply only after a restart.

use std::sync::Arc;

use crossgate_config::Settings;
use crossgate_config::model::Listener;

/// Lists the changed sections of the settings that apply only after a restart.
pub(super) fn restart_needed(started: &Settings, wanted: &Settings) -> Vec<&'static str> {
    let changed = [
        ("listeners", !started.listeners.iter().map(fixed_settings).eq(wanted.listeners.iter().map(fixed_settings))),
        ("admin", started.admin != wanted.admin),
        ("runtime", started.runtime != wanted.runtime),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

/// The parts of a listener that are fixed until a restart. Its certificates are not among them.
fn fixed_settings(
    Listener { address, trusted_proxies, tls, proxy_protocol, http2, health_path }: &Listener,
) -> impl PartialEq + '_ {
    (address, trusted_proxies, tls.is_some(), proxy_protocol, http2, health_path)
}

pub(super) fn merge_startup_settings(started: &Arc<Settings>, wanted: &Arc<Settings>) -> Arc<Settings> {
    if restart_needed(started, wanted).is_empty() {
        return Arc::clone(wanted);
    }
    Arc::new(Settings {
        listeners: started.listeners.clone(),
        admin: started.admin.clone(),
        runtime: started.runtime,
        ..Settings::clone(wanted)
    })
}
