//! The locations of a policy and an entry in the configuration, and the configuration that would
//! allow a refused method or header.
//!
//! Lists are shown as written in the configuration. Locations are those of the load that built the
//! snapshot.

use std::fmt;

use crossgate_policy::names::{FORBIDDEN_METHODS, NON_WILDCARD_REQUEST_HEADER, SAFELISTED_METHODS};
use crossgate_policy::{EntryId, Reason, RequestField, RequestKind};
use http::header::ACCESS_CONTROL_REQUEST_HEADERS;
use serde::Serialize;

use super::display::write_row;
use crate::judge::PolicyMatch;
use crate::request_head::RequestHead;
use crate::snapshot::Snapshot;
use crossgate_config::model::{GroupConfig, PolicyConfig, Text};
use crossgate_message::escape::EscapedBytes;
use crossgate_message::target::RequestTarget;

/// The limit on names shown from a list.
const SHOWN_MAX: usize = 64;
/// The longest list that is shown whole.
const WRITTEN_MAX: usize = 16;
/// The cap on a name from the request.
const NAME_LEN_MAX: usize = 64;

/// The locations of the deciding configuration, as `file:line`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WrittenLocations {
    /// The policy.
    pub policy_at: Option<String>,
    /// The entry that covers the origin.
    pub entry_at: Option<String>,
    /// The group whose terms apply.
    pub group_at: Option<String>,
}

/// The method or headers that a preflight requests and the policy does not list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnlistedParts {
    /// `method` or `header`.
    pub what: &'static str,
    /// The refused names, escaped.
    pub names: Vec<String>,
    /// The names that the policy lists.
    pub allowed: Vec<String>,
    /// The configuration that would allow them; `None` if the page has to change instead.
    pub write: Option<String>,
    /// The location for `write`.
    pub write_at: Option<String>,
    /// Further advice.
    pub hint: Option<String>,
}

/// Looks up the locations for a judged request.
pub(super) fn locations(snapshot: &Snapshot, judged: &PolicyMatch<'_>) -> WrittenLocations {
    let Some(route) = judged.route else { return WrittenLocations::default() };
    let policy_at = snapshot.written_policy(&route.policy_name).map(|policy| snapshot.location(policy.name.at));
    let entry = judged.verdict.entry.and_then(|entry| Some((entry, judged.policy()?.entry_text(entry))));
    let entry_at = entry.and_then(|(entry, text)| match entry {
        EntryId::Template(_) => policy_entry(snapshot, &route.policy_name, text),
        EntryId::Own(_) => own_entry(snapshot, &judged.tenant.id, text),
    });
    let group = written_group(snapshot.written_policy(&route.policy_name), judged);
    WrittenLocations { policy_at, entry_at, group_at: group.map(|group| snapshot.location(group.name.at)) }
}

fn policy_entry(snapshot: &Snapshot, policy: &str, text: &str) -> Option<String> {
    let policy = snapshot.written_policy(policy)?;
    let groups = || policy.groups.iter();
    let sets = policy.allow_origin_sets.iter().chain(groups().flat_map(|group| &group.allow_origin_sets));
    let sets = sets.filter_map(|name| snapshot.written_origins(&name.value)).flatten();
    let in_groups = groups().flat_map(|group| group.allow_origins.iter().chain(&group.allow_origin_regexes));
    let entries = policy.allow_origins.iter().chain(sets).chain(&policy.allow_origin_regexes).chain(in_groups);
    let name = text.strip_prefix("rule:");
    let is_named = |script: &str| name.is_some() && script.strip_suffix(".rhai") == name;
    let rule = || policy.rule.as_ref().filter(|rule| is_named(&rule.script.value));
    let entry = entries.into_iter().find(|entry| *entry.value == *text);
    entry.or_else(|| rule().map(|rule| &rule.script)).map(|entry| snapshot.location(entry.at))
}

fn own_entry(snapshot: &Snapshot, tenant: &str, text: &str) -> Option<String> {
    let (file, spec) = snapshot.written_tenant(tenant)?;
    let routes = spec.routes.iter().flat_map(|route| &route.allow_origins);
    let entry = spec.allow_origins.iter().chain(routes).find(|own| *own.origin.value == *text)?;
    Some(format!("{}:{}", file.display(), entry.origin.at.line))
}

/// The group whose terms a verdict gives, as configured.
fn written_group<'p>(policy: Option<&'p PolicyConfig>, judged: &PolicyMatch<'_>) -> Option<&'p GroupConfig> {
    policy?.groups.get(judged.verdict.group.index()?)
}

