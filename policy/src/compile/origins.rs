//! Compiles configured origins, origin sets and regexes to frozen sets.
//!
//! Each entry is parsed, checked against the policy's restrictions, and compared with the other
//! entries. Duplicates and entries that a wider entry covers get a warning.

use std::collections::{HashMap, HashSet};

use crate::origin::extension::ExtensionScheme;
use crate::origin::hash::HashSeed;
use crate::origin::parse::parse;
use crate::origin::pattern::{OriginEntry, OriginPattern, parse_entry, quoted_message};
use crate::origin::regexes::{OriginRegex, OriginRegexes, REGEXES_MAX};
use crate::origin::risk::EntryRestrictions;
use crate::origin::set::{self, CompiledOrigins, PATTERNS_PER_HOST_MAX};
use crate::policy::Template;
use crate::spec::{CompileFindings, DangerousSwitches, PolicySpec, SpecLocation};

type Placed<'a> = (SpecLocation, OriginEntry<'a>);

/// Compiles a policy's origins and its origin sets into one set.
pub(super) fn compile_spec(
    spec: &PolicySpec,
    restrictions: &EntryRestrictions,
    seed: &HashSeed,
    findings: &mut CompileFindings,
) -> CompiledOrigins {
    let listed = (0..).map(SpecLocation::AllowOrigins).zip(&spec.allow_origins);
    let in_sets = spec.origin_sets.iter().enumerate().flat_map(|(set, origins)| {
        origins.origins.iter().enumerate().map(move |(index, text)| (SpecLocation::OriginSet { set, index }, text))
    });
    let entries = read(listed.chain(in_sets), restrictions, findings);
    let set = build(seed, &entries, findings);
    let covering = CoveringSets { seed, own: &set, shared: None };
    entries.iter().for_each(|(place, entry)| covering.warn_if_covered(*place, entry, findings));
    warn_about_switches(spec, &set, findings);
    set
}

/// Compiles a tenant's own origins.
pub(super) fn compile_own(
    template: &Template,
    own_origins: &[String],
    findings: &mut CompileFindings,
) -> CompiledOrigins {
    let entries = read((0..).map(SpecLocation::AllowOrigins).zip(own_origins), &template.restrictions, findings);
    let own = build(&template.seed, &entries, findings);
    let covering = CoveringSets { seed: &template.seed, own: &own, shared: Some(&template.set) };
    entries.iter().for_each(|(place, entry)| covering.warn_if_covered(*place, entry, findings));
    warn_next_to_any(template, &own, own_origins, findings);
    own
}

/// Warns once if `*` makes other entries superfluous, in the template or among the tenant's
/// origins.
fn warn_next_to_any(
    template: &Template,
    own: &CompiledOrigins,
    own_origins: &[String],
    findings: &mut CompileFindings,
) {
    let others = template.set.len() + template.regexes.len() + own.len() - usize::from(own.any().is_some());
    match own_origins.iter().position(|origin| origin == "*") {
        None if template.set.any().is_some() && !own_origins.is_empty() => findings.warn(
            SpecLocation::AllowOrigins(0),
            "origins next to `*` have no effect, since the policy allows every origin already, expected a policy without `*`",
        ),
        Some(star) if others > 0 => findings.warn(
            SpecLocation::AllowOrigins(star),
            "`*` allows every origin, so those next to it have no effect, expected `*` in a policy of its own",
        ),
        None | Some(_) => {}
    }
}

