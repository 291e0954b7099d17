//! `crossgate status`: prints the state of a running gateway.
//!
//! The command reads `/readyz` and `/status` of the admin listener. Unknown fields are ignored and
//! missing ones have defaults, so gateways of other versions work too.

use std::io::{self, Write};

use serde::Deserialize;

use super::admin_client::{AdminArgs, AdminClient, AdminRequestError};
use super::reload::{BrokenFileSection, print_broken_files, print_diagnostics, report_failure};
use super::{GOOD, WRONG};
use crossgate_config::diagnostics::Diagnostic;

const UNSENDABLE: &str = "a cookie that browsers will not send back from the page's site: write `SameSite=None; Secure` \
     (Safari never sends it)";

/// The parts of `/status` that are printed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StatusAnswer {
    version: String,
    commit: Option<String>,
    generation: u64,
    uptime_seconds: u64,
    tenants: usize,
    connections: u64,
    reload: ReloadSection,
    upstreams: Vec<UpstreamSection>,
    unsendable_cookies: Vec<CookieSection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CookieSection {
    tenant: String,
    responses: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ReloadSection {
    last_result: String,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    broken_files: Vec<BrokenFileSection>,
    restart_needed: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct UpstreamSection {
    name: String,
    servers: Vec<ServerSection>,
    lost_names: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServerSection {
    address: String,
    backup: bool,
    state: String,
}

/// Prints the status. Exit codes: 0 if the gateway is ready and serves what is on disk, 1 if not or
/// if it does not respond, 2 for wrong usage.
///
/// # Errors
/// The output cannot be written.
pub fn run(args: &AdminArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let answers =
        AdminClient::new(args).and_then(|client| Ok((client.send("GET", "/readyz")?, client.send("GET", "/status")?)));
    let (ready, status) = match answers {
        Ok(both) => both,
        Err(failure) => return report_failure(&failure, err),
    };
    let gateway_status: StatusAnswer = match serde_json::from_slice(&status.body) {
        Ok(gateway_status) if status.status == 200 => gateway_status,
        Ok(_) | Err(_) => {
            let message = format!("the gateway responded with {}, expected its status", status.status);
            return report_failure(&AdminRequestError::Unreachable(message), err);
        }
    };
    let is_ready = ready.status == 200;
    if args.json {
        out.write_all(&status.body)?;
    } else {
        let reason = String::from_utf8_lossy(&ready.body);
        print(&gateway_status, if is_ready { None } else { Some(reason.trim()) }, out, err)?;
    }
    let serves_disk = gateway_status.reload.last_result == "success";
    Ok(if is_ready && serves_disk { GOOD } else { WRONG })
}

fn print(
    gateway_status: &StatusAnswer,
    not_ready: Option<&str>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<()> {
    let StatusAnswer { version, commit, generation, uptime_seconds, tenants, connections, reload, .. } = gateway_status;
    let commit = commit.as_ref().map(|commit| format!(" ({commit})")).unwrap_or_default();
    let mut row = |name: &str, value: &str| writeln!(out, "{name:<12} {value}");
    row("version", &format!("{version}{commit}"))?;
    row("ready", &not_ready.map_or("yes".to_owned(), |reason| format!("no: {reason}")))?;
    row("uptime", &uptime(*uptime_seconds))?;
    row("generation", &generation.to_string())?;
    row("reload", &reload.last_result)?;
    row("tenants", &tenants.to_string())?;
    row("connections", &connections.to_string())?;
    for UpstreamSection { name, servers, lost_names } in &gateway_status.upstreams {
        let kind = |server: &ServerSection| if server.backup { " backup" } else { "" };
        let states = servers.iter().map(|server| format!("{}{} {}", server.address, kind(server), server.state));
        let lost = lost_names.iter().map(|name| format!("{name} cannot be resolved"));
        row("upstream", &format!("{name}: {}", states.chain(lost).collect::<Vec<_>>().join(", ")))?;
    }
    for CookieSection { tenant, responses } in &gateway_status.unsendable_cookies {
        row("cookies", &format!("{tenant}: {responses} responses with {UNSENDABLE}"))?;
    }
    if !reload.warnings.is_empty() {
        row("warnings", &reload.warnings.len().to_string())?;
    }
    for key in &reload.restart_needed {
        row("restart", &format!("needed for the change of `{key}`"))?;
    }
    print_diagnostics(&reload.errors, err)?;
    print_broken_files(&reload.broken_files, err)
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, _, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_is_printed_in_its_largest_units() {
        let printed = [59, 60, 3_599, 3_600, 90_061].map(uptime);
        assert_eq!(printed, ["59 s", "1 min", "59 min", "1 h 0 min", "1 d 1 h"]);
    }
}
