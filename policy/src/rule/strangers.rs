//! Asks a rule about origins that nobody knows: whoever lets them in lets everybody in.
//!
//! With credentials that gives every site the user's session, so such a rule is refused when it is loaded. The names are drawn anew each
//! time, so that no rule can know them. It cannot find every hole; it finds the rule that forgot to look.

use std::hash::{BuildHasher, RandomState};

use http::HeaderMap;

use super::{Answer, Rule, RuleInput};
use crate::origin::parse;
use crate::request::FieldLines;
use crate::verdict::Kind;

/// What asking about strangers led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strangers {
    /// An origin that was let in, with credentials.
    pub admitted: Option<String>,
    /// Whether the rule looked at the tenant, so that another tenant's answer may be another one.
    pub reads_tenant: bool,
}

impl Rule {
    /// Asks about a handful of origins with random names, on behalf of a tenant, as preflights and as actual requests.
    pub fn strangers(&self, tenant: &str) -> Strangers {
        let name = format!("{:016x}", RandomState::new().hash_one(tenant));
        let mut told = Strangers { admitted: None, reads_tenant: false };
        for origin in probes(&name) {
            for kind in [Kind::Preflight, Kind::Actual] {
                let (is_admitted, reads_tenant) = self.ask_stranger(&origin, kind, tenant);
                told.reads_tenant |= reads_tenant;
                if is_admitted {
                    // The name is left out: it is another one each time, and the mistake is the same.
                    told.admitted.get_or_insert_with(|| origin.replace(&name, "any-name"));
                }
            }
        }
        told
    }

    fn ask_stranger(&self, origin: &str, kind: Kind, tenant: &str) -> (bool, bool) {
        const NO_LINES: &dyn FieldLines = &([] as [&[u8]; 0]);
        let Ok(parsed) = parse(origin.as_bytes()) else { return (false, false) };
        let text = |bytes| str::from_utf8(bytes).unwrap_or_default();
        let run = self.run(
            &RuleInput {
                origin,
                scheme: text(parsed.scheme),
                host: text(parsed.host),
                port: parsed.port,
                kind,
                tenant,
                route: "/",
                method: b"GET",
                path: "/",
                query: "",
                requested_headers: NO_LINES,
                headers: &HeaderMap::new(),
            },
            0,
            || false,
        );
        (matches!(run.answer, Ok(Answer::Allow(terms)) if !terms.without_credentials), run.reads.has_tenant())
    }
}

/// Plain `http` stays out with credentials whatever a rule says, so it is not asked about.
fn probes(name: &str) -> [String; 6] {
    [
        format!("https://{name}.example"),
        format!("https://{name}.com"),
        format!("https://{name}.github.io"),
        format!("https://{name}.vercel.app"),
        format!("https://www.{name}.example"),
        format!("https://{name}.example:8443"),
    ]
}