/// Compiles a policy's regexes.
pub(super) fn compile_regexes(spec: &PolicySpec, findings: &mut CompileFindings) -> OriginRegexes {
    let mut regexes = OriginRegexes::default();
    for (index, text) in spec.allow_origin_regexes.iter().enumerate() {
        let place = SpecLocation::AllowOriginRegexes(index);
        if index == REGEXES_MAX {
            findings.error(place, format!("too many expressions, expected at most {REGEXES_MAX}"));
            break;
        }
        let regex = OriginRegex::new(text).and_then(|regex| check_reach(spec, regex));
        let regex = regex.and_then(|regex| check_local_files(spec, regex));
        match regex {
            Err(why) => findings.error(place, quoted_message(text, &why)),
            Ok(regex) => {
                warning(spec, &regex).into_iter().for_each(|why| findings.warn(place, quoted_message(text, &why)));
                if is_partly_refused(spec, &regex) {
                    let why = "also matches plain `http`, which is refused with credentials, expected `https` alone";
                    findings.warn(place, quoted_message(text, why));
                }
                regexes.push(regex);
            }
        }
    }
    regexes
}

/// Refuses a regex that allows unlisted origins with credentials.
fn check_reach(spec: &PolicySpec, regex: OriginRegex) -> Result<OriginRegex, String> {
    let is_checked = spec.allow_credentials && !spec.dangerously.allow_any_origin;
    match regex.reach_message().filter(|_| is_checked) {
        None => Ok(regex),
        Some(why) => Err(match regex.unlisted_extension() {
            None => format!("{why} with credentials, {OWN_DOMAINS}, or `dangerouslyAllowAnyOrigin` as well"),
            Some(scheme) => format!(
                "{why} with credentials, expected the origins themselves, or `{}` in `allowOrigins` and \
                 `dangerouslyAllowAnyExtension`",
                scheme.star()
            ),
        }),
    }
}

/// Refuses a regex that matches an origin of local files with credentials.
fn check_local_files(spec: &PolicySpec, regex: OriginRegex) -> Result<OriginRegex, String> {
    let DangerousSwitches { allow_local_file_origins, allow_any_origin, .. } = spec.dangerously;
    let is_checked = spec.allow_credentials && !allow_local_file_origins && !allow_any_origin;
    match regex.local_file().filter(|_| is_checked) {
        None => Ok(regex),
        Some(origin) => Err(format!(
            "matches `{origin}`, the origin of every application with local pages, with credentials, expected an expression \
             that does not, or `dangerouslyAllowLocalFileOrigins` as well"
        )),
    }
}

const OWN_DOMAINS: &str = "expected one that ends with your own domains, each after `\\.` or `//`";

/// Whether the expression also matches plain `http` origins, which the decision refuses with
/// credentials.
fn is_partly_refused(spec: &PolicySpec, regex: &OriginRegex) -> bool {
    spec.allow_credentials && !spec.dangerously.allow_insecure_origins && regex.covers_insecure()
}

fn warning(spec: &PolicySpec, regex: &OriginRegex) -> Option<String> {
    let why = regex.reach_message().filter(|_| !spec.dangerously.allow_any_origin);
    if let Some((scheme, why)) = regex.unlisted_extension().zip(why.clone()) {
        return Some(format!("{why}, expected `{}` in `allowOrigins`", scheme.star()));
    }
    let reach = || why.map(|why| format!("{why}, {OWN_DOMAINS}"));
    regex.style_warning().map(str::to_owned).or_else(reach)
}

/// Reads the entries, each once, and reports those that are refused.
fn read<'a>(
    texts: impl Iterator<Item = (SpecLocation, &'a String)>,
    restrictions: &EntryRestrictions,
    findings: &mut CompileFindings,
) -> Vec<Placed<'a>> {
    let mut seen = HashSet::new();
    let mut patterns_of_host: HashMap<String, usize> = HashMap::new();
    let mut entries = Vec::new();
    for (place, text) in texts {
        let entry = match read_one(text, restrictions) {
            Ok(entry) => entry,
            Err(why) => {
                findings.error(place, why);
                continue;
            }
        };
        if !seen.insert(text.as_str()) {
            findings.warn(place, quoted_message(text, "is listed twice, expected once"));
            continue;
        }
        if let OriginEntry::Starred(pattern) = &entry {
            let count = patterns_of_host.entry(pattern.host().to_owned()).or_default();
            *count += 1;
            if *count == PATTERNS_PER_HOST_MAX + 1 {
                let why = format!(
                    "exceeds the limit of patterns for the host `{}`, expected at most {PATTERNS_PER_HOST_MAX}",
                    pattern.host()
                );
                findings.error(place, quoted_message(text, &why));
            }
        }
        restrictions.warning(&entry).into_iter().for_each(|why| findings.warn(place, quoted_message(text, why)));
        entries.push((place, entry));
    }
    entries
}

