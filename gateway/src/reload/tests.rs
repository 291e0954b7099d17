//! Tests of reloading: every way in which files change, and what stays active after a mistake.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;

use super::status::LastResult;
use super::*;
use crate::snapshot::HostMatch;
use crate::tenant::Tenant;

mod certificates;
mod renewal;
mod trust;

const MAIN: &str = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
upstreams: { a: { servers: ["127.0.0.1:9001"] } }
originSets: { s: ["https://set.example"] }
policies: { spa: { allowOrigins: ["https://app.example"], allowOriginSets: [s] } }
tenants: [{ id: main, hosts: [main.example], upstream: a, policy: spa }]
tenantsDir: tenants.d
"#;

/// The documented time is a second. A loaded machine gets more before the test fails.
const DETECTED_WITHIN: Duration = Duration::from_secs(10);

/// A temporary directory with a configuration.
struct Files(TempDir);

impl Files {
    fn new(tenants: &[&str]) -> Self {
        let files = Files(tempfile::tempdir().unwrap());
        fs::create_dir(files.path("tenants.d")).unwrap();
        files.write("gateway.yaml", MAIN);
        tenants.iter().for_each(|id| files.write(&format!("tenants.d/{id}.yaml"), &tenant(id, "")));
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn replace(&self, name: &str, text: &str) {
        fs::write(self.path("new.tmp"), text).unwrap();
        fs::rename(self.path("new.tmp"), self.path(name)).unwrap();
    }

    fn start(&self) -> Reloader {
        self.start_with(BrokenTenants::Refuse).unwrap_or_else(|found| panic!("{found}"))
    }

    fn start_with(&self, broken_tenants: BrokenTenants) -> Result<Reloader, Diagnostics> {
        Reloader::start(&self.path("gateway.yaml"), broken_tenants, &GatewayMetrics::new())
    }
}

/// Text of a tenants file with one tenant; `more` contains further keys of the tenant.
fn tenant(id: &str, more: &str) -> String {
    format!("tenants: [{{ id: {id}, hosts: [{id}.example], upstream: a, policy: spa{more} }}]\n")
}

fn find(reloader: &Reloader, host: &str) -> Option<Arc<Tenant>> {
    match reloader.current().latest().tenant(host) {
        Some(HostMatch::Tenant(tenant)) => Some(Arc::clone(tenant)),
        Some(HostMatch::Broken) | None => None,
    }
}

fn is_broken(reloader: &Reloader, host: &str) -> bool {
    matches!(reloader.current().latest().tenant(host), Some(HostMatch::Broken))
}

fn generation(reloader: &Reloader) -> u64 {
    reloader.current().latest().generation
}

/// Waits until the reloader has detected a change without a request.
#[track_caller]
fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < DETECTED_WITHIN, "{what} was not detected");
        thread::yield_now();
    }
}

fn broken_names(reloader: &Reloader) -> Vec<String> {
    let name = |file: &BrokenFile| file.file.file_name().unwrap().to_str().unwrap().to_owned();
    reloader.status().broken_files.iter().map(name).collect()
}

#[test]
fn start_loads_every_tenants_file() {
    let files = Files::new(&["a", "b"]);
    files.write("tenants.d/.hidden.yaml", "nonsense");
    files.write("tenants.d/notes.txt", "nonsense");
    let reloader = files.start();
    for host in ["main.example", "a.example", "b.example"] {
        assert!(find(&reloader, host).is_some(), "{host}");
    }
    assert_eq!(generation(&reloader), 1);
    let status = reloader.status();
    assert!(status.broken_files.is_empty() && status.errors.is_empty() && status.failures_total == 0);
}

#[test]
fn write_in_place_is_reloaded() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    files.write("tenants.d/a.yaml", &tenant("b", ""));
    wait_for("the write", || find(&reloader, "b.example").is_some());
    assert!(find(&reloader, "a.example").is_none());
    files.write("gateway.yaml", &MAIN.replace("main.example", "other.example"));
    wait_for("the main file", || find(&reloader, "other.example").is_some());
}

#[test]
fn last_of_quick_writes_of_equal_length_is_loaded() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    for id in ["b", "c", "d", "e", "f"] {
        files.write("tenants.d/a.yaml", &tenant(id, ""));
        reloader.request();
    }
    wait_for("the last write", || find(&reloader, "f.example").is_some());
}

#[test]
fn renamed_file_is_reloaded() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    files.replace("tenants.d/a.yaml", &tenant("b", ""));
    wait_for("the rename", || find(&reloader, "b.example").is_some());
    files.replace("gateway.yaml", &MAIN.replace("main.example", "other.example"));
    wait_for("the main file", || find(&reloader, "other.example").is_some());
}

