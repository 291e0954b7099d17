//! The JSON Schema of the configuration, for editors and pipelines.
//!
//! The structs here are never filled. They describe the keys to `schemars`, and their documentation is what an editor shows;
//! a test holds them and the decoder's sections together. The schema is coarser than the decoder: it knows keys, types and enum
//! values, but no origin patterns, no ranges and no names that refer to each other. `crossgate check` knows all of that.

mod listeners;
mod policies;
mod settings;
mod upstreams;

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use self::listeners::Listener;
use self::policies::{Policy, Tenant};
use self::settings::{AccessLog, Admin, Ledger, Limits, Runtime, Shutdown};
use self::upstreams::{Resolver, Upstream};

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
    Threads: { "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1 }] }
}

macro_rules! described {
    ($($(#[$attribute:meta])* $kind:ident $name:ident { $($body:tt)* })+) => {
        $(
            #[derive(JsonSchema)]
            #[expect(dead_code, reason = "described, never filled")]
            $(#[$attribute])*
            pub(super) $kind $name { $($body)* }
        )+
    };
}

use described;

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
