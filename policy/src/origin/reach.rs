//! Checks that a regex matches only origins in the domains that its text contains.
//!
//! The regex runs backwards, from the end of an origin, over every byte that a host can have. If
//! the name read so far is a registrable domain, its owner controls the rest of the host. If not,
//! only a short list of literals may precede it: a class, a repetition or a loop there also matches
//! names that an attacker can register. The check works on the automaton, so the spelling of the
//! expression does not matter. Hosts that end in a digit are left out, since they are addresses or
//! names of a private network. The check runs when a policy is compiled. It refuses an expression
//! that it cannot check within its limits.

use std::collections::{HashSet, VecDeque};

use regex_automata::Anchored;
use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::{start, syntax};

use super::automaton::{self, CACHE_LEN_MAX};
use super::extension::ExtensionScheme;
use super::parse::parse;
use super::suffix;

/// The most bytes with the same successor state before a name that is not yet a domain. More of
/// them are a class and not a list of names.
const LITERALS_MAX: usize = 8;

/// The most names that are checked: far more than a list of domains has.
const STEPS_MAX: usize = 4096;

/// The most positions that are searched for public suffixes in literals under a registrable domain.
const LITERAL_STEPS_MAX: usize = 1024;

/// The most states that are searched for a sample.
const SAMPLE_STEPS_MAX: usize = 1024;

/// The most states that are searched for the scheme of a sample.
const SCHEME_STEPS_MAX: usize = 128;

/// The longest host and the longest port, in bytes.
const HOST_LEN_MAX: usize = 253;
const PORT_LEN_MAX: usize = 5;

/// The bytes of a label. Those that make the best sample come first.
const LABEL_BYTES: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-_";

/// The bytes of a scheme. Those that make the best sample come first.
const SCHEME_BYTES: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789+-.";

/// The reason why a regex may match unlisted origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReachProblem {
    /// The regex matches this unlisted origin. A text that begins with `..` is the end of one.
    Unlisted(String),
    /// The regex is too complex to check.
    Unclear,
}

/// A position in the backward walk: the state, and the bytes read, the last byte of the origin
/// first.
#[derive(Clone)]
struct WalkPosition {
    state: LazyStateID,
    read: Vec<u8>,
}

impl WalkPosition {
    /// Returns the name that was read, without a port of `port_len` bytes.
    fn host(&self, port_len: usize) -> String {
        self.read.iter().skip(port_len).rev().map(|byte| char::from(*byte)).collect()
    }
}

enum WalkStop {
    Unlisted(WalkPosition),
    Unclear,
}

struct BackwardWalk {
    dfa: DFA,
    cache: Cache,
    steps_left: usize,
    literal_steps_left: usize,
}

/// Returns the problem of an anchored expression that may match origins outside the domains in its
/// text.
pub(crate) fn reach_problem(whole: &str) -> Option<ReachProblem> {
    let Some(mut walk) = BackwardWalk::new(whole) else { return Some(ReachProblem::Unclear) };
    match walk.run() {
        Ok(()) => None,
        Err(WalkStop::Unclear) => Some(ReachProblem::Unclear),
        Err(WalkStop::Unlisted(position)) => Some(ReachProblem::Unlisted(walk.sample(position))),
    }
}

/// Whether an anchored expression may match plain `http` other than loopback. If that cannot be
/// checked, the result is `false`.
pub(crate) fn covers_insecure(whole: &str) -> bool {
    ForwardRun::new(whole).is_some_and(|mut forward| forward.covers_insecure()) && !ends_in_localhost(whole)
}

fn ends_in_localhost(whole: &str) -> bool {
    let Some(mut walk) = BackwardWalk::new(whole) else { return false };
    let Ok(ends) = walk.host_ends() else { return false };
    // If the port is mandatory, no host ends at the end of the origin.
    let is_host_end =
        |walk: &mut BackwardWalk, end: &WalkPosition| walk.label_steps(end, true).is_ok_and(|steps| !steps.is_empty());
    let hosts: Vec<WalkPosition> = ends.into_iter().filter(|end| is_host_end(&mut walk, end)).collect();
    !hosts.is_empty() && hosts.into_iter().all(|end| walk.reads_only(end, b"tsohlacol"))
}

