//! The endpoints of the admin listener, one function each.
//!
//! `/livez` succeeds while the process runs; it does not depend on upstreams. `/readyz` fails from
//! the start of a drain, and after a background task has stopped. Work that takes time runs on
//! threads that may block.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use percent_encoding::percent_decode_str;

use super::answer::AdminResponse;
use super::explain_query::{ExplainQuery, ExplainSubject};
use super::login;
use super::page::{self, ExplainForm};
use super::request::AdminRequest;
use super::{AdminState, ProcessPhase};
use crate::diagnostics_log::{self, FilterError};
use crate::ledger::OriginsQuery;
use crate::metrics::PanicPlace;

/// The endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdminEndpoint {
    Page,
    Login,
    Livez,
    Readyz,
    Metrics,
    Status,
    Explain,
    Origins,
    Reload,
    LogLevel,
}

impl AdminEndpoint {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/" => Some(AdminEndpoint::Page),
            "/login" => Some(AdminEndpoint::Login),
            "/livez" => Some(AdminEndpoint::Livez),
            "/readyz" => Some(AdminEndpoint::Readyz),
            "/metrics" => Some(AdminEndpoint::Metrics),
            "/status" => Some(AdminEndpoint::Status),
            "/explain" => Some(AdminEndpoint::Explain),
            "/origins" => Some(AdminEndpoint::Origins),
            "/reload" => Some(AdminEndpoint::Reload),
            "/log-level" => Some(AdminEndpoint::LogLevel),
            _ => None,
        }
    }

    /// Whether the endpoint is a probe. Load balancers and orchestrators have no token.
    pub(super) fn is_probe(self) -> bool {
        matches!(self, AdminEndpoint::Livez | AdminEndpoint::Readyz)
    }

    /// Whether a request with this method changes something, which requires the token of
    /// `tokenFile`.
    pub(super) fn is_changed_by(self, method: &str) -> bool {
        match self {
            AdminEndpoint::Reload => true,
            AdminEndpoint::LogLevel => !matches!(method, "GET" | "HEAD"),
            AdminEndpoint::Page
            | AdminEndpoint::Login
            | AdminEndpoint::Livez
            | AdminEndpoint::Readyz
            | AdminEndpoint::Metrics
            | AdminEndpoint::Status
            | AdminEndpoint::Explain
            | AdminEndpoint::Origins => false,
        }
    }

    fn allowed_methods(self) -> &'static str {
        match self {
            AdminEndpoint::Reload | AdminEndpoint::Login => "POST",
            AdminEndpoint::LogLevel => "GET, HEAD, PUT",
            AdminEndpoint::Page
            | AdminEndpoint::Livez
            | AdminEndpoint::Readyz
            | AdminEndpoint::Metrics
            | AdminEndpoint::Status
            | AdminEndpoint::Explain
            | AdminEndpoint::Origins => "GET, HEAD",
        }
    }

    fn allows(self, method: &str) -> bool {
        self.allowed_methods().split(", ").any(|allowed| allowed == method)
    }
}

/// Whether to read the request's body first: only for a login that passes the access check.
pub(super) fn wants_body(request: &AdminRequest, state: &AdminState) -> bool {
    AdminEndpoint::of(&request.path)
        .filter(|endpoint| *endpoint == AdminEndpoint::Login && endpoint.allows(&request.method))
        .is_some_and(|endpoint| state.access.check(endpoint, request, SystemTime::now()).is_ok())
}

pub(super) async fn answer(request: &AdminRequest, body: Vec<u8>, state: &Arc<AdminState>) -> AdminResponse {
    let Some(endpoint) = AdminEndpoint::of(&request.path) else {
        let detail = "no such endpoint: expected /, /metrics, /livez, /readyz, /status, /explain, /origins, /reload or /log-level";
        return AdminResponse::error(StatusCode::NOT_FOUND, detail);
    };
    if let Err(refusal) = state.access.check(endpoint, request, SystemTime::now()) {
        return refusal;
    }
    if !endpoint.allows(&request.method) {
        // A 405 response must have an Allow field (RFC 9110, section 15.5.6).
        let answer = AdminResponse::error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed: see the Allow field");
        return answer.with_field("Allow", endpoint.allowed_methods());
    }
    match endpoint {
        AdminEndpoint::Page => {
            let form = ExplainForm::from_query(&request.query);
            blocking(state, move |state| page::answer(&form, state)).await
        }
        AdminEndpoint::Login => {
            let request = request.clone();
            blocking(state, move |state| login::answer(&request, &body, state)).await
        }
        AdminEndpoint::Livez => AdminResponse::text(StatusCode::OK, "ok"),
        AdminEndpoint::Readyz => readyz(state.control.phase()),
        AdminEndpoint::Metrics => blocking(state, |state| AdminResponse::metrics(state.metrics.render())).await,
        AdminEndpoint::Status => {
            blocking(state, |state| AdminResponse::json(StatusCode::OK, &state.control.status())).await
        }
        AdminEndpoint::Explain => explain(&request.query, state).await,
        AdminEndpoint::Origins => origins(&request.query, state).await,
        AdminEndpoint::Reload => blocking(state, reload).await,
        AdminEndpoint::LogLevel => log_level(request),
    }
}

