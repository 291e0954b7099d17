//! The demo upstream, which counts every method including `OPTIONS` and has no CORS logic, and
//! `ops/demo.sh`, which starts it with a gateway.
use crate::support::{Connection, DemoUpstream, PATIENCE, Process, request};
use rustix::process::Signal;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

#[test]
fn demo_api_counts_methods_and_reports_request_headers() {
    let demo = DemoUpstream::start();
    let ask = |method, headers: &[(&str, &str)], body: &[u8]| {
        Connection::ask(demo.api, &request(method, "/orders", "api", headers, body)).unwrap()
    };
    let put = ask("PUT", &[("Cookie", "a=b"), ("Origin", "http://x.test")], b"{}");
    assert_eq!(put.json()["saw"]["cookie"], true);
    assert_eq!(put.json()["saw"]["authorization"], false);
    assert_eq!(put.json()["saw"]["body"], "{}");
    assert_eq!(put.headers.cors().len(), 0, "{:?}", put.headers);
    ask("OPTIONS", &[("Origin", "http://x.test"), ("Access-Control-Request-Method", "PUT")], b"");
    assert_eq!((demo.count("OPTIONS"), demo.count("PUT"), demo.count("GET")), (1, 1, 0));
}

#[test]
fn demo_page_is_the_same_for_every_host() {
    let demo = DemoUpstream::start();
    let page = |host| Connection::ask(demo.page, &request("GET", "/", host, &[], b"")).unwrap();
    let (allowed, evil) = (page("app.acme.localhost"), page("evil.localhost"));
    assert_eq!((allowed.status, &allowed.body), (200, &evil.body));
    assert!(allowed.text().contains("<title>Crossgate demo</title>"));
}

#[test]
fn d8_page_server_answers_only_demo_hosts() {
    let demo = DemoUpstream::start();
    for (host, status) in [
        ("evil.localhost:3000", 200),
        ("localhost", 200),
        ("127.0.0.1:3000", 200),
        ("[::1]:3000", 200),
        ("rebound.example", 421),
        ("notlocalhost", 421),
        ("app.acme.localhost.evil.test", 421),
    ] {
        for path in ["/", "/settings", "/explain?host=api.acme.localhost"] {
            let expected = if status == 200 && path.starts_with("/explain") { 404 } else { status };
            let answer = Connection::ask(demo.page, &request("GET", path, host, &[], b"")).unwrap();
            assert_eq!(answer.status, expected, "{host} {path}");
        }
    }
}

const PORT_NAMES: [&str; 4] = ["PORT", "PAGE_PORT", "ADMIN_PORT", "UPSTREAM_PORT"];

/// Finds a free port outside the range of ephemeral ports.
fn find_free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(20_000..32_000)).find(is_free).unwrap()
}

fn find_free_ports() -> [u16; 4] {
    loop {
        let ports = [(); 4].map(|()| find_free_port());
        if (1..4).all(|at| !ports[..at].contains(&ports[at])) {
            return ports;
        }
    }
}

/// `ops/demo.sh` in its own process. It is ended with SIGTERM, because its servers would outlive
/// SIGKILL.
struct DemoScript(Process);

impl DemoScript {
    fn start(ports: [&str; 4]) -> Self {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/demo.sh"));
        command
            .arg(env!("CARGO_BIN_EXE_crossgate"))
            .env_remove("CROSSGATE_LOG")
            .envs(PORT_NAMES.into_iter().zip(ports));
        Self(Process::spawn(command))
    }

    /// Waits for the script's failure and returns its standard error.
    fn wait_refused(mut self) -> String {
        assert_eq!(self.0.wait_at_most(PATIENCE).code(), Some(1));
        assert_eq!(self.0.stdout(), "");
        self.0.stderr()
    }
}

impl Drop for DemoScript {
    fn drop(&mut self) {
        if self.0.is_running() {
            self.0.signal(Signal::TERM);
            self.0.wait_at_most(PATIENCE);
        }
    }
}

