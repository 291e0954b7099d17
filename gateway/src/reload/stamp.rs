//! Whether a file is still the one that was read, without reading it.
//!
//! A stamp is what the file system says of a file, links followed. Clocks of file systems tick every few milliseconds, so a file that
//! was changed just before it was read could change once more under the same stamp: such a stamp is not settled, and the file
//! is read again. File systems whose times have whole seconds would need a longer wait than anybody wants.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longer than a tick of any file system clock but the coarsest.
const TICK: Duration = Duration::from_millis(50);

/// What the file system said of a file at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    identity: Identity,
    /// Whether the file had been left alone for a while.
    settled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// That of a file as it is now; `None` if there is none.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        let identity = Identity {
            device: meta.dev(),
            inode: meta.ino(),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        };
        Some(Stamp { identity, settled: !is_recent(meta.ctime(), meta.ctime_nsec()) })
    }

    /// Whether a file read under this stamp is still the same under a later one.
    pub(super) fn vouches_for(&self, later: &Stamp) -> bool {
        self.settled && self.identity == later.identity
    }
}

/// Whether a time is within a tick of now. One that is further ahead than that will not come to rest; it is no reason to read
/// for ever.
fn is_recent(seconds: i64, nanos: i64) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = u32::try_from(nanos).unwrap_or_default();
    let then = Duration::new(u64::try_from(seconds).unwrap_or_default(), nanos);
    now.abs_diff(then) <= TICK
}
