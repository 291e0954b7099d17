//! Finds the routes that cover a path among many, the most particular first.
//!
//! Prefixes are sorted by segments, so that those below a prefix follow it at once. The last prefix
//! that is not after a path is then the longest that covers it, or lies below that one: a binary
//! search, and the steps up from there.

use std::cmp::Ordering;

use crossgate_config::model::covers;

/// The routes of one tenant by path.
#[derive(Debug)]
pub(crate) struct RouteIndex {
    exact: Box<[RoutesOfPath]>,
    prefixes: Box<[IndexedPrefix]>,
}

/// A path, and the routes with it in their order.
type RoutesOfPath = (Box<str>, Vec<usize>);

#[derive(Debug)]
struct IndexedPrefix {
    /// Empty for `/`.
    path: Box<str>,
    /// The routes with this prefix, in their order.
    routes: Box<[usize]>,
    /// The longest prefix above this one.
    parent: Option<usize>,
}

impl RouteIndex {
    /// An index of routes, each with its path and whether that is exact, in the order in which they
    /// are tried.
    pub(crate) fn new<P: AsRef<str>>(routes: impl IntoIterator<Item = (P, bool)>) -> Self {
        let mut exact: Vec<RoutesOfPath> = Vec::new();
        let mut prefixes: Vec<RoutesOfPath> = Vec::new();
        for (number, (path, is_exact)) in routes.into_iter().enumerate() {
            let path = path.as_ref();
            match is_exact {
                true => exact.push((path.into(), vec![number])),
                false => prefixes.push((if path == "/" { "" } else { path }.into(), vec![number])),
            }
        }
        // Both sorts are stable, so routes of one path keep their order.
        exact.sort_by(|(one, _), (other, _)| one.cmp(other));
        prefixes.sort_by(|(one, _), (other, _)| by_segments(one, other));
        let mut open: Vec<usize> = Vec::new();
        let mut indexed: Vec<IndexedPrefix> = Vec::new();
        for (path, routes) in merged(prefixes) {
            let is_above = |at: &usize| indexed.get(*at).is_some_and(|above| is_below(&path, &above.path));
            while open.last().is_some_and(|at| !is_above(at)) {
                open.pop();
            }
            let parent = open.last().copied();
            open.push(indexed.len());
            indexed.push(IndexedPrefix { path, routes: routes.into(), parent });
        }
        RouteIndex { exact: merged(exact).into(), prefixes: indexed.into() }
    }

    /// The numbers of the routes that cover a path, in the order in which they are tried.
    pub(crate) fn covering<'i>(&'i self, path: &'i str) -> impl Iterator<Item = usize> + use<'i> {
        let found = self.exact.binary_search_by(|(exact, _)| (**exact).cmp(path)).ok();
        let exact = found.and_then(|at| self.exact.get(at)).map(|(_, routes)| routes);
        let after = self.prefixes.partition_point(|prefix| by_segments(&prefix.path, path) != Ordering::Greater);
        let last = after.checked_sub(1);
        let upwards = std::iter::successors(last, |at| self.prefixes.get(*at)?.parent);
        let prefixes =
            upwards.filter_map(|at| self.prefixes.get(at)).filter(move |prefix| is_below(path, &prefix.path));
        exact.into_iter().flatten().copied().chain(prefixes.flat_map(|prefix| prefix.routes.iter().copied()))
    }
}

fn is_below(path: &str, prefix: &str) -> bool {
    prefix.is_empty() || covers(prefix, false, path)
}

/// The order in which everything below a prefix follows it at once.
fn by_segments(one: &str, other: &str) -> Ordering {
    let key = |byte: u8| if byte == b'/' { 0 } else { byte };
    one.bytes().map(key).cmp(other.bytes().map(key))
}

/// Equal paths, which follow each other, as one.
fn merged(sorted: Vec<RoutesOfPath>) -> Vec<RoutesOfPath> {
    let mut merged: Vec<RoutesOfPath> = Vec::new();
    for (path, routes) in sorted {
        match merged.last_mut() {
            Some((last, all)) if *last == path => all.extend(routes),
            Some(_) | None => merged.push((path, routes)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn index_finds_what_a_search_of_all_finds(
            mut routes in proptest::collection::vec(("/|(/[ab]{1,2}){1,4}", any::<bool>()), 1..40),
            paths in proptest::collection::vec("/|(/[abc]{0,2}){1,5}", 1..20),
        ) {
            routes.sort_by_key(|(path, is_exact)| (!is_exact, Reverse(path.len())));
            let index = RouteIndex::new(routes.iter().map(|(path, is_exact)| (path, *is_exact)));
            for path in paths {
                let naive: Vec<usize> = (0..routes.len()).filter(|&at| covers(&routes[at].0, routes[at].1, &path)).collect();
                prop_assert_eq!(index.covering(&path).collect::<Vec<_>>(), naive, "{} {:?}", path, routes);
            }
        }
    }
}
