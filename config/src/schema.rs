//! The keys of the configuration, and its JSON Schema for editors and pipelines.
//!
//! The `..Keys` structs are never filled. They declare the keys: the decoder accepts the fields
//! that `serde` derives from them, and `schemars` derives the schema. Their doc comments are the
//! text that editors show and that `docs/reference/configuration.md` contains. A test compares
//! literals after `Default:` with the decoder.
//!
//! The schema is less strict than the decoder. It has keys, types and enum values, but neither
//! ranges nor origin patterns nor references by name. `crossgate check` tests all of these.

pub(super) mod listeners;
pub(super) mod policies;
pub(super) mod settings;
pub(super) mod upstreams;

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;

use self::listeners::ListenerKeys;
use self::policies::{PolicyKeys, TenantKeys};
use self::settings::{AccessLogKeys, AdminKeys, LedgerKeys, LimitsKeys, RuntimeKeys, ShutdownKeys};
use self::upstreams::{ResolverKeys, UpstreamKeys};

/// The schema of the main file. Its definition `TenantsFile` is the schema of tenants files.
pub fn main_file() -> Schema {
    let settings = SchemaSettings::draft2020_12()
        .with_transform(RecursiveTransform(refuse_null))
        .with_transform(RecursiveTransform(join_lines));
    let mut generator = settings.into_generator();
    generator.subschema_for::<TenantsFileKeys>();
    generator.into_root_schema_for::<MainKeys>()
}

/// Removes `null` from the accepted types: an optional key may be absent, but the decoder refuses
/// an empty value.
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

/// Removes the line breaks that doc comments have in the source.
fn join_lines(schema: &mut Schema) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
}

macro_rules! scalars {
    ($($name:ident: $schema:tt)+) => {
        $(
            #[derive(Deserialize)]
            pub(super) struct $name;

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
    TimingOrigins: { "anyOf": [
        { "const": "Same" },
        { "type": "array", "items": { "type": "string" }, "maxItems": 16 },
    ] }
    RedirectStatus: { "enum": [301, 302, 303, 307, 308] }
    RedirectScheme: { "enum": ["http", "https"] }
    LogField: { "enum": (super::model::LogField::ALL.map(super::model::LogField::as_str).to_vec()) }
    Threads: { "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1 }] }
}

macro_rules! declare_keys {
    ($($(#[$attribute:meta])* $kind:ident $name:ident $(as $published:literal)? { $($body:tt)* })+) => {
        $(
            #[derive(serde::Deserialize, schemars::JsonSchema)]
            #[expect(dead_code, reason = "a declaration that is never filled")]
            $(#[schemars(rename = $published)])?
            $(#[$attribute])*
            pub(crate) $kind $name { $($body)* }
        )+
    };
}

use declare_keys;

declare_keys! {
    /// The configuration of a Crossgate gateway. Paths are relative to the file that contains them.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct MainKeys as "Config" {
        /// The version of this format: 1.
        version: Version,
        /// The sockets for clients. A change needs a restart or a hand-over (SIGUSR2), except for
        /// certificates.
        listeners: Vec<ListenerKeys>,
        /// The listener for operators: metrics, probes, status, explain and reload. A change needs
        /// a restart or a hand-over (SIGUSR2).
        admin: Option<AdminKeys>,
        /// The worker threads. A change needs a restart or a hand-over (SIGUSR2).
        runtime: Option<RuntimeKeys>,
        /// Limits on what clients may send and how long they may take.
        limits: Option<LimitsKeys>,
        /// The delays of a stop.
        shutdown: Option<ShutdownKeys>,
        /// The log of requests.
        access_log: Option<AccessLogKeys>,
        /// The record of origins, which `/origins` of the admin listener shows.
        ledger: Option<LedgerKeys>,
        /// The servers that requests are forwarded to, by name.
        upstreams: Option<BTreeMap<String, UpstreamKeys>>,
        /// Named lists of origins that policies share.
        origin_sets: Option<BTreeMap<String, Vec<String>>>,
        /// Policies by name. A policy is a template: tenants share it and add origins to it.
        policies: Option<BTreeMap<String, PolicyKeys>>,
        /// The owners of the APIs behind the gateway.
        tenants: Option<Vec<TenantKeys>>,
        /// A directory of YAML files with more tenants. On reload, an invalid file keeps its last
        /// good version.
        tenants_dir: Option<String>,
        /// The directory of the scripts that rules use. On reload, an invalid script keeps its last
        /// good version.
        scripts_dir: Option<String>,
        /// How the names of servers are resolved.
        resolver: Option<ResolverKeys>,
        /// Whether responses of the gateway have a Proxy-Status field (RFC 9209) with the reason.
        /// Default: `true`.
        proxy_status: Option<bool>,
    }

    /// A file of the tenants directory.
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct TenantsFileKeys as "TenantsFile" {
        /// The version of this format: 1.
        version: Option<Version>,
        /// One or more tenants.
        tenants: Vec<TenantKeys>,
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// The folder with the samples and the published schema.
    fn samples() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/config")
    }

    fn yaml_files(dir: &Path) -> Vec<PathBuf> {
        let files = crate::list_tenants_dir(dir).unwrap();
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

    fn parse_text(text: &str) -> Value {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn the_published_schema_is_current() {
        let printed = format!("{}\n", serde_json::to_string_pretty(&main_file()).unwrap());
        crate::tests::assert_current("ops/config/crossgate.schema.json", &printed);
    }

    #[test]
    fn the_schema_accepts_all_samples() {
        let main = validator(&serde_json::to_value(main_file()).unwrap());
        let tenants = validator(&tenants_file());
        for (validator, dir) in [(main, samples()), (tenants, samples().join("tenants.d"))] {
            for file in yaml_files(&dir) {
                let value = parse_text(&std::fs::read_to_string(&file).unwrap());
                let errors: Vec<_> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
                assert!(errors.is_empty(), "{}: {errors:#?}", file.display());
            }
        }
    }

    #[test]
    fn the_schema_refuses_unknown_keys_and_wrong_types() {
        let validator = validator(&tenants_file());
        let is_valid = |text: &str| validator.is_valid(&parse_text(text));
        assert!(is_valid("tenants: [{ id: a, hosts: [a.example], routes: [{ pathPrefix: / }] }]"));
        for text in [
            "tenants: [{ id: a }]",
            "tenants: [{ id: a, hosts: [a.example], colour: red }]",
            "tenants: [{ id: 1, hosts: [a.example] }]",
            "tenants: [{ id: a, hosts: [a.example], policy: null }]",
            "tenants: [{ id: a, hosts: [a.example], routes: [{ pathPrefix: /, unmatchedRequests: forward }] }]",
            "tenants: [{ id: a, hosts: [a.example], routes: [{ pathPrefix: /, preflightFailures: explain }] }]",
            "version: 2\ntenants: []",
            "{}",
        ] {
            assert!(!is_valid(text), "{text}");
        }
    }
}
