//! Removal of a tenant during one of its requests, and its return.
use std::sync::{Mutex, mpsc};

use super::*;

/// Checks whether any metric has tenant `b`.
fn is_counted(gateway: &Gateway) -> bool {
    gateway.metrics().iter().any(|(series, _)| series.contains("tenant=\"b\""))
}

#[test]
fn removed_tenant_ends_with_its_last_request() {
    let (arrived, arrivals) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (arrived, released) = (Mutex::new(arrived), Mutex::new(released));
    let upstream = RecordingUpstream::start(move |exchange| {
        if exchange.seen.target == "/held" {
            arrived.lock().unwrap().send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
        }
        exchange.answer(200, &[], b"hello")
    });
    let (a, b) = (tenant("a", "https://a1.test"), tenant("b", "https://b1.test"));
    let files = [("tenants.d/a.yaml", a.as_str()), ("tenants.d/b.yaml", b.as_str())];
    let gateway = Gateway::start(&with_tenants_dir(upstream.address), &files);
    for _ in 0..3 {
        assert!(allows(&gateway, "b.test", "https://b1.test") && !allows(&gateway, "b.test", "https://a1.test"));
    }
    gateway.wait_metric("crossgate_requests_total", &[("tenant", "b")], 6.0);

    let held = request("GET", "/held", "b.test", &[("Origin", "https://b1.test")], b"");
    let mut connection = Connection::open(gateway.data);
    connection.send(&held).unwrap();
    arrivals.recv().unwrap();
    fs::remove_file(gateway.path("tenants.d/b.yaml")).unwrap();
    post_reload(&gateway);
    assert_eq!(gateway.ask("GET", "/", "b.test", &[]).status, 421);
    release.send(()).unwrap();
    let answer = connection.answer_to(&held).unwrap();
    assert_eq!((answer.status, answer.headers.one("access-control-allow-origin")), (200, "https://b1.test"));
    assert_eq!(
        connection.exchange(&held).unwrap().status,
        421,
        "the next request on the same connection belongs to no tenant"
    );

    let deadline = Instant::now() + Duration::from_secs(10);
    while is_counted(&gateway) {
        assert!(Instant::now() < deadline, "the removed tenant still has metrics");
    }
    fs::write(gateway.path("tenants.d/b.yaml"), &b).unwrap();
    post_reload(&gateway);
    assert!(!is_counted(&gateway), "metrics of the removed tenant came back");
    assert!(allows(&gateway, "b.test", "https://b1.test"));
    gateway.wait_metric("crossgate_requests_total", &[("tenant", "b")], 1.0);
    gateway.wait_metric("crossgate_origin_requests_total", &[("tenant", "b")], 1.0);
}
