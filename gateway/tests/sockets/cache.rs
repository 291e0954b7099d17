//! A shared cache between clients and the gateway: whatever it keeps, whoever asks gets what the gateway would have said.
//!
//! It keeps and finds answers as RFC 9111 says, by URL and by the request fields that `Vary` names, and knows nothing of CORS.
use crate::support::{
    Gateway, HOST, ORIGIN, RecordingUpstream, Response, assert_allowed, assert_denied, assert_never_readable, config,
    tenant_config,
};

/// The same policy, but what does not match is passed on without CORS fields: an answer that may be kept.
const FORWARD: &str = "forward.test";
/// Every origin may read.
const OPEN: &str = "open.test";
const SECOND: &str = "https://second.a.test";
const EVIL: &str = "https://evil.test";

const HOSTS: [&str; 3] = [HOST, FORWARD, OPEN];
const ORIGINS: [Option<&str>; 4] = [None, Some(ORIGIN), Some(SECOND), Some(EVIL)];

/// Who asks for the one path that there is.
#[derive(Debug, Clone, Copy)]
struct Asker {
    host: &'static str,
    origin: Option<&'static str>,
}

impl Asker {
    fn ask(self, gateway: &Gateway) -> Response {
        let origin = self.origin.map(|origin| ("Origin", origin));
        gateway.ask("GET", "/", self.host, origin.as_slice())
    }

    /// The value of one of its fields.
    fn field(self, name: &str) -> Option<&'static str> {
        match name {
            "host" => Some(self.host),
            "origin" => self.origin,
            _ => None,
        }
    }
}

#[derive(Default)]
struct Cache {
    kept: Vec<(Asker, Response)>,
    hits: usize,
}

impl Cache {
    fn ask(&mut self, gateway: &Gateway, asker: Asker) -> Response {
        let answers = |(first, response): &&(Asker, Response)| {
            let varies = response.headers.vary();
            first.host == asker.host && varies.iter().all(|name| first.field(name) == asker.field(name))
        };
        if let Some((_, response)) = self.kept.iter().find(answers) {
            self.hits += 1;
            return response.clone();
        }
        let response = asker.ask(gateway);
        if may_be_kept(&response) {
            self.kept.push((asker, response.clone()));
        }
        response
    }
}

/// RFC 9111, section 3, where all requests are GET without credentials.
fn may_be_kept(response: &Response) -> bool {
    let controls = response.headers.all("cache-control").join(",");
    let is_fresh = controls.contains("max-age=60") && !controls.contains("no-store");
    is_fresh && !response.headers.vary().contains(&"*".to_owned())
}

#[test]
fn whoever_asks_a_shared_cache_gets_the_answer_for_them_in_any_order() {
    let upstream = RecordingUpstream::start(|exchange| {
        let fresh = [("Cache-Control", "public, max-age=60"), ("Access-Control-Allow-Origin", "*")];
        exchange.answer(200, &fresh, b"hello")
    });
    let gateway = gateway(&upstream);
    for order in orders(&ORIGINS) {
        let mut cache = Cache::default();
        // Twice, so that the first to ask gets what the others left too.
        let askers = order.iter().flat_map(|origin| HOSTS.map(|host| Asker { host, origin: *origin }));
        for asker in askers.clone().chain(askers) {
            assert_right(&cache.ask(&gateway, asker), asker);
        }
        // At first what is open to all, three times; then everything but the denial, which is never kept.
        assert_eq!(cache.hits, 3 + (3 + 4 + 4), "{order:?}");
    }
}

fn gateway(upstream: &RecordingUpstream) -> Gateway {
    let text = tenant_config(upstream, "")
        .replace("policies:\n", "policies:\n  open: { allowOrigins: [\"*\"] }\n")
        .replace(&format!("[\"{ORIGIN}\"]"), &format!("[\"{ORIGIN}\", \"{SECOND}\"]"));
    let more = format!(
        "  - {{ id: f, hosts: [{FORWARD}], upstream: api, policy: spa, routes: [{{ pathPrefix: /, unmatchedRequests: Forward }}] }}\n  \
           - {{ id: o, hosts: [{OPEN}], upstream: api, policy: open }}\n"
    );
    Gateway::start(&config(&format!("{text}{more}")), &[])
}

fn assert_right(response: &Response, Asker { host, origin }: Asker) {
    let told = format!("{host} {origin:?}: {response:?}");
    match (host, origin) {
        (OPEN, _) => {
            assert_eq!(response.headers.one("access-control-allow-origin"), "*", "{told}");
            assert_eq!(response.text(), "hello", "{told}");
        }
        (_, Some(ORIGIN)) => assert_allowed(response),
        (_, Some(SECOND)) => assert_eq!(response.headers.one("access-control-allow-origin"), SECOND, "{told}"),
        (HOST, Some(_)) => assert_denied(response, "evil"),
        (_, _) => {
            assert_never_readable(response);
            assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{told}");
        }
    }
}

/// Every order of these.
fn orders<T: Copy>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let begun_with = |index: usize| {
        let rest = [&items[..index], &items[index + 1..]].concat();
        orders(&rest).into_iter().map(move |order| [&[items[index]], order.as_slice()].concat())
    };
    (0..items.len()).flat_map(begun_with).collect()
}
