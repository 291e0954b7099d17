//! Protection against cross-site requests in a real browser, over https: what Chromium sends for
//! forms, links, images, frames, objects, fetches and service workers, and what the gateway
//! answers.
//!
//! A case has a page, what the page does, the request fields as the gateway received them, and the
//! answer. The pages are `own` (of the API itself), `app` and `partner` (listed), `sibling` (on the
//! API's site, not listed), and `evil` and `hop` (on other sites). `gateway.yaml` has the policies.

mod setup;

use setup::Setup;

/// Runs every case of a table and reports all failures together.
fn check(setup: &Setup, table: &str) {
    let cases = setup.cases(table);
    let failures: Vec<String> = cases.iter().filter_map(|case| setup.run(case).err()).collect();
    assert!(failures.is_empty(), "{} failures in {} cases\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn forms_of_other_sites_get_403_unless_navigations_are_allowed() {
    check(&Setup::start(), include_str!("cross_site_browser/forms.yaml"));
}

#[test]
fn null_origin_is_foreign_unless_the_browser_reports_the_same_origin() {
    check(&Setup::start(), include_str!("cross_site_browser/null_origins.yaml"));
}

#[test]
fn navigations_only_refuses_everything_that_other_sites_embed() {
    check(&Setup::start(), include_str!("cross_site_browser/reads.yaml"));
}

#[test]
fn fetches_that_write_need_a_listed_origin() {
    check(&Setup::start(), include_str!("cross_site_browser/fetches.yaml"));
}

#[test]
fn page_gets_the_terms_of_its_group() {
    check(&Setup::start(), include_str!("cross_site_browser/groups.yaml"));
}

#[test]
fn pages_read_timing_and_embed_as_the_policy_says() {
    check(&Setup::start(), include_str!("cross_site_browser/embedding.yaml"));
}

#[test]
fn service_worker_can_send_a_foreign_navigation_again_as_its_own() {
    let setup = Setup::start();
    for scope in ["as-is", "again", "internal/as-is", "internal/again", "callback/as-is"] {
        setup.register_worker(scope);
    }
    check(&setup, include_str!("cross_site_browser/workers.yaml"));
}
