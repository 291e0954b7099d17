//! The demo upstream on its own: it counts every method, an `OPTIONS` too, and knows nothing of CORS.
use crate::support::{Connection, DemoUpstream, request};

#[test]
fn the_api_counts_by_method_and_tells_what_it_saw() {
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
fn the_page_is_the_same_for_every_host() {
    let demo = DemoUpstream::start();
    let page = |host| Connection::ask(demo.page, &request("GET", "/", host, &[], b"")).unwrap();
    let (allowed, evil) = (page("app.acme.localhost"), page("evil.localhost"));
    assert_eq!((allowed.status, &allowed.body), (200, &evil.body));
    assert!(allowed.text().contains("<title>Crossgate demo</title>"));
}