#[test]
fn new_and_removed_files_are_reloaded() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    files.write("tenants.d/b.yml", &tenant("b", ""));
    wait_for("the new file", || find(&reloader, "b.example").is_some());
    fs::remove_file(files.path("tenants.d/a.yaml")).unwrap();
    wait_for("the removal", || find(&reloader, "a.example").is_none());
    assert!(find(&reloader, "b.example").is_some());
}

#[test]
fn swapped_symlink_is_reloaded() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    for (version, host) in [("v1", "one.example"), ("v2", "two.example")] {
        fs::create_dir_all(path(version).join("tenants.d")).unwrap();
        fs::write(path(version).join("gateway.yaml"), MAIN.replace("main.example", host)).unwrap();
        fs::write(path(version).join("tenants.d/a.yaml"), tenant(&format!("t-{version}"), "")).unwrap();
    }
    symlink("v1", path("..data")).unwrap();
    symlink("..data/gateway.yaml", path("gateway.yaml")).unwrap();
    symlink("..data/tenants.d", path("tenants.d")).unwrap();
    let start = Reloader::start(&path("gateway.yaml"), BrokenTenants::Refuse, &GatewayMetrics::new());
    let reloader = start.unwrap_or_else(|found| panic!("{found}"));
    assert!(find(&reloader, "one.example").is_some());
    symlink("v2", path("..data_tmp")).unwrap();
    fs::rename(path("..data_tmp"), path("..data")).unwrap();
    wait_for("the swap", || find(&reloader, "two.example").is_some() && find(&reloader, "t-v2.example").is_some());
    assert!(find(&reloader, "one.example").is_none() && find(&reloader, "t-v1.example").is_none());
}

#[test]
fn unchanged_tenants_are_reused() {
    let files = Files::new(&["a", "b"]);
    let reloader = files.start();
    let (main, a) = (find(&reloader, "main.example").unwrap(), find(&reloader, "a.example").unwrap());
    let b = find(&reloader, "b.example").unwrap();
    files.write("tenants.d/b.yaml", &tenant("b", r#", allowOrigins: ["https://new.example"]"#));
    let report = reloader.reload_now().unwrap();
    assert_eq!(report.generation, generation(&reloader));
    assert!(Arc::ptr_eq(&main, &find(&reloader, "main.example").unwrap()));
    assert!(Arc::ptr_eq(&a, &find(&reloader, "a.example").unwrap()));
    let new = find(&reloader, "b.example").unwrap();
    assert!(!Arc::ptr_eq(&b, &new) && Arc::ptr_eq(&b.counters, &new.counters));
}

#[test]
fn a_superseded_snapshot_is_freed_with_its_last_request() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    let running = reloader.current().pin();
    let old = Arc::downgrade(&reloader.current().latest());
    for id in ["b", "c"] {
        files.write("tenants.d/a.yaml", &tenant(id, ""));
        reloader.reload_now().unwrap();
    }
    assert!(
        old.upgrade().is_some_and(|old| old.generation == running.generation),
        "the snapshot was freed while its request ran"
    );
    drop(running);
    assert_eq!(old.strong_count(), 0);
}

#[test]
fn a_change_of_policy_or_set_alone_takes_effect() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    let old = find(&reloader, "a.example").unwrap();
    files.write("gateway.yaml", &MAIN.replace("https://set.example", "https://other.example"));
    reloader.reload_now().unwrap();
    let set = find(&reloader, "a.example").unwrap();
    assert!(!Arc::ptr_eq(&old, &set));
    files.write("gateway.yaml", &MAIN.replace("https://app.example", "https://web.example"));
    reloader.reload_now().unwrap();
    assert!(!Arc::ptr_eq(&set, &find(&reloader, "a.example").unwrap()));
}

#[test]
fn a_bad_main_file_changes_nothing() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    files.write("gateway.yaml", "version: 1\nlisteners: [");
    files.write("tenants.d/a.yaml", &tenant("b", ""));
    let found = reloader.reload_now().unwrap_err();
    assert!(found.to_string().contains("gateway.yaml:2:12"), "{found}");
    assert!(find(&reloader, "a.example").is_some() && find(&reloader, "b.example").is_none());
    let status = reloader.status();
    assert_eq!((status.generation, status.last_result), (1, status::LastResult::Failure));
    assert!(status.failures_total >= 1 && status.errors == found);
    files.write("gateway.yaml", MAIN);
    wait_for("the repair", || find(&reloader, "b.example").is_some());
    let status = reloader.status();
    assert!(status.last_result == status::LastResult::Success && status.errors.is_empty());
}

