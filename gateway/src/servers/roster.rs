//! The servers that an upstream has at one time, and in which order they have their turns.
//!
//! The order is written down when the roster is made: as many turns a round as the weights say, those of each server spread evenly.
//! Where a turn falls to a server that is out, it goes to one drawn anew from the same order, so that the others share its load by
//! their weights and no neighbour gets all of it. When more than half are out, all are asked, as Envoy does: then it is hardly they who
//! are wrong, and a few that are left would go down under the load of all.

use std::net::SocketAddr;
use std::sync::Arc;

use ahash::AHashMap;

use super::server::Server;

/// Servers of one upstream, whatever its names resolve to.
pub(crate) const SERVERS_MAX: usize = 1_024;
/// Turns of a round. Where names that share addresses add up to more, all weights are halved until they do not.
const TURNS_MAX: u32 = 1 << 18;
/// Draws before the servers are gone through one by one. With half of the load's servers out, one in 65,536 turns needs more.
const DRAWS_MAX: usize = 16;

/// The servers of one upstream at one time.
#[derive(Debug, Default)]
pub(super) struct Roster {
    servers: Box<[Listed]>,
    /// Places in `servers`, a turn each.
    order: Box<[u16]>,
}

/// A server with its weight.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) server: Arc<Server>,
    pub(crate) weight: u32,
}

impl Roster {
    /// The servers at these addresses; those that `before` has too are the same ones. An address that is there more than once is one
    /// server, with the weight of all.
    pub(super) fn new(addresses: impl Iterator<Item = (SocketAddr, u32)>, before: &[Listed]) -> Self {
        let known: AHashMap<SocketAddr, &Arc<Server>> =
            before.iter().map(|listed| (listed.server.address, &listed.server)).collect();
        let mut places: AHashMap<SocketAddr, usize> = AHashMap::new();
        let mut servers: Vec<Listed> = Vec::new();
        for (address, weight) in addresses {
            if let Some(listed) = places.get(&address).and_then(|place| servers.get_mut(*place)) {
                listed.weight = listed.weight.saturating_add(weight);
            } else if servers.len() < SERVERS_MAX {
                places.insert(address, servers.len());
                let server = known.get(&address).map(|server| Arc::clone(server));
                servers.push(Listed { server: server.unwrap_or_else(|| Arc::new(Server::new(address))), weight });
            }
        }
        let order = order(&servers.iter().map(|listed| listed.weight).collect::<Vec<_>>());
        Roster { servers: servers.into(), order }
    }

    pub(super) fn servers(&self) -> &[Listed] {
        &self.servers
    }

    /// The server of that address. It is nearly always at that place.
    pub(super) fn find(&self, place: usize, address: SocketAddr) -> Option<&Server> {
        let there = self.servers.get(place).filter(|listed| listed.server.address == address);
        let listed = there.or_else(|| self.servers.iter().find(|listed| listed.server.address == address))?;
        Some(&listed.server)
    }

    /// The place of the server whose turn it is, or of another that is in; another than `last` if there is one. `now` is asked for only
    /// where somebody is out.
    pub(super) fn pick(
        &self,
        turn: usize,
        last: Option<SocketAddr>,
        now: impl Fn() -> u64,
    ) -> Option<(usize, &Server)> {
        let (place, server) = self.at(turn)?;
        if last.is_none() && server.is_plain() {
            return Some((place, server));
        }
        self.pick_other(turn, last, now())
    }

    #[cold]
    fn pick_other(&self, turn: usize, last: Option<SocketAddr>, now: u64) -> Option<(usize, &Server)> {
        let all_are_asked = self.out(now) * 2 > self.servers.len();
        let is_in = |server: &Server| all_are_asked || !server.is_out(now);
        let drawn = (0..DRAWS_MAX).filter_map(|draw| self.at(scatter(turn, draw)));
        let listed = (0..self.servers.len()).filter_map(|step| self.server(scatter(turn, 0).wrapping_add(step)));
        let mut candidates = self.at(turn).into_iter().chain(drawn).chain(listed);
        let other = candidates.find(|(_, server)| is_in(server) && Some(server.address) != last);
        let same =
            || self.servers.iter().position(|listed| Some(listed.server.address) == last && is_in(&listed.server));
        let picked = other.or_else(|| self.server(same()?)).or_else(|| self.at(turn));
        picked.inspect(|(_, server)| server.let_in(now))
    }

    /// How many are out.
    pub(super) fn out(&self, now: u64) -> usize {
        self.servers.iter().filter(|listed| listed.server.is_out(now)).count()
    }

    fn at(&self, turn: usize) -> Option<(usize, &Server)> {
        let place = *self.order.get(turn.checked_rem(self.order.len())?)?;
        self.server(usize::from(place))
    }

    fn server(&self, place: usize) -> Option<(usize, &Server)> {
        let place = place.checked_rem(self.servers.len())?;
        self.servers.get(place).map(|listed| (place, &*listed.server))
    }
}

