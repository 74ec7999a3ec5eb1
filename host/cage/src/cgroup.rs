//! Control groups (cgroups(7)): what a VM may take of the host's CPUs, memory and processes. They are of version 2, or of version 1 where
//! the controllers are there. Each tenant has a group, so that tenants share the CPUs alike, however many VMs and commands one has. Below
//! the tenant's group is a group for each of its VMs, and one for the commands that qhost runs for the tenant; with version 2, a VM for
//! which a scheduler has made a group has its own below the scheduler's. A VM's group lives as long as the VM, and has below it one for
//! QEMU and one for the supervisor, whose work counts as the VM's. Starts have a group beside the tenants' (`starts.rs`).

mod starts;
pub(crate) mod threads;

use std::{
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    CageError,
    hierarchy::{self, At, CONTROLLERS, has},
    scheduler::{SchedulerGroup, weight},
};
use crate::limits;

/// QEMU's group, below its VM's.
pub(super) const QEMU: &str = "qemu";
/// A supervisor's group, below its VM's.
const SUPERVISOR: &str = "supervisor";
/// A group beside the VMs': supervisors whose VMs are over are in it until they end.
const ENDING: &str = "supervisors";
/// A group beside the VMs': what qhost does for the tenant before there is a VM.
const COMMANDS: &str = "commands";

/// The group of a tenant, below the group that the configuration names.
pub(super) fn of_tenant(group: &Path, tenant: &str) -> PathBuf {
    group.join(format!("tenant-{tenant}"))
}

/// A tenant's group, below which each VM gets one, and what one VM may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// The tenant's folder; with version 1, one for each controller.
    at: At,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// CPU time in percent of one CPU.
    pub cpu_percent: u64,
    /// Processes and threads.
    pub pids: u64,
    /// The VM's weight where CPUs are short, as version 1 counts it; absent where all VMs of the tenant weigh alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cpu_shares: Option<u64>,
    /// A scheduler's group that the VM is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scheduler: Option<SchedulerGroup>,
}

/// What a group has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Memory now, in bytes.
    pub memory_bytes: Option<u64>,
    /// Its most so far.
    pub memory_peak_bytes: Option<u64>,
    /// How often the kernel killed it for taking more than it may.
    pub oom_kills: Option<u64>,
}

impl fmt::Display for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::V2 { group, .. } => write!(f, "version 2 at {}", group.display()),
            At::V1([cpu, ..]) => write!(f, "version 1 at {} and beside it", cpu.display()),
        }
    }
}

impl Cgroup {
    /// The version and place that this host has for a group, if it can be used.
    pub fn find(group: &Path) -> Option<Self> {
        let at = hierarchy::find(group)?;
        Some(Self {
            at,
            memory_bytes: 0,
            cpu_percent: 0,
            pids: 0,
            cpu_shares: None,
            scheduler: None,
        })
    }

    /// The group of a tenant, below this one.
    pub(super) fn of_tenant(mut self, tenant: &str) -> Self {
        match &mut self.at {
            At::V2 { group, .. } => *group = of_tenant(group, tenant),
            At::V1(folders) => {
                folders.iter_mut().for_each(|folder| *folder = of_tenant(folder, tenant))
            }
        }
        self
    }

    /// Makes a VM's group and those below it, if they are not there, sets the VM's bounds, and moves this process to QEMU's group.
    pub(super) fn enter(&self, vm: &str) -> Result<(), CageError> {
        let failed = CageError::at::<io::Error>("making a cgroup and moving there");
        self.prepare().map_err(&failed)?;
        for (folder, bounds) in self.bounds() {
            let group = folder.join(vm);
            create(&group).map_err(&failed)?;
            set(&group, bounds).map_err(&failed)?;
        }
        if let At::V2 { group, .. } = &self.at {
            let group = self.parent_v2(group).join(vm);
            pass_on(&group, &["cpu", "memory"]).map_err(&failed)?;
        }
        for (folder, shares) in self.shares() {
            let group = folder.join(vm).join(QEMU);
            create(&group).map_err(&failed)?;
            set(&group, shares).map_err(&failed)?;
        }
        self.enter_group(&Path::new(vm).join(QEMU)).map_err(failed)
    }

