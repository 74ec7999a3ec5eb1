//! The VMs of this host, as their folders tell.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use jiff::Timestamp;
use rustix::process::Signal;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use qhost_cage::Cage;
use qhost_model::{
    digest::Sha256, host_facts::Resources, job::Task, launch::Forward, quota::Usage,
};
use qhost_sys::state::StateDir;

use super::{
    Reader, State, Status, VmError, console,
    dir::remove_leftovers,
    error::io_error,
    events::Event,
    files::CONTROL_SOCKET,
    lock::{LOCK, is_abandoned, lock_all},
    records::{RESERVED, STATUS, TASK, is_id, name_of, read_record, read_reservation, read_status},
    reservation::Reservation,
    spec::{PLAN, Spec},
};

/// A VM, as far as its folder tells.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct VmRecord {
    /// Its id.
    pub id: String,
    /// Its folder.
    pub folder: PathBuf,
    /// The task's name.
    pub task: String,
    /// The job's name.
    pub job: String,
    /// Whose it is.
    pub tenant: String,
    /// How it is doing.
    #[serde(flatten)]
    pub status: Status,
    /// What it takes of the host; absent until it is about to start.
    #[serde(default, skip_serializing_if = "Takes::is_none")]
    #[schemars(with = "Option<Allocation>")]
    pub takes: Takes,
    /// What is reserved for it.
    pub reserved: Usage,
    /// The id of the operation of the API that it was started by; absent of another door's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Whether a supervisor, or the run that makes it, holds its lock.
    #[serde(skip)]
    pub held: bool,
}

/// What a VM takes of the host, read from `plan.json` when it is first asked for: the file is written once, and a list of a thousand VMs
/// asks this of few.
#[derive(Debug, Default)]
pub struct Takes {
    folder: PathBuf,
    read: OnceLock<Option<Allocation>>,
}

impl Takes {
    fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), read: OnceLock::new() }
    }

    /// What the VM takes; absent until the VM is about to start.
    pub fn get(&self) -> Option<&Allocation> {
        self.read.get_or_init(|| read_record(&self.folder.join(PLAN))).as_ref()
    }

    fn is_none(&self) -> bool {
        self.get().is_none()
    }
}

impl Serialize for Takes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.get().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Takes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let told = Option::deserialize(deserializer)?;
        Ok(Self { folder: PathBuf::new(), read: OnceLock::from(told) })
    }
}

