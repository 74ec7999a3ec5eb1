//! The supervisor as a victim: a flood costs QEMU itself, and requests come first.

use std::{fs, path::Path};

use serde_json::json;

use qhost_tests::wait_for;

use super::Caged;

fn has(controllers: &str, wanted: &str) -> bool {
    controllers.split(',').any(|controller| controller == wanted)
}

/// The rate at which the stand-in's output was taken, in a second.
fn rate(said: &str, deed: &str) -> u64 {
    let line = said.lines().find_map(|line| line.strip_prefix(&format!("{deed}: ")));
    let line = line.unwrap_or_else(|| panic!("{deed}: {said}"));
    line.split(' ').next().unwrap().parse().unwrap()
}

/// A flood of events, or of long lines, is taken in at a rate: the VM is looked at and killed as if there were none, and the record says
/// that it was killed.
#[test]
fn of_events_and_of_long_lines() {
    for deed in ["measure-events", "measure-long-lines"] {
        let caged = Caged::doing(&[deed], json!({}));
        let said = caged.said();
        let most = (qhost_vm::limits::QMP_RATE.per_second >> 10) * 2;
        assert!(rate(&said, deed) <= most, "{deed}: {} KiB a second", rate(&said, deed));
        let supervisor = caged.qhost.supervisors().remove(0);
        let status = fs::read_to_string(Path::new("/proc").join(supervisor).join("status"));
        let status = status.unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak < 64 << 10, "{deed}: the supervisor had {peak} KiB of memory");
        caged.qhost.run(&["stats"]).exits(0).says("test-");
        caged.qhost.run(&["ps"]).exits(0).says("running");
        caged.qhost.run(&["kill", "test"]).exits(0).says("QEMU had to be killed");
        let vm = caged.qhost.run(&["inspect", "--json", "test"]).exits(0).json();
        assert_eq!((&vm["state"], &vm["ended"]["by"]), (&json!("exited"), &json!("kill")), "{vm}");
    }
}

/// A flood that does not end ends the VM, with that reason.
#[test]
fn that_does_not_end() {
    let caged = Caged::doing(&["flood-events"], json!({}));
    let ended = caged.qhost.run(&["wait", "test"]).exits(20);
    ended.says("QEMU flooded its control socket: for 10 s it sent more than 256 KiB a second");
}

/// The console's log grows at a bounded rate, whatever writes to the console.
#[test]
fn of_the_console() {
    let caged = Caged::doing(&["measure-console"], json!({}));
    let said = caged.said();
    let last = said.lines().find(|line| line.contains("measure-console: ")).unwrap();
    let (_, last) = last.split_once("measure-console").unwrap();
    let most = (qhost_vm::limits::CONSOLE_RATE.per_second >> 10) * 2;
    let rate = rate(&format!("measure-console{last}"), "measure-console");
    assert!(rate <= most, "{rate} KiB a second");
}

/// A supervisor's work for its VM counts as the VM's.
#[test]
fn is_paid_for_by_the_vm() {
    let caged = Caged::doing(&[], json!({}));
    caged.said();
    let supervisor = caged.qhost.supervisors().remove(0);
    let vm = caged.qhost.vms().remove(0).file_name().unwrap().to_string_lossy().into_owned();
    let own = format!("/{vm}/supervisor");
    // Subscribers are told that the guest runs before the supervisor moves into the cgroup.
    wait_for("the supervisor to be in its VM's cgroup", || {
        let groups = fs::read_to_string(Path::new("/proc").join(&supervisor).join("cgroup"));
        let groups = groups.unwrap();
        let is_there = |controller: &str| {
            let of = |line: &&str| line.split(':').nth(1).is_some_and(|it| has(it, controller));
            let group =
                groups.lines().find(of).or_else(|| groups.lines().find(|it| it.starts_with("0::")));
            group.is_some_and(|group| group.ends_with(&own))
        };
        ["cpu", "memory", "pids"].into_iter().all(is_there).then_some(())
    });
    // Version 1 bounds memory and swap together, where the kernel counts swap.
    let memory = Path::new("/sys/fs/cgroup/memory/qhost/tenant-default").join(&vm);
    if let Ok(both) = fs::read_to_string(memory.join("memory.memsw.limit_in_bytes")) {
        let memory = fs::read_to_string(memory.join("memory.limit_in_bytes")).unwrap();
        assert_eq!(both, memory);
    }
}
