//! Checks the groups of a policy against each other: `*` next to credentials, and groups that no
//! origin can reach.

use super::rules;
use super::terms;
use crate::group::GroupId;
use crate::origin::overlap::{self, OriginAutomaton};
use crate::origin::pattern::quoted_message;
use crate::origin::regexes::OriginRegex;
use crate::origin::risk::EntryRestrictions;
use crate::policy::Template;
use crate::rule::Rule;
use crate::spec::{CompileFindings, CrossSiteProtection, OwnOriginSpec, PolicySpec, SpecLocation};

const ANY_NEXT_TO_CREDENTIALS: &str = "`*` next to origins with credentials lets pages of every site send requests with the user's cookies, \
     expected `crossSite: Protect`, or `dangerouslyAllowCrossSite` as well";

/// The most entries with which the regexes of a group are compared.
const COMPARED_MAX: usize = 256;

/// Reports what is wrong with the groups as a whole.
pub(super) fn check(spec: &PolicySpec, rule: Option<&Rule>, findings: &mut CompileFindings) {
    check_any(spec, findings);
    for (index, group) in spec.groups.iter().enumerate() {
        let is_answered = rule.is_some_and(|rule| rule.groups().iter().any(|name| **name == *group.name));
        let in_sets: usize = group.origin_sets.iter().map(|set| set.origins.len()).sum();
        let has_origins = group.allow_origins.len() + in_sets > 0;
        if has_origins || is_answered || group.tenants_may_add {
            continue;
        }
        let why = match group.allow_origin_regexes.as_slice() {
            [] => "can never be reached, expected origins in it, `tenantsMayAdd: true`, or a rule that lists it",
            regexes if are_covered(spec, regexes) => {
                "can never be reached, since other entries cover all that its expressions match, and come first, expected \
                 the origins themselves"
            }
            _ => continue,
        };
        findings.within(GroupId::of_index(index)).warn(SpecLocation::Group, quoted_message(&group.name, why));
    }
    findings.within(GroupId::BASE);
}

/// Whether origins and patterns cover all that these expressions match.
fn are_covered(spec: &PolicySpec, regexes: &[String]) -> bool {
    let entries: Vec<&str> = lists_of_origins(spec).flatten().map(|(_, text)| text.as_str()).collect();
    // `*` comes last, and the schemes of extensions have no domains.
    let entries: Vec<&str> = entries.into_iter().filter(|text| *text != "*" && !text.ends_with("://*")).collect();
    if entries.is_empty() || entries.len() > COMPARED_MAX {
        return false;
    }
    let expression = overlap::entries_expression(entries.into_iter());
    let (listed, grammar) = (OriginAutomaton::new(&expression), OriginAutomaton::of_grammar());
    let (Some(mut listed), Some(mut grammar)) = (listed, grammar) else { return false };
    regexes.iter().all(|text| {
        let regex = OriginRegex::new(text).ok().and_then(|regex| OriginAutomaton::new(&regex.anchored()));
        regex.is_some_and(|mut regex| overlap::are_covered([&mut regex, &mut listed, &mut grammar]))
    })
}

/// Refuses `*` next to entries with credentials, unless the policy protects from what `*` invites.
fn check_any(spec: &PolicySpec, findings: &mut CompileFindings) {
    let is_protected = spec.cross_site.protection == CrossSiteProtection::Protect || spec.dangerously.allow_cross_site;
    if is_protected || !terms::restrictions(spec).any(|terms| terms.credentials) {
        return;
    }
    let all = terms::restrictions(spec).zip(lists_of_origins(spec)).enumerate();
    for (number, (terms, lists)) in all {
        // With credentials of its own, `*` is refused in any case.
        let star = lists.into_iter().find(|(_, origin)| *origin == "*").filter(|_| !terms.credentials);
        if let Some((place, _)) = star {
            let group = number.checked_sub(1).map(GroupId::of_index).unwrap_or_default();
            findings.within(group).error(place, ANY_NEXT_TO_CREDENTIALS);
        }
    }
    findings.within(GroupId::BASE);
}

