//! Finds an origin that two entries of different groups both cover, although neither comes first,
//! and regexes that never decide.
//!
//! The order of entries is total except for two cases: stars within labels of one rank
//! ([`set::rank`](super::set::rank)), and regexes. For stars the shortest common labels are tried.
//! For regexes the product of both automata and of the grammar of origins is searched. All other
//! entries come before a regex, so it never decides if they cover all that it matches. All of this
//! runs when a policy is compiled.

use std::collections::{HashMap, HashSet, VecDeque};

use regex_automata::Anchored;
use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::start;

use super::automaton;
use super::parse::parse;
use super::pattern::{OriginPattern, PortPattern};
use super::set::rank;

/// The most states of a product that are searched for one pair of expressions.
const STATES_MAX: usize = 4096;

/// The bytes of origins. Those that make the best witness come first.
const BYTES: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-._:/[]+";

/// The grammar of origins, without the limits of lengths and numbers.
const GRAMMAR: &str =
    r"\A(file://|app://\.|[a-z][a-z0-9+.-]*://([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?)\z";

/// Two expressions that may match one origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RegexOverlap {
    /// Both match this origin.
    Witness(String),
    /// The expressions are too complex to compare, or the search found only texts that are no
    /// origins, such as one with a default port.
    Unclear,
}

/// Returns an origin that both patterns cover, if they have the same rank and are not equal.
pub(crate) fn of_patterns(one: &OriginPattern, other: &OriginPattern) -> Option<String> {
    let is_same_host = one.host() == other.host() && one.scheme() == other.scheme();
    if !is_same_host || rank(one) != rank(other) || one == other {
        return None;
    }
    let ((before, after), (other_before, other_after)) = (one.literals(), other.literals());
    let first = if before.len() >= other_before.len() { before } else { other_before };
    let last = if after.len() >= other_after.len() { after } else { other_after };
    // The shortest labels have the literals overlap.
    let overlaps = (0..=first.len().min(last.len())).filter(|len| first.ends_with(last.get(..*len).unwrap_or("-")));
    let joined = overlaps.map(|len| format!("{first}{}", last.get(len..).unwrap_or_default()));
    let port = match one.port() {
        PortPattern::Number(number) => format!(":{number}"),
        PortPattern::Default | PortPattern::Any => String::new(),
    };
    let labels = std::iter::once(format!("{first}x{last}")).chain(joined);
    let mut origins = labels.map(|label| format!("{}://{label}.{}{port}", one.scheme().as_str(), one.host()));
    origins.find(|origin| {
        parse(origin.as_bytes()).is_ok_and(|origin| one.covers_under(&origin) && other.covers_under(&origin))
    })
}

/// An automaton of a whole expression.
pub(crate) struct OriginAutomaton {
    dfa: DFA,
    cache: Cache,
}

impl OriginAutomaton {
    /// Builds the automaton of an anchored expression. `None` if it is too large.
    pub(crate) fn new(whole: &str) -> Option<Self> {
        let (dfa, cache) = automaton::with_stable_states(whole, thompson::Config::new())?;
        Some(Self { dfa, cache })
    }

    /// Builds the automaton of the grammar of origins.
    pub(crate) fn of_grammar() -> Option<Self> {
        Self::new(GRAMMAR)
    }

    fn start(&mut self) -> Option<LazyStateID> {
        self.dfa.start_state(&mut self.cache, &start::Config::new().anchored(Anchored::Yes)).ok()
    }

    /// Reads one byte. The outer `None` means that the automaton is too large, the inner one that
    /// nothing can match any more.
    fn step(&mut self, state: LazyStateID, byte: u8) -> Option<Option<LazyStateID>> {
        let next = self.dfa.next_state(&mut self.cache, state, byte).ok()?;
        if next.is_quit() { None } else { Some((!next.is_dead()).then_some(next)) }
    }

    fn is_match(&mut self, state: LazyStateID) -> Option<bool> {
        self.dfa.next_eoi_state(&mut self.cache, state).ok().map(|next| next.is_match())
    }
}

/// Returns the shortest origin that two expressions match, or that this cannot be found out. The
/// third automaton is the one of the grammar.
pub(crate) fn of_regexes(automata: [&mut OriginAutomaton; 3]) -> Option<RegexOverlap> {
    match search(automata, |states| states.iter().all(Option::is_some), |matches| matches == [true; 3]) {
        Search::Found(origin) => Some(RegexOverlap::Witness(origin)),
        Search::Exhausted => None,
        Search::Unclear => Some(RegexOverlap::Unclear),
    }
}

/// Whether entries cover every origin that a regex matches. The automata are those of the regex, of
/// the entries ([`entries_expression`]) and of the grammar. If this cannot be found out, the result
/// is `false`.
pub(crate) fn are_covered(automata: [&mut OriginAutomaton; 3]) -> bool {
    let is_live = |[regex, _, grammar]: &ProductState| regex.is_some() && grammar.is_some();
    matches!(search(automata, is_live, |matches| matches == [true, false, true]), Search::Exhausted)
}

