//! Files change in every way files are changed, and the snapshot follows, or keeps what was good.

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

/// A second is what is promised; a loaded machine gets more before it is called broken.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// A directory with a configuration.
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
        Reloader::start(&self.path("gateway.yaml"), broken_tenants, &Metrics::new())
    }
}

/// A tenants file with one tenant, `more` being keys of it.
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

/// Waits for the reloader to notice by itself.
#[track_caller]
fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < SEEN_WITHIN, "{what} was not seen");
        thread::yield_now();
    }
}

fn broken_names(reloader: &Reloader) -> Vec<String> {
    let name = |file: &BrokenFile| file.file.file_name().unwrap().to_str().unwrap().to_owned();
    reloader.status().broken_files.iter().map(name).collect()
}

#[test]
fn starts_with_every_file() {
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
fn sees_a_write_in_place() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    files.write("tenants.d/a.yaml", &tenant("b", ""));
    wait_for("the write", || find(&reloader, "b.example").is_some());
    assert!(find(&reloader, "a.example").is_none());
    files.write("gateway.yaml", &MAIN.replace("main.example", "other.example"));
    wait_for("the main file", || find(&reloader, "other.example").is_some());
}

#[test]
fn sees_writes_of_the_same_length_in_quick_succession() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    for id in ["b", "c", "d", "e", "f"] {
        files.write("tenants.d/a.yaml", &tenant(id, ""));
        reloader.request();
    }
    wait_for("the last write", || find(&reloader, "f.example").is_some());
}

#[test]
fn sees_a_rename() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    files.replace("tenants.d/a.yaml", &tenant("b", ""));
    wait_for("the rename", || find(&reloader, "b.example").is_some());
    files.replace("gateway.yaml", &MAIN.replace("main.example", "other.example"));
    wait_for("the main file", || find(&reloader, "other.example").is_some());
}

#[test]
fn sees_new_and_removed_files() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    files.write("tenants.d/b.yml", &tenant("b", ""));
    wait_for("the new file", || find(&reloader, "b.example").is_some());
    fs::remove_file(files.path("tenants.d/a.yaml")).unwrap();
    wait_for("the removal", || find(&reloader, "a.example").is_none());
    assert!(find(&reloader, "b.example").is_some());
}

#[test]
fn sees_a_swapped_link() {
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
    let start = Reloader::start(&path("gateway.yaml"), BrokenTenants::Refuse, &Metrics::new());
    let reloader = start.unwrap_or_else(|found| panic!("{found}"));
    assert!(find(&reloader, "one.example").is_some());
    symlink("v2", path("..data_tmp")).unwrap();
    fs::rename(path("..data_tmp"), path("..data")).unwrap();
    wait_for("the swap", || find(&reloader, "two.example").is_some() && find(&reloader, "t-v2.example").is_some());
    assert!(find(&reloader, "one.example").is_none() && find(&reloader, "t-v1.example").is_none());
}

#[test]
fn keeps_tenants_that_did_not_change() {
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
    assert!(old.upgrade().is_some_and(|old| old.generation == running.generation), "its request still runs");
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

    // Its last good version follows the main file.
    let old = find(&reloader, "a.example").unwrap();
    files.write("gateway.yaml", &MAIN.replace("https://app.example", "https://web.example"));
    reloader.reload_now().unwrap();
    assert!(!Arc::ptr_eq(&old, &find(&reloader, "a.example").unwrap()));

    files.write("tenants.d/a.yaml", &tenant("a2", ""));
    wait_for("the repair", || find(&reloader, "a2.example").is_some());
    assert!(broken_names(&reloader).is_empty());
}

