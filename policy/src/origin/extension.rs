//! The schemes whose hosts the client generates: browser extensions and the web views of VS Code.
//!
//! Firefox and Safari generate a host for each installation of an extension, and VS Code for each
//! web view, so these origins cannot be listed. Only with these schemes, a star may be the whole
//! host: it stands for one label, without a port. Anyone can publish an extension, so such a star
//! allows every extension of the scheme.

use super::parse::Origin;
use crate::group::GroupId;

/// A scheme with generated hosts, for which a star may be the whole host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ExtensionScheme {
    /// `chrome-extension`
    Chrome,
    /// `moz-extension`
    Mozilla,
    /// `safari-web-extension`
    Safari,
    /// `vscode-webview`
    VsCodeWebview,
}

impl ExtensionScheme {
    pub(crate) const ALL: [Self; 4] = [Self::Chrome, Self::Mozilla, Self::Safari, Self::VsCodeWebview];

    /// Returns the scheme with this name.
    pub(crate) fn of(scheme: &[u8]) -> Option<Self> {
        match scheme {
            b"chrome-extension" => Some(Self::Chrome),
            b"moz-extension" => Some(Self::Mozilla),
            b"safari-web-extension" => Some(Self::Safari),
            b"vscode-webview" => Some(Self::VsCodeWebview),
            _ => None,
        }
    }

    /// Returns the scheme of a serialised origin.
    pub(crate) fn of_origin(origin: &str) -> Option<Self> {
        Self::of(origin.split_once("://")?.0.as_bytes())
    }

    /// Returns the scheme of the configured text `SCHEME://*`.
    pub(crate) fn of_star(text: &str) -> Option<Self> {
        Self::of(text.strip_suffix("://*")?.as_bytes())
    }

    /// Returns the configured text that covers every origin of the scheme.
    pub(crate) const fn star(self) -> &'static str {
        match self {
            Self::Chrome => "chrome-extension://*",
            Self::Mozilla => "moz-extension://*",
            Self::Safari => "safari-web-extension://*",
            Self::VsCodeWebview => "vscode-webview://*",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Chrome => 1,
            Self::Mozilla => 2,
            Self::Safari => 4,
            Self::VsCodeWebview => 8,
        }
    }
}

/// Whether a star covers the host and port of an origin of its scheme.
pub(crate) fn covers_host(origin: &Origin<'_>) -> bool {
    origin.port.is_none() && !origin.host.contains(&b'.') && !origin.host.starts_with(b"[")
}

/// The schemes that have a star in one set of entries, in the order of [`ExtensionScheme::ALL`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ExtensionSchemes {
    bits: u8,
    groups: [GroupId; ExtensionScheme::ALL.len()],
}

impl ExtensionSchemes {
    pub(crate) fn insert(&mut self, scheme: ExtensionScheme, group: GroupId) {
        self.bits |= scheme.bit();
        if let Some(place) = self.groups.get_mut(scheme as usize) {
            *place = group;
        }
    }

    pub(crate) fn len(self) -> u32 {
        self.bits.count_ones()
    }

    /// Returns the group of a scheme in this set.
    pub(crate) fn group(&self, scheme: ExtensionScheme) -> GroupId {
        self.groups.get(scheme as usize).copied().unwrap_or_default()
    }

    /// Returns the index of the scheme in this set.
    pub(crate) fn position(self, scheme: ExtensionScheme) -> Option<u32> {
        let is_present = self.bits & scheme.bit() != 0;
        is_present.then(|| (self.bits & (scheme.bit() - 1)).count_ones())
    }

    /// Returns the scheme at an index of this set.
    pub(crate) fn nth(self, position: usize) -> Option<ExtensionScheme> {
        ExtensionScheme::ALL.into_iter().filter(|scheme| self.bits & scheme.bit() != 0).nth(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::parse::parse;

    #[test]
    fn star_belongs_to_exactly_one_scheme() {
        for scheme in ExtensionScheme::ALL {
            assert_eq!(ExtensionScheme::of_star(scheme.star()), Some(scheme));
            assert_eq!(ExtensionScheme::of_origin(scheme.star()), Some(scheme));
        }
        for text in ["moz-extension://", "moz-extension://**", "https://*", "x-moz-extension://*", "extension://*", "*"]
        {
            assert_eq!(ExtensionScheme::of_star(text), None, "{text}");
        }
    }

    #[test]
    fn positions_count_the_schemes_of_the_set() {
        for bits in 0..16_u8 {
            let schemes = ExtensionSchemes { bits, ..ExtensionSchemes::default() };
            let there: Vec<_> = (0..).map_while(|position| schemes.nth(position)).collect();
            assert_eq!(there.len(), schemes.len() as usize);
            for (position, scheme) in (0..).zip(&there) {
                assert_eq!(schemes.position(*scheme), Some(position));
            }
            let absent = ExtensionScheme::ALL.into_iter().filter(|scheme| !there.contains(scheme));
            assert!(absent.into_iter().all(|scheme| schemes.position(scheme).is_none()));
        }
    }

    #[test]
    fn extension_star_covers_one_label_without_port() {
        for (host, is_covered) in [("0b4a2a1c-5d1e", true), ("a.b", false), ("a:1", false), ("[::1]", false)] {
            let text = format!("moz-extension://{host}");
            assert_eq!(covers_host(&parse(text.as_bytes()).unwrap()), is_covered, "{host}");
        }
    }
}