/// Returns an anchored expression for origins without a star and patterns.
pub(crate) fn entries_expression<'e>(entries: impl Iterator<Item = &'e str>) -> String {
    let expressions: Vec<String> = entries.map(entry_expression).collect();
    format!(r"\A(?:{})\z", expressions.join("|"))
}

fn entry_expression(entry: &str) -> String {
    let (entry, port) = entry.strip_suffix(":*").map_or((entry, ""), |entry| (entry, r"(?::[0-9]+)?"));
    let is_subdomains = entry.contains("://*.");
    let star = if is_subdomains { r"[a-z0-9_.-]+" } else { r"[a-z0-9_-]+" };
    format!("{}{port}", regex::escape(entry).replace(r"\*", star))
}

/// A state of each automaton. `None` if it can no longer match.
type ProductState = [Option<LazyStateID>; 3];

/// The result of searching a product of automata.
enum Search {
    Found(String),
    Exhausted,
    /// A limit was reached, or only texts were found that are no origins.
    Unclear,
}

/// Searches the product for the shortest origin for which `is_found` holds on what the automata
/// match. States that are not live are left out.
fn search(
    mut automata: [&mut OriginAutomaton; 3],
    is_live: impl Fn(&ProductState) -> bool,
    is_found: impl Fn([bool; 3]) -> bool,
) -> Search {
    let [one, other, grammar] = &mut automata;
    let (Some(one), Some(other), Some(grammar)) = (one.start(), other.start(), grammar.start()) else {
        return Search::Unclear;
    };
    let first = [Some(one), Some(other), Some(grammar)];
    let mut reached_by = HashMap::from([(first, None)]);
    let mut queue = VecDeque::from([first]);
    // The grammar knows no limits, so a text may be no origin: `https://a.test:443`. Other texts
    // that lead to the same states may be origins, so those are tried as well.
    let mut rejected = HashSet::new();
    while let Some(states) = queue.pop_front() {
        for byte in BYTES {
            let step = |automaton: &mut OriginAutomaton, state| automaton.step(state, *byte);
            let Some(next) = zip_all(&mut automata, states, step) else { return Search::Unclear };
            let next = next.map(Option::flatten);
            if !is_live(&next) {
                continue;
            }
            let is_new = !reached_by.contains_key(&next);
            if is_new {
                if reached_by.len() == STATES_MAX {
                    return Search::Unclear;
                }
                reached_by.insert(next, Some((states, *byte)));
                queue.push_back(next);
            }
            let mut is_candidate = rejected.contains(&next);
            if is_new {
                let Some(matches) = zip_all(&mut automata, next, OriginAutomaton::is_match) else {
                    return Search::Unclear;
                };
                is_candidate = is_found(matches.map(|is_match| is_match == Some(true)));
            }
            if is_candidate {
                let origin = text(&reached_by, states, *byte);
                if parse(origin.as_bytes()).is_ok() {
                    return Search::Found(origin);
                }
                rejected.insert(next);
            }
        }
    }
    if rejected.is_empty() { Search::Exhausted } else { Search::Unclear }
}

/// Applies a function to each automaton and its state, if it has one. `None` if one fails.
fn zip_all<T>(
    automata: &mut [&mut OriginAutomaton; 3],
    [one, other, grammar]: ProductState,
    each: impl Fn(&mut OriginAutomaton, LazyStateID) -> Option<T>,
) -> Option<[Option<T>; 3]> {
    let apply = |automaton: &mut OriginAutomaton, state: Option<LazyStateID>| match state {
        Some(state) => each(automaton, state).map(Some),
        None => Some(None),
    };
    let [first, second, third] = automata;
    Some([apply(first, one)?, apply(second, other)?, apply(third, grammar)?])
}