#[test]
fn a_bad_tenants_file_keeps_its_last_good_version() {
    let files = Files::new(&["a", "b"]);
    let reloader = files.start();
    files.write("tenants.d/a.yaml", "tenants: [{ id: a, hosts: [a2.example], upstream: a, policy: nope }]\n");
    files.write("tenants.d/b.yaml", &tenant("c", ""));
    let report = reloader.reload_now().unwrap();
    assert_eq!(broken_names(&reloader), ["a.yaml"]);
    let errors = report.broken_files[0].errors.to_string();
    assert!(errors.contains("there is no policy `nope`") && errors.contains("a.yaml:1:"), "{errors}");
    assert!(find(&reloader, "a.example").is_some() && find(&reloader, "a2.example").is_none());
    assert!(find(&reloader, "c.example").is_some() && find(&reloader, "b.example").is_none());
    assert_eq!(reloader.status().last_result, status::LastResult::Partial);

    // The last good version is compiled again with the changed main file.
    let old = find(&reloader, "a.example").unwrap();
    files.write("gateway.yaml", &MAIN.replace("https://app.example", "https://web.example"));
    reloader.reload_now().unwrap();
    assert!(!Arc::ptr_eq(&old, &find(&reloader, "a.example").unwrap()));

    files.write("tenants.d/a.yaml", &tenant("a2", ""));
    wait_for("the repair", || find(&reloader, "a2.example").is_some());
    assert!(broken_names(&reloader).is_empty());
}

#[test]
fn new_bad_file_cannot_claim_hosts_of_other_files() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    files.write("tenants.d/0.yaml", "tenants: [{ id: z, hosts: [a.example, z.example], upstream: a, policy: spa }]\n");
    let report = reloader.reload_now().unwrap();
    assert_eq!(broken_names(&reloader), ["0.yaml"]);
    let error = &report.broken_files[0].errors.iter().next().unwrap();
    assert!(error.message.starts_with("the host `a.example` is used twice"), "{error}");
    assert!(error.also.as_ref().unwrap().file.ends_with("a.yaml"));
    assert_eq!(&*find(&reloader, "a.example").unwrap().id, "a");
    assert!(find(&reloader, "z.example").is_none() && !is_broken(&reloader, "z.example"));
}

#[test]
fn hosts_can_move_between_files() {
    let files = Files::new(&["a", "b"]);
    let reloader = files.start();
    files.write("tenants.d/a.yaml", &tenant("b", ""));
    files.write("tenants.d/b.yaml", &tenant("a", ""));
    reloader.reload_now().unwrap();
    assert!(broken_names(&reloader).is_empty());
    assert_eq!(&*find(&reloader, "a.example").unwrap().id, "a");
}

#[test]
fn file_clashing_with_last_good_version_of_another_is_refused() {
    let files = Files::new(&["a", "b"]);
    let reloader = files.start();
    files.write("tenants.d/a.yaml", "nonsense");
    files.write("tenants.d/b.yaml", &tenant("a", ""));
    reloader.reload_now().unwrap();
    assert_eq!(broken_names(&reloader), ["a.yaml", "b.yaml"]);
    assert!(find(&reloader, "a.example").is_some() && find(&reloader, "b.example").is_some());
}

#[test]
fn main_file_incompatible_with_unchanged_tenants_is_refused() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    files.write("gateway.yaml", &MAIN.replace("spa", "web"));
    let found = reloader.reload_now().unwrap_err();
    assert!(found.to_string().contains("a.yaml:1:"), "{found}");
    assert_eq!(generation(&reloader), 1);
    files.write("tenants.d/a.yaml", &tenant("a", "").replace("spa", "web"));
    let report = reloader.reload_now().unwrap();
    assert!(report.broken_files.is_empty());
    assert_eq!(&*find(&reloader, "a.example").unwrap().routes()[0].policy_name, "web");
}

#[test]
fn any_mistake_at_the_start_is_an_error() {
    let files = Files::new(&["a", "b"]);
    files.write("gateway.yaml", &MAIN.replace("version: 1", "version: 3"));
    files.write("tenants.d/a.yaml", &tenant("a", ", colour: red"));
    files.write("tenants.d/b.yaml", "tenants: [");
    let found = files.start_with(BrokenTenants::Refuse).err().unwrap().to_string();
    for part in ["gateway.yaml:1:10", "a.yaml:1:", "a tenant has no key `colour`", "b.yaml:1:10"] {
        assert!(found.contains(part), "{part} is not in\n{found}");
    }
}

