//! `Date`, RFC 9110, section 6.6.1: rendered once a second by each worker.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;

thread_local! {
    static DATE: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// Calls `with` with the date of a response that is made now.
pub(crate) fn with_date<R>(with: impl FnOnce(&HeaderValue) -> R) -> R {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    DATE.with_borrow_mut(|(rendered, value)| {
        if *rendered != second {
            *rendered = second;
            *value = HeaderValue::try_from(httpdate::fmt_http_date(now)).unwrap_or(HeaderValue::from_static(""));
        }
        with(value)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_date_is_the_present_second() {
        let text = with_date(|value| value.to_str().expect("text").to_owned());
        let date = httpdate::parse_http_date(&text).expect("a date");
        let age = SystemTime::now().duration_since(date).expect("in the past");
        assert!(age < Duration::from_secs(3), "{text}");
        assert_eq!(text.len(), 29);
    }
}