    /// Moves this process, a VM's supervisor, to the supervisor's group below the VM's, which has more CPU weight than QEMU's beside it.
    pub(super) fn enter_supervisor(&self, vm: &str) -> io::Result<()> {
        let below = Path::new(vm).join(SUPERVISOR);
        for folder in self.parents() {
            create(&folder.join(&below))?;
        }
        let (file, weight) = self.cpu_weight(limits::SUPERVISOR_WEIGHT);
        if let Some(first) = self.parents().first() {
            // The file is missing below a VM's group that an earlier qhost made, since that group does not pass on the controller.
            set(&first.join(&below), vec![Bound::if_there(file, weight)])?;
        }
        self.enter_group(&below)
    }

    /// The file of a group's CPU weight, and the file's value for a weight that is counted as version 2 counts it, where a group has 100 by
    /// default.
    fn cpu_weight(&self, weight: u64) -> (&'static str, String) {
        match &self.at {
            At::V2 { .. } => ("cpu.weight", weight.to_string()),
            At::V1(_) => ("cpu.shares", (weight * 1024 / 100).to_string()),
        }
    }

    /// Moves this process to a group below the VMs' parent, and with version 1 to the scheduler's group too.
    fn enter_group(&self, below: &Path) -> io::Result<()> {
        self.parents().into_iter().try_for_each(|folder| self.join_in(folder, below))?;
        match &self.scheduler {
            Some(group) if !group.is_v2 => {
                let cpus = group.folder.join("cpuset.cpus");
                let is_unset = fs::read_to_string(&cpus).is_ok_and(|now| now.trim().is_empty());
                // A group without CPUs takes no process; a group that the scheduler shares among its tasks has some.
                if is_unset && !group.cpus.is_empty() {
                    write(&cpus, &group.cpus)?;
                }
                write(&group.folder.join("tasks"), "0")
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Moves this process to the tenant's commands. With version 1 the process moves for CPU time alone, and must have one thread: other
    /// threads would stay where they are.
    pub(super) fn enter_command(&self) -> io::Result<()> {
        self.prepare()?;
        create(&self.counts_cpu().join(COMMANDS))?;
        self.join_in(self.counts_cpu(), Path::new(COMMANDS))
    }

    /// The tenant's folder where CPU time is counted.
    fn counts_cpu(&self) -> &Path {
        match &self.at {
            At::V2 { group, .. } => group,
            At::V1([cpu, ..]) => cpu,
        }
    }

    /// Moves this process, a VM's supervisor, out of the VM's group, which can then be removed.
    pub(super) fn leave(&self) -> io::Result<()> {
        self.folders().into_iter().try_for_each(|folder| create(&folder.join(ENDING)))?;
        let ending = Path::new(ENDING);
        self.folders().into_iter().try_for_each(|folder| self.join_in(folder, ending))?;
        match &self.scheduler {
            Some(group) if !group.is_v2 => write(&group.root.join("tasks"), "0"),
            Some(_) | None => Ok(()),
        }
    }

    /// Moves this process, which has one thread. To move a whole process, the kernel takes a lock that all processes of the
    /// host share, some 15 ms; version 1 can move the thread alone, without that lock.
    fn join_in(&self, folder: &Path, below: &Path) -> io::Result<()> {
        let joining = match &self.at {
            At::V2 { .. } => "cgroup.procs",
            At::V1(_) => "tasks",
        };
        write(&folder.join(below).join(joining), "0")
    }

    /// Makes the groups' parent, and with version 2 enables the controllers on the way there.
    fn prepare(&self) -> io::Result<()> {
        let At::V2 { root, group } = &self.at else {
            return self.folders().into_iter().try_for_each(fs::create_dir_all);
        };
        fs::create_dir_all(group)?;
        let below = group.strip_prefix(root).unwrap_or(group);
        let ways = below.ancestors().map(|part| root.join(part)).collect::<Vec<_>>();
        let all = [&CONTROLLERS[..], &["io"]].concat();
        ways.into_iter().rev().try_for_each(|folder| pass_on(&folder, &all))?;
        let Some(group) = self.scheduler.as_ref().filter(|group| group.is_v2) else {
            return Ok(());
        };
        if let Some(shares) = self.cpu_shares {
            // The VM's group is the only one below the scheduler's, so that the scheduler's is what weighs against other groups.
            set(&group.folder, vec![Bound::if_there("cpu.weight", weight(shares).to_string())])?;
        }
        if !group.cpus.is_empty() {
            set(&group.folder, vec![Bound::if_there("cpuset.cpus", group.cpus.clone())])?;
        }
        pass_on(&group.folder, &all)
    }

    /// The folders in which VMs have their groups, one in each hierarchy.
    fn parents(&self) -> Vec<&PathBuf> {
        match &self.at {
            At::V2 { group, .. } => vec![self.parent_v2(group)],
            At::V1(folders) => folders.iter().collect(),
        }
    }

    fn parent_v2<'a>(&'a self, of_tenant: &'a PathBuf) -> &'a PathBuf {
        let scheduler = self.scheduler.as_ref().filter(|group| group.is_v2);
        scheduler.map_or(of_tenant, |group| &group.folder)
    }

    fn folders(&self) -> Vec<&PathBuf> {
        match &self.at {
            At::V2 { group, .. } => vec![group],
            At::V1(folders) => folders.iter().collect(),
        }
    }

    /// What is written to a VM's group, in each hierarchy.
    fn bounds(&self) -> Vec<(&PathBuf, Vec<Bound>)> {
        let period = limits::CGROUP_PERIOD_US;
        let quota = self.cpu_percent.saturating_mul(period) / 100;
        let (memory, pids) = (self.memory_bytes.to_string(), self.pids.to_string());
        let weighed = |file, count: fn(u64) -> u64| {
            self.cpu_shares.map(|shares| Bound::if_there(file, count(shares).to_string()))
        };
        match &self.at {
            At::V2 { group, .. } => vec![(
                self.parent_v2(group),
                [
                    Bound::needed("cpu.max", format!("{quota} {period}")),
                    Bound::needed("memory.max", memory),
                    // A guest's memory on a disk that the guest shares with others would be slow for all.
                    Bound::if_there("memory.swap.max", "0"),
                    Bound::needed("pids.max", pids),
                    // Each VM gets as much of the disk as every other VM.
                    Bound::if_there("io.weight", "100"),
                ]
                .into_iter()
                .chain(weighed("cpu.weight", weight))
                .collect(),
            )],
            At::V1([cpu, memory_folder, pids_folder]) => vec![
                (
                    cpu,
                    [
                        Bound::needed("cpu.cfs_period_us", period.to_string()),
                        Bound::needed("cpu.cfs_quota_us", quota.to_string()),
                    ]
                    .into_iter()
                    .chain(weighed("cpu.shares", |shares| shares))
                    .collect(),
                ),
                (
                    memory_folder,
                    vec![
                        // Before Linux 5.11, a group counts the groups below it only where this is set.
                        Bound::if_there("memory.use_hierarchy", "1"),
                        Bound::needed("memory.limit_in_bytes", memory.clone()),
                        // Memory and swap together, so that there is no swap. Only kernels that count swap have this file.
                        Bound::if_there("memory.memsw.limit_in_bytes", memory),
                        Bound::if_there("memory.swappiness", "0"),
                    ],
                ),
                (pids_folder, vec![Bound::needed("pids.max", pids)]),
            ],
        }
    }

    /// What is written to QEMU's group, in each hierarchy.
    fn shares(&self) -> Vec<(&PathBuf, Vec<Bound>)> {
        match &self.at {
            // When QEMU runs out of memory, all of it is killed, and the supervisor goes on to say why.
            At::V2 { group, .. } => {
                vec![(self.parent_v2(group), vec![Bound::if_there("memory.oom.group", "1")])]
            }
            At::V1(folders) => folders.iter().map(|folder| (folder, vec![])).collect(),
        }
    }

    /// Removes a VM's group and those below it.
    pub(super) fn remove(&self, vm: &str) -> io::Result<()> {
        self.parents().into_iter().try_for_each(|folder| remove_with(&folder.join(vm)))
    }

    /// What a VM's group has used.
    pub(super) fn usage(&self, vm: &str) -> Usage {
        let read = |folder: &Path, file: &str| fs::read_to_string(folder.join(vm).join(file)).ok();
        // Version 1 counts kills in the group where they happen. A VM that an earlier qhost started has no group below its own.
        let killed = |folder: &Path| {
            let below = Path::new(QEMU).join("memory.oom_control");
            read(folder, &below.to_string_lossy()).or_else(|| read(folder, "memory.oom_control"))
        };
        let number = |text: Option<String>| text.and_then(|text| text.trim().parse().ok());
        let kills = |text: Option<String>| {
            text?.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
        };
        match &self.at {
            At::V2 { group, .. } => {
                let group = self.parent_v2(group);
                Usage {
                    memory_bytes: number(read(group, "memory.current")),
                    memory_peak_bytes: number(read(group, "memory.peak")),
                    oom_kills: kills(read(group, "memory.events")),
                }
            }
            At::V1([_, memory, _]) => Usage {
                memory_bytes: number(read(memory, "memory.usage_in_bytes")),
                memory_peak_bytes: number(read(memory, "memory.max_usage_in_bytes")),
                oom_kills: kills(killed(memory)),
            },
        }
    }
}

/// A value that is written to a file of a group.
struct Bound {
    file: &'static str,
    value: String,
    /// Whether it is an error if the group has no such file.
    needed: bool,
}

impl Bound {
    fn needed(file: &'static str, value: String) -> Self {
        Self { file, value, needed: true }
    }

    fn if_there(file: &'static str, value: impl Into<String>) -> Self {
        Self { file, value: value.into(), needed: false }
    }
}

fn set(group: &Path, bounds: Vec<Bound>) -> io::Result<()> {
    for Bound { file, value, needed } in bounds {
        match write(&group.join(file), &value) {
            Err(error) if needed || error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Makes a group, if it is not there.
fn create(group: &Path) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Enables controllers for the groups below a group of version 2. `io`, the controller of disks, need not be present.
fn pass_on(folder: &Path, controllers: &[&str]) -> io::Result<()> {
    let control = folder.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&control)?;
    for controller in controllers.iter().filter(|one| !has(&enabled, one)) {
        match write(&control, &format!("+{controller}")) {
            Err(error) if *controller != "io" => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Removes a VM's group, with those below it.
pub(super) fn remove_with(group: &Path) -> io::Result<()> {
    [QEMU, SUPERVISOR].iter().try_for_each(|below| remove(&group.join(below)))?;
    remove(group)
}

/// Removes a group, if it is there; it may take a moment until the kernel has let the last process go.
pub(super) fn remove(group: &Path) -> io::Result<()> {
    let mut tries = 0;
    while let Err(error) = fs::remove_dir(group) {
        if error.kind() == io::ErrorKind::NotFound {
            break;
        }
        if error.kind() != io::ErrorKind::ResourceBusy || tries >= limits::CGROUP_TRIES {
            return Err(error);
        }
        tries += 1;
        thread::sleep(qhost_sys::limits::LOCK_POLL);
    }
    Ok(())
}

/// Moves this process into a group of version 2.
pub(super) fn join(group: &Path) -> io::Result<()> {
    write(&group.join("cgroup.procs"), "0")
}

/// Writes to a file that the kernel has put there, and makes none that is missing.
fn write(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write as _;
    File::options().write(true).open(path)?.write_all(value.as_bytes())
}
