//! Open files: as many as the system lets the process have, and how they are shared out.
//!
//! A client costs one, and one more while its request is at an upstream. Were clients let in until none is left, nothing could be
//! opened any more: no connection to an upstream, none of the admin listener's, no file of a reload. So clients get a share.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is kept back for the gateway itself: about 25 for event loops, logs and one listener, two for each further one, those for connections
/// that are not looked at yet and for clients who are told that there is no room, admin connections, files. Of a small limit, three
/// eighths, which is enough for a few listeners.
const OWN_MAX: u64 = 256;
/// Idle connections to upstreams that are kept for later requests. Of a small limit, an eighth.
const IDLE_UPSTREAM_MAX: u64 = 128;

/// How many open files may be what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Clients' connections, each with one to an upstream.
    pub clients: u64,
    /// Idle connections to upstreams.
    pub idle_upstream: usize,
}

impl Shares {
    /// Of the limit that this process has now.
    pub fn now() -> Self {
        Self::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn of(limit: u64) -> Self {
        let idle_upstream = IDLE_UPSTREAM_MAX.min(limit / 8);
        let own = OWN_MAX.min(limit / 8 * 3);
        let clients = limit.saturating_sub(own).saturating_sub(idle_upstream) / 2;
        Shares { clients: clients.max(1), idle_upstream: usize::try_from(idle_upstream).unwrap_or_default() }
    }
}

/// The usual soft limit, 1,024, is low for the sake of programs that call select(2), which nothing here does; so all that the hard
/// limit allows is taken, before any socket is opened.
pub(crate) fn raise_limit() {
    let Rlimit { current: before, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::info!(before, now = maximum, "limit of open files"),
        Err(error) => tracing::warn!(before, %error, "the limit of open files stays as it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_fit_into_the_limit() {
        for limit in [0, 1, 16, 256, 1_024, 65_536, 1 << 20, u64::MAX] {
            let Shares { clients, idle_upstream } = Shares::of(limit);
            assert!(clients >= 1, "{limit}");
            let own = limit.saturating_sub(clients.saturating_mul(2)).saturating_sub(idle_upstream as u64);
            assert!(limit < 16 || own >= OWN_MAX.min(limit / 8 * 3), "{limit}: {own}");
        }
        assert_eq!(Shares::of(256), Shares { clients: 64, idle_upstream: 32 });
    }
}
