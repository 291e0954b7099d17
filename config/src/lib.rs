//! Configuration: from YAML files to plain values, with a location for every mistake.
//!
//! `files` reads a file, `tree` parses it, and `decode` with the modules of the sections turns the
//! tree into the values of `model`. All mistakes become `diagnostics`. The structs of `schema`
//! declare the keys. The gateway compiles the values, resolves names, and adds its findings to the
//! same list, so that one run reports everything. There are no environment variables, includes or
//! defaults files.

pub mod diagnostics;
pub mod model;
pub mod schema;
pub mod warnings;

mod address_ranges;
mod decode;
pub mod files;
mod header_edits;
mod hints;
mod keys;
mod listener_tls;
mod node;
pub mod own_sockets;
mod policies;
mod route_actions;
mod route_matches;
mod rules;
mod scalars;
mod sections;
mod servers;
mod settings;
mod syntax;
mod tenants;
mod tree;
mod upstream_tls;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use decode::Decoder;
pub use decode::{find_similar, show_text};
use diagnostics::Diagnostics;
pub use model::{Limits, LogLevel, Mode, PreflightFailures, Settings, UnmatchedRequests};
use model::{Located, MainFile, ServerAddress, TenantSpec, UpstreamSpec};
use node::{Position, YamlNode, YamlValue};
pub use policies::FORWARD_UNDER_PROTECTION;
pub use rules::{CaseSpec, CasesFile, DataFile, ExpectedAnswer};
pub use sections::ReferenceKind;
use sections::Section;

use crossgate_message::host::HostPattern;

/// The only supported version of the format.
const VERSION: i128 = 1;

/// The value of a file, as far as it could be decoded, and all findings.
#[derive(Debug, Default)]
pub struct DecodedFile<T> {
    pub value: T,
    pub found: Diagnostics,
}

/// A file of the tenants directory.
#[derive(Debug, Default)]
pub struct TenantsFile {
    pub tenants: Vec<Arc<TenantSpec>>,
    /// The hosts of all tenants, including tenants that could not be decoded.
    pub hosts: Vec<HostPattern>,
}

pub fn read_main(file: &Path) -> DecodedFile<MainFile> {
    decode_file(file, |decoder, root| decoder.main(root))
}

/// Decodes the text of a main file. Its paths are relative to the directory of `file`.
pub fn decode_main(file: &Path, text: &str) -> DecodedFile<MainFile> {
    decode_text(file, text, |decoder, root| decoder.main(root))
}

/// Reads the text of a main file from an open input, with the size limit of a file.
///
/// # Errors
/// If the input cannot be read, is too long or is not UTF-8.
pub fn read_text(input: &mut dyn io::Read) -> io::Result<String> {
    files::read_text(input)
}

pub fn read_tenants(file: &Path) -> DecodedFile<TenantsFile> {
    decode_file(file, |decoder, root| decoder.tenants_file(root))
}

/// Reads a data file of the scripts directory.
pub fn read_data(file: &Path) -> DecodedFile<DataFile> {
    decode_file(file, |decoder, root| decoder.data_file(root))
}

/// Decodes the cases of a script.
pub fn decode_cases(file: &Path, text: &str) -> DecodedFile<CasesFile> {
    decode_text(file, text, |decoder, root| decoder.cases_file(root))
}

/// The YAML files of the tenants directory, sorted by name.
pub fn list_tenants_dir(dir: &Path) -> io::Result<Vec<PathBuf>> {
    files::list(dir)
}