#[test]
fn broken_tenants_can_be_skipped_at_the_start() {
    let files = Files::new(&["a", "b"]);
    files.write("tenants.d/a.yaml", &tenant("a", ", colour: red"));
    let reloader = files.start_with(BrokenTenants::Skip).unwrap_or_else(|found| panic!("{found}"));
    assert!(is_broken(&reloader, "a.example"));
    assert!(find(&reloader, "b.example").is_some());
    assert_eq!(broken_names(&reloader), ["a.yaml"]);
    reloader.reload_now().unwrap();
    assert!(is_broken(&reloader, "a.example"));
    files.write("tenants.d/a.yaml", &tenant("a", ""));
    wait_for("the repair", || find(&reloader, "a.example").is_some());

    files.write("gateway.yaml", "version: 3");
    assert!(files.start_with(BrokenTenants::Skip).is_err());
}

#[test]
fn restart_only_keys_are_reported_and_the_rest_applies() {
    let files = Files::new(&[]);
    let reloader = files.start();
    let edited = MAIN.replace("127.0.0.1:0", "127.0.0.1:1") + "runtime: { threads: 2 }\nlimits: { head: 3s }\n";
    files.write("gateway.yaml", &edited);
    let report = reloader.reload_now().unwrap();
    assert_eq!(report.restart_needed, ["listeners", "runtime"]);
    assert_eq!(reloader.status().restart_needed, report.restart_needed);
    let settings = Arc::clone(&reloader.current().latest().settings);
    assert_eq!(settings.listeners[0].address.port(), 0);
    assert_eq!(settings.limits.head, Duration::from_secs(3));
    files.write("gateway.yaml", MAIN);
    assert!(reloader.reload_now().unwrap().restart_needed.is_empty());
}

#[test]
fn requested_reload_makes_a_generation_and_identical_rewrite_does_not() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    assert_eq!(reloader.reload_now().unwrap().generation, 2);
    files.replace("tenants.d/a.yaml", &tenant("a", ""));
    files.replace("gateway.yaml", &format!("# the same\n{MAIN}"));
    files.replace("tenants.d/b.yaml", &tenant("b", ""));
    wait_for("the new file", || find(&reloader, "b.example").is_some());
    assert_eq!(generation(&reloader), 3);
}

#[test]
fn a_missing_tenants_directory_is_an_error_at_its_key() {
    let files = Files::new(&[]);
    fs::remove_dir(files.path("tenants.d")).unwrap();
    let found = files.start_with(BrokenTenants::Skip).err().unwrap();
    let first = found.iter().next().unwrap();
    assert_eq!((first.place.line, first.place.column), (7, 13));
    assert_eq!(first.source_line.as_deref(), Some("tenantsDir: tenants.d"));
}

#[test]
fn unreadable_and_huge_files_are_refused_without_reading() {
    let files = Files::new(&[]);
    let main = files.path("gateway.yaml");
    fs::File::create(&main).unwrap().set_len(100 << 20).unwrap();
    assert!(check(&main).to_string().contains("larger than 64MiB, the maximum"), "{}", check(&main));
    assert!(check(&files.path("tenants.d")).to_string().contains("not a regular file"));
    assert!(check(&files.path("missing.yaml")).to_string().contains("cannot read"));
    fs::write(&main, b"version: 1\nx: \xff").unwrap();
    assert!(check(&main).to_string().contains("gateway.yaml:2:4"), "{}", check(&main));
}

/// Counts one request for every origin that the tenant itself lists.
fn count_own_origins(tenant: &Tenant) {
    for route in tenant.routes() {
        let entries = (0..).take(route.policy.entry_counts().own).map(crossgate_policy::EntryId::Own);
        for entry in entries {
            tenant.counters.count_origin(
                &route.handles,
                &route.policy,
                Some(crate::counters::CountedEntry { entry, group: crossgate_policy::GroupId::BASE }),
                crate::metrics::VerdictLabel::Allow,
            );
        }
    }
}

