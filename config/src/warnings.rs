//! The codes of warnings: stable names to look up and to compare.
//!
//! `docs/reference/warnings.md` has a section for each code; a test compares both. A published code
//! keeps its meaning; messages may change. Errors have no codes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! codes {
    ($($(#[$doc:meta])+ $variant:ident = $code:literal;)+) => {
        /// The cause of a warning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum WarningCode {
            $($(#[$doc])+ $variant,)+
        }

        impl WarningCode {
            pub const ALL: &[WarningCode] = &[$(WarningCode::$variant),+];

            /// The code in documentation, logs and JSON.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(WarningCode::$variant => $code,)+
                }
            }
        }
    };
}

codes! {
    /// Two routes differ only in case and have different terms.
    CaseTwins = "case-twins";
    /// A tenant has the host `*`, so all hosts without a tenant belong to it.
    CatchAllHost = "catch-all-host";
    /// The timeout of a health check is longer than its interval.
    CheckTimeout = "check-timeout";
    /// A listener on port 443 has no TLS.
    ClearTextHttpsPort = "clear-text-https-port";
    /// A `dangerously..` switch is on.
    DangerousSwitch = "dangerous-switch";
    /// A policy with credentials forwards requests from origins that are not allowed.
    ForwardWithCredentials = "forward-with-credentials";
    /// A key has no effect without another one.
    IneffectiveKey = "ineffective-key";
    /// There is no tenant.
    NoTenants = "no-tenants";
    /// Other users of the machine can read or change a file with a secret.
    OpenSecret = "open-secret";
    /// A `ca` contains the certificate of a server, so only this certificate is accepted.
    PinnedCertificate = "pinned-certificate";
    /// `trustedProxies` covers a large part of the internet.
    OpenTrustedProxies = "open-trusted-proxies";
    /// A policy with credentials has `*` in a list of methods or headers.
    StarWithCredentials = "star-with-credentials";
    /// Only the order of the file decides between two routes.
    RouteOrder = "route-order";
    /// A route denies what the route above it allows.
    StricterRoute = "stricter-route";
    /// A certificate has expired or is not valid yet.
    CertificateDates = "certificate-dates";
    /// An origin entry is valid but risky.
    DoubtfulOrigin = "doubtful-origin";
    /// An origin expression is valid but risky.
    DoubtfulRegex = "doubtful-regex";
    /// An entry of `allowMethods` is valid but risky.
    DoubtfulMethod = "doubtful-method";
    /// An entry of `allowHeaders` or `exposeHeaders` is valid but risky.
    DoubtfulHeader = "doubtful-header";
    /// A policy as a whole is valid but risky.
    DoubtfulPolicy = "doubtful-policy";
    /// A policy lists a header field that its rule never reads.
    DoubtfulRule = "doubtful-rule";
    /// With `--offline`, a file with a secret is not on this machine.
    MissingSecret = "missing-secret";
    /// `proxyProtocol` accepts balancers from a large part of the internet.
    OpenProxyProtocol = "open-proxy-protocol";
    /// A policy is in Report mode.
    ReportMode = "report-mode";
    /// The trusted certificates of the system cannot be read again.
    SystemRoots = "system-roots";
    /// No certificate covers a host, and all listeners have TLS.
    UncoveredHost = "uncovered-host";
    /// An upstream, an origin set or a policy is not used.
    Unused = "unused";
}

impl WarningCode {
    /// Whether the warning fails `check --deny-warnings`. Secrets that are missing on purpose do
    /// not.
    pub fn is_deniable(self) -> bool {
        self != WarningCode::MissingSecret
    }

    /// Reads a code from another process. An unknown code of a later version becomes `None`.
    pub(super) fn deserialize_known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(text.and_then(|text| Self::ALL.iter().copied().find(|code| code.as_str() == text)))
    }
}

impl Serialize for WarningCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes with a section in the reference page, in its order.
    fn documented() -> Vec<String> {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/warnings.md");
        let text = std::fs::read_to_string(page).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("## `")?.strip_suffix('`').map(str::to_owned)).collect()
    }

    #[test]
    fn the_reference_page_has_every_code_in_order() {
        let mut codes: Vec<&str> = WarningCode::ALL.iter().map(|code| code.as_str()).collect();
        codes.sort_unstable();
        assert_eq!(documented(), codes);
        codes.dedup();
        assert_eq!(codes.len(), WarningCode::ALL.len());
    }
}
