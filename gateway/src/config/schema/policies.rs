//! Lists of origins, policies and tenants.

use schemars::JsonSchema;

use super::{Duration, described};

described! {
    /// Who may call from where, and with what.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Policy {
        /// Origins and patterns: `https://app.example.com`, `https://*.example.com`, `https://pr-*.example.com`, `http://localhost:*`, or `*`.
        allow_origins: Option<Vec<String>>,
        /// Names of origin sets.
        allow_origin_sets: Option<Vec<String>>,
        /// Regular expressions that match whole origins.
        allow_origin_regexes: Option<Vec<String>>,
        /// Methods a preflight may ask for, or "*". GET, HEAD and POST always pass.
        allow_methods: Option<Vec<String>>,
        /// Request headers a preflight may ask for, or "*".
        allow_headers: Option<Vec<String>>,
        /// Response headers a page may read, or "*".
        expose_headers: Option<Vec<String>>,
        /// Whether cookies and the like are allowed. Default false.
        allow_credentials: Option<bool>,
        /// How long browsers may remember a preflight: seconds or a duration. Default 600, 0 switches it off.
        max_age: Option<Duration>,
        /// How much of its lists a preflight answer tells. Default Full.
        disclosure: Option<Disclosure>,
        /// What happens to requests of origins that are not allowed. Default Reject.
        unmatched_requests: Option<UnmatchedRequests>,
        /// Whether it protects or only watches. Default Enforce.
        mode: Option<Mode>,
        /// Who is asked about origins that nothing above covers.
        rule: Option<Rule>,
        /// Lets null be listed; never with credentials.
        dangerously_allow_null: Option<bool>,
        /// Lets http origins be listed with credentials.
        dangerously_allow_insecure_origins: Option<bool>,
        /// Lets wildcards over public suffixes be listed with credentials.
        dangerously_allow_public_suffixes: Option<bool>,
        /// Lets expressions that match any origin be listed with credentials.
        dangerously_allow_any_origin: Option<bool>,
    }

    /// A script that decides about origins which no entry covers.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Rule {
        /// A file of scriptsDir, such as `preview.rhai`.
        script: String,
        /// Request headers it may read. Every answer of the policy varies by all of them.
        headers: Option<Vec<String>>,
        /// Query keys it may read.
        query: Option<Vec<String>>,
    }

    /// How much of its lists a policy tells.
    enum Disclosure {
        /// The whole lists.
        Full,
        /// What was asked for.
        Minimal,
    }

    /// What happens to an actual request of an origin that is not allowed.
    enum UnmatchedRequests {
        /// 403 at the edge.
        Reject,
        /// The upstream answers, without CORS headers. Single sign-on callbacks and payment returns need it.
        Forward,
    }

    /// Whether a policy protects.
    enum Mode {
        /// It does.
        Enforce,
        /// It judges, counts and logs, and protects nothing.
        Report,
    }

    /// Whose API is behind the gateway.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Tenant {
        /// Its name in metrics, logs and headers.
        id: String,
        /// Its hosts without ports: api.acme.example, "*.acme.example" (any depth, itself not included), or "*".
        hosts: Vec<String>,
        /// Where its requests go, unless a route says otherwise.
        upstream: Option<String>,
        /// Its policy, unless a route says otherwise.
        policy: Option<String>,
        /// Origins added to that policy for this tenant.
        allow_origins: Option<Vec<String>>,
        /// Paths that are treated differently.
        routes: Option<Vec<Route>>,
    }

    /// A path that is treated differently. The longest prefix wins, then the route that names the method.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Route {
        /// Whole segments from the left: /public stands for /public and /public/x, never for /publicity.
        path_prefix: String,
        /// The methods it is for. All if left out.
        methods: Option<Vec<String>>,
        /// Its policy instead of the tenant's. The tenant's allowOrigins are not added to it.
        policy: Option<String>,
        /// Its upstream instead of the tenant's.
        upstream: Option<String>,
        /// Origins added to its policy for this route.
        allow_origins: Option<Vec<String>>,
        /// What happens to requests of origins that are not allowed, instead of what the policy says.
        unmatched_requests: Option<UnmatchedRequests>,
    }
}
