//! Tests of reloading: every way in which files change, and what stays active after a mistake.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;

use super::status::LastResult;
use super::*;
use crate::snapshot::HostMatch;
use crate::tenant::Tenant;

mod bodies;
mod certificates;
mod origin_series;
mod renewal;
mod rules;
mod slow_writes;
mod tokens;
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
