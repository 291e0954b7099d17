//! Warnings about secret files that other users of the machine can read or change.
//!
//! Only file system permissions are checked. The group may read, because some systems have a group
//! for certificate keys (`ssl-cert`). A directory that others cannot enter protects its files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crossgate_config::diagnostics::{Diagnostic, Diagnostics};
use crossgate_config::model::{Located, MainFile};
use crossgate_config::warnings::WarningCode;

const OTHERS_MAY_READ: u32 = 0o004;
const OTHERS_MAY_WRITE: u32 = 0o002;
const GROUP_MAY_WRITE: u32 = 0o020;
const OTHERS_MAY_ENTER: u32 = 0o001;

/// Warns about every key and token file of the main file that other users can access.
pub(super) fn warn_open(main: &MainFile, file: &Path, found: &mut Diagnostics) {
    for secret in list_secrets(main) {
        if let Some(exposure) = find_exposure(&secret.value) {
            let path = secret.value.display();
            let message = format!("{path} can be {exposure}: restrict it to the gateway, for example with chmod 600");
            found.push(Diagnostic::warning(WarningCode::OpenSecret, file, secret.at, message));
        }
    }
}

/// Lists keys of listeners, keys of client certificates and token files of the admin listener.
fn list_secrets(main: &MainFile) -> impl Iterator<Item = &Located<PathBuf>> {
    let tls = main.settings.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    let keys = tls.flat_map(|tls| &tls.certificates).map(|certificate| &certificate.key);
    let upstreams =
        main.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref()?.value.client_certificate.as_ref());
    let tokens = main.settings.admin.iter().flat_map(|admin| admin.token_file.iter().chain(&admin.read_token_file));
    keys.chain(upstreams.map(|own| &own.key)).chain(tokens)
}

/// Describes the access that others have to a file. `None` for a file that cannot be inspected.
fn find_exposure(path: &Path) -> Option<&'static str> {
    // Kubernetes mounts secrets as links to files elsewhere.
    let path = path.canonicalize().ok()?;
    let mode = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?.mode();
    let exposure = match mode {
        _ if mode & OTHERS_MAY_WRITE != 0 => "changed by every user of this machine",
        _ if mode & OTHERS_MAY_READ != 0 => "read by every user of this machine",
        _ if mode & GROUP_MAY_WRITE != 0 => return Some("changed by its group"),
        _ => return None,
    };
    let can_enter = |dir: &Path| fs::metadata(dir).is_ok_and(|meta| meta.mode() & OTHERS_MAY_ENTER != 0);
    path.ancestors().skip(1).all(can_enter).then_some(exposure)
}
