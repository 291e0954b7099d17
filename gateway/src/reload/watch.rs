//! File watch: wakes the reload thread when a configured file, or a directory of tenants or
//! scripts, changes.
//!
//! Directories are watched rather than files, because files are replaced: by rename, or by a
//! swapped symbolic link next to them (Kubernetes volumes). Events of other files are ignored, and
//! their writes are not subscribed to, so an access log in the same directory costs nothing. Writes
//! to configured files only show that a closed file is being written again. The reload thread
//! compares the files itself. If watching fails, it still polls.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::Command;
use super::stamp::FileStamp;
use crate::metrics::{PanicCounters, PanicPlace};

/// Symbolic links on the way to one file: the limit of the Linux kernel.
const LINKS_MAX: usize = 40;
/// Reads of further events before the reload thread is woken. Without a limit, continuous writes
/// could delay the reload for ever.
const PASSES_MAX: usize = 16;
/// Space for some dozens of events.
const BUFFER_BYTES: usize = 4 << 10;

/// Paths whose changes wake the reload thread.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct WatchedPaths {
    /// Files, and symbolic links on the way to them.
    names: BTreeSet<PathBuf>,
    /// Directories in which every file counts.
    directories: BTreeSet<PathBuf>,
}

impl WatchedPaths {
    /// Adds a file and the links that lead to it.
    pub(super) fn add_file(&mut self, path: &Path) {
        let mut path = path.to_path_buf();
        for _ in 0..LINKS_MAX {
            self.names.insert(path.clone());
            match resolve_first_link(&path) {
                Some((link, target)) => {
                    self.names.insert(link);
                    path = target;
                }
                None => return,
            }
        }
    }

    /// Adds a directory, which need not exist.
    pub(super) fn add_directory(&mut self, path: &Path) {
        self.add_file(path);
        self.directories.insert(path.to_path_buf());
    }

    /// Lists the directories that must be watched.
    fn list_directories(&self) -> BTreeSet<PathBuf> {
        let parent = |path: &PathBuf| match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_path_buf(),
            Some(_) | None => PathBuf::from("."),
        };
        self.names.iter().map(parent).chain(self.directories.iter().cloned()).collect()
    }

    fn contains(&self, directory: &Path, name: &OsStr) -> bool {
        let is_bare = directory == Path::new(".") && self.names.contains(Path::new(name));
        is_bare || self.directories.contains(directory) || self.names.contains(&directory.join(name))
    }
}

/// Finds the first symbolic link among a path and its ancestors. Returns the link, and the path
/// with the link replaced by its target.
fn resolve_first_link(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut prefixes: Vec<&Path> = path.ancestors().filter(|prefix| *prefix != Path::new("")).collect();
    prefixes.reverse();
    prefixes.into_iter().find_map(|prefix| {
        let target = fs::read_link(prefix).ok()?;
        let rest = path.strip_prefix(prefix).ok()?;
        let target = prefix.parent().unwrap_or(Path::new("")).join(target);
        // Joining an empty path would add a slash.
        let whole = if rest == Path::new("") { target } else { target.join(rest) };
        Some((prefix.to_path_buf(), whole))
    })
}

/// Handle of the watch thread. Dropping it ends the thread.
pub(super) struct FileWatch {
    watcher: Option<FileWatcher>,
}

struct FileWatcher {
    shared: Arc<WatchShared>,
    _stop: UnixStream,
}

struct WatchShared {
    inotify: OwnedFd,
    state: Mutex<WatchState>,
}

#[derive(Default)]
struct WatchState {
    paths_of_interest: WatchedPaths,
    /// Watched directories by inotify watch descriptor. Two paths may lead to one directory.
    watched: BTreeMap<i32, BTreeSet<PathBuf>>,
    /// Configured files whose writes are watched, by watch descriptor.
    files: BTreeMap<i32, BTreeSet<PathBuf>>,
}

/// Last change of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileChange {
    /// Written to; the writer may continue.
    Written,
    /// Closed or renamed by its writer. The stamp is taken after the event.
    Finished(Option<FileStamp>),
    /// Any other change.
    Other,
}

/// Last change of each file.
type Changes = BTreeMap<PathBuf, FileChange>;

