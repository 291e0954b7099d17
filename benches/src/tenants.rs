//! The files of a configuration with many tenants: one shared policy and a directory of tenant
//! files.
//!
//! Every tenant has its own host and ten own origins. The text is the same in every run.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// The most files in the directory, which may have at most 10,000. More tenants share files.
const FILES_MAX: u64 = 1_000;
/// The origins that each tenant adds to the policy.
const OWN_ORIGINS: u64 = 10;
const DIRECTORY: &str = "tenants.d";

const MAIN: &str = "version: 1
listeners: [{ address: \"127.0.0.1:0\" }]
upstreams: { api: { servers: [\"127.0.0.1:9\"] } }
policies:
  shared:
    allowOrigins: [\"https://console.example\"]
    allowMethods: [PUT, DELETE]
    allowHeaders: [authorization, content-type]
    allowCredentials: true
tenantsDir: tenants.d
";

/// The files of a configuration.
pub struct TenantFiles {
    directory: PathBuf,
    tenants: u64,
    per_file: u64,
}

impl TenantFiles {
    /// Writes a configuration with this many tenants into an empty directory.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn write(directory: &Path, tenants: u64) -> io::Result<Self> {
        let per_file = tenants.div_ceil(FILES_MAX).max(1);
        let files = Self { directory: directory.to_path_buf(), tenants, per_file };
        fs::create_dir(directory.join(DIRECTORY))?;
        (0..tenants.div_ceil(per_file)).try_for_each(|file| fs::write(files.path(file), files.text(file, None)))?;
        fs::write(files.main(), MAIN)?;
        Ok(files)
    }

    /// The main file.
    pub fn main(&self) -> PathBuf {
        self.directory.join("gateway.yaml")
    }

    /// The id of the tenant with this number, from 0.
    pub fn id(tenant: u64) -> String {
        format!("t{tenant}")
    }

    /// Replaces the first origin of a tenant by the origin with this number. The rename makes the
    /// change atomic.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn change(&self, tenant: u64, origin: u64) -> io::Result<()> {
        let (file, new) = (tenant / self.per_file, self.directory.join("new.tmp"));
        fs::write(&new, self.text(file, Some((tenant, origin))))?;
        fs::rename(new, self.path(file))
    }

    fn path(&self, file: u64) -> PathBuf {
        self.directory.join(DIRECTORY).join(format!("{file:04}.yaml"))
    }

    fn text(&self, file: u64, changed: Option<(u64, u64)>) -> String {
        let (first, end) = (file * self.per_file, (file + 1) * self.per_file);
        let tenants = (first..end.min(self.tenants)).map(|tenant| {
            let origin = changed.filter(|(which, _)| *which == tenant).map_or(0, |(_, origin)| origin);
            tenant_text(tenant, origin)
        });
        "tenants:\n".to_owned() + &tenants.collect::<String>()
    }
}

fn tenant_text(tenant: u64, first_origin: u64) -> String {
    let id = TenantFiles::id(tenant);
    let origins: String = (1..OWN_ORIGINS).map(|origin| format!(", \"https://site-{origin}.{id}.example\"")).collect();
    format!(
        "  - id: {id}
    hosts: [api.{id}.example]
    upstream: api
    policy: shared
    allowOrigins: [\"https://app-{first_origin}.{id}.example\"{origins}]
"
    )
}
