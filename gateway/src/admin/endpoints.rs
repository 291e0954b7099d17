//! What the admin listener answers: one function an endpoint.
//!
//! `/livez` says that the process runs, and never looks at upstreams; `/readyz` fails from the first moment of a drain.
//! Work that takes time runs on threads that may block.

use std::sync::Arc;

use http::StatusCode;

use super::answer::Answer;
use super::request::Request;
use super::{AdminState, Phase};
use crate::explain::probe::Description;
use crate::ledger::Origins;
use crate::metrics::PanicPlace;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Livez,
    Readyz,
    Metrics,
    Status,
    Explain,
    Origins,
    Reload,
}

impl Endpoint {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/livez" => Some(Endpoint::Livez),
            "/readyz" => Some(Endpoint::Readyz),
            "/metrics" => Some(Endpoint::Metrics),
            "/status" => Some(Endpoint::Status),
            "/explain" => Some(Endpoint::Explain),
            "/origins" => Some(Endpoint::Origins),
            "/reload" => Some(Endpoint::Reload),
            _ => None,
        }
    }

    /// Whether it is for load balancers and orchestrators, that know no token.
    pub(super) fn is_probe(self) -> bool {
        matches!(self, Endpoint::Livez | Endpoint::Readyz)
    }

    fn allowed_methods(self) -> &'static str {
        match self {
            Endpoint::Reload => "POST",
            Endpoint::Livez
            | Endpoint::Readyz
            | Endpoint::Metrics
            | Endpoint::Status
            | Endpoint::Explain
            | Endpoint::Origins => "GET, HEAD",
        }
    }

    fn allows(self, method: &str) -> bool {
        self.allowed_methods().split(", ").any(|allowed| allowed == method)
    }
}

pub(super) async fn answer(request: &Request, state: &Arc<AdminState>) -> Answer {
    let Some(endpoint) = Endpoint::of(&request.path) else {
        let detail = "no such endpoint: there are /metrics, /livez, /readyz, /status, /explain, /origins and /reload";
        return Answer::error(StatusCode::NOT_FOUND, detail);
    };
    if let Err(refusal) = state.access.check(endpoint, request) {
        return refusal;
    }
    if !endpoint.allows(&request.method) {
        let answer = Answer::error(StatusCode::METHOD_NOT_ALLOWED, "see the Allow field for what is accepted");
        return answer.with_field("Allow", endpoint.allowed_methods());
    }
    match endpoint {
        Endpoint::Livez => Answer::text(StatusCode::OK, "ok"),
        Endpoint::Readyz => readyz(state.control.phase()),
        Endpoint::Metrics => blocking(state, |state| Answer::metrics(state.metrics.render())).await,
        Endpoint::Status => blocking(state, |state| Answer::json(StatusCode::OK, &state.control.status())).await,
        Endpoint::Explain => explain(&request.query, state).await,
        Endpoint::Origins => origins(&request.query, state).await,
        Endpoint::Reload => blocking(state, reload).await,
    }
}

fn readyz(phase: Phase) -> Answer {
    match phase {
        Phase::Serving => Answer::text(StatusCode::OK, "ok"),
        Phase::Draining => Answer::text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
    }
}

async fn explain(query: &str, state: &Arc<AdminState>) -> Answer {
    match Description::from_query(query).and_then(Description::into_probe) {
        Ok(probe) => blocking(state, move |state| Answer::json(StatusCode::OK, &state.control.explain(&probe))).await,
        Err(error) => Answer::error(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

async fn origins(query: &str, state: &Arc<AdminState>) -> Answer {
    let asked = match Origins::from_query(query) {
        Ok(asked) => asked,
        Err(error) => return Answer::error(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    blocking(state, move |state| match state.control.origins(&asked) {
        Some(told) => Answer::json(StatusCode::OK, &told),
        None => Answer::error(StatusCode::NOT_FOUND, "no tenant has this id; without tenant= all are told of"),
    })
    .await
}

fn reload(state: &AdminState) -> Answer {
    match state.control.reload() {
        Ok(report) => Answer::json(StatusCode::OK, &report),
        Err(errors) => Answer::json(StatusCode::UNPROCESSABLE_ENTITY, &errors),
    }
}

async fn blocking(state: &Arc<AdminState>, work: impl FnOnce(&AdminState) -> Answer + Send + 'static) -> Answer {
    let own = Arc::clone(state);
    tokio::task::spawn_blocking(move || work(&own)).await.unwrap_or_else(|error| {
        if error.is_panic() {
            state.metrics.panics.count(PanicPlace::Admin);
        }
        tracing::error!(%error, "admin: an answer failed");
        Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "the answer failed; see the log")
    })
}