#[test]
fn origin_series_of_removed_entries_are_dropped() {
    let files = Files::new(&[]);
    let metrics = GatewayMetrics::new();
    let write = |round: usize| {
        let origins: Vec<_> = (0..1_000).map(|n| format!("\"https://r{round}-{n}.example\"")).collect();
        files.replace("tenants.d/acme.yaml", &tenant("acme", &format!(", allowOrigins: [{}]", origins.join(", "))));
    };
    write(0);
    let reloader =
        Reloader::start(&files.path("gateway.yaml"), BrokenTenants::Refuse, &metrics).unwrap_or_else(|e| panic!("{e}"));
    for round in 1..=4 {
        count_own_origins(reloader.current().latest().tenant_by_id("acme").unwrap());
        let text = metrics.render();
        let series: Vec<_> = text.lines().filter(|line| line.contains(r#"origin="https://"#)).collect();
        let last = format!(r#"origin="https://r{}-"#, round - 1);
        assert!(series.iter().all(|line| line.contains(&last) && line.ends_with("} 1")), "{round}: {}", series[0]);
        assert_eq!(series.len(), 1_000, "{round}");
        assert!(!text.contains("crossgate_metrics_overflow_total{"), "{round}");
        write(round);
        reloader.reload_now().unwrap();
    }
}

#[test]
fn origin_series_of_kept_entries_continue() {
    let files = Files::new(&["acme"]);
    let metrics = GatewayMetrics::new();
    let add = |more: &str| files.replace("tenants.d/acme.yaml", &tenant("acme", more));
    add(r#", allowOrigins: ["https://own.example"]"#);
    let reloader =
        Reloader::start(&files.path("gateway.yaml"), BrokenTenants::Refuse, &metrics).unwrap_or_else(|e| panic!("{e}"));
    count_own_origins(reloader.current().latest().tenant_by_id("acme").unwrap());
    add(r#", allowOrigins: ["https://new.example", "https://own.example"]"#);
    reloader.reload_now().unwrap();
    count_own_origins(reloader.current().latest().tenant_by_id("acme").unwrap());
    let text = metrics.render();
    assert!(text.contains(r#"origin="https://own.example",verdict="allow"} 2"#), "{text}");
}

#[test]
fn recreated_tenants_directory_is_loaded() {
    let files = Files::new(&[]);
    let reloader = files.start();
    fs::remove_dir(files.path("tenants.d")).unwrap();
    wait_for("the removal", || reloader.status().failures_total == 1);
    fs::create_dir(files.path("tenants.d")).unwrap();
    wait_for("the return", || reloader.status().last_result == LastResult::Success);
}

#[test]
fn unusable_token_file_is_an_error_at_its_key() {
    let files = Files::new(&[]);
    files.write("gateway.yaml", &format!("{MAIN}admin: {{ address: \"127.0.0.1:0\", tokenFile: token }}\n"));
    for token in [None, Some("short"), Some(&*"x".repeat(5_000))] {
        token.iter().for_each(|token| files.write("token", token));
        let found = check(&files.path("gateway.yaml"));
        let first = found.iter().next().unwrap();
        assert_eq!((first.place.line, first.place.column), (8, 45), "{found}");
        assert!(first.message.contains("admin token file"), "{found}");
        assert!(files.start_with(BrokenTenants::Skip).is_err());
    }
    files.write("token", "0123456789abcdef\n");
    assert!(!check(&files.path("gateway.yaml")).has_errors());
    let reloader = files.start();
    fs::remove_file(files.path("token")).unwrap();
    assert!(reloader.reload_now().is_ok(), "a token file of the start is required again");
}

#[test]
fn c4_read_token_equal_to_full_token_is_refused() {
    let files = Files::new(&[]);
    let admin = "admin: { address: \"127.0.0.1:0\", tokenFile: token, readTokenFile: read }\n";
    files.write("gateway.yaml", &format!("{MAIN}{admin}"));
    files.write("token", "0123456789abcdef\n");
    for (token, expected) in [
        (None, "cannot read the admin token file"),
        (Some("short"), "invalid token in the admin token file"),
        (Some(" 0123456789abcdef"), "contains the same token as tokenFile"),
    ] {
        token.iter().for_each(|token| files.write("read", token));
        let found = check(&files.path("gateway.yaml"));
        let first =
            found.iter().find(|found| found.severity == crossgate_config::diagnostics::Severity::Error).unwrap();
        assert_eq!((first.place.line, first.place.column), (8, 67), "{found}");
        assert!(first.message.contains(expected), "{found}");
        assert!(files.start_with(BrokenTenants::Skip).is_err());
    }
    files.write("read", "fedcba9876543210\n");
    assert!(!check(&files.path("gateway.yaml")).has_errors());
    let reloader = files.start();
    fs::remove_file(files.path("token")).unwrap();
    fs::remove_file(files.path("read")).unwrap();
    assert!(reloader.reload_now().is_ok(), "token files of the start are required again");
}

#[test]
fn changed_token_file_replaces_the_admin_token() {
    let files = Files::new(&[]);
    let main =
        |full: &str| format!("{MAIN}admin: {{ address: \"127.0.0.1:0\", tokenFile: {full}, readTokenFile: read }}\n");
    files.write("gateway.yaml", &main("token"));
    let [first, second, reading] = ["0123456789abcdef", "aaaaaaaaaaaaaaaa", "fedcba9876543210"];
    files.write("token", first);
    files.write("read", reading);
    let reloader = files.start();
    let in_force = || {
        let tokens = reloader.admin_tokens().current();
        tokens.each().map(|token| String::from_utf8(token.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(in_force(), [first, reading]);
    files.replace("token", second);
    wait_for("the new token", || in_force() == [second, reading]);
    assert_eq!(reloader.status().generation, 1, "a changed token made a new generation");
    // An invalid token, or one equal to the read token, refuses the load; the old token stays.
    for bad in ["short", reading] {
        files.replace("token", bad);
        assert!(reloader.reload_now().unwrap_err().iter().any(|found| found.message.contains("token")));
        assert_eq!(in_force(), [second, reading]);
    }
    // The token of a removed file stays valid.
    fs::remove_file(files.path("token")).unwrap();
    assert!(reloader.reload_now().is_ok());
    assert_eq!(in_force(), [second, reading]);
    // A leaked token is replaced despite a mistake in the main file.
    files.replace("gateway.yaml", &format!("{}colour: red\n", main("token")));
    files.write("token", first);
    assert!(reloader.reload_now().is_err());
    assert_eq!(in_force(), [first, reading]);
    files.replace("token", second);
    wait_for("the new token", || in_force() == [second, reading]);
    // Another token file applies at the next start.
    files.write("other", first);
    files.replace("gateway.yaml", &main("other"));
    assert_eq!(reloader.reload_now().unwrap().restart_needed, ["admin"]);
    assert_eq!(in_force(), [second, reading]);
    files.replace("token", "cccccccccccccccc");
    wait_for("the new token", || in_force() == ["cccccccccccccccc", reading]);
}

#[test]
fn missing_token_file_is_loaded_once_it_exists() {
    let files = Files::new(&[]);
    let reloader = files.start();
    files.replace("gateway.yaml", &format!("{MAIN}admin: {{ address: \"127.0.0.1:0\", tokenFile: token }}\n"));
    wait_for("the missing token", || reloader.status().failures_total == 1);
    files.write("token", "0123456789abcdef\n");
    wait_for("the token", || reloader.status().restart_needed == ["admin"]);
}

#[test]
fn sample_configurations_load_without_errors() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/config");
    let files = crossgate_config::list_tenants_dir(&samples).unwrap();
    assert!(!files.is_empty(), "{}", samples.display());
    for file in files {
        let expected = match file.file_name().and_then(|name| name.to_str()) {
            Some("report-mode.yaml") => 1,
            // A conformance test asks for what the warnings are about.
            Some("gateway-api-cors.yaml") => 9,
            _ => 0,
        };
        let found = check(&file);
        assert!(!found.has_errors() && found.len() == expected, "{found}");
    }
}

#[test]
fn the_documented_example_draws_no_warning() {
    let (_, rest) = include_str!("../../../docs/reference/configuration.md").split_once("```yaml\n").unwrap();
    let files = Files::new(&[]);
    files.write("gateway.yaml", rest.split_once("```").unwrap().0);
    files.write("scripts/preview.rhai", include_str!("../../../scripts/preview.rhai"));
    for (name, host) in [("api", "api.acme.example"), ("wild", "*.api.acme.example")] {
        certificates::issue(&files, name, &[host], 2099);
    }
    certificates::issue_authority(&files, "internal-ca.pem");
    for (from, to) in [("api.crt", "gateway.pem"), ("api.key", "gateway.key")] {
        std::fs::copy(files.path("tls").join(from), files.path(to)).unwrap();
    }
    let found = check(&files.path("gateway.yaml"));
    assert!(found.is_empty(), "{found}");
}

/// Creates a configuration whose policy names a rule.
fn files_with_rule() -> Files {
    let files = Files::new(&[]);
    let main = MAIN.replace("[s] }", "[s], rule: { script: a.rhai } }") + "scriptsDir: scripts\n";
    files.write("gateway.yaml", &main);
    files
}

fn messages(found: &Diagnostics) -> Vec<String> {
    found.iter().map(|one| one.message.clone()).collect()
}

#[test]
fn e_refused_rule_is_reported_once_with_its_cause() {
    let files = files_with_rule();
    let found = files.start_with(BrokenTenants::Refuse).err().unwrap();
    let [message] = &messages(&found)[..] else { panic!("{found}") };
    assert!(message.starts_with("cannot read the directory") && message.contains("scripts: "), "{message}");

    files.write("scripts/b.rhai", "fn decide(req) { deny() }");
    let missing = "there is no script `a.rhai` in scriptsDir; did you mean `b.rhai`?";
    assert_eq!(messages(&files.start_with(BrokenTenants::Refuse).err().unwrap()), [missing]);

    files.write("scripts/a.rhai", "fn decide(req) { deny() }");
    files.write(
        "scripts/a.cases.yaml",
        "cases: [{ name: it, kind: actual, request: { origin: \"https://a.example\" }, expect: allow }]\n",
    );
    let found = files.start_with(BrokenTenants::Refuse).err().unwrap();
    let [message] = &messages(&found)[..] else { panic!("{found}") };
    assert!(message.contains("`it`"), "{message}");
    assert!(found.iter().all(|one| one.place.file.ends_with("scripts/a.cases.yaml")), "{found}");

    files.write("scripts/a.rhai", "fn decide(req) { print(1) }");
    let found = files.start_with(BrokenTenants::Refuse).err().unwrap();
    let [message] = &messages(&found)[..] else { panic!("{found}") };
    assert!(message.starts_with("a rule may not call `print`"), "{message}");
}

#[test]
fn e_reload_naming_a_refused_script_reports_the_cause() {
    let files = Files::new(&[]);
    let reloader = files.start();
    files.write("scripts/a.rhai", "fn decide(req) { print(1) }");
    let main = MAIN.replace("[s] }", "[s], rule: { script: a.rhai } }") + "scriptsDir: scripts\n";
    files.replace("gateway.yaml", &main);
    let found = reloader.reload_now().err().unwrap();
    let [message] = &messages(&found)[..] else { panic!("{found}") };
    assert!(message.starts_with("a rule may not call `print`"), "{message}");
}

#[test]
fn e_policy_without_origins_is_reported_with_its_location() {
    let files = Files::new(&[]);
    files.write(
        "gateway.yaml",
        &MAIN.replace("allowOrigins: [\"https://app.example\"], allowOriginSets: [s]", "allowMethods: [PUT]"),
    );
    let found = files.start_with(BrokenTenants::Refuse).err().unwrap();
    let one = found.iter().find(|one| one.message.starts_with("no origin is allowed")).unwrap();
    assert_eq!(
        one.message,
        "no origin is allowed: the policy `spa` has none, and none is added here; add allowOrigins to one of them"
    );
    assert_eq!((one.place.line, one.also.as_ref().map(|also| (also.line, also.column))), (6, Some((5, 13))));
}

#[test]
fn f1_a_panic_in_a_load_leaves_the_reload_thread_running() {
    let files = Files::new(&["a"]);
    let metrics = GatewayMetrics::new();
    let reloader = Reloader::start(&files.path("gateway.yaml"), BrokenTenants::Refuse, &metrics).unwrap();
    files.write("fault-reload", "");
    let found = reloader.reload_now().unwrap_err();
    assert!(found.to_string().contains("internal error"), "{found}");
    assert_eq!(reloader.status().last_result, LastResult::Failure);
    files.write("tenants.d/a.yaml", &tenant("b", ""));
    let panics = || metrics.panics.read().find(|(place, _)| *place == PanicPlace::Reload).unwrap().1;
    wait_for("the panic of a load by file", || panics() > 1);
    assert!(find(&reloader, "a.example").is_some(), "the last good configuration is not active");
    fs::remove_file(files.path("fault-reload")).unwrap();
    wait_for("the write", || find(&reloader, "b.example").is_some());
    let report = reloader.reload_now().unwrap();
    assert!(report.generation > 1);
    assert_eq!(reloader.status().last_result, LastResult::Success);
}

#[test]
fn d2_refused_reload_is_summarised_in_one_line() {
    let files = Files::new(&[]);
    let reloader = files.start();
    files.write("gateway.yaml", &MAIN.replace("upstream: a", "upstream: b, colour: red"));
    let line = reloader.reload_now().unwrap_err().one_line();
    assert!(line.contains("gateway.yaml:6:") && line.contains("`colour`") && line.contains("; "), "{line}");
    assert!(!line.contains('\n') && !line.contains("-->"), "{line}");
    let many: String = (0..9).map(|number| format!("key{number}: 1\n")).collect();
    files.write("gateway.yaml", &format!("{MAIN}{many}"));
    let line = reloader.reload_now().unwrap_err().one_line();
    assert!(line.ends_with("; `crossgate check` lists 4 more"), "{line}");
}

#[test]
fn d2_unopenable_new_access_log_is_refused() {
    let files = Files::new(&[]);
    let reloader = files.start();
    files.write("gateway.yaml", &format!("{MAIN}accessLog: {{ path: missing/log }}\n"));
    let found = reloader.reload_now().unwrap_err().to_string();
    assert!(found.contains("missing/log cannot be opened") && found.contains("gateway.yaml:8:"), "{found}");
    files.write("gateway.yaml", &format!("{MAIN}accessLog: {{ path: log }}\n"));
    reloader.reload_now().unwrap();
    fs::create_dir(files.path("logs")).unwrap();
    files.write("gateway.yaml", &format!("{MAIN}accessLog: {{ path: logs }}\n"));
    let found = check(&files.path("gateway.yaml")).to_string();
    assert!(found.contains("logs is a directory: expected a file") && found.contains("gateway.yaml:8:"), "{found}");
}

/// Splits a tenants file of two tenants into two pieces, of which the first is a valid file too.
fn split_tenants_file(ids: [&str; 2]) -> [String; 2] {
    let entry = |id: &str| format!("  - {{ id: {id}, hosts: [{id}.example], upstream: a, policy: spa }}\n");
    [format!("tenants:\n{}", entry(ids[0])), entry(ids[1])]
}

/// Writes a file in place with a pause in the middle, during which `check` runs repeatedly. Returns
/// the file, still open.
fn write_slowly(path: &std::path::Path, [first, second]: [&str; 2], check: impl Fn()) -> fs::File {
    use std::io::Write as _;
    let mut file = fs::File::create(path).unwrap();
    file.write_all(first.as_bytes()).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(300) {
        check();
        thread::sleep(Duration::from_millis(1));
    }
    file.write_all(second.as_bytes()).unwrap();
    file
}

#[test]
fn f5_half_of_a_file_that_is_written_slowly_is_never_served() {
    let files = Files::new(&[]);
    files.write("tenants.d/a.yaml", &split_tenants_file(["a", "b"]).concat());
    let reloader = files.start();
    let path = files.path("tenants.d/a.yaml");
    for (number, is_closed) in [true, false, true, false].into_iter().enumerate() {
        let (before, now) = (generation(&reloader), format!("b{number}"));
        let old = if number == 0 { "b.example".to_owned() } else { format!("b{}.example", number - 1) };
        let [first, second] = split_tenants_file(["a", &now]);
        let old_version_is_active = || {
            assert_eq!(generation(&reloader), before, "half of the file is active");
            assert!(find(&reloader, &old).is_some());
        };
        let file = write_slowly(&path, [&first, &second], old_version_is_active);
        let open = if is_closed { None } else { Some(file) };
        wait_for("the whole file", || find(&reloader, &format!("{now}.example")).is_some());
        assert!(find(&reloader, "a.example").is_some());
        drop(open);
    }
    assert_eq!(reloader.status().failures_total, 0);
}

#[test]
fn f5_half_of_a_main_file_or_a_script_is_never_served() {
    let files = Files::new(&[]);
    let main =
        format!("{}scriptsDir: scripts\n", MAIN.replace("spa: {", "ruled: { rule: { script: one.rhai } }, spa: {"));
    files.write("gateway.yaml", &main);
    files.write("scripts/one.rhai", "fn decide(req) {\n    allow()\n}\n");
    let reloader = files.start();
    let before = generation(&reloader);
    let is_unchanged = || assert_eq!((generation(&reloader), reloader.status().failures_total), (before, 0));
    let (first, second) = main.split_at(main.find("tenantsDir").unwrap());
    drop(write_slowly(
        &files.path("gateway.yaml"),
        [first, &format!("{second}ledger: {{ origins: 7 }}\n")],
        is_unchanged,
    ));
    wait_for("the main file", || generation(&reloader) > before);
    let before = generation(&reloader);
    let is_unchanged = || assert_eq!((generation(&reloader), broken_names(&reloader).len()), (before, 0));
    drop(write_slowly(&files.path("scripts/one.rhai"), ["fn decide(req) {\n", "    deny(\"no\")\n}\n"], is_unchanged));
    wait_for("the script", || generation(&reloader) > before);
}

#[test]
fn f5_a_file_that_stays_open_is_served_half_a_second_after_its_last_write() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    let path = files.path("tenants.d/a.yaml");
    let [first, second] = split_tenants_file(["b", "c"]);
    let _open = write_slowly(&path, [&first, &second], || {});
    let begun = Instant::now();
    wait_for("the file", || find(&reloader, "c.example").is_some());
    assert!(begun.elapsed() > Duration::from_millis(400), "{:?}", begun.elapsed());
}

#[test]
fn d11_writes_to_another_file_of_the_directory_lead_to_no_reload() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    let before = generation(&reloader);
    for number in 0..200 {
        files.write("access.log", &number.to_string());
        files.replace("other", "x");
    }
    files.write("tenants.d/a.yaml", &tenant("b", ""));
    wait_for("the write", || find(&reloader, "b.example").is_some());
    assert_eq!(generation(&reloader), before + 1);
}
