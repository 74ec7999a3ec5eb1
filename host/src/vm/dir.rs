//! A VM's folder, `vms/<id>/`, and its lock, held for as long as somebody looks after the VM.
//!
//! A folder whose lock is free belongs to nobody: its VM has ended, or its supervisor was killed, and QEMU with it
//! (see `launcher`). The next run sweeps what such a folder still has of sockets and overlays, and removes
//! the oldest.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Amounts, State, Status, VmError, Whose};
use crate::{
    config::Quota,
    digest::Sha256,
    job::{Resources, Task},
    limits,
    qemu::{Forward, OVERLAY, QMP_SOCKET},
    state::{self, StateDir},
};

const LOCK: &str = "lock";
const PLAN: &str = "plan.json";
const STATUS: &str = "status.json";
const CONSOLE: &str = "console.log";
const TASK: &str = "task.json";
const RESERVED: &str = "reserved.json";

/// The folder of a VM that this process looks after. Dropped before a launch, it is removed.
#[derive(Debug)]
pub struct VmDir {
    path: PathBuf,
    id: String,
    /// Held until dropped.
    _lock: File,
    launched: bool,
    status: Status,
}

impl VmDir {
    /// Makes a folder for a task, under an id that starts with something like its name, and reserves what it takes: not
    /// beyond the quotas of all and of its tenant.
    pub fn create(
        state: &StateDir,
        task: &Task,
        takes: Amounts,
        (all, own): (Quota, Quota),
    ) -> Result<Self, VmError> {
        let vms = state.vms();
        state::create_private(&vms).map_err(folder("create", &vms))?;
        let all_folders = lock_all(&vms)?;
        sweep(&vms);
        let running = running(state);
        let sum = |whose: Whose<'_>| {
            let taken = running.iter().filter(|vm| match whose {
                Whose::Host => true,
                Whose::Tenant(tenant) => vm.tenant == tenant,
            });
            taken.fold(Amounts::default(), |sum, vm| sum + vm.reserved)
        };
        for (whose, quota) in [(Whose::Host, all), (Whose::Tenant(&task.tenant), own)] {
            quota.admits(whose, sum(whose), takes)?;
        }
        let made = tempfile::Builder::new()
            .prefix(&format!("{}-", slug(&task.name)))
            .rand_bytes(8)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&vms)
            .map_err(folder("create a folder in", &vms))?;
        let lock_path = made.path().join(LOCK);
        let lock = File::create_new(&lock_path).map_err(folder("create", &lock_path))?;
        lock.lock().map_err(folder("lock", &lock_path))?;
        let path = made.keep();
        let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dir = Self { path, id, _lock: lock, launched: false, status: Status::new() };
        let reserved = dir.write(RESERVED, &Reserved { tenant: task.tenant.clone(), takes });
        // What counts is written; whoever waits for the lock need not wait for the rest.
        drop(all_folders);
        reserved?;
        dir.write(TASK, task)?;
        dir.write(STATUS, &dir.status)?;
        Ok(dir)
    }

    /// The VM's id: the folder's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The guest's console log.
    pub fn console_log(&self) -> PathBuf {
        self.path.join(CONSOLE)
    }

    /// Writes one of the VM's records.
    pub(super) fn write(&self, name: &str, record: &impl Serialize) -> Result<(), VmError> {
        let path = self.path.join(name);
        serde_json::to_vec_pretty(record)
            .map_err(io::Error::other)
            .and_then(|bytes| state::write_whole(&path, &bytes))
            .map_err(folder("write", &path))
    }

    /// Goes on to a state and writes that down. On a full disk it is not written, and the VM goes on all the same.
    pub fn enter(&mut self, state: State, reason: Option<String>) {
        self.enter_with(state, reason, |_| {});
    }

    pub(super) fn enter_with(
        &mut self,
        state: State,
        reason: Option<String>,
        note: impl FnOnce(&mut Status),
    ) {
        if !self.status.enter(state, reason) {
            tracing::debug!(vm = self.id, ?state, "no state to go on to");
            return;
        }
        note(&mut self.status);
        if let Err(error) = self.write(STATUS, &self.status) {
            tracing::warn!(%error, "the VM's status was not written");
        }
    }

    /// Writes the plan, which also tells other runs what this VM takes.
    pub(super) fn write_plan(&self, plan: &Value) -> Result<(), VmError> {
        self.write(PLAN, plan)
    }

    /// From here on the folder stays, for reading.
    pub(super) fn launched(&mut self) {
        self.launched = true;
    }
}