#[test]
fn d8_taken_port_is_reported_with_the_variable_to_set() {
    for taken in 0..4 {
        for host in ["127.0.0.1", "::1"] {
            let port = find_free_port();
            // A machine without IPv6 has no second address.
            let Ok(_listener) = TcpListener::bind((host, port)) else { continue };
            let mut ports = find_free_ports();
            ports[taken] = port;
            let message =
                DemoScript::start(ports.map(|port| port.to_string()).each_ref().map(String::as_str)).wait_refused();
            let name = PORT_NAMES[taken];
            let start =
                format!("port {} is taken: set {name} to a free port, for example `make run {name}=", ports[taken]);
            let rest = message.strip_prefix(&start).unwrap_or_else(|| panic!("{message}"));
            let suggested: u16 = rest.strip_suffix('`').unwrap().parse().unwrap();
            assert!(TcpStream::connect(("127.0.0.1", suggested)).is_err() && !ports.contains(&suggested), "{message}");
        }
    }
}

#[test]
fn d8_invalid_or_equal_ports_are_refused() {
    for bad in ["0", "65536", "08080", "http", "-1", "1 2"] {
        let message = DemoScript::start(["2", bad, "3", "4"]).wait_refused();
        assert_eq!(message, format!("PAGE_PORT={bad} is not a port: a number from 1 to 65535 is accepted"));
    }
    let message = DemoScript::start(["2", "3", "2", "4"]).wait_refused();
    assert_eq!(message, "PORT and ADMIN_PORT are both 2: set different ports");
}

#[test]
fn d8_demo_serves_on_configured_ports_without_request_logs() {
    let ports = find_free_ports();
    let mut demo = DemoScript::start(ports.map(|port| port.to_string()).each_ref().map(String::as_str));
    let [gateway, page, admin, upstream] = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let file = demo.0.stdout_line(|line| {
        line.trim().strip_prefix("To edit while it runs: ")?.split_once(" (").map(|(file, _)| file.to_owned())
    });
    demo.0.stdout_line(|line| line.contains("Access log: ").then_some(()));
    let output = || (demo.0.stdout().trim_end().to_owned(), demo.0.stderr());
    let before = output();
    assert_eq!(before.1, "");
    let urls = format!(
        "Open http://app.acme.localhost:{} (allowed) and http://evil.localhost:{} (denied)",
        page.port(),
        page.port()
    );
    assert!(before.0.contains(&urls), "{}", before.0);

    let allowed = format!("http://app.acme.localhost:{}", page.port());
    for _ in 0..40 {
        let get = request("GET", "/orders", "api.acme.localhost", &[("Origin", &allowed)], b"");
        assert_eq!(Connection::ask(gateway, &get).unwrap().status, 200);
    }
    let settings = Connection::ask(page, &request("GET", "/settings", "localhost", &[], b"")).unwrap().json();
    assert_eq!(settings["api"], format!("http://api.acme.localhost:{}", gateway.port()));
    let query = format!("/explain?host=api.acme.localhost&origin={allowed}");
    let explained = Connection::ask(page, &request("GET", &query, "localhost", &[], b"")).unwrap().json();
    assert_eq!((&explained["verdict"], &explained["reason"]), (&"allow".into(), &"exact".into()), "{explained}");
    assert_eq!(output(), before, "a request was logged to the terminal");

    // Mistakes in an edited file are logged to the terminal.
    std::fs::write(&file, "version: 2\n").unwrap();
    demo.0.stdout_line(|line| line.contains("demo.yaml:1").then_some(()));

    demo.0.signal(Signal::TERM);
    assert_eq!(demo.0.wait_at_most(PATIENCE).code(), Some(0));
    assert_eq!(demo.0.stderr(), "");
    for address in [gateway, page, admin, upstream] {
        assert!(TcpStream::connect(address).is_err(), "{address} still listens");
    }
    assert!(!std::path::Path::new(&file).exists(), "{file} was not removed");
}
