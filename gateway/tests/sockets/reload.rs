//! Reloads under load, by every way in which a file can change. Every answer belongs to one
//! generation.
//!
//! The policy of generation `n` has `n` in each of its parts: `maxAge: n`, a method `GEN-n`, a
//! header `x-gen-n`, an exposed header. A test fails if an answer mixes two generations, goes back
//! to an older one on the same connection, or is older than a change that is known to be live.
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Connection, Gateway, HOST, ORIGIN, RecordingUpstream, Response, WireError, config, request};
use rustix::process::Signal;
use tempfile::TempDir;

mod refused;
mod removed;
mod storm;

const CONNECTIONS: usize = 64;
const LOAD_TIME: Duration = Duration::from_secs(10);
const RELOADS: u64 = 50;
/// A change of a file is live within this time; the documented time is a second, the rest is for a
/// busy machine.
const LIVE_WITHIN: Duration = Duration::from_secs(5);

fn generation(upstream: SocketAddr, n: u64) -> String {
    config(&format!(
        r#"
upstreams:
  api: {{ servers: [{upstream}] }}
policies:
  spa:
    allowOrigins: ["{ORIGIN}"]
    allowMethods: [PUT, GEN-{n}]
    allowHeaders: [x-gen-{n}]
    exposeHeaders: [x-gen-{n}]
    allowCredentials: true
    maxAge: {n}
tenants:
  - {{ id: a, hosts: [{HOST}], upstream: api, policy: spa }}
"#
    ))
}

fn preflight() -> Vec<u8> {
    request("OPTIONS", "/", HOST, &[("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")], b"")
}

/// Reads the generation of a preflight's answer and checks that every part has it.
fn preflight_generation(answer: &Response) -> u64 {
    let n: u64 = answer.headers.one("access-control-max-age").parse().unwrap();
    let wanted: std::collections::BTreeMap<String, Vec<String>> = [
        ("access-control-allow-credentials", vec!["true".to_owned()]),
        ("access-control-allow-headers", vec![format!("x-gen-{n}")]),
        ("access-control-allow-origin", vec![ORIGIN.to_owned()]),
        ("access-control-max-age", vec![n.to_string()]),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let mut have = answer.headers.cors();
    let methods = have.remove("access-control-allow-methods").unwrap().join(",");
    let mut methods: Vec<&str> = methods.split(',').map(str::trim).collect();
    methods.sort_unstable();
    assert_eq!(methods, [format!("GEN-{n}").as_str(), "PUT"], "{answer:?}");
    assert_eq!(
        have.remove("vary").unwrap(),
        ["access-control-request-headers", "access-control-request-method", "origin"]
    );
    assert_eq!((answer.status, have), (204, wanted));
    n
}

/// Reads the generation of the answer to an actual request.
fn actual_generation(answer: &Response) -> u64 {
    assert_eq!((answer.status, answer.headers.one("access-control-allow-origin")), (200, ORIGIN), "{answer:?}");
    answer.headers.one("access-control-expose-headers").strip_prefix("x-gen-").unwrap().parse().unwrap()
}

/// State shared by load and changes: the newest generation that is known to be live, and the end.
#[derive(Debug, Default)]
struct Shared {
    floor: AtomicU64,
    over: AtomicBool,
    answers: AtomicU64,
}

/// Sends requests on one connection until the end. No answer may be older than the generation that
/// was known to be live when it was requested.
fn send_requests(gateway: SocketAddr, shared: &Shared) {
    let get = request("GET", "/", HOST, &[("Origin", ORIGIN)], b"");
    let mut connection = Connection::open(gateway);
    let mut seen = 0;
    for round in 0_u64.. {
        if shared.over.load(Ordering::SeqCst) {
            return;
        }
        let bytes = if round % 8 == 7 { get.clone() } else { preflight() };
        seen = seen.max(shared.floor.load(Ordering::SeqCst));
        let answer = connection.exchange(&bytes).unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        let n = if answer.status == 204 { preflight_generation(&answer) } else { actual_generation(&answer) };
        assert!(n >= seen, "generation {n} after {seen}");
        seen = n;
        shared.answers.fetch_add(1, Ordering::Relaxed);
        if answer.headers.all("connection") == ["close"] {
            connection = Connection::open(gateway);
        }
    }
}

/// Runs `changes` while the connections send requests.
fn under_load(gateway: &Gateway, connections: usize, changes: impl FnOnce(&Shared)) {
    let shared = Shared::default();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..connections).map(|_| scope.spawn(|| send_requests(gateway.data, &shared))).collect();
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| changes(&shared)));
        shared.over.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().expect("a connection got a wrong answer");
        }
        if let Err(panic) = changed {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(shared.answers.load(Ordering::Relaxed) > connections as u64 * 10, "too few answers for a load test");
}

