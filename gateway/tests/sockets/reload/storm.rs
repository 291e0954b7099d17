//! Concurrent reload requests by signals, by POST /reload and by changed files.
use super::*;

const SIGNALS: u64 = 1_000;
const WRITES: u64 = 20;
const MIB: u64 = 1024 * 1024;

#[test]
fn thousand_signals_are_merged_into_few_reloads() {
    let upstream = RecordingUpstream::answering("hello");
    let gateway = Gateway::start(&generation(upstream.address, 1), &[]);
    post_reload(&gateway);
    let generation_now = || gateway.metric("crossgate_config_generation", &[]) as u64;
    let (first, memory) = (generation_now(), gateway.process.memory("VmRSS"));
    let is_over = AtomicBool::new(false);
    let posts = std::thread::scope(|scope| {
        let posts = scope.spawn(|| {
            let post = || (!is_over.load(Ordering::SeqCst)).then(|| post_reload(&gateway));
            std::iter::from_fn(post).count() as u64
        });
        let signals = scope.spawn(|| (0..SIGNALS).for_each(|_| gateway.process.signal(Signal::HUP)));
        for n in 2..=WRITES {
            rename(&gateway.path("crossgate.yaml"), &generation(upstream.address, n));
        }
        signals.join().unwrap();
        is_over.store(true, Ordering::SeqCst);
        posts.join().unwrap()
    });
    rename(&gateway.path("crossgate.yaml"), &generation(upstream.address, WRITES + 1));
    wait_live(&gateway, &Shared::default(), WRITES + 1);
    let reloads = generation_now() - first;
    assert!(reloads <= posts + WRITES + SIGNALS / 4, "{reloads} reloads, {posts} of them requested by POST");
    assert_eq!(gateway.metric("crossgate_config_last_reload_successful", &[]), 1.0);
    let grown = gateway.process.memory("VmRSS").saturating_sub(memory) / MIB;
    assert!(grown < 32, "grown by {grown} MiB");
}