/// Returns the origins of each group with their locations, the policy's own first.
pub(super) fn lists_of_origins(spec: &PolicySpec) -> impl Iterator<Item = Vec<(SpecLocation, &String)>> {
    let base = (&spec.allow_origins, &spec.origin_sets);
    let groups = spec.groups.iter().map(|group| (&group.allow_origins, &group.origin_sets));
    std::iter::once(base).chain(groups).map(|(listed, sets)| {
        let listed = (0..).map(SpecLocation::AllowOrigins).zip(listed);
        let in_sets = sets.iter().enumerate().flat_map(|(set, origins)| {
            origins.origins.iter().enumerate().map(move |(index, text)| (SpecLocation::OriginSet { set, index }, text))
        });
        listed.chain(in_sets).collect()
    })
}

/// Checks `*` among a tenant's own origins.
pub(super) fn check_own_any(template: &Template, own_origins: &[OwnOriginSpec], findings: &mut CompileFindings) {
    let Some((star, own)) = own_origins.iter().enumerate().find(|(_, own)| own.origin == "*") else { return };
    let place = SpecLocation::AllowOrigins(star);
    if template.rule.is_some() && template.terms.groups.is_empty() {
        findings.error(place, rules::NEXT_TO_ANY);
    }
    let is_protected =
        template.cross_site.protection == CrossSiteProtection::Protect || template.dangerously().allow_cross_site;
    let has_credentials = template.terms.all().any(|(_, terms)| terms.has_credentials());
    // With credentials of its own, `*` is refused in any case.
    let group = own.group.as_deref().and_then(|name| template.terms.named(name));
    let is_refused = template.terms.of(group.map(|(group, _)| group).unwrap_or_default()).has_credentials();
    if has_credentials && !is_refused && !is_protected {
        findings.error(place, ANY_NEXT_TO_CREDENTIALS);
    }
}

/// The names and restrictions of a policy's groups. The first is the policy itself.
pub(super) struct KnownGroups<'a>(Vec<(&'a str, EntryRestrictions)>);

impl<'a> KnownGroups<'a> {
    pub(super) fn of_spec(spec: &'a PolicySpec) -> Self {
        let names = std::iter::once("").chain(spec.groups.iter().map(|group| group.name.as_str()));
        Self(names.zip(terms::restrictions(spec)).collect())
    }

    pub(super) fn of_template(template: &'a Template) -> Self {
        let names = std::iter::once("").chain(template.terms.groups.iter().map(|group| &*group.name));
        Self(names.zip(template.terms.all().map(|(_, terms)| terms.restrictions)).collect())
    }

    fn get(&self, group: GroupId) -> Option<&(&'a str, EntryRestrictions)> {
        self.0.get(group.index().map_or(0, |index| index + 1))
    }

    /// Returns what restricts the entries of a group. `None` beyond the most groups.
    pub(super) fn restrictions(&self, group: GroupId) -> Option<EntryRestrictions> {
        self.get(group).map(|(_, restrictions)| *restrictions)
    }

    /// Returns the place of a group's entries, for messages.
    pub(super) fn place(&self, group: GroupId) -> String {
        match (group, self.get(group)) {
            (GroupId::BASE, _) | (_, None) => "the policy outside of groups".to_owned(),
            (_, Some((name, _))) => format!("the group `{name}`"),
        }
    }
}

/// Returns the message for a group that does not exist.
pub(super) fn unknown<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let known: Vec<String> = known.map(|name| format!("`{name}`")).collect();
    let expected = match known.as_slice() {
        [] => "expected one to be defined in `groups`".to_owned(),
        known => format!("expected one of {}", known.join(", ")),
    };
    quoted_message(name, &format!("is no group of the policy, {expected}"))
}
