//! Parses the query of `/explain`: a described request or a recorded one by its id, and the
//! response format.

use percent_encoding::percent_decode_str;

use super::answer::AdminResponse;
use crate::explain::RenderedExplanation;
use crate::probe::{DescriptionError, ExplainedRequest, RequestDescription};

/// A query of `/explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExplainQuery {
    pub(super) subject: ExplainSubject,
    pub(super) format: ExplainFormat,
}

/// The request to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExplainSubject {
    Described(ExplainedRequest),
    /// The request with this id.
    Recorded(String),
}

/// The response format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ExplainFormat {
    #[default]
    Json,
    Text,
}

/// The reason why a query is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExplainQueryError {
    #[error(transparent)]
    Probe(#[from] DescriptionError),
    #[error("duplicate parameter `{0}`: expected it once")]
    Repeated(&'static str),
    #[error("invalid format `{0}`: expected json or text")]
    Format(String),
    #[error("request-id cannot be combined with `{0}`: remove one of them")]
    Both(String),
    #[error("empty request-id: expected the X-Request-Id value of a response")]
    NoId,
}

impl ExplainQuery {
    pub(super) fn from_query(query: &str) -> Result<Self, ExplainQueryError> {
        let (mut request_id, mut format, mut described) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, slot) = match name {
                "request-id" => ("request-id", &mut request_id),
                "format" => ("format", &mut format),
                _ => {
                    described.push(pair);
                    continue;
                }
            };
            if slot.replace(decode(value)).is_some() {
                return Err(ExplainQueryError::Repeated(name));
            }
        }
        let format = match format.as_deref() {
            None => ExplainFormat::default(),
            Some("json") => ExplainFormat::Json,
            Some("text") => ExplainFormat::Text,
            Some(other) => return Err(ExplainQueryError::Format(other.to_owned())),
        };
        let subject = match (request_id, described.first()) {
            (Some(_), Some(other)) => {
                return Err(ExplainQueryError::Both(other.split('=').next().unwrap_or_default().to_owned()));
            }
            (Some(id), None) if id.trim().is_empty() => return Err(ExplainQueryError::NoId),
            (Some(id), None) => ExplainSubject::Recorded(id.trim().to_owned()),
            (None, _) => {
                ExplainSubject::Described(RequestDescription::from_query(&described.join("&"))?.into_request()?)
            }
        };
        Ok(ExplainQuery { subject, format })
    }
}

impl ExplainFormat {
    pub(super) fn answer(self, explanation: &RenderedExplanation) -> AdminResponse {
        match self {
            ExplainFormat::Json => AdminResponse::json(http::StatusCode::OK, &explanation.json),
            ExplainFormat::Text => AdminResponse::text(http::StatusCode::OK, explanation.text.trim_end()),
        }
    }
}

/// Decodes a value of a URL-encoded form.
pub(super) fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explain_query_takes_a_request_or_a_request_id() {
        let subject = |query: &str| ExplainQuery::from_query(query).map(|explain_query| explain_query.subject);
        assert_eq!(subject("request-id=%20a%2Fb+"), Ok(ExplainSubject::Recorded("a/b".to_owned())));
        assert!(matches!(subject("host=a&format=text"), Ok(ExplainSubject::Described(_))));
        let format = |query: &str| ExplainQuery::from_query(query).map(|explain_query| explain_query.format);
        assert_eq!(format("request-id=a"), Ok(ExplainFormat::Json));
        assert_eq!(format("request-id=a&format=text"), Ok(ExplainFormat::Text));
        for (query, error) in [
            ("request-id=a&host=b", ExplainQueryError::Both("host".to_owned())),
            ("request-id=a&request-id=b", ExplainQueryError::Repeated("request-id")),
            ("format=text&format=text", ExplainQueryError::Repeated("format")),
            ("host=a&format=xml", ExplainQueryError::Format("xml".to_owned())),
            ("request-id=", ExplainQueryError::NoId),
            ("", ExplainQueryError::Probe(DescriptionError::NoHost)),
        ] {
            assert_eq!(ExplainQuery::from_query(query), Err(error), "{query}");
        }
    }
}
