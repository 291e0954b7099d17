//! Copies of a rule share nothing, so a second thread adds what a second core has.
use super::*;
use std::time::Instant;

const ENOUGH: f64 = 1.5;
/// Other tests may take the second core for a while.
const ROUNDS_MAX: usize = 60;

fn runs_per_second(rule: &Rule, threads: usize) -> f64 {
    const RUNS: u32 = 3_000;
    let began = Instant::now();
    std::thread::scope(|scope| {
        for slot in 0..threads {
            scope.spawn(move || {
                let headers = HeaderMap::new();
                with_input(&headers, |input| {
                    (0..RUNS).for_each(|_| assert!(rule.run(input, slot, never).answer.is_ok()))
                });
            });
        }
    });
    threads as f64 * f64::from(RUNS) / began.elapsed().as_secs_f64()
}

#[test]
fn two_threads_give_at_least_one_and_a_half_times_the_runs_of_one() {
    let rule = body(
        "let n = 0; for label in req.host.split(\".\") { n += label.len(); } if n > 3 { allow() } else { deny(req.host) }",
    );
    let mut ratios = Vec::new();
    while ratios.len() < ROUNDS_MAX && ratios.iter().all(|ratio| *ratio < ENOUGH) {
        ratios.push(runs_per_second(&rule, 2) / runs_per_second(&rule, 1));
    }
    assert!(ratios.iter().any(|ratio| *ratio >= ENOUGH), "{ratios:.2?}");
}
