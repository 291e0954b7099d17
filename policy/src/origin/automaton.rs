//! Lazy automata of origins, which are only built when a policy is compiled.

use regex_automata::MatchKind;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;

/// The most bytes of an automaton and of its cache.
pub(super) const CACHE_LEN_MAX: usize = 8 << 20;

/// Builds the automaton of an expression, which finds all matches. `None` if it is too large. The
/// numbers of its states stay valid: a search that would clear the cache fails instead.
pub(super) fn with_stable_states(expression: &str, nfa: thompson::Config) -> Option<(DFA, Cache)> {
    let config = DFA::config()
        .match_kind(MatchKind::All)
        .unicode_word_boundary(true)
        .cache_capacity(CACHE_LEN_MAX)
        .skip_cache_capacity_check(true)
        .minimum_cache_clear_count(Some(0));
    let dfa = DFA::builder()
        .configure(config)
        .syntax(syntax::Config::new().utf8(false))
        .thompson(nfa.utf8(false).nfa_size_limit(Some(CACHE_LEN_MAX)))
        .build(expression)
        .ok()?;
    let cache = dfa.create_cache();
    Some((dfa, cache))
}
