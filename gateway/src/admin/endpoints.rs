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

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Livez,
    Readyz,
    Metrics,
    Status,
    Explain,
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
            Endpoint::Livez | Endpoint::Readyz | Endpoint::Metrics | Endpoint::Status | Endpoint::Explain => {
                "GET, HEAD"
            }
        }
    }

    fn allows(self, method: &str) -> bool {
        self.allowed_methods().split(", ").any(|allowed| allowed == method)
    }
}

pub(super) async fn answer(request: &Request, state: &Arc<AdminState>) -> Answer {
    let Some(endpoint) = Endpoint::of(&request.path) else {
        let detail = "no such endpoint: there are /metrics, /livez, /readyz, /status, /explain and /reload";
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

fn reload(state: &AdminState) -> Answer {
    match state.control.reload() {
        Ok(report) => Answer::json(StatusCode::OK, &report),
        Err(errors) => Answer::json(StatusCode::UNPROCESSABLE_ENTITY, &errors),
    }
}

async fn blocking(state: &Arc<AdminState>, work: impl FnOnce(&AdminState) -> Answer + Send + 'static) -> Answer {
    let state = Arc::clone(state);
    tokio::task::spawn_blocking(move || work(&state)).await.unwrap_or_else(|error| {
        tracing::error!(%error, "admin: an answer failed");
        Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "the answer failed; see the log")
    })
}
