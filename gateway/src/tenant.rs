//! Compiled tenants, their routes and the upstreams behind them: what a request finds once its host is known.
//!
//! All of it is frozen when a snapshot is compiled, and shared: a tenant that did not change is the same object in the next
//! snapshot, with its counters and its upstreams' turns. Routes are few, and tried longest first; tenants and origins are
//! many, and hashed. Absent on purpose: anything a request could change but for counters, and for what is known of servers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crossgate_policy::Policy;
use http::HeaderValue;
use smallvec::SmallVec;

use crate::config::model::{Mode, Protocol, TenantSpec, Timeouts, UnmatchedRequests, UpstreamSpec};
use crate::metrics::{Cells, EntryHandles, TenantCounters, UpstreamCounters};
use crate::queue::Queue;
use crate::servers::{Picked, Retries, Servers};
use crate::snapshot::SharedPolicy;
use crate::throttle::Throttle;
use crate::upstream::UpstreamTls;
use crate::verdicts::RuleSeat;

/// Whose API a host is.
#[derive(Debug)]
pub struct Tenant {
    /// Its name in metrics, logs and headers.
    pub id: Arc<str>,
    /// What is counted of its requests. They survive recompiling and vanish with the tenant.
    pub counters: Arc<TenantCounters>,
    /// What it was compiled from.
    pub(crate) spec: Arc<TenantSpec>,
    /// The longest prefix first, and of two equal ones the one that names methods. Most tenants have one.
    pub(crate) routes: SmallVec<[Arc<Route>; 1]>,
    pub(crate) fallback: Option<Arc<Route>>,
}

impl Tenant {
    /// The route for a path as [`Target::path_for_matching`](crate::target::Target::path_for_matching) gives it. A preflight is
    /// routed by the method it asks for.
    pub fn route(&self, path: &str, method: &[u8]) -> Option<&Route> {
        self.routes.iter().map(|route| &**route).find(|route| route.covers(path) && route.takes(method))
    }

    /// Whose policy speaks in the answer to a path of no route: the tenant's own, if it has one. Such a request is never
    /// forwarded.
    pub fn fallback(&self) -> Option<&Route> {
        self.fallback.as_deref()
    }

    /// Every route, in the order in which they are tried.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }
}

/// What applies to the requests below one path.
#[derive(Debug)]
pub struct Route {
    /// Whole segments from the left; `/` for all.
    pub prefix: Arc<str>,
    /// What the policy is called.
    pub policy_name: Arc<str>,
    /// The policy, extended by the tenant's origins. Routes of a tenant that use the same one share it.
    pub policy: Arc<Policy>,
    /// Where requests go.
    pub upstream: Arc<Upstream>,
    /// What happens to actual requests of other origins.
    pub unmatched_requests: UnmatchedRequests,
    /// Whether the policy protects.
    pub mode: Mode,
    /// Where the policy's entries are counted.
    pub handles: EntryHandles,
    /// The policy's rule, with what is remembered of it for this tenant.
    pub rule: Option<Arc<RuleSeat>>,
    pub(crate) methods: Box<[Box<str>]>,
    pub(crate) shared: Arc<SharedPolicy>,
}

impl Route {
    /// Whether a path lies below the prefix: `/public` covers `/public` and `/public/x`, never `/publicity`.
    fn covers(&self, path: &str) -> bool {
        if &*self.prefix == "/" {
            return true;
        }
        let rest = path.strip_prefix(&*self.prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn takes(&self, method: &[u8]) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|known| known.as_bytes() == method)
    }

    /// The methods it is for; all if empty.
    pub fn methods(&self) -> impl Iterator<Item = &str> {
        self.methods.iter().map(|method| &**method)
    }
}

/// Servers that answer the same requests.
pub struct Upstream {
    /// What it is called.
    pub name: Arc<str>,
    /// Where it is.
    pub servers: Arc<Servers>,
    /// What bounds its requests, if anything does.
    pub queue: Option<Arc<Queue>>,
    /// How long to wait for it.
    pub timeouts: Timeouts,
    /// How often a request is tried, the first time included.
    pub attempts: u32,
    /// The `Host` it gets instead of the client's.
    pub host: Option<HeaderValue>,
    /// Which HTTP it is asked in.
    pub protocol: Protocol,
    /// Whom it is trusted by; `None` in clear text.
    pub tls: Option<Arc<UpstreamTls>>,
    /// What is counted of its answers.
    pub counters: Arc<UpstreamCounters>,
    /// How often the log tells of its TLS.
    pub complaints: Throttle,
    pub(crate) spec: UpstreamSpec,
    /// Its number among all there ever were.
    number: u32,
    /// How often its connections were retired.
    retired: AtomicU32,
    turn: Cells,
    retries: Retries,
}

impl Upstream {
    /// The upstream of that name. What `previous` has and would be made the same again is kept.
    pub(crate) fn new(
        spec: &UpstreamSpec,
        tls: Option<Arc<UpstreamTls>>,
        counters: Arc<UpstreamCounters>,
        previous: Option<&Upstream>,
    ) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let same_servers = previous.filter(|previous| previous.servers.are_of(spec));
        let new_servers =
            || Arc::new(Servers::new(spec, Arc::clone(&counters), previous.map(|previous| &*previous.servers)));
        let same_queue = previous.filter(|previous| previous.spec.limits == spec.limits);
        let queue = match same_queue {
            Some(previous) => previous.queue.clone(),
            None => spec.limits.map(|limits| Arc::new(Queue::new(limits))),
        };
        Upstream {
            name: Arc::from(&*spec.name.value),
            servers: same_servers.map_or_else(new_servers, |previous| Arc::clone(&previous.servers)),
            queue,
            timeouts: spec.timeouts,
            attempts: spec.attempts,
            host: spec.host.clone(),
            protocol: spec.protocol,
            tls,
            counters,
            complaints: Throttle::default(),
            spec: spec.clone(),
            number: COUNT.fetch_add(1, Relaxed),
            retired: AtomicU32::new(0),
            turn: Cells::new(1),
            retries: Retries::default(),
        }
    }

    /// A request's turn, drawn once: its later attempts go on from there, to other servers.
    pub fn draw_turn(&self) -> usize {
        usize::try_from(self.turn.count(0)).unwrap_or_default()
    }

    /// The server for an attempt of the request that drew `turn`: another than the one that failed `last`. There is one, unless all
    /// servers have names, and none of them has led anywhere yet.
    pub fn server(&self, turn: usize, attempt: u32, last: Option<Picked>) -> Option<Picked> {
        self.servers.pick(turn.wrapping_add(attempt as usize), last)
    }

    /// What tells its kept connections from all others: none is used by another upstream, or outlives the trust that it was made under.
    pub fn pool(&self) -> u64 {
        u64::from(self.number) << 32 | u64::from(self.retired.load(Relaxed))
    }

    /// Lets no further request use the connections that there are: over HTTP/2, one that is silent may never speak again.
    pub fn retire_connections(&self) {
        self.retired.fetch_add(1, Relaxed);
    }

    /// Whether one more request may be tried again.
    pub fn may_retry(&self) -> bool {
        self.retries.take(self.turn.read(0))
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upstream").field(&self.name).field(&self.servers).finish()
    }
}
