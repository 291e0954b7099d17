//! Probes a rule with origins that it cannot list. A rule that allows one of them allows every
//! site.
//!
//! With credentials, every site would get the user's session, so such a rule is refused when it is
//! loaded. The names are random for each load, so that no script can contain them. The probes also
//! use the literals of the script: a name joined to a literal finds `ends_with("x.dev")`, and
//! fields with these values find a rule that checks a field and not the origin. The probes cannot
//! find every hole.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use http::{HeaderMap, HeaderValue};

use super::input::RequestPart;
use super::literals::SourceLiterals;
use super::{Rule, RuleAnswer, RuleInput, RuleRun};
use crate::names::is_token;
use crate::origin::extension::ExtensionScheme;
use crate::origin::host::is_loopback;
use crate::origin::{parse, suffix};
use crate::verdict::RequestKind;

/// The most probes of one load. They take some milliseconds for most rules.
const PROBES_MAX: usize = 1_024;

/// The most probes for one tenant. There may be a hundred thousand tenants.
const PROBES_MAX_TENANT: usize = 96;

/// The most literals that are combined in pairs.
const PAIRED_MAX: usize = 8;

/// The most literals with which fields are filled.
const FILLS_MAX: usize = 16;

/// The result of probing a rule with unlisted origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnlistedOriginReport {
    /// The description of a request that was allowed with credentials, for a message.
    pub(crate) admitted: Option<String>,
    /// The description of such a request from the origin of an extension.
    pub(crate) admitted_extension: Option<String>,
    /// Whether the rule read the tenant, so that its answer may differ between tenants.
    pub(crate) reads_tenant: bool,
}

/// The value of the fields in a probe.
#[derive(Clone, Copy)]
enum FieldFill<'a> {
    /// The fields are absent, and the path is `/`.
    Nothing,
    /// Each field has this value, if the value is valid for it.
    Text(&'a str),
}

/// The origin of a probe, and its form in messages, which does not contain the random name.
#[derive(Clone)]
struct OriginProbe {
    origin: String,
    shown: String,
}

/// Whether an answer with this group, an index of [`Rule::groups`], has credentials.
pub(crate) type AnsweredCredentials<'a> = &'a dyn Fn(Option<u8>) -> bool;

impl Rule {
    /// Probes the rule with random origins, as preflights and as actual requests.
    pub(crate) fn probe_unlisted_origins(&self, has_credentials: AnsweredCredentials<'_>) -> UnlistedOriginReport {
        self.probe_origins("", PROBES_MAX, has_credentials)
    }

    /// Probes the rule on behalf of one tenant, with fewer probes.
    pub(crate) fn probe_unlisted_origins_of_tenant(
        &self,
        tenant: &str,
        has_credentials: AnsweredCredentials<'_>,
    ) -> UnlistedOriginReport {
        self.probe_origins(tenant, PROBES_MAX_TENANT, has_credentials)
    }

    fn probe_origins(
        &self,
        tenant: &str,
        probes_max: usize,
        has_credentials: AnsweredCredentials<'_>,
    ) -> UnlistedOriginReport {
        let name = format!("e{:08x}", RandomState::new().hash_one(tenant) >> 32);
        let literals = SourceLiterals::of(self.script.source());
        let mut report = UnlistedOriginReport { admitted: None, admitted_extension: None, reads_tenant: false };
        let fills = self.fills(&name, &literals);
        for (probe, fill) in probes(&name, &literals, &fills).take(probes_max) {
            for kind in [RequestKind::Preflight, RequestKind::Actual] {
                let Some(run) = self.probe_origin(&probe.origin, kind, tenant, fill) else { continue };
                report.reads_tenant |= run.reads.has_tenant();
                if let Ok(RuleAnswer::Allow { group, terms }) = run.answer
                    && !terms.without_credentials
                    && has_credentials(group)
                {
                    let is_extension = ExtensionScheme::of_origin(&probe.origin).is_some();
                    let admitted = if is_extension { &mut report.admitted_extension } else { &mut report.admitted };
                    admitted.get_or_insert_with(|| self.shown(&probe, fill).replace(&name, "any-name"));
                }
            }
            if report.admitted.is_some() {
                break;
            }
        }
        report
    }