/// The lists that a preflight was compared with.
struct ComparedLists<'p> {
    /// The policy or the group that has, or would have, the list.
    name: &'p Text,
    list: &'p [Text],
    allows_credentials: bool,
}

impl<'p> ComparedLists<'p> {
    /// A list of the verdict's group, or of the policy where the group has none.
    fn of(
        policy: &'p PolicyConfig,
        group: Option<&'p GroupConfig>,
        of_group: impl Fn(&'p GroupConfig) -> Option<&'p Vec<Text>>,
        of_policy: &'p [Text],
    ) -> Self {
        let own = group.and_then(|group| Some((&group.name, of_group(group)?.as_slice())));
        let (name, list) = own.unwrap_or((&policy.name, of_policy));
        let credentials = group.and_then(|group| group.allow_credentials).unwrap_or(policy.allow_credentials);
        ComparedLists { name, list, allows_credentials: credentials.value }
    }
}

/// The refused method or headers of a well-formed preflight with an allowed origin.
pub(super) fn refused(snapshot: &Snapshot, judged: &PolicyMatch<'_>, head: &RequestHead<'_>) -> Option<UnlistedParts> {
    let policy = snapshot.written_policy(&judged.route?.policy_name)?;
    let group = written_group(Some(policy), judged);
    let methods = || ComparedLists::of(policy, group, |group| group.allow_methods.as_ref(), &policy.allow_methods);
    let headers = || ComparedLists::of(policy, group, |group| group.allow_headers.as_ref(), &policy.allow_headers);
    match judged.verdict.reason {
        Reason::Method => refused_method(snapshot, &methods(), head),
        Reason::Header => refused_headers(snapshot, &headers(), head),
        Reason::Exact
        | Reason::Wildcard
        | Reason::Regex
        | Reason::Rule
        | Reason::Any
        | Reason::SameOrigin
        | Reason::NonCors
        | Reason::Navigation
        | Reason::NoMatch
        | Reason::NullOrigin
        | Reason::MalformedOrigin
        | Reason::RuleDeny
        | Reason::RuleError
        | Reason::CrossSite
        | Reason::UnknownHost
        | Reason::UnknownRoute => None,
    }
}

fn refused_method(snapshot: &Snapshot, compared: &ComparedLists<'_>, head: &RequestHead<'_>) -> Option<UnlistedParts> {
    let RequestField::One(requested) = head.known.requested_method else { return None };
    let method = std::str::from_utf8(requested).ok().filter(|method| is_token(method));
    let listed = || compared.list.iter().map(|method| &*method.value);
    let in_case =
        method.and_then(|method| listed().chain(SAFELISTED_METHODS).find(|known| known.eq_ignore_ascii_case(method)));
    let (write, hint) = match (method, in_case) {
        (None, _) => (None, None),
        (Some(method), Some(known)) => {
            let hint = format!(
                "methods are case-sensitive, and browsers send `{method}` as it is: write `{known}` in the page"
            );
            (None, Some(hint))
        }
        // Forbidden methods of Fetch (<https://fetch.spec.whatwg.org/#forbidden-method>).
        (Some(method), None) if FORBIDDEN_METHODS.iter().any(|known| known.eq_ignore_ascii_case(method)) => {
            (None, Some("browsers never send this method".to_owned()))
        }
        // Fetch upper-cases DELETE, GET, HEAD, OPTIONS, POST and PUT only, so pages often send
        // `patch` by mistake (<https://fetch.spec.whatwg.org/#concept-method-normalize>).
        (Some(method), None) if method.eq_ignore_ascii_case("PATCH") && method != "PATCH" => {
            let hint = format!(
                "methods are case-sensitive, and browsers send `{method}` as it is: write `PATCH` in the page too"
            );
            (Some(render_list_with("allowMethods", compared.list, &["PATCH"])), Some(hint))
        }
        (Some(method), None) => {
            let is_lower = method.bytes().all(|byte| !byte.is_ascii_uppercase());
            let hint = "methods are case-sensitive, and browsers send most as the page writes them: upper case may be intended";
            (Some(render_list_with("allowMethods", compared.list, &[method])), is_lower.then(|| hint.to_owned()))
        }
    };
    let allowed = listed().chain(SAFELISTED_METHODS.into_iter().filter(|safe| listed().all(|method| method != *safe)));
    Some(UnlistedParts {
        what: "method",
        names: vec![escaped(requested)],
        allowed: allowed.take(SHOWN_MAX).map(str::to_owned).collect(),
        write_at: write.is_some().then(|| list_location(snapshot, compared)),
        write,
        hint,
    })
}

fn refused_headers(snapshot: &Snapshot, compared: &ComparedLists<'_>, head: &RequestHead<'_>) -> Option<UnlistedParts> {
    let lines = head.headers.lines(&ACCESS_CONTROL_REQUEST_HEADERS);
    let requested = lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let requested =
        requested.filter(|name| !name.is_empty()).map(|name| String::from_utf8_lossy(name).to_ascii_lowercase());
    let listed = || compared.list.iter().map(|name| &*name.value);
    let has_star = listed().any(|name| name == "*");
    // `*` does not cover `authorization`
    // (<https://fetch.spec.whatwg.org/#cors-non-wildcard-request-header-name>).
    let is_covered = |name: &str| has_star && (compared.allows_credentials || name != NON_WILDCARD_REQUEST_HEADER);
    let is_refused = |name: &String| !is_covered(name) && !listed().any(|known| known.eq_ignore_ascii_case(name));
    let mut names: Vec<String> = requested.filter(is_refused).collect();
    names.sort();
    names.dedup();
    // Too many names, or an invalid one: `cause` explains it.
    if names.is_empty() || names.len() > SHOWN_MAX || !names.iter().all(|name| is_token(name)) {
        return None;
    }
    let more: Vec<&str> = names.iter().map(String::as_str).collect();
    let hint = has_star.then(|| "`*` does not cover `authorization`, which has to be listed by name".to_owned());
    Some(UnlistedParts {
        what: "header",
        write: Some(render_list_with("allowHeaders", compared.list, &more)),
        write_at: Some(list_location(snapshot, compared)),
        names: names.iter().map(|name| escaped(name.as_bytes())).collect(),
        allowed: listed().take(SHOWN_MAX).map(str::to_owned).collect(),
        hint,
    })
}

/// The location of a list, or of its policy or group if the list is empty.
fn list_location(snapshot: &Snapshot, compared: &ComparedLists<'_>) -> String {
    snapshot.location(compared.list.first().map_or(compared.name.at, |first| first.at))
}

/// The complete list to write, or the additions to a long list.
fn render_list_with(key: &str, list: &[Text], more: &[&str]) -> String {
    if list.len() + more.len() > WRITTEN_MAX {
        return format!("{} as well, under {key}", more.join(", "));
    }
    let names = list.iter().map(|text| &*text.value).chain(more.iter().copied());
    let quoted = |name: &str| {
        if name.starts_with(|c: char| c.is_ascii_alphabetic()) { name.to_owned() } else { format!("\"{name}\"") }
    };
    format!("{key}: [{}]", names.map(quoted).collect::<Vec<_>>().join(", "))
}

/// Checks for a token (RFC 9110, section 5.6.2).
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn escaped(name: &[u8]) -> String {
    EscapedBytes::<NAME_LEN_MAX>(name).to_string()
}

/// Notes on longer routes that cover the path but not the method.
pub(super) fn passed_over_notes(judged: &PolicyMatch<'_>, head: &RequestHead<'_>) -> Vec<String> {
    let Ok(target) = RequestTarget::parse(head.target, head.method) else { return Vec::new() };
    let method = match (judged.verdict.kind, head.known.requested_method) {
        (RequestKind::Preflight, RequestField::One(method)) => method,
        _ => head.method,
    };
    let path = target.path_for_matching();
    let below = judged.tenant.routes().iter().filter(|route| route.covers(path));
    let passed_over_routes = below.take_while(|route| !route.accepts(method));
    let notes = passed_over_routes.map(|route| {
        let methods: Vec<&str> = route.methods().collect();
        format!(
            "the route {} matches only the methods {}, not {}: add the method there if it should match",
            route.path,
            methods.join(", "),
            escaped(method)
        )
    });
    notes.collect()
}

impl fmt::Display for UnlistedParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_row(f, "refused", Some(&format!("{} {}", self.what, self.names.join(", "))))?;
        let allowed = if self.allowed.is_empty() { "none".to_owned() } else { self.allowed.join(", ") };
        write_row(f, "listed", Some(&allowed))?;
        if let (Some(write), Some(at)) = (&self.write, &self.write_at) {
            write_row(f, "write", Some(&format!("{write} ({at})")))?;
        }
        write_row(f, "note", self.hint.as_deref())
    }
}
