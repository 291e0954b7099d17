//! The JSON Schema of the configuration, for editors and pipelines.
//!
//! The structs here are never filled. They describe the keys to `schemars`, and their documentation is what an editor shows;
//! a test holds them and the decoder's sections together. The schema is coarser than the decoder: it knows keys, types and enum
//! values, but no origin patterns, no ranges and no names that refer to each other. `crossgate check` knows all of that.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

/// The schema of the main file. That of tenants files is its definition `TenantsFile`.
pub fn main_file() -> Schema {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(refuse_null));
    let mut generator = settings.into_generator();
    generator.subschema_for::<TenantsFile>();
    generator.into_root_schema_for::<Config>()
}

/// What may be left out may not be written as nothing: the decoder takes an empty value for a mistake.
fn refuse_null(schema: &mut Schema) {
    let null = |value: &Value| value == "null" || value.get("type").is_some_and(|kind| kind == "null");
    for key in ["type", "anyOf"] {
        let Some(Value::Array(choices)) = schema.get_mut(key) else { continue };
        choices.retain(|choice| !null(choice));
        if let [only] = choices.as_slice() {
            let only = only.clone();
            schema.remove(key);
            match only {
                Value::Object(inner) => inner.into_iter().for_each(|(key, value)| drop(schema.insert(key, value))),
                kind @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                    drop(schema.insert(key.to_owned(), kind));
                }
            }
        }
    }
}

macro_rules! scalars {
    ($($name:ident: $schema:tt)+) => {
        $(
            struct $name;

            impl JsonSchema for $name {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn inline_schema() -> bool {
                    true
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($schema)
                }
            }
        )+
    };
}

