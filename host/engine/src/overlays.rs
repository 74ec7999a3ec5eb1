//! Overlays that outlive their VM, for tasks that `persist`: `overlays/<name>-<key>/` with the overlay, a record of its task and image, and
//! a lock that the VM holds. The key is made from tenant, job and task, so that no name leads to another task's overlay.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use qhost_image::VerifiedImage;
use qhost_model::{digest::Sha256, format::Format, job::Task, launch::SecureBoot};
use qhost_sys::state::{self, StateDir};
use qhost_vm::{
    Spec, VmError,
    error::io_error,
    files::{OVERLAY, kept_variables},
    list,
    records::slug,
};

const RECORD: &str = "overlay.json";
const LOCK: &str = "lock";

/// A task's kept overlay, held until dropped.
#[derive(Debug)]
pub struct KeptOverlay {
    path: PathBuf,
    record: Owner,
    /// The lock of the overlay's folder; absent once a VM has it.
    lock: Option<File>,
    /// Whether this launch has made the overlay.
    is_new: bool,
}

/// The task that an overlay belongs to, and the image that it lies over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Owner {
    /// The tenant.
    pub tenant: String,
    /// The job's name.
    pub job: String,
    /// The task's name.
    pub task: String,
    /// The image's digest; absent until the overlay lies over an image.
    pub image: Option<Sha256>,
}

impl Owner {
    /// A task, whose overlay lies over no image yet.
    pub fn new(tenant: &str, job: &str, task: &str) -> Self {
        Self { tenant: tenant.to_owned(), job: job.to_owned(), task: task.to_owned(), image: None }
    }

    /// Whether both are the same task.
    fn is_the_task_of(&self, other: &Self) -> bool {
        let Self { tenant, job, task, image: _ } = self;
        (tenant, job, task) == (&other.tenant, &other.job, &other.task)
    }
}

/// A kept overlay, for its operator.
#[derive(Debug, Serialize)]
pub struct Kept {
    /// The name of the overlay's folder.
    pub name: String,
    /// The task that the overlay belongs to.
    #[serde(flatten)]
    pub of: Owner,
    /// The space that the overlay takes of the disk in bytes, with the variables of the guest's UEFI.
    pub disk_usage: u64,
    /// When the overlay was last written to.
    pub written_at: Timestamp,
    /// Whether a VM has the overlay.
    pub in_use: bool,
}

/// The path at which a task's overlay is kept.
fn kept_overlay(state: &StateDir, task: &Task) -> PathBuf {
    let key = [&task.tenant, &task.job, &task.name].map(|part| format!("{}:{part}", part.len()));
    let key: String = Sha256::of(key.concat().as_bytes()).to_string().chars().take(16).collect();
    state.overlays().join(format!("{}-{key}", slug(&task.name))).join(OVERLAY)
}

impl KeptOverlay {
    /// Takes the lock of a task's overlay, if the overlay is kept. Fails where another run has it.
    pub fn hold(state: &StateDir, task: &Task, persist: bool) -> Result<Option<Self>, VmError> {
        if !persist {
            return Ok(None);
        }
        sweep(&state.overlays());
        let path = kept_overlay(state, task);
        let parent = path.parent().unwrap_or(&path);
        let lock = make(parent)?.filter(|_| !is_used(state, &path));
        let held = || VmError::OverlayHeld { task: task.name.clone(), path: path.clone() };
        let lock = lock.ok_or_else(held)?;
        let whose = Owner::new(&task.tenant, &task.job, &task.name);
        let is_new = !path.exists();
        let found = read(parent).filter(|_| !is_new);
        if found.as_ref().is_some_and(|found| !found.is_the_task_of(&whose)) {
            let reason = "it is another task's".into();
            return Err(VmError::OverlayUnfit { path, reason });
        }
        let record = found.unwrap_or(whose);
        Ok(Some(Self { path, record, lock: Some(lock), is_new }))
    }