    /// Returns the values for the fields. Empty if the rule reads no field that a client controls.
    fn fills<'t>(&self, name: &'t str, literals: &'t SourceLiterals) -> Vec<&'t str> {
        let fields = [
            RequestPart::Route,
            RequestPart::Method,
            RequestPart::Path,
            RequestPart::RequestedHeaders,
            RequestPart::ApiHost,
        ];
        let reads_fields = fields.iter().any(|part| self.wanted & part.bit() != 0);
        if !reads_fields && self.headers.is_empty() && self.query.is_empty() {
            return Vec::new();
        }
        std::iter::once(name).chain(literals.texts.iter().take(FILLS_MAX).map(|text| &**text)).collect()
    }

    fn shown(&self, probe: &OriginProbe, fill: FieldFill<'_>) -> String {
        let reads_fields = !self.headers.is_empty() || !self.query.is_empty();
        match fill {
            FieldFill::Nothing => format!("`{}`", probe.shown),
            FieldFill::Text(text) if reads_fields => {
                format!("`{}` with `{text}` in its header or query", probe.shown)
            }
            FieldFill::Text(text) => format!("`{}` with `{text}` in its path, method or host", probe.shown),
        }
    }

    fn probe_origin(&self, origin: &str, kind: RequestKind, tenant: &str, fill: FieldFill<'_>) -> Option<RuleRun> {
        let parsed = parse(origin.as_bytes()).ok()?;
        let text = |bytes| str::from_utf8(bytes).unwrap_or_default();
        let value = match fill {
            FieldFill::Nothing => None,
            FieldFill::Text(text) => Some(text),
        };
        let path = value.filter(|value| value.starts_with('/')).unwrap_or("/");
        let token = value.filter(|value| is_token(value.as_bytes()));
        let method = token.filter(|token| token.bytes().all(|byte| byte.is_ascii_uppercase())).unwrap_or("GET");
        let requested: Vec<&[u8]> = token.map(str::as_bytes).into_iter().collect();
        Some(self.run(
            &RuleInput {
                origin,
                scheme: text(parsed.scheme),
                host: text(parsed.host),
                port: parsed.port,
                kind,
                tenant,
                route: path,
                method: method.as_bytes(),
                path,
                query: &self.filled_query(value),
                api_host: token.unwrap_or("api.invalid"),
                requested_headers: &requested,
                headers: &self.filled_headers(value),
            },
            0,
            || false,
        ))
    }

    fn filled_headers(&self, value: Option<&str>) -> HeaderMap {
        let value = value.and_then(|value| HeaderValue::from_str(value).ok());
        value.iter().flat_map(|value| self.headers.iter().map(move |name| (name.clone(), value.clone()))).collect()
    }

    fn filled_query(&self, value: Option<&str>) -> String {
        let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        let pairs = value.iter().flat_map(|value| self.query.iter().map(move |key| (key, escaped(value))));
        pairs.map(|(key, value)| format!("{}={value}", escaped(key))).collect::<Vec<_>>().join("&")
    }
}

