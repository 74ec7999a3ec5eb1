//! What a VM costs beside its QEMU, each beside a named baseline in the same run: its start against the same QEMU command line
//! started by hand, its supervisor's memory, `ps` over a thousand VMs, a hundred adoptions, fifty starts at once.
//!
//! `cargo bench -p qhost-tests --bench vms`

use std::{
    collections::HashMap,
    fs, iter,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use qhost_tests::{
    ImageServer, Qhost,
    boot_sector::{self, Then},
    by_hand, configured,
    nomad::{Plugin, Task},
    policy, succeed, wait_for,
};

/// The command as released, built by `cargo bench` with the benchmarks themselves.
const QHOST: &str = env!("CARGO_BIN_EXE_qhost-under-test");

fn main() {
    let qhost = Qhost::new(QHOST);
    let server = ImageServer::start();
    let image = server.serve("/image", boot_sector::disk("the guest runs", Then::Hang));
    let job = qhost.job(&image, json!({}));
    qhost.run(&["image", "pull", &image.0, "--checksum", &image.1]).exits(0);
    starts(&qhost, &job);
    starts_by_nomad(&server);
    if std::env::var_os("QHOST_BENCH_STARTS").is_some() {
        return;
    }
    for vms in [1, 20, 100] {
        memory(&qhost, &job, vms);
    }
    at_once(&qhost, &job);
    listing(&qhost, &job);
}

fn median(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 95 / 100])
}

fn kill_all(qhost: &Qhost) {
    let list = qhost.run(&["ps", "--json"]).exits(0).json();
    let ids: Vec<&str> =
        list["vms"].as_array().unwrap().iter().map(|vm| vm["id"].as_str().unwrap()).collect();
    if !ids.is_empty() {
        qhost.run(&[&["kill"][..], &ids].concat()).exits(0);
    }
}

/// Measures from the start of `qhost run --detach` to QEMU's greeting, in pairs with QEMU's command line by hand.
fn starts(qhost: &Qhost, job: &str) {
    let policy = policy("limits");
    let settings = "limits={\"cpus\": 4, \"memory_mib\": 4096}";
    let policies = format!("limits={}", policy.display());
    let args =
        ["run", "--json", "--detach", "--policy", &policies, "--policy-settings", settings, job];
    let (mut by_qhost, mut by_hand, mut more, mut until_running) = (vec![], vec![], vec![], vec![]);
    for round in 0..55 {
        let (report, times) = timed(qhost, &args);
        let qhost_took = times.iter().find(|(point, _)| point == "launch.greeted").unwrap().1;
        until_running.push(times.iter().map(|(_, at)| *at).fold(0.0, f64::max));
        let folder = PathBuf::from(report["vm"]["folder"].as_str().unwrap());
        let spec: Value =
            serde_json::from_slice(&fs::read(folder.join("plan.json")).unwrap()).unwrap();
        kill_all(qhost);
        let hand_took = by_hand::started(qhost, &spec);
        // The first rounds warm up.
        if round >= 5 {
            by_qhost.push(qhost_took);
            by_hand.push(hand_took);
            more.push(qhost_took - hand_took);
        }
    }
    breakdown(qhost, &args);
    let (took, _) = median(by_qhost);
    let (hand, _) = median(by_hand);
    let (middle, most) = median(more);
    println!(
        "start to greeting: qhost {took:.1} ms, by hand {hand:.1} ms, ratio {:.2}",
        took / hand
    );
    println!(
        "  qhost later by {middle:.1} ms (median), {most:.1} ms (95th percentile) of 50 pairs"
    );
    println!("  qhost until the guest runs {:.1} ms", median(until_running).0);
}

