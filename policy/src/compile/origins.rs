//! Compiles configured origins, origin sets and regexes to frozen sets.
//!
//! Each entry is parsed, checked against the policy's restrictions, and compared with the other
//! entries. Duplicates and entries that a wider entry covers get a warning.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::groups::{self, KnownGroups};
use super::overlaps;
use crate::group::GroupId;
use crate::origin::extension::ExtensionScheme;
use crate::origin::hash::HashSeed;
use crate::origin::parse::parse;
use crate::origin::pattern::{OriginEntry, OriginPattern, parse_entry, quoted_message};
use crate::origin::regexes::{OriginRegex, OriginRegexes, REGEXES_MAX};
use crate::origin::risk::EntryRestrictions;
use crate::origin::set::{self, CompiledOrigins, PATTERNS_PER_HOST_MAX};
use crate::policy::Template;
use crate::spec::{
    CompileFindings, CrossSiteProtection, DangerousSwitches, OriginSetSpec, OwnOriginSpec, PolicySpec, SpecLocation,
};

/// An entry and where it is configured.
pub(super) struct Placed<'a> {
    pub(super) group: GroupId,
    pub(super) place: SpecLocation,
    pub(super) entry: OriginEntry<'a>,
}

/// The text of an entry and where it is configured.
type PlacedText<'a> = (GroupId, SpecLocation, &'a String);

/// Compiles the origins and origin sets of a policy and its groups into one set.
pub(super) fn compile_spec(spec: &PolicySpec, seed: &HashSeed, findings: &mut CompileFindings) -> CompiledOrigins {
    let known = KnownGroups::of_spec(spec);
    let entries = read(texts(spec, &known, findings).into_iter(), &known, findings);
    overlaps::check_patterns(&entries, &known, findings);
    let set = build(seed, &entries, findings);
    let covering = CoveringSets { seed, own: &set, shared: None };
    covering.warn_about(&entries, findings);
    warn_about_switches(spec, &set, findings);
    set
}

/// Returns the texts of all entries. A set that two groups name is one error, and its origins
/// belong to the first.
fn texts<'a>(spec: &'a PolicySpec, known: &KnownGroups<'_>, findings: &mut CompileFindings) -> Vec<PlacedText<'a>> {
    let mut group_of_set: HashMap<&str, GroupId> = HashMap::new();
    let mut elsewhere = |group: GroupId, set: &'a OriginSetSpec| {
        Some(*group_of_set.entry(set.name.as_str()).or_insert(group)).filter(|first| *first != group)
    };
    let mut texts = Vec::new();
    let sets = std::iter::once(&spec.origin_sets).chain(spec.groups.iter().map(|group| &group.origin_sets));
    for (index, (list, sets)) in groups::lists_of_origins(spec).zip(sets).enumerate() {
        let group = index.checked_sub(1).map(GroupId::of_index).unwrap_or_default();
        let first: Vec<Option<GroupId>> = sets.iter().map(|set| elsewhere(group, set)).collect();
        for (set, (first, spec)) in first.iter().zip(sets).enumerate() {
            if let Some(first) = first {
                let why = format!("is a set of {} too, expected it in one place", known.place(*first));
                findings.within(group).error(SpecLocation::OriginSets(set), quoted_message(&spec.name, &why));
            }
        }
        let is_taken = |place: &SpecLocation| matches!(place, SpecLocation::OriginSet { set, .. } if first.get(*set).copied().flatten().is_some());
        texts.extend(list.into_iter().filter(|(place, _)| !is_taken(place)).map(|(place, text)| (group, place, text)));
    }
    findings.within(GroupId::BASE);
    texts
}

/// Compiles a tenant's own origins.
pub(super) fn compile_own(
    template: &Template,
    own_origins: &[OwnOriginSpec],
    findings: &mut CompileFindings,
) -> CompiledOrigins {
    let groups = own_groups(template, own_origins, findings);
    let texts = own_origins
        .iter()
        .zip(&groups)
        .enumerate()
        .filter_map(|(index, (own, group))| Some(((*group)?, SpecLocation::AllowOrigins(index), &own.origin)));
    let known = KnownGroups::of_template(template);
    let entries = read(texts, &known, findings);
    overlaps::check_patterns(&entries, &known, findings);
    for Placed { group, place, entry } in &entries {
        if let OriginEntry::Starred(pattern) = entry {
            let shared = template.set.at_suffixes(&template.seed, pattern);
            overlaps::report_first(pattern, (*group, *place), shared, &known, findings);
        }
    }
    findings.within(GroupId::BASE);
    let own = build(&template.seed, &entries, findings);
    let covering = CoveringSets { seed: &template.seed, own: &own, shared: Some(&template.set) };
    covering.warn_about(&entries, findings);
    warn_next_to_any(template, &own, own_origins, findings);
    own
}