scalars! {
    Version: { "const": 1 }
    Duration: { "anyOf": [
        { "type": "integer", "minimum": 0 },
        { "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" },
    ] }
    Size: { "anyOf": [
        { "type": "integer", "minimum": 0 },
        { "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$" },
    ] }
    BodyMax: { "anyOf": [
        { "const": "unlimited" },
        { "type": "integer", "minimum": 0 },
        { "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$" },
    ] }
    Threads: { "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1 }] }
}

macro_rules! described {
    ($($(#[$attribute:meta])* $kind:ident $name:ident { $($body:tt)* })+) => {
        $(
            #[derive(JsonSchema)]
            #[expect(dead_code, reason = "described, never filled")]
            $(#[$attribute])*
            $kind $name { $($body)* }
        )+
    };
}

described! {
    /// The configuration of a Crossgate gateway. Paths are relative to the file that names them.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Config {
        /// The version of this format: 1.
        version: Version,
        /// Where clients connect. A change needs a restart, but for certificates.
        listeners: Vec<Listener>,
        /// The second listener: metrics, probes, status, explain, reload. A change needs a restart.
        admin: Option<Admin>,
        /// Threads. A change needs a restart.
        runtime: Option<Runtime>,
        /// Bounds on what clients may send and how long they may take.
        limits: Option<Limits>,
        /// How to stop.
        shutdown: Option<Shutdown>,
        /// What is logged of requests.
        access_log: Option<AccessLog>,
        /// Which origins were seen: what /origins tells.
        ledger: Option<Ledger>,
        /// Where requests go, by name.
        upstreams: Option<BTreeMap<String, Upstream>>,
        /// Named lists of origins, which policies share.
        origin_sets: Option<BTreeMap<String, Vec<String>>>,
        /// Policies by name. A policy is a template that tenants share and add origins to.
        policies: Option<BTreeMap<String, Policy>>,
        /// Whose APIs are behind the gateway.
        tenants: Option<Vec<Tenant>>,
        /// A directory of YAML files with more tenants. A bad file there keeps its last good version on reload.
        tenants_dir: Option<String>,
        /// The directory of the scripts that rules name. A bad script there keeps its last good version on reload.
        scripts_dir: Option<String>,
        /// Who is asked for the addresses of servers that have names. Default the system's.
        resolver: Option<Resolver>,
    }

    /// A file of the tenants directory.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct TenantsFile {
        /// The version of this format: 1.
        version: Option<Version>,
        /// The tenants, one or many.
        tenants: Vec<Tenant>,
    }

    /// A socket for clients.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Listener {
        /// IP address and port, such as `0.0.0.0:8080` or `[::]:8080`.
        address: String,
        /// Address ranges of proxies whose Forwarded and X-Forwarded-* fields are believed. None by default.
        trusted_proxies: Option<Vec<String>>,
        /// What it speaks TLS with. Without it, it speaks plain HTTP. Certificates are changed without a restart.
        tls: Option<ListenerTls>,
        /// Connections begin with a PROXY header, version 1 or 2, that names the client. Off by default.
        proxy_protocol: Option<ProxyProtocol>,
        /// Whether clients may speak HTTP/2: those that begin with it, and over TLS those that agree on it. Default true.
        http2: Option<bool>,
    }

    /// What a listener speaks TLS with.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct ListenerTls {
        /// Each serves the names in its subjectAltName. The first also serves clients that name no host.
        certificates: Vec<Certificate>,
        /// The oldest version that is spoken. Default Tls12.
        min_version: Option<TlsVersion>,
    }

    /// A certificate and its private key. Files that change are live within a second; a bad one keeps its last good version.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Certificate {
        /// A PEM file: the certificate first, then its issuers.
        certificate: String,
        /// A PEM file with the private key, not encrypted.
        key: String,
    }

    /// A version of TLS.
    enum TlsVersion {
        /// TLS 1.2 and later.
        Tls12,
        /// TLS 1.3 and later.
        Tls13,
    }

    /// Headers of balancers that pass connections on.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct ProxyProtocol {
        /// Address ranges of these balancers. Nobody else may connect, and they only with a header.
        from: Vec<String>,
    }

    /// The listener for operators.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Admin {
        /// IP address and port. Off loopback a tokenFile is needed.
        address: String,
        /// A file with the bearer token.
        token_file: Option<String>,
        /// Whether /metrics needs no token.
        open_metrics: Option<bool>,
        /// Host names it answers to, besides IP addresses and localhost.
        hosts: Option<Vec<String>>,
    }

    /// Threads of the data listeners.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Runtime {
        /// Worker threads: a number, or auto for one a core.
        threads: Option<Threads>,
    }

    /// Bounds on what clients may send and how long they may take.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Limits {
        /// Clients' connections at one time. Default as many as the limit of open files has room for.
        max_connections: Option<u32>,
        /// Connections of one client address, or IPv6 network of 64 bits. Trusted proxies have no such limit. Default none.
        max_connections_per_client: Option<u32>,
        /// For a TLS handshake, from the accept. Default 10s.
        tls_handshake: Option<Duration>,
        /// For a whole request head. Default 10s.
        head: Option<Duration>,
        /// Fields in a head. Default 100.
        head_fields: Option<u32>,
        /// Size of one field. Default 8KiB.
        head_field_bytes: Option<Size>,
        /// Size of a head. Default 32KiB.
        head_bytes: Option<Size>,
        /// Between two requests of a connection. Default 75s, above the 60s of cloud balancers.
        keep_alive_idle: Option<Duration>,
        /// Requests of one connection. Default 1000.
        keep_alive_requests: Option<u32>,
        /// Size of a request body. Default unlimited: bodies are streamed.
        max_request_body: Option<BodyMax>,
        /// Bytes a second that a request body must come in. Default 1KiB.
        min_body_rate: Option<Size>,
        /// How long a request body may be slower. Default 10s.
        min_body_rate_after: Option<Duration>,
        /// How long a client may take none of its answer. Default 60s.
        write_stall: Option<Duration>,
        /// How much of an unread body is read after an answer made by the gateway. Default 64KiB.
        drain_bytes: Option<Size>,
        /// How long it is read. Default 5s.
        drain_time: Option<Duration>,
        /// Requests at one time on a connection over HTTP/2. Default 100.
        http2_streams: Option<u32>,
        /// How long such a connection may be without any. Default 60s.
        http2_idle: Option<Duration>,
        /// What rules may take.
        rules: Option<RuleLimits>,
    }

    /// What rules may take.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct RuleLimits {
        /// Operations of one run. Default 5000.
        operations: Option<u32>,
        /// Size of one string. Default 4KiB.
        string_bytes: Option<Size>,
        /// Elements of one array. Default 256.
        array_length: Option<u32>,
        /// Keys of one map. Default 64.
        map_length: Option<u32>,
        /// Calls within calls. Default 16.
        call_depth: Option<u32>,
        /// Size of one script. Default 64KiB.
        source_bytes: Option<Size>,
        /// Processor time of one run. Default 5ms.
        time: Option<Duration>,
        /// Time of all runs of one tenant, in each second. Default 250ms.
        time_per_second: Option<Duration>,
        /// Answers that are kept. Default 65536.
        cache_entries: Option<u32>,
        /// Answers that are kept for one tenant. Default 8192.
        cache_entries_per_tenant: Option<u32>,
    }

    /// How to stop.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Shutdown {
        /// Between failing /readyz and closing the listeners. Default 0s.
        drain_delay: Option<Duration>,
        /// For running requests. Default 30s.
        grace: Option<Duration>,
    }

    /// What is logged of requests.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct AccessLog {
        /// Which requests. Default All.
        level: Option<LogLevel>,
        /// The share of them, from 0 to 1. Default 1.
        #[schemars(range(min = 0, max = 1))]
        sample: Option<f64>,
    }

    /// Which requests are logged.
    enum LogLevel {
        /// Every one.
        All,
        /// Those that were denied.
        Denied,
        /// None.
        Off,
    }

    /// The bounded record of origins seen. A change of it begins it anew.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Ledger {
        /// Whether there is one. Default true.
        enabled: Option<bool>,
        /// Origins that are recorded. Default 65536.
        origins: Option<u32>,
        /// Origins that are recorded of one tenant. Default 256.
        origins_per_tenant: Option<u32>,
    }

    /// Servers that answer the same requests, in turn.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Upstream {
        /// Addresses with ports, such as `10.1.0.11:9001` or `orders.internal:9001`, or with a weight.
        servers: Vec<ServerEntry>,
        /// How long to wait for it.
        timeouts: Option<Timeouts>,
        /// How often a request is tried, the first time included. Default 2.
        attempts: Option<u32>,
        /// The Host it gets instead of the client's.
        host: Option<String>,
        /// Which HTTP it is asked in. Default Http1.
        protocol: Option<Protocol>,
        /// Encrypts its connections; `{}` trusts the system's certificates, and wants the server's own name or address in its certificate.
        tls: Option<UpstreamTls>,
        /// How its servers are asked whether they are well. Default not at all.
        health_check: Option<HealthCheck>,
        /// How many requests it has at one time. Default as many as there are.
        limits: Option<UpstreamLimits>,
    }

    /// Which HTTP an upstream is asked in.
    enum Protocol {
        /// HTTP/1.1.
        Http1,
        /// HTTP/2 alone: negotiated over TLS, with prior knowledge in clear text. It takes no WebSockets.
        Http2,
        /// Over TLS, HTTP/2 where the server takes it, else HTTP/1.1, as for WebSockets.
        Auto,
    }

    /// How an upstream's connections are encrypted. Certificate and name are always verified. Files are read anew when they change.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct UpstreamTls {
        /// The name or IP address that the server's certificate must have, also asked for by SNI. Default: the server's own; where several of
        /// an upstream's servers have names of their own, it is needed.
        server_name: Option<String>,
        /// A PEM file of the certificates that are trusted instead of the system's.
        ca: Option<String>,
        /// What the gateway shows of itself, where the upstream asks.
        client_certificate: Option<ClientCertificate>,
    }

    /// A certificate and its key.
    #[schemars(deny_unknown_fields)]
    struct ClientCertificate {
        /// A PEM file: the certificate, then those between it and one that the upstream trusts.
        certificate: String,
        /// A PEM file: its private key, unencrypted.
        key: String,
    }

    /// A server of an upstream, or those that a name stands for.
    #[schemars(untagged)]
    enum ServerEntry {
        /// An IP address or a name, and a port.
        Address(String),
        /// The same with a weight.
        Weighted(Server),
    }

    /// A server with its weight.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Server {
        /// An IP address or a name, and a port. A name is looked up anew as its records expire, and stands for all its addresses.
        address: String,
        /// How many turns it has while one of weight 1 has one. Of a name's addresses each has as many. Default 1.
        #[schemars(range(min = 1, max = 256))]
        weight: Option<u32>,
    }

    /// A GET that each server has to answer with a status from 200 to 299.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct HealthCheck {
        /// What is asked for, such as `/healthz`.
        path: String,
        /// Between two checks of a server. Default 10s.
        interval: Option<Duration>,
        /// For a connection and the head of an answer. Default 2s.
        timeout: Option<Duration>,
        /// Good checks in a row that make an unhealthy server healthy. Default 2.
        healthy_after: Option<u32>,
        /// Bad checks in a row that make a healthy server unhealthy; of a new server the first one does. Default 3.
        unhealthy_after: Option<u32>,
        /// The Host that a check names, instead of the upstream's or the server's address.
        host: Option<String>,
    }

    /// How many requests an upstream has at one time. One too many is answered 503.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct UpstreamLimits {
        /// Under way; over HTTP/1.1 each has a connection.
        max_requests: u32,
        /// Waiting for one of those to end, first come, first served. Default as many as maxRequests; 0 refuses at once.
        max_pending: Option<u32>,
        /// How long one waits. Default 1s.
        pending_timeout: Option<Duration>,
    }

    /// Who is asked for the addresses of servers that have names.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Resolver {
        /// IP addresses and ports of name servers. Default what resolv.conf and the hosts file say.
        servers: Option<Vec<String>>,
        /// How long one try may take. Default what resolv.conf says, or 2s for servers named here.
        timeout: Option<Duration>,
    }

    /// How long to wait for an upstream.
    #[schemars(rename_all = "camelCase", deny_unknown_fields)]
    struct Timeouts {
        /// For a connection. Default 3s.
        connect: Option<Duration>,
        /// For the head of an answer. Default 30s.
        head: Option<Duration>,
        /// Between two pieces of a body. Default 5m.
        idle: Option<Duration>,
        /// The same on upgraded connections and event streams. Default 1h.
        upgraded_idle: Option<Duration>,
    }

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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::sections;

    /// Every key of every section of the schema, by definition name.
    fn described_keys() -> BTreeMap<String, BTreeSet<String>> {
        let schema = serde_json::to_value(main_file()).unwrap();
        let keys = |object: &serde_json::Value| {
            object["properties"].as_object().map(|properties| properties.keys().cloned().collect())
        };
        let definitions = schema["$defs"].as_object().unwrap().iter();
        let definitions = definitions.filter_map(|(name, object)| Some((name.clone(), keys(object)?)));
        definitions.chain([("Config".to_owned(), keys(&schema).unwrap())]).collect()
    }

    /// The folder with the samples and the published schema.
    fn samples() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/config")
    }

    fn yaml_files(dir: &Path) -> Vec<PathBuf> {
        let files = crate::config::list_tenants_dir(dir).unwrap();
        assert!(!files.is_empty(), "{}", dir.display());
        files
    }

    fn validator(schema: &Value) -> jsonschema::Validator {
        jsonschema::options().build(schema).unwrap()
    }

    /// The schema of a tenants file on its own.
    fn tenants_file() -> Value {
        let schema = serde_json::to_value(main_file()).unwrap();
        serde_json::json!({ "$ref": "#/$defs/TenantsFile", "$defs": schema["$defs"] })
    }

    fn parsed(text: &str) -> Value {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn describes_exactly_the_keys_that_are_decoded() {
        let decoded: BTreeMap<_, BTreeSet<_>> = sections::ALL
            .iter()
            .map(|(name, section)| ((*name).to_owned(), section.keys.iter().map(|key| (*key).to_owned()).collect()))
            .collect();
        assert_eq!(described_keys(), decoded);
    }

    #[test]
    fn the_published_schema_is_current() {
        let mut printed = Vec::new();
        crate::cli::schema::run(&mut printed).unwrap();
        let published = std::fs::read_to_string(samples().join("crossgate.schema.json")).unwrap();
        assert!(
            published.as_bytes() == printed,
            "run `cargo run -p crossgate -- schema > ops/config/crossgate.schema.json`"
        );
    }

    #[test]
    fn samples_are_valid_and_good() {
        let main = validator(&serde_json::to_value(main_file()).unwrap());
        let tenants = validator(&tenants_file());
        for (validator, dir) in [(main, samples()), (tenants, samples().join("tenants.d"))] {
            for file in yaml_files(&dir) {
                let value = parsed(&std::fs::read_to_string(&file).unwrap());
                let errors: Vec<_> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
                assert!(errors.is_empty(), "{}: {errors:#?}", file.display());
            }
        }
        for file in yaml_files(&samples()) {
            let expected = usize::from(file.ends_with("report-mode.yaml"));
            let found = crate::reload::check(&file);
            assert!(!found.has_errors() && found.len() == expected, "{found}");
        }
    }

    #[test]
    fn refuses_what_the_decoder_refuses() {
        let validator = validator(&tenants_file());
        let is_valid = |text: &str| validator.is_valid(&parsed(text));
        assert!(is_valid("tenants: [{ id: a, hosts: [a.example], routes: [{ pathPrefix: / }] }]"));
        for text in [
            "tenants: [{ id: a }]",
            "tenants: [{ id: a, hosts: [a.example], colour: red }]",
            "tenants: [{ id: 1, hosts: [a.example] }]",
            "tenants: [{ id: a, hosts: [a.example], policy: null }]",
            "tenants: [{ id: a, hosts: [a.example], routes: [{ pathPrefix: /, unmatchedRequests: forward }] }]",
            "version: 2\ntenants: []",
            "{}",
        ] {
            assert!(!is_valid(text), "{text}");
        }
    }
}