/// Returns the bytes that lead to these states, and the last one.
fn text(reached_by: &HashMap<ProductState, Option<(ProductState, u8)>>, states: ProductState, last: u8) -> String {
    let before = |(states, _): &(ProductState, u8)| reached_by.get(states).copied().flatten();
    let steps = std::iter::successors(reached_by.get(&states).copied().flatten(), before);
    let mut bytes: Vec<u8> = std::iter::once(last).chain(steps.map(|(_, byte)| byte)).collect();
    bytes.reverse();
    bytes.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::pattern::tests::pattern;
    use crate::origin::regexes::OriginRegex;

    fn overlap(one: &str, other: &str) -> Option<RegexOverlap> {
        let automaton = |text: &str| OriginAutomaton::new(&OriginRegex::new(text).unwrap().anchored()).unwrap();
        let [mut one, mut other] = [one, other].map(automaton);
        of_regexes([&mut one, &mut other, &mut OriginAutomaton::of_grammar().unwrap()])
    }

    #[test]
    fn patterns_of_one_rank_overlap_at_a_witness() {
        let long = "b".repeat(40);
        for (one, other, witness) in [
            ("https://ab-*.a.test", "https://*-ab.a.test", Some("https://ab-x-ab.a.test".to_owned())),
            ("https://ab*c.a.test:8443", "https://a*bc.a.test:8443", Some("https://abxbc.a.test:8443".to_owned())),
            ("https://ab-*.a.test:*", "https://*-ab.a.test:*", Some("https://ab-x-ab.a.test".to_owned())),
            ("https://ab-*.a.test", "https://ac-*.a.test", None),
            ("https://*-ab.a.test", "https://*-ac.a.test", None),
            ("https://ab-*.a.test", "http://*-ab.a.test", None),
            ("https://ab-*.a.test", "https://*-ab.b.test", None),
            ("https://ab-*.a.test", "https://*-abc.a.test", None),
            ("https://ab-*.a.test", "https://*-ab.a.test:*", None),
            ("https://*.a.test", "https://*.a.test", None),
        ] {
            assert_eq!(of_patterns(&pattern(one), &pattern(other)), witness, "{one} {other}");
        }
        // The joined literals would be longer than a label, but they overlap in it.
        let (one, other) = (format!("https://a-{long}*.a.test"), format!("https://*-{long}c.a.test"));
        assert_eq!(of_patterns(&pattern(&one), &pattern(&other)), Some(format!("https://a-{long}c.a.test")));
        let (one, other) = (format!("https://a{long}*.a.test"), format!("https://*-{long}.a.test"));
        assert_eq!(of_patterns(&pattern(&one), &pattern(&other)), None);
    }

    #[test]
    fn expressions_overlap_at_the_shortest_origin() {
        let witness = |text: &str| Some(RegexOverlap::Witness(text.to_owned()));
        assert_eq!(overlap(r"https://[a-z]+\.a\.test", r"https://pr-[0-9]+\.a\.test"), None);
        assert_eq!(overlap(r"https://[a-z]+\.a\.test", r"https://pr[a-z]\.a\.test"), witness("https://pra.a.test"));
        assert_eq!(overlap(r"https://a\.test(:\d+)?", r"https://a\.test:84\d\d"), witness("https://a.test:8400"));
        assert_eq!(overlap(r"https://a\.test", r"https://b\.test|https://a\.test"), witness("https://a.test"));
        assert_eq!(overlap(r"https://a\.test", r"http://a\.test"), None);
        // Both match the text, but no browser sends it as an origin.
        assert_eq!(overlap(r"https://A\.test", r"https://[A-Z]\.test"), None);
        assert_eq!(overlap(r"https://a\.test/.*", r"https://a\.test/x"), None);
        assert_eq!(overlap(r"file://|https://a\.test", r"file://|https://b\.test"), witness("file://"));
        assert_eq!(overlap(r"app://.|https://a\.test", r"app://\.|https://b\.test"), witness("app://."));
    }

    // The states after the first text are those after other texts as well.
    #[test]
    fn text_that_is_no_origin_does_not_hide_an_overlap() {
        let port = |text: &str| format!(r"https://a\.test:{text}");
        let witness = Some(RegexOverlap::Witness("https://a.test:444".to_owned()));
        assert_eq!(overlap(&port("44[3-9]"), &port("44[34]")), witness);
        for (one, other) in [
            (r"https://[0-9]{3}\.0\.0\.1", r"https://[0-9]{3}\.0\.0\.1|https://b\.test"),
            (r"https://\[[0-9a-f:]{3,}\]", r"https://\[[0-9:]+\]"),
            (&port("443"), r"https://[a-z]\.test:443"),
        ] {
            assert_eq!(overlap(one, other), Some(RegexOverlap::Unclear), "{one} {other}");
        }
        assert_eq!(overlap(r"https://\[::1\]:\d+", r"https://\[::2\]:\d+"), None);
    }

    #[test]
    fn expression_is_covered_by_entries_that_come_before_it() {
        let is_covered = |regex: &str, entries: &[&str]| {
            let automaton = |text: &str| OriginAutomaton::new(text).unwrap();
            let mut regex = automaton(&OriginRegex::new(regex).unwrap().anchored());
            let mut entries = automaton(&entries_expression(entries.iter().copied()));
            are_covered([&mut regex, &mut entries, &mut OriginAutomaton::of_grammar().unwrap()])
        };
        let pr = r"https://pr-[0-9]+\.a\.test";
        assert!(is_covered(pr, &["https://*.a.test"]) && is_covered(pr, &["https://b.test", "https://pr-*.a.test"]));
        assert!(is_covered(r"https://(a|b)\.test", &["https://a.test", "https://b.test"]));
        assert!(is_covered(r"https://a\.test(:[0-9]+)?", &["https://a.test:*"]));
        assert!(!is_covered(r"https://(a|b)\.test", &["https://a.test"]));
        assert!(!is_covered(r"https://([a-z]+\.)?a\.test", &["https://*.a.test"]));
        assert!(
            !is_covered(pr, &["https://pr-1*.a.test"]) && !is_covered(pr, &["http://*.a.test", "https://*.a.test:1"])
        );
        assert!(!is_covered(r"https://[a-z.]+\.a\.test", &["https://a*.a.test"]));
    }

    #[test]
    fn complex_expressions_are_not_compared() {
        let wide = r"https://([a-z]*a[a-z]{12}|b)\.test";
        let other = r"https://([a-z]*c[a-z]{12}|d)\.test";
        assert_eq!(overlap(wide, other), Some(RegexOverlap::Unclear));
    }
}
