//! Refuses entries of two groups that cover one origin, although neither comes before the other.

use std::collections::HashMap;

use crate::group::GroupId;
use crate::origin::overlap::{self, OriginAutomaton, RegexOverlap};
use crate::origin::pattern::{OriginEntry, OriginPattern, PatternShape, quoted_message};
use crate::origin::regexes::OriginRegex;
use crate::spec::{CompileFindings, SpecLocation};

use super::groups::KnownGroups;
use super::origins::Placed;

/// Reports patterns of one rank in two groups that cover one origin.
pub(super) fn check_patterns(entries: &[Placed<'_>], known: &KnownGroups<'_>, findings: &mut CompileFindings) {
    // Only stars within labels can have the same rank and different texts.
    let mut by_host: HashMap<&str, Vec<(&OriginPattern, GroupId)>> = HashMap::new();
    for Placed { group, place, entry } in entries {
        let OriginEntry::Starred(pattern) = entry else { continue };
        if !matches!(pattern.shape(), PatternShape::InLabel { .. }) {
            continue;
        }
        let same_host = by_host.entry(pattern.host()).or_default();
        report_first(pattern, (*group, *place), same_host.iter().copied(), known, findings);
        same_host.push((pattern, *group));
    }
    findings.within(GroupId::BASE);
}

/// Reports the first of the other patterns that overlaps with this one from another group.
pub(super) fn report_first<'p>(
    pattern: &OriginPattern,
    (group, place): (GroupId, SpecLocation),
    others: impl Iterator<Item = (&'p OriginPattern, GroupId)>,
    known: &KnownGroups<'_>,
    findings: &mut CompileFindings,
) {
    let mut others = others.filter(|(_, other)| *other != group);
    let found = others.find_map(|(other, first)| Some((other, first, overlap::of_patterns(pattern, other)?)));
    if let Some((other, first, witness)) = found {
        let why = format!(
            "and `{}` in {} both cover `{witness}`, and neither is more particular, expected more literal characters in \
             one of them",
            other.text(),
            known.place(first)
        );
        findings.within(group).error(place, quoted_message(pattern.text(), &why));
    }
}

/// Reports expressions of two groups that match one origin.
pub(super) fn check_regexes(
    regexes: &[(SpecLocation, OriginRegex, GroupId)],
    known: &KnownGroups<'_>,
    findings: &mut CompileFindings,
) {
    let is_in_one_group = regexes.windows(2).all(|pair| matches!(pair, [one, other] if one.2 == other.2));
    if is_in_one_group {
        return;
    }
    let mut grammar = OriginAutomaton::of_grammar();
    let mut earlier: Vec<(&str, GroupId, Option<OriginAutomaton>)> = Vec::new();
    for (place, regex, group) in regexes {
        let mut automaton = OriginAutomaton::new(&regex.anchored());
        let found = earlier.iter_mut().filter(|(_, other, _)| other != group).find_map(|(text, first, other)| {
            let overlap = match (&mut automaton, other, &mut grammar) {
                (Some(one), Some(other), Some(grammar)) => overlap::of_regexes([one, other, grammar]),
                _ => Some(RegexOverlap::Unclear),
            };
            overlap.map(|overlap| (*text, *first, overlap))
        });
        let why = found.map(|(other, first, overlap)| match overlap {
            RegexOverlap::Witness(origin) => format!(
                "and `{other}` in {} both match `{origin}`, expected expressions that match no origin in common",
                known.place(first)
            ),
            RegexOverlap::Unclear => format!(
                "and `{other}` in {} are too complex to check that they match no origin in common, expected simpler ones",
                known.place(first)
            ),
        });
        why.into_iter().for_each(|why| findings.within(*group).error(*place, quoted_message(regex.text(), &why)));
        earlier.push((regex.text(), *group, automaton));
    }
    findings.within(GroupId::BASE);
}
