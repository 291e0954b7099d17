//! A shared cache between clients and the gateway: every client gets an answer that is valid for
//! its own origin.
//!
//! The cache stores and selects answers as in RFC 9111, by URL and by the request fields in `Vary`.
//! It has no CORS logic.
use crate::support::{
    Gateway, HOST, ORIGIN, RecordingUpstream, Response, assert_allowed, assert_denied, assert_never_readable, config,
    tenant_config,
};

/// Host that forwards unmatched requests without CORS fields. Caches may store these answers.
const FORWARD: &str = "forward.test";
/// Host that allows every origin.
const OPEN: &str = "open.test";
const SECOND: &str = "https://second.a.test";
const EVIL: &str = "https://evil.test";

const HOSTS: [&str; 3] = [HOST, FORWARD, OPEN];
const ORIGINS: [Option<&str>; 4] = [None, Some(ORIGIN), Some(SECOND), Some(EVIL)];

/// A client of the one path.
#[derive(Debug, Clone, Copy)]
struct Client {
    host: &'static str,
    origin: Option<&'static str>,
}

impl Client {
    fn ask(self, gateway: &Gateway) -> Response {
        let origin = self.origin.map(|origin| ("Origin", origin));
        gateway.ask("GET", "/", self.host, origin.as_slice())
    }

    /// The value of a request field.
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
    kept: Vec<(Client, Response)>,
    hits: usize,
}

impl Cache {
    fn ask(&mut self, gateway: &Gateway, client: Client) -> Response {
        let answers = |(first, response): &&(Client, Response)| {
            let varies = response.headers.vary();
            first.host == client.host && varies.iter().all(|name| first.field(name) == client.field(name))
        };
        if let Some((_, response)) = self.kept.iter().find(answers) {
            self.hits += 1;
            return response.clone();
        }
        let response = client.ask(gateway);
        if may_be_kept(&response) {
            self.kept.push((client, response.clone()));
        }
        response
    }
}

/// Implements RFC 9111, section 3, for GET requests without credentials.
fn may_be_kept(response: &Response) -> bool {
    let controls = response.headers.all("cache-control").join(",");
    let is_fresh = controls.contains("max-age=60") && !controls.contains("no-store");
    is_fresh && !response.headers.vary().contains(&"*".to_owned())
}

#[test]
fn shared_cache_serves_each_origin_its_own_answer() {
    let upstream = RecordingUpstream::start(|exchange| {
        let fresh = [("Cache-Control", "public, max-age=60"), ("Access-Control-Allow-Origin", "*")];
        exchange.answer(200, &fresh, b"hello")
    });
    let gateway = gateway(&upstream);
    for order in list_orders(&ORIGINS) {
        let mut cache = Cache::default();
        // Twice, so that the first client also gets answers stored for later ones.
        let clients = order.iter().flat_map(|origin| HOSTS.map(|host| Client { host, origin: *origin }));
        for client in clients.clone().chain(clients) {
            assert_right(&cache.ask(&gateway, client), client);
        }
        // First round: 3 hits on the open host. Second round: all but the denial, which is not
        // stored.
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

fn assert_right(response: &Response, Client { host, origin }: Client) {
    let context = format!("{host} {origin:?}: {response:?}");
    match (host, origin) {
        (OPEN, _) => {
            assert_eq!(response.headers.one("access-control-allow-origin"), "*", "{context}");
            assert_eq!(response.text(), "hello", "{context}");
        }
        (_, Some(ORIGIN)) => assert_allowed(response),
        (_, Some(SECOND)) => assert_eq!(response.headers.one("access-control-allow-origin"), SECOND, "{context}"),
        (HOST, Some(_)) => assert_denied(response, "evil"),
        (_, _) => {
            assert_never_readable(response);
            assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{context}");
        }
    }
}

/// Lists every order of the items.
fn list_orders<T: Copy>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let orders_starting_with = |index: usize| {
        let rest = [&items[..index], &items[index + 1..]].concat();
        list_orders(&rest).into_iter().map(move |order| [&[items[index]], order.as_slice()].concat())
    };
    (0..items.len()).flat_map(orders_starting_with).collect()
}
