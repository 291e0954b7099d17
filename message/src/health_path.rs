//! The path of health checks that a layer-7 balancer sends to a data listener (`healthPath`).
//!
//! The lane and the HTTP/2 server compare each request's target with it before any tenant is looked
//! up. A check never reaches a tenant or an upstream.

use crate::target::RequestTarget;

/// The longest path; the checks of all known balancers are shorter.
const PATH_LEN_MAX: usize = 256;

/// The path of health checks, in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPath(Box<str>);

impl HealthPath {
    /// Parses a path, which must be in canonical form and not the root.
    ///
    /// # Errors
    /// Returns a hint at what would be accepted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
        if !text.starts_with('/') || !text.bytes().all(is_plain) || text.len() > PATH_LEN_MAX {
            return Err("write a path of letters, digits and `-._~/`, such as /gateway-health".to_owned());
        }
        if text == "/" {
            return Err("the tenants need this path; write another such as /gateway-health".to_owned());
        }
        match RequestTarget::parse(text.as_bytes(), b"GET").map_err(|error| error.to_string())?.path_for_matching() {
            path if path != text => Err(format!("not in canonical form; write {path}")),
            path => match path.strip_suffix('/') {
                Some(shorter) => Err(format!("remove the trailing slash; write {shorter}")),
                None => Ok(HealthPath(Box::from(text))),
            },
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a request is a health check. The target is compared in canonical form, without its
    /// query.
    pub fn is_health_check(&self, method: &[u8], target: &[u8]) -> bool {
        matches!(method, b"GET" | b"HEAD")
            && RequestTarget::parse(target, method).is_ok_and(|target| target.path_for_matching() == self.as_str())
    }

    /// Whether a route with this prefix would serve the path. The root prefix does not count, since
    /// it covers every path.
    pub fn is_covered_by(&self, prefix: &str) -> bool {
        let rest = self.as_str().strip_prefix(prefix);
        prefix != "/" && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> HealthPath {
        HealthPath::parse("/gateway-health").unwrap()
    }

    #[test]
    fn health_path_not_in_canonical_form_is_rejected() {
        for path in ["/gateway-health", "/a/b", "/_health", "/a.b~c"] {
            assert_eq!(HealthPath::parse(path).map(|path| path.as_str().to_owned()), Ok(path.to_owned()));
        }
        let long = format!("/{}", "a".repeat(PATH_LEN_MAX));
        for (path, hint) in [
            ("", "write a path"),
            ("health", "write a path"),
            ("/health?x", "write a path"),
            ("/health#x", "write a path"),
            ("/%68ealth", "write a path"),
            ("/a;b", "write a path"),
            ("/a*", "write a path"),
            ("http://a/health", "write a path"),
            (&long, "write a path"),
            ("/", "the tenants need this path"),
            ("/health/", "write /health"),
            ("/a/../health", "write /health"),
            ("//health", "write /health"),
        ] {
            let error = HealthPath::parse(path).unwrap_err();
            assert!(error.contains(hint), "{path}: {error}");
        }
    }

    #[test]
    fn health_checks_match_on_the_canonical_path() {
        for (method, target, is_check) in [
            ("GET", "/gateway-health", true),
            ("HEAD", "/gateway-health", true),
            ("GET", "/gateway-health?from=lb", true),
            ("GET", "/gateway-%68ealth", true),
            ("GET", "/x/../gateway-health", true),
            ("GET", "//gateway-health", true),
            ("GET", "http://a.test/gateway-health", true),
            ("POST", "/gateway-health", false),
            ("OPTIONS", "/gateway-health", false),
            ("get", "/gateway-health", false),
            ("GET", "/gateway-health/", false),
            ("GET", "/gateway-health/x", false),
            ("GET", "/Gateway-health", false),
            ("GET", "/gateway-healthy", false),
            ("GET", "/gateway-health%2f", false),
            ("GET", "/gateway-health;x", false),
            ("GET", "/gateway-health%00", false),
            ("GET", "/..%2fgateway-health", false),
            ("GET", "/", false),
            ("GET", "*", false),
        ] {
            assert_eq!(health().is_health_check(method.as_bytes(), target.as_bytes()), is_check, "{method} {target}");
        }
    }

    #[test]
    fn only_prefixes_at_a_segment_boundary_cover_the_health_path() {
        let below = HealthPath::parse("/api/health").unwrap();
        for (path, prefix, is_covered) in [
            (&health(), "/gateway-health", true),
            (&below, "/api", true),
            (&below, "/api/health", true),
            (&below, "/", false),
            (&below, "/ap", false),
            (&below, "/api/health/x", false),
            (&below, "/API", false),
        ] {
            assert_eq!(path.is_covered_by(prefix), is_covered, "{prefix}");
        }
    }
}