fn read_one<'a>(text: &'a str, restrictions: &EntryRestrictions) -> Result<OriginEntry<'a>, String> {
    let entry = parse_entry(text)?;
    match restrictions.refusal(&entry) {
        Some(why) => Err(quoted_message(text, why)),
        None => Ok(entry),
    }
}

fn build(seed: &HashSeed, entries: &[Placed<'_>], findings: &mut CompileFindings) -> CompiledOrigins {
    let entries = entries.iter().map(|(_, entry)| entry.clone()).collect();
    CompiledOrigins::new(seed, entries).unwrap_or_else(|_| {
        findings.error(
            SpecLocation::Policy,
            "the origins take more than 4 GiB, expected fewer, or a pattern that covers them",
        );
        CompiledOrigins::default()
    })
}

/// The sets that may cover an entry: its own set, and for a tenant's entry also the template's.
struct CoveringSets<'a> {
    seed: &'a HashSeed,
    own: &'a CompiledOrigins,
    shared: Option<&'a CompiledOrigins>,
}

impl CoveringSets<'_> {
    fn warn_if_covered(&self, place: SpecLocation, entry: &OriginEntry<'_>, findings: &mut CompileFindings) {
        let (text, covering) = match entry {
            OriginEntry::Any | OriginEntry::Null => return,
            OriginEntry::Exact(text) => (*text, self.covering_origin(text)),
            OriginEntry::Starred(pattern) => (pattern.text(), self.covering_pattern(pattern)),
            OriginEntry::Extensions(scheme) => (scheme.star(), self.covering_star(*scheme)),
        };
        match covering {
            None => {}
            Some(same) if same == text => {
                findings.warn(place, quoted_message(text, "is in the policy already, expected it in one place"))
            }
            Some(wider) => findings
                .warn(place, quoted_message(text, &format!("is covered by `{wider}` already, expected one of them"))),
        }
    }

    fn covering_origin(&self, text: &str) -> Option<String> {
        let shared =
            self.shared.filter(|shared| shared.exact(self.seed.whole(text.as_bytes()), text.as_bytes()).is_some());
        if shared.is_some() {
            return Some(text.to_owned());
        }
        let origin = parse(text.as_bytes()).ok()?;
        let mut sets = [Some(self.own), self.shared].into_iter().flatten();
        sets.find_map(|set| {
            let (_, index) = set::find(self.seed, [set, &CompiledOrigins::default()], &origin)?;
            set.text(index as usize).map(str::to_owned)
        })
    }

    fn covering_star(&self, scheme: ExtensionScheme) -> Option<String> {
        let is_shared = self.shared.is_some_and(|shared| shared.extensions(scheme).is_some());
        is_shared.then(|| scheme.star().to_owned())
    }

    fn covering_pattern(&self, pattern: &OriginPattern) -> Option<String> {
        let shared = self.shared.into_iter().flat_map(|set| set.wider(self.seed, pattern));
        let own = self.own.wider(self.seed, pattern).filter(|text| *text != pattern.text());
        shared.chain(own).next().map(str::to_owned)
    }
}

fn warn_about_switches(spec: &PolicySpec, set: &CompiledOrigins, findings: &mut CompileFindings) {
    if spec.dangerously.allow_null && set.null().is_none() {
        findings.warn(
            SpecLocation::Policy,
            "`dangerouslyAllowNull` alone allows nothing, expected `null` among the origins as well",
        );
    }
    if set.any().is_some() && set.len() + spec.allow_origin_regexes.len() > 1 {
        findings.warn(SpecLocation::Policy, "`*` allows every origin, expected no others next to it");
    }
}