impl Drop for VmDir {
    fn drop(&mut self) {
        let removed = match self.launched {
            true => remove_leftovers(&self.path),
            false => {
                // Nobody is to see it half gone; without the lock of all it still goes.
                let _all = self.path.parent().map(lock_all);
                fs::remove_dir_all(&self.path)
            }
        };
        if let Err(error) = removed {
            tracing::warn!(path = %self.path.display(), %error, "cannot clean up the VM's folder");
        }
    }
}

pub(super) fn folder(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VmError {
    let path = path.to_owned();
    move |source| VmError::Folder { doing, path, source }
}

/// Held for the moment in which folders are made or swept, so that neither sees the other half done.
fn lock_all(vms: &Path) -> Result<File, VmError> {
    let path = vms.join(".lock");
    state::lock(&path).map_err(folder("lock", &path))
}

/// Letters and digits of a name, for an id that people recognise and that needs no quoting anywhere.
pub(super) fn slug(name: &str) -> String {
    let kept =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    let slug: String = kept.take(24).collect();
    match slug.trim_matches('-') {
        "" => "vm".into(),
        slug => slug.to_owned(),
    }
}

fn folders(vms: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(vms).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir())
}

/// Whether nobody looks after a folder's VM.
fn is_abandoned(path: &Path) -> bool {
    !state::is_held(&path.join(LOCK))
}

/// Removes what killed runs left, and the oldest folders of ended VMs. Best done, never in the way.
fn sweep(vms: &Path) {
    let mut ended: Vec<(SystemTime, PathBuf)> = vec![];
    for path in folders(vms).filter(|path| is_abandoned(path)) {
        if let Err(error) = remove_leftovers(&path).and_then(|()| mark_lost(&path)) {
            tracing::warn!(path = %path.display(), %error, "cannot sweep an ended VM's folder");
        }
        let modified = fs::metadata(&path).and_then(|folder| folder.modified());
        ended.push((modified.unwrap_or(SystemTime::UNIX_EPOCH), path));
    }
    ended.sort();
    let excess = ended.len().saturating_sub(limits::ENDED_VMS);
    for (_, path) in ended.into_iter().take(excess) {
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove an ended VM's folder");
        }
    }
}

/// Tells the truth about a VM whose supervisor was killed: its record still says that it goes on.
fn mark_lost(path: &Path) -> io::Result<()> {
    let Some(mut status) = read_record::<Status>(&path.join(STATUS)) else { return Ok(()) };
    match status.enter(State::Lost, Some(LOST.into())) {
        true => state::write_whole(&path.join(STATUS), &serde_json::to_vec_pretty(&status)?),
        false => Ok(()),
    }
}

const LOST: &str = "whoever looked after it was killed";

