//! The servers that an upstream has at one time, and the order of their turns.
//!
//! The order is computed when the set is made: each server has as many turns in a round as its
//! weight, spread evenly. If a turn falls to an unavailable server, another one is drawn from the
//! same order, so that its load is spread by weight and not on one neighbour. If more than half of
//! the servers are unavailable, all are used, as in Envoy (panic mode): the servers are probably
//! not the cause, and the few remaining ones would fail under the full load.
//!
//! Backup servers have an order of their own. They get a request only if no other server is
//! available for it, and then no unavailable one does.

use std::net::SocketAddr;
use std::sync::Arc;

use ahash::AHashMap;

use super::server::UpstreamServer;

use crossgate_config::model::SERVERS_MAX;

/// The maximum number of turns in a round. If the weights add up to more, because names share
/// addresses, all weights are halved until they fit.
const TURNS_MAX: u32 = 1 << 18;
/// Draws before all servers are tried in order. With half of the weight unavailable, one in 65,536
/// turns needs more.
const DRAWS_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Endpoints {
    servers: Box<[WeightedServer]>,
    /// Indexes in `servers`, one for each turn: of all servers but the backup ones.
    order: Box<[u16]>,
    /// The same for backup servers.
    backup_order: Box<[u16]>,
}

/// An address of a server, as configured or resolved.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerEntry {
    pub(super) address: SocketAddr,
    pub(super) weight: u32,
    pub(super) is_backup: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct WeightedServer {
    pub(crate) server: Arc<UpstreamServer>,
    pub(crate) weight: u32,
    /// Whether the server gets requests only while no other one is available.
    pub(crate) is_backup: bool,
}

impl Endpoints {
    /// Creates the set for these addresses. Servers in `before` with the same address are kept.
    /// Duplicate addresses become one server with the sum of their weights, which is a backup
    /// server if all of them are.
    pub(super) fn new(addresses: impl Iterator<Item = ServerEntry>, before: &[WeightedServer]) -> Self {
        let known: AHashMap<SocketAddr, &Arc<UpstreamServer>> =
            before.iter().map(|entry| (entry.server.address, &entry.server)).collect();
        let mut indexes: AHashMap<SocketAddr, usize> = AHashMap::new();
        let mut servers: Vec<WeightedServer> = Vec::new();
        for ServerEntry { address, weight, is_backup } in addresses {
            if let Some(entry) = indexes.get(&address).and_then(|index| servers.get_mut(*index)) {
                entry.weight = entry.weight.saturating_add(weight);
                entry.is_backup &= is_backup;
            } else if servers.len() < SERVERS_MAX {
                indexes.insert(address, servers.len());
                let server = known.get(&address).map(|server| Arc::clone(server));
                servers.push(WeightedServer {
                    server: server.unwrap_or_else(|| Arc::new(UpstreamServer::new(address))),
                    weight,
                    is_backup,
                });
            }
        }
        // A server of the other kind has no turns.
        let order_of = |is_backup: bool| {
            let weight = |entry: &WeightedServer| if entry.is_backup == is_backup { entry.weight } else { 0 };
            order(&servers.iter().map(weight).collect::<Vec<_>>())
        };
        let (order, backup_order) = (order_of(false), order_of(true));
        Endpoints { servers: servers.into(), order, backup_order }
    }

    pub(super) fn servers(&self) -> &[WeightedServer] {
        &self.servers
    }

    /// The server with this address, which is nearly always at `index`.
    pub(super) fn find(&self, index: usize, address: SocketAddr) -> Option<&UpstreamServer> {
        let at_index = self.servers.get(index).filter(|entry| entry.server.address == address);
        let entry = at_index.or_else(|| self.servers.iter().find(|entry| entry.server.address == address))?;
        Some(&entry.server)
    }

    /// Picks the server for this turn, or another available one, different from `last` if possible.
    /// `now` is called only if that server has faults.
    pub(super) fn pick(
        &self,
        turn: usize,
        last: Option<SocketAddr>,
        now: impl Fn() -> u64,
    ) -> Option<(usize, &UpstreamServer)> {
        match self.at(&self.order, turn) {
            Some((index, entry)) if last.is_none() && entry.server.has_no_faults() => Some((index, &entry.server)),
            Some(_) | None => self.pick_other(turn, last, now()),
        }
    }

