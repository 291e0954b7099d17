//! The tokens of the admin listener.
//!
//! A token file contains one token of 16 to 1,024 printable ASCII characters. Every load reads the
//! files again, so an operator replaces a token by writing its file. Absent on purpose: user names,
//! and permissions other than full and read-only.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crossgate_config::files::read_bytes;

/// A shorter token could be guessed.
const TOKEN_LEN_MIN: usize = 16;
const TOKEN_LEN_MAX: usize = 1_024;
/// Fits a token with white space around it.
const TOKEN_FILE_BYTES_MAX: u64 = 4 << 10;

/// A token without surrounding white space.
pub(crate) type Token = Box<[u8]>;

/// The current tokens.
#[derive(Default)]
pub struct AdminTokens(ArcSwap<TokenPair>);

/// The token for all endpoints, and the read-only one.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct TokenPair {
    pub(crate) full: Option<Token>,
    pub(crate) read: Option<Token>,
}

/// The reason why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("cannot read the admin token file {}: {source}; expected a readable file", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error(
        "the admin readTokenFile {} contains the same token as tokenFile: expected a different token",
        .0.display()
    )]
    Same(PathBuf),
    #[error(
        "invalid token in the admin token file {}: expected {TOKEN_LEN_MIN} to {TOKEN_LEN_MAX} printable ASCII \
         characters without spaces", .0.display()
    )]
    NotAToken(PathBuf),
}

impl AdminTokens {
    /// Replaces the tokens; the old ones and cookies made with them are refused from then on.
    /// Returns whether anything changed.
    pub(crate) fn replace(&self, pair: TokenPair) -> bool {
        let has_changed = **self.0.load() != pair;
        if has_changed {
            self.0.store(Arc::new(pair));
        }
        has_changed
    }

    pub(crate) fn current(&self) -> Arc<TokenPair> {
        self.0.load_full()
    }
}

impl TokenPair {
    /// The configured tokens.
    pub(crate) fn each(&self) -> impl Iterator<Item = &[u8]> {
        [self.full.as_deref(), self.read.as_deref()].into_iter().flatten()
    }
}

/// Reads the token in a file.
pub(crate) fn read_token(path: &Path) -> Result<Token, TokenError> {
    let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
    let text = read_bytes(path, TOKEN_FILE_BYTES_MAX).map_err(unreadable)?;
    let token = text.trim_ascii();
    let is_token = (TOKEN_LEN_MIN..=TOKEN_LEN_MAX).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
    if is_token { Ok(token.into()) } else { Err(TokenError::NotAToken(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn token_file_requires_16_printable_characters() {
        for (text, is_token) in [
            ("0123456789abcdef\n", true),
            ("  0123456789abcdef  ", true),
            ("", false),
            ("short", false),
            ("0123456789 abcdef", false),
            ("0123456789abcd\u{e9}f", false),
        ] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let token = read_token(file.path());
            assert_eq!(token.ok().as_deref(), is_token.then_some(&b"0123456789abcdef"[..]), "{text:?}");
        }
        assert!(matches!(read_token(Path::new("/nonexistent/token")), Err(TokenError::Unreadable { .. })));
    }
}
