//! Whose domains a regex covers: whether everything it matches lies in domains that its text fixes.
//!
//! The regex is run backwards, from the end of an origin, over every byte a host can have. Where the name read so far is
//! a domain that somebody can own, the rest of the host is that owner's business. Where it is not yet one, all that may
//! precede it must be a short list of literals: a class, a repetition or a loop there is met by names that strangers can
//! register. This sees what the expression means, however it is written. Hosts that end in a digit are absent, as those
//! are addresses or names of an own network. It runs at compile; what it cannot tell within its limits, it refuses.

use std::collections::{HashSet, VecDeque};

use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::{start, syntax};
use regex_automata::{Anchored, MatchKind};

use super::parse::parse;
use super::suffix;

/// What may precede a name that is not yet a domain: more bytes than this, all meaning the same, are no list of names.
const LITERALS_MAX: usize = 8;

/// The most names that are looked at: far more than a list of domains has.
const STEPS_MAX: usize = 4096;

/// The most places that are looked at for public suffixes which the expression spells out below somebody's domain.
const SPELT_STEPS_MAX: usize = 1024;

/// The most states that are looked at for a sample.
const SAMPLE_STEPS_MAX: usize = 1024;

/// The most memory that running backwards takes, in bytes.
const CACHE_LEN_MAX: usize = 8 << 20;

/// The longest host, and the longest port.
const HOST_LEN_MAX: usize = 253;
const PORT_LEN_MAX: usize = 5;

/// Bytes of a label; those that make the best sample first.
const LABEL_BYTES: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-_";

/// Why a regex is not known to keep to domains of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stray {
    /// It lets this origin in, or one that ends so after `..`.
    Stranger(String),
    /// It is too complex to tell.
    Unclear,
}

/// A place on the way back: the state, and what was read, last byte first.
#[derive(Clone)]
struct Spot {
    state: LazyStateID,
    read: Vec<u8>,
}

impl Spot {
    /// The name that was read, before a port of that length.
    fn host(&self, port_len: usize) -> String {
        self.read.iter().skip(port_len).rev().map(|byte| char::from(*byte)).collect()
    }
}

enum Stop {
    Stranger(Spot),
    Unclear,
}

struct Walk {
    dfa: DFA,
    cache: Cache,
    steps_left: usize,
    spelt_steps_left: usize,
}

/// Why the expression, which matches whole origins as it stands, is not known to keep to domains that its text fixes.
pub(crate) fn stray(whole: &str) -> Option<Stray> {
    let Some(mut walk) = Walk::new(whole) else { return Some(Stray::Unclear) };
    match walk.run() {
        Ok(()) => None,
        Err(Stop::Unclear) => Some(Stray::Unclear),
        Err(Stop::Stranger(spot)) => Some(Stray::Stranger(walk.sample(spot))),
    }
}

impl Walk {
    fn new(whole: &str) -> Option<Self> {
        let config = DFA::config()
            .match_kind(MatchKind::All)
            .unicode_word_boundary(true)
            .cache_capacity(CACHE_LEN_MAX)
            .skip_cache_capacity_check(true)
            // States would get new numbers; so it gives up instead.
            .minimum_cache_clear_count(Some(0));
        let dfa = DFA::builder()
            .configure(config)
            .syntax(syntax::Config::new().utf8(false))
            .thompson(thompson::Config::new().reverse(true).utf8(false).nfa_size_limit(Some(CACHE_LEN_MAX)))
            .build(whole)
            .ok()?;
        let cache = dfa.create_cache();
        Some(Self { dfa, cache, steps_left: STEPS_MAX, spelt_steps_left: SPELT_STEPS_MAX })
    }

    fn run(&mut self) -> Result<(), Stop> {
        let ends = self.host_ends()?;
        ends.into_iter().try_for_each(|end| {
            let port_len = end.read.len();
            self.walk(&end, port_len, &mut Vec::new())
        })
    }

    /// Where a host may end: at the end, and before every port.
    fn host_ends(&mut self) -> Result<Vec<Spot>, Stop> {
        let config = start::Config::new().anchored(Anchored::Yes);
        let state = self.dfa.start_state(&mut self.cache, &config).map_err(|_| Stop::Unclear)?;
        let mut ends = vec![Spot { state, read: Vec::new() }];
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

    /// Adds where each of the bytes leads, each state once.
    fn extend(&mut self, from: &Spot, bytes: &[u8], spots: &mut Vec<Spot>) -> Result<(), Stop> {
        for byte in bytes {
            if let Some(spot) = self.step(from, *byte)?
                && !spots.iter().any(|known| known.state == spot.state)
            {
                spots.push(spot);
            }
        }
        Ok(())
    }

    /// Reads on from a name that is not yet a domain; `way` are the states since the host's end.
    fn walk(&mut self, spot: &Spot, port_len: usize, way: &mut Vec<LazyStateID>) -> Result<(), Stop> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(Stop::Unclear)?;
        let name = spot.read.get(port_len..).unwrap_or_default();
        if name.len() > HOST_LEN_MAX {
            return Ok(());
        }
        let is_label_end = matches!(name, [] | [.., b'.']);
        let nexts = self.label_steps(spot, name.is_empty())?;
        if way.contains(&spot.state) {
            return Err(Stop::Stranger(spot.clone()));
        }
        if let Some(class) = class(&nexts) {
            return Err(Stop::Stranger(class.clone()));
        }
        way.push(spot.state);
        nexts.iter().try_for_each(|next| self.walk(next, port_len, way))?;
        if !is_label_end && let Some(next) = self.step(spot, b'.')? {
            self.cross_dot(spot, &next, port_len, way)?;
        }
        way.pop();
        Ok(())
    }