impl WatchState {
    /// Records that the path leads to the directory of this watch descriptor and to no other.
    fn set_directory(&mut self, inotify: &OwnedFd, descriptor: i32, path: &Path) {
        self.watched.retain(|other, paths| {
            if *other != descriptor && paths.remove(path) && paths.is_empty() {
                let _ = inotify::remove_watch(inotify, *other);
            }
            !paths.is_empty()
        });
        self.watched.entry(descriptor).or_default().insert(path.to_path_buf());
    }
}

impl WatchState {
    /// Watches writes to the configured files only.
    fn watch_writes(&mut self, inotify: &OwnedFd) {
        let mut files: BTreeMap<i32, BTreeSet<PathBuf>> = BTreeMap::new();
        for path in self.paths_of_interest.names.iter().filter(|path| path.is_file()) {
            if let Ok(descriptor) = inotify::add_watch(inotify, path, WatchFlags::MODIFY) {
                files.entry(descriptor).or_default().insert(path.clone());
            }
        }
        for descriptor in self.files.keys().filter(|descriptor| !files.contains_key(descriptor)) {
            let _ = inotify::remove_watch(inotify, *descriptor);
        }
        self.files = files;
    }
}

impl FileWatch {
    pub(super) fn new(commands: Sender<Command>, panics: Arc<PanicCounters>) -> Self {
        let watcher = FileWatcher::start(commands, panics);
        let watcher = watcher.inspect_err(|error| tracing::warn!(%error, "cannot watch files; polling them instead"));
        FileWatch { watcher: watcher.ok() }
    }

    /// Watches these paths from now on. Returns true if each directory is watched. For a directory
    /// that does not exist yet the caller tries again.
    pub(super) fn follow(&mut self, paths_of_interest: WatchedPaths) -> bool {
        let Some(FileWatcher { shared, .. }) = &self.watcher else { return true };
        let wanted = paths_of_interest.list_directories();
        let mut state = shared.state.lock();
        state.paths_of_interest = paths_of_interest;
        state.watched.retain(|descriptor, paths| {
            paths.retain(|path| wanted.contains(path));
            if paths.is_empty() {
                // Fails if the directory has been removed, because the kernel then removed the
                // watch.
                let _ = inotify::remove_watch(&shared.inotify, *descriptor);
            }
            !paths.is_empty()
        });
        let mut is_complete = true;
        for path in &wanted {
            // Added each time, because the path may lead to another directory now.
            let is_whole_directory = state.paths_of_interest.directories.contains(path);
            let flags = if is_whole_directory { directory_flags() | WatchFlags::MODIFY } else { directory_flags() };
            match inotify::add_watch(&shared.inotify, path, flags) {
                Ok(descriptor) => state.set_directory(&shared.inotify, descriptor, path),
                // The parent directory is watched, so the creation of this one will be an event.
                Err(Errno::NOENT) if path.parent().is_some_and(|parent| wanted.contains(parent) && parent.is_dir()) => {
                }
                Err(_) => is_complete = false,
            }
        }
        state.watch_writes(&shared.inotify);
        is_complete
    }
}

/// Events that change the target of a path, and the end of a write. Single writes are left out: the
/// access log of a busy gateway would wake the thread.
fn directory_flags() -> WatchFlags {
    WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ATTRIB
        | WatchFlags::ONLYDIR
        // Two paths to one directory may need different events.
        | WatchFlags::MASK_ADD
}

impl FileWatcher {
    fn start(commands: Sender<Command>, panics: Arc<PanicCounters>) -> std::io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let shared = Arc::new(WatchShared { inotify, state: Mutex::default() });
        let (stop, stopped) = UnixStream::pair()?;
        let thread_shared = Arc::clone(&shared);
        let work = move || {
            crossgate_telemetry::restart::restart_on_panic(
                || panics.count(PanicPlace::Reload),
                || thread_shared.run(&stopped, &commands),
            );
        };
        std::thread::Builder::new().name("watch".to_owned()).spawn(work)?;
        Ok(FileWatcher { shared, _stop: stop })
    }
}