    /// Makes the overlay ready to lie over an image, as a disk of so many bytes: a new overlay, or the one that an earlier run of the task
    /// left over the same image.
    pub fn over(&mut self, image: &VerifiedImage, disk_bytes: u64) -> Result<(), VmError> {
        // A CD takes no writes.
        if image.format() == Format::Iso {
            return Ok(());
        }
        if self.path.exists() {
            return self.check(image, disk_bytes);
        }
        self.record.image = Some(image.sha256());
        let parent = self.path.parent().unwrap_or(&self.path);
        let record = parent.join(RECORD);
        serde_json::to_vec_pretty(&self.record)
            .map_err(io::Error::other)
            .and_then(|bytes| state::write_whole(&record, &bytes))
            .map_err(io_error("write", &record))?;
        let new = self.path.with_extension("new");
        state::remove(&new)
            .and_then(|()| qhost_image::create_overlay(&new, disk_bytes))
            // The new file is synced, since after a power failure an empty file would be taken for the overlay.
            .and_then(|()| File::open(&new)?.sync_all())
            .and_then(|()| fs::rename(&new, &self.path))
            .and_then(|()| File::open(parent)?.sync_all())
            .map_err(io_error("create", &self.path))
    }

    /// Where the variables of the guest's UEFI are kept.
    pub(crate) fn variables(&self, secure_boot: SecureBoot) -> PathBuf {
        self.path.with_file_name(kept_variables(secure_boot))
    }

    /// Checks an overlay from an earlier run. QEMU wrote the file at the bidding of a guest, so that it is inspected as any image is.
    fn check(&self, image: &VerifiedImage, disk_bytes: u64) -> Result<(), VmError> {
        let refused = |reason: String| VmError::OverlayUnfit { path: self.path.clone(), reason };
        if self.record.image != Some(image.sha256()) {
            let of = self
                .record
                .image
                .map_or("an image that is not recorded".into(), |of| format!("sha256:{of}"));
            return Err(refused(format!(
                "it lies over {of}, and the task's image is sha256:{}",
                image.sha256()
            )));
        }
        let file = state::open_plain(File::options().read(true), &self.path);
        let read = file.and_then(|file| qhost_image::inspect(&file, u64::MAX));
        match read.map_err(io_error("read", &self.path))? {
            Ok(found) if (found.format, found.disk_bytes) == (Format::Qcow2, disk_bytes) => Ok(()),
            Ok(found) => Err(refused(format!(
                "it is {} with a disk of {} bytes, and the task's has {disk_bytes}",
                found.format.name(),
                found.disk_bytes,
            ))),
            Err(refusal) => Err(refused(refusal.to_string())),
        }
    }

    /// The overlay.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the overlay's lock for the VM. From here on the overlay stays, whatever becomes of the launch.
    pub(crate) fn into_lock(mut self) -> Option<File> {
        self.lock.take()
    }
}

impl Drop for KeptOverlay {
    fn drop(&mut self) {
        let Some(_lock) = self.lock.take().filter(|_| self.is_new) else { return };
        // The overlay is removed, as no guest has written to it.
        let folder = self.path.parent().unwrap_or(&self.path);
        if let Err(error) = remove_folder(folder) {
            let path = folder.display();
            tracing::warn!(%path, %error, "cannot remove the overlay of a failed launch");
        }
    }
}

/// Takes the lock of an overlay that a VM's QEMU has, unless another run has taken it meanwhile.
pub(crate) fn hold_again(overlay: &Path) -> Result<Option<File>, VmError> {
    lock(overlay.parent().unwrap_or(overlay))
}

/// All kept overlays, the one written to last first.
pub fn kept(state: &StateDir) -> Result<Vec<Kept>, VmError> {
    let all = state.overlays();
    let folders = match fs::read_dir(&all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        folders => folders.map_err(io_error("read", &all))?,
    };
    let one = |found: PathBuf| {
        let overlay = fs::metadata(found.join(OVERLAY)).ok()?;
        Some(Kept {
            name: found.file_name()?.to_string_lossy().into_owned(),
            of: read(&found).unwrap_or_default(),
            disk_usage: overlay.blocks() * 512 + variables(&found),
            written_at: overlay.modified().ok()?.try_into().ok()?,
            in_use: state::is_held(&found.join(LOCK)),
        })
    };
    let mut kept: Vec<_> = folders.flatten().filter_map(|found| one(found.path())).collect();
    kept.sort_by_key(|one| std::cmp::Reverse(one.written_at));
    Ok(kept)
}

