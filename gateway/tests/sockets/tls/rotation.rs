//! Certificates change under load: no connection is dropped, new connections get the new
//! certificate, and a broken one changes nothing.
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Stage, replace_file, text};
use crate::support::{
    Authority, Connection, Gateway, HOST, Issued, ORIGIN, RecordingUpstream, Tunnel, Validity, assert_allowed, request,
};

/// The limit until a changed file is live.
const LIVE_WITHIN: Duration = Duration::from_secs(5);
const ROTATIONS: usize = 12;
const CONNECTIONS: usize = 8;

fn get() -> Vec<u8> {
    request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")
}

fn preflight() -> Vec<u8> {
    request("OPTIONS", "/", HOST, &[("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")], b"")
}

impl Stage {
    /// Waits until new connections get this certificate.
    fn wait_served(&self, issued: &Issued) {
        let deadline = Instant::now() + LIVE_WITHIN;
        while *self.connect(HOST).expect("a handshake").certificate() != issued.der {
            assert!(Instant::now() < deadline, "the certificate is not served:\n{}", self.gateway.process.stderr());
        }
    }

    fn broken_files(&self) -> f64 {
        self.gateway.metric("crossgate_config_broken_files", &[])
    }
}

/// Sends requests on kept and on new connections while `changes` runs. No request fails, and no
/// kept connection ends.
fn under_load(stage: &Stage, changes: impl FnOnce()) {
    let tunnel = Tunnel::to(stage.secure, HOST, &stage.authority);
    let (is_over, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let (tunnel, is_over, answers) = (&tunnel, &is_over, &answers);
            scope.spawn(move || {
                let mut connection = Connection::open(tunnel.address);
                while !is_over.load(SeqCst) {
                    if number % 4 == 0 {
                        connection = Connection::open(tunnel.address);
                    }
                    let answer = connection.exchange(&preflight()).expect("no connection is dropped");
                    assert_eq!(answer.status, 204);
                    assert_allowed(&connection.exchange(&get()).expect("no connection is dropped"));
                    answers.fetch_add(1, SeqCst);
                }
            });
        }
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(changes));
        is_over.store(true, SeqCst);
        changed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert!(answers.load(SeqCst) > CONNECTIONS, "too little load");
    assert_eq!(tunnel.unclean_ends(), 0);
}

fn start() -> Stage {
    let rest = "limits: { keepAliveRequests: 1000000 }\naccessLog: { level: Off }\n";
    Stage::with(&[&[HOST]], RecordingUpstream::answering("hello"), "", rest)
}

#[test]
fn certificates_rotate_under_load() {
    let stage = start();
    let path = |name: &str| stage.gateway.path(name);
    under_load(&stage, || {
        for round in 0..ROTATIONS {
            let next = stage.authority.issue(&[HOST]);
            match round % 3 {
                0 => stage.replace(0, &next),
                1 => next.write(&path("0.crt"), &path("0.key")),
                _ => {
                    // Both files in one: the same text twice is a certificate and its key.
                    let both = Issued { certificate: next.certificate.clone() + &next.key, ..next.clone() };
                    stage.replace(0, &Issued { key: both.certificate.clone(), ..both });
                }
            }
            stage.wait_served(&next);
        }
    });
    assert_eq!(stage.gateway.metric("crossgate_config_last_reload_successful", &[]), 1.0);
}

#[test]
fn certificates_in_a_swapped_directory_are_reloaded() {
    // As Kubernetes mounts a Secret: file -> ..data/file, ..data -> ..VERSION, and only ..data is
    // swapped.
    let (authority, directory) = (Authority::new("ours"), TempDir::new().unwrap());
    let volume = directory.path().to_owned();
    let publish = |number: usize| {
        let (version, issued) = (format!("..{number}"), authority.issue(&[HOST]));
        fs::create_dir(volume.join(&version)).unwrap();
        issued.write(&volume.join(&version).join("0.crt"), &volume.join(&version).join("0.key"));
        symlink(&version, volume.join("new-link")).unwrap();
        fs::rename(volume.join("new-link"), volume.join("..data")).unwrap();
        issued
    };
    let first = publish(0);
    for name in ["0.crt", "0.key"] {
        symlink(Path::new("..data").join(name), volume.join(name)).unwrap();
    }
    let upstream = RecordingUpstream::answering("hello");
    let path = volume.join("crossgate.yaml");
    fs::write(&path, text(1, &upstream, "", "accessLog: { level: Off }\n")).unwrap();
    let gateway = Gateway::start_in(directory, &path, &[]);
    let [plain, secure] = gateway.data_listeners()[..] else { panic!("two listeners") };
    let stage = Stage { authority: Authority::new("ours"), issued: vec![first], upstream, gateway, plain, secure };
    let wait_served = |issued: &Issued| {
        let deadline = Instant::now() + LIVE_WITHIN;
        while *authority.connect(stage.secure, HOST).unwrap().certificate() != issued.der {
            assert!(Instant::now() < deadline, "the certificate is not served");
        }
    };
    wait_served(&stage.issued[0]);
    for number in 1..4 {
        wait_served(&publish(number));
    }
}

