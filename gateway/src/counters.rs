//! The counters of a tenant, an upstream and a tenant's rules.
//!
//! Each counter lives with the object whose events it counts. [`registry`](crate::registry) hands
//! counters out by name and collects them for a scrape.

mod origins;
mod responses;
mod rules;
mod tenant;
mod upstream;

pub(crate) use self::origins::SeriesBudget;
pub use self::origins::{EntryHandles, SERIES_MAX_TENANT, SERIES_MAX_TOTAL};
pub use self::responses::SentResponse;
pub use self::rules::RuleCounters;
pub use self::tenant::{CountedEntry, TenantCounters};
pub use self::upstream::{ServingUpstream, UpstreamCounters};
