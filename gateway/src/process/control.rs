//! The admin listener's view of the running gateway: status, reload, origins and explanations.
//!
//! The admin module calls it through the `AdminControl` trait, so that its tests need no gateway.
//! Absent on purpose: access control, which is in `admin/access.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::ListenAddresses;
use crate::admin::{AdminControl, ProcessPhase};
use crate::explain::{DenialExplanation, RenderedExplanation, explain};
use crate::ledger::OriginsQuery;
use crate::probe::ExplainedRequest;
use crate::registry::GatewayMetrics;
use crate::reload::Reloader;
use crate::servers::{ServerState, WeightedServer};
use crate::upstream::Upstream;
use crate::version::COMMIT;

pub(super) struct ProcessControl {
    reloader: Reloader,
    metrics: Arc<GatewayMetrics>,
    listening: ListenAddresses,
    is_closing: Arc<AtomicBool>,
}

impl ProcessControl {
    pub(super) fn new(reloader: Reloader, metrics: Arc<GatewayMetrics>, listening: ListenAddresses) -> Self {
        ProcessControl { reloader, metrics, listening, is_closing: Arc::default() }
    }

    pub(super) fn reloader(&self) -> &Reloader {
        &self.reloader
    }

    pub(super) fn listening(&self) -> &ListenAddresses {
        &self.listening
    }

    /// A flag that every request reads: if set, connections close after their current response.
    pub(super) fn is_closing(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_closing)
    }

    fn upstreams(&self) -> Vec<Value> {
        let snapshot = self.reloader.current().latest();
        let mut upstreams: Vec<_> = snapshot.upstreams().collect();
        upstreams.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        upstreams.into_iter().map(|upstream| status_of(upstream)).collect()
    }

    fn unsendable_cookies(&self) -> Vec<Value> {
        let tenants = self.metrics.unsendable_cookies().into_iter();
        tenants.map(|(tenant, responses)| json!({ "tenant": tenant, "responses": responses })).collect()
    }

    /// Makes connections close after their current response.
    pub(super) fn close(&self) {
        self.is_closing.store(true, SeqCst);
    }

    /// Makes connections close after their current response, and the process unready.
    pub(super) fn drain(&self) {
        self.metrics.draining.store(true, SeqCst);
        self.close();
    }
}

/// The status of an upstream: its servers with their states, and its names that do not resolve.
fn status_of(upstream: &Upstream) -> Value {
    let server = |(entry, state): (WeightedServer, ServerState)| {
        let WeightedServer { server, weight, is_backup } = entry;
        json!({ "address": server.address, "weight": weight, "backup": is_backup, "state": state.as_str() })
    };
    json!({
        "name": &*upstream.name,
        "servers": upstream.servers.server_states().into_iter().map(server).collect::<Vec<_>>(),
        "lostNames": upstream.servers.lost_names(),
    })
}

impl AdminControl for ProcessControl {
    fn phase(&self) -> ProcessPhase {
        match self.metrics.stopped.first() {
            _ if self.metrics.draining.load(SeqCst) => ProcessPhase::Draining,
            Some(task) => ProcessPhase::Impaired(task),
            None => ProcessPhase::Serving,
        }
    }

    fn status(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": COMMIT,
            "generation": self.reloader.current().latest().generation,
            "uptimeSeconds": self.metrics.started().elapsed().unwrap_or_default().as_secs(),
            "draining": self.phase() == ProcessPhase::Draining,
            "ready": self.phase() == ProcessPhase::Serving,
            "tenants": self.reloader.current().latest().tenants().len(),
            "connections": self.metrics.connections.active(),
            "listening": self.listening,
            "reload": self.reloader.status(),
            "unsendableCookies": self.unsendable_cookies(),
            "upstreams": self.upstreams(),
        })
    }

    fn reload(&self) -> Result<Value, Value> {
        match self.reloader.reload_now() {
            Ok(report) => Ok(json!(report)),
            Err(errors) => Err(json!({ "generation": self.reloader.current().latest().generation, "errors": errors })),
        }
    }

    fn origins(&self, query: &OriginsQuery) -> Option<Value> {
        let is_known = |id: &String| self.reloader.current().latest().tenant_by_id(id).is_some();
        let is_known = query.tenant.as_ref().is_none_or(is_known);
        is_known.then(|| json!(self.metrics.origins(query, SystemTime::now())))
    }

    fn explain(&self, probe: &ExplainedRequest) -> RenderedExplanation {
        RenderedExplanation::of(&explain(&self.reloader.current().latest(), probe))
    }

    fn explain_denial(&self, request_id: &str) -> Result<RenderedExplanation, String> {
        let snapshot = self.reloader.current().latest();
        let explained = DenialExplanation::of(&snapshot, &self.metrics.denials, request_id, SystemTime::now());
        explained.map(|explanation| RenderedExplanation::of(&explanation))
    }
}
