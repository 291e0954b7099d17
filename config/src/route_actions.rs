//! Decodes what becomes of the requests of a route: `upstream` and `rewrite`, `redirect`, or
//! `respond`.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use super::decode::{Decoder, SectionFields, show_text};
use super::files;
use super::model::{ForwardSpec, LocationFields, Rewrite, RouteActionSpec};
use super::node::YamlNode;
use super::sections;
use crossgate_message::host::{HostPattern, PatternError};
use crossgate_message::path_change::{self, PathChange};
use crossgate_message::redirect::{FixedResponse, Redirect};
use crossgate_message::target::RequestTarget;
use crossgate_policy::Scheme;

/// Maximum length of the body of a fixed response, in bytes.
const BODY_LEN_MAX: usize = 64 << 10;
/// The statuses by which a redirect keeps or changes the method (RFC 9110, section 15.4).
const REDIRECT_STATUSES: [u16; 5] = [301, 302, 303, 307, 308];
/// Statuses of responses without a body (RFC 9110, sections 15.3.5 and 15.3.6).
const EMPTY_STATUSES: [u16; 2] = [204, 205];

impl Decoder<'_> {
    /// What a route does. `path` is its own path, if that could be decoded.
    pub(super) fn route_action(&mut self, fields: &SectionFields<'_>, path: Option<&str>) -> Option<RouteActionSpec> {
        let kinds = ["redirect", "respond", "upstream"];
        let mut present = kinds.into_iter().filter_map(|kind| Some((kind, fields.find(kind)?)));
        if let (Some((first, _)), Some((second, node))) = (present.next(), present.next()) {
            self.error(node.at, format!("a route has either `{first}` or `{second}`; remove one of them"));
            return None;
        }
        let redirect = fields.find("redirect");
        let respond = fields.find("respond");
        if redirect.is_none() && respond.is_none() {
            return self.forward(fields, path).map(RouteActionSpec::Forward);
        }
        for key in ["rewrite", "requestHeaders"] {
            if let Some(node) = fields.find(key) {
                self.error(node.at, format!("`{key}` has no effect, since the route forwards nothing; remove it"));
            }
        }
        match (redirect, respond) {
            (Some(node), _) => self.redirect(node, path?).map(Arc::new).map(RouteActionSpec::Redirect),
            (None, node) => self.respond(node?).map(Arc::new).map(RouteActionSpec::Respond),
        }
    }

    fn forward(&mut self, fields: &SectionFields<'_>, path: Option<&str>) -> Option<ForwardSpec> {
        let upstream = match fields.find("upstream") {
            Some(node) => Some(self.name(node, "the name of an upstream")?),
            None => None,
        };
        let rewrite = match fields.find("rewrite") {
            Some(node) => Some(Arc::new(self.rewrite(node, path?)?)),
            None => None,
        };
        Some(ForwardSpec { upstream, rewrite })
    }

    fn rewrite(&mut self, node: &YamlNode, from: &str) -> Option<Rewrite> {
        let fields = self.fields(node, &sections::REWRITE)?;
        let location = fields.find("location").map(|node| self.variant(node));
        let path = self.path_change(&fields, from)?;
        if path.is_none() && location.is_none() {
            self.error(node.at, "a rewrite that changes nothing; write `pathPrefix` or `path`");
        }
        let location = location.unwrap_or(Some(LocationFields::default()))?;
        Some(Rewrite { path, location })
    }

    fn redirect(&mut self, node: &YamlNode, from: &str) -> Option<Redirect> {
        let fields = self.fields(node, &sections::REDIRECT)?;
        let status = self.required(&fields, "status").and_then(|node| self.redirect_status(node));
        let scheme = fields.find("scheme").map(|node| {
            let schemes = [("http", Scheme::Http), ("https", Scheme::Https)];
            self.choice(node, &schemes)
        });
        let host = fields.find("host").map(|node| self.parse_host(node, "a host", exact_host));
        let port = fields.find("port").map(|node| self.count(node, 1..=u32::from(u16::MAX)));
        let path = self.path_change(&fields, from)?;
        let port = port.map(|port| port.and_then(|port| u16::try_from(port).ok()));
        let redirect =
            Redirect { status: status?, scheme: valid(scheme)?, host: valid(host)?, port: valid(port)?, path };
        if redirect.path.is_none() && !redirect.leads_elsewhere() {
            self.error(
                node.at,
                "this redirect leads to itself; write `pathPrefix`, `path`, `host`, `scheme` or `port`",
            );
            return None;
        }
        Some(redirect)
    }

    fn redirect_status(&mut self, node: &YamlNode) -> Option<StatusCode> {
        let status = self.count(node, 301..=308)?;
        let status = u16::try_from(status).ok().filter(|status| REDIRECT_STATUSES.contains(status));
        if status.is_none() {
            self.error(node.at, "not a status of a redirect; write 301, 302, 303, 307 or 308");
        }
        StatusCode::from_u16(status?).ok()
    }

    /// `pathPrefix` or `path`. `Some(None)` if both are absent.
    fn path_change(&mut self, fields: &SectionFields<'_>, from: &str) -> Option<Option<PathChange>> {
        let prefix = fields.find("pathPrefix").map(|node| (node, self.changed_path(node)));
        let whole = fields.find("path").map(|node| (node, self.changed_path(node)));
        let change = match (prefix, whole) {
            (Some(_), Some((node, _))) => {
                self.error(node.at, "either `pathPrefix` or `path` can be meant; remove one of them");
                return None;
            }
            (Some((node, to)), None) => {
                let to = to?;
                let to = match to.strip_suffix('/') {
                    Some("") | None => to,
                    Some(shorter) => shorter.into(),
                };
                if *to == *from {
                    self.error(node.at, "this is the path of the route, so nothing changes; write another path");
                }
                PathChange::Prefix { from: from.into(), to }
            }
            (None, Some((_, whole))) => PathChange::Whole(whole?),
            (None, None) => return Some(None),
        };
        Some(Some(change))
    }

    /// A path that is made here, in canonical form.
    fn changed_path(&mut self, node: &YamlNode) -> Option<Box<str>> {
        self.parse_text(node, "a path", |text| {
            if text.contains(['$', '*', '{', '}']) {
                return Err("a path has no patterns; `pathPrefix` keeps what follows the route's path".to_owned());
            }
            let target = RequestTarget::parse(text.as_bytes(), b"GET").map_err(|error| error.to_string())?;
            match target.path_for_matching() {
                _ if target.authority().is_some() => Err("write only the path, such as /new".to_owned()),
                _ if text.contains('?') => Err("the query of the request stays; write only the path".to_owned()),
                path if path_change::is_ambiguous(path) => {
                    Err("it could be read as another host; write one slash at the beginning".to_owned())
                }
                path if path == text => Ok(Box::from(path)),
                path => Err(format!("write it in normalized form: {path}")),
            }
        })
    }

    fn respond(&mut self, node: &YamlNode) -> Option<FixedResponse> {
        let fields = self.fields(node, &sections::RESPOND)?;
        let status = self.required(&fields, "status").and_then(|node| self.response_status(node));
        let body = self.body(&fields);
        let content_type = fields.find("contentType").map(|node| self.parse_text(node, "a media type", media_type));
        let status = status?;
        let (body, content_type) = (body?, valid(content_type)?);
        let has_no_body = EMPTY_STATUSES.contains(&status.as_u16());
        if has_no_body && !body.is_empty() {
            self.error(node.at, format!("a response with status {} has no body; remove it", status.as_u16()));
        }
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        let content_type = (!body.is_empty()).then(|| content_type.unwrap_or(text));
        Some(FixedResponse { status, content_type, body: body.into() })
    }

    fn response_status(&mut self, node: &YamlNode) -> Option<StatusCode> {
        let status = u16::try_from(self.count(node, 200..=599)?).ok()?;
        if (300..400).contains(&status) {
            self.error(node.at, format!("{status} is no status of a fixed response; use `redirect` instead"));
            return None;
        }
        StatusCode::from_u16(status).ok()
    }

    fn body(&mut self, fields: &SectionFields<'_>) -> Option<Vec<u8>> {
        let bytes = match (fields.find("body"), fields.find("bodyFile")) {
            (Some(_), Some(file)) => {
                self.error(file.at, "a response has either `body` or `bodyFile`; remove one of them");
                return None;
            }
            (Some(node), None) => (self.text(node, "a text")?.as_bytes().to_vec(), node.at),
            (None, Some(node)) => (self.body_file(node)?, node.at),
            (None, None) => return Some(Vec::new()),
        };
        let (bytes, at) = bytes;
        if bytes.len() > BODY_LEN_MAX {
            self.error(at, format!("{} bytes are too many for a body, expected at most {BODY_LEN_MAX}", bytes.len()));
            return None;
        }
        Some(bytes)
    }

    fn body_file(&mut self, node: &YamlNode) -> Option<Vec<u8>> {
        let path = self.path(node)?;
        let Some(body_files) = &mut self.body_files else {
            // Its author could publish any file that the gateway reads, such as a key.
            self.error(node.at, "a tenants file names no files; write the text as `body`");
            return None;
        };
        body_files.push(path.clone());
        match files::read_bytes(&path, BODY_LEN_MAX as u64) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                let shown = show_text(&path.to_string_lossy());
                self.error(node.at, format!("cannot read the body {shown}: {error}"));
                None
            }
        }
    }
}

/// A value that was absent or valid.
fn valid<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        Some(Some(value)) => Some(Some(value)),
        Some(None) => None,
        None => Some(None),
    }
}

fn exact_host(text: &str) -> Result<Box<str>, String> {
    match HostPattern::parse(text) {
        Ok(HostPattern::Exact(host)) => Ok(host),
        Ok(HostPattern::Below(_) | HostPattern::Any) => Err("write one host, without a star".to_owned()),
        Err(PatternError::Port) => Err("write the port as `port`".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn media_type(text: &str) -> Result<HeaderValue, String> {
    let is_plausible = text.split_once('/').is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty());
    let value = HeaderValue::from_str(text).ok().filter(|value| is_plausible && value.to_str().is_ok());
    value.filter(|_| text.trim() == text).ok_or_else(|| "write one such as application/json".to_owned())
}