/// Sends preflights until generation `n` is live. From then on no connection may see an older one.
fn wait_live(gateway: &Gateway, shared: &Shared, n: u64) {
    let deadline = Instant::now() + LIVE_WITHIN;
    let mut connection = Connection::open(gateway.data);
    while preflight_generation(&connection.exchange(&preflight()).unwrap()) != n {
        assert!(Instant::now() < deadline, "generation {n} is not live:\n{}", gateway.process.stderr());
        std::thread::sleep(Duration::from_millis(2));
    }
    shared.floor.fetch_max(n, Ordering::SeqCst);
}

fn rename(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// Replaces the target of a symbolic link in one step, by a rename, as the Kubernetes volume writer
/// does.
fn relink(link: &Path, target: &Path) {
    let new = link.with_file_name("new-link");
    symlink(target, &new).unwrap();
    fs::rename(new, link).unwrap();
}

fn post_reload(gateway: &Gateway) {
    let answer = gateway.admin("POST", "/reload");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn rename_write_signal_and_request_each_bring_the_new_generation_under_load() {
    let upstream = RecordingUpstream::answering("hello");
    let gateway = Gateway::start(&generation(upstream.address, 1), &[]);
    let path = gateway.path("crossgate.yaml");
    under_load(&gateway, CONNECTIONS, |shared| {
        let begin = Instant::now();
        let (mut n, mut rounds) = (1, 0);
        while rounds < RELOADS || begin.elapsed() < LOAD_TIME {
            for change in ["rename", "write", "signal", "request"] {
                n += 1;
                let text = generation(upstream.address, n);
                match change {
                    "write" => fs::write(&path, &text).unwrap(),
                    _ => rename(&path, &text),
                }
                match change {
                    "signal" => gateway.process.signal(Signal::HUP),
                    // Answered when the new snapshot serves: no waiting here.
                    "request" => {
                        post_reload(&gateway);
                        shared.floor.fetch_max(n, Ordering::SeqCst);
                    }
                    _ => {}
                }
                wait_live(&gateway, shared, n);
            }
            rounds += 1;
        }
    });
    assert_eq!(gateway.metric("crossgate_config_last_reload_successful", &[]), 1.0);
}

#[test]
fn swapped_links_bring_the_new_generation_under_load() {
    let upstream = RecordingUpstream::answering("hello");
    let directory = TempDir::new().unwrap();
    let volume = directory.path().to_owned();
    // Kubernetes mounts a ConfigMap so: file -> ..data/file, ..data -> ..VERSION; it swaps ..data.
    let publish = |n: u64| {
        let version = volume.join(format!("..version-{n}"));
        fs::create_dir(&version).unwrap();
        fs::write(version.join("crossgate.yaml"), generation(upstream.address, n)).unwrap();
        relink(&volume.join("..data"), Path::new(&format!("..version-{n}")));
        if n > 2 {
            fs::remove_dir_all(volume.join(format!("..version-{}", n - 2))).unwrap();
        }
    };
    publish(1);
    symlink("..data/crossgate.yaml", volume.join("crossgate.yaml")).unwrap();
    let gateway = Gateway::start_in(directory, &volume.join("crossgate.yaml"), &[]);
    under_load(&gateway, CONNECTIONS, |shared| {
        let begin = Instant::now();
        for n in 2_u64.. {
            publish(n);
            wait_live(&gateway, shared, n);
            if n > RELOADS && begin.elapsed() > LOAD_TIME {
                break;
            }
        }
    });
}

#[test]
fn broken_main_file_changes_nothing_under_load() {
    let upstream = RecordingUpstream::answering("hello");
    let gateway = Gateway::start(&generation(upstream.address, 1), &[]);
    let path = gateway.path("crossgate.yaml");
    let bad = |n: u64| {
        let good = generation(upstream.address, n);
        [
            good.replace("tenants:", "tenants: ["),
            good.replace("policy: spa", "policy: missing"),
            good.replace(ORIGIN, "https://*"),
            good.replace("maxAge", "maxAgeing"),
            good[..good.len() / 2].to_owned(),
            String::new(),
        ]
    };
    under_load(&gateway, 16, |shared| {
        shared.floor.store(1, Ordering::SeqCst);
        for n in 2..12 {
            for text in bad(n) {
                rename(&path, &text);
                let answer = gateway.admin("POST", "/reload");
                assert_eq!(answer.status, 422, "{text}\n{answer:?}");
                assert!(answer.text().contains("crossgate.yaml"), "{answer:?}");
                assert_eq!(preflight_generation(&Connection::ask(gateway.data, &preflight()).unwrap()), n - 1);
                assert_eq!(gateway.metric("crossgate_config_last_reload_successful", &[]), 0.0);
            }
            rename(&path, &generation(upstream.address, n));
            wait_live(&gateway, shared, n);
        }
    });
    fs::remove_file(&path).unwrap();
    assert_eq!(gateway.admin("POST", "/reload").status, 422);
    assert_eq!(preflight_generation(&Connection::ask(gateway.data, &preflight()).unwrap()), 11);
}

/// Renders a main file without tenants, for one file per tenant in `tenantsDir`.
fn with_tenants_dir(upstream: SocketAddr) -> String {
    config(&format!(
        "upstreams:\n  api: {{ servers: [{upstream}] }}\npolicies:\n  spa: {{ allowCredentials: true }}\ntenantsDir: tenants.d\n"
    ))
}

fn tenant(id: &str, origin: &str) -> String {
    format!(
        "tenants:\n  - {{ id: {id}, hosts: [{id}.test], upstream: api, policy: spa, allowOrigins: [\"{origin}\"] }}\n"
    )
}

/// Checks whether the host allows the origin.
fn allows(gateway: &Gateway, host: &str, origin: &str) -> bool {
    let answer = gateway.ask("GET", "/", host, &[("Origin", origin)]);
    let readable = answer.headers.all("access-control-allow-origin") == [origin];
    assert_eq!(answer.status, if readable { 200 } else { 403 }, "{host} {origin}: {answer:?}");
    readable
}

#[test]
fn broken_tenants_file_keeps_its_last_version_under_load() {
    let upstream = RecordingUpstream::answering("hello");
    let files =
        [("tenants.d/a.yaml", tenant("a", "https://a1.test")), ("tenants.d/b.yaml", tenant("b", "https://b1.test"))];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let gateway = Gateway::start(&with_tenants_dir(upstream.address), &files);
    let write = |name: &str, text: &str| rename(&gateway.path(&format!("tenants.d/{name}.yaml")), text);
    let ask = |asked: &AtomicBool| {
        let get = request("GET", "/", "b.test", &[("Origin", "https://b1.test")], b"");
        let mut connection = Connection::open(gateway.data);
        while !asked.load(Ordering::SeqCst) {
            let answer = connection.exchange(&get).unwrap();
            assert_eq!(answer.headers.one("access-control-allow-origin"), "https://b1.test", "{answer:?}");
            if answer.headers.all("connection") == ["close"] {
                connection = Connection::open(gateway.data);
            }
        }
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| ask(&over));
        }
        for n in 2..10 {
            let bad = [
                "tenants: [".to_owned(),
                tenant("b", "https://*"),
                tenant("b", "https://b1.test").replace("b.test", "a.test"),
                tenant("b", "https://b1.test").replace("policy: spa", "policy: missing"),
            ];
            write("b", &bad[n % bad.len()]);
            write("a", &tenant("a", &format!("https://a{n}.test")));
            gateway.admin("POST", "/reload");
            assert!(allows(&gateway, "a.test", &format!("https://a{n}.test")), "the valid file is not live");
            assert!(!allows(&gateway, "a.test", &format!("https://a{}.test", n - 1)), "the old version is still live");
            assert!(gateway.admin("GET", "/status").text().contains("b.yaml"), "the broken file is not reported");
            assert_eq!(gateway.metric("crossgate_config_broken_files", &[]), 1.0);
        }
        over.store(true, Ordering::SeqCst);
    });
    write("b", &tenant("b", "https://b2.test"));
    post_reload(&gateway);
    assert!(allows(&gateway, "b.test", "https://b2.test"));
    assert_eq!(gateway.metric("crossgate_config_broken_files", &[]), 0.0);
}