/// Reads the level of diagnostics, or sets it until the process ends.
fn log_level(request: &AdminRequest) -> AdminResponse {
    let filter = if request.method == "PUT" {
        let given = request.query.strip_prefix("level=").filter(|level| !level.contains('&'));
        let Some(level) = given.and_then(|level| percent_decode_str(level).decode_utf8().ok()) else {
            return AdminResponse::error(
                StatusCode::BAD_REQUEST,
                "missing level: expected a query such as /log-level?level=debug",
            );
        };
        diagnostics_log::set_filter(&level).inspect(|filter| tracing::info!(filter, "log level changed"))
    } else {
        diagnostics_log::filter()
    };
    match filter {
        Ok(filter) => AdminResponse::json(StatusCode::OK, &serde_json::json!({ "level": filter })),
        Err(error @ FilterError::Invalid(_)) => AdminResponse::error(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(error @ FilterError::NoLog) => AdminResponse::error(StatusCode::NOT_FOUND, &error.to_string()),
    }
}

fn readyz(phase: ProcessPhase) -> AdminResponse {
    match phase {
        ProcessPhase::Serving => AdminResponse::text(StatusCode::OK, "ok"),
        ProcessPhase::Draining => AdminResponse::text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
        ProcessPhase::Impaired(task) => {
            let reason = format!("background task stopped: {}; restart the gateway", task.as_str());
            AdminResponse::text(StatusCode::SERVICE_UNAVAILABLE, &reason)
        }
    }
}

async fn explain(query: &str, state: &Arc<AdminState>) -> AdminResponse {
    let ExplainQuery { subject, format } = match ExplainQuery::from_query(query) {
        Ok(explain_query) => explain_query,
        Err(error) => return AdminResponse::error(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    blocking(state, move |state| match subject {
        ExplainSubject::Described(probe) => format.answer(&state.control.explain(&probe)),
        ExplainSubject::Recorded(id) => match state.control.explain_denial(&id) {
            Ok(explanation) => format.answer(&explanation),
            Err(detail) => AdminResponse::error(StatusCode::NOT_FOUND, &detail),
        },
    })
    .await
}

async fn origins(query: &str, state: &Arc<AdminState>) -> AdminResponse {
    let origins_query = match OriginsQuery::from_query(query) {
        Ok(origins_query) => origins_query,
        Err(error) => return AdminResponse::error(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    blocking(state, move |state| match state.control.origins(&origins_query) {
        Some(report) => AdminResponse::json(StatusCode::OK, &report),
        None => AdminResponse::error(StatusCode::NOT_FOUND, "no tenant has this id: omit tenant= to list all tenants"),
    })
    .await
}

fn reload(state: &AdminState) -> AdminResponse {
    match state.control.reload() {
        Ok(report) => AdminResponse::json(StatusCode::OK, &report),
        Err(errors) => AdminResponse::json(StatusCode::UNPROCESSABLE_ENTITY, &errors),
    }
}

async fn blocking(
    state: &Arc<AdminState>,
    work: impl FnOnce(&AdminState) -> AdminResponse + Send + 'static,
) -> AdminResponse {
    let own = Arc::clone(state);
    tokio::task::spawn_blocking(move || work(&own)).await.unwrap_or_else(|error| {
        if error.is_panic() {
            state.metrics.panics.count(PanicPlace::Admin);
        }
        tracing::error!(%error, "admin: request failed");
        AdminResponse::error(StatusCode::INTERNAL_SERVER_ERROR, "internal error: see the diagnostics log")
    })
}
