//! Tests of files that are written slowly: half of a file is never served.

use super::*;

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
