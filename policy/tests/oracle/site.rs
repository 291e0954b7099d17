//! The table of cross-site protection, row by row and in its order, slow and simple.

/// The parts of a request that the table reads.
pub(crate) struct SiteRequest<'a> {
    pub(crate) method: &'a str,
    /// The lines of `Sec-Fetch-Site`, `Sec-Fetch-Mode` and `Sec-Fetch-Dest`.
    pub(crate) site: Vec<&'a [u8]>,
    pub(crate) mode: Vec<&'a [u8]>,
    pub(crate) dest: Vec<&'a [u8]>,
    pub(crate) has_cookie: bool,
    pub(crate) authorization: Vec<&'a [u8]>,
    pub(crate) origin: SiteOrigin,
    pub(crate) is_preflight_or_websocket: bool,
}

/// What the origin of a request is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum SiteOrigin {
    Absent,
    Own,
    /// Covered by an entry other than `*`.
    Listed,
    /// Another one, `null` and malformed ones too.
    Other,
}

/// What a policy says.
pub(crate) struct SitePolicy {
    pub(crate) has_star: bool,
    /// `Allow`, `NavigationsOnly` or `Deny`.
    pub(crate) reads: &'static str,
    pub(crate) allows_navigations: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum SiteOutcome {
    Passes,
    /// Forwarded without CORS fields.
    Navigation,
    Refused,
}

pub(crate) fn outcome(request: &SiteRequest<'_>, policy: &SitePolicy) -> SiteOutcome {
    use SiteOutcome::{Navigation, Passes, Refused};
    let is_safe = ["GET", "HEAD", "OPTIONS"].contains(&request.method);
    let is_read = ["GET", "HEAD"].contains(&request.method);
    let navigates = request.mode == [b"navigate"];
    let embeds = [vec![&b"object"[..]], vec![&b"embed"[..]]].contains(&request.dest) || request.dest.len() > 1;
    let ambient = request.has_cookie
        || request.authorization.iter().any(|value| {
            let text = String::from_utf8_lossy(value).to_lowercase();
            let scheme = text.split([' ', '\t']).next().unwrap_or_default().to_owned();
            ["basic", "digest", "ntlm", "negotiate"].contains(&scheme.as_str())
        });
    let rows = [
        (request.is_preflight_or_websocket, Passes),
        (request.site == [b"same-origin"] || request.site == [b"none"], Passes),
        (request.site.is_empty() && request.origin == SiteOrigin::Absent, Passes),
        (request.site.is_empty() && request.origin == SiteOrigin::Own, Passes),
        (request.origin == SiteOrigin::Listed, Passes),
        (!is_safe && navigates && !embeds && policy.allows_navigations, Navigation),
        (!is_safe && policy.has_star && !ambient, Passes),
        (!is_safe, Refused),
        (policy.has_star && request.origin != SiteOrigin::Absent, Passes),
        (is_read && policy.reads == "Allow", Passes),
        (is_read && policy.reads == "NavigationsOnly" && navigates && request.dest == [b"document"], Passes),
        (is_read, Refused),
    ];
    rows.into_iter().find(|(applies, _)| *applies).map_or(Passes, |(_, outcome)| outcome)
}
