//! The disks that a launch has beside its root disk: the tenant's volumes, which are held for it, and files that end with the VM.

use std::{
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use qhost_image::volumes::{HeldVolume, VolumeError, VolumeName, Volumes};
use qhost_model::launch::Disk;
use qhost_sys::state::{self, StateDir};
use qhost_vm::{DiskOf, Spec, VmError, argv::disk_file, error::io_error, list};

use crate::error::Failure;

/// The disks of a VM that is about to start, with its volumes held until dropped.
#[derive(Debug)]
pub(crate) struct HeldDisks {
    /// In the order in which QEMU gets them.
    pub(crate) disks: Vec<DiskOf>,
    locks: Vec<File>,
}

impl HeldDisks {
    /// Takes the volumes of a launch; fails where one is not there, or another has it.
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

    /// What keeps the volumes from others, for the VM.
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
                if found.in_use {
                    return Err(failure_of(disk)(held_by(state, of)));
                }
                (volumes.path(&of), found.bytes)
            }
            None => own(disk),
        };
        Ok(disk_of(disk, path, bytes))
    };
    disks.iter().map(planned).collect()
}

/// The most that QEMU may write to one file, in bytes.
pub(crate) fn file_bytes(overlay_bytes: u64, disks: &[DiskOf]) -> u64 {
    let written = disks.iter().filter(|disk| !disk.read_only).map(|disk| disk.bytes);
    written.fold(overlay_bytes, u64::max)
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

/// Takes a volume, which is not some VM's.
pub(crate) fn hold(state: &StateDir, of: &VolumeName) -> Result<HeldVolume, VolumeError> {
    let held = match Volumes::of(state).hold(of) {
        Err(VolumeError::Held { of, .. }) => return Err(held_by(state, of)),
        held => held?,
    };
    // A QEMU whose supervisor was killed holds no lock.
    match user_of(state, &held.path()) {
        Some(_) => Err(held_by(state, of.clone())),
        None => Ok(held),
    }
}

fn held_by(state: &StateDir, of: VolumeName) -> VolumeError {
    let user = user_of(state, &Volumes::of(state).path(&of));
    let by = user.map(|vm| format!(" by the VM {vm}")).unwrap_or_default();
    VolumeError::Held { of, by }
}

/// The VM that has a volume.
fn user_of(state: &StateDir, volume: &Path) -> Option<String> {
    let has = |vm: &list::VmRecord| {
        Spec::read(&vm.folder).is_ok_and(|spec| spec.volumes().any(|one| one == volume))
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