/// The automaton of the expression, run forwards from the beginning of an origin.
struct ForwardRun {
    dfa: DFA,
    cache: Cache,
}

impl ForwardRun {
    fn new(whole: &str) -> Option<Self> {
        let config =
            DFA::config().unicode_word_boundary(true).cache_capacity(CACHE_LEN_MAX).skip_cache_capacity_check(true);
        let dfa = DFA::builder()
            .configure(config)
            .syntax(syntax::Config::new().utf8(false))
            .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(CACHE_LEN_MAX)))
            .build(whole)
            .ok()?;
        let cache = dfa.create_cache();
        Some(Self { dfa, cache })
    }

    /// Whether a host other than loopback may follow `http://`. Loopback hosts have known prefixes,
    /// and any other continuation is another host.
    fn covers_insecure(&mut self) -> bool {
        let hosts: Vec<u8> = LABEL_BYTES.iter().chain(b"[.").copied().collect();
        let live = |forward: &mut Self, read: &[u8]| -> Vec<u8> {
            hosts
                .iter()
                .copied()
                .filter(|byte| forward.may_begin_with(&[b"http://", read, &[*byte]].concat()))
                .collect()
        };
        let first = live(self, b"");
        let mut prefixes = [&b"localhost:"[..], b"127.", b"[::1]"].into_iter();
        let leaves = |forward: &mut Self, prefix: &[u8]| {
            let is_possible = prefix.first().is_some_and(|byte| first.contains(byte));
            let mut cuts = (1..prefix.len()).filter_map(|len| Some((prefix.get(..len)?, prefix.get(len)?)));
            is_possible && cuts.any(|(read, next)| live(forward, read).iter().any(|byte| byte != next))
        };
        first.iter().any(|byte| !b"l1[".contains(byte)) || prefixes.any(|prefix| leaves(self, prefix))
    }

    fn may_begin_with(&mut self, text: &[u8]) -> bool {
        let config = start::Config::new().anchored(Anchored::Yes);
        let Ok(mut state) = self.dfa.start_state(&mut self.cache, &config) else { return false };
        for byte in text {
            match self.dfa.next_state(&mut self.cache, state, *byte) {
                Ok(next) if !next.is_dead() && !next.is_quit() => state = next,
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }
}

impl BackwardWalk {
    /// Whether only these bytes can be read next. The first of them is the last byte of a host,
    /// where digits belong to a port or an address.
    fn reads_only(&mut self, from: WalkPosition, bytes: &[u8]) -> bool {
        let mut position = from;
        for (index, byte) in bytes.iter().enumerate() {
            let Ok(nexts) = self.label_steps(&position, index == 0) else { return false };
            match nexts.as_slice() {
                [only] if only.read.last() == Some(byte) => position = only.clone(),
                _ => return false,
            }
        }
        true
    }

    fn new(whole: &str) -> Option<Self> {
        let (dfa, cache) = automaton::with_stable_states(whole, thompson::Config::new().reverse(true))?;
        Some(Self { dfa, cache, steps_left: STEPS_MAX, literal_steps_left: LITERAL_STEPS_MAX })
    }

    fn run(&mut self) -> Result<(), WalkStop> {
        let ends = self.host_ends()?;
        ends.into_iter().try_for_each(|end| {
            let port_len = end.read.len();
            self.walk(&end, port_len, &mut Vec::new())
        })
    }

    /// Returns the positions where a host may end: at the end of the origin, and before every port.
    fn host_ends(&mut self) -> Result<Vec<WalkPosition>, WalkStop> {
        let config = start::Config::new().anchored(Anchored::Yes);
        let state = self.dfa.start_state(&mut self.cache, &config).map_err(|_| WalkStop::Unclear)?;
        let mut ends = vec![WalkPosition { state, read: Vec::new() }];
        let mut ports = ends.clone();
        for _ in 0..PORT_LEN_MAX {
            let mut longer = Vec::new();
            for port in &ports {
                self.extend(port, b"8123456790", &mut longer)?;
            }
            for port in &longer {
                self.extend(port, b":", &mut ends)?;
            }
            ports = longer;
        }
        Ok(ends)
    }

    /// Adds the successors for the given bytes, each state once.
    fn extend(&mut self, from: &WalkPosition, bytes: &[u8], positions: &mut Vec<WalkPosition>) -> Result<(), WalkStop> {
        for byte in bytes {
            if let Some(position) = self.step(from, *byte)?
                && !positions.iter().any(|known| known.state == position.state)
            {
                positions.push(position);
            }
        }
        Ok(())
    }

    /// Continues from a name that is not yet a domain. `visited` has the states since the end of
    /// the host.
    fn walk(
        &mut self,
        position: &WalkPosition,
        port_len: usize,
        visited: &mut Vec<LazyStateID>,
    ) -> Result<(), WalkStop> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(WalkStop::Unclear)?;
        let name = position.read.get(port_len..).unwrap_or_default();
        if name.len() > HOST_LEN_MAX {
            return Ok(());
        }
        let is_label_end = matches!(name, [] | [.., b'.']);
        let nexts = self.label_steps(position, name.is_empty())?;
        if visited.contains(&position.state) {
            return Err(WalkStop::Unlisted(position.clone()));
        }
        if let Some(class) = class(&nexts) {
            return Err(WalkStop::Unlisted(class.clone()));
        }
        visited.push(position.state);
        nexts.iter().try_for_each(|next| self.walk(next, port_len, visited))?;
        if !is_label_end && let Some(next) = self.step(position, b'.')? {
            self.cross_dot(position, &next, port_len, visited)?;
        }
        visited.pop();
        Ok(())
    }

    fn label_steps(&mut self, position: &WalkPosition, is_last: bool) -> Result<Vec<WalkPosition>, WalkStop> {
        let bytes = LABEL_BYTES.iter().filter(|byte| !(is_last && byte.is_ascii_digit()));
        let steps = bytes.map(|byte| self.step(position, *byte));
        steps.filter_map(Result::transpose).collect()
    }

    /// Continues before the dot, unless the name after the dot is a registrable domain.
    fn cross_dot(
        &mut self,
        name: &WalkPosition,
        dot: &WalkPosition,
        port_len: usize,
        visited: &mut Vec<LazyStateID>,
    ) -> Result<(), WalkStop> {
        let domain = name.host(port_len);
        if suffix::is_open(&domain) {
            return self.walk(dot, port_len, visited);
        }
        self.walk_literals(dot, port_len)?;
        suffix::below(&domain).try_for_each(|below| {
            let labels = below.strip_suffix(domain.as_str()).unwrap_or_default().trim_end_matches('.');
            self.walk_below(dot, labels, port_len)
        })
    }

    /// Continues before a public suffix that lies under a registrable domain.
    fn walk_below(&mut self, dot: &WalkPosition, labels: &str, port_len: usize) -> Result<(), WalkStop> {
        let mut position = dot.clone();
        for byte in labels.bytes().rev().chain([b'.']) {
            let Some(next) = self.step(&position, byte)? else { return Ok(()) };
            position = next;
        }
        // These labels come from the list and not from the expression, so a repeated state is not a
        // loop.
        self.walk(&position, port_len, &mut Vec::new())
    }

    /// Continues under a registrable domain as far as the expression has literals, to find public
    /// suffixes that [`suffix::below`] does not list.
    fn walk_literals(&mut self, position: &WalkPosition, port_len: usize) -> Result<(), WalkStop> {
        let Some(left) = self.literal_steps_left.checked_sub(1) else { return Ok(()) };
        self.literal_steps_left = left;
        let nexts = self.label_steps(position, false)?;
        if class(&nexts).is_some() {
            return Ok(());
        }
        for next in &nexts {
            self.walk_literals(next, port_len)?;
            match self.step(next, b'.')? {
                Some(dot) if suffix::is_open(&next.host(port_len)) => self.walk(&dot, port_len, &mut Vec::new())?,
                Some(dot) => self.walk_literals(&dot, port_len)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Reads one byte further back. Returns `None` if the expression can no longer match.
    fn step(&mut self, from: &WalkPosition, byte: u8) -> Result<Option<WalkPosition>, WalkStop> {
        let state = self.dfa.next_state(&mut self.cache, from.state, byte).map_err(|_| WalkStop::Unclear)?;
        if state.is_quit() {
            return Err(WalkStop::Unclear);
        }
        let read = || from.read.iter().copied().chain([byte]).collect();
        Ok((!state.is_dead()).then(|| WalkPosition { state, read: read() }))
    }

    /// Returns an origin that ends with the bytes read, or only that end after `..`.
    fn sample(&mut self, position: WalkPosition) -> String {
        let text = |read: &[u8]| read.iter().rev().map(|byte| char::from(*byte)).collect::<String>();
        let end = format!("..{}", text(&position.read));
        let (mut seen, mut queue) = (HashSet::new(), VecDeque::from([position]));
        while let Some(position) = queue.pop_front().filter(|_| seen.len() < SAMPLE_STEPS_MAX) {
            if let Some(scheme) = self.scheme_before(&position) {
                let origin = format!("{scheme}://{}", text(&position.read));
                if parse(origin.as_bytes()).is_ok() {
                    return origin;
                }
            }
            for byte in LABEL_BYTES.iter().chain(b".") {
                if let Ok(Some(next)) = self.step(&position, *byte)
                    && seen.insert(next.state)
                {
                    queue.push_back(next);
                }
            }
        }
        end
    }

    /// Returns a scheme that may precede the bytes read: a common one, or the shortest.
    fn scheme_before(&mut self, position: &WalkPosition) -> Option<String> {
        let end = self.read_back(position, "://")?;
        let extensions = ExtensionScheme::ALL.map(|scheme| scheme.star().trim_end_matches("://*"));
        let common = ["https", "http"].into_iter().chain(extensions);
        let known = common
            .into_iter()
            .find(|scheme| self.read_back(&end, scheme).is_some_and(|position| self.is_start(&position)));
        known.map(str::to_owned).or_else(|| self.shortest_scheme(end))
    }

    fn shortest_scheme(&mut self, end: WalkPosition) -> Option<String> {
        let from = end.read.len();
        let (mut seen, mut queue) = (HashSet::new(), VecDeque::from([end]));
        while let Some(position) = queue.pop_front().filter(|_| seen.len() < SCHEME_STEPS_MAX) {
            let scheme = position.host(from);
            if scheme.starts_with(|first: char| first.is_ascii_lowercase()) && self.is_start(&position) {
                return Some(scheme);
            }
            for byte in SCHEME_BYTES {
                if let Ok(Some(next)) = self.step(&position, *byte)
                    && seen.insert(next.state)
                {
                    queue.push_back(next);
                }
            }
        }
        None
    }

    /// Reads a text backwards and returns the position.
    fn read_back(&mut self, position: &WalkPosition, text: &str) -> Option<WalkPosition> {
        text.bytes().rev().try_fold(position.clone(), |position, byte| self.step(&position, byte).ok().flatten())
    }

    /// Whether the expression matches an origin that begins at this position.
    fn is_start(&mut self, position: &WalkPosition) -> bool {
        self.dfa.next_eoi_state(&mut self.cache, position.state).is_ok_and(|state| state.is_match())
    }
}

/// Returns the successor of a class, if there is one among the steps: many bytes with the same
/// state.
fn class(steps: &[WalkPosition]) -> Option<&WalkPosition> {
    steps.iter().find(|one| steps.iter().filter(|other| other.state == one.state).count() > LITERALS_MAX)
}
