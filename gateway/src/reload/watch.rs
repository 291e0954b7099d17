//! Wakes the reload thread when something happens in a directory of configuration files.
//!
//! Directories are watched rather than files, since files are replaced: by rename, or by a link that is swapped beside them. What
//! happened is not looked at; the thread looks at the files. Where watching fails, its regular looks remain.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::Sender;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::Command;

/// A watch over a changing set of directories.
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    followed: BTreeSet<PathBuf>,
}

impl Watch {
    pub(super) fn new(commands: Sender<Command>) -> Self {
        let stir = move |event: notify::Result<Event>| {
            if event.map_or(true, |event| is_change(event.kind)) {
                // The thread may have ended just now.
                let _ = commands.send(Command::Stirred);
            }
        };
        let watcher = notify::recommended_watcher(stir);
        let watcher = watcher.inspect_err(|error| tracing::warn!(%error, "files cannot be watched; they are polled"));
        Watch { watcher: watcher.ok(), followed: BTreeSet::new() }
    }

    /// Watches exactly these directories from now on. One that cannot be watched is tried again the next time.
    pub(super) fn follow(&mut self, directories: Vec<PathBuf>) {
        let wanted: BTreeSet<PathBuf> = directories.into_iter().collect();
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.followed.difference(&wanted) {
            let _ = watcher.unwatch(gone);
        }
        self.followed.retain(|directory| wanted.contains(directory));
        for directory in wanted {
            if !self.followed.contains(&directory) && watcher.watch(&directory, RecursiveMode::NonRecursive).is_ok() {
                self.followed.insert(directory);
            }
        }
    }
}

/// Reading is no change, and the thread's own reading must not wake it.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    }
}
