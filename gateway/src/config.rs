//! Configuration: YAML files to plain values, with every mistake at its place.
//!
//! `files` reads, `tree` parses, `decode` and its sections turn the tree into the values of `model` and report what is wrong with
//! it as `diagnostics`. Nothing is compiled and no name is resolved here; `snapshot` does that and adds its findings to the
//! same list, so that one run tells everything. Environment variables, includes and defaults files do not exist.

pub mod diagnostics;
pub mod model;
pub mod schema;

mod decode;
pub(crate) mod files;
mod listener_tls;
mod policies;
mod rules;
mod scalars;
mod sections;
mod servers;
mod settings;
mod tenants;
mod tree;
mod upstream_tls;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use decode::Decoder;
pub(crate) use decode::{shown, similar};
use diagnostics::Diagnostics;
pub use model::{Limits, LogLevel, Mode, Settings, UnmatchedRequests};
use model::{Located, Main, TenantSpec};
pub use rules::{CaseSpec, CasesFile, DataFile, Expected};
pub(crate) use sections::Kind;
use sections::Section;
use tree::{At, Node, Value};

use crate::host::HostPattern;

/// The only version there is.
const VERSION: i128 = 1;

/// What a file says as far as it could be read, and everything found in it.
#[derive(Debug, Default)]
pub struct Decoded<T> {
    /// What it says.
    pub value: T,
    /// What is wrong with it.
    pub found: Diagnostics,
}

/// A file of the tenants directory.
#[derive(Debug, Default)]
pub struct TenantsFile {
    /// Its tenants.
    pub tenants: Vec<Arc<TenantSpec>>,
    /// The hosts they claim, also those of tenants that could not be read.
    pub hosts: Vec<HostPattern>,
}

/// Reads the main file.
pub fn read_main(file: &Path) -> Decoded<Main> {
    decode_file(file, |decoder, root| decoder.main(root))
}

/// Reads a file of the tenants directory.
pub fn read_tenants(file: &Path) -> Decoded<TenantsFile> {
    decode_file(file, |decoder, root| decoder.tenants_file(root))
}

/// Reads the sets and tables of a data file of the scripts directory.
pub fn read_data(file: &Path) -> Decoded<DataFile> {
    decode_file(file, |decoder, root| decoder.data_file(root))
}

/// Reads the cases of a script from their text.
pub(crate) fn decode_cases(file: &Path, text: &str) -> Decoded<CasesFile> {
    decode_text(file, text, |decoder, root| decoder.cases_file(root))
}

/// The files of the tenants directory that `main` names, by name.
pub fn list_tenants_dir(dir: &Path) -> io::Result<Vec<PathBuf>> {
    files::list(dir)
}

fn decode_file<T: Default>(file: &Path, decode: impl FnOnce(&mut Decoder<'_>, &Node) -> T) -> Decoded<T> {
    match files::read(file) {
        Ok(text) => decode_text(file, &text, decode),
        Err(diagnostic) => Decoded { value: T::default(), found: Diagnostics::from_iter([*diagnostic]) },
    }
}

fn decode_text<T: Default>(file: &Path, text: &str, decode: impl FnOnce(&mut Decoder<'_>, &Node) -> T) -> Decoded<T> {
    let mut decoder = Decoder::new(file);
    let value = match tree::parse(text) {
        Ok(root) => decode(&mut decoder, &root),
        Err(error) => {
            decoder.error(error.at, error.message);
            T::default()
        }
    };
    let mut found = decoder.found;
    found.sort();
    found.quote(file, text);
    Decoded { value, found }
}

impl Decoder<'_> {
    fn main(&mut self, root: &Node) -> Main {
        let Some(fields) = self.root(root, &sections::MAIN) else {
            return Main::default();
        };
        if let Some(node) = self.required(&fields, "version") {
            self.version(node);
        }
        let tenants_dir = fields.find("tenantsDir").and_then(|node| {
            let value = self.path(node)?;
            Some(Located { value, at: node.at })
        });
        let scripts_dir = fields.find("scriptsDir").and_then(|node| {
            let value = self.path(node)?;
            Some(Located { value, at: node.at })
        });
        let settings = Arc::new(self.settings(&fields));
        let upstreams = self.upstreams(fields.find("upstreams"));
        let origin_sets = self.origin_sets(fields.find("originSets"));
        let policies = self.policies(fields.find("policies"));
        self.check_rules(&policies, scripts_dir.is_some());
        Main {
            settings,
            upstreams,
            origin_sets,
            policies,
            tenants: self.tenants(fields.find("tenants")).specs,
            tenants_dir,
            scripts_dir,
        }
    }

    fn tenants_file(&mut self, root: &Node) -> TenantsFile {
        let Some(fields) = self.root(root, &sections::TENANTS_FILE) else {
            return TenantsFile::default();
        };
        if let Some(node) = fields.find("version") {
            self.version(node);
        }
        let node = self.required(&fields, "tenants");
        let tenants = self.tenants(node);
        TenantsFile { tenants: tenants.specs, hosts: tenants.hosts }
    }

    fn root<'t>(&mut self, root: &'t Node, section: &'static Section) -> Option<decode::Fields<'t>> {
        if let Value::Null = root.value {
            self.error(
                At::START,
                format!("this file is empty; {} has the keys {}", section.what, section.keys.join(", ")),
            );
            return None;
        }
        self.fields(root, section)
    }

    fn version(&mut self, node: &Node) {
        if !matches!(node.value, Value::Int(VERSION)) {
            self.error(node.at, format!("this version is not known; write version: {VERSION}"));
        }
    }
}

#[cfg(test)]
mod tests;
