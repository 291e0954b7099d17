//! The servers that an upstream has at one time, and the order of their turns.
//!
//! The order is computed when the set is made: each server has as many turns in a round as its
//! weight, spread evenly. If a turn falls to an unavailable server, another one is drawn from the
//! same order, so that its load is spread by weight and not on one neighbour. If more than half of
//! the servers are unavailable, all are used, as in Envoy (panic mode): the servers are probably
//! not the cause, and the few remaining ones would fail under the full load.

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
    /// Indexes in `servers`, one for each turn.
    order: Box<[u16]>,
}

#[derive(Debug, Clone)]
pub(crate) struct WeightedServer {
    pub(crate) server: Arc<UpstreamServer>,
    pub(crate) weight: u32,
}

impl Endpoints {
    /// Creates the set for these addresses. Servers in `before` with the same address are kept.
    /// Duplicate addresses become one server with the sum of their weights.
    pub(super) fn new(addresses: impl Iterator<Item = (SocketAddr, u32)>, before: &[WeightedServer]) -> Self {
        let known: AHashMap<SocketAddr, &Arc<UpstreamServer>> =
            before.iter().map(|entry| (entry.server.address, &entry.server)).collect();
        let mut indexes: AHashMap<SocketAddr, usize> = AHashMap::new();
        let mut servers: Vec<WeightedServer> = Vec::new();
        for (address, weight) in addresses {
            if let Some(entry) = indexes.get(&address).and_then(|index| servers.get_mut(*index)) {
                entry.weight = entry.weight.saturating_add(weight);
            } else if servers.len() < SERVERS_MAX {
                indexes.insert(address, servers.len());
                let server = known.get(&address).map(|server| Arc::clone(server));
                servers.push(WeightedServer {
                    server: server.unwrap_or_else(|| Arc::new(UpstreamServer::new(address))),
                    weight,
                });
            }
        }
        let order = order(&servers.iter().map(|entry| entry.weight).collect::<Vec<_>>());
        Endpoints { servers: servers.into(), order }
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
        let (index, server) = self.at(turn)?;
        if last.is_none() && server.has_no_faults() {
            return Some((index, server));
        }
        self.pick_other(turn, last, now())
    }

    #[cold]
    fn pick_other(&self, turn: usize, last: Option<SocketAddr>, now: u64) -> Option<(usize, &UpstreamServer)> {
        let use_all = self.count_unavailable(now) * 2 > self.servers.len();
        let is_usable = |server: &UpstreamServer| use_all || !server.is_unavailable(now);
        let drawn = (0..DRAWS_MAX).filter_map(|draw| self.at(scatter(turn, draw)));
        let in_order = (0..self.servers.len()).filter_map(|step| self.server(scatter(turn, 0).wrapping_add(step)));
        let mut candidates = self.at(turn).into_iter().chain(drawn).chain(in_order);
        let other = candidates.find(|(_, server)| is_usable(server) && Some(server.address) != last);
        let same =
            || self.servers.iter().position(|entry| Some(entry.server.address) == last && is_usable(&entry.server));
        let picked = other.or_else(|| self.server(same()?)).or_else(|| self.at(turn));
        picked.inspect(|(_, server)| server.readmit(now))
    }

    /// The number of unavailable servers.
    pub(super) fn count_unavailable(&self, now: u64) -> usize {
        self.servers.iter().filter(|entry| entry.server.is_unavailable(now)).count()
    }

    fn at(&self, turn: usize) -> Option<(usize, &UpstreamServer)> {
        let index = *self.order.get(turn.checked_rem(self.order.len())?)?;
        self.server(usize::from(index))
    }

    fn server(&self, index: usize) -> Option<(usize, &UpstreamServer)> {
        let index = index.checked_rem(self.servers.len())?;
        self.servers.get(index).map(|entry| (index, &*entry.server))
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
        Endpoints::new((1..).map(address).zip(weights.iter().copied()), &[])
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
    fn duplicate_address_is_one_server_with_the_sum_of_weights() {
        let endpoints = Endpoints::new([(address(1), 1), (address(2), 1), (address(1), 2)].into_iter(), &[]);
        assert_eq!(endpoints.servers().len(), 2);
        assert_eq!(counts(&endpoints, 400), [300, 100]);
    }

    #[test]
    fn remaining_servers_keep_their_state() {
        let before = endpoints(&[1, 1]);
        before.servers()[1].server.set_unhealthy(true);
        let after = Endpoints::new([(address(3), 1), (address(2), 5)].into_iter(), before.servers());
        assert!(Arc::ptr_eq(&after.servers()[1].server, &before.servers()[1].server));
        assert_eq!(after.find(7, address(2)).unwrap().address, address(2));
        assert!(after.find(0, address(1)).is_none());
    }

    #[test]
    fn servers_and_turns_are_bounded() {
        let many = Endpoints::new((1..).map(address).zip(std::iter::repeat_n(256, SERVERS_MAX + 5)), &[]);
        assert_eq!((many.servers().len(), many.order.len()), (SERVERS_MAX, SERVERS_MAX));
        let heavy = order(&[u32::MAX, u32::MAX - 1, 1]);
        assert!(heavy.len() <= TURNS_MAX as usize && heavy.contains(&2), "{}", heavy.len());
    }
}