/// Measures a start by the plugin, from an agent's call to QEMU's greeting; and twenty calls at once.
fn starts_by_nomad(server: &ImageServer) {
    let qhost = Qhost::new(QHOST);
    let times = qhost.folder().join("times");
    let qhost = qhost.env("QHOST_TIMES_OF_POINTS", times.to_str().unwrap());
    let policy = configured("limits", "limits", json!({"cpus": 4, "memory_mib": 4096}), "");
    let images = "[image.network]\nallow = [\"127.0.0.0/8\"]\n";
    qhost.config(&format!("{policy}[host]\nchain = [\"limits\"]\n{images}"));
    let settings = json!({"config": qhost.folder().join("qhost.toml"), "state_dir": qhost.state()});
    let plugin = Plugin::as_agent(&qhost, &settings);
    let (schema, image) = (
        plugin.task_schema(),
        server.serve("/image", boot_sector::disk("the guest runs", Then::Hang)),
    );
    let config = json!({"image_source": image.0, "checksum": image.1});
    let mut number = 0;
    let mut task = || {
        number += 1;
        Task::new(&qhost, &schema, &format!("a{number}"), &config)
    };
    let (mut by_plugin, mut by_hand, mut more) = (vec![], vec![], vec![]);
    for round in 0..55 {
        fs::write(&times, "").unwrap();
        let task = task();
        let began = jiff::Timestamp::now().as_microsecond();
        let handle = plugin.start(&task.config).unwrap();
        let took = fs::read_to_string(&times).unwrap();
        let took = took.lines().find_map(|line| line.strip_prefix("launch.greeted ")).unwrap();
        let took = (took.parse::<i64>().unwrap() - began) as f64 / 1e3;
        let state: Value = serde_json::from_slice(&handle.driver_state).unwrap();
        let plan = qhost.state().join("vms").join(state["vm"].as_str().unwrap()).join("plan.json");
        let spec: Value = serde_json::from_slice(&fs::read(plan).unwrap()).unwrap();
        plugin.destroy(task.id(), true).unwrap();
        let hand = by_hand::started(&qhost, &spec);
        if round >= 5 {
            by_plugin.push(took);
            by_hand.push(hand);
            more.push(took - hand);
        }
    }
    let ((took, _), (hand, _), (middle, most)) = (median(by_plugin), median(by_hand), median(more));
    println!(
        "StartTask to greeting: {took:.1} ms, by hand {hand:.1} ms; later by {middle:.1} ms (median), {most:.1} ms (95th percentile) of 50 pairs"
    );
    let pss = || {
        let all = fs::read_to_string(format!("/proc/{}/smaps_rollup", plugin.pid())).unwrap();
        let line = all.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    };
    let (mut batches, mut sizes) = (vec![], vec![]);
    for _ in 0..25 {
        let tasks: Vec<_> = (0..20).map(|_| task()).collect();
        let began = Instant::now();
        let starting: Vec<_> = tasks.iter().map(|task| plugin.start_later(&task.config)).collect();
        for later in starting {
            plugin.done(later).unwrap();
        }
        batches.push(began.elapsed().as_secs_f64());
        for task in &tasks {
            plugin.destroy(task.id(), true).unwrap();
        }
        sizes.push(pss());
    }
    let (middle, _) = median(batches);
    println!(
        "20 tasks at once: {middle:.2} s, {:.1} a second (median of 25 times); MiB PSS of the plugin after each 100 tasks: {:?}",
        20.0 / middle,
        sizes.iter().skip(4).step_by(5).collect::<Vec<_>>()
    );
    plugin.leave();
}

/// Makes a start, and gives the milliseconds from its beginning to each named point of the code.
fn timed(qhost: &Qhost, args: &[&str]) -> (Value, Vec<(String, f64)>) {
    let path = qhost.folder().join("times");
    fs::write(&path, "").unwrap();
    let mut run = qhost.command(args);
    let began = jiff::Timestamp::now().as_microsecond();
    let done = run.env("QHOST_TIMES_OF_POINTS", &path).output().unwrap();
    assert!(done.status.success());
    let times = fs::read_to_string(&path).unwrap();
    let times = times.lines().map(|line| {
        let (point, at) = line.split_once(' ').unwrap();
        (point.to_owned(), (at.parse::<i64>().unwrap() - began) as f64 / 1e3)
    });
    (serde_json::from_slice(&done.stdout).unwrap(), times.collect())
}

/// Shows where the time of a start goes, by the named points of its code.
fn breakdown(qhost: &Qhost, args: &[&str]) {
    let rounds = 10;
    let mut sums = HashMap::<String, f64>::new();
    for _ in 0..rounds {
        for (point, at) in timed(qhost, args).1 {
            *sums.entry(point).or_default() += at / f64::from(rounds);
        }
        kill_all(qhost);
    }
    let mut points: Vec<_> = sums.into_iter().collect();
    points.sort_by(|(_, one), (_, other)| one.total_cmp(other));
    let before = iter::once(0.0).chain(points.iter().map(|(_, at)| *at));
    let part = |((point, at), before): (&(String, f64), f64)| format!("{point} {:.1}", at - before);
    let parts: Vec<_> = points.iter().zip(before).map(part).collect();
    println!("  ms from point to point, on average: {}", parts.join(", "));
}

