//! Conversions of configuration values into types of modules that do not depend on the
//! configuration.

use crate::access_log::{FileRotation, LogDestination};
use crossgate_config::model;
use crossgate_config::model::LogRotation;
use crossgate_wire::tls::Http2;
use crossgate_wire::tls::TlsVersion;

/// The file of the access log, and its rotation.
pub(crate) fn log_destination(log: &model::AccessLogSettings) -> LogDestination {
    let rotation = log.rotation.map(|LogRotation { size, count }| FileRotation { size, count });
    LogDestination { path: log.path.as_ref().map(|path| path.value.clone()), rotation }
}

pub(crate) fn http2(configured: model::Http2Support) -> Http2 {
    match configured {
        model::Http2Support::Offered => Http2::Offered,
        model::Http2Support::Off => Http2::Off,
    }
}

/// The minimum TLS version of a listener.
pub(crate) fn tls_version(configured: model::TlsVersion) -> TlsVersion {
    match configured {
        model::TlsVersion::Tls12 => TlsVersion::Tls12,
        model::TlsVersion::Tls13 => TlsVersion::Tls13,
    }
}
