//! What the admin listener may see and do of the running gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::Listening;
use crate::admin::{Control, Phase};
use crate::explain::explain;
use crate::explain::probe::Probe;
use crate::ledger::Origins;
use crate::metrics::Metrics;
use crate::reload::Reloader;
use crate::servers::Standing;
use crate::tenant::Upstream;

pub(super) struct ProcessControl {
    reloader: Reloader,
    metrics: Arc<Metrics>,
    listening: Listening,
    is_closing: Arc<AtomicBool>,
}

impl ProcessControl {
    pub(super) fn new(reloader: Reloader, metrics: Arc<Metrics>, listening: Listening) -> Self {
        ProcessControl { reloader, metrics, listening, is_closing: Arc::default() }
    }

    pub(super) fn reloader(&self) -> &Reloader {
        &self.reloader
    }

    pub(super) fn listening(&self) -> &Listening {
        &self.listening
    }

    /// Whether connections end with their present answer, for those who look at it with every request.
    pub(super) fn is_closing(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_closing)
    }

    fn upstreams(&self) -> Vec<Value> {
        let snapshot = self.reloader.current().latest();
        let mut upstreams: Vec<_> = snapshot.upstreams().collect();
        upstreams.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        upstreams.into_iter().map(|upstream| status_of(upstream)).collect()
    }

    /// From now on connections end with their present answer.
    pub(super) fn close(&self) {
        self.is_closing.store(true, SeqCst);
    }

    /// The same, and the process is not ready.
    pub(super) fn drain(&self) {
        self.metrics.draining.store(true, SeqCst);
        self.close();
    }
}

/// Where an upstream's servers are and how they are, and which of their names cannot be resolved now.
fn status_of(upstream: &Upstream) -> Value {
    let server = |(address, weight, standing): (SocketAddr, u32, Standing)| json!({ "address": address, "weight": weight, "state": standing.as_str() });
    json!({
        "name": &*upstream.name,
        "servers": upstream.servers.standings().into_iter().map(server).collect::<Vec<_>>(),
        "lostNames": upstream.servers.lost_names(),
    })
}

impl Control for ProcessControl {
    fn phase(&self) -> Phase {
        if self.metrics.draining.load(SeqCst) { Phase::Draining } else { Phase::Serving }
    }

    fn status(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "generation": self.reloader.current().latest().generation,
            "uptimeSeconds": self.metrics.started().elapsed().unwrap_or_default().as_secs(),
            "draining": self.phase() == Phase::Draining,
            "tenants": self.reloader.current().latest().tenants().len(),
            "connections": self.metrics.connections.active(),
            "listening": self.listening,
            "reload": self.reloader.status(),
            "upstreams": self.upstreams(),
        })
    }

    fn reload(&self) -> Result<Value, Value> {
        match self.reloader.reload_now() {
            Ok(report) => Ok(json!(report)),
            Err(errors) => Err(json!({ "generation": self.reloader.current().latest().generation, "errors": errors })),
        }
    }

    fn origins(&self, asked: &Origins) -> Option<Value> {
        let is_known = |id: &String| self.reloader.current().latest().tenant_by_id(id).is_some();
        let is_known = asked.tenant.as_ref().is_none_or(is_known);
        is_known.then(|| json!(self.metrics.origins(asked, SystemTime::now())))
    }

    fn explain(&self, probe: &Probe) -> Value {
        json!(explain(&self.reloader.current().latest(), probe))
    }
}
