//! The supervisor as a victim: what QEMU floods it with costs QEMU, and requests come first.

use std::{fs, path::Path};

use serde_json::json;

use super::Caged;

/// What was taken a second of what the stand-in sent.
fn rate(said: &str, deed: &str) -> u64 {
    let line = said.lines().find_map(|line| line.strip_prefix(&format!("{deed}: ")));
    let line = line.unwrap_or_else(|| panic!("{deed}: {said}"));
    line.split(' ').next().unwrap().parse().unwrap()
}

/// A flood of events, or of long lines: it is taken in at a rate, what runs is looked at and killed as if there were none, and the record
/// says that it was killed.
#[test]
fn of_events_and_of_long_lines() {
    for deed in ["measure-events", "measure-long-lines"] {
        let caged = Caged::doing(&[deed], json!({}));
        let said = caged.said();
        let most = (qhost_vm::limits::QMP_RATE.per_second >> 10) * 2;
        assert!(rate(&said, deed) <= most, "{deed}: {} KiB a second", rate(&said, deed));
        caged.qhost.run(&["stats"]).exits(0).says("test-");
        caged.qhost.run(&["ps"]).exits(0).says("running");
        caged.qhost.run(&["kill", "test"]).exits(0).says("QEMU had to be killed");
        let vm = caged.qhost.run(&["inspect", "--json", "test"]).exits(0).json();
        assert_eq!((&vm["state"], &vm["ended"]["by"]), (&json!("exited"), &json!("kill")), "{vm}");
    }
}

/// One that goes on and on ends the VM, with that reason.
#[test]
fn that_does_not_end() {
    let caged = Caged::doing(&["flood-events"], json!({}));
    let ended = caged.qhost.run(&["wait", "test"]).exits(20);
    ended.says("QEMU flooded its control socket: for 10 s it sent more than 256 KiB a second");
}

/// The console's log grows at a rate, whatever writes to it.
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

/// What a supervisor does for its VM counts as the VM's.
#[test]
fn is_paid_for_by_the_vm() {
    let caged = Caged::doing(&[], json!({}));
    caged.said();
    let supervisor = caged.qhost.supervisors().remove(0);
    let vm = caged.qhost.vms().remove(0).file_name().unwrap().to_string_lossy().into_owned();
    let groups = fs::read_to_string(Path::new("/proc").join(supervisor).join("cgroup")).unwrap();
    let bounded = groups.lines().find(|line| line.contains(":memory:"));
    let bounded = bounded.or_else(|| groups.lines().find(|line| line.starts_with("0::")));
    assert!(bounded.unwrap().ends_with(&format!("/{vm}/supervisor")), "{groups}");
    // Version 1 bounds memory and swap together, where the kernel counts swap.
    let memory = Path::new("/sys/fs/cgroup/memory/qhost/tenant-default").join(&vm);
    if let Ok(both) = fs::read_to_string(memory.join("memory.memsw.limit_in_bytes")) {
        let memory = fs::read_to_string(memory.join("memory.limit_in_bytes")).unwrap();
        assert_eq!(both, memory);
    }
}
