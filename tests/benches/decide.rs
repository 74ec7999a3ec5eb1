//! What a decision costs, beside the same component under bare wasmtime and the same rules in regorus.
//!
//! The ratios are taken side by side: each round measures every contender once, in turn, so that the machine's other work falls on all of
//! them alike. `cargo bench -p qhost-tests --bench decide`; criterion's own figures come first.

mod bare;
mod contenders;

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use criterion::Criterion;

use qhost_policy::Loader;

use contenders::{Bare, Calls, Rego, arguments, chain, request, settled};

/// Rounds of the side-by-side measurement.
const ROUNDS: usize = 20_000;

/// Orders in which each of the five contenders follows each other one equally often.
const ORDERS: [[usize; 5]; 4] =
    [[3, 2, 0, 1, 4], [2, 3, 0, 4, 1], [0, 3, 1, 2, 4], [0, 2, 1, 3, 4]];

fn main() {
    let loader = Loader::in_process().expect("a sandbox");
    let one = chain(&loader, 1);
    let bare = Bare::new();
    let mut rego = Rego::new();
    contenders::assert_same_rules(&one, &mut rego);
    let [plain, chosen] = [settled(), request()].map(arguments);

    let mut criterion = Criterion::default().configure_from_args().without_plots();
    let mut group = criterion.benchmark_group("decision");
    group.bench_function("qhost", |bencher| bencher.iter(|| one.decide(settled())));
    group.bench_function("qhost, it chooses", |bencher| bencher.iter(|| one.decide(request())));
    group.bench_function("bare wasmtime", |bencher| {
        bencher.iter(|| bare.decide(&plain, Calls::Two));
    });
    group.bench_function("regorus, warm engine", |bencher| bencher.iter(|| rego.decide()));
    for policies in [4, 16] {
        let chain = chain(&loader, policies);
        let name = format!("qhost, {policies} policies");
        group.bench_function(name, |bencher| bencher.iter(|| chain.decide(settled())));
    }
    group.finish();
    criterion.final_summary();

    println!("\nSide by side, {ROUNDS} rounds of each, in turn:");
    let mut took: [Vec<Duration>; 5] = Default::default();
    for round in 0..ROUNDS * 5 {
        // The inputs are made beforehand for all contenders. Each contender follows each other one equally often, since the one after the
        // interpreter finds the processor's caches full of the interpreter's data.
        let turn = ORDERS[round / 5 % ORDERS.len()][round % 5];
        let ready = if turn == 0 { settled() } else { request() };
        took[turn].push(match turn {
            0 => timed(|| one.decide(ready)),
            1 => timed(|| bare.decide(&plain, Calls::Two)),
            2 => timed(|| one.decide(ready)),
            3 => timed(|| bare.decide(&chosen, Calls::Three)),
            _ => timed(|| rego.decide()),
        });
    }
    let [plain, bare_plain, chosen, bare_chosen, rego] = took.map(row);
    println!("A task that the policy leaves as it is (choose, validate):");
    row_line("qhost", plain, None);
    row_line("bare wasmtime", bare_plain, Some((plain.0 / bare_plain.0, "qhost takes")));
    println!("One for which it chooses (choose, choose about the result, validate):");
    row_line("qhost", chosen, None);
    row_line("bare wasmtime", bare_chosen, Some((chosen.0 / bare_chosen.0, "qhost takes")));
    row_line("regorus, warm", rego, Some((chosen.0 / rego.0, "qhost takes")));
    println!("Longer chains, of a task left as it is:");
    for policies in [4, 16] {
        let longer = chain(&loader, policies);
        let mut took: [Vec<Duration>; 2] = Default::default();
        for _ in 0..ROUNDS / policies {
            let ready = [settled(), settled()];
            let [first, second] = ready;
            took[0].push(timed(|| one.decide(first)));
            took[1].push(timed(|| longer.decide(second)));
        }
        let [single, took] = took.map(row);
        let name = format!("qhost, {policies} policies");
        row_line(&name, took, Some((took.0 / single.0, "of 1 policy:")));
    }
    println!("A policy that looks one thing up in a table:");
    let tables = [3, 100_000].map(|rows| contenders::looks_up(&loader, rows));
    let mut took: [Vec<Duration>; 2] = Default::default();
    for round in 0..ROUNDS {
        for turn in [round % 2, 1 - round % 2] {
            let ready = settled();
            took[turn].push(timed(|| tables[turn].decide(ready)));
        }
    }
    let [few, many] = took.map(row);
    row_line("of 3 rows", few, None);
    row_line("of 100,000 rows", many, None);
    println!("100,000 rows cost {:+.2} µs", many.0 - few.0);
    println!("A task with 8 data disks and a seed of 64 KiB:");
    let large = contenders::with_disks_and_seed();
    let mut took: [Vec<Duration>; 2] = Default::default();
    for round in 0..ROUNDS {
        for turn in [round % 2, 1 - round % 2] {
            let ready = if turn == 0 { settled() } else { large.clone() };
            took[turn].push(timed(|| one.decide(ready)));
        }
    }
    let [plain, furnished] = took.map(row);
    row_line("without", plain, None);
    row_line("with", furnished, Some((furnished.0 / plain.0, "of that without:")));
    let made = (0..1000).map(|_| timed(|| contenders::seed_disk_of(&large))).collect();
    row_line("the seed's disk", row(made), None);
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

fn per_second(chain: &qhost_policy::Chain, threads: usize) -> f64 {
    let (stop, decided) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    black_box(chain.decide(settled()));
                    decided.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(Duration::from_secs(3));
        stop.store(true, Ordering::Relaxed);
    });
    decided.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}