    fn label_steps(&mut self, spot: &Spot, is_last: bool) -> Result<Vec<Spot>, Stop> {
        let bytes = LABEL_BYTES.iter().filter(|byte| !(is_last && byte.is_ascii_digit()));
        let steps = bytes.map(|byte| self.step(spot, *byte));
        steps.filter_map(Result::transpose).collect()
    }

    /// Reads on before the dot, unless what follows the dot is a domain that somebody owns.
    fn cross_dot(&mut self, name: &Spot, dot: &Spot, port_len: usize, way: &mut Vec<LazyStateID>) -> Result<(), Stop> {
        let domain = name.host(port_len);
        if suffix::is_open(&domain) {
            return self.walk(dot, port_len, way);
        }
        self.walk_spelt(dot, port_len)?;
        suffix::below(&domain).try_for_each(|below| {
            let labels = below.strip_suffix(domain.as_str()).unwrap_or_default().trim_end_matches('.');
            self.walk_below(dot, labels, port_len)
        })
    }

    /// Reads on before a public suffix that lies below somebody's domain.
    fn walk_below(&mut self, dot: &Spot, labels: &str, port_len: usize) -> Result<(), Stop> {
        let mut spot = dot.clone();
        for byte in labels.bytes().rev().chain([b'.']) {
            let Some(next) = self.step(&spot, byte)? else { return Ok(()) };
            spot = next;
        }
        // The labels were picked here and not by the expression, so passing through a state twice is no loop of it.
        self.walk(&spot, port_len, &mut Vec::new())
    }

    /// Reads on below somebody's domain as far as the expression spells names out, for public suffixes that [`suffix::below`] does not
    /// know of.
    fn walk_spelt(&mut self, spot: &Spot, port_len: usize) -> Result<(), Stop> {
        let Some(left) = self.spelt_steps_left.checked_sub(1) else { return Ok(()) };
        self.spelt_steps_left = left;
        let nexts = self.label_steps(spot, false)?;
        if class(&nexts).is_some() {
            return Ok(());
        }
        for next in &nexts {
            self.walk_spelt(next, port_len)?;
            match self.step(next, b'.')? {
                Some(dot) if suffix::is_open(&next.host(port_len)) => self.walk(&dot, port_len, &mut Vec::new())?,
                Some(dot) => self.walk_spelt(&dot, port_len)?,
                None => {}
            }
        }
        Ok(())
    }

    /// One byte further back, if the expression may still match then.
    fn step(&mut self, from: &Spot, byte: u8) -> Result<Option<Spot>, Stop> {
        let state = self.dfa.next_state(&mut self.cache, from.state, byte).map_err(|_| Stop::Unclear)?;
        if state.is_quit() {
            return Err(Stop::Unclear);
        }
        let read = || from.read.iter().copied().chain([byte]).collect();
        Ok((!state.is_dead()).then(|| Spot { state, read: read() }))
    }

    /// An origin that ends with what was read, or at least that end.
    fn sample(&mut self, spot: Spot) -> String {
        let text = |read: &[u8]| read.iter().rev().map(|byte| char::from(*byte)).collect::<String>();
        let end = format!("..{}", text(&spot.read));
        let (mut seen, mut queue) = (HashSet::new(), VecDeque::from([spot]));
        while let Some(spot) = queue.pop_front().filter(|_| seen.len() < SAMPLE_STEPS_MAX) {
            for scheme in ["https", "http"] {
                let origin = format!("{scheme}://{}", text(&spot.read));
                if parse(origin.as_bytes()).is_ok() && self.ends_with_scheme(&spot, scheme) {
                    return origin;
                }
            }
            for byte in LABEL_BYTES.iter().chain(b".") {
                if let Ok(Some(next)) = self.step(&spot, *byte)
                    && seen.insert(next.state)
                {
                    queue.push_back(next);
                }
            }
        }
        end
    }

    fn ends_with_scheme(&mut self, spot: &Spot, scheme: &str) -> bool {
        let mut spot = spot.clone();
        for byte in b"//:".iter().copied().chain(scheme.bytes().rev()) {
            let Ok(Some(next)) = self.step(&spot, byte) else { return false };
            spot = next;
        }
        self.dfa.next_eoi_state(&mut self.cache, spot.state).is_ok_and(|state| state.is_match())
    }
}

/// Where a class leads, if there is one among the steps: many bytes that mean the same.
fn class(steps: &[Spot]) -> Option<&Spot> {
    steps.iter().find(|one| steps.iter().filter(|other| other.state == one.state).count() > LITERALS_MAX)
}
