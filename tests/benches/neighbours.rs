//! The cost of a tenant's start beside another tenant that is hostile in every way at once, against the same start while the other tenant
//! does nothing: pairs, by turns.
//!
//! `cargo bench -p qhost-tests --bench neighbours`

use std::{
    fs,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use qhost_tests::{
    ImageServer, Qhost,
    hostile_tenant::{Harm, HostileTenant, config, shared_disk},
};

const QHOST: &str = env!("CARGO_BIN_EXE_qhost-under-test");
const STAND_IN: &str = env!("CARGO_BIN_EXE_qemu-stand-in");

/// How long the hostile tenant works again before the next start is measured.
const AT_WORK: Duration = Duration::from_millis(500);

fn main() {
    // The quotas are of one of two CPUs, and of more CPUs than there are.
    for (vms, harm) in
        [(1, Harm::ByVms), (3, Harm::ByVms), (1, Harm::ByCommandsToo), (3, Harm::ByCommandsToo)]
    {
        beside(vms, harm);
    }
}

fn beside(vms: u32, harm: Harm) {
    let (qhost, server) = (Arc::new(Qhost::new(QHOST)), ImageServer::start());
    qhost.config(&config(vms));
    let image = server.serve("/image", shared_disk("I am web"));
    let job = qhost.job(&image, json!({}));
    let job = qhost.file("acme.json", fs::read(job).unwrap());
    let first = start(&qhost, &job).id;
    let mallory = HostileTenant::start(&qhost, STAND_IN, &image, &first, harm);
    let (mut beside, mut alone, mut ratios, mut machine) = (vec![], vec![], vec![], vec![]);
    for round in 0..23 {
        thread::sleep(AT_WORK);
        let (with, computes) = (start(&qhost, &job).took, compute());
        let (without, computed) = mallory.paused(|| (start(&qhost, &job).took, compute()));
        // The first rounds warm up.
        if round >= 3 {
            beside.push(with);
            alone.push(without);
            ratios.push(with / without);
            machine.push(computes / computed);
        }
    }
    let tried = mallory.tried();
    mallory.end();
    println!(
        "a start beside a hostile tenant with a quota of {vms} CPUs ({harm:?}): {:.1} ms, {:.1} ms while that one does nothing; ratio {:.2} (median of 20 pairs; \
         ninth decile {:.2}); a computation of one thread, in no tenant's group: ratio {:.2}; beside {tried}",
        decile(&mut beside, 5),
        decile(&mut alone, 5),
        decile(&mut ratios, 5),
        decile(&mut ratios, 9),
        decile(&mut machine, 5),
    );
}

/// Times a computation of this process in milliseconds, which shows what the machine itself gives beside busy processors.
fn compute() -> f64 {
    let began = Instant::now();
    let mut state = 1_u64;
    for round in 0..60_000_000_u64 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round) ^ (state >> 29);
    }
    std::hint::black_box(state);
    began.elapsed().as_secs_f64() * 1e3
}

fn decile(times: &mut [f64], number: usize) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() * number / 10]
}

struct Started {
    id: String,
    /// Milliseconds until the VM's guest ran.
    took: f64,
}

/// Starts acme's VM, and ends it.
fn start(qhost: &Qhost, job: &str) -> Started {
    let began = Instant::now();
    let run = qhost.run(&["run", "--json", "--detach", "--tenant", "acme", job]);
    let took = began.elapsed().as_secs_f64() * 1e3;
    let id = run.exits(0).json()["vm"]["id"].as_str().unwrap().to_owned();
    qhost.run(&["kill", "--tenant", "acme", &id]).exits(0);
    Started { id, took }
}