/// Returns the probes. Those that find the common mistakes come first.
fn probes<'a>(
    name: &'a str,
    literals: &'a SourceLiterals,
    fills: &[&'a str],
) -> impl Iterator<Item = (OriginProbe, FieldFill<'a>)> {
    let domains: HashSet<&str> = literals.texts.iter().filter_map(|text| registrable(host_part(text))).collect();
    // The owner of a domain that the script names controls its subdomains, and hosts under
    // `localhost` are loopback.
    let is_unlisted = |probe: &OriginProbe| {
        let host = host_part(&probe.origin);
        let is_foreign = registrable(host).is_some_and(|domain| !domains.contains(domain));
        let is_web = is_foreign && !is_loopback(host.as_bytes()) && parse(probe.origin.as_bytes()).is_ok();
        is_web || ExtensionScheme::of_origin(&probe.origin).is_some()
    };
    let joined = literals.texts.iter().flat_map(|text| joined(name, text));
    let origins = plain(name).chain(ports(name, literals)).chain(joined).chain(paired(name, literals));
    let mut all: Vec<(OriginProbe, FieldFill<'a>)> =
        origins.filter(is_unlisted).map(|probe| (probe, FieldFill::Nothing)).collect();
    let unlisted: Vec<OriginProbe> = all.iter().map(|(probe, _)| probe.clone()).collect();
    // First one host without a literal of the script, with every value; then the hosts with
    // literals.
    for origins in [unlisted.get(..1), unlisted.get(PLAIN..)] {
        let filled = fills
            .iter()
            .flat_map(|text| origins.unwrap_or_default().iter().map(|probe| (probe.clone(), FieldFill::Text(text))));
        let room = PROBES_MAX.saturating_sub(all.len());
        all.extend(filled.take(room));
    }
    all.into_iter()
}

/// The number of origins that are probed for every script.
const PLAIN: usize = 10;

/// Returns origins without a literal of the script. Plain `http` is not probed, since the policy
/// refuses it with credentials in any case.
fn plain(name: &str) -> impl Iterator<Item = OriginProbe> {
    let origins: [String; PLAIN] = [
        format!("https://{name}.example"),
        format!("https://{name}.com"),
        format!("https://{name}.github.io"),
        format!("https://{name}.vercel.app"),
        format!("https://www.{name}.example"),
        format!("https://{name}.example:8443"),
        format!("chrome-extension://{name}"),
        format!("moz-extension://{name}"),
        format!("safari-web-extension://{name}"),
        format!("vscode-webview://{name}"),
    ];
    origins.into_iter().map(|origin| OriginProbe { shown: origin.clone(), origin })
}

/// Returns an origin for each port that the script names.
fn ports<'a>(name: &'a str, literals: &'a SourceLiterals) -> impl Iterator<Item = OriginProbe> + 'a {
    literals.ports.iter().map(move |port| OriginProbe::new(name, &format!("#.example:{port}")))
}

/// Returns origins with the name before, after and around a literal. `#` stands for the name.
fn joined<'a>(name: &'a str, text: &'a str) -> impl Iterator<Item = OriginProbe> + 'a {
    let (host, port) = host_and_port(text);
    let host = host.replace('*', "#").replace('?', "a").to_ascii_lowercase();
    let shapes = match (host.contains('#'), host.contains('.')) {
        (true, true) => vec![format!("{host}{port}")],
        (true, false) => vec![format!("{host}.example"), host],
        (false, true) => {
            vec![format!("#{host}{port}"), format!("{host}.#.example{port}"), format!("{host}#.example{port}")]
        }
        (false, false) => {
            let shapes = ["#@.example", "@.#.example", "@#.example", "#.@"];
            shapes.iter().map(|shape| shape.replace('@', &host)).collect()
        }
    };
    shapes.into_iter().map(move |shape| OriginProbe::new(name, &shape))
}

/// Returns origins with the name between two literals, such as `pr-` and `.x.dev`.
fn paired<'a>(name: &'a str, literals: &'a SourceLiterals) -> impl Iterator<Item = OriginProbe> + 'a {
    let hosts =
        || literals.texts.iter().map(|text| host_part(text)).filter(|host| !host.contains('*')).take(PAIRED_MAX);
    hosts().flat_map(move |one| hosts().map(move |other| OriginProbe::new(name, &format!("{one}#{other}"))))
}

impl OriginProbe {
    fn new(name: &str, shape: &str) -> Self {
        Self {
            origin: format!("https://{}", shape.replace('#', name)),
            shown: format!("https://{}", shape.replace('#', "evil")),
        }
    }
}

/// Splits a literal that is a host, an origin, or the end of either, into the host and the port
/// with its colon.
fn host_and_port(text: &str) -> (&str, &str) {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    match rest.rfind(':').and_then(|at| rest.split_at_checked(at)) {
        Some((host, port)) => (host, port),
        None => (rest, ""),
    }
}

fn host_part(text: &str) -> &str {
    host_and_port(text).0
}

/// Returns the registrable domain of a host.
fn registrable(host: &str) -> Option<&str> {
    suffix::registrable_domain(host.trim_start_matches(['*', '.']))
}
