//! The text of an origin regex, in a policy with credentials.

use crossgate_policy::{DangerousSwitches, Policy, PolicySpec, Template};

use crate::policies::{compile, decide, owned};

/// The runs of literal text in an expression that are combined with foreign names.
const RUNS_MAX: usize = 8;

/// Every expression is refused, with an origin that it would allow, or it allows no foreign origin.
///
/// # Panics
/// If this does not hold.
pub fn regex(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let name = name(text);
    match Template::compile(&spec(text, DangerousSwitches::default())) {
        Ok(_) => {
            let policy = compile(&spec(text, DangerousSwitches::default())).expect("a valid policy");
            let foreign = foreign_origins(text, &name).find(|origin| allows(&policy, origin));
            assert_eq!(foreign, None, "{text}");
        }
        Err(problems) => {
            let all = DangerousSwitches {
                allow_any_origin: true,
                allow_insecure_origins: true,
                ..DangerousSwitches::default()
            };
            let sample = problems.iter().find_map(|problem| problem.message.rsplit_once("such as `"));
            let sample = sample.and_then(|(_, rest)| rest.split('`').next()).filter(|sample| !sample.starts_with(".."));
            let policy = compile(&spec(text, all));
            sample.zip(policy).into_iter().for_each(|(origin, policy)| assert!(allows(&policy, origin), "{origin}"));
        }
    }
}

fn spec(text: &str, dangerously: DangerousSwitches) -> PolicySpec {
    PolicySpec { allow_origin_regexes: owned(&[text]), allow_credentials: true, dangerously, ..PolicySpec::default() }
}

fn allows(policy: &Policy, origin: &str) -> bool {
    decide(policy, origin.as_bytes()).is_allowed()
}

/// A name from a hash of the expression, so that no expression contains its own name.
fn name(text: &str) -> String {
    let mut hash = text.bytes().fold(1, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut letter = || {
        hash = hash.rotate_left(29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        char::from(b'a' + (hash % 26) as u8)
    };
    (0..20).map(|_| letter()).collect()
}

/// Foreign origins that combine that name with the literal text of the expression.
fn foreign_origins(text: &str, name: &str) -> impl Iterator<Item = String> {
    let literal = text.replace("\\.", ".").replace("[.]", ".").replace("\\-", "-");
    let is_host = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    let runs: Vec<&str> = literal.split(|c| !is_host(c)).filter(|run| !run.is_empty()).take(RUNS_MAX).collect();
    let mut origins = Vec::new();
    for one in &runs {
        for other in runs.iter().chain(&[".com", ".vercel.app"]) {
            let hosts = [
                format!("{name}{other}"),
                format!("{one}{name}{other}"),
                format!("{one}.{name}{other}"),
                format!("{one}{other}{name}.com"),
                format!("{one}{other}.{name}.com"),
            ];
            for host in hosts.iter().filter(|host| is_foreign(host, name)) {
                origins.extend([
                    format!("https://{host}"),
                    format!("https://{host}:8443"),
                    format!("chrome-extension://{host}"),
                ]);
            }
        }
    }
    origins.into_iter()
}

/// Whether the name is part of the registrable domain, and not only a label below it. Hosts that
/// end in a digit are addresses or names of a local network.
fn is_foreign(host: &str, name: &str) -> bool {
    let is_local = host.ends_with("localhost") || host.ends_with(|c: char| c.is_ascii_digit());
    let domain = psl::domain(host.as_bytes()).map_or(host.as_bytes(), |domain| domain.as_bytes());
    !is_local && String::from_utf8_lossy(domain).contains(name)
}
