//! Bodies of fixed responses in files.

use super::*;
use crate::route::RouteAction;

#[test]
fn changed_body_is_served_without_a_change_of_the_configuration() {
    let files = Files::new(&[]);
    files.write("down.txt", "one");
    let route = "routes: [{ pathPrefix: /, respond: { status: 503, bodyFile: down.txt } }]";
    let tenant = format!("tenants: [{{ id: z, hosts: [z.test], policy: spa, {route} }}, ");
    files.replace("gateway.yaml", &MAIN.replace("tenants: [", &tenant));
    let reloader = files.start();
    let body = || {
        let tenant = find(&reloader, "z.test").unwrap();
        match &tenant.routes()[0].action {
            RouteAction::Respond(response) => String::from_utf8(response.body.to_vec()).unwrap(),
            RouteAction::Forward(_) | RouteAction::Redirect(_) | RouteAction::NotFound => panic!(),
        }
    };
    assert_eq!(body(), "one");
    files.replace("down.txt", "two");
    wait_for("the new body", || body() == "two");
    // Without its file the configuration is refused, and the last body stays.
    fs::remove_file(files.path("down.txt")).unwrap();
    wait_for("the missing body", || reloader.status().failures_total == 1);
    assert_eq!(body(), "two");
}