#[test]
fn broken_certificate_keeps_the_last_good_one_and_is_reported() {
    let stage = start();
    let (certificate, key) = (stage.gateway.path("0.crt"), stage.gateway.path("0.key"));
    let good = stage.issued[0].clone();
    let other = stage.authority.issue(&[HOST]);
    let broken: [(&str, &str, &str); 6] = [
        ("", &good.key, "no certificate found"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &good.key, "cannot be parsed"),
        (&good.certificate[..200], &good.key, "the PEM text is damaged"),
        (&good.certificate, &other.key, "belongs to another certificate"),
        (&good.certificate, "", "no private key found"),
        (&other.certificate, &good.key, "belongs to another certificate"),
    ];
    under_load(&stage, || {
        for (broken_certificate, broken_key, message) in broken {
            replace_file(&certificate, broken_certificate);
            replace_file(&key, broken_key);
            // The rest of the configuration is live.
            assert_eq!(stage.gateway.admin("POST", "/reload").status, 200, "{message}");
            let status = stage.gateway.admin("GET", "/status").text();
            assert!(status.contains(message) && status.contains("crossgate.yaml"), "{message} is not in {status}");
            assert_eq!(stage.broken_files(), 1.0);
            assert_eq!(stage.served_certificate(HOST), Ok(0), "{message}");
            stage.gateway.process.stderr_line(|line| line.contains(message).then_some(()));
        }
        fs::remove_file(&key).unwrap();
        stage.gateway.admin("POST", "/reload");
        assert!(stage.gateway.admin("GET", "/status").text().contains("No such file"));
        assert_eq!((stage.broken_files(), stage.served_certificate(HOST)), (1.0, Ok(0)));
        // The gateway reloads the files without a request.
        other.write(&certificate, &key);
        stage.wait_served(&other);
    });
    stage.gateway.wait_zero("crossgate_config_broken_files", &[]);
}

#[test]
fn certificates_are_renewed_while_the_configuration_is_refused() {
    let stage = start();
    let config = stage.gateway.path("crossgate.yaml");
    let good = fs::read_to_string(&config).unwrap();
    let reload = || stage.gateway.admin("GET", "/status").json()["reload"].clone();
    let assert_refused = |message: &str| {
        let reload = reload();
        assert!(reload["lastResult"] == "failure" && reload["errors"].to_string().contains(message), "{reload}");
        assert_eq!(stage.gateway.metric("crossgate_config_last_reload_successful", &[]), 0.0);
    };
    let mut serving = stage.issued[0].clone();
    under_load(&stage, || {
        let nowhere = good.replace("upstream: api", "upstream: nowhere");
        for (bad, message) in [("version: [", "crossgate.yaml"), (&*nowhere, "nowhere"), ("", "crossgate.yaml")] {
            replace_file(&config, bad);
            assert_eq!(stage.gateway.admin("POST", "/reload").status, 422, "{message}");
            // The gateway reloads the files without a request, several times.
            for _ in 0..2 {
                serving = stage.authority.issue(&[HOST]);
                stage.replace(0, &serving);
                stage.wait_served(&serving);
                assert_refused(message);
            }
        }
        // A broken file keeps the last good certificate and is reported.
        fs::write(stage.gateway.path("0.key"), "").unwrap();
        stage.gateway.wait_metric("crossgate_config_broken_files", &[], 1.0);
        assert_eq!(*stage.connect(HOST).unwrap().certificate(), serving.der);
        assert!(reload()["brokenFiles"].to_string().contains("no private key found"));
        assert_refused("crossgate.yaml");
    });
    let expired = stage.authority.issue_valid(&[HOST], Validity::Until(2002));
    stage.replace(0, &expired);
    let deadline = Instant::now() + LIVE_WITHIN;
    while stage.gateway.metric("crossgate_tls_certificate_expiry_timestamp_seconds", &[]) != 1_009_843_200.0 {
        assert!(Instant::now() < deadline, "the expiry of the served certificate is not reported");
    }
    assert_eq!(stage.broken_files(), 0.0);
    replace_file(&config, &good);
    assert_eq!(stage.gateway.admin("POST", "/reload").status, 200);
    assert_eq!((reload()["lastResult"].clone(), reload()["errors"].clone()), ("success".into(), serde_json::json!([])));
}