/// What a VM takes of the host, of `plan.json`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Allocation {
    /// CPUs and memory.
    pub resources: Resources,
    /// Its forwarded ports.
    pub forwards: Vec<Forward>,
    /// The image that it runs from; absent of an earlier version.
    image: Option<Image>,
    /// The disks beside the root disk.
    #[serde(default, skip_serializing)]
    disks: Vec<DiskWithImage>,
    /// What its QEMU is kept in; absent of an earlier version.
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub cage: Option<Cage>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Image {
    sha256: Sha256,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct DiskWithImage {
    #[serde(default)]
    image: Option<Image>,
}

impl Allocation {
    /// The digests of all images that the VM has open.
    pub fn images(&self) -> BTreeSet<Sha256> {
        let disks = self.disks.iter().filter_map(|disk| disk.image.as_ref());
        self.image.iter().chain(disks).map(|image| image.sha256).collect()
    }

    /// The image's digest.
    pub fn image(&self) -> Option<Sha256> {
        self.image.as_ref().map(|image| image.sha256)
    }
}

impl VmRecord {
    /// Reads a folder's VM. A folder whose records cannot be read, or are an earlier version's, is a VM all the same.
    fn read(path: &Path) -> Self {
        let mut status = read_status(path);
        // The lock of a VM that has ended need not be looked at.
        let held = !status.state().is_final() && !is_abandoned(path);
        // The status was read before the lock was seen to be free, and the VM may have ended in between.
        if !held && !status.state().is_final() {
            status = read_record(&path.join(STATUS)).unwrap_or(status);
        }
        Self::known(path, Known { status, held })
    }

    fn known(path: &Path, Known { mut status, held }: Known) -> Self {
        // No recovery has run since the supervisor and QEMU ended, which would have recorded that the VM is lost.
        if !held && !status.qemu_lives() {
            status.enter(State::Lost, Some(status.why_lost().into()));
        }
        let plan = Takes::of(path);
        let reserved = status.reservation.take();
        let reserved =
            reserved.or_else(|| read_record(&path.join(RESERVED))).unwrap_or_else(|| {
                let task: Option<Task> = read_record(&path.join(TASK));
                let takes = plan.get();
                let cpus = takes.map_or(0, |takes| takes.resources.cpus.into());
                let memory_mib = takes.map_or(0, |takes| takes.resources.memory_mib.into());
                let ports = takes.map_or(0, |takes| takes.forwards.len() as u64);
                let name = |of: fn(Task) -> String| task.clone().map(of).unwrap_or_default();
                Reservation {
                    tenant: name(|task| task.tenant),
                    job: name(|task| task.job),
                    task: name(|task| task.name),
                    takes: Usage { vms: 1, cpus, memory_mib, disk_bytes: 0, ports },
                    operation: None,
                }
            });
        Self {
            id: name_of(path),
            folder: path.to_owned(),
            task: reserved.task,
            job: reserved.job,
            tenant: reserved.tenant,
            status,
            takes: plan,
            reserved: reserved.takes,
            operation: reserved.operation,
            held,
        }
    }

    /// The VM of a folder.
    pub fn at(folder: &Path) -> Self {
        Self::read(folder)
    }

    /// The task that was asked for, without its secrets.
    pub fn asked(&self) -> Option<Task> {
        read_record(&self.folder.join(TASK))
    }

    /// Whether the job's `meta` has this key with this value.
    pub fn has_meta(&self, key: &str, value: &str) -> bool {
        self.asked().is_some_and(|task| task.meta.get(key).is_some_and(|found| found == value))
    }

    /// The guest's console log.
    pub fn console_log(&self) -> PathBuf {
        console::log(&self.folder)
    }

    /// A reader of the guest's console log.
    pub fn console(&self, since: Option<Timestamp>) -> Reader {
        Reader::new(&self.folder, since)
    }

    /// Whether the VM is over: its state is final, and its supervisor has cleaned up.
    pub fn is_over(&self) -> bool {
        self.status.state().is_final() && is_abandoned(&self.folder)
    }

    /// What is known of a VM whose folder has gone.
    pub fn gone(mut self) -> Self {
        self.held = false;
        self.status.enter(State::Lost, Some("it never ran, or was removed since it ended".into()));
        self
    }

    /// The event of a request that will be carried out.
    pub fn requested(&self, request: &str, actor: &str) -> Event {
        Event {
            at: Timestamp::now(),
            vm: self.id.clone(),
            task: self.task.clone(),
            tenant: self.tenant.clone(),
            event: "requested".into(),
            request: Some(request.into()),
            actor: Some(actor.into()),
            by: None,
            reason: None,
        }
    }

    /// Reads the VM's records again; nothing if the VM was removed meanwhile.
    pub fn again(&self) -> Option<Self> {
        self.folder.exists().then(|| Self::read(&self.folder))
    }

    /// Stops the VM by a signal to its supervisor, or to the run that makes the VM; both hear signals at any time. A process that the
    /// record names is sent no signal unless it has the VM's lock open. Gives whether a signal was sent.
    pub fn signal_to_stop(&self) -> bool {
        let lock = self.folder.join(LOCK);
        let supervisor = self.status.supervisor.as_ref();
        let supervisor = supervisor.filter(|process| process.has_open(&lock));
        let sent = supervisor.is_some_and(|supervisor| supervisor.signal(Signal::TERM));
        if !sent {
            tracing::info!(vm = self.id, "no supervisor was there to be asked");
        }
        sent
    }

    /// Kills the VM's QEMU, for a supervisor that does not answer. Gives false if QEMU is gone, or the records contradict each other.
    pub fn kill_qemu(&self) -> bool {
        let spec = Spec::read(&self.folder);
        let qemu = self.status.qemu.as_ref();
        let qemu = qemu.filter(|qemu| spec.is_ok_and(|spec| spec.can_be(qemu)));
        qemu.is_some_and(|qemu| qemu.signal(Signal::KILL))
    }

    /// Removes what is left of an ended VM. Gives false if the VM has not ended.
    pub fn remove(&self, state: &StateDir) -> Result<bool, VmError> {
        let _all = lock_all(&state.vms())?;
        if is_over(&self.folder) {
            remove_leftovers(&self.folder)
                .and_then(|()| fs::remove_dir_all(&self.folder))
                .map(|()| true)
                .map_err(io_error("remove", &self.folder))
        } else {
            Ok(false)
        }
    }
}

/// The tenant of a folder's VM; empty where it cannot be read.
pub fn tenant_of(path: &Path) -> String {
    let reserved = read_reservation(path).map(|reserved| reserved.tenant);
    // A VM that an early version made has no reservation.
    let task = || read_record(&path.join(TASK)).map(|task: Task| task.tenant);
    reserved.or_else(task).unwrap_or_default()
}

/// The folders of VMs. A folder whose name is no VM's id is left alone.
pub fn folders(vms: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(vms).into_iter().flatten().flatten();
    let is_vm = |entry: &fs::DirEntry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        is_folder && entry.file_name().to_str().is_some_and(is_id)
    };
    entries.filter(is_vm).map(|entry| entry.path())
}

