//! Reload with a main file that is missing, unreadable, too large or a directory.
use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// Above the gateway's limit for files, and far above the memory that it may use.
const HUGE: u64 = 100 << 20;
const MIB: u64 = 1024 * 1024;

#[derive(Debug, Clone, Copy)]
enum StandIn {
    Directory,
    Huge,
    Unreadable,
    Nothing,
}

impl StandIn {
    /// Replaces the file. Returns false if the system gives access to it anyway.
    fn put(self, path: &Path) -> bool {
        match self {
            StandIn::Directory => fs::create_dir(path).unwrap(),
            StandIn::Huge => fs::File::create(path).unwrap().set_len(HUGE).unwrap(),
            StandIn::Unreadable => {
                fs::write(path, "version: 1\n").unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
                // Root can read every file.
                return fs::File::open(path).is_err();
            }
            StandIn::Nothing => {}
        }
        true
    }

    fn take_away(self, path: &Path) {
        match self {
            StandIn::Directory => fs::remove_dir(path).unwrap(),
            StandIn::Huge | StandIn::Unreadable => fs::remove_file(path).unwrap(),
            StandIn::Nothing => {}
        }
    }
}

#[test]
fn unreadable_main_file_changes_nothing_under_load() {
    let upstream = RecordingUpstream::answering("hello");
    let gateway = Gateway::start(&generation(upstream.address, 1), &[]);
    let path = gateway.path("crossgate.yaml");
    post_reload(&gateway);
    let before = gateway.process.memory("VmRSS");
    under_load(&gateway, 16, |shared| {
        for n in 1..4 {
            shared.floor.store(n, Ordering::SeqCst);
            fs::remove_file(&path).unwrap();
            for stand_in in [StandIn::Directory, StandIn::Huge, StandIn::Unreadable, StandIn::Nothing] {
                if stand_in.put(&path) {
                    let answer = gateway.admin("POST", "/reload");
                    assert!(
                        answer.status == 422 && answer.text().contains("crossgate.yaml"),
                        "{stand_in:?}: {answer:?}"
                    );
                    assert_eq!(gateway.metric("crossgate_config_last_reload_successful", &[]), 0.0, "{stand_in:?}");
                    assert_eq!(
                        preflight_generation(&Connection::ask(gateway.data, &preflight()).unwrap()),
                        n,
                        "{stand_in:?}"
                    );
                }
                stand_in.take_away(&path);
            }
            rename(&path, &generation(upstream.address, n + 1));
            wait_live(&gateway, shared, n + 1);
        }
    });
    let grown = gateway.process.memory("VmRSS").saturating_sub(before) / MIB;
    assert!(grown < 32, "grown by {grown} MiB");
}