    #[cold]
    fn pick_other(&self, turn: usize, last: Option<SocketAddr>, now: u64) -> Option<(usize, &UpstreamServer)> {
        let [main, backup] = [false, true].map(|is_backup| self.availability(is_backup, now));
        let is_panicking = main.unavailable * 2 > main.all && (main.has_available() || !backup.has_available());
        let is_usable =
            |entry: &WeightedServer| !entry.server.is_unavailable(now) || (is_panicking && !entry.is_backup);
        let is_other = |entry: &WeightedServer| is_usable(entry) && Some(entry.server.address) != last;
        let other = self.draw(&self.order, turn, |entry| !entry.is_backup && is_other(entry));
        let spare = || self.draw(&self.backup_order, turn, |entry| entry.is_backup && is_other(entry));
        let is_same = |entry: &WeightedServer| Some(entry.server.address) == last && is_usable(entry);
        let same = || self.server(self.servers.iter().position(is_same)?);
        let any = || self.at(&self.order, turn).or_else(|| self.at(&self.backup_order, turn));
        let (index, entry) = other.or_else(spare).or_else(same).or_else(any)?;
        entry.server.readmit(now);
        Some((index, &entry.server))
    }

    /// Draws a server from an order: the one whose turn it is, then others by their weights, then
    /// all servers one by one.
    fn draw(
        &self,
        order: &[u16],
        turn: usize,
        is_wanted: impl Fn(&WeightedServer) -> bool,
    ) -> Option<(usize, &WeightedServer)> {
        let drawn = (0..DRAWS_MAX).filter_map(|draw| self.at(order, scatter(turn, draw)));
        let in_order = (0..self.servers.len()).filter_map(|step| self.server(scatter(turn, 0).wrapping_add(step)));
        self.at(order, turn).into_iter().chain(drawn).chain(in_order).find(|(_, entry)| is_wanted(entry))
    }

    /// Whether one more server may be excluded because requests fail: at most half of its kind, or
    /// any number while a backup server is available in their place.
    pub(super) fn may_exclude(&self, server: &UpstreamServer, now: u64) -> bool {
        let is_backup = self.servers.iter().any(|entry| entry.is_backup && entry.server.address == server.address);
        let kind = self.availability(is_backup, now);
        let is_replaced = || !is_backup && self.availability(true, now).has_available();
        (kind.unavailable + 1) * 2 <= kind.all || is_replaced()
    }

    fn availability(&self, is_backup: bool, now: u64) -> KindAvailability {
        let kind = || self.servers.iter().filter(|entry| entry.is_backup == is_backup);
        let unavailable = kind().filter(|entry| entry.server.is_unavailable(now)).count();
        KindAvailability { all: kind().count(), unavailable }
    }

    fn at(&self, order: &[u16], turn: usize) -> Option<(usize, &WeightedServer)> {
        let index = *order.get(turn.checked_rem(order.len())?)?;
        self.server(usize::from(index))
    }

    fn server(&self, index: usize) -> Option<(usize, &WeightedServer)> {
        let index = index.checked_rem(self.servers.len())?;
        self.servers.get(index).map(|entry| (index, entry))
    }
}

/// How many servers there are of one kind, backup or not, and how many of them are unavailable.
#[derive(Debug, Clone, Copy)]
struct KindAvailability {
    all: usize,
    unavailable: usize,
}

impl KindAvailability {
    fn has_available(self) -> bool {
        self.unavailable < self.all
    }
}

/// The order of a round: a server with N turns has them in the middles of N equal parts of the
/// round.
fn order(weights: &[u32]) -> Box<[u16]> {
    let mut weights = weights.to_vec();
    while weights.iter().fold(0, |sum: u32, weight| sum.saturating_add(*weight)) > TURNS_MAX {
        weights.iter_mut().for_each(|weight| *weight = weight.div_ceil(2));
    }
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(*weight, divisor)).max(1);
    let mut turns: Vec<(u64, u16)> = Vec::new();
    for (index, weight) in (0..).zip(weights) {
        let own = u64::from(weight / divisor);
        // Positions are fixed-point fractions of half a round, so that equal positions compare as
        // equal.
        turns.extend((0..own).map(|turn| (((2 * turn + 1) << 32) / own.max(1), index)));
    }
    turns.sort_unstable();
    turns.into_iter().map(|(_, index)| index).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A reproducible pseudo-random number: the finalizer of SplitMix64.