fn decode_file<T: Default>(file: &Path, decode: impl FnOnce(&mut Decoder<'_>, &YamlNode) -> T) -> DecodedFile<T> {
    match files::read(file) {
        Ok(text) => decode_text(file, &text, decode),
        Err(diagnostic) => DecodedFile { value: T::default(), found: Diagnostics::from_iter([*diagnostic]) },
    }
}

fn decode_text<T: Default>(
    file: &Path,
    text: &str,
    decode: impl FnOnce(&mut Decoder<'_>, &YamlNode) -> T,
) -> DecodedFile<T> {
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
    DecodedFile { value, found }
}

impl Decoder<'_> {
    fn main(&mut self, root: &YamlNode) -> MainFile {
        let Some(fields) = self.root(root, &sections::MAIN) else {
            return MainFile::default();
        };
        if is_tenants_file(&fields) {
            self.error(
                Position::START,
                "this is a tenants file; check the main file, which includes this file by tenantsDir: \
                 `crossgate check crossgate.yaml`",
            );
            return MainFile::default();
        }
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
        self.check_own_sockets(&settings, &upstreams);
        let origin_sets = self.origin_sets(fields.find("originSets"));
        let policies = self.policies(fields.find("policies"));
        self.body_files = Some(Vec::new());
        let tenants = self.tenants(fields.find("tenants")).specs;
        self.check_rules(&policies, scripts_dir.is_some());
        MainFile {
            settings,
            upstreams,
            origin_sets,
            policies,
            tenants,
            body_files: self.body_files.take().unwrap_or_default(),
            tenants_dir,
            scripts_dir,
        }
    }

    /// Reports servers that are listeners of this gateway. A request to a listener would loop until
    /// no connection is left, and a request to the admin listener could reload the configuration.
    fn check_own_sockets(&mut self, settings: &Settings, upstreams: &[UpstreamSpec]) {
        for upstream in upstreams {
            for server in &upstream.servers {
                let address = match &server.address {
                    ServerAddress::Address(address) => *address,
                    // The name `localhost` always stands for loopback (RFC 6761, section 6.3).
                    ServerAddress::Name { name, port } if &**name == "localhost" => (Ipv4Addr::LOCALHOST, *port).into(),
                    ServerAddress::Name { .. } => continue,
                };
                let is_own = |listener: SocketAddr| listener.port() != 0 && own_sockets::reaches(listener, address);
                let name = show_text(&upstream.name.value);
                let admin = settings.admin.as_ref().filter(|admin| is_own(admin.address));
                if admin.is_some() {
                    let server = &server.address;
                    self.error(
                        upstream.name.at,
                        format!(
                            "server {server} of {name} is this gateway's admin listener; write the address of the API"
                        ),
                    );
                } else if settings.listeners.iter().any(|listener| is_own(listener.address)) {
                    let server = &server.address;
                    self.error(
                        upstream.name.at,
                        format!("server {server} of {name} is a listener of this gateway, so requests would loop; write the address of the API"),
                    );
                }
            }
        }
    }

    fn tenants_file(&mut self, root: &YamlNode) -> TenantsFile {
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

    fn root<'t>(&mut self, root: &'t YamlNode, section: &'static Section) -> Option<decode::SectionFields<'t>> {
        if let YamlValue::Null = root.value {
            self.error(
                Position::START,
                format!("empty file; {} has the keys {}", section.what, section.keys().join(", ")),
            );
            return None;
        }
        self.fields(root, section)
    }

    fn version(&mut self, node: &YamlNode) {
        if !matches!(node.value, YamlValue::Int(VERSION)) {
            let quotes = hints::correct_number(&node.value)
                .filter(|_| matches!(&node.value, YamlValue::Text(text) if **text == *"1"));
            let hint = quotes.map_or_else(|| format!("write version: {VERSION}"), str::to_owned);
            self.error(node.at, format!("unsupported version; {hint}"));
        }
    }
}

/// Whether a main file has only the keys of a tenants file.
fn is_tenants_file(fields: &decode::SectionFields<'_>) -> bool {
    let tenants_keys = sections::TENANTS_FILE.keys();
    let others = sections::MAIN.keys().iter().filter(|key| !tenants_keys.contains(key));
    fields.find("tenants").is_some() && others.into_iter().all(|key| fields.find(key).is_none())
}

#[cfg(test)]
mod tests;
