//! The admin page, in a real browser and as bytes: access to it, its explanations, and the rights
//! of its cookie.
use crate::support::{
    Browser, Connection, Gateway, HOST, ORIGIN, RecordingUpstream, Response, config, request, tenant_config,
};
use serde_json::Value;

const TOKEN: &str = "full-0123456789abcdef";
const READ_TOKEN: &str = "read-0123456789abcdef";
const EVIL: &str = "https://evil.test";
const NAVIGATION: [(&str, &str); 4] = [
    ("Sec-Fetch-Site", "cross-site"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
    ("Accept", "text/html,*/*;q=0.8"),
];

fn gateway_with(admin: &str) -> Gateway {
    let upstream = RecordingUpstream::answering("hello");
    let text = config(&tenant_config(&upstream, ""));
    let text = text.replace("admin: { address: 127.0.0.1:0 }", &format!("admin: {{ address: 127.0.0.1:0{admin} }}"));
    Gateway::start(&text, &[("token", TOKEN), ("read-token", READ_TOKEN)])
}

fn open_gateway() -> Gateway {
    gateway_with("")
}

fn gateway() -> Gateway {
    gateway_with(", tokenFile: token, readTokenFile: read-token")
}

fn ask(gateway: &Gateway, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let bytes = request(method, target, &gateway.admin.to_string(), headers, body.as_bytes());
    Connection::ask(gateway.admin, &bytes).unwrap_or_else(|error| panic!("{method} {target} {headers:?}: {error:?}"))
}

/// Logs in as the page's form does and returns the cookie.
fn log_in(gateway: &Gateway, token: &str) -> String {
    let form = [("Sec-Fetch-Site", "same-origin"), ("Content-Type", "application/x-www-form-urlencoded")];
    let answer = ask(gateway, "POST", "/login", &form, &format!("token={token}&next=%2F%3Fa"));
    assert_eq!((answer.status, answer.headers.one("location")), (303, "/?a"), "{answer:?}");
    answer.headers.one("set-cookie").split(';').next().unwrap().to_owned()
}

fn generation(gateway: &Gateway) -> Value {
    let bearer = format!("Bearer {TOKEN}");
    ask(gateway, "GET", "/status", &[("Authorization", &bearer)], "").json()["generation"].clone()
}

#[test]
fn c4_links_open_only_read_endpoints() {
    let gateway = open_gateway();
    for target in ["/", "/status", "/explain?host=api.a.test", "/origins", "/metrics"] {
        assert_eq!(ask(&gateway, "GET", target, &NAVIGATION, "").status, 200, "{target}");
        for other in [
            &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")][..],
            &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")],
            &[("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty")],
            &[("Origin", EVIL)],
        ] {
            assert_eq!(ask(&gateway, "GET", target, other, "").status, 403, "{target} {other:?}");
        }
        let bytes = request("GET", target, "evil.test", &NAVIGATION, b"");
        assert_eq!(Connection::ask(gateway.admin, &bytes).unwrap().status, 421, "{target}");
    }
    assert_eq!(ask(&gateway, "GET", "/reload", &NAVIGATION, "").status, 405);
    assert_eq!(ask(&gateway, "POST", "/reload", &NAVIGATION, "").status, 403);
    assert_eq!(ask(&gateway, "POST", "/", &[], "").status, 405);
    assert_eq!(ask(&gateway, "GET", "/login", &[("Sec-Fetch-Site", "same-origin")], "").status, 405);
    assert_eq!(gateway.admin("GET", "/status").json()["generation"], 1);
}

#[test]
fn c4_explain_page_escapes_its_input() {
    let gateway = open_gateway();
    let page = ask(
        &gateway,
        "GET",
        "/?page-url=https%3A%2F%2Fevil.test%2F%3Cb%3E&url=https%3A%2F%2Fapi.a.test%2F",
        &NAVIGATION,
        "",
    );
    let text = page.text();
    assert_eq!(page.status, 200);
    assert!(text.contains("<th scope=\"row\">reason</th><td>no_match</td>"), "{text}");
    assert!(
        text.contains("https://evil.test/&lt;b&gt;") && !text.contains("<b>") && !text.contains("<script"),
        "{text}"
    );
    let policy = page.headers.one("content-security-policy");
    for part in
        ["default-src 'none'", "style-src 'sha256-", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
    {
        assert!(policy.contains(part), "no {part} in {policy}");
    }
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("content-type", "text/html; charset=utf-8"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(page.headers.one(name), value);
    }
    assert_eq!(page.headers.access_control(), Vec::<String>::new());

    let preflight = ask(
        &gateway,
        "GET",
        "/?page-url=https%3A%2F%2Fapp.a.test&url=https%3A%2F%2Fapi.a.test&method=DELETE",
        &NAVIGATION,
        "",
    );
    assert!(preflight.text().contains("<th scope=\"row\">reason</th><td>method</td>"), "{}", preflight.text());
    for (query, status, message) in [
        ("url=api.a.test&page-url=https%3A%2F%2Fapp.a.test", 400, "the URL of the API: write a URL of the API such as"),
        ("url=https%3A%2F%2Fapi.a.test", 400, "the URL of the page: write a URL of the page such as"),
        ("request-id=%3Ci%3E", 404, "the request id `&lt;i&gt;`"),
    ] {
        let answer = ask(&gateway, "GET", &format!("/?{query}"), &NAVIGATION, "");
        assert!(
            answer.status == status && answer.text().contains(message),
            "{query}: {} {}",
            answer.status,
            answer.text()
        );
    }
    let denied = gateway.ask("GET", "/orders", HOST, &[("Origin", EVIL)]);
    let found = ask(&gateway, "GET", &format!("/?request-id={}", denied.headers.one("x-request-id")), &NAVIGATION, "");
    assert!(found.text().contains("<td>GET /orders</td>"), "{}", found.text());
    let head = ask(&gateway, "HEAD", "/", &[], "");
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn c4_cookie_of_either_token_grants_reading() {
    let gateway = gateway();
    for token in [TOKEN, READ_TOKEN] {
        let cookie = log_in(&gateway, token);
        assert!(!cookie.contains(token), "the token is in the cookie: {cookie}");
        for target in ["/", "/status", "/origins", "/metrics", "/explain?host=api.a.test"] {
            assert_eq!(ask(&gateway, "GET", target, &[("Cookie", &cookie)], "").status, 200, "{target}");
            assert_eq!(ask(&gateway, "GET", target, &[], "").status, 401, "{target}");
        }
        let own = format!("http://{}", gateway.admin);
        for headers in [
            &[("Cookie", &*cookie)][..],
            &[("Cookie", &cookie), ("Sec-Fetch-Site", "same-origin"), ("Origin", &own)],
            &[("Cookie", &cookie), ("Sec-Fetch-Site", "none")],
            &[("Cookie", &cookie), ("Authorization", "Bearer wrong-0123456789abcdef")],
        ] {
            for (method, target) in [("POST", "/reload"), ("PUT", "/log-level?level=off")] {
                let status = ask(&gateway, method, target, headers, "").status;
                assert!(matches!(status, 401 | 403), "{method} {target} {headers:?}: {status}");
            }
        }
    }
    let read = format!("Bearer {READ_TOKEN}");
    assert_eq!(ask(&gateway, "GET", "/status", &[("Authorization", &read)], "").status, 200);
    let refused = ask(&gateway, "POST", "/reload", &[("Authorization", &read)], "");
    assert!(refused.status == 403 && refused.text().contains("readTokenFile is read-only"), "{refused:?}");
    assert_eq!(ask(&gateway, "PUT", "/log-level?level=off", &[("Authorization", &read)], "").status, 403);
    assert_eq!(ask(&gateway, "GET", "/log-level", &[("Authorization", &read)], "").status, 200);
    assert_eq!(generation(&gateway), 1);
    let full = format!("Bearer {TOKEN}");
    assert_eq!(ask(&gateway, "POST", "/reload", &[("Authorization", &full)], "").status, 200);
    assert_eq!(generation(&gateway), 2);
}

#[test]
fn c4_a_login_needs_the_form_and_a_right_token() {
    let gateway = gateway();
    let body = format!("token={TOKEN}&next=/");
    let own = format!("http://{}", gateway.admin);
    let secure = format!("https://{}", gateway.admin);
    for (headers, status) in [
        (&[("Origin", &*own)][..], 303),
        (&[("Origin", &*secure)], 303),
        (&[("Sec-Fetch-Site", "same-origin"), ("Origin", "null")], 303),
        (&[("Sec-Fetch-Site", "cross-site"), ("Origin", EVIL)], 403),
        (&[("Sec-Fetch-Site", "same-site"), ("Origin", &own)], 403),
        (&[("Origin", "null")], 403),
        (&[], 403),
    ] {
        let answer = ask(&gateway, "POST", "/login", headers, &body);
        assert_eq!(answer.status, status, "{headers:?}");
        let cookies = answer.headers.all("set-cookie");
        assert_eq!(cookies.len(), usize::from(status == 303), "{answer:?}");
        for cookie in cookies {
            let attributes: Vec<&str> = cookie.split("; ").skip(1).collect();
            let mut wanted = vec!["Path=/", "Max-Age=43200", "HttpOnly", "SameSite=Strict"];
            wanted.extend(headers.contains(&("Origin", &*secure)).then_some("Secure"));
            assert_eq!(attributes, wanted);
        }
    }
    let same_origin = [("Sec-Fetch-Site", "same-origin")];
    for wrong in ["token=", "x", "token=wrong-0123456789abcdef", &format!("token={TOKEN}x"), &format!("xtoken={TOKEN}")]
    {
        let answer = ask(&gateway, "POST", "/login", &same_origin, wrong);
        assert!(answer.status == 401 && answer.text().contains("invalid token"), "{wrong}: {answer:?}");
        assert!(answer.headers.all("set-cookie").is_empty());
    }
    for next in ["https://evil.test/", "//evil.test", "/\\evil.test", "/%0d%0aSet-Cookie:%20x=y"] {
        let answer = ask(&gateway, "POST", "/login", &same_origin, &format!("token={TOKEN}&next={next}"));
        assert_eq!((answer.status, answer.headers.one("location")), (303, "/"), "{next}");
    }
    assert_eq!(ask(&gateway, "POST", "/login", &same_origin, "").status, 411);
    let long = "x".repeat(20 << 10);
    assert_eq!(ask(&gateway, "POST", "/login", &same_origin, &long).status, 413);
    // Half a form without its end.
    let whole = request("POST", "/login", &gateway.admin.to_string(), &same_origin, body.as_bytes());
    assert_eq!(Connection::ask(gateway.admin, &whole[..whole.len() - 5]).unwrap().status, 408);
    // A browser gets a form, a tool gets JSON.
    let form = ask(&gateway, "GET", "/status", &NAVIGATION, "");
    assert_eq!((form.status, form.headers.one("www-authenticate")), (401, "Bearer"));
    assert!(
        form.text().contains("<form action=\"/login\" method=\"post\">") && form.text().contains("value=\"/status\"")
    );
    assert_eq!(ask(&gateway, "GET", "/status", &[], "").json()["error"].as_str().map(str::is_empty), Some(false));
}

#[test]
fn c4_login_without_tokens_redirects() {
    let answer = ask(&open_gateway(), "POST", "/login", &[("Sec-Fetch-Site", "same-origin")], "token=x&next=/status");
    assert_eq!((answer.status, answer.headers.one("location")), (303, "/status"));
    assert!(answer.headers.all("set-cookie").is_empty());
}

/// Waits for the table row of a name and returns its value.
fn cell(browser: &Browser, name: &str) -> String {
    let script = format!(
        "const rows = [...document.querySelectorAll('tr')];
         const row = rows.find(row => row.cells[0].textContent === '{name}');
         return row ? row.cells[1].textContent : null;"
    );
    browser.wait_for(&script).as_str().unwrap().to_owned()
}

fn wait_element(browser: &Browser, selector: &str) {
    browser.wait_for(&format!("return document.querySelector(`{selector}`) ? true : null"));
}

/// Fills the fields of a form and submits it with its button.
fn submit(browser: &Browser, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        wait_element(browser, &format!("input[name='{name}']"));
        browser.run(&format!("document.querySelector(`input[name='{name}']`).value = `{value}`"));
    }
    let (name, _) = fields[0];
    browser.run(&format!("document.querySelector(`input[name='{name}']`).form.querySelector('button').click()"));
}

#[test]
fn c4_a_developer_follows_a_link_logs_in_and_reads_the_reason() {
    let gateway = gateway();
    let admin = format!("http://{}", gateway.admin);
    let ticket = format!("<!DOCTYPE html><title>ticket</title><a href='{admin}/'>why</a>");
    let other = RecordingUpstream::start(move |exchange| {
        exchange.answer(200, &[("Content-Type", "text/html")], ticket.as_bytes())
    });
    let browser = Browser::trusting(&[]);
    // Another site, and another origin of the same site. Cookies are sent to all ports of a host.
    let elsewhere = format!("http://localhost:{}/", other.address.port());
    let neighbour = format!("http://{}/", other.address);
    let follow = || {
        browser.open(&elsewhere);
        browser.run("document.querySelector('a').click()");
    };
    follow();
    submit(&browser, &[("token", READ_TOKEN)]);
    wait_element(&browser, "input[name='page-url']");
    // The console contains only the 401 of the login form.
    assert!(browser.console().iter().all(|message| message.contains("401")));
    submit(&browser, &[("page-url", &format!("{EVIL}/cart")), ("url", &format!("https://{HOST}/orders"))]);
    assert_eq!((cell(&browser, "verdict"), cell(&browser, "reason")), ("deny".to_owned(), "no_match".to_owned()));
    assert_eq!(browser.run("return document.querySelector(`input[name='page-url']`).value"), format!("{EVIL}/cart"));
    // The style is applied, so its hash in the content security policy is correct.
    assert_eq!(browser.run("return getComputedStyle(document.querySelector('table')).borderCollapse"), "collapse");

    submit(&browser, &[("page-url", ORIGIN), ("url", &format!("https://{HOST}/")), ("method", "DELETE")]);
    browser.wait_for("return document.querySelectorAll('table').length === 2 ? true : null");
    assert_eq!(cell(&browser, "reason"), "method");

    let denied = gateway.ask("GET", "/orders", HOST, &[("Origin", EVIL)]);
    submit(&browser, &[("request-id", denied.headers.one("x-request-id"))]);
    assert_eq!(cell(&browser, "request"), "GET /orders");
    assert_eq!(browser.console(), Vec::<String>::new());

    // Browsers do not send a SameSite=Strict cookie with a cross-site link, but with the form's
    // link.
    follow();
    wait_element(&browser, "input[name='token']");
    browser.run("document.querySelector('a').click()");
    wait_element(&browser, "input[name='page-url']");

    // Neither site can frame the page, read it or change anything with the cookie.
    for page in [&elsewhere, &neighbour] {
        browser.open(page);
        browser.run(&format!(
            "const frame = document.createElement('iframe'); frame.src = '{admin}/'; document.body.append(frame)"
        ));
        browser.wait_for_console("frame-ancestors").unwrap_or_else(|seen| panic!("{page}: {seen:?}"));
        for (target, method) in [("/reload", "POST"), ("/login", "POST"), ("/status", "GET")] {
            browser.run(&format!(
                "window.done = null;
                 fetch('{admin}{target}', {{ method: '{method}', credentials: 'include', mode: 'no-cors' }}).then(() => 'sent', () => 'sent')
                 .then(() => fetch('{admin}{target}', {{ method: '{method}', credentials: 'include' }})).then(() => 'read', () => 'refused')
                 .then(outcome => window.done = outcome)"
            ));
            assert_eq!(browser.wait_for("return window.done"), "refused", "{page} {target}");
        }
        browser.run(&format!(
            "const form = document.createElement('form'); form.method = 'post'; form.action = '{admin}/reload';
             document.body.append(form); form.submit()"
        ));
        let refused =
            browser.wait_for("return document.body && document.body.textContent.includes('web pages') ? true : null");
        assert_eq!(refused, true);
    }
    assert_eq!(generation(&gateway), 1);
    // The cookie that other ports of the host receive contains no token.
    let cookies: Vec<String> = other
        .seen()
        .iter()
        .flat_map(|seen| seen.headers.all("cookie").into_iter().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(
        !cookies.is_empty() && cookies.iter().all(|cookie| !cookie.contains(TOKEN) && !cookie.contains(READ_TOKEN))
    );
}