fn scatter(turn: usize, draw: usize) -> usize {
    let mut bits = (turn as u64).wrapping_mul(DRAWS_MAX as u64).wrapping_add(draw as u64);
    bits = bits.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    usize::try_from((bits ^ (bits >> 31)) >> 1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    /// Servers at ports from 1 with these weights.
    fn endpoints(weights: &[u32]) -> Endpoints {
        Endpoints::new((1..).zip(weights.iter().copied()).map(entry), &[])
    }

    fn entry((port, weight): (u16, u32)) -> ServerEntry {
        ServerEntry { address: address(port), weight, is_backup: false }
    }

    fn backup(port: u16, weight: u32) -> ServerEntry {
        ServerEntry { is_backup: true, ..entry((port, weight)) }
    }

    /// The number of picks of each server.
    fn counts(endpoints: &Endpoints, turns: usize) -> Vec<usize> {
        let mut counts = vec![0; endpoints.servers().len()];
        (0..turns).for_each(|turn| counts[endpoints.pick(turn, None, || 1).unwrap().0] += 1);
        counts
    }

    #[test]
    fn round_has_turns_by_weight_spread_evenly() {
        for (weights, expected) in [
            (&[1, 1, 1][..], &[0, 1, 2][..]),
            (&[7, 7], &[0, 1]),
            (&[3, 1], &[0, 0, 1, 0]),
            (&[20, 10, 10], &[0, 1, 2, 0]),
            (&[5, 1, 1], &[0, 0, 0, 1, 2, 0, 0]),
            (&[], &[]),
        ] {
            assert_eq!(*order(weights), *expected, "{weights:?}");
        }
        let order = order(&[256, 1]);
        assert_eq!(order.len(), 257);
        assert_eq!(order.iter().position(|index| *index == 1), Some(128));
    }

    #[test]
    fn load_of_unavailable_servers_is_spread_by_weight() {
        let endpoints = endpoints(&[4, 2, 1, 1]);
        assert_eq!(counts(&endpoints, 8_000), [4_000, 2_000, 1_000, 1_000]);
        endpoints.servers()[0].server.set_unhealthy(true);
        let counts = counts(&endpoints, 80_000);
        assert_eq!(counts[0], 0);
        for (index, share) in [(1, 40_000), (2, 20_000), (3, 20_000)] {
            assert!(counts[index].abs_diff(share) < share / 20, "{counts:?}");
        }
    }

    #[test]
    fn only_available_server_with_small_weight_is_found() {
        let endpoints = endpoints(&[256, 1]);
        endpoints.servers()[0].server.set_unhealthy(true);
        assert_eq!(counts(&endpoints, 5_000), [0, 5_000]);
    }

    #[test]
    fn all_servers_are_used_when_more_than_half_are_unavailable() {
        let endpoints = endpoints(&[1, 1, 1, 1]);
        let set = |index: usize| endpoints.servers()[index].server.set_unhealthy(true);
        set(0);
        set(1);
        assert_eq!(counts(&endpoints, 400)[..2], [0, 0]);
        set(2);
        assert_eq!(counts(&endpoints, 400), [100; 4]);
        set(3);
        assert_eq!(counts(&endpoints, 400), [100; 4]);
    }

    #[test]
    fn retry_goes_to_another_available_server() {
        let endpoints = endpoints(&[200, 1, 1]);
        let other = |last: u16| (0..1_000).map(move |turn| (turn, last));
        for (turn, last) in other(1).chain(other(2)) {
            let (_, server) = endpoints.pick(turn, Some(address(last)), || 1).unwrap();
            assert_ne!(server.address, address(last));
        }
        endpoints.servers()[0].server.set_unhealthy(true);
        let (_, server) = endpoints.pick(0, Some(address(2)), || 1).unwrap();
        assert_eq!(server.address, address(3));
        let alone = self::endpoints(&[1]);
        assert_eq!(alone.pick(7, Some(address(1)), || 1).unwrap().1.address, address(1));
        assert!(self::endpoints(&[]).pick(0, None, || 1).is_none());
    }

    #[test]
    fn backup_servers_get_requests_while_no_other_server_is_available() {
        let entries = [entry((1, 1)), entry((2, 1)), backup(3, 3), backup(4, 1)];
        let endpoints = Endpoints::new(entries.into_iter(), &[]);
        let set = |index: usize, is_down| endpoints.servers()[index].server.set_unhealthy(is_down);
        assert_eq!(counts(&endpoints, 400), [200, 200, 0, 0]);
        set(0, true);
        assert_eq!(counts(&endpoints, 400), [0, 400, 0, 0]);
        set(1, true);
        assert_eq!(counts(&endpoints, 400), [0, 0, 300, 100]);
        set(2, true);
        assert_eq!(counts(&endpoints, 400), [0, 0, 0, 400]);
        set(3, true);
        assert_eq!(counts(&endpoints, 400), [200, 200, 0, 0], "all are down, so the main ones are tried");
        set(0, false);
        assert_eq!(counts(&endpoints, 400), [400, 0, 0, 0]);
    }

    #[test]
    fn retry_goes_to_a_backup_server_if_there_is_no_other_one() {
        let alone = Endpoints::new([entry((1, 1)), backup(2, 1)].into_iter(), &[]);
        let retried =
            |endpoints: &Endpoints, last: u16| endpoints.pick(0, Some(address(last)), || 1).unwrap().1.address.port();
        assert_eq!(retried(&alone, 1), 2);
        alone.servers()[1].server.set_unhealthy(true);
        assert_eq!(retried(&alone, 1), 1);
        let several = Endpoints::new([entry((1, 1)), entry((2, 1)), backup(3, 1)].into_iter(), &[]);
        assert_eq!(retried(&several, 1), 2);
        // Names that have not resolved yet have no servers.
        let unresolved = Endpoints::new([backup(3, 1)].into_iter(), &[]);
        assert_eq!(unresolved.pick(5, None, || 1).unwrap().1.address, address(3));
    }

    #[test]
    fn available_backup_server_lets_all_others_be_excluded() {
        let endpoints = Endpoints::new([entry((1, 1)), entry((2, 1)), backup(3, 1), backup(4, 1)].into_iter(), &[]);
        let servers = endpoints.servers();
        let may_exclude = |index: usize| endpoints.may_exclude(&servers[index].server, 1);
        servers[0].server.set_unhealthy(true);
        assert!(may_exclude(1) && may_exclude(2));
        servers[2].server.set_unhealthy(true);
        assert!(may_exclude(1) && !may_exclude(3), "a backup server is excluded like any other");
        servers[3].server.set_unhealthy(true);
        assert!(!may_exclude(1));
    }

    #[test]
    fn duplicate_address_is_one_server_with_the_sum_of_weights() {
        let endpoints = Endpoints::new([(1, 1), (2, 1), (1, 2)].into_iter().map(entry), &[]);
        assert_eq!(endpoints.servers().len(), 2);
        assert_eq!(counts(&endpoints, 400), [300, 100]);
    }

    #[test]
    fn remaining_servers_keep_their_state() {
        let before = endpoints(&[1, 1]);
        before.servers()[1].server.set_unhealthy(true);
        let after = Endpoints::new([(3, 1), (2, 5)].into_iter().map(entry), before.servers());
        assert!(Arc::ptr_eq(&after.servers()[1].server, &before.servers()[1].server));
        assert_eq!(after.find(7, address(2)).unwrap().address, address(2));
        assert!(after.find(0, address(1)).is_none());
    }

    #[test]
    fn servers_and_turns_are_bounded() {
        let many = Endpoints::new((1..).zip(std::iter::repeat_n(256, SERVERS_MAX + 5)).map(entry), &[]);
        assert_eq!((many.servers().len(), many.order.len()), (SERVERS_MAX, SERVERS_MAX));
        let heavy = order(&[u32::MAX, u32::MAX - 1, 1]);
        assert!(heavy.len() <= TURNS_MAX as usize && heavy.contains(&2), "{}", heavy.len());
    }
}
