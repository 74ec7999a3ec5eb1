//! The disks that a launch has beside its root disk: the tenant's volumes, which are held for it, and files that end with the VM.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use qhost_image::volumes::{HeldVolume, LockedVolume, VolumeError, VolumeName, Volumes};
use qhost_model::launch::{Disk, Launch};
use qhost_sys::state::{self, StateDir};
use qhost_vm::{DiskOf, Spec, VmError, argv::disk_file, error::io_error, list};

use crate::{error::Failure, limits};

/// The disks of a VM that is about to start, with its volumes held until dropped.
#[derive(Debug)]
pub(crate) struct HeldDisks {
    /// In the order in which QEMU gets them.
    pub(crate) disks: Vec<DiskOf>,
    locks: Vec<File>,
}

impl HeldDisks {
    /// Locks the volumes of a launch; fails where a volume is not there, or another VM or command has it.
    pub(crate) fn hold(state: &StateDir, tenant: &str, disks: &[Disk]) -> Result<Self, Failure> {
        let mut held = Self { disks: vec![], locks: vec![] };
        for disk in disks {
            let (path, bytes) = match &disk.volume {
                Some(volume) => {
                    let volume = hold(state, &name(tenant, volume)).map_err(failure_of(disk))?;
                    let found = (volume.path(), volume.bytes());
                    held.locks.push(volume.into_lock());
                    found
                }
                None => own(disk),
            };
            held.disks.push(disk_of(disk, path, bytes));
        }
        Ok(held)
    }

    /// The volumes' locks, for the VM's supervisor.
    pub(crate) fn into_locks(self) -> Vec<File> {
        self.locks
    }
}

/// The disks that a launch would have now. Holds nothing.
pub(crate) fn planned(
    state: &StateDir,
    tenant: &str,
    disks: &[Disk],
) -> Result<Vec<DiskOf>, Failure> {
    let planned = |disk: &Disk| {
        let (path, bytes) = match &disk.volume {
            Some(volume) => {
                let of = name(tenant, volume);
                let volumes = Volumes::of(state);
                let found = volumes.get(&of).map_err(failure_of(disk))?;
                let path = volumes.path(&of);
                if found.in_use || user_of(state, &path).is_some() {
                    return Err(failure_of(disk)(held_by(state, of)));
                }
                (path, found.bytes)
            }
            None => own(disk),
        };
        Ok(disk_of(disk, path, bytes))
    };
    disks.iter().map(planned).collect()
}

/// The most that QEMU may write to one file, in bytes: a process has one bound for all of its files.
pub(crate) fn file_bytes(overlay_bytes: u64, disks: &[DiskOf], is_uefi: bool) -> u64 {
    let written = disks.iter().filter(|disk| !disk.read_only).map(|disk| disk.bytes);
    let variables = is_uefi.then_some(limits::FIRMWARE_BYTES);
    written.chain(variables).fold(overlay_bytes, u64::max)
}

/// What the overlay may grow to within that bound, in bytes: to its disk's size and qcow2's tables, which take less than a thousandth of it
/// and a MiB. Of an image that is not here yet the size may be unknown.
pub(crate) fn root_bytes(launch: &Launch, image_bytes: Option<u64>, file_bytes: u64) -> u64 {
    let disk = launch.disk_bytes.or(image_bytes);
    let whole = disk.map(|bytes| bytes.saturating_add(bytes / 1000).saturating_add(1 << 20));
    whole.map_or(file_bytes, |whole| whole.min(file_bytes))
}

/// Makes the disks that end with a VM, in its folder: empty, and their unwritten parts take nothing.
pub(crate) fn create(vm: &Path, disks: &[DiskOf]) -> Result<(), VmError> {
    for disk in disks.iter().filter(|disk| disk.is_own()) {
        let path = vm.join(&disk.path);
        let create = || -> io::Result<()> {
            state::remove(&path)?;
            let mut options = File::options();
            options.write(true).create_new(true).mode(0o600).open(&path)?.set_len(disk.bytes)
        };
        create().map_err(io_error("create", &path))?;
    }
    Ok(())
}

/// Locks a volume that no VM has, and reads its record.
pub(crate) fn hold(state: &StateDir, of: &VolumeName) -> Result<HeldVolume, VolumeError> {
    lock(state, of)?.hold()
}

/// Locks a volume that no VM has, and reads neither its record nor its disk, which may be damaged.
pub(crate) fn lock(state: &StateDir, of: &VolumeName) -> Result<LockedVolume, VolumeError> {
    let locked = match Volumes::of(state).lock_one(of) {
        Err(VolumeError::Held { of, .. }) => return Err(held_by(state, of)),
        locked => locked?,
    };
    // A QEMU whose supervisor was killed holds no lock.
    match user_of(state, &locked.path()) {
        Some(_) => Err(held_by(state, of.clone())),
        None => Ok(locked),
    }
}

fn held_by(state: &StateDir, of: VolumeName) -> VolumeError {
    let user = user_of(state, &Volumes::of(state).path(&of));
    let by = user.map(|vm| format!(" by the VM {vm}")).unwrap_or_default();
    VolumeError::Held { of, by }
}

/// The VM that has a volume, by the file, to which several paths may lead. A VM that runs and whose plan cannot be read may have it.
fn user_of(state: &StateDir, volume: &Path) -> Option<String> {
    let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let wanted = file(volume);
    let has = |vm: &list::VmRecord| match Spec::read(&vm.folder) {
        Ok(spec) => wanted.is_some() && spec.volumes().any(|one| file(one) == wanted),
        Err(_) => vm.status.qemu_lives(),
    };
    list::running(state).into_iter().find(has).map(|vm| vm.id)
}

fn name(tenant: &str, volume: &str) -> VolumeName {
    VolumeName { tenant: tenant.to_owned(), name: volume.to_owned() }
}

fn own(disk: &Disk) -> (PathBuf, u64) {
    (disk_file(&disk.name).into(), disk.bytes.unwrap_or_default())
}

fn disk_of(disk: &Disk, path: PathBuf, bytes: u64) -> DiskOf {
    DiskOf { name: disk.name.clone(), path, bytes, read_only: disk.read_only }
}

fn failure_of(disk: &Disk) -> impl Fn(VolumeError) -> Failure {
    let disk = disk.name.clone();
    move |source| Failure::Disk { disk: disk.clone(), source }
}