impl WatchShared {
    fn run(&self, stopped: &UnixStream, commands: &Sender<Command>) {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            let mut ready = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
            let polled = poll(&mut ready, None);
            let [_, stop] = ready;
            match polled {
                Ok(_) if !stop.revents().is_empty() => return,
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return tracing::warn!(%error, "file watch ended; polling files instead"),
            }
            let mut changes = Changes::new();
            for _ in 0..PASSES_MAX {
                match self.drain(&mut reader, &mut changes) {
                    Ok(true) => stamp_finished(&mut changes),
                    Ok(false) => break,
                    Err(error) => return tracing::warn!(%error, "file watch ended; polling files instead"),
                }
            }
            for change in changes.into_values() {
                let finished = match change {
                    FileChange::Finished(stamp) => stamp,
                    FileChange::Written | FileChange::Other => None,
                };
                if commands.send(Command::Changed { finished }).is_err() {
                    return;
                }
            }
        }
    }

    /// Reads all pending events. Returns true if there was one.
    fn drain(&self, reader: &mut Reader<'_, &OwnedFd>, changes: &mut Changes) -> Result<bool, Errno> {
        let mut has_events = false;
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(has_events),
                Err(error) => return Err(error),
            };
            has_events = true;
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
            self.record_event(event.wd(), event.events(), name.as_deref(), changes);
        }
    }

    /// Records the change of an event, if it concerns a watched path.
    fn record_event(&self, descriptor: i32, events: ReadFlags, name: Option<&OsStr>, changes: &mut Changes) {
        let mut state = self.state.lock();
        let is_ignored = events.contains(ReadFlags::IGNORED);
        if let Some(paths) = state.files.get(&descriptor) {
            changes.extend(paths.iter().map(|path| (path.clone(), FileChange::Written)));
            if is_ignored {
                state.files.remove(&descriptor);
            }
            return;
        }
        if is_ignored && state.watched.remove(&descriptor).is_none() {
            // `follow` removed this watch.
            return;
        }
        let Some(name) = name else {
            // An event of a directory itself, or an overflow of the kernel's queue (IN_Q_OVERFLOW).
            changes.insert(PathBuf::new(), FileChange::Other);
            return;
        };
        // A writer that closed or renamed a file has finished it, unless the file changes again.
        let change = if events.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
            FileChange::Finished(None)
        } else if events.contains(ReadFlags::MODIFY) {
            FileChange::Written
        } else {
            FileChange::Other
        };
        let directories = state.watched.get(&descriptor).into_iter().flatten();
        let relevant = directories.filter(|directory| state.paths_of_interest.contains(directory, name));
        changes.extend(relevant.map(|directory| (directory.join(name), change)));
    }
}