/// Whether a folder's VM has ended in whatever way: the VM has no supervisor, and QEMU is gone.
pub(super) fn is_over(path: &Path) -> bool {
    let lives = |status: Status| status.qemu_lives();
    is_abandoned(path) && !read_record(&path.join(STATUS)).is_some_and(lives)
}

/// The result of one scan of all VMs' folders.
#[derive(Debug, Default)]
pub struct Scan {
    /// What is known of the VMs that need no recovery, by their folders. A list is made from this, so that no status is read twice.
    known: HashMap<PathBuf, Known>,
    /// The folders of VMs that have no supervisor, and of which something is left to end or to remove.
    pub abandoned: Vec<PathBuf>,
}

/// What is known of a VM.
#[derive(Debug)]
struct Known {
    status: Status,
    /// Whether a supervisor, or the run that makes the VM, holds its lock.
    held: bool,
}

/// Scans all VMs' folders.
pub fn scan(state: &StateDir) -> Scan {
    let mut scan = Scan::default();
    for path in folders(&state.vms()) {
        let status: Option<Status> = read_record(&path.join(STATUS));
        let ended = status.as_ref().is_some_and(|status| status.state().is_final());
        // When a VM has ended, its control socket is the last thing that is removed.
        let is_done = ended && !path.join(CONTROL_SOCKET).exists();
        if !is_done && is_abandoned(&path) {
            scan.abandoned.push(path);
        } else if let Some(status) = status {
            scan.known.insert(path, Known { status, held: !ended });
        }
    }
    scan
}

impl Scan {
    /// All VMs, running and ended, the latest first.
    pub fn list(self, state: &StateDir) -> Vec<VmRecord> {
        self.records(state, |_| true)
    }

    /// The VMs that are not over, the latest first.
    pub fn going_on(self, state: &StateDir) -> Vec<VmRecord> {
        let goes_on = |known: &Known| !known.status.state().is_final();
        let mut vms = self.records(state, goes_on);
        vms.retain(|vm| !vm.status.state().is_final());
        vms
    }

    fn records(mut self, state: &StateDir, wanted: impl Fn(&Known) -> bool) -> Vec<VmRecord> {
        let mut vms = vec![];
        for path in folders(&state.vms()) {
            let known = self.known.remove(&path);
            if known.as_ref().is_none_or(&wanted) {
                vms.push((path, known));
            }
        }
        let read = |(path, known): (PathBuf, Option<Known>)| match known {
            Some(known) => VmRecord::known(&path, known),
            None => VmRecord::read(&path),
        };
        latest_first(vms.into_iter().map(read).collect())
    }
}

fn latest_first(mut vms: Vec<VmRecord>) -> Vec<VmRecord> {
    vms.sort_by_key(|vm| std::cmp::Reverse(vm.status.changes().first().map(|change| change.at)));
    vms
}

/// The VMs that use resources of this host now: each has a supervisor, or a QEMU that runs.
pub fn running(state: &StateDir) -> Vec<VmRecord> {
    let takes = |path: &PathBuf| !is_over(path);
    folders(&state.vms()).filter(takes).map(|path| VmRecord::read(&path)).collect()
}
