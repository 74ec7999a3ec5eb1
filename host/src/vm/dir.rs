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

use serde::Serialize;
use serde_json::Value;

use super::VmError;
use crate::{
    digest::Sha256,
    job::Resources,
    limits,
    qemu::{OVERLAY, QMP_SOCKET},
    state::{self, StateDir},
};

const LOCK: &str = "lock";
const PLAN: &str = "plan.json";
const STATUS: &str = "status.json";

/// The folder of a VM that this process looks after. Dropped before a launch, it is removed.
#[derive(Debug)]
pub struct VmDir {
    path: PathBuf,
    id: String,
    /// Held until dropped.
    _lock: File,
    launched: bool,
}

impl VmDir {
    /// Makes a folder for a task, under an id that starts with something like its name.
    pub fn create(state: &StateDir, task_name: &str) -> Result<Self, VmError> {
        let vms = state.vms();
        state::create_private(&vms).map_err(folder("create", &vms))?;
        let _all = lock_all(&vms)?;
        sweep(&vms);
        let made = tempfile::Builder::new()
            .prefix(&format!("{}-", slug(task_name)))
            .rand_bytes(8)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&vms)
            .map_err(folder("create a folder in", &vms))?;
        let lock_path = made.path().join(LOCK);
        let lock = File::create_new(&lock_path).map_err(folder("create", &lock_path))?;
        lock.lock().map_err(folder("lock", &lock_path))?;
        let path = made.keep();
        let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { path, id, _lock: lock, launched: false })
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
        self.path.join("console.log")
    }

    /// Writes one of the VM's records.
    pub(super) fn write(&self, name: &str, record: &impl Serialize) -> Result<(), VmError> {
        let path = self.path.join(name);
        serde_json::to_vec_pretty(record)
            .map_err(io::Error::other)
            .and_then(|bytes| state::write_whole(&path, &bytes))
            .map_err(folder("write", &path))
    }

    /// Writes how the VM is doing.
    pub(super) fn write_status(&self, status: &Value) -> Result<(), VmError> {
        self.write(STATUS, status)
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
            false => fs::remove_dir_all(&self.path),
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

/// Whether nobody looks after a folder's VM. The lock is let go at once: only the sweep, which holds the lock of all,
/// acts on the answer.
fn is_abandoned(path: &Path) -> bool {
    match File::open(path.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
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

/// Tells the truth about a VM whose supervisor was killed: its record still says that it runs.
fn mark_lost(path: &Path) -> io::Result<()> {
    let status = path.join(STATUS);
    let Ok(bytes) = fs::read(&status) else { return Ok(()) };
    let mut record: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    match record.get_mut("state") {
        Some(state) if *state == "running" => *state = "lost".into(),
        Some(_) | None => return Ok(()),
    }
    state::write_whole(&status, &serde_json::to_vec_pretty(&record)?)
}

fn remove_leftovers(path: &Path) -> io::Result<()> {
    for name in [OVERLAY, QMP_SOCKET] {
        match fs::remove_file(path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// What a running VM takes of the host.
#[derive(Debug)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// The image that it runs from.
    pub image: Option<Sha256>,
    /// Whose it is.
    pub tenant: String,
    /// Its CPUs and memory.
    pub resources: Resources,
    /// The number of its forwarded ports.
    pub ports: u32,
}

/// The VMs that somebody looks after now. A folder without a readable plan is one that has not started yet.
pub fn running(state: &StateDir) -> Vec<Running> {
    folders(&state.vms())
        .filter(|path| !is_abandoned(path))
        .filter_map(|path| read(&path))
        .collect()
}

fn read(path: &Path) -> Option<Running> {
    let plan: Value = serde_json::from_slice(&fs::read(path.join(PLAN)).ok()?).ok()?;
    let resources = plan.get("resources")?;
    let number = |key| u32::try_from(resources.get(key)?.as_u64()?).ok();
    let image = plan.get("image").and_then(|image| image.get("sha256")?.as_str()?.parse().ok());
    Some(Running {
        id: path.file_name()?.to_string_lossy().into_owned(),
        image,
        tenant: plan.get("tenant")?.as_str()?.to_owned(),
        resources: Resources { cpus: number("cpus")?, memory_mib: number("memory_mib")? },
        ports: u32::try_from(plan.get("forwards")?.as_array()?.len()).ok()?,
    })
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