/// A round of turns: each server has its own in the middles of equal parts of the round.
fn order(weights: &[u32]) -> Box<[u16]> {
    let mut weights = weights.to_vec();
    while weights.iter().fold(0, |sum: u32, weight| sum.saturating_add(*weight)) > TURNS_MAX {
        weights.iter_mut().for_each(|weight| *weight = weight.div_ceil(2));
    }
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(*weight, divisor)).max(1);
    let mut turns: Vec<(u64, u16)> = Vec::new();
    for (place, weight) in (0..).zip(weights) {
        let own = u64::from(weight / divisor);
        // In 32-bit fractions of a half of the round, which are equal where the places are.
        turns.extend((0..own).map(|turn| (((2 * turn + 1) << 32) / own.max(1), place)));
    }
    turns.sort_unstable();
    turns.into_iter().map(|(_, place)| place).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A number that looks drawn by lot and is the same each time: the finalizer of SplitMix64.
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

    /// Servers at ports from 1, with these weights.
    fn roster(weights: &[u32]) -> Roster {
        Roster::new((1..).map(address).zip(weights.iter().copied()), &[])
    }

    /// How often each server is picked in so many turns.
    fn counts(roster: &Roster, turns: usize) -> Vec<usize> {
        let mut counts = vec![0; roster.servers().len()];
        (0..turns).for_each(|turn| counts[roster.pick(turn, None, || 1).unwrap().0] += 1);
        counts
    }

    #[test]
    fn a_round_has_as_many_turns_as_the_weights_say_spread_evenly() {
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
        assert_eq!(order.iter().position(|place| *place == 1), Some(128));
    }

    #[test]
    fn the_load_of_those_that_are_out_is_spread_by_weight() {
        let roster = roster(&[4, 2, 1, 1]);
        assert_eq!(counts(&roster, 8_000), [4_000, 2_000, 1_000, 1_000]);
        roster.servers()[0].server.set_unhealthy(true);
        let counts = counts(&roster, 80_000);
        assert_eq!(counts[0], 0);
        for (place, share) in [(1, 40_000), (2, 20_000), (3, 20_000)] {
            assert!(counts[place].abs_diff(share) < share / 20, "{counts:?}");
        }
    }

    #[test]
    fn the_only_small_one_that_is_in_is_found() {
        let roster = roster(&[256, 1]);
        roster.servers()[0].server.set_unhealthy(true);
        assert_eq!(counts(&roster, 5_000), [0, 5_000]);
    }

    #[test]
    fn all_are_asked_when_more_than_half_are_out() {
        let roster = roster(&[1, 1, 1, 1]);
        let set = |place: usize| roster.servers()[place].server.set_unhealthy(true);
        set(0);
        set(1);
        assert_eq!(counts(&roster, 400)[..2], [0, 0]);
        set(2);
        assert_eq!(counts(&roster, 400), [100; 4]);
        set(3);
        assert_eq!(counts(&roster, 400), [100; 4]);
    }

    #[test]
    fn another_attempt_goes_to_another_server_if_there_is_one_in() {
        let roster = roster(&[200, 1, 1]);
        let other = |last: u16| (0..1_000).map(move |turn| (turn, last));
        for (turn, last) in other(1).chain(other(2)) {
            let (_, server) = roster.pick(turn, Some(address(last)), || 1).unwrap();
            assert_ne!(server.address, address(last));
        }
        roster.servers()[0].server.set_unhealthy(true);
        let (_, server) = roster.pick(0, Some(address(2)), || 1).unwrap();
        assert_eq!(server.address, address(3));
        let alone = self::roster(&[1]);
        assert_eq!(alone.pick(7, Some(address(1)), || 1).unwrap().1.address, address(1));
        assert!(self::roster(&[]).pick(0, None, || 1).is_none());
    }

    #[test]
    fn an_address_that_is_there_twice_is_one_server() {
        let roster = Roster::new([(address(1), 1), (address(2), 1), (address(1), 2)].into_iter(), &[]);
        assert_eq!(roster.servers().len(), 2);
        assert_eq!(counts(&roster, 400), [300, 100]);
    }

    #[test]
    fn servers_that_stay_are_the_same_ones() {
        let before = roster(&[1, 1]);
        before.servers()[1].server.set_unhealthy(true);
        let after = Roster::new([(address(3), 1), (address(2), 5)].into_iter(), before.servers());
        assert!(Arc::ptr_eq(&after.servers()[1].server, &before.servers()[1].server));
        assert_eq!(after.find(7, address(2)).unwrap().address, address(2));
        assert!(after.find(0, address(1)).is_none());
    }

    #[test]
    fn there_are_so_many_servers_at_most() {
        let many = Roster::new((1..).map(address).zip(std::iter::repeat_n(256, SERVERS_MAX + 5)), &[]);
        assert_eq!((many.servers().len(), many.order.len()), (SERVERS_MAX, SERVERS_MAX));
        let heavy = order(&[u32::MAX, u32::MAX - 1, 1]);
        assert!(heavy.len() <= TURNS_MAX as usize && heavy.contains(&2), "{}", heavy.len());
    }
}