#[test]
fn added_and_removed_tenants_files_take_effect() {
    let upstream = RecordingUpstream::answering("hello");
    let a = tenant("a", "https://app.test");
    let gateway = Gateway::start(&with_tenants_dir(upstream.address), &[("tenants.d/a.yaml", &a)]);
    let eventually = |status: u16| {
        let deadline = Instant::now() + LIVE_WITHIN;
        while gateway.ask("GET", "/", "b.test", &[]).status != status {
            assert!(Instant::now() < deadline, "not {status}");
        }
    };
    eventually(421);
    fs::write(gateway.path("tenants.d/b.yaml"), tenant("b", "https://app.test")).unwrap();
    eventually(200);
    fs::remove_file(gateway.path("tenants.d/b.yaml")).unwrap();
    eventually(421);
    assert!(allows(&gateway, "a.test", "https://app.test"));
}

#[test]
fn changed_tenant_policy_or_set_takes_effect_alone() {
    let upstream = RecordingUpstream::answering("hello");
    let base = config(&format!(
        r#"
upstreams:
  api: {{ servers: [{}] }}
originSets:
  partners: ["https://set1.test"]
policies:
  spa: {{ allowOrigins: ["https://policy1.test"], allowOriginSets: [partners] }}
tenants:
  - {{ id: a, hosts: [a.test], upstream: api, policy: spa, allowOrigins: ["https://tenant1.test"] }}
  - {{ id: b, hosts: [b.test], upstream: api, policy: spa }}
"#,
        upstream.address
    ));
    let gateway = Gateway::start(&base, &[]);
    let mut text = base;
    for part in ["tenant", "policy", "set"] {
        let [old, new] = [1, 2].map(|n| format!("https://{part}{n}.test"));
        let hosts: &[&str] = if part == "tenant" { &["a.test"] } else { &["a.test", "b.test"] };
        for host in hosts {
            assert!(allows(&gateway, host, &old) && !allows(&gateway, host, &new), "{part} before, {host}");
        }
        text = text.replace(&old, &new);
        rename(&gateway.path("crossgate.yaml"), &text);
        post_reload(&gateway);
        for host in hosts {
            assert!(allows(&gateway, host, &new) && !allows(&gateway, host, &old), "{part} after, {host}");
        }
    }
    assert!(!allows(&gateway, "b.test", "https://tenant2.test"));
}