#[test]
fn certificates_are_added_and_removed_by_a_reload() {
    let stage = start();
    let config = stage.gateway.path("crossgate.yaml");
    let before = fs::read_to_string(&config).unwrap();
    let second = stage.authority.issue(&["x.b.test"]);
    let pair = "{ certificate: 0.crt, key: 0.key }";
    replace_file(&config, &before.replace(pair, &format!("{pair}, {{ certificate: 1.crt, key: 1.key }}")));
    // A pair that was never valid is an error in the file that names it.
    let answer = stage.gateway.admin("POST", "/reload");
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("1.crt cannot be used: No such file"), "{answer:?}");
    second.write(&stage.gateway.path("1.crt"), &stage.gateway.path("1.key"));
    let deadline = Instant::now() + LIVE_WITHIN;
    while stage.connect("x.b.test").is_err() {
        assert!(Instant::now() < deadline, "the new file is not loaded");
    }
    assert_eq!(stage.gateway.admin("GET", "/status").json()["reload"]["restartNeeded"], serde_json::json!([]));
    replace_file(&config, &before);
    assert_eq!(stage.gateway.admin("POST", "/reload").status, 200);
    assert!(stage.connect("x.b.test").is_err());
    assert_eq!(stage.served_certificate(HOST), Ok(0));
}

#[test]
fn certificates_rotate_while_listeners_await_a_restart() {
    let stage = start();
    let config = stage.gateway.path("crossgate.yaml");
    let text = fs::read_to_string(&config).unwrap();
    for changed in [
        text.replacen("  - address: 127.0.0.1:0\n", "  - address: 127.0.0.1:0\n    trustedProxies: [10.0.0.0/8]\n", 1),
        text.replacen("admin:", "  - { address: \"127.0.0.1:0\" }\nadmin:", 1),
    ] {
        replace_file(&config, &changed);
        let answer = stage.gateway.admin("POST", "/reload");
        assert_eq!(answer.json()["restartNeeded"], serde_json::json!(["listeners"]), "{answer:?}");
        let next = stage.authority.issue(&[HOST]);
        stage.replace(0, &next);
        stage.wait_served(&next);
    }
    // A listener without its `tls` section keeps TLS until the restart.
    let served = stage.connect(HOST).unwrap().certificate().clone();
    let (before, rest) = text.split_once("    tls:").unwrap();
    let rest = rest.split_once('\n').unwrap().1;
    replace_file(&config, &format!("{before}{rest}"));
    assert_eq!(stage.gateway.admin("POST", "/reload").json()["restartNeeded"], serde_json::json!(["listeners"]));
    assert_eq!(*stage.connect(HOST).unwrap().certificate(), served);
}

#[test]
fn certificate_expiry_is_reported() {
    let stage = start();
    let expiry = || {
        let series = stage.gateway.metrics().into_iter();
        let mut expiries =
            series.filter(|(name, _)| name.starts_with("crossgate_tls_certificate_expiry_timestamp_seconds"));
        let (name, value) = expiries.next().expect("a series");
        assert!(name.ends_with("0.crt\"}") && expiries.next().is_none(), "{name}");
        value
    };
    assert_eq!(expiry(), 64_092_211_200.0, "4001");
    let expired = stage.authority.issue_valid(&[HOST], Validity::Until(2002));
    stage.replace(0, &expired);
    let answer = stage.gateway.admin("POST", "/reload");
    assert!(answer.text().contains("expired on 2002-01-01"), "{answer:?}");
    assert_eq!(expiry(), 1_009_843_200.0, "the expired certificate is served");
}
