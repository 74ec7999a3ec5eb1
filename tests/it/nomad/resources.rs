//! The resources that Nomad sets aside for a task: its share of the CPUs, memory beyond the guest's, and the cgroup that it makes and
//! removes.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use qhost_nomad::proto::driver::{LinuxResources, TaskConfig};
use qhost_tests::{
    ImageServer,
    boot_sector::Then,
    nomad::{Plugin, Task, exit},
    wait_for,
};

use super::{configure, image, settings};
use crate::qhost;

/// A cgroup as an agent makes one: of version 2 below its slices with all controllers, of version 1 of CPU sets.
struct Scope(PathBuf);

impl Scope {
    fn make() -> Self {
        let unique = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("{unique}.web.scope");
        if !Self::is_v2() {
            let sets = root.join("cpuset");
            let scope = sets.join(name);
            fs::create_dir(&scope).unwrap();
            // The choice of its CPUs is left to the driver.
            let mems = "cpuset.mems";
            fs::write(scope.join(mems), fs::read(sets.join(mems)).unwrap()).unwrap();
            return Self(scope);
        }
        let slice = root.join("nomad.slice/share.slice");
        fs::create_dir_all(&slice).unwrap();
        for folder in [root, &root.join("nomad.slice"), &slice] {
            let control = folder.join("cgroup.subtree_control");
            fs::write(control, "+cpu +memory +pids").unwrap();
        }
        let scope = slice.join(name);
        fs::create_dir(&scope).unwrap();
        Self(scope)
    }

    fn is_v2() -> bool {
        Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    }

    /// Whether a process is in the group or below it.
    fn has(&self, pid: &str) -> bool {
        let name = self.0.file_name().unwrap().to_str().unwrap();
        let of = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        of.lines().any(|line| line.contains(name))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if self.0.exists() {
            let _removed = fs::remove_dir(&self.0);
        }
    }
}

fn with(mut task: Task, scope: &Path, shares: i64, memory_max_mb: i64) -> Task {
    let TaskConfig { resources, .. } = &mut task.config;
    let resources = resources.as_mut().unwrap();
    resources.linux_resources = Some(LinuxResources {
        cpu_shares: shares,
        cpuset_cgroup: scope.to_string_lossy().into_owned(),
        cpuset_cpus: "0".into(),
        ..LinuxResources::default()
    });
    let allocated = resources.allocated_resources.as_mut().unwrap();
    allocated.memory.as_mut().unwrap().memory_max_mb = memory_max_mb;
    task
}

#[test]
fn a_vm_is_in_the_cgroup_that_nomad_makes_and_is_gone_from_it_at_its_end() {
    // The supervisor goes on for a while after its VM's end is known.
    let qhost = qhost().env("QHOST_SLOW_AT", "stop.recorded=2000");
    let server = ImageServer::start();
    configure(&qhost, "");
    let plugin = Plugin::as_agent(&qhost, &settings(&qhost));
    let schema = plugin.task_schema();
    let config = image(&server, "up", Then::Hang);
    let scope = Scope::make();
    let task = with(Task::new(&qhost, &schema, "a1", &config), &scope.0, 500, 2048);
    plugin.start(&task.config).unwrap();
    let all = [qhost.qemus(), qhost.supervisors()].concat();
    assert_eq!(all.len(), 2);
    wait_for("both in the group", || all.iter().all(|pid| scope.has(pid)).then_some(()));
    // The VM has its share, and room beyond the guest's 32 MiB: at most as much again as QEMU needs.
    let most = qhost_cage::memory_bytes(32) * 2;
    let status = fs::read_to_string(format!("/proc/{}/cgroup", qhost.qemus()[0])).unwrap();
    let group = |controller: &str| {
        let of_it = |line: &&str| {
            line.split(':').nth(1).is_some_and(|all| all.split(',').any(|one| one == controller))
        };
        let line = status.lines().find(of_it).unwrap();
        let path = line.splitn(3, ':').nth(2).unwrap().trim_start_matches('/');
        Path::new("/sys/fs/cgroup").join(controller).join(path).parent().unwrap().to_owned()
    };
    let read = |folder: PathBuf, file: &str| fs::read_to_string(folder.join(file)).unwrap();
    let (shares, memory) = if Scope::is_v2() {
        let vm = qhost.vms()[0].file_name().unwrap().to_owned();
        (read(scope.0.clone(), "cpu.weight"), read(scope.0.join(vm), "memory.max"))
    } else {
        (read(group("cpu"), "cpu.shares"), read(group("memory"), "memory.limit_in_bytes"))
    };
    let expected = if Scope::is_v2() { "19" } else { "500" };
    assert_eq!((shares.trim(), memory.trim()), (expected, most.to_string().as_str()));
    let vm = qhost.vms()[0].file_name().unwrap().to_str().unwrap().to_owned();
    // The agent hears of the end and removes its group at once: a wait ends when the supervisor has left.
    plugin.signal(task.id(), "SIGKILL").unwrap();
    assert_eq!(exit(&plugin.wait(task.id()).unwrap()).exit_code, 0);
    fs::remove_dir(&scope.0).expect("nothing is left in it");
    plugin.destroy(task.id(), false).unwrap();
    // A folder that is no group is refused.
    let task = with(Task::new(&qhost, &schema, "a2", &config), Path::new("/etc"), 500, 0);
    let refused = plugin.start(&task.config).unwrap_err();
    assert!(refused.message().contains("/etc"), "{refused}");
    // An agent that may make no groups names those that it would make.
    let absent = Path::new("/sys/fs/cgroup/nomad.slice/share.slice/absent.web.scope");
    let task = with(Task::new(&qhost, &schema, "a3", &config), absent, 500, 0);
    plugin.start(&task.config).unwrap();
    plugin.destroy(task.id(), true).unwrap();
    // A VM that is started again is its tenant's, and not in the agent's group, even if qhost could still use that.
    qhost.run(&["restart", &vm]).exits(0);
    qhost.run(&["kill", &vm]).exits(0);
    plugin.leave();
    qhost.assert_nothing_left();
}
