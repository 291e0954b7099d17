//! Origins, their sets and their regexes: from configured text to frozen sets, with doubts about what covers what.

use std::collections::{HashMap, HashSet};

use crate::origin::hash::Seed;
use crate::origin::parse::parse;
use crate::origin::pattern::{Entry, Pattern, parse_entry, told};
use crate::origin::regexes::{OriginRegex, REGEXES_MAX, Regexes};
use crate::origin::risk::Guard;
use crate::origin::set::{self, PATTERNS_PER_HOST_MAX, Set};
use crate::policy::Template;
use crate::spec::{Findings, Place, PolicySpec};

type Placed<'a> = (Place, Entry<'a>);

/// Compiles a policy's own origins and its sets into one set.
pub(super) fn compile_spec(spec: &PolicySpec, guard: &Guard, seed: &Seed, findings: &mut Findings) -> Set {
    let listed = (0..).map(Place::AllowOrigins).zip(&spec.allow_origins);
    let in_sets = spec.origin_sets.iter().enumerate().flat_map(|(set, origins)| {
        origins.origins.iter().enumerate().map(move |(index, text)| (Place::OriginSet { set, index }, text))
    });
    let entries = read(listed.chain(in_sets), guard, findings);
    let set = build(seed, &entries, findings);
    let surroundings = Surroundings { seed, own: &set, shared: None };
    entries.iter().for_each(|(place, entry)| surroundings.warn_if_covered(*place, entry, findings));
    warn_about_switches(spec, &set, findings);
    set
}

/// Compiles a tenant's own origins.
pub(super) fn compile_own(template: &Template, own_origins: &[String], findings: &mut Findings) -> Set {
    let entries = read((0..).map(Place::AllowOrigins).zip(own_origins), &template.guard, findings);
    let own = build(&template.seed, &entries, findings);
    let surroundings = Surroundings { seed: &template.seed, own: &own, shared: Some(&template.set) };
    entries.iter().for_each(|(place, entry)| surroundings.warn_if_covered(*place, entry, findings));
    own
}

/// Compiles a policy's regexes.
pub(super) fn compile_regexes(spec: &PolicySpec, findings: &mut Findings) -> Regexes {
    let mut regexes = Regexes::default();
    for (index, text) in spec.allow_origin_regexes.iter().enumerate() {
        let place = Place::AllowOriginRegexes(index);
        if index == REGEXES_MAX {
            findings.error(place, format!("too many expressions, expected at most {REGEXES_MAX}"));
            break;
        }
        let regex = OriginRegex::new(text).and_then(|regex| check_strangers(spec, regex));
        match regex {
            Err(why) => findings.error(place, told(text, &why)),
            Ok(regex) => {
                doubt(spec, &regex).into_iter().for_each(|why| findings.warn(place, told(text, &why)));
                regexes.push(regex);
            }
        }
    }
    regexes
}

fn check_strangers(spec: &PolicySpec, regex: OriginRegex) -> Result<OriginRegex, String> {
    let is_asked = spec.allow_credentials && !spec.dangerously.allow_any_origin;
    match regex.stray().filter(|_| is_asked) {
        None => Ok(regex),
        Some(why) => Err(format!(
            "{why} with credentials, expected one that ends with your own domains, each after `\\.` or `//`, or \
             `dangerouslyAllowAnyOrigin` as well"
        )),
    }
}

fn doubt(spec: &PolicySpec, regex: &OriginRegex) -> Option<String> {
    let why = regex.stray().filter(|_| !spec.dangerously.allow_any_origin);
    let stray =
        || why.map(|why| format!("{why}, expected one that ends with your own domains, each after `\\.` or `//`"));
    regex.doubt().map(str::to_owned).or_else(stray)
}

/// Reads entries, each once, and leaves out those that are refused.
fn read<'a>(
    texts: impl Iterator<Item = (Place, &'a String)>,
    guard: &Guard,
    findings: &mut Findings,
) -> Vec<Placed<'a>> {
    let mut seen = HashSet::new();
    let mut over_host: HashMap<String, usize> = HashMap::new();
    let mut entries = Vec::new();
    for (place, text) in texts {
        let entry = match read_one(text, guard) {
            Ok(entry) => entry,
            Err(why) => {
                findings.error(place, why);
                continue;
            }
        };
        if !seen.insert(text.as_str()) {
            findings.warn(place, told(text, "is listed twice, expected once"));
            continue;
        }
        if let Entry::Starred(pattern) = &entry {
            let count = over_host.entry(pattern.host().to_owned()).or_default();
            *count += 1;
            if *count == PATTERNS_PER_HOST_MAX + 1 {
                let why = format!(
                    "is one pattern too many over `{}`, expected at most {PATTERNS_PER_HOST_MAX} for one host",
                    pattern.host()
                );
                findings.error(place, told(text, &why));
            }
        }
        guard.doubt(&entry).into_iter().for_each(|why| findings.warn(place, told(text, why)));
        entries.push((place, entry));
    }
    entries
}

fn read_one<'a>(text: &'a str, guard: &Guard) -> Result<Entry<'a>, String> {
    let entry = parse_entry(text)?;
    match guard.refusal(&entry) {
        Some(why) => Err(told(text, why)),
        None => Ok(entry),
    }
}

fn build(seed: &Seed, entries: &[Placed<'_>], findings: &mut Findings) -> Set {
    let entries = entries.iter().map(|(_, entry)| entry.clone()).collect();
    Set::new(seed, entries).unwrap_or_else(|_| {
        findings
            .error(Place::Policy, "the origins take more than 4 GiB, expected fewer, or a pattern that covers them");
        Set::default()
    })
}

/// Where an entry may turn out to be needless: its own set, and for a tenant's entry the template's.
struct Surroundings<'a> {
    seed: &'a Seed,
    own: &'a Set,
    shared: Option<&'a Set>,
}

impl Surroundings<'_> {
    fn warn_if_covered(&self, place: Place, entry: &Entry<'_>, findings: &mut Findings) {
        let (text, covering) = match entry {
            Entry::Any | Entry::Null => return,
            Entry::Exact(text) => (*text, self.covering_origin(text)),
            Entry::Starred(pattern) => (pattern.text(), self.covering_pattern(pattern)),
        };
        match covering {
            None => {}
            Some(same) if same == text => {
                findings.warn(place, told(text, "is in the policy already, expected it in one place"))
            }
            Some(wider) => {
                findings.warn(place, told(text, &format!("is covered by `{wider}` already, expected one of them")))
            }
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
            let (_, index) = set::find(self.seed, [set, &Set::default()], &origin)?;
            set.text(index as usize).map(str::to_owned)
        })
    }

    fn covering_pattern(&self, pattern: &Pattern) -> Option<String> {
        let shared = self.shared.into_iter().flat_map(|set| set.wider(self.seed, pattern));
        let own = self.own.wider(self.seed, pattern).filter(|text| *text != pattern.text());
        shared.chain(own).next().map(str::to_owned)
    }
}

fn warn_about_switches(spec: &PolicySpec, set: &Set, findings: &mut Findings) {
    if spec.dangerously.allow_null && set.null().is_none() {
        findings.warn(
            Place::Policy,
            "`dangerouslyAllowNull` alone allows nothing, expected `null` among the origins as well",
        );
    }
    if set.any().is_some() && set.len() + spec.allow_origin_regexes.len() > 1 {
        findings.warn(Place::Policy, "`*` allows every origin, expected no others beside it");
    }
}
