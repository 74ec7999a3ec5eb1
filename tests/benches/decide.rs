//! What a decision costs, beside the same component under bare wasmtime and the same rules in regorus.
//!
//! The ratios are taken side by side: each round measures every contender once, in turn, so that what else the machine
//! does falls on all of them alike. `cargo bench -p qhost-tests --bench decide`; criterion's own figures come first.

mod bare;
mod contenders;

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use contenders::{Bare, Rego, chain, request};
use criterion::Criterion;
use qhost::policy::Loader;

/// Rounds of the side-by-side measurement.
const ROUNDS: usize = 20_000;

fn main() {
    let loader = Loader::in_process().expect("a sandbox");
    let one = chain(&loader, 1);
    let mut bare = Bare::new();
    let mut rego = Rego::new();
    contenders::assert_same_rules(&one, &mut rego);

    let mut criterion = Criterion::default().configure_from_args().without_plots();
    let mut group = criterion.benchmark_group("decision");
    group.bench_function("qhost, 1 policy", |bencher| bencher.iter(|| one.decide(request())));
    group.bench_function("bare wasmtime", |bencher| bencher.iter(|| bare.decide()));
    group.bench_function("regorus, warm engine", |bencher| bencher.iter(|| rego.decide()));
    for policies in [4, 16] {
        let chain = chain(&loader, policies);
        let name = format!("qhost, {policies} policies");
        group.bench_function(name, |bencher| bencher.iter(|| chain.decide(request())));
    }
    group.finish();
    criterion.final_summary();

    println!("\nSide by side, {ROUNDS} rounds of each:");
    let [mut ours, mut theirs, mut regos] = [vec![], vec![], vec![]];
    // What goes in is made beforehand for all of them.
    for _ in 0..ROUNDS {
        let ready = request();
        ours.push(timed(|| one.decide(ready)));
        theirs.push(timed(|| bare.decide()));
        regos.push(timed(|| rego.decide()));
    }
    let [ours, theirs, regos] = [ours, theirs, regos].map(|took| row(took));
    row_line("qhost, 1 policy", ours, None);
    row_line("bare wasmtime", theirs, Some((ours.0 / theirs.0, "qhost takes")));
    row_line("regorus, warm", regos, Some((ours.0 / regos.0, "qhost takes")));
    for policies in [4, 16] {
        let longer = chain(&loader, policies);
        let took = (0..ROUNDS / policies).map(|_| {
            let ready = request();
            timed(|| longer.decide(ready))
        });
        let took = row(took.collect());
        row_line(
            &format!("qhost, {policies} policies"),
            took,
            Some((took.0 / ours.0, "of 1 policy:")),
        );
    }
    let single = per_second(&one, 1);
    let double = per_second(&one, 2);
    println!(
        "1 thread   {single:>9.0} decisions/s\n2 threads  {double:>9.0} decisions/s, {:.2} of 1",
        double / single
    );
}

fn timed<T>(what: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    black_box(what());
    began.elapsed()
}

/// The median and the 99th percentile in µs.
fn row(mut took: Vec<Duration>) -> (f64, f64) {
    took.sort();
    let at = |hundredths: usize| took[took.len() * hundredths / 100].as_secs_f64() * 1e6;
    (at(50), at(99))
}

fn row_line(name: &str, (p50, p99): (f64, f64), ratio: Option<(f64, &str)>) {
    let ratio = ratio.map_or(String::new(), |(ratio, of)| format!("   {of} {ratio:.2}"));
    println!("{name:<20} p50 {p50:>8.1} µs   p99 {p99:>8.1} µs{ratio}");
}

fn per_second(chain: &qhost::policy::Chain, threads: usize) -> f64 {
    let (stop, decided) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    black_box(chain.decide(request()));
                    decided.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(Duration::from_secs(3));
        stop.store(true, Ordering::Relaxed);
    });
    decided.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}
