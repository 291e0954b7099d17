//! File stamps: detection of changed files without reading them.
//!
//! A stamp is the metadata of a file, with symbolic links followed. File system clocks tick every
//! few milliseconds, so a file that changed just before it was read could change again under the
//! same stamp. Such a stamp is not settled, and the file is read again. File systems with
//! whole-second times are not supported here: they would need a wait of more than a second.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ahash::AHashSet;

/// Longer than a tick of any file system clock except those that count whole seconds.
const TICK: Duration = Duration::from_millis(50);

/// Longest pause of a writer that has not closed its file. After a longer pause the file counts as
/// complete.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Metadata of a file at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStamp {
    identity: StampIdentity,
    /// Set if the last change was more than [`TICK`] ago.
    settled: bool,
    /// Time since the last change.
    age: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct StampIdentity {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    /// Takes the stamp of a file as it is now; `None` if it does not exist or is inaccessible.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        let identity = StampIdentity {
            device: meta.dev(),
            inode: meta.ino(),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        };
        // The change time, because tools such as rsync and tar set the modification time back.
        let age = age(meta.ctime(), meta.ctime_nsec());
        Some(FileStamp { identity, settled: age > TICK, age })
    }

    /// Checks that both stamps are of one file in one state.
    pub(super) fn is_same(&self, other: &FileStamp) -> bool {
        self.identity == other.identity
    }

    /// Time left to wait for a writer that has not closed the file; zero if it paused long enough.
    pub(super) fn pause_left(&self) -> Duration {
        PAUSE_MAX.saturating_sub(self.age)
    }

    /// Checks that a file read under this stamp has the same content under a later one.
    pub(super) fn proves_unchanged(&self, later: &FileStamp) -> bool {
        self.settled && self.identity == later.identity
    }
}

/// The states in which writers closed or renamed files.
#[derive(Debug, Default)]
pub(super) struct FinishedStates {
    states: AHashSet<StampIdentity>,
    last_added: Option<Instant>,
}

impl FinishedStates {
    /// Limit on stored states. Files over the limit are read after their writers' pause.
    const LEN_MAX: usize = 1 << 20;

    pub(super) fn add(&mut self, stamp: &FileStamp) {
        if self.states.len() < Self::LEN_MAX {
            self.states.insert(stamp.identity);
            self.last_added = Some(Instant::now());
        }
    }

    pub(super) fn contains(&self, stamp: &FileStamp) -> bool {
        self.states.contains(&stamp.identity)
    }

    /// Drops the states once all of them are old enough to count as finished by their age.
    pub(super) fn drop_old(&mut self) {
        if self.last_added.is_some_and(|added| added.elapsed() > 2 * PAUSE_MAX) {
            *self = FinishedStates::default();
        }
    }
}

/// Distance of a time from now. A time in the future comes from a file server with another clock,
/// so the absolute distance is used: waiting for it could take for ever.
fn age(seconds: i64, nanos: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = u32::try_from(nanos).unwrap_or_default();
    let then = Duration::new(u64::try_from(seconds).unwrap_or_default(), nanos);
    now.abs_diff(then)
}