/// Returns the group of each of a tenant's origins. `None` for a group that takes none, which is
/// reported once.
fn own_groups(
    template: &Template,
    own_origins: &[OwnOriginSpec],
    findings: &mut CompileFindings,
) -> Vec<Option<GroupId>> {
    let mut known: HashMap<&str, Option<GroupId>> = HashMap::new();
    let groups = own_origins.iter().enumerate().map(|(index, own)| {
        let Some(name) = own.group.as_deref() else { return Some(GroupId::BASE) };
        *known.entry(name).or_insert_with(|| {
            let place = SpecLocation::OwnGroup(index);
            match template.terms.named(name) {
                Some((group, listed)) if listed.is_open => return Some(group),
                Some(_) => {
                    let why = "is a group to which tenants may not add, expected `tenantsMayAdd: true` in it";
                    findings.error(place, quoted_message(name, why));
                }
                None => {
                    let known = template.terms.groups.iter().map(|group| &*group.name);
                    findings.error(place, groups::unknown(name, known));
                }
            }
            None
        })
    });
    groups.collect()
}

/// Warns once if `*` makes other entries superfluous, in the template or among the tenant's
/// origins. In a policy with groups, or with protection from requests of other sites, they have an
/// effect.
fn warn_next_to_any(
    template: &Template,
    own: &CompiledOrigins,
    own_origins: &[OwnOriginSpec],
    findings: &mut CompileFindings,
) {
    if !template.terms.groups.is_empty() || template.cross_site.protection != CrossSiteProtection::Off {
        return;
    }
    let stars = [&template.set, own].into_iter().filter(|set| set.any().is_some()).count();
    let others = template.set.len() + template.regexes.len() + own.len() - stars;
    match own_origins.iter().position(|own| own.origin == "*") {
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

/// Compiles the regexes of a policy and its groups.
pub(super) fn compile_regexes(spec: &PolicySpec, findings: &mut CompileFindings) -> OriginRegexes {
    let base = (GroupId::BASE, &spec.allow_origin_regexes);
    let groups = spec.groups.iter().enumerate();
    let groups = groups.map(|(index, group)| (GroupId::of_index(index), &group.allow_origin_regexes));
    let lists = std::iter::once(base).chain(groups);
    let listed = lists.flat_map(|(group, texts)| texts.iter().enumerate().map(move |text| (group, text)));
    let known = KnownGroups::of_spec(spec);
    let mut regexes = Vec::new();
    for (count, (group, (index, text))) in listed.enumerate() {
        let findings = findings.within(group);
        let place = SpecLocation::AllowOriginRegexes(index);
        if count == REGEXES_MAX {
            findings.error(place, format!("too many expressions, expected at most {REGEXES_MAX}"));
            break;
        }
        let Some(restrictions) = &known.restrictions(group) else { break };
        let regex = OriginRegex::new(text).and_then(|regex| check_reach(restrictions, regex));
        let regex = regex.and_then(|regex| check_local_files(restrictions, regex));
        match regex {
            Err(why) => findings.error(place, quoted_message(text, &why)),
            Ok(regex) => {
                warning(restrictions, &regex)
                    .into_iter()
                    .for_each(|why| findings.warn(place, quoted_message(text, &why)));
                if is_partly_refused(restrictions, &regex) {
                    let why = "also matches plain `http`, which is refused with credentials, expected `https` alone";
                    findings.warn(place, quoted_message(text, why));
                }
                regexes.push((place, regex, group));
            }
        }
    }
    overlaps::check_regexes(&regexes, &known, findings);
    findings.within(GroupId::BASE);
    OriginRegexes::new(regexes.into_iter().map(|(_, regex, group)| (regex, group)).collect())
}

/// Refuses a regex that allows unlisted origins with credentials.
fn check_reach(restrictions: &EntryRestrictions, regex: OriginRegex) -> Result<OriginRegex, String> {
    let is_checked = restrictions.credentials && !restrictions.dangerously.allow_any_origin;
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
fn check_local_files(restrictions: &EntryRestrictions, regex: OriginRegex) -> Result<OriginRegex, String> {
    let DangerousSwitches { allow_local_file_origins, allow_any_origin, .. } = restrictions.dangerously;
    let is_checked = restrictions.credentials && !allow_local_file_origins && !allow_any_origin;
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
fn is_partly_refused(restrictions: &EntryRestrictions, regex: &OriginRegex) -> bool {
    restrictions.credentials && !restrictions.dangerously.allow_insecure_origins && regex.covers_insecure()
}

fn warning(restrictions: &EntryRestrictions, regex: &OriginRegex) -> Option<String> {
    let why = regex.reach_message().filter(|_| !restrictions.dangerously.allow_any_origin);
    if let Some((scheme, why)) = regex.unlisted_extension().zip(why.clone()) {
        return Some(format!("{why}, expected `{}` in `allowOrigins`", scheme.star()));
    }
    let reach = || why.map(|why| format!("{why}, {OWN_DOMAINS}"));
    regex.style_warning().map(str::to_owned).or_else(reach)
}

/// Reads the entries, each once, and reports those that are refused.
fn read<'a>(
    texts: impl Iterator<Item = PlacedText<'a>>,
    known: &KnownGroups<'_>,
    findings: &mut CompileFindings,
) -> Vec<Placed<'a>> {
    let mut seen: HashMap<&str, GroupId> = HashMap::new();
    let mut patterns_of_host: HashMap<String, usize> = HashMap::new();
    let mut entries = Vec::new();
    for (group, place, text) in texts {
        let findings = findings.within(group);
        let Some(restrictions) = known.restrictions(group) else { continue };
        let entry = match read_one(text, &restrictions) {
            Ok(entry) => entry,
            Err(why) => {
                findings.error(place, why);
                continue;
            }
        };
        match seen.entry(text.as_str()) {
            Entry::Vacant(place) => {
                place.insert(group);
            }
            Entry::Occupied(first) if *first.get() == group => {
                findings.warn(place, quoted_message(text, "is listed twice, expected once"));
                continue;
            }
            Entry::Occupied(first) => {
                let why = format!("is in {} too, expected it in one place", known.place(*first.get()));
                findings.error(place, quoted_message(text, &why));
                continue;
            }
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
        entries.push(Placed { group, place, entry });
    }
    findings.within(GroupId::BASE);
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
    let placed = entries.iter().map(|placed| (placed.entry.clone(), placed.group));
    CompiledOrigins::new(seed, placed).unwrap_or_else(|_| {
        let why = format!(
            "the origins take more than 4 GiB, or are {} or more, expected fewer, or a pattern that covers them",
            set::ENTRIES_MAX
        );
        findings.error(SpecLocation::Policy, why);
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
    fn warn_about(&self, entries: &[Placed<'_>], findings: &mut CompileFindings) {
        for placed in entries {
            self.warn_if_covered(placed, findings.within(placed.group));
        }
        findings.within(GroupId::BASE);
    }

    /// Warns about an entry without which its origins would get the same terms.
    fn warn_if_covered(&self, Placed { group, place, entry }: &Placed<'_>, findings: &mut CompileFindings) {
        let (text, covering) = match entry {
            OriginEntry::Any => ("*", self.shared.and_then(CompiledOrigins::any).map(|_| "*".to_owned())),
            OriginEntry::Null => ("null", self.shared.and_then(CompiledOrigins::null).map(|_| "null".to_owned())),
            OriginEntry::Exact(text) => (*text, self.covering_origin(text, *group)),
            OriginEntry::Starred(pattern) => (pattern.text(), self.covering_pattern(pattern, *group)),
            OriginEntry::Extensions(scheme) => (scheme.star(), self.covering_star(*scheme)),
        };
        match covering {
            None => {}
            Some(same) if same == text => {
                findings.warn(*place, quoted_message(text, "is in the policy already, expected it in one place"))
            }
            Some(wider) => findings
                .warn(*place, quoted_message(text, &format!("is covered by `{wider}` already, expected one of them"))),
        }
    }

    fn covering_origin(&self, text: &str, group: GroupId) -> Option<String> {
        // The template's entry stands, whatever its group.
        let shared =
            self.shared.filter(|shared| shared.exact(self.seed.whole(text.as_bytes()), text.as_bytes()).is_some());
        if shared.is_some() {
            return Some(text.to_owned());
        }
        let origin = parse(text.as_bytes()).ok()?;
        let none = CompiledOrigins::default();
        let sets = [self.shared.unwrap_or(&none), self.own];
        let (set, found) = set::find(self.seed, sets, &origin)?;
        let covering = sets.get(set).and_then(|set| set.text(found.index as usize));
        covering.filter(|_| found.group == group).map(str::to_owned)
    }

    fn covering_star(&self, scheme: ExtensionScheme) -> Option<String> {
        let is_shared = self.shared.is_some_and(|shared| shared.extensions(scheme).is_some());
        is_shared.then(|| scheme.star().to_owned())
    }

    fn covering_pattern(&self, pattern: &OriginPattern, group: GroupId) -> Option<String> {
        let sets = || self.shared.into_iter().chain([self.own]);
        let is_same = |set: &CompiledOrigins| set.wider(self.seed, pattern).any(|text| text == pattern.text());
        if self.shared.is_some_and(is_same) {
            return Some(pattern.text().to_owned());
        }
        // A pattern of another group may stand between the two.
        if sets().any(|set| set.at_suffixes(self.seed, pattern).any(|(_, other)| other != group)) {
            return None;
        }
        let wider = sets().flat_map(|set| set.wider(self.seed, pattern));
        wider.filter(|text| *text != pattern.text()).map(str::to_owned).next()
    }
}

fn warn_about_switches(spec: &PolicySpec, set: &CompiledOrigins, findings: &mut CompileFindings) {
    if spec.dangerously.allow_null && set.null().is_none() {
        findings.warn(
            SpecLocation::Policy,
            "`dangerouslyAllowNull` alone allows nothing, expected `null` among the origins as well",
        );
    }
    let is_any_alone = spec.groups.is_empty() && spec.cross_site.protection == CrossSiteProtection::Off;
    if is_any_alone && set.any().is_some() && set.len() + spec.allow_origin_regexes.len() > 1 {
        findings.warn(SpecLocation::Policy, "`*` allows every origin, expected no others next to it");
    }
}