#[test]
fn burst_of_signals_loads_the_newest_generation() {
    let upstream = RecordingUpstream::answering("hello");
    let gateway = Gateway::start(&generation(upstream.address, 1), &[]);
    for n in 2..200 {
        rename(&gateway.path("crossgate.yaml"), &generation(upstream.address, n));
        gateway.process.signal(Signal::HUP);
    }
    wait_live(&gateway, &Shared::default(), 199);
    assert_eq!(gateway.metric("crossgate_config_last_reload_successful", &[]), 1.0);
}

#[test]
fn request_keeps_the_generation_it_began_with() {
    let (arrived, arrivals) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (arrived, released) = (std::sync::Mutex::new(arrived), std::sync::Mutex::new(released));
    let upstream = RecordingUpstream::start(move |exchange| {
        arrived.lock().unwrap().send(()).unwrap();
        released.lock().unwrap().recv().unwrap();
        exchange.answer(200, &[], b"hello")
    });
    let gateway = Gateway::start(&generation(upstream.address, 1), &[]);
    let get = request("GET", "/", HOST, &[("Origin", ORIGIN)], b"");
    let mut connection = Connection::open(gateway.data);
    connection.send(&get).unwrap();
    arrivals.recv().unwrap();
    rename(&gateway.path("crossgate.yaml"), &generation(upstream.address, 2));
    post_reload(&gateway);
    release.send(()).unwrap();
    let first: Result<Response, WireError> = connection.answer_to(&get);
    assert_eq!(actual_generation(&first.unwrap()), 1);
    release.send(()).unwrap();
    assert_eq!(
        actual_generation(&connection.exchange(&get).unwrap()),
        2,
        "the next request on the same connection uses the new generation"
    );
}