fn remove_leftovers(path: &Path) -> io::Result<()> {
    for name in [OVERLAY, QMP_SOCKET] {
        match fs::remove_file(path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// A VM, as far as its folder tells.
#[derive(Debug, Serialize)]
pub struct Vm {
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub takes: Option<Takes>,
    /// What is reserved for it.
    pub reserved: Amounts,
    /// Whether somebody looks after it.
    #[serde(skip)]
    pub held: bool,
}

/// What a VM takes of the host, of `plan.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Takes {
    /// CPUs and memory.
    pub resources: Resources,
    /// Its forwarded ports.
    pub forwards: Vec<Forward>,
    /// The image that it runs from; absent of an earlier version.
    image: Option<ImageOf>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ImageOf {
    sha256: Sha256,
}

impl Takes {
    /// The image's digest.
    pub fn image(&self) -> Option<Sha256> {
        self.image.as_ref().map(|image| image.sha256)
    }
}

/// What a VM has reserved, and for whom.
#[derive(Debug, Serialize, Deserialize)]
struct Reserved {
    tenant: String,
    #[serde(flatten)]
    takes: Amounts,
}

impl Vm {
    /// A folder whose records cannot be read, or are an earlier version's, is a VM all the same.
    fn read(path: &Path) -> Option<Self> {
        let held = !is_abandoned(path);
        let task: Option<Task> = read_record(&path.join(TASK));
        let takes: Option<Takes> = read_record(&path.join(PLAN));
        let reserved: Option<Reserved> = read_record(&path.join(RESERVED));
        let mut status: Status = read_record(&path.join(STATUS)).unwrap_or_else(Status::unknown);
        // Nobody has come by yet to write it down.
        if !held {
            status.enter(State::Lost, Some(LOST.into()));
        }
        let name = |of: fn(Task) -> String| task.clone().map(of).unwrap_or_default();
        Some(Self {
            id: path.file_name()?.to_string_lossy().into_owned(),
            folder: path.to_owned(),
            task: name(|task| task.name),
            job: name(|task| task.job),
            tenant: match &reserved {
                Some(reserved) => reserved.tenant.clone(),
                None => name(|task| task.tenant),
            },
            status,
            reserved: reserved.map(|reserved| reserved.takes).unwrap_or_else(|| Amounts {
                vms: 1,
                cpus: takes.as_ref().map_or(0, |takes| takes.resources.cpus.into()),
                memory_mib: takes.as_ref().map_or(0, |takes| takes.resources.memory_mib.into()),
                disk_bytes: 0,
                ports: takes.as_ref().map_or(0, |takes| takes.forwards.len() as u64),
            }),
            takes,
            held,
        })
    }

    /// The guest's console log.
    pub fn console_log(&self) -> PathBuf {
        self.folder.join(CONSOLE)
    }

    /// What is known of one whose folder has gone.
    pub fn gone(mut self) -> Self {
        self.held = false;
        self.status.enter(State::Lost, Some("it never ran, or was removed since it ended".into()));
        self
    }

    /// Reads it again; nothing where it was removed meanwhile.
    pub fn again(&self) -> Option<Self> {
        self.folder.exists().then(|| Self::read(&self.folder))?
    }

    /// Removes what is left of an ended VM; false where somebody looks after it.
    pub fn remove(&self, state: &StateDir) -> Result<bool, VmError> {
        let _all = lock_all(&state.vms())?;
        match is_abandoned(&self.folder) {
            true => fs::remove_dir_all(&self.folder)
                .map(|()| true)
                .map_err(folder("remove", &self.folder)),
            false => Ok(false),
        }
    }
}

fn read_record<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// All VMs, running and ended, the latest first.
pub fn list(state: &StateDir) -> Vec<Vm> {
    let mut vms: Vec<_> = folders(&state.vms()).filter_map(|path| Vm::read(&path)).collect();
    vms.sort_by_key(|vm| std::cmp::Reverse(vm.status.changes().first().map(|change| change.at)));
    vms
}

/// The VMs that somebody looks after now.
pub fn running(state: &StateDir) -> Vec<Vm> {
    folders(&state.vms())
        .filter(|path| !is_abandoned(path))
        .filter_map(|path| Vm::read(&path))
        .collect()
}

/// The one VM whose id begins like this, or whose task has this name: of several of a name, the one that goes on.
pub fn named(state: &StateDir, name: &str) -> Result<Vm, VmError> {
    let mut vms = list(state);
    // An empty name, as of a variable that is not set, is no beginning of any.
    vms.retain(|_| !name.is_empty());
    if vms.iter().any(|vm| vm.id == name) {
        vms.retain(|vm| vm.id == name);
    } else if vms.iter().any(|vm| vm.task == name) {
        vms.retain(|vm| vm.task == name);
        if vms.iter().filter(|vm| vm.held).count() == 1 {
            vms.retain(|vm| vm.held);
        }
    } else {
        vms.retain(|vm| vm.id.starts_with(name));
    }
    let ids: Vec<_> = vms.iter().map(|vm| vm.id.clone()).collect();
    match (vms.pop(), ids.len()) {
        (Some(only), 1) => Ok(only),
        (_, 0) => Err(VmError::Unknown { name: name.to_owned() }),
        (_, _) => Err(VmError::Ambiguous { name: name.to_owned(), ids }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_need_no_quoting() {
        for (name, expected) in [
            ("web", "web"),
            ("Web Server,if=x", "web-server-if-x"),
            ("../../etc", "etc"),
            ("é", "vm"),
            ("a-name-that-is-much-longer-than-an-id", "a-name-that-is-much-long"),
        ] {
            assert_eq!(slug(name), expected);
        }
    }
}