/// The space that the variables of a guest's UEFI, which are kept beside its overlay, take of the disk in bytes.
fn variables(folder: &Path) -> u64 {
    let kept = SecureBoot::ALL.iter().map(|one| folder.join(kept_variables(*one)));
    kept.filter_map(|file| fs::symlink_metadata(file).ok()).map(|file| file.blocks() * 512).sum()
}

/// Removes a kept overlay, by its folder's name.
pub fn remove(state: &StateDir, name: &str) -> Result<(), VmError> {
    let found = state.overlays().join(name);
    let is_name = Path::new(name).file_name().is_some_and(|last| last == name);
    if !is_name || !found.is_dir() {
        return Err(VmError::NoOverlay(name.to_owned()));
    }
    let path = found.join(OVERLAY);
    let task = read(&found).map_or_else(|| name.to_owned(), |of| of.task);
    let lock = lock(&found)?.filter(|_| !is_used(state, &path));
    let _lock = lock.ok_or_else(|| VmError::OverlayHeld { task, path: path.clone() })?;
    remove_folder(&found).map_err(io_error("remove", &found))
}

/// Removes an overlay's folder, under its lock. The overlay is removed first, so that a folder that is left by a failure is no kept
/// overlay. The lock is removed last: a launch that waits for the lock may make it anew, and then the folder stays.
fn remove_folder(folder: &Path) -> io::Result<()> {
    state::remove(&folder.join(OVERLAY))?;
    for file in fs::read_dir(folder)? {
        let file = file?;
        if file.file_name() != LOCK {
            state::remove(&file.path())?;
        }
    }
    state::remove(&folder.join(LOCK))?;
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed,
    }
}

/// Removes the folders without an overlay that killed launches left. A failure is logged and ends no command.
fn sweep(overlays: &Path) {
    for found in list::folders(overlays) {
        let is_left = || !found.join(OVERLAY).exists();
        if is_left()
            && let Ok(Some(_lock)) = state::try_lock_named(&found.join(LOCK))
            && is_left()
            && let Err(error) = remove_folder(&found)
        {
            tracing::warn!(path = %found.display(), %error, "cannot remove what a killed launch left");
        }
    }
}

/// The kept overlays that no VM has, without that of the task that asks.
pub(crate) fn unused(
    state: &StateDir,
    going_on: &[list::VmRecord],
    task: &Owner,
) -> Result<Vec<Kept>, VmError> {
    let counts = |one: &Kept| {
        let asks = one.of.is_the_task_of(task);
        let has =
            |vm: &list::VmRecord| one.of.is_the_task_of(&Owner::new(&vm.tenant, &vm.job, &vm.task));
        // An overlay that a VM or a launch has is held, and is counted with that VM.
        !one.in_use || !(asks || going_on.iter().any(has))
    };
    Ok(kept(state)?.into_iter().filter(counts).collect())
}

/// The images that kept overlays lie over, with the overlays' tenants and tasks.
pub fn kept_over(state: &StateDir) -> Result<Vec<(Sha256, String)>, VmError> {
    let over = |one: Kept| Some((one.of.image?, format!("{}/{}", one.of.tenant, one.of.task)));
    Ok(kept(state)?.into_iter().filter_map(over).collect())
}

/// Whether a QEMU, which may have no supervisor, has an overlay at the moment.
fn is_used(state: &StateDir, overlay: &Path) -> bool {
    let uses = |vm: list::VmRecord| {
        vm.status.qemu_lives()
            && Spec::read(&vm.folder).is_ok_and(|spec| spec.overlay.as_deref() == Some(overlay))
    };
    list::running(state).into_iter().any(uses)
}

/// Makes a folder if it is missing, and takes its lock. Another process may be removing the folder, so that this tries again.
fn make(folder: &Path) -> Result<Option<File>, VmError> {
    for _ in 0..qhost_sys::limits::LOCK_TRIES {
        state::create_private(folder).map_err(io_error("create", folder))?;
        match lock(folder) {
            Err(VmError::Folder { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            lock => return lock,
        }
    }
    Ok(None)
}

/// Takes a folder's lock, unless a VM has it.
fn lock(folder: &Path) -> Result<Option<File>, VmError> {
    let path = folder.join(LOCK);
    state::try_lock_looked_at(&path).map_err(io_error("lock", &path))
}

fn read(folder: &Path) -> Option<Owner> {
    serde_json::from_slice(&state::read(&folder.join(RECORD)).ok()?).ok()
}