#[test]
fn a_new_bad_file_takes_nothing_from_others() {
    let files = Files::new(&["a"]);
    let reloader = files.start();
    files.write("tenants.d/0.yaml", "tenants: [{ id: z, hosts: [a.example, z.example], upstream: a, policy: spa }]\n");
    let report = reloader.reload_now().unwrap();
    assert_eq!(broken_names(&reloader), ["0.yaml"]);
    let error = &report.broken_files[0].errors.iter().next().unwrap();
    assert!(error.message.starts_with("the host `a.example` is there twice"), "{error}");
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
fn a_file_that_clashes_with_anothers_last_good_version_waits() {
    let files = Files::new(&["a", "b"]);
    let reloader = files.start();
    files.write("tenants.d/a.yaml", "nonsense");
    files.write("tenants.d/b.yaml", &tenant("a", ""));
    reloader.reload_now().unwrap();
    assert_eq!(broken_names(&reloader), ["a.yaml", "b.yaml"]);
    assert!(find(&reloader, "a.example").is_some() && find(&reloader, "b.example").is_some());
}

#[test]
fn a_main_file_that_unchanged_tenants_do_not_fit_is_refused() {
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
fn what_needs_a_restart_is_told_and_the_rest_applies() {
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
fn asking_gives_a_new_generation_and_rewriting_the_same_does_not() {
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
    assert!(check(&main).to_string().contains("64MiB, which are accepted"), "{}", check(&main));
    assert!(check(&files.path("tenants.d")).to_string().contains("not a regular file"));
    assert!(check(&files.path("missing.yaml")).to_string().contains("cannot be read"));
    fs::write(&main, b"version: 1\nx: \xff").unwrap();
    assert!(check(&main).to_string().contains("gateway.yaml:2:4"), "{}", check(&main));
}

/// Counts one request of every origin of the tenant's own.
fn count_own_origins(tenant: &Tenant) {
    for route in tenant.routes() {
        let entries = (0..).take(route.policy.entry_counts().own).map(crossgate_policy::EntryId::Own);
        for entry in entries {
            tenant.counters.count_origin(
                &route.handles,
                &route.policy,
                Some(entry),
                crate::metrics::VerdictLabel::Allow,
            );
        }
    }
}

#[test]
fn origin_series_of_removed_entries_are_dropped() {
    let files = Files::new(&[]);
    let metrics = Metrics::new();
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
fn origin_series_of_entries_that_stay_go_on() {
    let files = Files::new(&["acme"]);
    let metrics = Metrics::new();
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
fn a_tenants_directory_that_comes_back_is_noticed() {
    let files = Files::new(&[]);
    let reloader = files.start();
    fs::remove_dir(files.path("tenants.d")).unwrap();
    wait_for("the removal", || reloader.status().failures_total == 1);
    fs::create_dir(files.path("tenants.d")).unwrap();
    wait_for("the return", || reloader.status().last_result == LastResult::Success);
}

#[test]
fn a_token_file_that_cannot_be_used_is_an_error_at_its_key() {
    let files = Files::new(&[]);
    files.write("gateway.yaml", &format!("{MAIN}admin: {{ address: \"127.0.0.1:0\", tokenFile: token }}\n"));
    for token in [None, Some("short"), Some(&*"x".repeat(5_000))] {
        token.iter().for_each(|token| files.write("token", token));
        let found = check(&files.path("gateway.yaml"));
        let first = found.iter().next().unwrap();
        assert_eq!((first.place.line, first.place.column), (8, 45), "{found}");
        assert!(first.message.contains("tokenFile"), "{found}");
        assert!(files.start_with(BrokenTenants::Skip).is_err());
    }
    files.write("token", "0123456789abcdef\n");
    assert!(!check(&files.path("gateway.yaml")).has_errors());
    let reloader = files.start();
    fs::remove_file(files.path("token")).unwrap();
    assert!(reloader.reload_now().is_ok(), "it has been read");
}

#[test]
fn a_new_token_file_is_awaited() {
    let files = Files::new(&[]);
    let reloader = files.start();
    files.replace("gateway.yaml", &format!("{MAIN}admin: {{ address: \"127.0.0.1:0\", tokenFile: token }}\n"));
    wait_for("the missing token", || reloader.status().failures_total == 1);
    files.write("token", "0123456789abcdef\n");
    wait_for("the token", || reloader.status().restart_needed == ["admin"]);
}

#[test]
fn the_example_of_the_readme_is_good_and_draws_no_warning() {
    let (_, rest) = include_str!("../../../README.md").split_once("```yaml\n").unwrap();
    let files = Files::new(&[]);
    files.write("gateway.yaml", rest.split_once("```").unwrap().0);
    files.write("scripts/preview.rhai", include_str!("../../../scripts/preview.rhai"));
    for (name, host) in [("api", "api.acme.example"), ("wild", "*.api.acme.example")] {
        certificates::issue(&files, name, &[host], 2099);
    }
    for (from, to) in [("api.crt", "internal-ca.pem"), ("api.crt", "gateway.pem"), ("api.key", "gateway.key")] {
        std::fs::copy(files.path("tls").join(from), files.path(to)).unwrap();
    }
    let found = check(&files.path("gateway.yaml"));
    assert!(found.is_empty(), "{found}");
}