/// Measures the memory of each supervisor; Nomad's executor and log collector cost 13 MiB of PSS and 5.5 MiB of private dirty memory.
fn memory(qhost: &Qhost, job: &str, vms: usize) {
    for _ in 0..vms {
        qhost.run(&["run", "--detach", job]).exits(0);
    }
    let supervisors = qhost.supervisors();
    assert_eq!(supervisors.len(), vms);
    let sum = |key: &str| -> f64 {
        let of = |pid: &String| {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let line = rollup.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
        };
        supervisors.iter().map(of).sum::<f64>() / vms as f64
    };
    println!(
        "{vms} VMs: a supervisor costs {:.2} MiB PSS, {:.2} MiB private dirty",
        sum("Pss:"),
        sum("Private_Dirty:")
    );
    if vms == 100 {
        massacre(qhost, &supervisors);
    }
    kill_all(qhost);
}

/// Kills all supervisors at once, and times the next command, which adopts all VMs.
fn massacre(qhost: &Qhost, supervisors: &[String]) {
    let began = Instant::now();
    qhost.run(&["ps"]).exits(0);
    let with_all = began.elapsed().as_secs_f64() * 1e3;
    let pids: Vec<&str> = supervisors.iter().map(String::as_str).collect();
    succeed("kill", &[&["-KILL"][..], &pids].concat());
    wait_for("their ends", || qhost.supervisors().is_empty().then_some(()));
    let began = Instant::now();
    qhost.run(&["ps"]).exits(0);
    let took = began.elapsed().as_secs_f64() * 1e3;
    let adopted = qhost.supervisors().len();
    println!(
        "adopting {adopted} VMs: {took:.0} ms, against {with_all:.0} ms of the same command with nothing to adopt"
    );
}

fn at_once(qhost: &Qhost, job: &str) {
    let began = Instant::now();
    qhost.run(&["run", "--detach", job]).exits(0);
    let one = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let runs: Vec<_> = (0..50).map(|_| qhost.start(&["run", "--detach", job])).collect();
    for run in runs {
        run.end().exits(0);
    }
    let all = began.elapsed().as_secs_f64();
    println!("50 starts at once: {all:.2} s, {:.2} of 50 one after the other", all / (50.0 * one));
    kill_all(qhost);
}

/// Lists a thousand VMs that go on, as far as their folders tell, against a thousand files read by cat.
fn listing(qhost: &Qhost, job: &str) {
    qhost.run(&["run", "--detach", job]).exits(0);
    let list = qhost.run(&["ps", "--json"]).exits(0).json();
    let real = PathBuf::from(list["vms"][0]["folder"].as_str().unwrap());
    let mut locks = vec![];
    for number in 0..999 {
        locks.push(copied(&real, &qhost.state().join(format!("vms/copy-{number:08}"))));
    }
    let times = |args: &[&str]| {
        let times = (0..21).map(|_| {
            let began = Instant::now();
            qhost.run(args).exits(0);
            began.elapsed().as_secs_f64() * 1e3
        });
        median(times.collect()).0
    };
    let (all, none) = (times(&["ps"]), times(&["job", "schema"]));
    println!(
        "ps over 1,000 VMs: {all:.1} ms, against {none:.1} ms of a command that looks at none"
    );
    drop(locks);
    for number in 0..999 {
        fs::remove_dir_all(qhost.state().join(format!("vms/copy-{number:08}"))).unwrap();
    }
    kill_all(qhost);
    std::thread::sleep(Duration::from_millis(10));
}

/// Copies the folder of a VM that runs, and holds the copy's lock.
fn copied(from: &Path, to: &Path) -> fs::File {
    fs::create_dir(to).unwrap();
    for name in ["status.json", "plan.json", "task.json"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let lock = fs::File::create(to.join("lock")).unwrap();
    lock.lock().unwrap();
    lock
}
