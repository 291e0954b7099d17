//! File descriptors: raises the limit of open files and divides it between clients and the gateway.
//!
//! A client needs one descriptor, and a second one while its request is at an upstream. If clients
//! could take all descriptors, nothing else could be opened: no upstream connection, no admin
//! connection, no file for a reload. So clients get a share.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The descriptors reserved for the gateway itself: about 25 for event loops, logs and one
/// listener, and two for each further listener. The rest is for new connections, for clients
/// refused over the limit, for admin connections and for files. Of a small limit the reserve is
/// three eighths, which is enough for a few listeners.
const OWN_MAX: u64 = 256;
/// The idle upstream connections kept for later requests. Of a small limit, one eighth.
const IDLE_UPSTREAM_MAX: u64 = 128;

/// The division of the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorShares {
    /// Client connections, each with one upstream connection.
    pub clients: u64,
    /// Idle upstream connections.
    pub idle_upstream: usize,
}

impl DescriptorShares {
    /// Divides the current limit of this process.
    pub fn from_current_limit() -> Self {
        Self::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn of(limit: u64) -> Self {
        let idle_upstream = IDLE_UPSTREAM_MAX.min(limit / 8);
        let own = OWN_MAX.min(limit / 8 * 3);
        let clients = limit.saturating_sub(own).saturating_sub(idle_upstream) / 2;
        DescriptorShares { clients: clients.max(1), idle_upstream: usize::try_from(idle_upstream).unwrap_or_default() }
    }
}

/// Raises the soft limit to the hard limit, before any socket is opened. The usual soft limit of
/// 1,024 protects programs that call select(2), which the gateway never does.
pub(crate) fn raise_limit() {
    let Rlimit { current: before, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::info!(before, now = maximum, "limit of open files"),
        Err(error) => tracing::warn!(before, %error, "cannot raise the limit of open files"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_shares_fit_into_the_limit() {
        for limit in [0, 1, 16, 256, 1_024, 65_536, 1 << 20, u64::MAX] {
            let DescriptorShares { clients, idle_upstream } = DescriptorShares::of(limit);
            assert!(clients >= 1, "{limit}");
            let own = limit.saturating_sub(clients.saturating_mul(2)).saturating_sub(idle_upstream as u64);
            assert!(limit < 16 || own >= OWN_MAX.min(limit / 8 * 3), "{limit}: {own}");
        }
        assert_eq!(DescriptorShares::of(256), DescriptorShares { clients: 64, idle_upstream: 32 });
    }
}