/// Takes the stamps of finished files. A write before the stamp is already an event, which the next
/// pass reads, so the close by one writer cannot count as the close by the next.
fn stamp_finished(changes: &mut Changes) {
    for (path, change) in changes {
        if let FileChange::Finished(stamp) = change {
            *stamp = FileStamp::of(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use super::*;

    struct Fixture {
        directory: tempfile::TempDir,
        watch: FileWatch,
        inbox: Receiver<Command>,
    }

    impl Fixture {
        fn start() -> Self {
            let (commands, inbox) = channel();
            let directory = tempfile::tempdir().unwrap();
            Fixture { directory, watch: FileWatch::new(commands, Arc::default()), inbox }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn next_finished(&self) -> Option<FileStamp> {
            match self.inbox.recv_timeout(Duration::from_secs(20)).expect("an event") {
                Command::Changed { finished } => finished,
                Command::Reload(_) | Command::Stop => panic!("another command"),
            }
        }
    }

    #[test]
    fn d11_events_of_other_files_are_dropped() {
        let mut fixture = Fixture::start();
        let (config, log) = (fixture.path("gateway.yaml"), fixture.path("access.log"));
        fs::write(&config, "1").unwrap();
        let mut paths_of_interest = WatchedPaths::default();
        paths_of_interest.add_file(&config);
        assert!(fixture.watch.follow(paths_of_interest));
        let mut open = fs::File::options().append(true).create(true).open(&log).unwrap();
        for _ in 0..1_000 {
            open.write_all(b"a line\n").unwrap();
            fs::write(fixture.path("other"), "x").unwrap();
        }
        fs::rename(&log, fixture.path("access.log.1")).unwrap();
        fs::remove_file(fixture.path("other")).unwrap();
        // Events arrive in order, so an event of the other files would arrive first.
        fs::write(&config, "22").unwrap();
        let mut events = 1;
        let finished = loop {
            match fixture.next_finished() {
                Some(stamp) => break stamp,
                None => events += 1,
            }
        };
        assert!(finished.is_same(&FileStamp::of(&config).unwrap()));
        assert!(events <= 3, "expected at most three events (truncated, written, closed), got {events}");
    }

    #[test]
    fn f5_close_by_one_writer_does_not_finish_the_file_of_the_next() {
        let mut fixture = Fixture::start();
        let config = fixture.path("gateway.yaml");
        fs::write(&config, "1").unwrap();
        let mut paths_of_interest = WatchedPaths::default();
        paths_of_interest.add_file(&config);
        assert!(fixture.watch.follow(paths_of_interest));
        let shared = Arc::clone(&fixture.watch.watcher.as_ref().unwrap().shared);
        // The lock delays the watch thread until the second writer has begun, as on a busy machine.
        let busy = shared.state.lock();
        fs::write(&config, "whole").unwrap();
        let mut second = fs::File::create(&config).unwrap();
        second.write_all(b"half").unwrap();
        drop(busy);
        assert!(fixture.next_finished().is_none(), "a half-written file counts as finished");
        while let Ok(Command::Changed { finished }) = fixture.inbox.recv_timeout(Duration::from_millis(200)) {
            assert!(finished.is_none(), "a half-written file counts as finished");
        }
        second.write_all(b" and the rest").unwrap();
        drop(second);
        while fixture.next_finished().is_none() {}
    }

    #[test]
    fn d11_swapped_symlink_anywhere_in_the_path_is_detected() {
        let mut fixture = Fixture::start();
        for version in ["..v1", "..v2"] {
            fs::create_dir(fixture.path(version)).unwrap();
            fs::write(fixture.path(version).join("gateway.yaml"), version).unwrap();
        }
        symlink("..v1", fixture.path("..data")).unwrap();
        symlink("..data/gateway.yaml", fixture.path("gateway.yaml")).unwrap();
        symlink(fixture.directory.path(), fixture.path("mount")).unwrap();
        let follow = |watch: &mut FileWatch| {
            let mut paths_of_interest = WatchedPaths::default();
            paths_of_interest.add_file(&fixture.directory.path().join("mount/gateway.yaml"));
            assert!(watch.follow(paths_of_interest));
        };
        follow(&mut fixture.watch);
        for version in ["..v2", "..v1"] {
            symlink(version, fixture.directory.path().join("..tmp")).unwrap();
            fs::rename(fixture.directory.path().join("..tmp"), fixture.directory.path().join("..data")).unwrap();
            match fixture.inbox.recv_timeout(Duration::from_secs(20)).expect("the swap") {
                Command::Changed { .. } => {}
                Command::Reload(_) | Command::Stop => panic!("another command"),
            }
            follow(&mut fixture.watch);
            // The file that the link leads to now is watched too.
            while fixture.inbox.try_recv().is_ok() {}
            let file = fixture.directory.path().join(version).join("gateway.yaml");
            fs::write(&file, "in place").unwrap();
            let is_complete = |seen| matches!(seen, Command::Changed { finished: Some(stamp) } if stamp.is_same(&FileStamp::of(&file).unwrap()));
            while !is_complete(fixture.inbox.recv_timeout(Duration::from_secs(20)).expect("the write")) {}
        }
    }

    #[test]
    fn d11_changes_in_a_late_tenants_directory_are_detected() {
        let mut fixture = Fixture::start();
        let tenants = fixture.path("tenants.d");
        let follow = |watch: &mut FileWatch, path: &Path| {
            let mut paths_of_interest = WatchedPaths::default();
            paths_of_interest.add_directory(path);
            watch.follow(paths_of_interest)
        };
        assert!(follow(&mut fixture.watch, &tenants), "the parent directory exists, so the missing one is followed");
        assert!(!follow(&mut fixture.watch, &tenants.join("deep")), "the parent directory is missing too");
        assert!(follow(&mut fixture.watch, &tenants));
        fs::create_dir(&tenants).unwrap();
        assert!(fixture.next_finished().is_none(), "the creation of the directory is not a finished file");
        assert!(follow(&mut fixture.watch, &tenants));
        fs::write(tenants.join("new.yaml"), "x").unwrap();
        // Created, written and closed, in one batch of events or in several.
        while fixture.next_finished().is_none() {}
    }
}
